//! The way of a start through legacy, whether it came there at once or because workers did not take it.

use http::{Request, header};

use crate::exports::outcome::{self, NotSent};
use crate::exports::step::{self, LegacyStep, Remembered};
use crate::gateway::attempt::{self, Seen, answer_bound};
use crate::gateway::reply::Reply;
use crate::gateway::start::{Start, note_store};
use crate::http::body::Upload;
use crate::http::refusal::Refusal;
use crate::jobs::record::JobState;
use crate::names::BackendName;
use crate::telemetry::record::Record;

impl Start<'_> {
    pub(super) async fn on_legacy(mut self, record: &mut Record) -> Result<Reply, Refusal> {
        record.backend = Some(BackendName::Legacy);
        let request = self.request_for_legacy()?;
        match self.begin(BackendName::Legacy, None).await {
            Ok(None) => {}
            Ok(Some(holder)) => return self.answer_by_key(&holder, record),
            Err(error) => {
                note_store(record, &error, "start on legacy not recorded");
                if self.claim.is_some() {
                    return self.finish_on_legacy(Seen::not_sent(NotSent::StoreUnavailable), record).await;
                }
            }
        }
        let seen = self.send_to_legacy(request).await;
        self.finish_on_legacy(seen, record).await
    }

    /// Makes the client's own request once more, with its whole body.
    pub(super) fn request_for_legacy(&self) -> Result<Request<Upload>, Refusal> {
        let mut parts = self.parts.clone();
        self.call.address_to_legacy(&mut parts, self.table)?;
        // The whole body is here: it goes with its length, and nobody waits for a 100.
        parts.headers.remove(header::TRANSFER_ENCODING);
        parts.headers.remove(header::EXPECT);
        parts.headers.insert(header::ACCEPT_ENCODING, attempt::IDENTITY);
        Ok(Request::from_parts(parts, Upload::full(self.body.clone())))
    }

    pub(super) async fn send_to_legacy(&mut self, request: Request<Upload>) -> Seen {
        let legacy = &self.table.legacy;
        let (limit, bound) = (legacy.start_timeout, answer_bound(self.table));
        attempt::make(self.core, BackendName::Legacy, legacy, request, limit, bound, &mut self.held).await
    }

    /// Judges what was seen of legacy, records it and answers.
    pub(super) async fn finish_on_legacy(self, seen: Seen, record: &mut Record) -> Result<Reply, Refusal> {
        seen.note(record);
        let outcome = outcome::judge_legacy(seen.attempt());
        record.outcome = Some(outcome.as_str());
        self.count(record, outcome.as_str());
        let remembered = outcome.remembered();
        match step::next_on_legacy(outcome) {
            LegacyStep::PassAnswer(job) => {
                record.job.clone_from(&job);
                let mut reply = attempt::reply_from_legacy(seen.into_answer()?);
                match remembered {
                    Remembered::Answer => {
                        let job = job.as_ref().map(|id| (id, JobState::Open));
                        // The job runs and legacy will be asked for it anyway: its answer stands.
                        let _ = self.close_with(job, BackendName::Legacy, &reply, record).await;
                    }
                    Remembered::Unknown => self.mark_unknown().await,
                    Remembered::Nothing => self.forget().await,
                }
                reply.held = Some(self.held);
                Ok(reply)
            }
            LegacyStep::Refuse(refusal) => Err(self.refuse_on_legacy(refusal).await),
        }
    }
}
