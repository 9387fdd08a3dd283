//! The way of a start through legacy, whether it came there at once or because workers did not take it.

use http::{Request, header};

use crate::exports::outcome;
use crate::exports::protocol::{Command, SendToLegacy};
use crate::gateway::attempt::{self, Seen, answer_bound};
use crate::gateway::start::Start;
use crate::http::body::Upload;
use crate::http::refusal::Refusal;
use crate::names::BackendName;
use crate::telemetry::record::Record;

impl Start<'_> {
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

    /// Sends the start to legacy and judges what was seen.
    pub(super) async fn send_to_legacy(&mut self, step: SendToLegacy, record: &mut Record) -> Result<Command, Refusal> {
        let request = self.take_request(BackendName::Legacy)?;
        let legacy = &self.table.legacy;
        let (limit, bound) = (legacy.start_timeout, answer_bound(self.table));
        let seen = attempt::make(self.core, BackendName::Legacy, legacy, request, limit, bound, &mut self.held).await;
        seen.note(record);
        let outcome = outcome::judge_legacy(seen.attempt());
        record.outcome = Some(outcome.as_str());
        self.reply = match seen {
            Seen::Answered(answer) => Some(attempt::reply_from_legacy(answer)),
            Seen::NotSent { .. } | Seen::Broken { .. } => None,
        };
        Ok(step.done(outcome))
    }
}
