//! The store of jobs and intents as the rest of the gateway sees it: one-key operations, and errors that say
//! whether something may have been written.
//!
//! It must not know what a request is. A second kind of store serves the same operations.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use super::record::{Closing, Intent, Job, JobState, Kept};
use super::redis::RedisStore;
use super::sqlite::SqliteStore;
use crate::names::{BackendName, JobId};

/// Where jobs and intents are durable.
#[derive(Debug)]
pub enum Store {
    /// The embedded file.
    Sqlite(SqliteStore),
    /// A Redis that other gateways use, too.
    Redis(RedisStore),
}

/// Says what became of an operation that failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// Nothing was written, and nothing will be.
    #[error("the job store did not write")]
    NotWritten(#[source] Cause),
    /// The write may or may not be there after a restart.
    #[error("the job store may or may not have written")]
    MaybeWritten(#[source] Cause),
    /// The read could not be answered; nothing is known.
    #[error("the job store cannot be read")]
    Unavailable(#[source] Cause),
}

/// Why a store operation failed; clones are cheap, since one cause may fail a whole batch.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Cause {
    /// SQLite said so.
    #[error("SQLite")]
    Sqlite(#[source] Arc<rusqlite::Error>),
    /// Redis said so, or could not be reached.
    #[error("Redis")]
    Redis(#[source] Arc<redis::RedisError>),
    /// Too few replicas of Redis have the write.
    #[error("Redis has the write, but only {have} of {wanted} replicas confirmed it")]
    Replicas {
        /// How many confirmed it.
        have: u32,
        /// `jobs.wait_replicas`.
        wanted: u32,
    },
    /// The folder or the lock beside the store cannot be used.
    #[error("{path}")]
    File {
        /// What was touched.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: Arc<io::Error>,
    },
    /// Another gateway holds the store.
    #[error("another gateway uses this store: {} is locked", .0.display())]
    Locked(PathBuf),
    /// The file is a database of something else.
    #[error("{} is a database, but not a job store", .0.display())]
    Foreign(PathBuf),
    /// The file was removed or replaced while it was in use.
    #[error("{} was removed or replaced while it was in use", .0.display())]
    Replaced(PathBuf),
    /// The file was damaged so often that the disk is to blame: somebody has to look.
    #[error("{} is damaged again, and as many damaged files as are kept lie beside it", .0.display())]
    DamagedAgain(PathBuf),
    /// The first attempt to open the store is not over yet.
    #[error("the store is not open yet")]
    Opening,
    /// Too much waits for the store already.
    #[error("the store's queue is full")]
    QueueFull,
    /// The store did not answer in time.
    #[error("the store did not answer in time")]
    TooSlow,
    /// There is no such intent.
    #[error("there is no running intent with this key")]
    NoIntent,
    /// A client's key changed hands at the same moment, several times.
    #[error("the key changes hands too quickly")]
    KeyBusy,
    /// The store was closed, or its thread has ended.
    #[error("the store is closed")]
    Closed,
}

impl From<rusqlite::Error> for Cause {
    fn from(error: rusqlite::Error) -> Cause {
        Cause::Sqlite(Arc::new(error))
    }
}

impl Cause {
    /// Returns the whole chain of causes as one line for an operator.
    pub fn line(&self) -> String {
        chain(self)
    }
}

impl StoreError {
    /// Returns the whole chain of causes as one line for an operator.
    pub fn line(&self) -> String {
        chain(self)
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        let said = source.to_string();
        // Some errors say what their source says.
        if !line.ends_with(&said) {
            line.push_str(": ");
            line.push_str(&said);
        }
        next = source.source();
    }
    line
}

impl Store {
    /// Records a start that is about to be sent; durable when it returns.
    ///
    /// # Errors
    /// [`StoreError::NotWritten`] also when an intent with this key is there already.
    pub async fn put_intent(&self, intent: Intent) -> Result<(), StoreError> {
        match self {
            Store::Sqlite(store) => store.put_intent(intent).await,
            Store::Redis(store) => store.put_intent(intent).await,
        }
    }

    /// Records a start under a client's key that is about to be sent, unless another start has the key; durable when it
    /// returns. `None`: the key is this start's; else the intent that has it.
    ///
    /// A reply that got lost is settled by reading back whose token is there.
    ///
    /// # Errors
    /// As [`StoreError`] says; nothing may be sent then. After [`StoreError::MaybeWritten`] the caller moves the intent
    /// or frees the key.
    pub async fn claim(&self, intent: Intent) -> Result<Option<Intent>, StoreError> {
        match self {
            Store::Sqlite(store) => store.claim(intent).await,
            Store::Redis(store) => store.claim(intent).await,
        }
    }

    /// Keeps the answer of a start under a client's key that made no job; one whose token is gone is no error.
    ///
    /// # Errors
    /// As [`StoreError`] says; [`Cause::NoIntent`] when another gateway has taken the start over.
    pub async fn keep_answer(&self, kept: Kept) -> Result<(), StoreError> {
        match self {
            Store::Sqlite(store) => store.keep_answer(kept).await,
            Store::Redis(store) => store.keep_answer(kept).await,
        }
    }

    /// Frees a client's key of a start that provably made no job, if it is the one with this token; done when it returns,
    /// and for a write of this start that arrives later, too.
    ///
    /// # Errors
    /// As [`StoreError`] says; [`Cause::NoIntent`] when another gateway has taken the start over.
    pub async fn release(&self, key: &str, token: &str) -> Result<(), StoreError> {
        match self {
            Store::Sqlite(store) => store.release(key, token).await,
            Store::Redis(store) => store.release(key, token).await,
        }
    }

    /// Reads intents that workers may be asked again for and that no living process works on, oldest first, at most
    /// `limit`. (Where several processes share a store, that is known only past the deadline.)
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn left_open(&self, limit: usize) -> Result<Vec<Intent>, StoreError> {
        match self {
            Store::Sqlite(store) => store.left_open(limit).await,
            Store::Redis(store) => store.left_open(limit).await,
        }
    }

    /// Says that a running intent now goes to another backend, and until when; durable when it returns.
    ///
    /// # Errors
    /// [`StoreError::NotWritten`] with [`Cause::NoIntent`] when no intent with this key is running.
    pub async fn move_intent(&self, key: &str, to: BackendName, deadline_ms: u64) -> Result<(), StoreError> {
        match self {
            Store::Sqlite(store) => store.move_intent(key, to, deadline_ms).await,
            Store::Redis(store) => store.move_intent(key, to, deadline_ms).await,
        }
    }

    /// Deletes an intent; one that is not there is no error.
    ///
    /// # Errors
    /// As [`Store::release`].
    pub async fn close_intent(&self, key: &str) -> Result<(), StoreError> {
        match self {
            Store::Sqlite(store) => store.close_intent(key).await,
            Store::Redis(store) => store.close_intent(key).await,
        }
    }

    /// Deletes an intent some time later; a failure is only logged: past its deadline the intent reads as unknown.
    pub fn close_intent_later(&self, key: &str) {
        match self {
            Store::Sqlite(store) => store.close_intent_later(key),
            Store::Redis(store) => store.close_intent_later(key),
        }
    }

    /// Says that nobody knows whether the start made a job; an intent that is not there is no error.
    ///
    /// # Errors
    /// As [`StoreError`] says.
    pub async fn mark_unknown(&self, key: &str) -> Result<(), StoreError> {
        match self {
            Store::Sqlite(store) => store.mark_unknown(key).await,
            Store::Redis(store) => store.mark_unknown(key).await,
        }
    }

    /// Records a job's owner and deletes its intent; durable when it returns, repeatable. The embedded store does both or
    /// neither; a shared one the owner first, and the intent until it succeeds: an intent that is left is no danger.
    ///
    /// A job without a user never replaces one with a user, and a job that is over does not open again.
    ///
    /// # Errors
    /// As [`StoreError`] says.
    pub async fn put_job(&self, job: Job, closes: Option<&str>) -> Result<(), StoreError> {
        self.put_job_closing(job, closes.map(|key| Closing::Forget(key.into()))).await
    }

    /// Records a job's owner and does with its intent as is said; else as [`Store::put_job`].
    ///
    /// # Errors
    /// As [`StoreError`] says.
    pub async fn put_job_closing(&self, job: Job, closing: Option<Closing>) -> Result<(), StoreError> {
        match self {
            Store::Sqlite(store) => store.put_job(job, closing).await,
            Store::Redis(store) => store.put_job(job, closing).await,
        }
    }

    /// Reads one job; `None` when the store does not know it.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn job(&self, id: &JobId) -> Result<Option<Job>, StoreError> {
        match self {
            Store::Sqlite(store) => store.job(id).await,
            Store::Redis(store) => store.job(id).await,
        }
    }

    /// Reads one intent; `None` when there is none with this key. A running one past its deadline reads as unknown.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn intent(&self, key: &str) -> Result<Option<Intent>, StoreError> {
        match self {
            Store::Sqlite(store) => store.intent(key).await,
            Store::Redis(store) => store.intent(key).await,
        }
    }

    /// Says that a job is over; `true` exactly once per job: when it was open until now. Asked again with the same
    /// `token`, a shared store says the same again.
    ///
    /// # Errors
    /// As [`StoreError`] says.
    pub async fn finish_job(&self, id: &JobId, state: JobState, token: &str) -> Result<bool, StoreError> {
        match self {
            Store::Sqlite(store) => store.finish_job(id, state).await,
            Store::Redis(store) => store.finish_job(id, state, token).await,
        }
    }

    /// Reads open jobs, oldest first, at most `limit`.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn open_jobs(&self, backend: Option<BackendName>, limit: usize) -> Result<Vec<Job>, StoreError> {
        match self {
            Store::Sqlite(store) => store.open_jobs(backend, limit).await,
            Store::Redis(store) => store.open_jobs(backend, limit).await,
        }
    }

    /// Reads intents that are running or unknown, oldest first, at most `limit`.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn open_intents(&self, backend: Option<BackendName>, limit: usize) -> Result<Vec<Intent>, StoreError> {
        match self {
            Store::Sqlite(store) => store.open_intents(backend, limit).await,
            Store::Redis(store) => store.open_intents(backend, limit).await,
        }
    }

    /// Counts open jobs in the store, in the order of [`BackendName::ALL`].
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn open_counts(&self) -> Result<[i64; 2], StoreError> {
        match self {
            Store::Sqlite(store) => store.open_counts().await,
            Store::Redis(store) => store.open_counts().await,
        }
    }

    /// Returns the number of open jobs without asking the disk; it follows every write.
    pub fn open_count(&self, backend: BackendName) -> i64 {
        match self {
            Store::Sqlite(store) => store.open_count(backend),
            Store::Redis(store) => store.open_count(backend),
        }
    }

    /// Says whether writes succeed, or why not, as one line for an operator.
    ///
    /// # Errors
    /// The cause of the last failure, until the store has recovered.
    pub fn health(&self) -> Result<(), String> {
        match self {
            Store::Sqlite(store) => store.health(),
            Store::Redis(store) => store.health(),
        }
    }

    /// Says what keeps the store from keeping what it is given, as lines for an operator.
    pub fn warnings(&self) -> Vec<String> {
        match self {
            Store::Sqlite(_) => Vec::new(),
            Store::Redis(store) => store.warnings(),
        }
    }

    /// Says whether other gateways may use the same store at the same time: always a Redis, the embedded file only while
    /// one gateway takes over from another.
    pub fn is_shared(&self) -> bool {
        match self {
            Store::Sqlite(store) => store.in_company(),
            Store::Redis(_) => true,
        }
    }

    /// Says whether this gateway is the one that does the work of the background; to be asked again every few seconds.
    /// While one takes over from another on the embedded file, neither is: each would take the other's starts for left.
    pub async fn leads(&self) -> bool {
        match self {
            Store::Sqlite(store) => !store.in_company(),
            Store::Redis(store) => store.lead().await.unwrap_or(false),
        }
    }

    /// Sets how long jobs are kept, and what belongs to clients' keys.
    pub fn set_keep(&self, keep: std::time::Duration, key_keep: std::time::Duration) {
        match self {
            Store::Sqlite(store) => store.set_keep(keep, key_keep),
            Store::Redis(store) => store.set_keep(keep, key_keep),
        }
    }

    /// Writes what is queued, closes the file and gives up the lock; later operations fail.
    ///
    /// # Errors
    /// [`StoreError::MaybeWritten`] when the bound [`crate::limits::STORE_WAIT`] passed before.
    pub async fn close(&self) -> Result<(), StoreError> {
        match self {
            Store::Sqlite(store) => store.close().await,
            Store::Redis(store) => store.close().await,
        }
    }
}

#[cfg(test)]
mod tests;
