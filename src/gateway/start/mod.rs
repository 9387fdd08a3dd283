//! A start of an export: decide, send, judge, and at most once fall back.
//!
//! What may be done after what is not decided here but in [`crate::exports::step`]; this folder does it, in the order
//! that makes it safe: the intent is durable before a byte leaves, the owner before the client hears of the job.

pub mod again;
mod keyed;
mod legacy;
mod workers;

use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, request};
use hyper::body::Incoming;

use crate::exports::outcome::{NotSent, Outcome};
use crate::exports::step::{self, Policy, StartRefusal, Step};
use crate::exports::translate;
use crate::gateway::call::Call;
use crate::gateway::core::Core;
use crate::gateway::input_key;
use crate::gateway::pass::chain;
use crate::gateway::reply::Reply;
use crate::http::body::{Bound, ReadError, Reservation, read_whole};
use crate::http::headers::EARLY_DATA;
use crate::http::refusal::Refusal;
use crate::jobs::input_key::LookupError;
use crate::jobs::record::{Claim, Closing, Intent, IntentState, Job, JobState};
use crate::jobs::store::StoreError;
use crate::names::{BackendName, ExportType, JobId, UserId};
use crate::routing::decide::{Decision, Reason, decide};
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
    /// The key that workers get: made from the client's, else unique for this start.
    key: Rc<str>,
    /// Set when the client sent a key.
    claim: Option<Claim>,
}

/// What is known about the intent of a start that does not get through to workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Recorded {
    /// It is not there.
    No,
    /// The store could not say.
    Maybe,
    /// It is there, and says workers.
    Yes,
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
    if request.headers().get_all(EARLY_DATA).iter().any(|value| value == "1") {
        return Err(Refusal::TooEarly);
    }
    let mut decision = decide(&table.rollout, settings.share, call.user());
    record.export = Some(export.clone());
    record.decision = Some(decision.backend);
    record.backend = Some(decision.backend);
    record.reason = Some(decision.reason.as_str());
    record.bucket = decision.bucket;
    let (parts, body) = request.into_parts();
    let client_key = keyed::read(&parts.headers)?;
    let mut held = Reservation::new(core.gateway.budget.clone());
    let body = read_whole(body, call.peer.end, start_bound(table), &mut held).await.map_err(refuse_body)?;
    let mut start = Start { core, table, call, export, parts, body, held, key: core.fresh_id(), claim: None };
    if let Some(client_key) = client_key {
        start.put_under(&client_key);
        if let Some(holder) = start.look(record).await? {
            return start.answer_by_key(&holder, record);
        }
    }
    if let (BackendName::Workers, Some(user)) = (decision.backend, start.call.user().cloned()) {
        match translate::read(&start.parts.headers, &start.body, settings) {
            Ok(translated) => {
                let (circuit, url) = (&core.gateway.circuit, &table.workers.backend.url);
                if let Some(pass) = circuit.admit(&table.circuit, url, Instant::now()) {
                    let input = input_key(&start, settings, &user, &translated, record).await?;
                    let body = input.map(|input_key| Bytes::from(translated.compose(&input_key)));
                    return start.on_workers(&user, body, pass, record).await;
                }
                decision = start.circuit_is_open(decision, record)?;
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
    /// Workers are left alone for a while: legacy takes the start, at once.
    fn circuit_is_open(&self, decision: Decision, record: &mut Record) -> Result<Decision, Refusal> {
        let (reason, not_sent) = (Reason::CircuitOpen, NotSent::CircuitOpen);
        record.reason = Some(reason.as_str());
        match step::next(Outcome::NotSent(not_sent), self.policy()) {
            Step::FallBack(fallback) => {
                record.fallback = Some(fallback.cause());
                let labels = [self.export.as_str(), fallback.cause()];
                record.metrics().fallbacks.with_label_values(&labels).inc();
                Ok(decision.overruled(reason))
            }
            _ => {
                let outcome = Outcome::NotSent(not_sent).as_str();
                record.outcome = Some(outcome);
                self.count(record, outcome);
                Err(Refusal::NoBackend)
            }
        }
    }

    /// What may be done for this start on workers.
    fn policy(&self) -> Policy {
        let workers = &self.table.workers;
        Policy { fallback: workers.fallback, idempotent: workers.idempotent, keyed: self.claim.is_some() }
    }

    /// Records that the start is about to go to a backend; returns the intent of the other start that has its key.
    ///
    /// `resend` is what workers may be asked with once more.
    async fn begin(&self, backend: BackendName, resend: Option<Bytes>) -> Result<Option<Intent>, StoreError> {
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

    fn deadline_ms(&self) -> u64 {
        let workers = &self.table.workers;
        let asked = if workers.idempotent { 2 } else { 1 };
        let longest = self.table.legacy.start_timeout.max(workers.backend.start_timeout * asked);
        let wait = u64::try_from((longest + DEADLINE_SLACK).as_millis()).unwrap_or(u64::MAX);
        self.core.gateway.clock.wall_ms().saturating_add(wait)
    }

    /// Stores the owner of a job and closes the intent, or keeps the answer with it where the client sent a key.
    async fn close_with(
        &self,
        job: Option<(&JobId, JobState)>,
        backend: BackendName,
        reply: &Reply,
        record: &mut Record,
    ) -> Result<(), Refusal> {
        let jobs = &self.core.gateway.jobs;
        let kept = self.kept(job, backend, reply);
        let Some((id, state)) = job else {
            match kept {
                Some(kept) => note_late(jobs.keep_answer(kept).await, "an answer was not kept for its key"),
                None => self.forget().await,
            }
            return Ok(());
        };
        record.job = Some(id.clone());
        let started_ms = self.core.gateway.clock.wall_ms();
        let (export, user) = (Some(self.export.clone()), self.call.user().cloned());
        let job = Job { id: id.clone(), backend, export, user, started_ms, state };
        let closing = kept.map_or_else(|| Closing::Forget(Box::from(&*self.key)), Closing::Keep);
        let Err(error) = jobs.accept_closing(job, Some(closing)).await else { return Ok(()) };
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
        match step::next(outcome, self.policy()) {
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
            StartRefusal::NoBackend | StartRefusal::StoreUnavailable => self.forget().await,
        }
        refusal.into()
    }

    /// Forgets a start that provably made no job: at once where a client's key or a second try hangs on it.
    async fn forget(&self) {
        let jobs = &self.core.gateway.jobs;
        if self.claim.is_some() || self.table.workers.idempotent {
            note_late(jobs.free(&self.key, self.claim.as_ref()).await, "a start is not forgotten yet");
        } else {
            jobs.forget(&self.key);
        }
    }

    async fn mark_unknown(&self) {
        note_late(self.core.gateway.jobs.unknown(&self.key).await, "an unknown outcome was not stored");
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
    // One whole body always fits: the check of the file sees to the room for its answer.
    let for_bodies = limits.buffered.saturating_sub(for_answers).max(limits.start_body);
    Bound { bytes: limits.start_body, buffered: for_bodies, idle: limits.body_idle }
}

fn refuse_body(error: ReadError) -> Refusal {
    match error {
        ReadError::TooLarge(_) => Refusal::BodyTooLarge,
        ReadError::Overloaded => Refusal::Overloaded,
        ReadError::Idle => Refusal::BodyTimeout,
        ReadError::Broken(_) | ReadError::Cancelled => Refusal::BodyBroken,
    }
}

fn note_store(record: &mut Record, error: &StoreError, what: &'static str) {
    record.error = Some(error.line());
    tracing::warn!(request_id = %record.request_id, error = error.line(), what, "job store did not take a write");
}

/// Notes a failed write at the end of a start. Past its deadline the intent reads as unknown all the same.
fn note_late(written: Result<(), StoreError>, what: &'static str) {
    if let Err(error) = written {
        tracing::warn!(error = error.line(), what, "job store did not take a write");
    }
}
