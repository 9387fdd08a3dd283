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
use crate::gateway::call;
use crate::gateway::core::Core;
use crate::gateway::status;
use crate::http::body::Reservation;
use crate::http::headers::{X_REQUEST_ID, X_USER_ID};
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

    fn last(&self, id: &JobId) -> Option<Instant> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(id).copied()
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
        let age = Duration::from_millis(core.gateway.clock.wall_ms().saturating_sub(job.started_ms));
        let last = core.gateway.polls.last(&job.id).map(|at| at.elapsed());
        let todo = choose(age, last);
        if todo == Todo::Leave {
            continue;
        }
        core.gateway.polls.note(&job.id);
        sleep(jittered(limits::UNPOLLED_PACE)).await;
        match ask(&core, &job).await {
            Some(state) => status::note_outcome(&core.gateway, &job, state),
            None if todo == Todo::AskOnceMore && is_steady(&core, began) => {
                status::note_outcome(&core.gateway, &job, JobState::Lost);
            }
            None => {}
        }
    }
}

/// What is done about a job that is open as far as the store knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Todo {
    /// Nothing now.
    Leave,
    /// Its owner is asked.
    Ask,
    /// Its owner is asked; if the end is not seen now either, the job is lost.
    AskOnceMore,
}

/// Decides by a job's age and by how long ago anybody asked about it.
fn choose(age: Duration, last: Option<Duration>) -> Todo {
    match last {
        Some(ago) if ago < limits::UNPOLLED => Todo::Leave,
        _ if age >= limits::LOST_JOB => Todo::AskOnceMore,
        _ if age >= limits::UNPOLLED => Todo::Ask,
        _ => Todo::Leave,
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

/// Returns the state that a job has ended in; `None` if the answer cannot be had, or does not say that it is over.
async fn ask(core: &Core, job: &Job) -> Option<JobState> {
    let table = core.gateway.table.load_full();
    let (backend, path) = match (job.backend, &job.export) {
        (BackendName::Workers, _) => (&table.workers.backend, format!("/api/export/status/{}", job.id)),
        (BackendName::Legacy, Some(export)) => (&table.legacy, format!("/api/export/{export}/status/{}", job.id)),
        (BackendName::Legacy, None) => return None,
    };
    let request = call::get(backend, &path, head(core, &table, backend, job)).ok()?;
    let mut held = Reservation::new(core.gateway.budget.clone());
    let bound = answer_bound(&table);
    let seen = attempt::make(core, job.backend, backend, request, backend.status_timeout, bound, &mut held).await;
    match seen {
        Seen::Answered(answer) if answer.parts.status.is_success() => {
            answer::read_status(&answer.body, &job.id).ok().and_then(status::terminal)
        }
        _ => None,
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
    if let Some(user) = &job.user {
        let (name, value) = match job.backend {
            BackendName::Legacy => (table.identity.header.clone(), HeaderValue::from_bytes(&user.header_bytes()).ok()),
            BackendName::Workers => (X_USER_ID, call::user_for_workers(user).ok()),
        };
        if let Some(value) = value {
            headers.insert(name, value);
        }
    }
    headers
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_job_is_asked_about_when_nobody_has_for_a_while() {
        let (unpolled, lost) = (limits::UNPOLLED, limits::LOST_JOB);
        let rows = [
            // Young jobs are left to their clients, who may poll or listen.
            (Duration::ZERO, None, Todo::Leave),
            (unpolled - SECOND, None, Todo::Leave),
            (unpolled, None, Todo::Ask),
            // Somebody asks, whether a client or we.
            (unpolled * 10, Some(Duration::ZERO), Todo::Leave),
            (unpolled * 10, Some(unpolled - SECOND), Todo::Leave),
            (unpolled * 10, Some(unpolled), Todo::Ask),
            (lost - SECOND, None, Todo::Ask),
            // A job of before a long pause may be over: it is lost only after one more look.
            (lost, None, Todo::AskOnceMore),
            (lost * 10, Some(unpolled), Todo::AskOnceMore),
            (lost * 10, Some(SECOND), Todo::Leave),
        ];
        for (age, last, todo) in rows {
            assert_eq!(choose(age, last), todo, "{age:?} {last:?}");
        }
    }

    #[test]
    fn at_most_five_asks_a_second_leave() {
        for _ in 0..1_000 {
            assert!(jittered(limits::UNPOLLED_PACE) * 5 > SECOND);
        }
    }

    #[test]
    fn polls_are_remembered_within_a_bound_and_forgotten() {
        let polls = Polls::default();
        let id = JobId::parse("a").expect("an id");
        assert_eq!(polls.last(&id), None);
        polls.note(&id);
        assert!(polls.last(&id).is_some_and(|at| at.elapsed() < limits::UNPOLLED));
        polls.forget_old();
        assert!(polls.last(&id).is_some(), "it is not old");
        for n in 0..limits::CACHED_JOBS {
            polls.note(&JobId::parse(&format!("job-{n}")).expect("an id"));
        }
        assert_eq!(polls.0.lock().expect("no panic").len(), limits::CACHED_JOBS);
        let first = polls.last(&id);
        polls.note(&id);
        assert!(polls.last(&id) > first, "what is remembered is renewed");
    }
}
