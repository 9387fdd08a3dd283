//! The end of a start: its owner is stored, or what became of it is said in the store, and then the client is answered.

use super::{Command, Written};
use crate::exports::step::{Policy, StartRefusal};
use crate::names::{BackendName, JobId};

/// What is known of a start's intent in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Intent {
    /// There is none.
    None,
    /// There may be one; if so, it says workers.
    MaybeForWorkers,
    /// It says workers.
    ForWorkers,
    /// It says legacy, if it is there.
    ForLegacy,
}

/// See [`Command::StoreOwner`].
#[derive(Debug, PartialEq, Eq)]
#[cfg_attr(test, derive(Clone, Hash))]
pub struct StoreOwner {
    pub(super) backend: BackendName,
    pub(super) job: JobId,
    pub(super) has_failed: bool,
}

/// See [`Command::Settle`].
#[derive(Debug, PartialEq, Eq)]
#[cfg_attr(test, derive(Clone, Hash))]
pub struct Settle {
    ending: Ending,
    last: Last,
    /// Whether workers could be asked for the start again if this is not written.
    could_be_asked: bool,
}

/// How a start has ended, for the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Ending {
    /// Answered without an owner to store: the answer is kept for the client's key. (What cannot be kept is forgotten.)
    KeepAnswer,
    /// Nobody knows whether there is a job: no new start under this key.
    Unknown,
    /// The start provably made no job, or needs no record any more: the intent is deleted, and a client's key is free.
    Forget,
    /// As [`Ending::Forget`], but nothing hangs on it: it is not waited for.
    ForgetLater,
}

/// The last command of a start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Last {
    Answer,
    Refuse(StartRefusal),
}

impl StoreOwner {
    /// Returns the job.
    pub fn job(&self) -> &JobId {
        &self.job
    }

    /// Returns its owner.
    pub fn backend(&self) -> BackendName {
        self.backend
    }

    /// Says whether the job failed at once.
    pub fn has_failed(&self) -> bool {
        self.has_failed
    }

    /// Says whether the owner is durable. A job of legacy's is looked for there when nobody knows its owner, so that its
    /// answer stands; one of workers' must not be acknowledged.
    pub fn done(self, written: Written) -> Command {
        match (written, self.backend) {
            (Written::Yes, _) | (_, BackendName::Legacy) => Command::Answer,
            (Written::No | Written::NotThere | Written::Maybe, BackendName::Workers) => {
                // The intent stays as it is until the owner is written.
                Command::Refuse(StartRefusal::STORE_FAILED)
            }
        }
    }
}

impl Settle {
    /// Returns what is to be said.
    pub fn ending(&self) -> Ending {
        self.ending
    }

    /// Says whether it is durable.
    ///
    /// As long as workers could be asked for the start once more, nobody can say that it has made no job.
    pub fn done(self, written: Written) -> Command {
        let is_unknown = self.ending == Ending::Unknown;
        if self.could_be_asked && written != Written::Yes && !is_unknown {
            return Command::Refuse(StartRefusal::STORE_FAILED);
        }
        self.last.command()
    }
}

impl Last {
    fn command(self) -> Command {
        match self {
            Last::Answer => Command::Answer,
            Last::Refuse(refusal) => Command::Refuse(refusal),
        }
    }
}

/// Passes an answer on that names no job.
pub(super) fn pass(intent: Intent, policy: Policy) -> Command {
    let ending = if policy.keyed { Ending::KeepAnswer } else { forget(policy) };
    settle(ending, Last::Answer, intent, policy)
}

pub(super) fn refuse(refusal: StartRefusal, intent: Intent, policy: Policy) -> Command {
    let ending = match refusal {
        StartRefusal::OutcomeUnknown(_) => Ending::Unknown,
        StartRefusal::NoBackend | StartRefusal::StoreUnavailable => forget(policy),
    };
    settle(ending, Last::Refuse(refusal), intent, policy)
}

/// Where a client's key or a second try hangs on it, the intent is deleted before the client is answered.
fn forget(policy: Policy) -> Ending {
    if policy.keyed || policy.idempotent { Ending::Forget } else { Ending::ForgetLater }
}

pub(super) fn settle(ending: Ending, last: Last, intent: Intent, policy: Policy) -> Command {
    if intent == Intent::None {
        return last.command();
    }
    let could_be_asked = policy.idempotent && matches!(intent, Intent::MaybeForWorkers | Intent::ForWorkers);
    Command::Settle(Settle { ending, last, could_be_asked })
}
