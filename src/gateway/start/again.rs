//! Starts that a crash left open: asked of workers once more under the same key, where they honour keys.
//!
//! Only an intent that still says workers is, and only with the very body that was sent. Trace context and forwarded
//! client fields are not kept: a Worker that refuses without them leaves the start unknown.

use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream;

use crate::exports::outcome;
use crate::exports::protocol::{self, AfterRestart};
use crate::exports::{answer, websocket_url};
use crate::gateway::attempt::{Answer, Seen};
use crate::gateway::call::bare_head_for_workers;
use crate::gateway::core::Core;
use crate::gateway::start::store::note_late;
use crate::gateway::start::workers;
use crate::http::body::Reservation;
use crate::jobs::idempotency;
use crate::jobs::record::{Closing, Intent, Job, JobState, Kept};
use crate::jobs::store::StoreError;
use crate::limits;
use crate::names::{BackendName, JobId};
use crate::routing::table::RoutingTable;

/// What is left to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Left {
    /// Workers or the store could not be reached: it makes sense to try again.
    Some,
    /// Nothing.
    Nothing,
}

/// Asks workers for the starts that an earlier run of the gateway left open.
pub async fn ask_open(core: &Core, table: &RoutingTable) -> Left {
    if !table.workers.idempotent {
        return Left::Nothing;
    }
    loop {
        // Asked again for each batch: the next one may be another gateway's turn.
        if !core.gateway.jobs.store().leads().await {
            return Left::Some;
        }
        let open = match core.gateway.jobs.store().left_open(limits::ASK_AGAIN_BATCH).await {
            Ok(open) => open,
            Err(error) => {
                tracing::warn!(error = error.line(), "open starts of before cannot be read");
                return Left::Some;
            }
        };
        let is_last = open.len() < limits::ASK_AGAIN_BATCH;
        if ask_all(core, table, open).await == Left::Some {
            return Left::Some;
        }
        if is_last {
            return Left::Nothing;
        }
    }
}

async fn ask_all(core: &Core, table: &RoutingTable, open: Vec<Intent>) -> Left {
    let asks = stream::iter(open).map(|intent| ask(core, table, intent)).buffer_unordered(limits::ASK_AGAIN_AT_ONCE);
    asks.fold(Left::Nothing, async |left, one| if one == Left::Some { one } else { left }).await
}

async fn ask(core: &Core, table: &RoutingTable, intent: Intent) -> Left {
    let age = Duration::from_millis(core.gateway.clock.wall_ms().saturating_sub(intent.started_ms));
    let seen = match &intent.resend {
        Some(body) if age <= limits::ASK_AGAIN_AGE => {
            let head = bare_head_for_workers(intent.user.as_ref(), &intent.request_id, table);
            let request = head.and_then(|head| {
                workers::start_request(&table.workers, &intent.export, &intent.key, head, body.clone())
            });
            let mut held = Reservation::new(core.gateway.budget.clone());
            match request {
                Ok(request) => Some(workers::send(core, table, request, &mut held).await),
                Err(_) => None,
            }
        }
        _ => None,
    };
    let outcome = seen.as_ref().map(|seen| outcome::judge_workers(seen.attempt(), workers::rules(&table.workers)));
    let next = outcome.map_or(AfterRestart::Unknown, protocol::after_restart);
    let word = match &next {
        AfterRestart::AskLater => return Left::Some,
        AfterRestart::StoreOwner { has_failed: false, .. } => "accepted",
        AfterRestart::StoreOwner { has_failed: true, .. } => "rejected",
        AfterRestart::Unknown => "unknown",
    };
    tracing::warn!(
        request_id = %intent.request_id, outcome = word, age_seconds = age.as_secs(),
        "a start that was open when the gateway ended was asked of workers again"
    );
    let labels = [intent.export.as_str(), BackendName::Workers.as_str(), "restart", word];
    core.gateway.metrics.starts.with_label_values(&labels).inc();
    let stored = match (next, seen) {
        (AfterRestart::StoreOwner { job, has_failed }, Some(Seen::Answered(answer))) => {
            let state = if has_failed { JobState::Error } else { JobState::Open };
            settle(core, table, intent, job, state, &answer).await
        }
        _ => core.gateway.jobs.unknown(&intent.key).await,
    };
    let left = if stored.is_ok() { Left::Nothing } else { Left::Some };
    note_late(&stored, "the end of a start of before was not stored");
    left
}

/// Stores the owner, and the answer for the client's key; what fails is tried again in the background.
async fn settle(
    core: &Core,
    table: &RoutingTable,
    intent: Intent,
    id: JobId,
    state: JobState,
    answer: &Answer,
) -> Result<(), StoreError> {
    let url = websocket_url::websocket_url(&table.workers.websocket_base, &id);
    let (body, url) = match state {
        JobState::Open => (answer::complete(&answer.body, &url).into(), Some(url.as_str())),
        JobState::Complete | JobState::Error | JobState::Lost => (answer.body.clone(), None),
    };
    let content_type = answer.parts.headers.get(http::header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let status = answer.parts.status.as_u16();
    let kept = idempotency::keep(status, content_type, &body, Some((&id, state)), url);
    let closing = match (intent.claim, kept) {
        (Some(claim), Some(answer)) => Closing::Keep(Kept { key: intent.key, token: claim.token, answer }),
        _ => Closing::Forget(intent.key),
    };
    let job = Job {
        id,
        backend: BackendName::Workers,
        export: Some(intent.export),
        user: intent.user,
        started_ms: intent.started_ms,
        state,
    };
    core.gateway.jobs.accept_closing(job, Some(closing)).await
}
