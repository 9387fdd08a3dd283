//! Who owns which job: records, the store they live in, the cache in front, and the look-up of `input_key`.

pub mod record;
pub mod clock;
pub mod store;
pub mod sqlite;
pub mod redis;
mod cache;
mod owed;
pub mod input_key;
pub mod database;
pub mod idempotency;

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use self::cache::Cache;
use self::owed::Owed;
use self::record::{Claim, Closing, Intent, Job, JobState, Kept};
use self::redis::RedisStore;
use self::sqlite::SqliteStore;
pub use self::sqlite::{Settings, StoreHeld};
use self::store::{Cause, Store, StoreError};
use crate::limits;
use crate::names::{BackendName, JobId};
use crate::routing::table::StoreLocation;

/// Who owns which job: the store, the cache in front of it, and what still has to be written.
#[derive(Debug)]
pub struct Jobs {
    store: Arc<Store>,
    cache: Arc<Cache>,
    owed: Owed,
}

impl Jobs {
    /// Opens the store. One that cannot be used does not stop the start: see [`Jobs::health`].
    ///
    /// Blocks for some seconds at the most: for start-up, not for a runtime thread that serves.
    ///
    /// # Errors
    /// [`StoreHeld`] when another gateway has the store.
    pub fn open(location: &StoreLocation, settings: Settings) -> Result<Jobs, StoreHeld> {
        Jobs::open_beside(location, settings, None)
    }

    /// Opens the store beside the gateway that is taken over from, with the lock that it has passed on; else as
    /// [`Jobs::open`]. [`Jobs::alone`] is to be called once that gateway has ended.
    ///
    /// # Errors
    /// As [`Jobs::open`].
    pub fn open_beside(location: &StoreLocation, settings: Settings, passed: Option<File>) -> Result<Jobs, StoreHeld> {
        let store = match location {
            StoreLocation::File(path) => Store::Sqlite(SqliteStore::open_beside(path, settings, passed)?),
            StoreLocation::Redis { location, wait_replicas } => {
                Store::Redis(RedisStore::open(location, *wait_replicas, settings))
            }
        };
        Ok(Jobs { store: Arc::new(store), cache: Arc::new(Cache::new()), owed: Owed::default() })
    }

    /// Makes ready for a gateway that takes over from this one: returns the lock for it, where the store has one.
    /// Until [`Jobs::alone`] this gateway leaves the work of the background alone.
    ///
    /// # Errors
    /// No descriptor is free, or two gateways use the embedded store already.
    pub fn pass_on(&self) -> io::Result<Option<File>> {
        match &*self.store {
            Store::Sqlite(store) => store.pass_on(),
            Store::Redis(_) => Ok(None),
        }
    }

    /// Says that the other gateway of [`Jobs::pass_on`] or [`Jobs::open_beside`] is gone.
    pub fn alone(&self) {
        if let Store::Sqlite(store) = &*self.store {
            store.alone();
        }
    }

    /// Records a start before a byte of it leaves; durable when it returns.
    ///
    /// # Errors
    /// As [`Store::put_intent`]: with any of them the start must not go to workers.
    pub async fn begin(&self, intent: Intent) -> Result<(), StoreError> {
        self.store.put_intent(intent).await
    }

    /// Finds out what is known of a key; `None`: it is free.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]: nothing is known.
    pub async fn look(&self, key: &str) -> Result<Option<Intent>, StoreError> {
        self.store.intent(key).await
    }

    /// Records a start under a client's key before a byte of it leaves, or returns the intent that has the key.
    ///
    /// # Errors
    /// As [`Store::claim`]: with any of them nothing may be sent anywhere.
    pub async fn claim(&self, intent: Intent) -> Result<Option<Intent>, StoreError> {
        self.store.claim(intent).await
    }

    /// Keeps the answer of a start under a client's key that made no job.
    ///
    /// # Errors
    /// As [`Store::keep_answer`]; past its deadline the key reads as unknown then.
    pub async fn keep_answer(&self, kept: Kept) -> Result<(), StoreError> {
        self.store.keep_answer(kept).await
    }

    /// Forgets a start that provably made no job; a client's key is free again when it returns.
    ///
    /// An intent that is left could be asked of workers again by the next process, and would keep a client's key: after
    /// an error it goes on being tried in the background, up to a bound. To be called on a tokio runtime.
    ///
    /// # Errors
    /// As [`Store::release`].
    pub async fn free(&self, key: &str, claim: Option<&Claim>) -> Result<(), StoreError> {
        let token = claim.map(|claim| claim.token.clone());
        let freed = free(&self.store, key, token.as_deref()).await;
        // What another gateway has taken over is its to end.
        if matches!(&freed, Err(error) if !matches!(error, StoreError::NotWritten(Cause::NoIntent))) {
            let (store, key) = (Arc::clone(&self.store), key.to_owned());
            tokio::spawn(async move {
                for _ in 0..limits::FREE_TRIES {
                    tokio::time::sleep(limits::STORE_RETRY).await;
                    if free(&store, &key, token.as_deref()).await.is_ok() {
                        return;
                    }
                }
                tracing::error!(key, "a start that made no job is still recorded");
            });
        }
        freed
    }

    /// Records that a start goes to legacy instead, before a byte of it leaves for there; durable when it returns.
    ///
    /// # Errors
    /// As [`Store::move_intent`].
    pub async fn redirect(&self, key: &str, deadline_ms: u64) -> Result<(), StoreError> {
        self.store.move_intent(key, BackendName::Legacy, deadline_ms).await
    }

    /// Records a job's owner and closes its intent; durable when it returns `Ok`.
    ///
    /// After an error the write goes on being tried in the background until it succeeds, and polls find the job in
    /// memory meanwhile. To be called on a tokio runtime.
    ///
    /// # Errors
    /// As [`Store::put_job`]: the caller must not tell the client that the job is safe, and logs its id.
    pub async fn accept(&self, job: Job, key: Option<&str>) -> Result<(), StoreError> {
        self.accept_closing(job, key.map(|key| Closing::Forget(key.into()))).await
    }

    /// Records a job's owner and does with its intent as is said; else as [`Jobs::accept`].
    ///
    /// # Errors
    /// As [`Jobs::accept`].
    pub async fn accept_closing(&self, job: Job, closing: Option<Closing>) -> Result<(), StoreError> {
        let written = self.store.put_job_closing(job.clone(), closing.clone()).await;
        self.cache.put(&job);
        if written.is_err() {
            self.owed.add(job, closing, &self.store, &self.cache);
        }
        written
    }

    /// Records that nobody knows whether a start made a job.
    ///
    /// # Errors
    /// As [`Store::mark_unknown`]; past its deadline the intent reads as unknown all the same.
    pub async fn unknown(&self, key: &str) -> Result<(), StoreError> {
        self.store.mark_unknown(key).await
    }

    /// Forgets a start that made no job, some time later.
    pub fn forget(&self, key: &str) {
        self.store.close_intent_later(key);
    }

    /// Finds a job in memory or in the store; `None` is not remembered, since another replica may know it next time.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]: nothing is known.
    pub async fn find(&self, id: &JobId) -> Result<Option<Job>, StoreError> {
        let held = self.cache.get(id);
        // A found one may have got its owner meanwhile, through another gateway.
        let is_sure = |job: &Job| job.user.is_some() || !self.store.is_shared();
        if let Some(job) = held.as_ref().filter(|job| is_sure(job)) {
            return Ok(Some(job.clone()));
        }
        match (self.store.job(id).await, held) {
            (Ok(Some(job)), _) => Ok(Some(self.cache.fill(job))),
            (Ok(None) | Err(_), Some(held)) => Ok(Some(held)),
            (result, None) => result,
        }
    }

    /// Remembers a job that a backend was found to have; never in place of one whose user is known.
    ///
    /// # Errors
    /// As [`Store::put_job`]; the job is remembered in memory all the same.
    pub async fn remember_found(&self, job: Job) -> Result<(), StoreError> {
        self.cache.put(&job);
        self.store.put_job(job, None).await
    }

    /// Takes note of a state seen in a poll, and calls `first` for the first that sees the job over: of all gateways
    /// that share the store, as the store says. Written in the background.
    ///
    /// To be called on a tokio runtime.
    pub fn observe(&self, job: &Job, state: JobState, first: impl FnOnce() + Send + 'static) {
        if state == JobState::Open || job.state != JobState::Open || !self.cache.finish(job, state) {
            return;
        }
        let (store, id) = (Arc::clone(&self.store), job.id.clone());
        if self.store.is_shared() {
            tokio::spawn(finish_shared(store, self.owed.clone(), id, state, first));
            return;
        }
        // Nobody else writes to this store: what was not over in memory was not over.
        first();
        tokio::spawn(async move {
            if let Err(error) = store.finish_job(&id, state, "").await {
                tracing::warn!(job = %id, error = error.line(), "the end of a job was not stored");
            }
        });
    }

    /// Returns how many jobs of a backend are open, as far as the store knows; right after a restart too.
    pub fn open_count(&self, backend: BackendName) -> i64 {
        self.store.open_count(backend)
    }

    /// Returns how many owners wait to be written after a failure.
    pub fn owed(&self) -> usize {
        self.owed.len()
    }

    /// Says whether the store takes writes, or why not, as one line for an operator.
    ///
    /// # Errors
    /// The cause of the last failure, until the store has recovered.
    pub fn health(&self) -> Result<(), String> {
        self.store.health()
    }

    /// Says what keeps the store from keeping what it is given, as lines for an operator.
    pub fn warnings(&self) -> Vec<String> {
        self.store.warnings()
    }

    /// Sets how long jobs are kept, and what belongs to clients' keys; a reload may call it.
    pub fn set_keep(&self, keep: Duration, key_keep: Duration) {
        self.store.set_keep(keep, key_keep);
    }

    /// Returns the store, for what only operators ask (open jobs, intents).
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Tries once more to write what is owed, writes what is queued and closes the store; takes a few seconds at most.
    ///
    /// # Errors
    /// [`StoreError::MaybeWritten`] when it did not end in time.
    pub async fn close(&self) -> Result<(), StoreError> {
        self.owed.settle(&self.store, &self.cache).await;
        self.store.close().await
    }
}

/// Ends a job in a store that others use, until it is known who ended it.
async fn finish_shared(store: Arc<Store>, owed: Owed, id: JobId, state: JobState, first: impl FnOnce()) {
    // The same for every try: a lost answer does not make somebody else's end of our own.
    let token = uuid::Uuid::now_v7().to_string();
    for _ in 0..limits::FREE_TRIES {
        // A job that is not written yet cannot end there.
        if !owed.has(&id) {
            match store.finish_job(&id, state, &token).await {
                Ok(true) => return first(),
                Ok(false) => return,
                Err(error) => tracing::debug!(job = %id, error = error.line(), "the end of a job is not stored yet"),
            }
        }
        tokio::time::sleep(limits::STORE_RETRY).await;
    }
    tracing::warn!(job = %id, "the end of a job was not stored");
}

async fn free(store: &Store, key: &str, token: Option<&str>) -> Result<(), StoreError> {
    match token {
        Some(token) => store.release(key, token).await,
        None => store.close_intent(key).await,
    }
}

#[cfg(test)]
mod tests;

#[cfg(test)]
#[path = "../../tests/it/support/redis.rs"]
#[allow(dead_code, unreachable_pub, reason = "shared with the tests from outside")]
mod redis_server;
