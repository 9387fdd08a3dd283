//! The embedded store's file: how it is opened, its tables and their version.
//!
//! Versions only ever add tables, columns and indexes, so that an older gateway can be put back.

use std::path::Path;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use crate::jobs::store::Cause;
use crate::limits;

/// One step per version; `PRAGMA user_version` says how many have been taken.
pub(crate) const STEPS: [&str; 2] = [
    "
CREATE TABLE jobs (
    seq INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    backend TEXT NOT NULL,
    export TEXT,
    user TEXT,
    started_ms INTEGER NOT NULL,
    state TEXT NOT NULL
) STRICT;
CREATE INDEX jobs_started ON jobs (started_ms);
CREATE INDEX jobs_open ON jobs (backend, started_ms) WHERE state = 'open';
CREATE TABLE intents (
    seq INTEGER PRIMARY KEY,
    key TEXT NOT NULL UNIQUE,
    request_id TEXT NOT NULL,
    user TEXT,
    export TEXT NOT NULL,
    backend TEXT NOT NULL,
    started_ms INTEGER NOT NULL,
    deadline_ms INTEGER NOT NULL,
    state TEXT NOT NULL
) STRICT;
CREATE INDEX intents_started ON intents (started_ms);
",
    "
ALTER TABLE intents ADD COLUMN token TEXT;
ALTER TABLE intents ADD COLUMN body BLOB;
ALTER TABLE intents ADD COLUMN resend BLOB;
ALTER TABLE intents ADD COLUMN run INTEGER;
ALTER TABLE intents ADD COLUMN status INTEGER;
ALTER TABLE intents ADD COLUMN content_type TEXT;
ALTER TABLE intents ADD COLUMN answer BLOB;
CREATE INDEX intents_open ON intents (started_ms) WHERE state <> 'answered';
",
];

/// Opens the store for writing, makes it when it is not there, and brings its tables up to date.
pub(super) fn open_for_writing(path: &Path) -> Result<Connection, Cause> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(path, flags)?;
    conn.busy_timeout(limits::STORE_BUSY)?;
    conn.set_prepared_statement_cache_capacity(32);
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    let version = version(&conn)?;
    let tables: i64 = conn.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    if version == 0 && tables > 0 {
        return Err(Cause::Foreign(path.to_owned()));
    }
    // WAL: readers never wait for the writer. FULL: a commit is on the disk before it is answered.
    let _mode: String = conn.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))?;
    conn.execute_batch(
        "PRAGMA synchronous = FULL;
         PRAGMA cache_size = -16384;
         PRAGMA journal_size_limit = 67108864;
         PRAGMA trusted_schema = OFF;
         PRAGMA cell_size_check = ON;",
    )?;
    for (taken, step) in STEPS.iter().enumerate().skip(version) {
        let next = taken + 1;
        conn.execute_batch(&format!("BEGIN IMMEDIATE; {step} PRAGMA user_version = {next}; COMMIT;"))?;
    }
    Ok(conn)
}

/// Opens the store for reading only, beside whoever writes.
pub(crate) fn open_for_reading(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(path, flags)?;
    conn.busy_timeout(limits::STORE_BUSY)?;
    // A plan holds for any value: else a statement is planned again whenever another job is asked for.
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    conn.execute_batch("PRAGMA query_only = ON; PRAGMA trusted_schema = OFF; PRAGMA cell_size_check = ON;")?;
    Ok(conn)
}

/// Says whether the file's structure is sound.
pub(super) fn is_sound(conn: &Connection) -> rusqlite::Result<bool> {
    let first: String = conn.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    Ok(first == "ok")
}

fn version(conn: &Connection) -> rusqlite::Result<usize> {
    let version: i64 = conn.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    Ok(usize::try_from(version).unwrap_or(0))
}
