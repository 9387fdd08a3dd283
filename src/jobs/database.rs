//! The look-up of `input_key` in a user's SQLite database, beside the backend that writes it.
//!
//! It only reads, holds no lock between two look-ups, and never makes a runtime thread wait. A database that is locked
//! moves from the quick threads, which never wait, to the patient ones.

use std::collections::VecDeque;
use std::fs;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender, TrySendError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rusqlite::config::DbConfig;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, ErrorCode, OpenFlags, Row};
use tokio::sync::oneshot;

use super::input_key::{Filling, LookupError, LookupFailure, fill};
use crate::limits;
use crate::names::UserId;
use crate::routing::table::DatabaseLookup;

/// The threads that look up, shared by all runtimes.
#[derive(Debug)]
pub struct Lookups {
    /// A user always has the same one, so that its handle is there again.
    quick: Vec<SyncSender<Ask>>,
}

/// One look-up that waits.
struct Ask {
    path: PathBuf,
    lookup: DatabaseLookup,
    user: UserId,
    project_id: i64,
    since: Instant,
    reply: oneshot::Sender<Result<String, LookupError>>,
}

impl Lookups {
    /// Starts the threads; they end with the value.
    ///
    /// # Panics
    /// When the system gives no thread: start-up only.
    pub fn start() -> Lookups {
        let (patient, waiting) = mpsc::sync_channel::<Ask>(limits::LOOKUP_QUEUE);
        let waiting = Arc::new(Mutex::new(waiting));
        for _ in 0..limits::LOOKUP_PATIENT_THREADS {
            let waiting = Arc::clone(&waiting);
            spawn("lookup-wait", move || {
                while let Some(ask) = next(&waiting) {
                    wait_and_answer(ask);
                }
            });
        }
        let start = |_| {
            let (asks, queue) = mpsc::sync_channel(limits::LOOKUP_QUEUE / limits::LOOKUP_THREADS);
            let patient = patient.clone();
            spawn("lookup", move || serve(&queue, &patient));
            asks
        };
        Lookups { quick: (0..limits::LOOKUP_THREADS).map(start).collect() }
    }

    /// Looks a key up for a user and a project.
    ///
    /// # Errors
    /// [`LookupError::Missing`] when the query finds no row, [`LookupError::Failed`] for everything else.
    pub async fn look_up(
        &self,
        lookup: &DatabaseLookup,
        user: &UserId,
        project_id: i64,
    ) -> Result<String, LookupError> {
        let (reply, answer) = oneshot::channel();
        let ask = Ask {
            path: PathBuf::from(lookup.database.replace("{user_id}", user.as_str())),
            lookup: lookup.clone(),
            user: user.clone(),
            project_id,
            since: Instant::now(),
            reply,
        };
        let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(user);
        let thread = usize::try_from(hash % limits::LOOKUP_THREADS as u64).expect("below the number of threads");
        self.quick[thread].try_send(ask).map_err(|error| {
            LookupError::Failed(match error {
                TrySendError::Full(_) => LookupFailure::QueueFull,
                TrySendError::Disconnected(_) => LookupFailure::Closed,
            })
        })?;
        match tokio::time::timeout(limits::LOOKUP_WAIT, answer).await {
            Ok(Ok(result)) => result,
            Ok(Err(_dropped)) => Err(LookupError::Failed(LookupFailure::Closed)),
            Err(_late) => Err(LookupError::Failed(LookupFailure::TooSlow)),
        }
    }
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) {
    std::thread::Builder::new().name(name.to_owned()).spawn(run).expect("a thread at start-up");
}

fn next(queue: &Mutex<Receiver<Ask>>) -> Option<Ask> {
    queue.lock().unwrap_or_else(PoisonError::into_inner).recv().ok()
}

/// A quick thread: answers with kept handles, and hands on what is locked.
fn serve(queue: &Receiver<Ask>, patient: &SyncSender<Ask>) {
    let mut handles = Handles::default();
    while let Ok(ask) = queue.recv() {
        // Whoever stopped waiting has been answered already.
        if ask.reply.is_closed() {
            continue;
        }
        let result = handles.take(&ask.path).and_then(|handle| {
            let result = handle.look_up(&ask);
            // After an error the next look-up opens the file anew.
            if matches!(result, Ok(_) | Err(LookupError::Missing)) {
                handles.keep(handle);
            }
            result
        });
        if is_locked(&result) {
            if let Err(TrySendError::Full(ask) | TrySendError::Disconnected(ask)) = patient.try_send(ask) {
                answer(ask, result);
            }
        } else {
            answer(ask, result);
        }
    }
}

/// A patient thread: opens the file anew and waits for its lock, as long as the rest of the time allows.
fn wait_and_answer(ask: Ask) {
    let rest = limits::LOOKUP_BUSY.saturating_sub(ask.since.elapsed());
    if ask.reply.is_closed() {
        return;
    }
    let result = Handle::open(&ask.path, rest).and_then(|handle| handle.look_up(&ask));
    answer(ask, result);
}

fn answer(ask: Ask, result: Result<String, LookupError>) {
    // Nobody listens when the caller stopped waiting.
    let _ = ask.reply.send(result);
}

fn is_locked(result: &Result<String, LookupError>) -> bool {
    match result {
        Err(LookupError::Failed(LookupFailure::Sqlite(error))) => {
            matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
        }
        _ => false,
    }
}

/// A thread's open databases, the one used last at the end.
#[derive(Default)]
struct Handles(VecDeque<Handle>);

impl Handles {
    /// Most handles of one thread. The patient threads have one each, for a moment.
    const MOST: usize = (limits::LOOKUP_HANDLES - limits::LOOKUP_PATIENT_THREADS) / limits::LOOKUP_THREADS;

    /// Takes the handle of a file out, or opens the file when it is not the same one any more.
    fn take(&mut self, path: &Path) -> Result<Handle, LookupError> {
        let held = self.0.iter().rposition(|handle| handle.path == path).and_then(|at| self.0.remove(at));
        match held {
            // A file replaced by rename leaves the handle on the old one.
            Some(handle) if identity(path).is_ok_and(|now| now == handle.identity) => Ok(handle),
            _ => Handle::open(path, Duration::ZERO),
        }
    }

    fn keep(&mut self, handle: Handle) {
        if self.0.len() >= Self::MOST {
            self.0.pop_front();
        }
        self.0.push_back(handle);
    }
}

/// One open database.
struct Handle {
    conn: Connection,
    path: PathBuf,
    identity: (u64, u64),
    steps: Arc<AtomicU32>,
}

impl Handle {
    fn open(path: &Path, busy: Duration) -> Result<Handle, LookupError> {
        let identity = identity(path)?;
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut conn = Connection::open_with_flags(path, flags).map_err(sqlite)?;
        conn.busy_timeout(busy).map_err(sqlite)?;
        // A plan holds for any project: else each new value has the query planned again, a fifth of a look-up.
        conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true).map_err(sqlite)?;
        conn.execute_batch("PRAGMA query_only = ON; PRAGMA trusted_schema = OFF;").map_err(sqlite)?;
        let steps = Arc::new(AtomicU32::new(0));
        let taken = Arc::clone(&steps);
        let is_too_much = move || taken.fetch_add(1, Ordering::Relaxed) >= limits::LOOKUP_STEPS;
        conn.progress_handler(limits::LOOKUP_STEP_UNIT, Some(is_too_much)).map_err(sqlite)?;
        Ok(Handle { conn, path: path.to_owned(), identity, steps })
    }

    /// Reads one row. The statement is finished when this returns: one that stays open would keep the writer out.
    fn look_up(&self, ask: &Ask) -> Result<String, LookupError> {
        self.steps.store(0, Ordering::Relaxed);
        let mut statement = self.conn.prepare_cached(&ask.lookup.query).map_err(sqlite)?;
        if let Some(index) = statement.parameter_index(":project_id").map_err(sqlite)? {
            statement.raw_bind_parameter(index, ask.project_id).map_err(sqlite)?;
        }
        if let Some(index) = statement.parameter_index(":user_id").map_err(sqlite)? {
            statement.raw_bind_parameter(index, ask.user.as_str()).map_err(sqlite)?;
        }
        let columns: Vec<String> = statement.column_names().map(str::to_owned).collect();
        let mut rows = statement.raw_query();
        let row = rows.next().map_err(sqlite)?.ok_or(LookupError::Missing)?;
        Ok(fill(&ask.lookup.key, |name| filling(row, &columns, name))?)
    }
}

fn filling(row: &Row<'_>, columns: &[String], name: &str) -> Option<Filling> {
    let index = columns.iter().position(|column| column == name)?;
    let value = row.get_ref(index).expect("the index of a column of this row");
    Some(match value {
        ValueRef::Null => Filling::Null,
        ValueRef::Integer(number) => Filling::Text(number.to_string()),
        ValueRef::Text(bytes) => {
            std::str::from_utf8(bytes).map_or(Filling::Other, |text| Filling::Text(text.to_owned()))
        }
        ValueRef::Real(_) | ValueRef::Blob(_) => Filling::Other,
    })
}

/// Returns device and inode of a regular file: anything else (a pipe) could make the open wait for ever.
fn identity(path: &Path) -> Result<(u64, u64), LookupError> {
    let file = |source| LookupError::Failed(LookupFailure::File(Arc::new(source)));
    let metadata = fs::metadata(path).map_err(file)?;
    if !metadata.is_file() {
        return Err(file(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")));
    }
    Ok((metadata.dev(), metadata.ino()))
}

fn sqlite(error: rusqlite::Error) -> LookupError {
    LookupError::Failed(LookupFailure::Sqlite(Arc::new(error)))
}

#[cfg(test)]
mod tests;
