//! What operations share: the connection, what is known of its health, and how a lost answer is settled.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use redis::{Cmd, Value};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::connect::{Link, is_lost, millis};
use super::scripts::Keys;
use crate::jobs::clock::Clock;
use crate::jobs::sqlite::rows::place;
use crate::jobs::store::{Cause, StoreError};
use crate::limits;
use crate::names::BackendName;
use crate::routing::redis_location::RedisLocation;

/// The store's state, shared by its thread and its callers.
pub(super) struct Context {
    pub(super) location: RedisLocation,
    pub(super) replicas: u32,
    pub(super) keys: Keys,
    /// Names this process to the others.
    pub(super) run: Box<str>,
    pub(super) clock: Clock,
    pub(super) link: watch::Sender<Option<Link>>,
    /// Whether a connection was lost, and the first attempt at another is under way.
    mending: AtomicBool,
    pub(super) closed: AtomicBool,
    keep_ms: AtomicU64,
    key_keep_ms: AtomicU64,
    /// The cause of the last failure until writes succeed again.
    health: Mutex<Result<(), Cause>>,
    /// Why Redis may lose what it was given.
    warnings: Mutex<Vec<String>>,
    open: [AtomicI64; 2],
    later: AtomicUsize,
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context").field("location", &self.location.to_string()).finish_non_exhaustive()
    }
}

/// Whether a write must be safe when it is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Care {
    /// Replicas are waited for, where the file says so.
    Durable,
    /// An index: the record is the truth.
    Light,
}

impl Context {
    pub(super) fn new(location: RedisLocation, replicas: u32, clock: Clock, run: String) -> Context {
        Context {
            keys: Keys::new(&location.prefix),
            location,
            replicas,
            run: run.into(),
            clock,
            link: watch::Sender::new(None),
            mending: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            keep_ms: AtomicU64::new(0),
            key_keep_ms: AtomicU64::new(0),
            health: Mutex::new(Err(Cause::Opening)),
            warnings: Mutex::default(),
            open: Default::default(),
            later: AtomicUsize::new(0),
        }
    }

    pub(super) fn set_keep(&self, keep: Duration, key_keep: Duration) {
        self.keep_ms.store(millis(keep), Ordering::Relaxed);
        self.key_keep_ms.store(millis(key_keep), Ordering::Relaxed);
    }

    /// Returns for how many ms more a job of this start is kept.
    pub(super) fn job_ms(&self, started_ms: u64) -> u64 {
        self.rest(self.keep_ms.load(Ordering::Relaxed), started_ms)
    }

    /// Returns for how many ms more a start is kept: never less than until its deadline.
    pub(super) fn intent_ms(&self, is_keyed: bool, started_ms: u64, deadline_ms: u64) -> u64 {
        let keep = if is_keyed { &self.key_keep_ms } else { &self.keep_ms };
        let to_deadline = self.until(deadline_ms);
        self.rest(keep.load(Ordering::Relaxed), started_ms).max(to_deadline)
    }

    /// Returns for how many ms a start must be kept to outlive its deadline.
    pub(super) fn until(&self, deadline_ms: u64) -> u64 {
        // However odd a deadline is: no longer than a record of any kind.
        let longest = self.keep_ms.load(Ordering::Relaxed).max(millis(limits::REDIS_KEPT));
        (deadline_ms.saturating_sub(self.clock.wall_ms()) + millis(limits::REDIS_KEPT)).min(longest)
    }

    /// A copied record is not new; one of the future is.
    fn rest(&self, keep_ms: u64, started_ms: u64) -> u64 {
        let age = self.clock.wall_ms().saturating_sub(started_ms);
        keep_ms.saturating_sub(age).max(millis(limits::REDIS_KEPT))
    }

    pub(super) fn health(&self) -> Result<(), Cause> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes that writes succeed, or why they do not; says so in the log when that is news.
    pub(super) fn set_health(&self, health: Result<(), Cause>) {
        let mut held = self.health.lock().unwrap_or_else(PoisonError::into_inner);
        let store = self.location.to_string();
        match (&*held, &health) {
            (Err(Cause::Closed), _) => return,
            (Err(_), Ok(())) => tracing::info!(store, "job store open"),
            (Ok(()), Err(Cause::Closed)) => {}
            (before, Err(cause)) if before.as_ref().err().map(Cause::line) != Some(cause.line()) => {
                tracing::error!(store, error = cause.line(), "job store unusable");
            }
            _ => {}
        }
        *held = health;
    }

    pub(super) fn warnings(&self) -> Vec<String> {
        self.warnings.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set_warnings(&self, warnings: Vec<String>) {
        let mut held = self.warnings.lock().unwrap_or_else(PoisonError::into_inner);
        for warning in warnings.iter().filter(|warning| !held.contains(warning)) {
            tracing::warn!(store = self.location.to_string(), warning, "the job store may lose what it is given");
        }
        *held = warnings;
    }

    pub(super) fn open_count(&self, backend: BackendName) -> i64 {
        self.open[place(backend)].load(Ordering::Relaxed).max(0)
    }

    pub(super) fn set_open(&self, counts: [i64; 2]) {
        for (held, count) in self.open.iter().zip(counts) {
            held.store(count, Ordering::Relaxed);
        }
    }

    pub(super) fn add_open(&self, backend: BackendName, change: i64) {
        self.open[place(backend)].fetch_add(change, Ordering::Relaxed);
    }

    /// Returns the connection, or why there is none: then nothing is sent. Where one was lost just now, the first attempt
    /// at another is waited for: most of them succeed at once, and who asks meanwhile must not pay for it.
    async fn current(&self) -> Result<Link, Cause> {
        if self.closed.load(Ordering::Acquire) {
            return Err(Cause::Closed);
        }
        let mut links = self.link.subscribe();
        let decided = links.wait_for(|link| link.is_some() || !self.mending.load(Ordering::Acquire));
        let link = timeout(limits::REDIS_SETTLE, decided).await.ok().and_then(|held| held.ok()?.clone());
        link.ok_or_else(|| self.health().err().unwrap_or(Cause::Opening))
    }

    /// Notes that an attempt to connect has ended: with a connection, or with none.
    pub(super) fn attempted(&self, link: Option<Link>) {
        self.mending.store(false, Ordering::Release);
        self.link.send_replace(link);
    }

    /// Waits for a connection to ask once more by.
    async fn another(&self, failed: &Link) -> Option<Link> {
        if failed.heals() {
            sleep(limits::REDIS_RETRY).await;
            return Some(failed.clone());
        }
        let mut links = self.link.subscribe();
        let next = links.wait_for(|link| link.as_ref().is_some_and(|link| link.number > failed.number));
        timeout(limits::REDIS_SETTLE, next).await.ok()?.ok()?.clone()
    }

    /// Sends a command that changes nothing, and once more when the answer is lost.
    pub(super) async fn read(&self, command: &Cmd) -> Result<Value, StoreError> {
        let link = self.current().await.map_err(StoreError::Unavailable)?;
        let error = match link.read(command).await {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        self.failed(&link, &error);
        match self.another(&link).await {
            Some(link) => link.read(command).await.inspect_err(|error| self.failed(&link, error)),
            None => Err(error),
        }
    }

    /// Sends a write about one key. When its answer is lost it is sent once more: the answer to that settles whether
    /// it was carried out, since every script knows its own earlier doing by a token, or does not mind.
    pub(super) async fn write(&self, key: &str, command: &Cmd, care: Care) -> Result<Value, StoreError> {
        let durable = care == Care::Durable;
        let link = self.current().await.map_err(StoreError::NotWritten)?;
        let error = match link.write(key, command, durable).await {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        self.failed(&link, &error);
        let StoreError::MaybeWritten(cause) = &error else { return Err(error) };
        if !is_lost(cause) {
            return Err(error);
        }
        let Some(link) = self.another(&link).await else { return Err(error) };
        match link.write(key, command, durable).await {
            Ok(value) => Ok(value),
            Err(again) => {
                self.failed(&link, &again);
                let (StoreError::NotWritten(cause) | StoreError::MaybeWritten(cause) | StoreError::Unavailable(cause)) =
                    again;
                Err(StoreError::MaybeWritten(cause))
            }
        }
    }

    /// Takes note of a failure, and gives a connection up that is of no more use.
    fn failed(&self, link: &Link, error: &StoreError) {
        let (StoreError::NotWritten(cause) | StoreError::MaybeWritten(cause) | StoreError::Unavailable(cause)) = error;
        self.set_health(Err(cause.clone()));
        if is_lost(cause) && !link.heals() {
            self.link.send_if_modified(|held| {
                let is_it = held.as_ref().is_some_and(|held| held.number == link.number);
                if is_it {
                    self.mending.store(true, Ordering::Release);
                    *held = None;
                }
                is_it
            });
        }
    }

    /// Writes something that nobody waits for, again and again until it succeeds or has been tried too often.
    pub(super) fn later(self: &Arc<Context>, key: String, command: Cmd, care: Care) {
        if self.later.fetch_add(1, Ordering::AcqRel) >= limits::REDIS_LATER {
            self.later.fetch_sub(1, Ordering::AcqRel);
            tracing::warn!(key, "a write of the job store was given up: too many wait");
            return;
        }
        let context = Arc::clone(self);
        tokio::spawn(async move {
            for _ in 0..limits::FREE_TRIES {
                if context.write(&key, &command, care).await.is_ok() || context.closed.load(Ordering::Acquire) {
                    break;
                }
                sleep(limits::STORE_RETRY).await;
            }
            context.later.fetch_sub(1, Ordering::AcqRel);
        });
    }

    /// Returns how many such writes are under way.
    pub(super) fn waiting(&self) -> usize {
        self.later.load(Ordering::Acquire)
    }
}
