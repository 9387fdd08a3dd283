//! Owners that could not be written: tried again until they are, by one task at a time.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::future::join_all;

use super::cache::Cache;
use super::record::{Closing, Job};
use super::store::Store;
use crate::limits;
use crate::names::JobId;

/// The list of what is owed to the store, at most [`limits::OWED_JOBS`].
#[derive(Debug, Clone, Default)]
pub(super) struct Owed(Arc<Mutex<List>>);

#[derive(Debug, Default)]
struct List {
    jobs: VecDeque<(Job, Option<Closing>)>,
    /// Whether a task is at work on it.
    tried: bool,
}

impl Owed {
    pub(super) fn len(&self) -> usize {
        lock(&self.0).jobs.len()
    }

    /// Says whether a job waits to be written.
    pub(super) fn has(&self, id: &JobId) -> bool {
        lock(&self.0).jobs.iter().any(|(job, _)| job.id == *id)
    }

    /// Adds a job and sees to it that a task tries to write it.
    pub(super) fn add(&self, job: Job, closing: Option<Closing>, store: &Arc<Store>, cache: &Arc<Cache>) {
        let mut list = lock(&self.0);
        if list.jobs.len() >= limits::OWED_JOBS
            && let Some((lost, _)) = list.jobs.pop_front()
        {
            tracing::error!(job = %lost.id, backend = %lost.backend, "too many owners wait to be stored: gave one up");
        }
        list.jobs.push_back((job, closing));
        if list.tried {
            return;
        }
        list.tried = true;
        let at_work = AtWork { list: Arc::clone(&self.0), is_over: false };
        let (store, cache) = (Arc::clone(store), Arc::clone(cache));
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(limits::STORE_RETRY).await;
                settle(&at_work.list, &store, &cache).await;
                let mut list = lock(&at_work.list);
                if list.jobs.is_empty() {
                    list.tried = false;
                    drop(list);
                    return at_work.end();
                }
            }
        });
    }

    /// Writes as much as the store takes within [`limits::STORE_WAIT`], and names what is left.
    pub(super) async fn settle(&self, store: &Store, cache: &Cache) {
        // Late or not, what is left is in the list.
        let _ = tokio::time::timeout(limits::STORE_WAIT, settle(&self.0, store, cache)).await;
        for (job, _) in &lock(&self.0).jobs {
            tracing::error!(job = %job.id, backend = %job.backend, "an owner is not stored");
        }
    }
}

/// Lets the next failure start a task when this one is cut off with its runtime.
struct AtWork {
    list: Arc<Mutex<List>>,
    is_over: bool,
}

impl AtWork {
    /// Ends in order: the list says already that nobody is at work.
    fn end(mut self) {
        self.is_over = true;
    }
}

impl Drop for AtWork {
    fn drop(&mut self) {
        if !self.is_over {
            lock(&self.list).tried = false;
        }
    }
}

/// Writes a batch after the other until the list is empty or a write fails.
async fn settle(list: &Mutex<List>, store: &Store, cache: &Cache) {
    loop {
        // They stay in the list while they are written: a task that is cut off loses nothing, and a write can be repeated.
        let batch: Vec<_> = lock(list).jobs.iter().take(limits::STORE_BATCH).cloned().collect();
        if batch.is_empty() {
            return;
        }
        let writes = batch.iter().map(|(job, closing)| write(job, closing.clone(), store, cache));
        let stored: HashSet<JobId> = join_all(writes).await.into_iter().flatten().collect();
        lock(list).jobs.retain(|(job, _)| !stored.contains(&job.id));
        if stored.len() < batch.len() {
            return;
        }
    }
}

/// Writes one owner; returns its id when it is stored.
async fn write(job: &Job, closing: Option<Closing>, store: &Store, cache: &Cache) -> Option<JobId> {
    let before = job.state;
    // It may have ended since; a job that somebody else's record has replaced is not ours to write.
    let mut job = cache.get(&job.id).filter(|held| held.user == job.user).unwrap_or_else(|| job.clone());
    if store.is_shared() {
        // Its end is written by whoever saw it, so that one gateway alone counts it.
        job.state = before;
    }
    let id = job.id.clone();
    match store.put_job_closing(job, closing).await {
        Ok(()) => {
            tracing::info!(job = %id, "a late owner is stored");
            Some(id)
        }
        Err(error) => {
            tracing::debug!(job = %id, error = error.line(), "an owner is still not stored");
            None
        }
    }
}

fn lock(list: &Mutex<List>) -> std::sync::MutexGuard<'_, List> {
    list.lock().unwrap_or_else(PoisonError::into_inner)
}
