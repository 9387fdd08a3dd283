//! Jobs that the store does not know: looked for at legacy, then at workers, once for all who ask at the same time.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header, request};
use quick_cache::sync::Cache;
use tokio::sync::{Semaphore, watch};

use crate::exports::answer as answers;
use crate::gateway::attempt::{Answer, Seen};
use crate::gateway::call::Call;
use crate::gateway::core::Core;
use crate::gateway::status;
use crate::http::refusal::Refusal;
use crate::jobs::record::{Job, JobState};
use crate::limits;
use crate::names::{BackendName, ExportType, JobId, UserId};
use crate::routing::table::RoutingTable;

/// What a look-up found.
#[derive(Debug, Clone)]
pub enum Found {
    /// A backend has the job.
    Job(Job),
    /// Neither has it: legacy's own answer.
    Nowhere(Arc<Answer>),
}

/// A job as one user sees it, since a backend may hide it from another, and from one origin, since legacy's answer names
/// it for CORS. Of the origin a keyed hash stands here: it may be as long as a head is.
type Key = (JobId, Option<UserId>, Option<u64>);
type Outcome = Result<Found, Refusal>;

/// Look-ups under way and those that found nothing a moment ago.
#[derive(Debug)]
pub struct Search {
    running: Mutex<HashMap<Key, watch::Receiver<Option<Outcome>>>>,
    nowhere: Cache<Key, (Instant, Arc<Answer>)>,
    places: Semaphore,
    origins: RandomState,
}

impl Search {
    /// Starts with nothing looked for.
    pub fn new() -> Search {
        Search {
            running: Mutex::default(),
            nowhere: Cache::new(limits::NEITHER_ENTRIES),
            places: Semaphore::new(limits::JOB_LOOKUPS),
            origins: RandomState::new(),
        }
    }

    fn lately_nowhere(&self, key: &Key) -> Option<Arc<Answer>> {
        let (since, answer) = self.nowhere.get(key)?;
        (since.elapsed() < limits::NEITHER_KEPT).then_some(answer)
    }

    fn join(&self, key: &Key) -> Role<'_> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        match running.entry(key.clone()) {
            Entry::Occupied(entry) => Role::Follower(entry.get().clone()),
            Entry::Vacant(entry) => {
                let (tell, told) = watch::channel(None);
                entry.insert(told);
                Role::Leader(Leader { search: self, key: key.clone(), tell })
            }
        }
    }
}

impl Default for Search {
    fn default() -> Search {
        Search::new()
    }
}

enum Role<'a> {
    Leader(Leader<'a>),
    Follower(watch::Receiver<Option<Outcome>>),
}

/// The one who asks; dropped with its client, it leaves the place to a follower.
struct Leader<'a> {
    search: &'a Search,
    key: Key,
    tell: watch::Sender<Option<Outcome>>,
}

impl Leader<'_> {
    fn tell(self, outcome: &Outcome) {
        let told = match outcome {
            Ok(Found::Nowhere(answer)) => {
                let answer = Arc::new(to_share(answer));
                let is_not_found = answer.parts.status == StatusCode::NOT_FOUND;
                if is_not_found && answer.body.len() <= limits::NEITHER_ANSWER {
                    self.search.nowhere.insert(self.key.clone(), (Instant::now(), answer.clone()));
                }
                Ok(Found::Nowhere(answer))
            }
            other => other.clone(),
        };
        self.tell.send_replace(Some(told));
    }
}

/// Makes what others are told of an answer: without the asker's own cookies (all who are anonymous are one user), and
/// copied, since every field and the body are pieces of a read buffer that they would keep.
fn to_share(answer: &Answer) -> Answer {
    let mut parts = Response::new(()).into_parts().0;
    parts.status = answer.parts.status;
    for (name, value) in answer.parts.headers.iter().filter(|(name, _)| *name != header::SET_COOKIE) {
        let Ok(copy) = HeaderValue::from_bytes(value.as_bytes()) else { continue };
        parts.headers.append(name.clone(), copy);
    }
    Answer { parts, body: Bytes::copy_from_slice(&answer.body) }
}

impl Drop for Leader<'_> {
    fn drop(&mut self) {
        self.search.running.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}

/// Looks for a job at both backends, as the asker.
///
/// # Errors
/// 503 when too many look-ups run, or when one backend is unreachable and the other does not have the job.
pub async fn find(
    core: &Core,
    table: &RoutingTable,
    call: &Call,
    export: Option<&ExportType>,
    id: &JobId,
    parts: &request::Parts,
) -> Outcome {
    let search = &core.gateway.search;
    let origin = parts.headers.get(header::ORIGIN).map(|origin| search.origins.hash_one(origin));
    let key = (id.clone(), call.user().cloned(), origin);
    loop {
        if let Some(answer) = search.lately_nowhere(&key) {
            return Ok(Found::Nowhere(answer));
        }
        match search.join(&key) {
            Role::Leader(leader) => {
                let outcome = match search.places.try_acquire() {
                    Ok(_place) => ask_both(core, table, call, export, id, parts).await,
                    Err(_) => Err(Refusal::Overloaded),
                };
                leader.tell(&outcome);
                return outcome;
            }
            Role::Follower(mut told) => {
                // An error means that the leader has left without a word: then one of us leads.
                if let Ok(outcome) = told.wait_for(Option::is_some).await
                    && let Some(outcome) = outcome.as_ref()
                {
                    return outcome.clone();
                }
            }
        }
    }
}

/// Legacy does not have the job, or does not show it to this asker.
fn is_legacys_no(answer: &Answer) -> bool {
    matches!(answer.parts.status, StatusCode::NOT_FOUND | StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)
}

async fn ask_both(
    core: &Core,
    table: &RoutingTable,
    call: &Call,
    export: Option<&ExportType>,
    id: &JobId,
    parts: &request::Parts,
) -> Outcome {
    let mut not_at_legacy: Option<Answer> = None;
    let mut unreachable = false;
    let others = table.exports.keys().filter(|other| Some(*other) != export);
    for export in export.into_iter().chain(others) {
        match status::ask_legacy(core, table, call, export, id, parts).await? {
            // Any 2xx would do for a poll; here it decides for good who is asked, so it must name this very job.
            Seen::Answered(answer) if names(&answer, id) => {
                return Ok(Found::Job(remember(core, id, BackendName::Legacy, Some(export)).await));
            }
            Seen::Answered(answer) if is_legacys_no(&answer) => {
                not_at_legacy.get_or_insert(answer);
            }
            Seen::Answered(_) => unreachable = true,
            Seen::NotSent { .. } | Seen::Broken { .. } => {
                unreachable = true;
                break;
            }
        }
    }
    let seen = status::ask_workers(core, table, call, id, parts).await?;
    match (seen, not_at_legacy) {
        (Seen::Answered(answer), _) if names(&answer, id) => {
            Ok(Found::Job(remember(core, id, BackendName::Workers, None).await))
        }
        (Seen::Answered(answer), Some(not_at_legacy))
            if answer.parts.status == StatusCode::NOT_FOUND && !unreachable =>
        {
            Ok(Found::Nowhere(Arc::new(not_at_legacy)))
        }
        _ => Err(Refusal::OwnerUnavailable { retry_after: limits::RETRY_AFTER }),
    }
}

fn names(answer: &Answer, id: &JobId) -> bool {
    answer.parts.status.is_success() && answers::read_status(&answer.body, id).is_ok()
}

async fn remember(core: &Core, id: &JobId, backend: BackendName, export: Option<&ExportType>) -> Job {
    let job = Job {
        id: id.clone(),
        backend,
        export: export.cloned(),
        user: None,
        started_ms: core.gateway.clock.wall_ms(),
        state: JobState::Open,
    };
    if let Err(error) = core.gateway.jobs.remember_found(job.clone()).await {
        // It is in memory; after a restart it is looked for again.
        tracing::warn!(job_id = %id, error = error.line(), "a found job was not stored");
    }
    job
}
