//! Jobs that were started or polled lately, in memory: their polls never touch the disk.

use std::sync::{Arc, Mutex, PoisonError};

use quick_cache::sync;

use super::record::{Job, JobState};
use crate::limits;
use crate::names::JobId;

/// A bounded cache; what it does not hold may still be in the store.
#[derive(Debug)]
pub(super) struct Cache {
    jobs: sync::Cache<JobId, Arc<Job>>,
    /// Held for a look and an insert; readers never wait for it.
    changing: Mutex<()>,
}

impl Cache {
    pub(super) fn new() -> Cache {
        Cache { jobs: sync::Cache::new(limits::CACHED_JOBS), changing: Mutex::new(()) }
    }

    pub(super) fn get(&self, id: &JobId) -> Option<Job> {
        self.jobs.get(id).map(|job| Job::clone(&job))
    }

    /// Holds a job that was just started or found; a found one never replaces one with a user.
    pub(super) fn put(&self, job: &Job) {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let is_found = job.user.is_none();
        let held = self.jobs.peek(&job.id);
        if !(is_found && held.is_some_and(|held| held.user.is_some())) {
            self.jobs.insert(job.id.clone(), Arc::new(job.clone()));
        }
    }

    /// Holds what was read from the store, unless something newer came meanwhile; returns what is held.
    pub(super) fn fill(&self, job: Job) -> Job {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        match self.jobs.peek(&job.id) {
            Some(held) if held.user.is_some() || job.user.is_none() => Job::clone(&held),
            _ => {
                self.jobs.insert(job.id.clone(), Arc::new(job.clone()));
                job
            }
        }
    }

    /// Says that a job is over; `true` for the first to say so.
    pub(super) fn finish(&self, job: &Job, state: JobState) -> bool {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let held = self.jobs.peek(&job.id);
        if held.as_deref().unwrap_or(job).state != JobState::Open {
            return false;
        }
        let over = Job { state, ..held.as_deref().unwrap_or(job).clone() };
        self.jobs.insert(job.id.clone(), Arc::new(over));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::{BackendName, UserId};

    fn job(id: &str, user: Option<&str>) -> Job {
        Job {
            id: JobId::parse(id).unwrap(),
            backend: BackendName::Workers,
            export: None,
            user: user.and_then(UserId::from_text),
            started_ms: 1,
            state: JobState::Open,
        }
    }

    #[test]
    fn a_found_job_never_replaces_one_with_a_user() {
        let cache = Cache::new();
        cache.put(&job("a", None));
        cache.put(&job("a", Some("ann")));
        cache.put(&job("a", None));
        assert_eq!(cache.fill(job("a", None)).user, UserId::from_text("ann"));
        assert_eq!(cache.get(&JobId::parse("a").unwrap()).unwrap().user, UserId::from_text("ann"));
        assert_eq!(cache.get(&JobId::parse("b").unwrap()), None);
    }

    #[test]
    fn a_job_ends_once_for_all_threads() {
        let cache = Cache::new();
        let found = job("a", Some("ann"));
        let first = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| cache.finish(&found, JobState::Complete))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).filter(|first| *first).count()
        });
        assert_eq!(first, 1);
        assert_eq!(cache.fill(found).state, JobState::Complete);
    }

    #[test]
    fn it_is_bounded() {
        let cache = Cache::new();
        for number in 0..limits::CACHED_JOBS + 10_000 {
            cache.put(&job(&format!("job-{number}"), None));
        }
        assert!(cache.jobs.len() <= limits::CACHED_JOBS);
    }
}
