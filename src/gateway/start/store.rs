//! What is written about a start, and what the store says of it.

use std::time::Duration;

use crate::exports::protocol::{Command, Ending, StoreOwner, Written};
use crate::gateway::start::{NOT_SENT, Start};
use crate::jobs::record::{Closing, Intent, IntentState, Job, JobState};
use crate::jobs::store::{Cause, StoreError};
use crate::names::BackendName;
use crate::telemetry::record::Record;

/// Time on top of the longest start before a running intent reads as unknown.
const DEADLINE_SLACK: Duration = Duration::from_secs(5);

impl Start<'_> {
    /// Records that the start is about to go to a backend; returns the intent of the other start that has its key.
    pub(super) async fn begin(&self, backend: BackendName) -> Result<Option<Intent>, StoreError> {
        // What workers may be asked with once more, where they honour keys.
        let sent = self.for_workers.as_ref().filter(|_| backend == BackendName::Workers);
        let resend = sent.filter(|_| self.table.workers.idempotent).map(|sent| sent.body.clone());
        let intent = Intent {
            key: Box::from(&*self.key),
            request_id: Box::from(&*self.call.request_id),
            user: self.call.user().cloned(),
            export: self.export.clone(),
            backend,
            started_ms: self.core.gateway.clock.wall_ms(),
            deadline_ms: self.deadline_ms(),
            state: IntentState::Running,
            claim: self.claim.clone(),
            resend,
            answer: None,
        };
        let jobs = &self.core.gateway.jobs;
        if self.claim.is_some() { jobs.claim(intent).await } else { jobs.begin(intent).await.map(|()| None) }
    }

    pub(super) fn deadline_ms(&self) -> u64 {
        let workers = &self.table.workers;
        let asked = if workers.idempotent { 2 } else { 1 };
        let longest = self.table.legacy.start_timeout.max(workers.backend.start_timeout * asked);
        let wait = u64::try_from((longest + DEADLINE_SLACK).as_millis()).unwrap_or(u64::MAX);
        self.core.gateway.clock.wall_ms().saturating_add(wait)
    }

    /// Stores the owner of a job and closes the intent, or keeps the answer with it where the client sent a key.
    pub(super) async fn store_owner(&self, step: StoreOwner, record: &mut Record) -> Command {
        let (id, backend) = (step.job().clone(), step.backend());
        let state = if step.has_failed() { JobState::Error } else { JobState::Open };
        record.job = Some(id.clone());
        let kept = self.kept(Some((&id, state)), backend);
        let closing = kept.map_or_else(|| Closing::Forget(Box::from(&*self.key)), Closing::Keep);
        let started_ms = self.core.gateway.clock.wall_ms();
        let (export, user) = (Some(self.export.clone()), self.call.user().cloned());
        let job = Job { id, backend, export, user, started_ms, state };
        let stored = self.core.gateway.jobs.accept_closing(job, Some(closing)).await;
        if let Err(error) = &stored {
            record.error = Some(error.line());
            tracing::error!(
                job_id = %step.job(), %backend, request_id = %record.request_id, error = error.line(),
                "a job runs but its owner is not stored; the write is retried"
            );
        }
        step.done(written(&stored))
    }

    /// Says in the store how a start without an owner to store has ended.
    ///
    /// Past its deadline an intent that is left as it was reads as unknown.
    pub(super) async fn settle(&self, ending: Ending) -> Written {
        let jobs = &self.core.gateway.jobs;
        let (result, failed) = match ending {
            Ending::KeepAnswer => match self.kept(None, BackendName::Legacy) {
                Some(kept) => (jobs.keep_answer(kept).await, "an answer was not kept for its key"),
                None => (self.free().await, "a start is not forgotten yet"),
            },
            Ending::Unknown => (jobs.unknown(&self.key).await, "an unknown outcome was not stored"),
            Ending::Forget => (self.free().await, "a start is not forgotten yet"),
            Ending::ForgetLater => {
                jobs.forget(&self.key);
                (Ok(()), "")
            }
        };
        note_late(&result, failed);
        written(&result)
    }

    async fn free(&self) -> Result<(), StoreError> {
        self.core.gateway.jobs.free(&self.key, self.claim.as_ref()).await
    }
}

/// Says in the protocol's words what the store said.
fn written<T>(result: &Result<T, StoreError>) -> Written {
    match result {
        Ok(_) => Written::Yes,
        Err(StoreError::NotWritten(Cause::NoIntent)) => Written::NotThere,
        Err(StoreError::NotWritten(_) | StoreError::Unavailable(_)) => Written::No,
        Err(StoreError::MaybeWritten(_)) => Written::Maybe,
    }
}

/// Notes what came of moving the start.
pub(super) fn noted<T>(result: &Result<T, StoreError>, what: &'static str, record: &mut Record) -> Written {
    if let Err(error) = result {
        note_store(record, error, what);
    }
    written(result)
}

/// Notes what came of recording a start that is about to be sent.
pub(super) fn recorded<T>(result: &Result<T, StoreError>, what: &'static str, record: &mut Record) -> Written {
    if result.is_err() {
        record.outcome = Some(NOT_SENT);
    }
    noted(result, what, record)
}

pub(super) fn note_store(record: &mut Record, error: &StoreError, what: &'static str) {
    record.error = Some(error.line());
    tracing::warn!(request_id = %record.request_id, error = error.line(), what, "job store did not take a write");
}

/// Notes a failed write at the end of a start.
pub(super) fn note_late(written: &Result<(), StoreError>, what: &'static str) {
    if let Err(error) = written {
        tracing::warn!(error = error.line(), what, "job store did not take a write");
    }
}
