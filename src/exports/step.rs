//! What is done after a start's outcome is known: the "then" column of the failure rules.
//!
//! One client request, at most one job: [`Fallback`] is the permission to ask legacy after workers, it can be used
//! once, and only an outcome that excludes a job turns into one. What is unknown cannot.

use http::StatusCode;

use crate::exports::outcome::{Broken, LegacyOutcome, NotSent, Outcome, Unknown, UnknownCause};
use crate::limits;
use crate::names::JobId;

/// What is done next with a start that was for workers.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub enum Step {
    /// Store the owner, complete the answer, send it.
    Complete(JobId),
    /// Send the answer as it is; the owner is stored first if there is a job.
    PassAnswer(Option<JobId>),
    /// Ask legacy.
    FallBack(Fallback),
    /// Ask workers once more under the same key, then [`Unknown::after_second`].
    AskAgain(Unknown),
    /// Answer with an error of the gateway's own.
    Refuse(StartRefusal),
}

/// What is done next with a start that was sent to legacy.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub enum LegacyStep {
    /// Send the answer as it is; the owner is stored first if there is a job.
    PassAnswer(Option<JobId>),
    /// Answer with an error of the gateway's own.
    Refuse(StartRefusal),
}

/// The permission to start on legacy what workers provably did not start. It is neither copied nor made elsewhere.
#[derive(Debug, PartialEq, Eq)]
#[cfg_attr(test, derive(Clone, Hash))]
pub struct Fallback {
    cause: Cause,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Cause {
    NotSent(NotSent),
    Declined(u16),
}

/// An error that the gateway itself answers a start with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StartRefusal {
    /// No backend took the start; nothing was started.
    NoBackend,
    /// The start could not be recorded; nothing was started.
    StoreUnavailable,
    /// A job may exist; the status is the backend's 5xx, 502, 504, or 500 for a lost owner.
    OutcomeUnknown(StatusCode),
}

/// What is done for this start, by the file and by the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Policy {
    /// `backends.workers.fallback`.
    pub fallback: bool,
    /// `backends.workers.idempotent`.
    pub idempotent: bool,
    /// Whether the client sent an `Idempotency-Key`, so that an unrecorded start is out of the question.
    pub keyed: bool,
}

/// What an outcome counts as in workers' circuit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Counted {
    /// Workers work.
    Success,
    /// Workers do not.
    Failure,
    /// It says nothing of workers (a probe that ends so has to be given back).
    Not,
}

/// What a client's `Idempotency-Key` keeps of a start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Remembered {
    /// The answer: it is given again.
    Answer,
    /// That the outcome is unknown: no new start under this key.
    Unknown,
    /// Nothing: the key is free for another try.
    Nothing,
}

/// Says what is done after a start's outcome on workers.
pub fn next(outcome: Outcome, policy: Policy) -> Step {
    match outcome {
        Outcome::NotSent(NotSent::StoreUnavailable) if policy.keyed || !policy.fallback => {
            Step::Refuse(StartRefusal::StoreUnavailable)
        }
        Outcome::NotSent(why) => fall_back(Cause::NotSent(why), policy),
        Outcome::Declined(declined) => fall_back(Cause::Declined(declined.status().as_u16()), policy),
        Outcome::Accepted(job) => Step::Complete(job),
        Outcome::Rejected { job } => Step::PassAnswer(job),
        Outcome::Unknown(unknown) if policy.idempotent && may_be_asked_again(&unknown) => Step::AskAgain(unknown),
        Outcome::Unknown(unknown) => Step::Refuse(StartRefusal::OutcomeUnknown(status_of(&unknown))),
    }
}

/// Says what is done after a start's outcome on legacy, whether it came there at once or by a [`Fallback`].
pub fn next_on_legacy(outcome: LegacyOutcome) -> LegacyStep {
    match outcome {
        LegacyOutcome::NotSent(NotSent::StoreUnavailable) => LegacyStep::Refuse(StartRefusal::StoreUnavailable),
        LegacyOutcome::NotSent(_) => LegacyStep::Refuse(StartRefusal::NoBackend),
        LegacyOutcome::Accepted(job) => LegacyStep::PassAnswer(job),
        LegacyOutcome::Rejected | LegacyOutcome::Failed => LegacyStep::PassAnswer(None),
        LegacyOutcome::Unknown(unknown) => LegacyStep::Refuse(StartRefusal::OutcomeUnknown(status_of(&unknown))),
    }
}

/// Says what an outcome counts as in workers' circuit.
pub fn counts_for_circuit(outcome: &Outcome) -> Counted {
    match outcome {
        Outcome::NotSent(NotSent::Dns | NotSent::Unreachable | NotSent::ConnectTimeout | NotSent::Tls) => {
            Counted::Failure
        }
        Outcome::NotSent(
            NotSent::CircuitOpen
            | NotSent::LookupFailed
            | NotSent::StoreUnavailable
            | NotSent::HandedBack
            | NotSent::StreamRefused,
        ) => Counted::Not,
        Outcome::Declined(declined) => match declined.status().as_u16() {
            401 | 403 | 429 | 500.. => Counted::Failure,
            _ => Counted::Not,
        },
        Outcome::Accepted(_) | Outcome::Rejected { .. } => Counted::Success,
        Outcome::Unknown(_) => Counted::Failure,
    }
}

impl Outcome {
    /// Returns what a client's key keeps when nothing else follows this outcome.
    pub fn remembered(&self) -> Remembered {
        match self {
            Outcome::NotSent(_) | Outcome::Declined(_) => Remembered::Nothing,
            Outcome::Accepted(_) | Outcome::Rejected { .. } => Remembered::Answer,
            Outcome::Unknown(_) => Remembered::Unknown,
        }
    }
}

impl LegacyOutcome {
    /// Returns what a client's key keeps of it.
    pub fn remembered(&self) -> Remembered {
        match self {
            LegacyOutcome::NotSent(_) => Remembered::Nothing,
            LegacyOutcome::Accepted(_) | LegacyOutcome::Rejected => Remembered::Answer,
            LegacyOutcome::Failed | LegacyOutcome::Unknown(_) => Remembered::Unknown,
        }
    }
}

impl Fallback {
    /// Returns why workers did not start it: one of a bounded set of words, for metrics and the log.
    pub fn cause(&self) -> &'static str {
        match self.cause {
            Cause::NotSent(why) => why.as_str(),
            Cause::Declined(401) => "declined_401",
            Cause::Declined(403) => "declined_403",
            Cause::Declined(404) => "declined_404",
            Cause::Declined(405) => "declined_405",
            Cause::Declined(429) => "declined_429",
            Cause::Declined(503) => "declined_503",
            Cause::Declined(_) => "declined",
        }
    }
}

impl StartRefusal {
    /// The job store failed, so that a job may exist or come to exist of which the client cannot be told.
    pub const STORE_FAILED: StartRefusal = StartRefusal::OutcomeUnknown(StatusCode::INTERNAL_SERVER_ERROR);

    /// Returns the answer's status.
    pub fn status(self) -> StatusCode {
        match self {
            StartRefusal::NoBackend | StartRefusal::StoreUnavailable => StatusCode::SERVICE_UNAVAILABLE,
            StartRefusal::OutcomeUnknown(status) => status,
        }
    }

    /// Returns the answer's `code`.
    pub fn code(self) -> &'static str {
        match self {
            StartRefusal::NoBackend => "no_backend",
            StartRefusal::StoreUnavailable => "store_unavailable",
            StartRefusal::OutcomeUnknown(_) => "start_outcome_unknown",
        }
    }

    /// Returns `Retry-After` in seconds; `None` where another try could start a second job.
    pub fn retry_after(self) -> Option<u64> {
        match self {
            StartRefusal::NoBackend | StartRefusal::StoreUnavailable => Some(limits::RETRY_AFTER),
            StartRefusal::OutcomeUnknown(_) => None,
        }
    }
}

fn fall_back(cause: Cause, policy: Policy) -> Step {
    if policy.fallback { Step::FallBack(Fallback { cause }) } else { Step::Refuse(StartRefusal::NoBackend) }
}

fn may_be_asked_again(unknown: &Unknown) -> bool {
    !unknown.asked_again && unknown.cause != UnknownCause::OwnerLost
}

fn status_of(unknown: &Unknown) -> StatusCode {
    match (unknown.status, unknown.cause) {
        (_, UnknownCause::OwnerLost) => StatusCode::INTERNAL_SERVER_ERROR,
        (Some(status), _) if (500..=599).contains(&status.as_u16()) => status,
        (_, UnknownCause::Broken(Broken::Timeout)) => StatusCode::GATEWAY_TIMEOUT,
        _ => StatusCode::BAD_GATEWAY,
    }
}
