//! The way of a start through workers: send, judge, perhaps ask once more, and at most once fall back to legacy.

use std::time::Instant;

use bytes::Bytes;
use http::Request;
use http::header::{self, HeaderMap, HeaderValue};

use crate::backends::circuit::{Change, Pass};
use crate::exports::outcome::{self, NotSent, Outcome, Rules, Unknown};
use crate::exports::step::{self, Fallback, StartRefusal, Step};
use crate::exports::{answer, websocket_url};
use crate::gateway::attempt::{self, Answer, Seen, answer_bound};
use crate::gateway::core::Core;
use crate::gateway::reply::Reply;
use crate::gateway::start::{Recorded, Start, note_store};
use crate::http::body::{Reservation, Upload};
use crate::http::headers::IDEMPOTENCY_KEY;
use crate::http::refusal::Refusal;
use crate::jobs::record::{Intent, JobState};
use crate::jobs::store::{Cause, StoreError};
use crate::names::{BackendName, ExportType, JobId, UserId};
use crate::routing::table::{RoutingTable, Workers};
use crate::telemetry::record::Record;

impl Start<'_> {
    /// `body` is the translated start; `None` if its `input_key` could not be looked up.
    pub(super) async fn on_workers(
        mut self,
        user: &UserId,
        body: Option<Bytes>,
        pass: Pass,
        record: &mut Record,
    ) -> Result<Reply, Refusal> {
        record.backend = Some(BackendName::Workers);
        let policy = self.policy();
        let mut recorded = Recorded::No;
        let mut seen = match &body {
            None => Seen::not_sent(NotSent::LookupFailed),
            Some(body) => {
                let request = self.request_for_workers(user, body)?;
                match self.begin(BackendName::Workers, policy.idempotent.then(|| body.clone())).await {
                    Ok(None) => {
                        recorded = Recorded::Yes;
                        send(self.core, self.table, request, &mut self.held).await
                    }
                    Ok(Some(holder)) => return self.answer_by_key(&holder, record),
                    Err(error) => {
                        note_store(record, &error, "intent not recorded");
                        if matches!(error, StoreError::MaybeWritten(_)) {
                            recorded = Recorded::Maybe;
                        }
                        Seen::not_sent(NotSent::StoreUnavailable)
                    }
                }
            }
        };
        seen.note(record);
        let outcome = outcome::judge_workers(seen.attempt(), rules(&self.table.workers));
        record.outcome = Some(outcome.as_str());
        if let Outcome::Declined(declined) = &outcome
            && declined.is_credential()
        {
            let status = declined.status().as_u16();
            tracing::error!(request_id = %record.request_id, status, "workers refuse the gateway's credential");
        }
        self.tell_circuit(pass, &outcome, &seen);
        let step = match (step::next(outcome, policy), &body) {
            (Step::AskAgain(unknown), Some(body)) => {
                let outcome;
                (seen, outcome) = self.ask_again(unknown, user, body, record).await?;
                step::next(outcome, policy)
            }
            (step, _) => step,
        };
        match step {
            Step::Complete(job) => self.complete(seen, job, record).await,
            Step::PassAnswer(job) => {
                let mut reply = workers_reply(seen.into_answer()?, None);
                let job = job.as_ref().map(|id| (id, JobState::Error));
                self.close_with(job, BackendName::Workers, &reply, record).await?;
                self.count(record, "rejected");
                reply.held = Some(self.held);
                Ok(reply)
            }
            Step::FallBack(fallback) => self.fall_back(fallback, recorded, record).await,
            // An outcome that came of asking again does not lead here.
            Step::AskAgain(_) => Err(Refusal::Internal),
            Step::Refuse(refusal) => Err(self.refuse(refusal, record).await),
        }
    }

    /// Counts what the start says of workers.
    fn tell_circuit(&self, pass: Pass, outcome: &Outcome, seen: &Seen) {
        let counted = step::counts_for_circuit(outcome);
        match pass.report(counted, seen.retry_after(), &self.table.circuit, Instant::now()) {
            None => {}
            Some(Change::Opened(open)) => {
                let outcome = outcome.as_str();
                tracing::warn!(outcome, open_seconds = open.as_secs_f64(), "circuit of workers opened");
            }
            Some(Change::Closed) => tracing::info!("circuit of workers closed"),
        }
    }

    /// Asks workers once more, under the same key.
    async fn ask_again(
        &mut self,
        unknown: Unknown,
        user: &UserId,
        body: &Bytes,
        record: &mut Record,
    ) -> Result<(Seen, Outcome), Refusal> {
        let (request_id, cause) = (&record.request_id, unknown.cause().as_str());
        tracing::warn!(%request_id, cause, export_type = %self.export, "start is asked of workers once more");
        let request = self.request_for_workers(user, body)?;
        let seen = send(self.core, self.table, request, &mut self.held).await;
        seen.note(record);
        let outcome = unknown.judge_again(seen.attempt(), rules(&self.table.workers));
        record.outcome = Some(outcome.as_str());
        Ok((seen, outcome))
    }

    /// The owner first, then the answer.
    async fn complete(self, seen: Seen, job: JobId, record: &mut Record) -> Result<Reply, Refusal> {
        record.job = Some(job.clone());
        let url = websocket_url::websocket_url(&self.table.workers.websocket_base, &job);
        let mut reply = workers_reply(seen.into_answer()?, Some(&url));
        self.close_with(Some((&job, JobState::Open)), BackendName::Workers, &reply, record).await?;
        self.count(record, "accepted");
        reply.held = Some(self.held);
        Ok(reply)
    }

    async fn fall_back(
        mut self,
        fallback: Fallback,
        recorded: Recorded,
        record: &mut Record,
    ) -> Result<Reply, Refusal> {
        let cause = fallback.cause();
        record.fallback = Some(cause);
        record.metrics().fallbacks.with_label_values(&[self.export.as_str(), cause]).inc();
        tracing::warn!(request_id = %record.request_id, cause, export_type = %self.export, "start falls back to legacy");
        record.backend = Some(BackendName::Legacy);
        let request = self.request_for_legacy()?;
        match self.move_to_legacy(recorded).await {
            Ok(None) => {}
            Ok(Some(holder)) => return self.answer_by_key(&holder, record),
            Err(error) => {
                note_store(record, &error, "fallback not recorded");
                // An intent that still says workers may be asked of them again after a crash: then legacy must not have
                // got the start. Where nothing is asked again, an unkeyed start goes on unrecorded.
                let may_be_resent = self.table.workers.idempotent && recorded != Recorded::No;
                if self.claim.is_some() || may_be_resent {
                    return Err(self.refuse(StartRefusal::StoreUnavailable, record).await);
                }
            }
        }
        let seen = self.send_to_legacy(request).await;
        self.finish_on_legacy(seen, record).await
    }

    /// Records that the start goes to legacy, whatever is recorded of it so far.
    async fn move_to_legacy(&self, recorded: Recorded) -> Result<Option<Intent>, StoreError> {
        if recorded != Recorded::No {
            match self.core.gateway.jobs.redirect(&self.key, self.deadline_ms()).await {
                Err(StoreError::NotWritten(Cause::NoIntent)) if recorded == Recorded::Maybe => {}
                moved => return moved.map(|()| None),
            }
        }
        self.begin(BackendName::Legacy, None).await
    }

    fn request_for_workers(&self, user: &UserId, body: &Bytes) -> Result<Request<Upload>, Refusal> {
        let headers = self.call.head_for_workers(&self.parts.headers, Some(user), self.table)?;
        start_request(&self.table.workers, &self.export, &self.key, headers, body.clone())
    }
}

/// Returns what the file says about workers' answers.
pub(super) fn rules(workers: &Workers) -> Rules<'_> {
    Rules { declined: &workers.declined, credential: workers.backend.credential.is_some() }
}

/// Makes a start for workers of a head with what belongs to its client.
pub(super) fn start_request(
    workers: &Workers,
    export: &ExportType,
    key: &str,
    mut headers: HeaderMap,
    body: Bytes,
) -> Result<Request<Upload>, Refusal> {
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
    headers.insert(header::ACCEPT_ENCODING, attempt::IDENTITY);
    let key = HeaderValue::from_str(key).map_err(|_| Refusal::Internal)?;
    headers.insert(IDEMPOTENCY_KEY, key);
    attempt::post(&workers.backend.url, &format!("/api/export/{export}/start"), headers, body)
}

/// Sends a start to workers.
pub(super) async fn send(core: &Core, table: &RoutingTable, request: Request<Upload>, held: &mut Reservation) -> Seen {
    let backend = &table.workers.backend;
    let (limit, bound) = (backend.start_timeout, answer_bound(table));
    attempt::make(core, BackendName::Workers, backend, request, limit, bound, held).await
}

/// Workers' answer, as much of it as clients get, completed with `websocket_url` if there is one.
fn workers_reply(Answer { parts, body }: Answer, url: Option<&str>) -> Reply {
    let body = match url {
        Some(url) => Bytes::from(answer::complete(&body, url)),
        None => body,
    };
    attempt::reply_from_workers(&parts, body)
}
