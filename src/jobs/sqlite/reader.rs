//! The reading threads of the embedded store: own read-only connections, so that a read never waits behind an fsync.

use std::sync::atomic::Ordering;
use std::sync::mpsc::{self, Receiver, SyncSender, TrySendError};
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::{Connection, ErrorCode};

use super::handle::Shared;
use super::schema;
use crate::jobs::store::Cause;
use crate::limits;

/// Something to read, and what to do with it.
pub(super) type Ask = Box<dyn FnOnce(&mut Reader) + Send>;

/// The queue in front of the reading threads.
#[derive(Debug)]
pub(super) struct Readers {
    asks: SyncSender<Ask>,
}

impl Readers {
    pub(super) fn start(shared: &Arc<Shared>) -> Readers {
        let (asks, queue) = mpsc::sync_channel(limits::STORE_QUEUE);
        let queue = Arc::new(Mutex::new(queue));
        for _ in 0..limits::STORE_READERS {
            let queue = Arc::clone(&queue);
            let mut reader = Reader { shared: Arc::clone(shared), conn: None, generation: 0 };
            let run = move || {
                while let Some(ask) = next(&queue) {
                    ask(&mut reader);
                }
            };
            std::thread::Builder::new().name("store-read".to_owned()).spawn(run).expect("a thread at start-up");
        }
        Readers { asks }
    }

    pub(super) fn ask(&self, ask: Ask) -> Result<(), Cause> {
        self.asks.try_send(ask).map_err(|error| match error {
            TrySendError::Full(_) => Cause::QueueFull,
            TrySendError::Disconnected(_) => Cause::Closed,
        })
    }
}

/// Waits for the next question; one idle thread waits in the queue, the others for the lock.
fn next(queue: &Mutex<Receiver<Ask>>) -> Option<Ask> {
    queue.lock().unwrap_or_else(PoisonError::into_inner).recv().ok()
}

/// One thread's view of the file.
pub(super) struct Reader {
    shared: Arc<Shared>,
    conn: Option<Connection>,
    generation: u64,
}

impl Reader {
    /// Reads with the open connection, or opens one; after an error the next read opens it anew.
    pub(super) fn with<T>(&mut self, read: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, Cause> {
        let generation = self.shared.generation.load(Ordering::Acquire);
        if generation != self.generation {
            self.conn = None;
            self.generation = generation;
        }
        let conn = match self.conn.take() {
            Some(conn) => conn,
            None => schema::open_for_reading(&self.shared.path).map_err(|error| self.failed(error))?,
        };
        let value = read(&conn).map_err(|error| self.failed(error))?;
        self.conn = Some(conn);
        Ok(value)
    }

    fn failed(&self, error: rusqlite::Error) -> Cause {
        if is_damage(&error) {
            self.shared.damaged.store(true, Ordering::Release);
        }
        // A store that was never there has a better cause than "cannot open".
        match self.shared.health() {
            Err(cause) if error.sqlite_error_code() == Some(ErrorCode::CannotOpen) => cause,
            _ => Cause::from(error),
        }
    }
}

/// Says whether an error means that the file's content is damaged.
pub(super) fn is_damage(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase))
}
