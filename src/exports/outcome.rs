//! What happened to a start, and what that means: whether a job may exist.
//!
//! This is the first table of the failure rules as one function for each backend. What it does not name is
//! [`Outcome::Unknown`]: a job may exist, so no other backend is asked. What follows is in [`crate::exports::step`].

use std::collections::BTreeSet;

use http::StatusCode;

use crate::exports::answer::{JobStatus, Unusable, named_job};
use crate::exports::edge;
use crate::exports::object::Object;
use crate::names::JobId;

/// What happened when a start was to be sent.
#[derive(Debug, Clone, Copy)]
pub enum Attempt<'a> {
    /// Provably no byte of it was written.
    NotSent(NotSent),
    /// A byte may have been written, and there is no whole answer.
    Broken {
        /// How it broke.
        how: Broken,
        /// The answer's status, if its head had come.
        status: Option<StatusCode>,
    },
    /// The answer came whole.
    Answered {
        /// Its status.
        status: StatusCode,
        /// Its body, any content encoding undone.
        body: &'a [u8],
    },
}

/// Why nothing was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NotSent {
    /// Workers count as down.
    CircuitOpen,
    /// `input_key` could not be looked up.
    LookupFailed,
    /// The start could not be recorded.
    StoreUnavailable,
    /// The backend's name has no address.
    Dns,
    /// Refused, no route, or no socket to be had.
    Unreachable,
    /// No connection in time.
    ConnectTimeout,
    /// The TLS handshake or the certificate failed.
    Tls,
    /// Connections were closed before anything was written, the fresh one included.
    HandedBack,
    /// HTTP/2 `REFUSED_STREAM`, or `GOAWAY` below the stream's id.
    StreamRefused,
}

/// How a start broke that may have been read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Broken {
    /// Writing failed.
    Write,
    /// Reset or end of file before the answer's head.
    Closed,
    /// No whole answer in time.
    Timeout,
    /// The answer was cut.
    Cut,
    /// The answer is larger than what is read.
    TooLarge,
    /// Malformed framing, or a content encoding that cannot be undone.
    Unreadable,
}

/// What happened to a start on workers.
#[derive(Debug, PartialEq, Eq)]
#[cfg_attr(test, derive(Clone, Hash))]
#[must_use]
pub enum Outcome {
    /// Provably nothing was sent.
    NotSent(NotSent),
    /// Workers said: no job.
    Declined(Declined),
    /// Workers have the job.
    Accepted(JobId),
    /// The request's own fault, or a job that failed at once: the answer stands.
    Rejected {
        /// The failed job, which its owner may ask for.
        job: Option<JobId>,
    },
    /// A job may exist.
    Unknown(Unknown),
}

/// An answer that says that no job was made.
#[derive(Debug, PartialEq, Eq)]
#[cfg_attr(test, derive(Clone, Hash))]
pub struct Declined {
    status: StatusCode,
    credential: bool,
}

/// A start of which nobody knows whether it made a job.
#[derive(Debug, PartialEq, Eq)]
#[cfg_attr(test, derive(Clone, Hash))]
pub struct Unknown {
    pub(super) cause: UnknownCause,
    pub(super) status: Option<StatusCode>,
    pub(super) asked_again: bool,
}

/// Why nobody knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum UnknownCause {
    /// There is no whole answer.
    Broken(Broken),
    /// The edge answered after the Worker may have acted; its code.
    EdgeError(u16),
    /// A 2xx that names no job.
    NoJob(Unusable),
    /// A status that says nothing certain.
    Status(u16),
    /// The job exists, but its owner could not be stored.
    OwnerLost,
}

/// What the configuration says about workers' answers.
#[derive(Debug, Clone, Copy)]
pub struct Rules<'a> {
    /// Statuses that mean: no job was made. Below 400 they count for nothing.
    pub declined: &'a BTreeSet<u16>,
    /// Whether the gateway presents a credential of its own, so that 401 and 403 are about that one.
    pub credential: bool,
}

/// Judges what happened to a start on workers.
pub fn judge_workers(attempt: Attempt<'_>, rules: Rules<'_>) -> Outcome {
    let (status, body) = match attempt {
        Attempt::NotSent(why) => return Outcome::NotSent(why),
        Attempt::Broken { how, status } => return unknown(UnknownCause::Broken(how), status),
        Attempt::Answered { status, body } => (status, body),
    };
    let object = Object::read(body);
    let edge_code = edge::error_code(body, object.as_ref().ok());
    if let Some(code) = edge_code.filter(|code| edge::may_have_acted(*code)) {
        return unknown(UnknownCause::EdgeError(code), Some(status));
    }
    let named = object.as_ref().map_err(|bad| Unusable::from(*bad)).and_then(named_job);
    let number = status.as_u16();
    match (number, named) {
        (200..=299, Ok(named)) => return Outcome::Accepted(named.job),
        (200..=299, Err(unusable)) => return unknown(UnknownCause::NoJob(unusable), Some(status)),
        // Workers could not reach RunPod; their record of the job can be asked for.
        (500, Ok(named)) if named.status == JobStatus::Error => return Outcome::Rejected { job: Some(named.job) },
        _ => {}
    }
    let own_words = object.is_ok() && edge_code.is_none();
    match number {
        // The edge and proxies on the way answer 503, too: only the Worker's own JSON is its word.
        503 if rules.declined.contains(&503) && !own_words => unknown(UnknownCause::Status(503), Some(status)),
        400.. if rules.declined.contains(&number) => Outcome::Declined(Declined { status, credential: false }),
        401 | 403 if rules.credential => Outcome::Declined(Declined { status, credential: true }),
        400..=499 => Outcome::Rejected { job: None },
        _ => unknown(UnknownCause::Status(number), Some(status)),
    }
}

fn unknown(cause: UnknownCause, status: Option<StatusCode>) -> Outcome {
    Outcome::Unknown(Unknown { cause, status, asked_again: false })
}

/// What happened to a start on legacy.
#[derive(Debug, PartialEq, Eq)]
#[cfg_attr(test, derive(Clone, Hash))]
#[must_use]
pub enum LegacyOutcome {
    /// Provably nothing was sent.
    NotSent(NotSent),
    /// Legacy has the job; its id, if the answer names one.
    Accepted(Option<JobId>),
    /// The request's own fault.
    Rejected,
    /// Legacy's own error (or redirect): passed on, but a job may exist.
    Failed,
    /// There is no answer to pass on, and a job may exist.
    Unknown(Unknown),
}

/// Judges what happened to a start on legacy, whose answer is never changed, only read.
pub fn judge_legacy(attempt: Attempt<'_>) -> LegacyOutcome {
    match attempt {
        Attempt::NotSent(why) => LegacyOutcome::NotSent(why),
        Attempt::Broken { how, status } => {
            let cause = UnknownCause::Broken(how);
            LegacyOutcome::Unknown(Unknown { cause, status, asked_again: false })
        }
        Attempt::Answered { status, body } => match status.as_u16() {
            200..=299 => {
                let object = Object::read(body).ok();
                LegacyOutcome::Accepted(object.and_then(|object| named_job(&object).ok()).map(|named| named.job))
            }
            400..=499 => LegacyOutcome::Rejected,
            _ => LegacyOutcome::Failed,
        },
    }
}

impl Outcome {
    /// Returns the outcome of a job that workers accepted and whose owner could not be stored.
    pub fn owner_lost() -> Outcome {
        unknown(UnknownCause::OwnerLost, None)
    }

    /// Returns the word for metrics and the log.
    pub fn as_str(&self) -> &'static str {
        match self {
            Outcome::NotSent(_) => "not_sent",
            Outcome::Declined(_) => "declined",
            Outcome::Accepted(_) => "accepted",
            Outcome::Rejected { .. } => "rejected",
            Outcome::Unknown(_) => "unknown",
        }
    }
}

impl LegacyOutcome {
    /// Returns the word for metrics and the log; those of [`Outcome::as_str`].
    pub fn as_str(&self) -> &'static str {
        match self {
            LegacyOutcome::NotSent(_) => "not_sent",
            LegacyOutcome::Accepted(_) => "accepted",
            LegacyOutcome::Rejected => "rejected",
            LegacyOutcome::Failed | LegacyOutcome::Unknown(_) => "unknown",
        }
    }
}

impl Declined {
    /// Returns the status that workers gave.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// Returns whether workers refused the gateway's own credential: an operator's error, to be logged as one.
    pub fn is_credential(&self) -> bool {
        self.credential
    }
}

impl Unknown {
    /// Returns why nobody knows.
    pub fn cause(&self) -> UnknownCause {
        self.cause
    }

    /// Joins with it what came of the same start, asked of workers once more under the same key.
    ///
    /// Only an answer that names the job ends the doubt. A second "not sent", "declined" or "rejected" says nothing
    /// of the first attempt, which may have made a job.
    pub fn after_second(self, second: Outcome) -> Outcome {
        let second = match second {
            ended @ (Outcome::Accepted(_) | Outcome::Rejected { job: Some(_) }) => return ended,
            Outcome::Unknown(second) => second.status,
            Outcome::Declined(declined) => Some(declined.status),
            Outcome::Rejected { job: None } | Outcome::NotSent(_) => None,
        };
        let status = second.filter(StatusCode::is_server_error).or(self.status);
        Outcome::Unknown(Unknown { cause: self.cause, status, asked_again: true })
    }
}

impl NotSent {
    /// Every cause.
    pub const ALL: [NotSent; 9] = [
        NotSent::CircuitOpen,
        NotSent::LookupFailed,
        NotSent::StoreUnavailable,
        NotSent::Dns,
        NotSent::Unreachable,
        NotSent::ConnectTimeout,
        NotSent::Tls,
        NotSent::HandedBack,
        NotSent::StreamRefused,
    ];

    /// Returns the word for metrics and the log.
    pub fn as_str(self) -> &'static str {
        match self {
            NotSent::CircuitOpen => "circuit_open",
            NotSent::LookupFailed => "lookup_failed",
            NotSent::StoreUnavailable => "store_unavailable",
            NotSent::Dns => "dns",
            NotSent::Unreachable => "unreachable",
            NotSent::ConnectTimeout => "connect_timeout",
            NotSent::Tls => "tls",
            NotSent::HandedBack => "handed_back",
            NotSent::StreamRefused => "stream_refused",
        }
    }
}

impl Broken {
    /// Every way to break.
    pub const ALL: [Broken; 6] =
        [Broken::Write, Broken::Closed, Broken::Timeout, Broken::Cut, Broken::TooLarge, Broken::Unreadable];

    /// Returns the word for the log.
    pub fn as_str(self) -> &'static str {
        match self {
            Broken::Write => "write",
            Broken::Closed => "closed",
            Broken::Timeout => "timeout",
            Broken::Cut => "cut",
            Broken::TooLarge => "too_large",
            Broken::Unreadable => "unreadable",
        }
    }
}

impl UnknownCause {
    /// Returns the word for the log.
    pub fn as_str(self) -> &'static str {
        match self {
            UnknownCause::Broken(how) => how.as_str(),
            UnknownCause::EdgeError(_) => "edge_error",
            UnknownCause::NoJob(unusable) => unusable.as_str(),
            UnknownCause::Status(_) => "status",
            UnknownCause::OwnerLost => "owner_lost",
        }
    }
}
