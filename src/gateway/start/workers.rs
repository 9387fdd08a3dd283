//! The way of a start through workers: send, judge, and at most once fall back to legacy.

use bytes::Bytes;
use http::header;

use crate::exports::outcome::{self, NotSent, Outcome, Rules};
use crate::exports::step::{self, Fallback, Policy, Step};
use crate::exports::{answer, websocket_url};
use crate::gateway::attempt::{self, Answer, Seen, answer_bound};
use crate::gateway::reply::Reply;
use crate::gateway::start::{Start, note_store};
use crate::http::headers::IDEMPOTENCY_KEY;
use crate::http::refusal::Refusal;
use crate::jobs::record::JobState;
use crate::names::{BackendName, JobId, UserId};
use crate::telemetry::record::Record;

impl Start<'_> {
    /// `body` is the translated start; `None` if its `input_key` could not be looked up.
    pub(super) async fn on_workers(
        mut self,
        user: &UserId,
        body: Option<Bytes>,
        record: &mut Record,
    ) -> Result<Reply, Refusal> {
        record.backend = Some(BackendName::Workers);
        let mut recorded = false;
        let seen = match body {
            None => Seen::not_sent(NotSent::LookupFailed),
            Some(body) => match self.begin(BackendName::Workers, Some(user.clone())).await {
                Err(error) => {
                    note_store(record, &error, "intent not recorded");
                    Seen::not_sent(NotSent::StoreUnavailable)
                }
                Ok(()) => {
                    recorded = true;
                    self.send_to_workers(user, body).await?
                }
            },
        };
        seen.note(record);
        let workers = &self.table.workers;
        let rules = Rules { declined: &workers.declined, credential: workers.backend.credential.is_some() };
        let outcome = outcome::judge_workers(seen.attempt(), rules);
        record.outcome = Some(outcome.as_str());
        if let Outcome::Declined(declined) = &outcome
            && declined.is_credential()
        {
            let status = declined.status().as_u16();
            tracing::error!(request_id = %record.request_id, status, "workers refuse the gateway's credential");
        }
        let policy = Policy { fallback: workers.fallback, idempotent: false, keyed: false };
        match step::next(outcome, policy) {
            Step::Complete(job) => self.complete(seen, job, user, record).await,
            Step::PassAnswer(job) => {
                self.close_with(job.as_ref(), BackendName::Workers, Some(user.clone()), JobState::Error, record)
                    .await?;
                self.count(record, "rejected");
                Ok(self.workers_reply(seen, None))
            }
            Step::FallBack(fallback) => self.fall_back(fallback, recorded, user, record).await,
            Step::AskAgain(_) => Err(Refusal::Internal),
            Step::Refuse(refusal) => Err(self.refuse(refusal, record).await),
        }
    }

    /// The owner first, then the answer.
    async fn complete(self, seen: Seen, job: JobId, user: &UserId, record: &mut Record) -> Result<Reply, Refusal> {
        record.job = Some(job.clone());
        let owned = Some(&job);
        self.close_with(owned, BackendName::Workers, Some(user.clone()), JobState::Open, record).await?;
        self.count(record, "accepted");
        let url = websocket_url::websocket_url(&self.table.workers.websocket_base, &job);
        Ok(self.workers_reply(seen, Some(&url)))
    }

    async fn fall_back(
        self,
        fallback: Fallback,
        recorded: bool,
        user: &UserId,
        record: &mut Record,
    ) -> Result<Reply, Refusal> {
        let cause = fallback.cause();
        record.fallback = Some(cause);
        record.metrics().fallbacks.with_label_values(&[self.export.as_str(), cause]).inc();
        tracing::warn!(request_id = %record.request_id, cause, export_type = %self.export, "start falls back to legacy");
        record.backend = Some(BackendName::Legacy);
        let moved = if recorded {
            self.core.gateway.jobs.redirect(&self.key, self.deadline_ms()).await
        } else {
            self.begin(BackendName::Legacy, Some(user.clone())).await
        };
        if let Err(error) = moved {
            // An unkeyed start goes on unrecorded; an intent that still says workers is never acted on by itself.
            note_store(record, &error, "fallback not recorded");
        }
        self.send_to_legacy(record).await
    }

    async fn send_to_workers(&mut self, user: &UserId, body: Bytes) -> Result<Seen, Refusal> {
        let backend = &self.table.workers.backend;
        let mut headers = self.call.head_for_workers(&self.parts.headers, Some(user), self.table)?;
        headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
        headers.insert(header::ACCEPT, header::HeaderValue::from_static("application/json"));
        headers.insert(header::ACCEPT_ENCODING, attempt::IDENTITY);
        let key = header::HeaderValue::from_str(&self.key).map_err(|_| Refusal::Internal)?;
        headers.insert(IDEMPOTENCY_KEY, key);
        let request = attempt::post(&backend.url, &format!("/api/export/{}/start", self.export), headers, body)?;
        let name = BackendName::Workers;
        let (limit, bound) = (backend.start_timeout, answer_bound(self.table));
        Ok(attempt::make(self.core, name, backend, request, limit, bound, &mut self.held).await)
    }

    /// Workers' answer, as much of it as clients get, completed with `websocket_url` if there is one.
    fn workers_reply(self, seen: Seen, url: Option<&str>) -> Reply {
        let Seen::Answered(Answer { parts, body }) = seen else {
            return Reply::own(http::StatusCode::BAD_GATEWAY, "", Bytes::new());
        };
        let body = match url {
            Some(url) => Bytes::from(answer::complete(&body, url)),
            None => body,
        };
        let mut reply = attempt::reply_from_workers(&parts, body);
        reply.held = Some(self.held);
        reply
    }
}
