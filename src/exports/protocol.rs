//! The protocol of one start: look its key up, record, send, judge, record, answer, in the order that makes it safe.
//!
//! [`begin`] gives the first [`Command`]. Whoever performs a command tells it what came of it and gets the next one, until
//! it is told to answer. Each command is a value of its own that only the protocol makes and that is used up by what
//! came of it. So nothing is sent to workers but by a [`SendToWorkers`], which only a durable intent gives; legacy gets
//! a start of theirs only with a [`Fallback`], and a job's answer is given only after its owner was written.
//!
//! [`crate::gateway::start`] performs the commands on real backends and a real store. `tests/model` performs them in
//! every order in which stores, backends, clients and gateways can fail: what is proved there is what runs here.

mod ending;

pub use self::ending::{Ending, Settle, StoreOwner};
use self::ending::{Intent, Last, pass, refuse, settle};
use crate::exports::outcome::{LegacyOutcome, NotSent, Outcome, Unknown};
use crate::exports::step::{self, Fallback, LegacyStep, Policy, Remembered, StartRefusal, Step};
use crate::names::{BackendName, JobId};

/// What is to be done next for a start.
#[derive(Debug, PartialEq, Eq)]
#[cfg_attr(test, derive(Clone, Hash))]
#[must_use]
pub enum Command {
    /// Find out whether another start has the client's key.
    LookUpKey(LookUpKey),
    /// Choose a backend, and make what it is sent.
    Choose(Choose),
    /// Record durably that the start goes to workers; under a client's key, claim it.
    RecordForWorkers(RecordForWorkers),
    /// Send the start to workers.
    SendToWorkers(SendToWorkers),
    /// Record durably that the start, recorded for workers, goes to legacy instead.
    MoveToLegacy(MoveToLegacy),
    /// Record durably that the start goes to legacy; under a client's key, claim it.
    RecordForLegacy(RecordForLegacy),
    /// Send the start to legacy.
    SendToLegacy(SendToLegacy),
    /// Record durably who owns the job, and close the intent: with the answer, where the client sent a key.
    StoreOwner(StoreOwner),
    /// Say in the store how a start without an owner to store has ended.
    Settle(Settle),
    /// Give the client the backend's answer.
    Answer,
    /// Give the client an error of the gateway's own.
    Refuse(StartRefusal),
}

/// What the store said of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Written {
    /// It is durable.
    Yes,
    /// Nothing was written, and nothing will be.
    No,
    /// Nothing was written: there is no such intent, or it is not this start's to change any more.
    NotThere,
    /// It may be there, or may yet come to be.
    Maybe,
}

/// See [`Command::LookUpKey`].
#[derive(Debug, PartialEq, Eq)]
#[cfg_attr(test, derive(Clone, Hash))]
pub struct LookUpKey {
    policy: Policy,
}

/// See [`Command::Choose`].
#[derive(Debug, PartialEq, Eq)]
#[cfg_attr(test, derive(Clone, Hash))]
pub struct Choose {
    policy: Policy,
}

/// See [`Command::RecordForWorkers`].
#[derive(Debug, PartialEq, Eq)]
#[cfg_attr(test, derive(Clone, Hash))]
pub struct RecordForWorkers {
    policy: Policy,
}

/// See [`Command::SendToWorkers`].
#[derive(Debug, PartialEq, Eq)]
#[cfg_attr(test, derive(Clone, Hash))]
pub struct SendToWorkers {
    policy: Policy,
    /// Set when they were asked before.
    before: Option<Unknown>,
}

/// What came of a start on workers, judged with what was known before.
#[derive(Debug, PartialEq, Eq)]
#[cfg_attr(test, derive(Clone, Hash))]
pub struct Judged {
    policy: Policy,
    outcome: Outcome,
}

/// See [`Command::MoveToLegacy`].
#[derive(Debug, PartialEq, Eq)]
#[cfg_attr(test, derive(Clone, Hash))]
pub struct MoveToLegacy {
    policy: Policy,
    fallback: Fallback,
    /// Whether it is not known that there is an intent.
    perhaps: bool,
}

/// See [`Command::RecordForLegacy`].
#[derive(Debug, PartialEq, Eq)]
#[cfg_attr(test, derive(Clone, Hash))]
pub struct RecordForLegacy {
    policy: Policy,
    fallback: Option<Fallback>,
    /// What was known before.
    intent: Intent,
}

/// See [`Command::SendToLegacy`].
#[derive(Debug, PartialEq, Eq)]
#[cfg_attr(test, derive(Clone, Hash))]
pub struct SendToLegacy {
    policy: Policy,
    intent: Intent,
}

/// What becomes of a start that a crash left open, after workers were asked for it once more under its key.
#[derive(Debug, PartialEq, Eq)]
#[cfg_attr(test, derive(Clone, Hash))]
#[must_use]
pub enum AfterRestart {
    /// Nothing was sent: workers are asked another time.
    AskLater,
    /// The job is known: store its owner, and close the intent.
    StoreOwner {
        /// The job.
        job: JobId,
        /// Whether it failed at once.
        has_failed: bool,
    },
    /// Record that nobody knows.
    Unknown,
}

/// Begins a start.
pub fn begin(policy: Policy) -> Command {
    if policy.keyed { Command::LookUpKey(LookUpKey { policy }) } else { Command::Choose(Choose { policy }) }
}

impl LookUpKey {
    /// Nobody has the key. (Whose key it is already gets that one's answer, and no start of its own.)
    pub fn free(self) -> Command {
        Command::Choose(Choose { policy: self.policy })
    }

    /// The store could not be asked: without it nobody knows, so nothing may be started.
    pub fn unreadable(self) -> Command {
        Command::Refuse(StartRefusal::StoreUnavailable)
    }
}

impl Choose {
    /// The start is for legacy.
    pub fn legacy(self) -> Command {
        let Choose { policy } = self;
        Command::RecordForLegacy(RecordForLegacy { policy, fallback: None, intent: Intent::None })
    }

    /// The start is for workers, and translated.
    pub fn workers(self) -> Command {
        Command::RecordForWorkers(RecordForWorkers { policy: self.policy })
    }

    /// The start is for workers and cannot be sent there.
    pub fn not_sent(self, why: NotSent) -> Command {
        after_workers(Outcome::NotSent(why), Intent::None, self.policy)
    }
}

impl RecordForWorkers {
    /// Says whether the intent is durable.
    pub fn done(self, written: Written) -> Command {
        let Self { policy } = self;
        let unavailable = Outcome::NotSent(NotSent::StoreUnavailable);
        match written {
            Written::Yes => Command::SendToWorkers(SendToWorkers { policy, before: None }),
            Written::Maybe => after_workers(unavailable, Intent::MaybeForWorkers, policy),
            Written::No | Written::NotThere => after_workers(unavailable, Intent::None, policy),
        }
    }
}

impl SendToWorkers {
    /// Returns why they are asked again, when they are.
    pub fn again(&self) -> Option<&Unknown> {
        self.before.as_ref()
    }

    /// Judges what came of it.
    pub fn judge(self, outcome: Outcome) -> Judged {
        let outcome = match self.before {
            None => outcome,
            Some(unknown) => unknown.after_second(outcome),
        };
        Judged { policy: self.policy, outcome }
    }
}

impl Judged {
    /// Returns the outcome.
    pub fn outcome(&self) -> &Outcome {
        &self.outcome
    }

    /// Goes on.
    pub fn next(self) -> Command {
        after_workers(self.outcome, Intent::ForWorkers, self.policy)
    }
}

fn after_workers(outcome: Outcome, intent: Intent, policy: Policy) -> Command {
    let owner = |job, has_failed| StoreOwner { backend: BackendName::Workers, job, has_failed };
    match step::next(outcome, policy) {
        Step::Complete(job) => Command::StoreOwner(owner(job, false)),
        Step::PassAnswer(Some(job)) => Command::StoreOwner(owner(job, true)),
        Step::PassAnswer(None) => pass(intent, policy),
        Step::FallBack(fallback) if intent == Intent::None => {
            Command::RecordForLegacy(RecordForLegacy { policy, fallback: Some(fallback), intent })
        }
        Step::FallBack(fallback) => {
            Command::MoveToLegacy(MoveToLegacy { policy, fallback, perhaps: intent == Intent::MaybeForWorkers })
        }
        Step::AskAgain(unknown) => Command::SendToWorkers(SendToWorkers { policy, before: Some(unknown) }),
        Step::Refuse(refusal) => refuse(refusal, intent, policy),
    }
}

impl MoveToLegacy {
    /// Returns why the start goes to legacy.
    pub fn fallback(&self) -> &Fallback {
        &self.fallback
    }

    /// Says whether the move is durable.
    ///
    /// An intent that still says workers may be asked of them again after a crash: then legacy must not have got the
    /// start. Where nothing is asked again, a start without a client's key goes on unrecorded.
    pub fn done(self, written: Written) -> Command {
        let Self { policy, fallback, perhaps } = self;
        let intent = if perhaps { Intent::MaybeForWorkers } else { Intent::ForWorkers };
        match written {
            Written::Yes => Command::SendToLegacy(SendToLegacy { policy, intent: Intent::ForLegacy }),
            Written::NotThere if perhaps => {
                Command::RecordForLegacy(RecordForLegacy { policy, fallback: Some(fallback), intent })
            }
            // Another gateway has taken the start over and asks workers: it alone knows, and ends it.
            Written::NotThere if policy.idempotent => Command::Refuse(StartRefusal::STORE_FAILED),
            Written::No | Written::NotThere | Written::Maybe if policy.keyed || policy.idempotent => {
                refuse(StartRefusal::StoreUnavailable, intent, policy)
            }
            Written::No | Written::NotThere | Written::Maybe => Command::SendToLegacy(SendToLegacy { policy, intent }),
        }
    }
}

impl RecordForLegacy {
    /// Returns why the start does not go to workers, when it was for them.
    pub fn fallback(&self) -> Option<&Fallback> {
        self.fallback.as_ref()
    }

    /// Says whether the intent is durable. A start without a client's key that cannot be recorded goes on unrecorded.
    pub fn done(self, written: Written) -> Command {
        let Self { policy, fallback, intent } = self;
        let could_be_asked = policy.idempotent && intent == Intent::MaybeForWorkers;
        match (written, fallback) {
            // The first write may have arrived in between, and then this one has changed nothing.
            (Written::Yes, Some(fallback)) if could_be_asked => {
                Command::MoveToLegacy(MoveToLegacy { policy, fallback, perhaps: false })
            }
            (Written::Yes, _) => Command::SendToLegacy(SendToLegacy { policy, intent: Intent::ForLegacy }),
            (Written::No | Written::NotThere | Written::Maybe, _) => {
                let intent = match (intent, written) {
                    (Intent::None, Written::Maybe) => Intent::ForLegacy,
                    (before, _) => before,
                };
                if policy.keyed || could_be_asked {
                    return refuse(StartRefusal::StoreUnavailable, intent, policy);
                }
                Command::SendToLegacy(SendToLegacy { policy, intent })
            }
        }
    }
}

impl SendToLegacy {
    /// Says what came of it.
    pub fn done(self, outcome: LegacyOutcome) -> Command {
        let Self { policy, intent } = self;
        let remembered = outcome.remembered();
        match (step::next_on_legacy(outcome), remembered) {
            (LegacyStep::PassAnswer(Some(job)), Remembered::Answer) => {
                Command::StoreOwner(StoreOwner { backend: BackendName::Legacy, job, has_failed: false })
            }
            (LegacyStep::PassAnswer(_), Remembered::Unknown) => settle(Ending::Unknown, Last::Answer, intent, policy),
            (LegacyStep::PassAnswer(_), _) => pass(intent, policy),
            (LegacyStep::Refuse(refusal), _) => refuse(refusal, intent, policy),
        }
    }
}

/// Says what becomes of a start that a crash left open, after workers were asked for it once more.
///
/// As for any second try, only an answer that names the job ends the doubt.
pub fn after_restart(outcome: Outcome) -> AfterRestart {
    match outcome {
        Outcome::NotSent(_) => AfterRestart::AskLater,
        Outcome::Accepted(job) => AfterRestart::StoreOwner { job, has_failed: false },
        Outcome::Rejected { job: Some(job) } => AfterRestart::StoreOwner { job, has_failed: true },
        Outcome::Declined(_) | Outcome::Rejected { job: None } | Outcome::Unknown(_) => AfterRestart::Unknown,
    }
}

#[cfg(test)]
#[path = "../../tests/model/mod.rs"]
mod model;
