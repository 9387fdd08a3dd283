//! Two processes on one store, while one takes over from the other; here two handles with one lock.

use std::fs;
use std::os::unix::fs::FileExt;

use super::*;
use crate::jobs::store::{Cause, StoreError};

/// Opens a store and a second one beside it, as the process that takes over does.
fn two(path: &Path) -> (SqliteStore, SqliteStore) {
    let old = open(path);
    let lock = old.pass_on().unwrap().expect("a lock");
    (old, SqliteStore::open_beside(path, settings(), Some(lock)).unwrap())
}

#[tokio::test]
async fn both_write_at_once_and_each_reads_what_the_other_wrote() {
    let dir = tempfile::tempdir().unwrap();
    let (old, new) = two(&dir.path().join("jobs.db"));
    assert!(old.in_company() && new.in_company());
    let writes = |store: &'static str, to| {
        all((0..200).map(move |number| async move {
            let to: &SqliteStore = to;
            to.put_job(job(&format!("{store}-{number}"), Some("ann")), None).await.unwrap();
        }))
    };
    tokio::join!(writes("old", &old), writes("new", &new));
    for number in 0..200 {
        assert!(old.job(&id(&format!("new-{number}"))).await.unwrap().is_some());
        assert!(new.job(&id(&format!("old-{number}"))).await.unwrap().is_some());
    }
    let claimed = intent("key");
    old.put_intent(claimed.clone()).await.unwrap();
    assert!(matches!(new.put_intent(claimed).await, Err(StoreError::NotWritten(_))), "a key is one start's, in both");
    old.close().await.unwrap();
    new.alone();
    until("all are counted", async || new.open_count(BackendName::Workers) == 400).await;
}

#[tokio::test]
async fn the_lock_stays_held_when_the_first_one_ends() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("jobs.db");
    let (old, new) = two(&path);
    assert!(old.pass_on().is_err() && new.pass_on().is_err(), "two at the most");
    assert!(SqliteStore::open(&path, settings()).is_err());
    old.close().await.unwrap();
    assert!(SqliteStore::open(&path, settings()).is_err());
    new.close().await.unwrap();
    drop((old, new));
    open(&path).health().unwrap();
}

#[tokio::test]
async fn a_lock_of_another_store_counts_for_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (one, other) = (dir.path().join("jobs.db"), dir.path().join("other.db"));
    let (first, second) = (open(&one), open(&other));
    let lock = first.pass_on().unwrap();
    assert!(SqliteStore::open_beside(&other, settings(), lock).is_err());
    second.health().unwrap();
}

#[tokio::test]
async fn a_damaged_file_is_set_aside_by_one_process_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("jobs.db");
    let old = open(&path);
    old.put_job(job("kept", Some("ann")), None).await.unwrap();
    let lock = old.pass_on().unwrap();
    old.close().await.unwrap();
    fs::File::options().write(true).open(&path).unwrap().write_all_at(&[0xff; 100], 0).unwrap();
    let new = SqliteStore::open_beside(&path, settings(), lock).unwrap();
    assert!(new.health().is_err());
    let set_aside = || {
        let names = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.contains(".damaged-")).count()
    };
    assert_eq!(set_aside(), 0);
    new.alone();
    until("the store is repaired", async || new.health().is_ok()).await;
    assert_eq!(set_aside(), 1);
}

#[tokio::test]
async fn a_store_of_a_later_version_is_read_and_written() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("jobs.db");
    let store = open(&path);
    store.put_job(job("before", Some("ann")), None).await.unwrap();
    store.close().await.unwrap();
    // As a later version may leave it: more columns, another table, an index.
    let conn = rusqlite::Connection::open(&path).unwrap();
    let later = schema::STEPS.len() + 5;
    conn.execute_batch(&format!(
        "ALTER TABLE jobs ADD COLUMN colour TEXT; ALTER TABLE intents ADD COLUMN weight INTEGER;
         CREATE TABLE more (id INTEGER PRIMARY KEY) STRICT; CREATE INDEX jobs_colour ON jobs (colour);
         UPDATE jobs SET colour = 'red'; PRAGMA user_version = {later};"
    ))
    .unwrap();
    drop(conn);
    let store = open(&path);
    store.health().unwrap();
    assert_eq!(store.job(&id("before")).await.unwrap().unwrap().user, UserId::from_text("ann"));
    store.put_intent(intent("k")).await.unwrap();
    store.put_job(job("after", Some("ann")), Some(forget("k"))).await.unwrap();
    store.close().await.unwrap();
    let conn = rusqlite::Connection::open(&path).unwrap();
    let found: (i64, i64, String) = conn
        .query_row("SELECT (SELECT count(*) FROM jobs), (SELECT user_version FROM pragma_user_version), colour FROM jobs WHERE id = 'before'", [], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?))
        })
        .unwrap();
    assert_eq!(found, (2, later as i64, "red".to_owned()));
    assert!(!matches!(store.health(), Err(line) if line.contains(&Cause::Opening.line())));
}
