//! The way of a start through legacy, whether it came there at once or because workers did not take it.

use bytes::Bytes;
use http::{Request, header};

use crate::exports::outcome::{self, LegacyOutcome};
use crate::exports::step::{self, LegacyStep};
use crate::gateway::attempt::{self, Answer, Seen, answer_bound};
use crate::gateway::reply::{Origin, Reply};
use crate::gateway::start::{Start, note_store};
use crate::http::body::Upload;
use crate::http::headers;
use crate::http::refusal::Refusal;
use crate::jobs::record::JobState;
use crate::names::BackendName;
use crate::telemetry::record::Record;

impl Start<'_> {
    pub(super) async fn on_legacy(self, record: &mut Record) -> Result<Reply, Refusal> {
        record.backend = Some(BackendName::Legacy);
        if let Err(error) = self.begin(BackendName::Legacy, self.call.user().cloned()).await {
            note_store(record, &error, "start on legacy not recorded");
        }
        self.send_to_legacy(record).await
    }

    pub(super) async fn send_to_legacy(mut self, record: &mut Record) -> Result<Reply, Refusal> {
        let legacy = &self.table.legacy;
        let mut parts = self.parts.clone();
        self.call.address_to_legacy(&mut parts, self.table)?;
        // The whole body is here: it goes with its length, and nobody waits for a 100.
        parts.headers.remove(header::TRANSFER_ENCODING);
        parts.headers.remove(header::EXPECT);
        parts.headers.insert(header::ACCEPT_ENCODING, attempt::IDENTITY);
        let request = Request::from_parts(parts, Upload::full(self.body.clone()));
        let seen = attempt::make(
            self.core,
            BackendName::Legacy,
            legacy,
            request,
            legacy.start_timeout,
            answer_bound(self.table),
            &mut self.held,
        )
        .await;
        seen.note(record);
        let outcome = outcome::judge_legacy(seen.attempt());
        record.outcome = Some(outcome.as_str());
        self.count(record, outcome.as_str());
        let unknown = matches!(outcome, LegacyOutcome::Failed);
        match step::next_on_legacy(outcome) {
            LegacyStep::PassAnswer(job) => {
                record.job.clone_from(&job);
                if unknown {
                    self.mark_unknown().await;
                } else {
                    let user = self.call.user().cloned();
                    // The job runs and legacy will be asked for it anyway: its answer stands.
                    let _ = self.close_with(job.as_ref(), BackendName::Legacy, user, JobState::Open, record).await;
                }
                Ok(self.legacy_reply(seen))
            }
            LegacyStep::Refuse(refusal) => Err(self.refuse_on_legacy(refusal).await),
        }
    }

    /// Legacy's answer, unchanged.
    fn legacy_reply(self, seen: Seen) -> Reply {
        let Seen::Answered(Answer { mut parts, body }) = seen else {
            return Reply::own(http::StatusCode::BAD_GATEWAY, "", Bytes::new());
        };
        headers::strip_answer(&mut parts.headers, false);
        let mut reply = Reply::own(parts.status, "", body);
        reply.head.extensions = parts.extensions;
        reply.head.headers = parts.headers;
        reply.origin = Origin::Legacy;
        reply.held = Some(self.held);
        reply
    }
}
