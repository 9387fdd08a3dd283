//! Jobs that nobody polls: with a direct WebSocket the browser listens to the Worker and never asks us, so the owner is
//! asked in the background until the job is over. One thread does it, a few asks a second, as the job's user.

use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use http::header::{self, HeaderMap, HeaderValue};
use tokio::time::sleep;

use crate::exports::answer;
use crate::gateway::attempt::{self, Seen, answer_bound};
use crate::gateway::call::{self, X_USER_ID};
use crate::gateway::core::Core;
use crate::gateway::status;
use crate::http::body::Reservation;
use crate::http::headers::X_REQUEST_ID;
use crate::jobs::record::{Job, JobState};
use crate::limits;
use crate::names::{BackendName, JobId};
use crate::routing::table::{Backend, RoutingTable};

/// When jobs were last asked about, by clients or by us.
#[derive(Debug, Default)]
pub struct Polls(Mutex<HashMap<JobId, Instant>>);

impl Polls {
    /// Notes that a job is being asked about.
    pub fn note(&self, id: &JobId) {
        let mut polls = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if polls.len() < limits::CACHED_JOBS || polls.contains_key(id) {
            polls.insert(id.clone(), Instant::now());
        }
    }

    fn is_recent(&self, id: &JobId) -> bool {
        let polls = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        polls.get(id).is_some_and(|at| at.elapsed() < limits::UNPOLLED)
    }

    fn forget_old(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|_, at| at.elapsed() < limits::UNPOLLED);
    }
}

/// Asks about unpolled jobs for as long as the thread serves.
pub async fn watch(core: Rc<Core>) {
    let mut waiting = VecDeque::new();
    let began = (core.gateway.clock.wall_ms(), core.gateway.clock.monotonic());
    loop {
        if waiting.is_empty() {
            sleep(jittered(limits::UNPOLLED_LIST)).await;
            waiting = open_jobs(&core).await;
            continue;
        }
        let Some(job) = waiting.pop_front() else { continue };
        if core.gateway.polls.is_recent(&job.id) {
            continue;
        }
        let age = Duration::from_millis(core.gateway.clock.wall_ms().saturating_sub(job.started_ms));
        if age >= limits::LOST_JOB && is_steady(&core, began) {
            status::note_outcome(&core.gateway, &job, JobState::Lost);
        } else if age >= limits::UNPOLLED {
            core.gateway.polls.note(&job.id);
            sleep(jittered(limits::UNPOLLED_PACE)).await;
            ask(&core, &job).await;
        }
    }
}

/// Says whether wall and monotonic clock still agree: after a jump nobody knows how old a job is.
fn is_steady(core: &Core, (wall_ms, monotonic): (u64, Duration)) -> bool {
    let wall = Duration::from_millis(core.gateway.clock.wall_ms().saturating_sub(wall_ms));
    wall.abs_diff(core.gateway.clock.monotonic().saturating_sub(monotonic)) < limits::CLOCK_SKEW
}

async fn open_jobs(core: &Core) -> VecDeque<Job> {
    core.gateway.polls.forget_old();
    // Of the gateways that share a store one asks for all.
    if !core.gateway.jobs.store().leads().await {
        return VecDeque::new();
    }
    match core.gateway.jobs.store().open_jobs(None, limits::UNPOLLED_LISTED).await {
        Ok(jobs) => jobs.into(),
        // The store says so itself, in the log and in /readyz.
        Err(_) => VecDeque::new(),
    }
}

/// Between 0.9 and 1.1 of a time, so that replicas do not ask in step.
fn jittered(time: Duration) -> Duration {
    use std::hash::BuildHasher;
    let random = std::collections::hash_map::RandomState::new().hash_one(0_u8) % 1_000;
    time.mul_f64(0.9 + f64::from(random as u32) / 5_000.0)
}

/// An answer that cannot be had, or does not say that the job is over, changes nothing: it is asked again later.
async fn ask(core: &Core, job: &Job) {
    let table = core.gateway.table.load_full();
    let (backend, path) = match (job.backend, &job.export) {
        (BackendName::Workers, _) => (&table.workers.backend, format!("/api/export/status/{}", job.id)),
        (BackendName::Legacy, Some(export)) => (&table.legacy, format!("/api/export/{export}/status/{}", job.id)),
        (BackendName::Legacy, None) => return,
    };
    let Ok(request) = call::get(backend, &path, head(core, &table, backend, job)) else { return };
    let mut held = Reservation::new(core.gateway.budget.clone());
    let bound = answer_bound(&table);
    let seen = attempt::make(core, job.backend, backend, request, backend.status_timeout, bound, &mut held).await;
    if let Seen::Answered(answer) = seen
        && answer.parts.status.is_success()
        && let Ok(status) = answer::read_status(&answer.body, &job.id)
        && let Some(state) = status::terminal(status)
    {
        status::note_outcome(&core.gateway, job, state);
    }
}

fn head(core: &Core, table: &RoutingTable, backend: &Backend, job: &Job) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(8);
    let mut put = |name, text: &str| {
        if let Ok(value) = HeaderValue::from_str(text) {
            headers.insert(name, value);
        }
    };
    put(header::HOST, &backend.url.authority);
    put(header::USER_AGENT, concat!("export-gateway/", env!("CARGO_PKG_VERSION")));
    put(X_REQUEST_ID, &core.fresh_id());
    headers.insert(header::ACCEPT_ENCODING, attempt::IDENTITY);
    if let Some(user) = &job.user
        && let Ok(value) = HeaderValue::from_bytes(&user.header_bytes())
    {
        let name = match job.backend {
            BackendName::Legacy => table.identity.header.clone(),
            BackendName::Workers => X_USER_ID,
        };
        headers.insert(name, value);
    }
    headers
}
