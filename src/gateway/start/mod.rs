//! A start of an export: decide, send, judge, and at most once fall back.
//!
//! What may be done after what is not decided here but in [`crate::exports::step`]; this folder does it, in the order
//! that makes it safe: the intent is durable before a byte leaves, the owner before the client hears of the job.

mod legacy;
mod workers;

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, request};
use hyper::body::Incoming;

use crate::exports::outcome::Outcome;
use crate::exports::step::{self, Policy, StartRefusal, Step};
use crate::exports::translate;
use crate::gateway::call::Call;
use crate::gateway::core::Core;
use crate::gateway::input_key;
use crate::gateway::pass::chain;
use crate::gateway::reply::Reply;
use crate::http::body::{Bound, ReadError, Reservation, read_whole};
use crate::http::refusal::Refusal;
use crate::jobs::input_key::LookupError;
use crate::jobs::record::{Intent, IntentState, Job, JobState};
use crate::jobs::store::StoreError;
use crate::names::{BackendName, ExportType, JobId, UserId};
use crate::routing::decide::{Reason, decide};
use crate::routing::table::{Export, InputKey, RoutingTable};
use crate::telemetry::record::Record;

/// Time on top of the longest start before a running intent reads as unknown.
const DEADLINE_SLACK: Duration = Duration::from_secs(5);

/// One start with all that its way through the backends needs.
struct Start<'a> {
    core: &'a Core,
    table: &'a RoutingTable,
    call: Call,
    export: ExportType,
    parts: request::Parts,
    body: Bytes,
    held: Reservation,
    /// Unique for this start; the key that workers get.
    key: Rc<str>,
}

/// Answers a start. Runs to its end even if the client leaves.
///
/// # Errors
/// A [`Refusal`] when the body cannot be had, no backend takes the start, or its outcome is not known.
pub async fn answer(
    core: &Core,
    table: &RoutingTable,
    call: Call,
    export: ExportType,
    request: Request<Incoming>,
    record: &mut Record,
) -> Result<Reply, Refusal> {
    let Some(settings) = table.exports.get(&export) else { return Err(Refusal::Internal) };
    let mut decision = decide(&table.rollout, settings.share, call.user());
    record.export = Some(export.clone());
    record.decision = Some(decision.backend);
    record.backend = Some(decision.backend);
    record.reason = Some(decision.reason.as_str());
    record.bucket = decision.bucket;
    let (parts, body) = request.into_parts();
    let mut held = Reservation::new(core.gateway.budget.clone());
    let body = read_whole(body, start_bound(table), &mut held).await.map_err(refuse_body)?;
    let start = Start { core, table, call, export, parts, body, held, key: core.fresh_id() };
    if let (BackendName::Workers, Some(user)) = (decision.backend, start.call.user().cloned()) {
        match translate::read(&start.parts.headers, &start.body, settings) {
            Ok(translated) => {
                let input = input_key(&start, settings, &user, &translated, record).await?;
                let body = input.map(|input_key| Bytes::from(translated.compose(&input_key)));
                return start.on_workers(&user, body, record).await;
            }
            Err(why) if table.workers.fallback => {
                decision = decision.overruled(Reason::Untranslatable);
                record.error = Some(why.to_string());
            }
            Err(why) => {
                record.error = Some(why.to_string());
                record.reason = Some(Reason::Untranslatable.as_str());
                start.count(record, "rejected");
                return Err(Refusal::Untranslatable);
            }
        }
    }
    record.decision = Some(decision.backend);
    record.reason = Some(decision.reason.as_str());
    start.on_legacy(record).await
}

/// Finds the start's `input_key`; `None` when the look-up failed and nothing may be sent to workers.
async fn input_key(
    start: &Start<'_>,
    settings: &Export,
    user: &UserId,
    translated: &translate::Start<'_>,
    record: &mut Record,
) -> Result<Option<String>, Refusal> {
    let project = translated.project_id();
    let (found, missing) = match &settings.input_key {
        InputKey::Field(_) => return Ok(translated.field_input_key().map(str::to_owned)),
        InputKey::Database(lookup) => {
            (start.core.gateway.lookups.look_up(lookup, user, project).await, &lookup.missing)
        }
        InputKey::Url(lookup) => (
            input_key::ask_legacy(start.core, start.table, &start.call, &start.parts, lookup, project).await,
            &lookup.missing,
        ),
    };
    match found {
        Ok(key) => Ok(Some(key)),
        Err(LookupError::Missing) => {
            start.count(record, "rejected");
            Err(Refusal::NoWorkingVideo(missing.clone()))
        }
        Err(error @ LookupError::Failed(_)) => {
            record.error = Some(chain(&error));
            tracing::warn!(request_id = %record.request_id, error = chain(&error), "input key look-up failed");
            Ok(None)
        }
    }
}

impl Start<'_> {
    async fn begin(&self, backend: BackendName, user: Option<UserId>) -> Result<(), StoreError> {
        let intent = Intent {
            key: Box::from(&*self.key),
            request_id: Box::from(&*self.call.request_id),
            user,
            export: self.export.clone(),
            backend,
            started_ms: self.core.gateway.clock.wall_ms(),
            deadline_ms: self.deadline_ms(),
            state: IntentState::Running,
        };
        self.core.gateway.jobs.begin(intent).await
    }

    fn deadline_ms(&self) -> u64 {
        let longest = self.table.legacy.start_timeout.max(self.table.workers.backend.start_timeout);
        let wait = u64::try_from((longest + DEADLINE_SLACK).as_millis()).unwrap_or(u64::MAX);
        self.core.gateway.clock.wall_ms().saturating_add(wait)
    }

    /// Stores the owner of a job and closes the intent; without a job the intent alone is closed.
    async fn close_with(
        &self,
        job: Option<&JobId>,
        backend: BackendName,
        user: Option<UserId>,
        state: JobState,
        record: &mut Record,
    ) -> Result<(), Refusal> {
        let jobs = &self.core.gateway.jobs;
        let Some(id) = job else {
            jobs.forget(&self.key);
            return Ok(());
        };
        record.job = Some(id.clone());
        let started_ms = self.core.gateway.clock.wall_ms();
        let job = Job { id: id.clone(), backend, export: Some(self.export.clone()), user, started_ms, state };
        let Err(error) = jobs.accept(job, Some(&self.key)).await else { return Ok(()) };
        record.error = Some(error.line());
        tracing::error!(
            job_id = %id, %backend, request_id = %record.request_id, error = error.line(),
            "a job runs but its owner is not stored; the write is retried"
        );
        if backend == BackendName::Legacy {
            return Ok(());
        }
        let outcome = Outcome::owner_lost();
        record.outcome = Some(outcome.as_str());
        self.count(record, outcome.as_str());
        let policy = Policy { fallback: false, idempotent: false, keyed: false };
        match step::next(outcome, policy) {
            Step::Refuse(refusal) => Err(refusal.into()),
            _ => Err(Refusal::Internal),
        }
    }

    async fn refuse(&self, refusal: StartRefusal, record: &mut Record) -> Refusal {
        let outcome = record.outcome.unwrap_or("unknown");
        self.count(record, outcome);
        self.refuse_on_legacy(refusal).await
    }

    async fn refuse_on_legacy(&self, refusal: StartRefusal) -> Refusal {
        match refusal {
            StartRefusal::OutcomeUnknown(_) => self.mark_unknown().await,
            StartRefusal::NoBackend | StartRefusal::StoreUnavailable => self.core.gateway.jobs.forget(&self.key),
        }
        refusal.into()
    }

    async fn mark_unknown(&self) {
        if let Err(error) = self.core.gateway.jobs.unknown(&self.key).await {
            // Its deadline will say the same.
            tracing::warn!(error = error.line(), "an unknown outcome was not stored");
        }
    }

    fn count(&self, record: &Record, outcome: &str) {
        let backend = record.backend.map_or("none", BackendName::as_str);
        let labels = [self.export.as_str(), backend, record.reason.unwrap_or("none"), outcome];
        record.metrics().starts.with_label_values(&labels).inc();
    }
}

/// A part of the budget is left to answers: clients that fill the rest with bodies must not make the gateway throw
/// away the answer to a start that has been paid for.
fn start_bound(table: &RoutingTable) -> Bound {
    let limits = &table.limits;
    let for_answers = limits.answer_body.max(limits.buffered / 4);
    Bound { bytes: limits.start_body, buffered: limits.buffered.saturating_sub(for_answers), idle: limits.body_idle }
}

fn refuse_body(error: ReadError) -> Refusal {
    match error {
        ReadError::TooLarge(_) => Refusal::BodyTooLarge,
        ReadError::Overloaded => Refusal::Overloaded,
        ReadError::Idle => Refusal::BodyTimeout,
        ReadError::Broken(_) => Refusal::BodyBroken,
    }
}

fn note_store(record: &mut Record, error: &StoreError, what: &'static str) {
    record.error = Some(error.line());
    tracing::warn!(request_id = %record.request_id, error = error.line(), what, "job store did not take a write");
}
