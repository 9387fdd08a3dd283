//! What callers hold of the embedded store: queues to its threads and the state they share.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::mpsc::{self, SyncSender, TrySendError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use uuid::Uuid;

use super::ops::Op;
use super::reader::{Reader, Readers};
use super::writer::{Message, Write, Writer};
use super::{intents, lock, rows};
use crate::jobs::clock::Clock;
use crate::jobs::record::{Closing, Intent, Job, JobState, Kept};
use crate::jobs::store::{Cause, StoreError};
use crate::limits;
use crate::names::{BackendName, JobId};

/// How the embedded store behaves.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How long jobs are kept, and starts of unknown outcome.
    pub keep: Duration,
    /// How long what belongs to a client's key is kept.
    pub key_keep: Duration,
    /// The time.
    pub clock: Clock,
}

/// Says that another process has this store open.
#[derive(Debug, Clone, thiserror::Error)]
#[error("another gateway uses the job store {}: its lock {} is held", .store.display(), .lock.display())]
pub struct StoreHeld {
    /// The store.
    pub store: PathBuf,
    /// The lock beside it.
    pub lock: PathBuf,
}

/// What the threads and the callers share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) path: PathBuf,
    /// Stands beside the intents of this process, so that the next one knows which are not its own.
    pub(super) run: i64,
    pub(super) clock: Clock,
    /// The cause of the last failure until writes succeed again.
    pub(super) health: Mutex<Result<(), Cause>>,
    /// Open jobs in the store, in the order of [`BackendName::ALL`].
    pub(super) open: [AtomicI64; 2],
    pub(super) keep_ms: AtomicU64,
    pub(super) key_keep_ms: AtomicU64,
    /// Grows whenever the file is another one, so that readers open it anew.
    pub(super) generation: AtomicU64,
    /// Set by a reader that met damage; the writer then repairs.
    pub(super) damaged: AtomicBool,
    /// The lock beside the store, once it is taken.
    lock: Mutex<Option<File>>,
    /// Whether the process that this one takes over from, or hands over to, has the store open, too.
    company: AtomicBool,
}

impl Shared {
    pub(super) fn lock(&self) -> MutexGuard<'_, Option<File>> {
        self.lock.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn in_company(&self) -> bool {
        self.company.load(Ordering::Acquire)
    }

    pub(super) fn set_health(&self, health: Result<(), Cause>) {
        *self.health.lock().unwrap_or_else(PoisonError::into_inner) = health;
    }

    pub(super) fn health(&self) -> Result<(), Cause> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The embedded store.
#[derive(Debug)]
pub struct SqliteStore {
    shared: Arc<Shared>,
    writes: SyncSender<Message>,
    readers: Readers,
}

impl SqliteStore {
    /// Opens the store and its lock, and waits for the first attempt; a file that cannot be used is tried again later.
    ///
    /// Blocks for at most [`limits::STORE_WAIT`]: for start-up, not for a runtime thread that serves.
    ///
    /// # Errors
    /// [`StoreHeld`] when another gateway has the store.
    pub fn open(path: &Path, settings: Settings) -> Result<SqliteStore, StoreHeld> {
        SqliteStore::open_beside(path, settings, None)
    }

    /// Opens the store that another process has passed its lock of, and still uses; else as [`SqliteStore::open`].
    ///
    /// # Errors
    /// As [`SqliteStore::open`]; a lock of another store counts for nothing.
    pub fn open_beside(path: &Path, settings: Settings, passed: Option<File>) -> Result<SqliteStore, StoreHeld> {
        let passed = passed.filter(|passed| lock::belongs_to(passed, path));
        let company = AtomicBool::new(passed.is_some());
        let held = match passed.map_or_else(|| lock::take(path), Ok) {
            Ok(held) => Some(held),
            Err(Cause::Locked(lock)) => return Err(StoreHeld { store: path.to_owned(), lock }),
            Err(_retried_by_the_writer) => None,
        };
        let shared = Arc::new(Shared {
            path: path.to_owned(),
            run: Uuid::now_v7().as_u64_pair().1.cast_signed(),
            clock: settings.clock,
            health: Mutex::new(Err(Cause::Opening)),
            open: [AtomicI64::new(0), AtomicI64::new(0)],
            keep_ms: AtomicU64::new(millis(settings.keep)),
            key_keep_ms: AtomicU64::new(millis(settings.key_keep)),
            generation: AtomicU64::new(0),
            damaged: AtomicBool::new(false),
            lock: Mutex::new(held),
            company,
        });
        let (writes, queue) = mpsc::sync_channel(limits::STORE_QUEUE);
        let (opened, first) = mpsc::sync_channel(1);
        let mut writer = Writer::new(Arc::clone(&shared));
        let run = move || {
            writer.ready();
            // Nobody listens when the first attempt took too long.
            let _ = opened.send(());
            writer.run(&queue);
        };
        std::thread::Builder::new().name("store-write".to_owned()).spawn(run).expect("a thread at start-up");
        let _ = first.recv_timeout(limits::STORE_WAIT);
        let readers = Readers::start(&shared);
        Ok(SqliteStore { shared, writes, readers })
    }

    /// Says that another process is about to use the store, too, and returns the lock for it; `None`: there is none yet.
    ///
    /// # Errors
    /// No descriptor is free, or two processes use the store already.
    pub(crate) fn pass_on(&self) -> io::Result<Option<File>> {
        let lock = self.shared.lock().as_ref().map(File::try_clone).transpose()?;
        if self.shared.company.swap(true, Ordering::AcqRel) {
            return Err(io::Error::other("the gateway that this one took over from has not ended yet"));
        }
        Ok(lock)
    }

    /// Says that no other process uses the store any more.
    pub(crate) fn alone(&self) {
        self.shared.company.store(false, Ordering::Release);
    }

    pub(crate) fn in_company(&self) -> bool {
        self.shared.in_company()
    }

    pub(crate) async fn put_intent(&self, intent: Intent) -> Result<(), StoreError> {
        self.write(Op::PutIntent(Box::new(intent))).await.map(|_| ())
    }

    pub(crate) async fn claim(&self, intent: Intent) -> Result<Option<Intent>, StoreError> {
        for _ in 0..limits::CLAIM_TRIES {
            match self.write(Op::Claim(Box::new(intent.clone()))).await {
                Ok(true) => return Ok(None),
                Ok(false) => {}
                Err(error) => return self.settle(&intent, error).await,
            }
            // Nobody there: it was freed in between.
            if let Some(holder) = self.intent(&intent.key).await? {
                return Ok(Some(holder));
            }
        }
        Err(StoreError::NotWritten(Cause::KeyBusy))
    }

    /// Reads back who holds a key after a claim whose reply did not come. What can be read is on the disk: frames are
    /// shown to readers after their sync. That is not so after a failed sync, hence only a late reply is settled.
    pub(super) async fn settle(&self, intent: &Intent, error: StoreError) -> Result<Option<Intent>, StoreError> {
        let StoreError::MaybeWritten(cause) = &error else { return Err(error) };
        let found = if matches!(cause, Cause::TooSlow) { self.intent(&intent.key).await.ok().flatten() } else { None };
        if found.as_ref().is_some_and(|found| found.claim == intent.claim) {
            return Ok(None);
        }
        // Should the claim still be written, this comes after it.
        if let Some(claim) = &intent.claim {
            self.write_later(Op::Release { key: intent.key.clone(), token: claim.token.clone() });
        }
        found.map_or(Err(error), |holder| Ok(Some(holder)))
    }

    pub(crate) async fn release(&self, key: &str, token: &str) -> Result<(), StoreError> {
        self.write(Op::Release { key: key.into(), token: token.into() }).await.map(|_| ())
    }

    pub(crate) async fn keep_answer(&self, kept: Kept) -> Result<(), StoreError> {
        self.write(Op::Keep(kept)).await.map(|_| ())
    }

    pub(crate) async fn left_open(&self, limit: usize) -> Result<Vec<Intent>, StoreError> {
        let run = self.shared.run;
        self.read(move |reader| reader.with(|conn| intents::left_open(conn, run, limit))).await
    }

    pub(crate) async fn move_intent(&self, key: &str, to: BackendName, deadline_ms: u64) -> Result<(), StoreError> {
        let moved = self.write(Op::MoveIntent { key: Box::from(key), to, deadline_ms }).await?;
        if moved { Ok(()) } else { Err(StoreError::NotWritten(Cause::NoIntent)) }
    }

    pub(crate) async fn close_intent(&self, key: &str) -> Result<(), StoreError> {
        self.write(Op::CloseIntent(Box::from(key))).await.map(|_| ())
    }

    pub(crate) fn close_intent_later(&self, key: &str) {
        self.write_later(Op::CloseIntent(Box::from(key)));
    }

    pub(crate) async fn mark_unknown(&self, key: &str) -> Result<(), StoreError> {
        self.write(Op::MarkUnknown(Box::from(key))).await.map(|_| ())
    }

    pub(crate) async fn put_job(&self, job: Job, closes: Option<Closing>) -> Result<(), StoreError> {
        self.write(Op::PutJob { job, closes }).await.map(|_| ())
    }

    pub(crate) async fn finish_job(&self, id: &JobId, state: JobState) -> Result<bool, StoreError> {
        self.write(Op::FinishJob(id.clone(), state)).await
    }

    pub(crate) async fn job(&self, id: &JobId) -> Result<Option<Job>, StoreError> {
        let id = id.clone();
        self.read(move |reader| reader.with(|conn| rows::job(conn, &id))).await
    }

    pub(crate) async fn intent(&self, key: &str) -> Result<Option<Intent>, StoreError> {
        let (key, now_ms) = (key.to_owned(), self.shared.clock.wall_ms());
        self.read(move |reader| reader.with(|conn| intents::intent(conn, &key, now_ms))).await
    }

    pub(crate) async fn open_jobs(&self, backend: Option<BackendName>, limit: usize) -> Result<Vec<Job>, StoreError> {
        self.read(move |reader| reader.with(|conn| rows::open_jobs(conn, backend, limit))).await
    }

    pub(crate) async fn open_intents(
        &self,
        backend: Option<BackendName>,
        limit: usize,
    ) -> Result<Vec<Intent>, StoreError> {
        let now_ms = self.shared.clock.wall_ms();
        self.read(move |reader| reader.with(|conn| intents::open_intents(conn, backend, limit, now_ms))).await
    }

    pub(crate) async fn open_counts(&self) -> Result<[i64; 2], StoreError> {
        self.read(|reader| reader.with(rows::open_counts)).await
    }

    pub(crate) fn open_count(&self, backend: BackendName) -> i64 {
        self.shared.open[rows::place(backend)].load(Ordering::Relaxed)
    }

    pub(crate) fn health(&self) -> Result<(), String> {
        self.shared.health().map_err(|cause| cause.line())
    }

    pub(crate) fn set_keep(&self, keep: Duration, key_keep: Duration) {
        self.shared.keep_ms.store(millis(keep), Ordering::Relaxed);
        self.shared.key_keep_ms.store(millis(key_keep), Ordering::Relaxed);
    }

    pub(crate) async fn close(&self) -> Result<(), StoreError> {
        let (done, closed) = oneshot::channel();
        let mut message = Message::Close(done);
        let closing = async {
            // A full queue empties within the same bound; shut-down is no time for being refused.
            while let Err(TrySendError::Full(back)) = self.writes.try_send(message) {
                message = back;
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            // An error here means that the writer has ended already.
            let _ = closed.await;
        };
        let closed = tokio::time::timeout(limits::STORE_WAIT, closing).await;
        closed.map_err(|_| StoreError::MaybeWritten(Cause::TooSlow))
    }

    /// Queues a write and waits until it is on the disk, or takes it back when that lasts too long.
    async fn write(&self, op: Op) -> Result<bool, StoreError> {
        let (reply, answer) = oneshot::channel();
        let taken = Arc::new(AtomicBool::new(false));
        self.send(Write { op, reply: Some(reply), taken: Arc::clone(&taken) })?;
        match tokio::time::timeout(limits::STORE_WAIT, answer).await {
            Ok(Ok(result)) => result,
            Ok(Err(_dropped)) if taken.load(Ordering::Acquire) => Err(StoreError::MaybeWritten(Cause::Closed)),
            Ok(Err(_dropped)) => Err(StoreError::NotWritten(Cause::Closed)),
            // Whoever sets the mark first decides: the writer skips a write that was taken back.
            Err(_late) if taken.swap(true, Ordering::AcqRel) => Err(StoreError::MaybeWritten(Cause::TooSlow)),
            Err(_late) => Err(StoreError::NotWritten(Cause::TooSlow)),
        }
    }

    fn write_later(&self, op: Op) {
        let write = Write { op, reply: None, taken: Arc::new(AtomicBool::new(false)) };
        if let Err(error) = self.send(write) {
            tracing::warn!(error = error.line(), "a write of the job store was given up");
        }
    }

    fn send(&self, write: Write) -> Result<(), StoreError> {
        self.writes.try_send(Message::Write(write)).map_err(|error| match error {
            TrySendError::Full(_) => StoreError::NotWritten(Cause::QueueFull),
            TrySendError::Disconnected(_) => StoreError::NotWritten(Cause::Closed),
        })
    }

    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&mut Reader) -> Result<T, Cause> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (reply, answer) = oneshot::channel();
        self.readers
            .ask(Box::new(move |reader| {
                // Nobody listens when the caller stopped waiting.
                let _ = reply.send(read(reader));
            }))
            .map_err(StoreError::Unavailable)?;
        match tokio::time::timeout(limits::STORE_WAIT, answer).await {
            Ok(Ok(result)) => result.map_err(StoreError::Unavailable),
            Ok(Err(_dropped)) => Err(StoreError::Unavailable(Cause::Closed)),
            Err(_late) => Err(StoreError::Unavailable(Cause::TooSlow)),
        }
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
