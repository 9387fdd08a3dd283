//! What becomes of a damaged store: readable rows go into a fresh file, the damaged one is set aside under a name.
//!
//! A crash at any moment of it leaves either the damaged store or the whole fresh one, never less.

use std::fs;
use std::io;
use std::path::Path;

use rusqlite::{Connection, OptionalExtension, Row, params_from_iter, types::Value};

use super::writer::{beside, file_cause};
use super::{intents, rows, schema};
use crate::jobs::store::Cause;
use crate::limits;

/// Finishes an exchange that a crash interrupted, or throws a half-made copy away.
pub(super) fn complete(store: &Path) -> Result<(), Cause> {
    let fresh = beside(store, ".rescue");
    if !exists(&fresh)? {
        return Ok(());
    }
    if exists(store)? {
        return remove_all(&fresh);
    }
    // The damaged file has moved, so the copy is whole; what is left of the old log must not meet it.
    remove(&beside(store, "-wal"))?;
    remove(&beside(store, "-shm"))?;
    rename(&fresh, store)
}

/// Copies what can be read into a fresh file, moves the damaged one to `….damaged-<ms>` and puts the fresh in its place.
pub(super) fn set_aside(store: &Path, now_ms: u64) -> Result<(), Cause> {
    if count_set_aside(store) >= limits::DAMAGED_KEPT {
        return Err(Cause::DamagedAgain(store.to_owned()));
    }
    let fresh = beside(store, ".rescue");
    remove_all(&fresh)?;
    let kept = {
        let target = schema::open_for_writing(&fresh)?;
        let kept = copy(store, &target)?;
        // Everything into the one file: the log of the copy is not renamed with it.
        target.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
        target.close().map_err(|(_, error)| error)?;
        kept
    };
    let damaged = beside(store, &format!(".damaged-{now_ms}"));
    rename(store, &damaged)?;
    if exists(&beside(store, "-wal"))? {
        rename(&beside(store, "-wal"), &beside(&damaged, "-wal"))?;
    }
    remove(&beside(store, "-shm"))?;
    rename(&fresh, store)?;
    tracing::error!(
        damaged = %damaged.display(),
        jobs_kept = kept.0,
        intents_kept = kept.1,
        "job store was damaged; readable records are kept, the damaged file is set aside"
    );
    Ok(())
}

/// Copies readable rows; a source that cannot even be opened yields none.
fn copy(store: &Path, target: &Connection) -> Result<(usize, usize), Cause> {
    let Ok(source) = schema::open_for_reading(store) else { return Ok((0, 0)) };
    // Lets SQLite read a file that is shorter than its header says; nothing is written to it.
    source.execute_batch("PRAGMA writable_schema = ON")?;
    target.execute_batch("BEGIN IMMEDIATE")?;
    let jobs = copy_table(&source, target, "jobs", rows::JOB_COLUMNS, |row| {
        rows::valid(rows::read_job(row)).map(|job| job.is_some())
    })?;
    let is_current = source.prepare("SELECT token FROM intents LIMIT 0").is_ok();
    let columns = if is_current { intents::ALL_COLUMNS } else { intents::COLUMNS };
    let intents = copy_table(&source, target, "intents", columns, |row| {
        let intent = if is_current { intents::read_all(row, 0) } else { intents::read(row, 0) };
        rows::valid(intent).map(|intent| intent.is_some())
    })?;
    target.execute_batch("COMMIT")?;
    Ok((jobs, intents))
}

/// Walks a table in the order of its rows, and over the gap where a page cannot be read.
fn copy_table(
    source: &Connection,
    target: &Connection,
    table: &str,
    columns: &str,
    is_valid: impl Fn(&Row<'_>) -> rusqlite::Result<bool>,
) -> Result<usize, Cause> {
    let width = columns.split(',').count();
    let select = format!("SELECT {columns}, seq FROM {table} NOT INDEXED WHERE seq > ? ORDER BY seq");
    let marks = vec!["?"; width].join(", ");
    let mut insert = target.prepare(&format!("INSERT OR IGNORE INTO {table} ({columns}) VALUES ({marks})"))?;
    let mut kept = 0;
    let mut last = -1i64;
    loop {
        // A source without the table has nothing to give.
        let Ok(mut statement) = source.prepare(&select) else { return Ok(kept) };
        let Ok(mut found) = statement.query([last]) else { return Ok(kept) };
        let broken = loop {
            let row = match found.next() {
                Ok(Some(row)) => row,
                Ok(None) => break false,
                Err(_damage) => break true,
            };
            let Ok(seq) = row.get::<_, i64>(width) else { break true };
            last = last.max(seq);
            if is_valid(row).unwrap_or(false) {
                let values: rusqlite::Result<Vec<Value>> = (0..width).map(|column| row.get(column)).collect();
                kept += insert.execute(params_from_iter(values?))?;
            }
        };
        drop(found);
        drop(statement);
        if !broken {
            return Ok(kept);
        }
        match next_readable(source, table, last) {
            Some(seq) => last = seq - 1,
            None => return Ok(kept),
        }
    }
}

/// Finds a row beyond the damage after `last`: ever longer steps forward, then back to the first that can be read.
fn next_readable(source: &Connection, table: &str, last: i64) -> Option<i64> {
    let sql = format!("SELECT seq FROM {table} NOT INDEXED WHERE seq >= ? ORDER BY seq LIMIT 1");
    // The end of the table counts as readable: rows may lie between the damage and it.
    let read = |from: i64| source.query_row(&sql, [from], |row| row.get::<_, i64>(0)).optional();
    let (mut bad, mut step) = (last.saturating_add(1), 1i64);
    let mut good = loop {
        let from = bad.checked_add(step)?;
        if read(from).is_ok() {
            break from;
        }
        (bad, step) = (from, step.checked_mul(2)?);
    };
    while good - bad > 1 {
        let middle = bad + (good - bad) / 2;
        if read(middle).is_ok() { good = middle } else { bad = middle }
    }
    read(good).ok().flatten()
}

/// Counts damaged files of before, each with its log as one.
fn count_set_aside(store: &Path) -> usize {
    let Some(prefix) = beside(store, ".damaged-").file_name().map(|name| name.to_string_lossy().into_owned()) else {
        return 0;
    };
    let folder = store.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| name.starts_with(&prefix) && !name.ends_with("-wal")).count()
}

fn exists(path: &Path) -> Result<bool, Cause> {
    fs::exists(path).map_err(|source| file_cause(path, source))
}

fn rename(from: &Path, to: &Path) -> Result<(), Cause> {
    fs::rename(from, to).map_err(|source| file_cause(from, source))
}

fn remove(path: &Path) -> Result<(), Cause> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(file_cause(path, source)),
        _ => Ok(()),
    }
}

fn remove_all(path: &Path) -> Result<(), Cause> {
    for ending in ["", "-wal", "-shm"] {
        remove(&beside(path, ending))?;
    }
    Ok(())
}
