//! The way of a start through workers: what they are sent, and what their answer is worth.

use std::time::Instant;

use bytes::Bytes;
use http::Request;
use http::header::{self, HeaderMap, HeaderValue};

use crate::backends::circuit::{Change, Pass};
use crate::exports::outcome::{self, Outcome, Rules};
use crate::exports::protocol::{Command, SendToWorkers};
use crate::exports::{answer, step, websocket_url};
use crate::gateway::attempt::{self, Answer, Seen, answer_bound};
use crate::gateway::core::Core;
use crate::gateway::reply::Reply;
use crate::gateway::start::Start;
use crate::http::body::{Reservation, Upload};
use crate::http::headers::IDEMPOTENCY_KEY;
use crate::http::refusal::Refusal;
use crate::names::{BackendName, ExportType, UserId};
use crate::routing::table::{RoutingTable, Workers};
use crate::telemetry::record::Record;

/// What a start has that is for workers.
pub(super) struct ForWorkers {
    pub(super) user: UserId,
    /// The translated start.
    pub(super) body: Bytes,
    /// The circuit's, until it is told what came of the start.
    pub(super) pass: Option<Pass>,
}

impl Start<'_> {
    pub(super) fn request_for_workers(&self) -> Result<Request<Upload>, Refusal> {
        // Nothing is sent to workers that was not chosen and translated for them.
        let ForWorkers { user, body, .. } = self.for_workers.as_ref().ok_or(Refusal::Internal)?;
        let headers = self.call.head_for_workers(&self.parts.headers, Some(user), self.table)?;
        start_request(&self.table.workers, &self.export, &self.key, headers, body.clone())
    }

    /// Sends the start to workers and judges what was seen.
    pub(super) async fn send_to_workers(
        &mut self,
        step: SendToWorkers,
        record: &mut Record,
    ) -> Result<Command, Refusal> {
        if let Some(unknown) = step.again() {
            let (request_id, cause) = (&record.request_id, unknown.cause().as_str());
            tracing::warn!(%request_id, cause, export_type = %self.export, "start is asked of workers once more");
        }
        let request = self.take_request(BackendName::Workers)?;
        let seen = send(self.core, self.table, request, &mut self.held).await;
        seen.note(record);
        let judged = step.judge(outcome::judge_workers(seen.attempt(), rules(&self.table.workers)));
        let outcome = judged.outcome();
        record.outcome = Some(outcome.as_str());
        if let Outcome::Declined(declined) = outcome
            && declined.is_credential()
        {
            let status = declined.status().as_u16();
            tracing::error!(request_id = %record.request_id, status, "workers refuse the gateway's credential");
        }
        if let Some(pass) = self.for_workers.as_mut().and_then(|sent| sent.pass.take()) {
            self.tell_circuit(pass, outcome, &seen);
        }
        self.reply = match (outcome, seen) {
            (Outcome::Accepted(job), Seen::Answered(answer)) => {
                let url = websocket_url::websocket_url(&self.table.workers.websocket_base, job);
                Some(workers_reply(answer, Some(&url)))
            }
            (Outcome::Rejected { .. }, Seen::Answered(answer)) => Some(workers_reply(answer, None)),
            _ => None,
        };
        Ok(judged.next())
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
