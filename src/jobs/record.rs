//! What is remembered of a job and of a start that is under way.

use bytes::Bytes;

use crate::names::{BackendName, ExportType, JobId, UserId};

/// A job and its owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// The id that the backend gave it.
    pub id: JobId,
    /// The backend that started it and alone can answer for it.
    pub backend: BackendName,
    /// Its type; `None` when workers were found to have it without our having started it.
    pub export: Option<ExportType>,
    /// Who started it; `None` when it was found and not started here: then whoever asks may see it.
    pub user: Option<UserId>,
    /// When it was started (or found), milliseconds since the Unix epoch.
    pub started_ms: u64,
    /// How far it is, as last seen.
    pub state: JobState,
}

/// How far a job is, as last seen in an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum JobState {
    /// Not known to be over.
    Open,
    /// Its backend said `complete`.
    Complete,
    /// Its backend said `error`.
    Error,
    /// Nobody has heard of its end for too long.
    Lost,
}

impl JobState {
    /// Returns the word used in the store, in metrics and on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            JobState::Open => "open",
            JobState::Complete => "complete",
            JobState::Error => "error",
            JobState::Lost => "lost",
        }
    }

    /// Reads the word back.
    pub fn parse(text: &str) -> Option<JobState> {
        let all = [JobState::Open, JobState::Complete, JobState::Error, JobState::Lost];
        all.into_iter().find(|state| state.as_str() == text)
    }
}

/// A start that is about to be sent: durable before a byte leaves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Intent {
    /// The `Idempotency-Key` that workers get: made from the client's (`super::idempotency`), else unique for every start.
    pub key: Box<str>,
    /// `X-Request-Id` of the client's request; not unique, clients may choose it.
    pub request_id: Box<str>,
    /// Who starts; `None` for an anonymous start on legacy.
    pub user: Option<UserId>,
    /// What is started.
    pub export: ExportType,
    /// The backend it is being sent to.
    pub backend: BackendName,
    /// When it was recorded, milliseconds since the Unix epoch.
    pub started_ms: u64,
    /// From then on a running intent reads as unknown, milliseconds since the Unix epoch.
    pub deadline_ms: u64,
    /// How it ended, if it has.
    pub state: IntentState,
    /// Set when the client sent a key: then the intent stays after the end of the start.
    pub claim: Option<Claim>,
    /// The body to ask workers once more with, after a restart, too; gone as soon as that is out of the question.
    pub resend: Option<Bytes>,
    /// What is answered to whoever sends the key again, once there is an answer.
    pub answer: Option<KeptAnswer>,
}

/// Who holds a client's key, and for what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// Made anew for every start: a lost reply of the store is settled by reading back whose key it is.
    pub token: Box<str>,
    /// SHA-256 of the body that the client sent.
    pub body: BodyHash,
}

/// A SHA-256.
pub type BodyHash = [u8; 32];

/// An answer that is given again, at most [`crate::limits::KEPT_ANSWER`] bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptAnswer {
    /// The status code.
    pub status: u16,
    /// `Content-Type`.
    pub content_type: Option<Box<str>>,
    /// The body as the client got it.
    pub body: Bytes,
}

/// The answer to a start under a client's key, on its way into the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// The intent's key.
    pub key: Box<str>,
    /// The intent's token.
    pub token: Box<str>,
    /// What is kept.
    pub answer: KeptAnswer,
}

/// What becomes of the intent of a start whose job is recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Closing {
    /// It is deleted; the key.
    Forget(Box<str>),
    /// It stays, with the answer.
    Keep(Kept),
}

/// How a start ended. Without a key of the client's, one that ended with an owner, a refusal or an answer of the
/// client's own fault is deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum IntentState {
    /// Sent or about to be.
    Running,
    /// Nobody knows whether a job exists.
    Unknown,
    /// Over: its answer is kept.
    Answered,
}

impl IntentState {
    /// Returns the word used in the store and on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            IntentState::Running => "running",
            IntentState::Unknown => "unknown",
            IntentState::Answered => "answered",
        }
    }

    /// Reads the word back.
    pub fn parse(text: &str) -> Option<IntentState> {
        let all = [IntentState::Running, IntentState::Unknown, IntentState::Answered];
        all.into_iter().find(|state| state.as_str() == text)
    }
}
