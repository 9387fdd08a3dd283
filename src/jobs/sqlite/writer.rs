//! The writing thread of the embedded store: group commit, recovery, and expiry when it has nothing else to do.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode};
use tokio::sync::oneshot;

use super::expiry::{Expiry, Keep};
use super::handle::Shared;
use super::ops::{Op, apply};
use super::reader::is_damage;
use super::rows::{self, Effect};
use super::{lock, rescue, schema};
use crate::jobs::store::{Cause, StoreError};
use crate::limits;

/// What the writing thread is asked for.
pub(super) enum Message {
    Write(Write),
    Close(oneshot::Sender<()>),
}

/// One write that waits.
pub(super) struct Write {
    pub(super) op: Op,
    pub(super) reply: Option<oneshot::Sender<Result<bool, StoreError>>>,
    /// Set by the writer when it begins, or by the caller when it stops waiting: the first one wins.
    pub(super) taken: Arc<AtomicBool>,
}

/// Owns the connection that writes.
pub(super) struct Writer {
    shared: Arc<Shared>,
    open: Option<Opened>,
    /// Monotonic time of the next attempt to open.
    retry_at: Duration,
    /// The file's structure is checked once per process, and again after damage.
    checked: bool,
    /// Monotonic time of the next count of open jobs, while another process writes, too.
    recount_at: Option<Duration>,
    expiry: Expiry,
}

/// An open file, and which one it was.
struct Opened {
    conn: Connection,
    identity: Option<(u64, u64)>,
}

impl Writer {
    pub(super) fn new(shared: Arc<Shared>) -> Writer {
        let expiry = Expiry::new(&shared.clock);
        Writer { shared, open: None, retry_at: Duration::ZERO, checked: false, recount_at: None, expiry }
    }

    /// Serves the queue until it is closed.
    pub(super) fn run(mut self, queue: &Receiver<Message>) {
        let mut batch = Vec::with_capacity(limits::STORE_BATCH);
        loop {
            self.ready();
            let closing = match queue.recv_timeout(self.wait()) {
                Ok(first) => gather(first, queue, &mut batch),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => break,
            };
            if !batch.is_empty() {
                self.write(&mut batch);
            }
            if let Some(done) = closing {
                drop(self);
                // Nobody listens when the caller stopped waiting.
                let _ = done.send(());
                return;
            }
            self.expire();
            self.recount();
        }
    }

    /// Opens the store when it is not open and an attempt is due.
    pub(super) fn ready(&mut self) {
        let now = self.shared.clock.monotonic();
        if now < self.retry_at {
            return;
        }
        if self.shared.damaged.swap(false, Ordering::AcqRel) {
            self.checked = false;
            self.open = None;
            // A damage that the check does not find must not make it run for every read.
            self.retry_at = now + limits::STORE_RETRY;
        }
        if self.open.is_some() {
            return;
        }
        match self.try_open() {
            Ok(opened) => {
                self.open = Some(opened);
                self.shared.generation.fetch_add(1, Ordering::AcqRel);
                if self.shared.health().is_err() {
                    tracing::info!(path = %self.shared.path.display(), "job store open");
                }
                self.shared.set_health(Ok(()));
            }
            Err(cause) => self.failed(cause),
        }
    }

    fn try_open(&mut self) -> Result<Opened, Cause> {
        let path = &self.shared.path;
        {
            let mut held = self.shared.lock();
            if held.is_none() {
                *held = Some(lock::take(path)?);
            }
        }
        // Files are exchanged by one process alone: the other would go on writing into what was set aside.
        let in_company = self.shared.in_company();
        if !in_company {
            rescue::complete(path)?;
        }
        let mut opened = schema::open_for_writing(path).and_then(|conn| self.check(conn));
        if let Err(Cause::Sqlite(error)) = &opened
            && is_damage(error)
            && !in_company
        {
            rescue::set_aside(path, self.shared.clock.wall_ms())?;
            opened = schema::open_for_writing(path).and_then(|conn| self.check(conn));
        }
        let conn = opened?;
        self.checked = true;
        self.set_counts(rows::open_counts(&conn)?);
        // Makes the new files' names durable too: SQLite syncs the files, not always their folder.
        sync_folder(path)?;
        Ok(Opened { conn, identity: identity(path) })
    }

    /// Passes on a connection to a sound file that takes writes.
    fn check(&self, conn: Connection) -> Result<Connection, Cause> {
        if !self.checked && !schema::is_sound(&conn)? {
            let damage = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT);
            return Err(rusqlite::Error::SqliteFailure(damage, Some("quick_check found damage".to_owned())).into());
        }
        // A write that changes nothing still shows a read-only, locked or full disk.
        let version: i64 = conn.query_row("PRAGMA user_version", [], |row| row.get(0))?;
        conn.execute_batch(&format!("BEGIN IMMEDIATE; PRAGMA user_version = {version}; COMMIT;"))?;
        Ok(conn)
    }

    fn failed(&mut self, cause: Cause) {
        if self.shared.health().map_err(|before| before.line()) != Err(cause.line()) {
            tracing::error!(path = %self.shared.path.display(), error = cause.line(), "job store unusable");
        }
        if let Cause::Sqlite(error) = &cause
            && is_damage(error)
        {
            self.checked = false;
        }
        self.open = None;
        self.retry_at = self.shared.clock.monotonic() + limits::STORE_RETRY;
        self.shared.set_health(Err(cause));
    }

    /// How long the queue may stay silent before this thread has to look after itself.
    fn wait(&self) -> Duration {
        if self.open.is_none() {
            let rest = self.retry_at.saturating_sub(self.shared.clock.monotonic());
            return rest.clamp(Duration::from_millis(1), limits::STORE_RETRY);
        }
        self.expiry.wait(&self.shared.clock).min(limits::STORE_RETRY)
    }

    fn write(&mut self, batch: &mut Vec<Write>) {
        let Some(opened) = &self.open else {
            let cause = self.shared.health().err().unwrap_or(Cause::Opening);
            return answer_all(batch, &StoreError::NotWritten(cause));
        };
        // Writes into a file that has lost its name would be acknowledged and gone.
        if opened.identity != identity(&self.shared.path) {
            let cause = Cause::Replaced(self.shared.path.clone());
            self.failed(cause.clone());
            return answer_all(batch, &StoreError::NotWritten(cause));
        }
        match commit(&opened.conn, batch, self.shared.run) {
            Ok(results) => {
                let mut sum = Effect::default();
                results.iter().flatten().for_each(|effect| sum.add_open(effect.open));
                // Before anybody is answered: who knows of a write finds it counted.
                self.count(sum);
                for (write, result) in batch.drain(..).zip(results) {
                    let result = result.map(|effect| effect.changed);
                    answer(write, result.map_err(|error| StoreError::NotWritten(error.into())));
                }
            }
            Err(error) => {
                let (StoreError::NotWritten(cause) | StoreError::MaybeWritten(cause) | StoreError::Unavailable(cause)) =
                    &error;
                self.failed(cause.clone());
                answer_all(batch, &error);
            }
        }
    }

    fn count(&self, effect: Effect) {
        for (count, change) in self.shared.open.iter().zip(effect.open) {
            count.fetch_add(change, Ordering::Relaxed);
        }
    }

    fn set_counts(&self, counted: [i64; 2]) {
        for (count, counted) in self.shared.open.iter().zip(counted) {
            count.store(counted, Ordering::Relaxed);
        }
    }

    /// Counts open jobs anew while another process writes, and once more when it is gone.
    fn recount(&mut self) {
        let in_company = self.shared.in_company();
        let now = self.shared.clock.monotonic();
        let is_due = match self.recount_at {
            Some(at) => !in_company || now >= at,
            None => in_company,
        };
        let Some(opened) = self.open.as_ref().filter(|_| is_due) else { return };
        match rows::open_counts(&opened.conn) {
            Ok(counted) => self.set_counts(counted),
            Err(error) => return self.failed(error.into()),
        }
        self.recount_at = in_company.then(|| now + limits::STORE_RETRY);
    }

    fn expire(&mut self) {
        let Some(opened) = &self.open else { return };
        let read = |ms: &AtomicU64| Duration::from_millis(ms.load(Ordering::Relaxed));
        let keep = Keep { records: read(&self.shared.keep_ms), keys: read(&self.shared.key_keep_ms) };
        match self.expiry.step(&opened.conn, &self.shared.clock, keep) {
            Ok(effect) => self.count(effect),
            Err(error) => self.failed(error.into()),
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.shared.set_health(Err(Cause::Closed));
        self.open = None;
        // Only now: whoever gets the lock finds the file closed.
        *self.shared.lock() = None;
    }
}

/// Takes what waits, up to a batch; returns the wish to close when it is among it.
fn gather(first: Message, queue: &Receiver<Message>, batch: &mut Vec<Write>) -> Option<oneshot::Sender<()>> {
    let mut next = Some(first);
    while let Some(message) = next {
        match message {
            Message::Close(done) => return Some(done),
            Message::Write(write) => {
                if !write.taken.swap(true, Ordering::AcqRel) {
                    batch.push(write);
                }
            }
        }
        next = if batch.len() < limits::STORE_BATCH { queue.try_recv().ok() } else { None };
    }
    None
}

/// Writes a batch in one transaction. An operation's own fault fails it alone, the file's fault fails all.
fn commit(conn: &Connection, batch: &[Write], this_run: i64) -> Result<Vec<rusqlite::Result<Effect>>, StoreError> {
    let not_written = |error: rusqlite::Error| StoreError::NotWritten(error.into());
    run(conn, "BEGIN IMMEDIATE").map_err(not_written)?;
    let mut results = Vec::with_capacity(batch.len());
    for write in batch {
        match apply(conn, &write.op, this_run) {
            Err(error) if conn.is_autocommit() || !is_own_fault(&error) => {
                // Some errors have rolled back already; then this fails and changes nothing.
                let _ = run(conn, "ROLLBACK");
                return Err(not_written(error));
            }
            result => results.push(result),
        }
    }
    match run(conn, "COMMIT") {
        Ok(()) => Ok(results),
        Err(error) => {
            let _ = run(conn, "ROLLBACK");
            Err(uncommitted(error))
        }
    }
}

/// Says what a failed COMMIT means. A full disk has cut the commit frame itself and a lock was met before any write;
/// after any other error (fsync) the frames may be whole, and a restart may find them.
fn uncommitted(error: rusqlite::Error) -> StoreError {
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull | ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked | ErrorCode::ReadOnly) => {
            StoreError::NotWritten(error.into())
        }
        _ => StoreError::MaybeWritten(error.into()),
    }
}

/// Says whether the operation's values are to blame, and not the file.
fn is_own_fault(error: &rusqlite::Error) -> bool {
    match error.sqlite_error_code() {
        Some(code) => matches!(code, ErrorCode::ConstraintViolation | ErrorCode::TooBig | ErrorCode::TypeMismatch),
        None => true,
    }
}

pub(super) fn run(conn: &Connection, sql: &str) -> rusqlite::Result<()> {
    conn.prepare_cached(sql)?.execute([]).map(|_| ())
}

fn answer_all(batch: &mut Vec<Write>, error: &StoreError) {
    for write in batch.drain(..) {
        answer(write, Err(error.clone()));
    }
}

fn answer(write: Write, result: Result<bool, StoreError>) {
    match (write.reply, result) {
        // Nobody listens when the caller stopped waiting.
        (Some(reply), result) => drop(reply.send(result)),
        (None, Err(error)) => tracing::warn!(error = error.line(), "a write of the job store failed"),
        (None, Ok(_)) => {}
    }
}

/// Returns the store's path with something added to its last part.
pub(super) fn beside(store: &Path, ending: &str) -> PathBuf {
    let mut path = store.as_os_str().to_owned();
    path.push(ending);
    PathBuf::from(path)
}

pub(super) fn file_cause(path: &Path, source: std::io::Error) -> Cause {
    Cause::File { path: path.to_owned(), source: Arc::new(source) }
}

fn sync_folder(store: &Path) -> Result<(), Cause> {
    let folder = store.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(|source| file_cause(folder, source))
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    fs::metadata(path).ok().map(|file| (file.dev(), file.ino()))
}
