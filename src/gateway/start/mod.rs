//! A start of an export: decide, send, judge, and at most once fall back.
//!
//! What is done after what is not decided here but in [`crate::exports::protocol`]: this folder does what it commands,
//! one command after the other, and tells it what came of each. See `Start::run`.

pub mod again;
mod keyed;
mod legacy;
mod store;
mod workers;

use std::rc::Rc;
use std::time::Instant;

use bytes::Bytes;
use http::{Request, request};
use hyper::body::Incoming;

use crate::exports::outcome::{NotSent, Outcome};
use crate::exports::protocol::{self, Choose, Command};
use crate::exports::step::{self, Fallback, Policy, StartRefusal, Step};
use crate::exports::translate;
use crate::gateway::call::Call;
use crate::gateway::core::Core;
use crate::gateway::input_key;
use crate::gateway::pass::chain;
use crate::gateway::reply::Reply;
use crate::gateway::start::store::{noted, recorded};
use crate::gateway::start::workers::ForWorkers;
use crate::http::body::{Bound, ReadError, Reservation, Upload, read_whole};
use crate::http::headers::EARLY_DATA;
use crate::http::refusal::Refusal;
use crate::jobs::input_key::LookupError;
use crate::jobs::record::Claim;
use crate::names::{BackendName, ExportType, UserId};
use crate::routing::decide::{Decision, Reason, decide};
use crate::routing::table::{Export, InputKey, RoutingTable};
use crate::telemetry::record::Record;

/// The word for a start of which no byte was sent.
const NOT_SENT: &str = "not_sent";
/// The word for a start of which nobody knows whether it made a job.
const UNKNOWN: &str = "unknown";

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
    /// Set when it is for workers.
    for_workers: Option<ForWorkers>,
    /// The request that is sent next: one that cannot be made is not recorded.
    prepared: Option<Request<Upload>>,
    /// The backend's answer as the client gets it, when there is one that may be given.
    reply: Option<Reply>,
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
    let decision = decide(&table.rollout, settings.share, call.user());
    record.export = Some(export.clone());
    record.decision = Some(decision.backend);
    record.backend = Some(decision.backend);
    record.reason = Some(decision.reason.as_str());
    record.bucket = decision.bucket;
    let (parts, body) = request.into_parts();
    let client_key = keyed::read(&parts.headers)?;
    let mut held = Reservation::new(core.gateway.budget.clone());
    let body = read_whole(body, call.peer.end, start_bound(table), &mut held).await.map_err(refuse_body)?;
    let mut start = Start {
        core,
        table,
        call,
        export,
        parts,
        body,
        held,
        key: core.fresh_id(),
        claim: None,
        for_workers: None,
        prepared: None,
        reply: None,
    };
    if let Some(client_key) = client_key {
        start.put_under(&client_key);
    }
    start.run(settings, decision, record).await
}

impl Start<'_> {
    /// Does what the protocol commands until the client can be answered.
    async fn run(mut self, settings: &Export, decision: Decision, record: &mut Record) -> Result<Reply, Refusal> {
        let mut command = protocol::begin(self.policy());
        loop {
            command = match command {
                Command::LookUpKey(step) => match self.look(record).await {
                    Ok(Some(holder)) => return self.answer_by_key(&holder, record),
                    Ok(None) => step.free(),
                    Err(_) => step.unreadable(),
                },
                Command::Choose(step) => self.choose(step, settings, decision, record).await?,
                Command::RecordForWorkers(step) => {
                    self.prepared = Some(self.request_for_workers()?);
                    match self.begin(BackendName::Workers).await {
                        Ok(Some(holder)) => return self.answer_by_key(&holder, record),
                        result => step.done(recorded(&result, "intent not recorded", record)),
                    }
                }
                Command::SendToWorkers(step) => self.send_to_workers(step, record).await?,
                Command::MoveToLegacy(step) => {
                    self.falls_back(step.fallback(), record);
                    self.prepared = Some(self.request_for_legacy()?);
                    let result = self.core.gateway.jobs.redirect(&self.key, self.deadline_ms()).await;
                    step.done(noted(&result, "fallback not recorded", record))
                }
                Command::RecordForLegacy(step) => {
                    if let Some(fallback) = step.fallback() {
                        self.falls_back(fallback, record);
                    }
                    record.backend = Some(BackendName::Legacy);
                    self.prepared = Some(self.request_for_legacy()?);
                    match self.begin(BackendName::Legacy).await {
                        Ok(Some(holder)) => return self.answer_by_key(&holder, record),
                        result => step.done(recorded(&result, "start on legacy not recorded", record)),
                    }
                }
                Command::SendToLegacy(step) => self.send_to_legacy(step, record).await?,
                Command::StoreOwner(step) => self.store_owner(step, record).await,
                Command::Settle(step) => {
                    let written = self.settle(step.ending()).await;
                    step.done(written)
                }
                Command::Answer => return self.finish(record),
                Command::Refuse(refusal) => {
                    if let StartRefusal::OutcomeUnknown(_) = refusal {
                        record.outcome = Some(UNKNOWN);
                    }
                    self.count(record, record.outcome.unwrap_or(UNKNOWN));
                    return Err(refusal.into());
                }
            };
        }
    }

    /// Chooses the backend, and makes what workers are sent.
    async fn choose(
        &mut self,
        step: Choose,
        settings: &Export,
        mut decision: Decision,
        record: &mut Record,
    ) -> Result<Command, Refusal> {
        if let (BackendName::Workers, Some(user)) = (decision.backend, self.call.user().cloned()) {
            match translate::read(&self.parts.headers, &self.body, settings) {
                Ok(translated) => {
                    let (circuit, url) = (&self.core.gateway.circuit, &self.table.workers.backend.url);
                    if let Some(pass) = circuit.admit(&self.table.circuit, url, Instant::now()) {
                        let Some(input_key) = input_key(self, settings, &user, &translated, record).await? else {
                            record.outcome = Some(NOT_SENT);
                            return Ok(step.not_sent(NotSent::LookupFailed));
                        };
                        let body = Bytes::from(translated.compose(&input_key));
                        self.for_workers = Some(ForWorkers { user, body, pass: Some(pass) });
                        return Ok(step.workers());
                    }
                    decision = self.circuit_is_open(decision, record)?;
                }
                Err(why) if self.table.workers.fallback => {
                    decision = decision.overruled(Reason::Untranslatable);
                    record.error = Some(why.to_string());
                }
                Err(why) => {
                    record.error = Some(why.to_string());
                    record.reason = Some(Reason::Untranslatable.as_str());
                    self.count(record, "rejected");
                    return Err(Refusal::Untranslatable);
                }
            }
        }
        record.decision = Some(decision.backend);
        record.reason = Some(decision.reason.as_str());
        Ok(step.legacy())
    }

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
                record.outcome = Some(NOT_SENT);
                self.count(record, NOT_SENT);
                Err(Refusal::NoBackend)
            }
        }
    }

    /// What may be done for this start on workers.
    fn policy(&self) -> Policy {
        let workers = &self.table.workers;
        Policy { fallback: workers.fallback, idempotent: workers.idempotent, keyed: self.claim.is_some() }
    }

    /// Notes that the start goes to legacy, and why.
    fn falls_back(&self, fallback: &Fallback, record: &mut Record) {
        record.backend = Some(BackendName::Legacy);
        if record.fallback.is_some() {
            return;
        }
        let cause = fallback.cause();
        record.fallback = Some(cause);
        record.metrics().fallbacks.with_label_values(&[self.export.as_str(), cause]).inc();
        tracing::warn!(request_id = %record.request_id, cause, export_type = %self.export, "start falls back to legacy");
    }

    /// Makes the request for the next send, unless that was done when it was recorded.
    fn take_request(&mut self, backend: BackendName) -> Result<Request<Upload>, Refusal> {
        match (self.prepared.take(), backend) {
            (Some(request), _) => Ok(request),
            (None, BackendName::Workers) => self.request_for_workers(),
            (None, BackendName::Legacy) => self.request_for_legacy(),
        }
    }

    fn finish(self, record: &Record) -> Result<Reply, Refusal> {
        self.count(record, record.outcome.unwrap_or(UNKNOWN));
        // Only an answer that was read leads here.
        let mut reply = self.reply.ok_or(Refusal::Internal)?;
        reply.held = Some(self.held);
        Ok(reply)
    }

    fn count(&self, record: &Record, outcome: &str) {
        let backend = record.backend.map_or("none", BackendName::as_str);
        let labels = [self.export.as_str(), backend, record.reason.unwrap_or("none"), outcome];
        record.metrics().starts.with_label_values(&labels).inc();
    }
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
