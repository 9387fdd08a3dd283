//! What callers hold of the shared store: a bounded queue to its thread, and what it knows without asking.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep, timeout};
use uuid::Uuid;

use super::context::Context;
use super::thread::{self, Ask};
use super::{index, ops};
use crate::jobs::record::{Closing, Intent, Job, JobState, Kept};
use crate::jobs::sqlite::Settings;
use crate::jobs::store::{Cause, StoreError};
use crate::limits;
use crate::names::{BackendName, JobId};
use crate::routing::redis_location::RedisLocation;

/// The shared store.
#[derive(Debug)]
pub struct RedisStore {
    context: Arc<Context>,
    asks: mpsc::Sender<Ask>,
}

/// Makes an error of a cause when nothing was sent.
type Refuse = fn(Cause) -> StoreError;

impl RedisStore {
    /// Starts the store's thread and waits for the first attempt to connect; a Redis that cannot be reached is tried
    /// again until it can. `wait_replicas` is the number of replicas that must have a write.
    ///
    /// Blocks for at most [`limits::STORE_WAIT`]: for start-up, not for a runtime thread that serves.
    pub fn open(location: &RedisLocation, wait_replicas: u32, settings: Settings) -> RedisStore {
        let run = Uuid::now_v7().to_string();
        let context = Arc::new(Context::new(location.clone(), wait_replicas, settings.clock, run));
        context.set_keep(settings.keep, settings.key_keep);
        let (asks, queue) = mpsc::channel(limits::STORE_QUEUE);
        let (opened, first) = std::sync::mpsc::sync_channel(1);
        let shared = Arc::clone(&context);
        let work = move || thread::run(shared, queue, opened);
        std::thread::Builder::new().name("store-redis".to_owned()).spawn(work).expect("a thread at start-up");
        // An attempt that takes too long goes on without us.
        let _ = first.recv_timeout(limits::STORE_WAIT);
        RedisStore { context, asks }
    }

    pub(crate) async fn put_intent(&self, intent: Intent) -> Result<(), StoreError> {
        let taken = self.write(move |context| async move { ops::claim(&context, intent).await }).await?;
        // Keys of unkeyed starts are made anew for each: only a mistake brings one twice.
        if taken.is_none() { Ok(()) } else { Err(StoreError::NotWritten(Cause::KeyBusy)) }
    }

    pub(crate) async fn claim(&self, intent: Intent) -> Result<Option<Intent>, StoreError> {
        self.write(move |context| async move { ops::claim(&context, intent).await }).await
    }

    pub(crate) async fn keep_answer(&self, kept: Kept) -> Result<(), StoreError> {
        self.write(move |context| async move { ops::keep(&context, &kept).await }).await
    }

    pub(crate) async fn release(&self, key: &str, token: &str) -> Result<(), StoreError> {
        let (key, token) = (key.to_owned(), token.to_owned());
        self.write(move |context| async move { ops::release(&context, &key, &token).await }).await
    }

    pub(crate) async fn left_open(&self, limit: usize) -> Result<Vec<Intent>, StoreError> {
        self.read(move |context| async move { index::adopt_open(&context, limit).await }).await
    }

    pub(crate) async fn move_intent(&self, key: &str, to: BackendName, deadline_ms: u64) -> Result<(), StoreError> {
        let key = key.to_owned();
        self.write(move |context| async move { ops::move_intent(&context, &key, to, deadline_ms).await }).await
    }

    pub(crate) async fn close_intent(&self, key: &str) -> Result<(), StoreError> {
        let key = key.to_owned();
        self.write(move |context| async move { ops::close_intent(&context, &key).await }).await
    }

    pub(crate) fn close_intent_later(&self, key: &str) {
        let key = key.to_owned();
        let ask: Ask = Box::new(move |context| Box::pin(async move { ops::close_intent_later(&context, &key) }));
        if self.asks.try_send(ask).is_err() {
            tracing::warn!("a write of the job store was given up");
        }
    }

    pub(crate) async fn mark_unknown(&self, key: &str) -> Result<(), StoreError> {
        let key = key.to_owned();
        self.write(move |context| async move { ops::mark_unknown(&context, &key).await }).await
    }

    pub(crate) async fn put_job(&self, job: Job, closing: Option<Closing>) -> Result<(), StoreError> {
        self.write(move |context| async move { ops::put_job(&context, job, closing).await }).await
    }

    pub(crate) async fn finish_job(&self, id: &JobId, state: JobState, token: &str) -> Result<bool, StoreError> {
        let (id, token) = (id.clone(), token.to_owned());
        self.write(move |context| async move { ops::finish_job(&context, &id, state, &token).await }).await
    }

    pub(crate) async fn job(&self, id: &JobId) -> Result<Option<Job>, StoreError> {
        let id = id.clone();
        self.read(move |context| async move { ops::job(&context, &id).await }).await
    }

    pub(crate) async fn intent(&self, key: &str) -> Result<Option<Intent>, StoreError> {
        let key = key.to_owned();
        self.read(move |context| async move { ops::intent(&context, &key).await }).await
    }

    pub(crate) async fn open_jobs(&self, backend: Option<BackendName>, limit: usize) -> Result<Vec<Job>, StoreError> {
        self.read(move |context| async move { index::open_jobs(&context, backend, limit).await }).await
    }

    pub(crate) async fn open_intents(
        &self,
        backend: Option<BackendName>,
        limit: usize,
    ) -> Result<Vec<Intent>, StoreError> {
        self.read(move |context| async move { index::open_intents(&context, backend, limit).await }).await
    }

    pub(crate) async fn open_counts(&self) -> Result<[i64; 2], StoreError> {
        self.read(|context| async move { index::counts(&context).await }).await
    }

    pub(crate) fn open_count(&self, backend: BackendName) -> i64 {
        self.context.open_count(backend)
    }

    /// Takes or renews the lease on the work that one gateway does for all.
    pub(crate) async fn lead(&self) -> Result<bool, StoreError> {
        self.write(move |context| async move { ops::lead(&context).await }).await
    }

    pub(crate) fn health(&self) -> Result<(), String> {
        self.context.health().map_err(|cause| format!("{}: {}", self.context.location, cause.line()))
    }

    pub(crate) fn warnings(&self) -> Vec<String> {
        self.context.warnings()
    }

    pub(crate) fn set_keep(&self, keep: Duration, key_keep: Duration) {
        self.context.set_keep(keep, key_keep);
    }

    /// Returns every record: for a copy of the whole store.
    pub(crate) async fn all(&self) -> Result<(Vec<JobId>, Vec<String>), StoreError> {
        self.read(move |context| async move { super::scan::all(&context).await }).await
    }

    /// Reads an intent as it is written, whatever its deadline.
    pub(crate) async fn intent_as_written(&self, key: &str) -> Result<Option<Intent>, StoreError> {
        let key = key.to_owned();
        self.read(move |context| async move { ops::intent_at(&context, &key, 0).await }).await
    }

    /// Waits until nothing is under way any more and gives the connection up; later operations fail.
    pub(crate) async fn close(&self) -> Result<(), StoreError> {
        let idle = async {
            while self.context.waiting() > 0 || self.asks.capacity() < limits::STORE_QUEUE {
                sleep(Duration::from_millis(5)).await;
            }
        };
        // While Redis is away, what nobody waits for cannot be written.
        let patience = if self.context.health().is_ok() { limits::STORE_WAIT } else { limits::REDIS_WAIT };
        let ended = timeout(patience, idle).await;
        if self.context.health().is_ok() {
            // At the worst the others wait for its end.
            let _ = self.write(|context| async move { ops::resign(&context).await }).await;
        }
        self.context.set_health(Err(Cause::Closed));
        self.context.closed.store(true, Ordering::Release);
        self.context.link.send_replace(None);
        ended.map_err(|_late| StoreError::MaybeWritten(Cause::TooSlow))
    }

    async fn read<T, F>(&self, work: impl FnOnce(Arc<Context>) -> F + Send + 'static) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, StoreError>> + Send,
    {
        self.ask(work, StoreError::Unavailable, StoreError::Unavailable).await
    }

    async fn write<T, F>(&self, work: impl FnOnce(Arc<Context>) -> F + Send + 'static) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, StoreError>> + Send,
    {
        self.ask(work, StoreError::NotWritten, StoreError::MaybeWritten).await
    }

    /// Queues work and waits for its result, or takes it back when that lasts too long. The work has bounds of its own,
    /// so that one that has begun ends before.
    async fn ask<T, F>(
        &self,
        work: impl FnOnce(Arc<Context>) -> F + Send + 'static,
        not_begun: Refuse,
        begun: Refuse,
    ) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, StoreError>> + Send,
    {
        let (reply, answer) = oneshot::channel();
        let taken = Arc::new(AtomicBool::new(false));
        let mark = Arc::clone(&taken);
        let ask: Ask = Box::new(move |context| {
            Box::pin(async move {
                if !mark.swap(true, Ordering::AcqRel) {
                    // Nobody listens when the caller is gone; the work is done all the same.
                    let _ = reply.send(work(context).await);
                }
            })
        });
        self.asks.try_send(ask).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => not_begun(Cause::QueueFull),
            mpsc::error::TrySendError::Closed(_) => not_begun(Cause::Closed),
        })?;
        match timeout(limits::STORE_WAIT, answer).await {
            Ok(Ok(result)) => result,
            Ok(Err(_dropped)) => Err(begun(Cause::Closed)),
            // Whoever sets the mark first decides: work that was taken back is not begun.
            Err(_late) if taken.swap(true, Ordering::AcqRel) => Err(begun(Cause::TooSlow)),
            Err(_late) => Err(not_begun(Cause::TooSlow)),
        }
    }
}
