//! What each operation promises, alone and among many.

use super::*;
use crate::jobs::store::{Cause, StoreError};

#[tokio::test]
async fn an_intent_goes_through_its_states() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir.path().join("made/on/the/way/jobs.db"));
    store.put_intent(intent("k1")).await.unwrap();
    assert!(matches!(store.put_intent(intent("k1")).await, Err(StoreError::NotWritten(Cause::Sqlite(_)))));
    let deadline_ms = intent("k1").deadline_ms + 5;
    store.move_intent("k1", BackendName::Legacy, deadline_ms).await.unwrap();
    let read = store.intent("k1").await.unwrap().unwrap();
    assert_eq!((read.backend, read.deadline_ms, read.state), (BackendName::Legacy, deadline_ms, IntentState::Running));
    store.mark_unknown("k1").await.unwrap();
    assert_eq!(store.intent("k1").await.unwrap().unwrap().state, IntentState::Unknown);
    let moved = store.move_intent("k1", BackendName::Workers, deadline_ms).await;
    assert!(matches!(moved, Err(StoreError::NotWritten(Cause::NoIntent))), "an unknown one does not move");
    store.close_intent("k1").await.unwrap();
    store.close_intent("k1").await.unwrap();
    assert_eq!(store.intent("k1").await.unwrap(), None);

    store.put_intent(Intent { deadline_ms: 1, ..intent("late") }).await.unwrap();
    assert_eq!(store.intent("late").await.unwrap().unwrap().state, IntentState::Unknown, "past its deadline");
    assert_eq!(store.open_intents(Some(BackendName::Workers), 10).await.unwrap().len(), 1);
    assert_eq!(store.open_intents(Some(BackendName::Legacy), 10).await.unwrap().len(), 0);
    store.close_intent_later("late");
    until("closed later", async || store.intent("late").await.unwrap().is_none()).await;
}

#[tokio::test]
async fn an_owner_is_stored_with_its_intent_closed() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir.path().join("jobs.db"));
    store.put_intent(intent("k1")).await.unwrap();
    store.put_job(job("j1", Some("ann")), Some(forget("k1"))).await.unwrap();
    assert_eq!(store.intent("k1").await.unwrap(), None);
    assert_eq!(store.job(&id("j1")).await.unwrap().unwrap().user, UserId::from_text("ann"));
    assert_eq!(store.job(&id("none")).await.unwrap(), None);
    assert_eq!(store.open_count(BackendName::Workers), 1);

    assert!(store.finish_job(&id("j1"), JobState::Complete).await.unwrap());
    assert!(!store.finish_job(&id("j1"), JobState::Error).await.unwrap(), "once only");
    assert!(!store.finish_job(&id("none"), JobState::Error).await.unwrap());
    store.put_job(job("j1", Some("ann")), None).await.unwrap();
    assert_eq!(store.job(&id("j1")).await.unwrap().unwrap().state, JobState::Complete, "does not open again");
    assert_eq!(store.open_counts().await.unwrap(), [0, 0]);
    assert_eq!(store.open_count(BackendName::Workers), 0);
}

#[tokio::test]
async fn a_record_with_a_user_replaces_a_found_one_and_never_the_reverse() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir.path().join("jobs.db"));
    let found = Job { backend: BackendName::Legacy, ..job("j1", None) };
    store.put_job(found.clone(), None).await.unwrap();
    assert_eq!(store.open_counts().await.unwrap(), [1, 0]);
    store.put_job(job("j1", Some("ann")), None).await.unwrap();
    store.put_job(found, None).await.unwrap();
    let read = store.job(&id("j1")).await.unwrap().unwrap();
    assert_eq!((read.backend, read.user), (BackendName::Workers, UserId::from_text("ann")));
    assert_eq!(store.open_counts().await.unwrap(), [0, 1]);
    assert_eq!((store.open_count(BackendName::Legacy), store.open_count(BackendName::Workers)), (0, 1));
}

#[test]
fn many_writers_are_all_served_and_counted() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir.path().join("jobs.db"));
    let write = async |writer: usize| {
        for number in 0..50 {
            let (name, key) = (format!("j-{writer}-{number}"), format!("k-{writer}-{number}"));
            store.put_intent(intent(&key)).await.unwrap();
            // A bad operation in the same batch spoils nothing.
            assert!(store.put_intent(intent(&key)).await.is_err());
            store.put_job(job(&name, Some("ann")), Some(forget(&key))).await.unwrap();
            assert!(store.job(&id(&name)).await.unwrap().is_some(), "a reply means readable");
        }
    };
    on_four_runtimes(async |thread| all((0..16).map(|task| write(thread * 16 + task))).await);
    let first = std::sync::atomic::AtomicU32::new(0);
    on_four_runtimes(async |_| {
        if store.finish_job(&id("j-0-0"), JobState::Complete).await.unwrap() {
            first.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
    });
    assert_eq!(first.into_inner(), 1);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    assert_eq!(runtime.block_on(store.open_counts()).unwrap(), [0, 3199]);
    assert_eq!(store.open_count(BackendName::Workers), 3199);
    assert_eq!(runtime.block_on(store.open_intents(None, 10)).unwrap(), []);
}

#[tokio::test]
async fn counts_and_records_are_there_after_close_and_the_lock_is_free() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("jobs.db");
    let store = open(&path);
    for number in 0..100 {
        store.put_job(job(&format!("j{number}"), Some("ann")), None).await.unwrap();
    }
    let second = SqliteStore::open(&path, settings()).unwrap_err().to_string();
    assert!(second.contains("another gateway") && second.contains("jobs.db.lock"), "{second}");
    store.close().await.unwrap();
    assert!(matches!(store.put_job(job("late", None), None).await, Err(StoreError::NotWritten(Cause::Closed))));
    assert!(store.health().is_err());
    let again = open(&path);
    assert_eq!(again.open_count(BackendName::Workers), 100);
    assert_eq!(again.open_jobs(Some(BackendName::Workers), 7).await.unwrap().len(), 7);
}
