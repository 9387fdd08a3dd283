//! A store that cannot be used for a while.

use std::fs;

use rusqlite::Connection;

use super::*;
use crate::jobs::store::{Cause, StoreError};

#[tokio::test]
async fn a_store_that_cannot_be_used_fails_with_its_cause_and_recovers() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("data/jobs.db");
    fs::write(dir.path().join("data"), "a file where the folder should be").unwrap();
    let store = open(&path);
    assert!(store.health().unwrap_err().contains("data"), "{:?}", store.health());
    assert!(matches!(store.put_intent(intent("k")).await, Err(StoreError::NotWritten(Cause::File { .. }))));
    assert!(matches!(store.job(&id("j")).await, Err(StoreError::Unavailable(_))));
    fs::remove_file(dir.path().join("data")).unwrap();
    until("healthy", async || store.health().is_ok()).await;
    store.put_intent(intent("k")).await.unwrap();
    assert_eq!(store.job(&id("j")).await.unwrap(), None);
}

#[tokio::test]
async fn a_foreign_database_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("jobs.db");
    Connection::open(&path).unwrap().execute_batch("CREATE TABLE working_videos (id)").unwrap();
    let before = fs::read(&path).unwrap();
    let store = open(&path);
    assert!(store.health().unwrap_err().contains("not a job store"));
    assert_eq!(fs::read(&path).unwrap(), before);
}

#[tokio::test]
async fn a_locked_store_fails_writes_serves_reads_and_recovers() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("jobs.db");
    let store = open(&path);
    store.put_job(job("j1", Some("ann")), None).await.unwrap();
    let other = Connection::open(&path).unwrap();
    other.execute_batch("BEGIN IMMEDIATE; UPDATE jobs SET user = user").unwrap();
    let start = Instant::now();
    assert!(matches!(store.put_intent(intent("k")).await, Err(StoreError::NotWritten(Cause::Sqlite(_)))));
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    assert!(store.health().is_err());
    assert!(store.job(&id("j1")).await.unwrap().is_some());
    other.execute_batch("ROLLBACK").unwrap();
    until("healthy", async || store.health().is_ok()).await;
    store.put_intent(intent("k")).await.unwrap();
}

#[tokio::test]
async fn a_removed_file_is_noticed_before_a_write_is_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("jobs.db");
    let store = open(&path);
    store.put_job(job("j1", None), None).await.unwrap();
    for ending in ["", "-wal", "-shm"] {
        fs::remove_file(dir.path().join(format!("jobs.db{ending}"))).unwrap();
    }
    assert!(matches!(store.put_intent(intent("k")).await, Err(StoreError::NotWritten(Cause::Replaced(_)))));
    until("healthy", async || store.health().is_ok()).await;
    store.put_intent(intent("k")).await.unwrap();
    assert_eq!(store.job(&id("j1")).await.unwrap(), None);
    assert!(
        Connection::open(&path)
            .unwrap()
            .query_row("SELECT count(*) FROM intents", [], |row| row.get::<_, i64>(0))
            .unwrap()
            == 1
    );
}
