//! Jobs that were started or polled lately, in memory: their polls never touch the disk.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lru::LruCache;

use super::record::{Job, JobState};
use crate::limits;
use crate::names::JobId;

const CAPACITY: NonZeroUsize = NonZeroUsize::new(limits::CACHED_JOBS).expect("a bound above 0");

/// The jobs used last, up to a bound; what it does not hold may still be in the store.
///
/// By use alone, and under one lock: policies that count how often something is used drop what is new and not polled yet
/// within minutes. The lock is held for a look and a move in a list.
#[derive(Debug)]
pub(super) struct Cache {
    jobs: Mutex<LruCache<JobId, Arc<Job>>>,
}

impl Cache {
    pub(super) fn new() -> Cache {
        Cache { jobs: Mutex::new(LruCache::new(CAPACITY)) }
    }

    fn jobs(&self) -> MutexGuard<'_, LruCache<JobId, Arc<Job>>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn get(&self, id: &JobId) -> Option<Job> {
        let held = self.jobs().get(id).map(Arc::clone);
        held.map(|job| Job::clone(&job))
    }

    /// Holds a job that was just started or found; a found one never replaces one with a user.
    pub(super) fn put(&self, job: &Job) {
        let mut jobs = self.jobs();
        let is_found = job.user.is_none();
        if !(is_found && jobs.get(&job.id).is_some_and(|held| held.user.is_some())) {
            jobs.put(job.id.clone(), Arc::new(job.clone()));
        }
    }

    /// Holds what was read from the store, unless something newer came meanwhile; returns what is held.
    pub(super) fn fill(&self, job: Job) -> Job {
        let mut jobs = self.jobs();
        match jobs.get(&job.id) {
            Some(held) if held.user.is_some() || job.user.is_none() => Job::clone(held),
            _ => {
                jobs.put(job.id.clone(), Arc::new(job.clone()));
                job
            }
        }
    }

    /// Says that a job is over; `true` for the first to say so.
    pub(super) fn finish(&self, job: &Job, state: JobState) -> bool {
        let mut jobs = self.jobs();
        let held = jobs.get(&job.id).map_or(job, |held| held);
        if held.state != JobState::Open {
            return false;
        }
        let over = Job { state, ..held.clone() };
        jobs.put(job.id.clone(), Arc::new(over));
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
    fn an_hour_of_jobs_is_held_whatever_was_polled_before() {
        const HOUR: usize = 25 * 3_600;
        let cache = Cache::new();
        let id = |number: usize| JobId::parse(&format!("job-{number}")).unwrap();
        // Hours of jobs that were polled often, and then one in which nobody polls.
        for number in 0..3 * HOUR {
            cache.put(&job(&format!("job-{number}"), Some("ann")));
            for _ in 0..if number < 2 * HOUR { 4 } else { 0 } {
                cache.get(&id(number));
            }
        }
        let missing = (2 * HOUR..3 * HOUR).rev().filter(|number| cache.get(&id(*number)).is_none()).count();
        assert_eq!(missing, 0, "of {HOUR} started in the last hour");
        // A poll is as good as a start: what is polled stays, and what is not makes room.
        let polled = id(2 * HOUR);
        for number in 3 * HOUR..3 * HOUR + 2 * limits::CACHED_JOBS {
            if number.is_multiple_of(limits::CACHED_JOBS / 2) {
                assert!(cache.get(&polled).is_some(), "polled lately, and {number} began");
            }
            cache.put(&job(&format!("job-{number}"), Some("ann")));
        }
        assert_eq!(cache.get(&id(2 * HOUR + 1)), None);
    }

    #[test]
    fn it_is_bounded() {
        let cache = Cache::new();
        for number in 0..limits::CACHED_JOBS + 10_000 {
            cache.put(&job(&format!("job-{number}"), None));
        }
        assert_eq!(cache.jobs().len(), limits::CACHED_JOBS);
    }
}
