//! [`Jobs`] on a real store: durability first, then memory.

pub(in crate::jobs) mod records;

use std::fs;

use self::records::{intent, job, settings, until};
use super::record::IntentState;
use super::*;
use crate::names::UserId;

fn open(path: &std::path::Path) -> Jobs {
    Jobs::open(&StoreLocation::File(path.to_owned()), settings()).unwrap()
}

/// Says whether this was the first to see the job over.
fn ends(jobs: &Jobs, job: &Job, state: JobState) -> bool {
    let (tell, told) = std::sync::mpsc::channel();
    jobs.observe(job, state, move || tell.send(()).unwrap());
    told.try_recv().is_ok()
}

#[tokio::test]
async fn a_start_is_recorded_from_intent_to_end() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("jobs.db");
    let jobs = open(&path);
    jobs.begin(intent("k1")).await.unwrap();
    jobs.begin(intent("k2")).await.unwrap();
    jobs.begin(intent("k3")).await.unwrap();
    jobs.accept(job("j1", Some("ann")), Some("k1")).await.unwrap();
    jobs.redirect("k2", 7).await.unwrap();
    jobs.forget("k3");
    until("forgotten", async || jobs.store().intent("k3").await.unwrap().is_none()).await;
    let left = jobs.store().open_intents(None, 10).await.unwrap();
    assert_eq!(left.len(), 1);
    assert_eq!((left[0].backend, left[0].state), (BackendName::Legacy, IntentState::Unknown));
    jobs.unknown("k2").await.unwrap();

    let found = jobs.find(&JobId::parse("j1").unwrap()).await.unwrap().unwrap();
    assert!(!ends(&jobs, &found, JobState::Open));
    assert!(ends(&jobs, &found, JobState::Complete));
    assert!(!ends(&jobs, &found, JobState::Complete), "the second poll that saw it open");
    until("finished in the store", async || jobs.open_count(BackendName::Workers) == 0).await;
    jobs.remember_found(job("j2", None)).await.unwrap();
    jobs.remember_found(job("j1", None)).await.unwrap();
    jobs.close().await.unwrap();

    let jobs = open(&path);
    assert_eq!(jobs.open_count(BackendName::Workers), 1);
    let read = jobs.find(&found.id).await.unwrap().unwrap();
    assert_eq!((read.state, read.user.as_ref()), (JobState::Complete, UserId::from_text("ann").as_ref()));
    assert!(!ends(&jobs, &read, JobState::Complete), "not again after a restart");
    assert_eq!(jobs.find(&JobId::parse("none").unwrap()).await.unwrap(), None);
}

#[tokio::test]
async fn an_owner_that_could_not_be_stored_is_stored_later() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("data/jobs.db");
    fs::write(dir.path().join("data"), "in the way").unwrap();
    let jobs = open(&path);
    assert!(jobs.begin(intent("k")).await.is_err());
    for id in ["j1", "j2"] {
        assert!(matches!(jobs.accept(job(id, Some("ann")), Some("k")).await, Err(StoreError::NotWritten(_))));
    }
    assert_eq!(jobs.owed(), 2);
    let known = jobs.find(&JobId::parse("j1").unwrap()).await.unwrap().unwrap();
    assert!(ends(&jobs, &known, JobState::Error), "polls go on from memory");
    fs::remove_file(dir.path().join("data")).unwrap();
    until("written", async || jobs.owed() == 0).await;
    let stored = jobs.store().job(&known.id).await.unwrap().unwrap();
    assert_eq!((stored.user, stored.state), (UserId::from_text("ann"), JobState::Error));
    assert_eq!(jobs.open_count(BackendName::Workers), 1);
    jobs.health().unwrap();

    // A second failure starts the task again.
    jobs.store().close().await.unwrap();
    assert!(jobs.accept(job("j3", None), None).await.is_err());
    assert_eq!(jobs.owed(), 1);
}

#[tokio::test]
async fn cached_jobs_do_not_touch_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    let jobs = open(&dir.path().join("jobs.db"));
    jobs.accept(job("j1", Some("ann")), None).await.unwrap();
    jobs.close().await.unwrap();
    assert!(jobs.find(&JobId::parse("j1").unwrap()).await.unwrap().is_some());
}

#[tokio::test]
async fn owners_and_look_ups_are_shared_by_all_runtimes() {
    fn is_shared<T: Send + Sync + 'static>() {}
    fn is_send<T: Send>(value: T) -> T {
        value
    }
    is_shared::<Jobs>();
    is_shared::<database::Lookups>();
    let dir = tempfile::tempdir().unwrap();
    let jobs = open(&dir.path().join("jobs.db"));
    let key = "k1".to_owned();
    is_send(jobs.begin(intent(&key))).await.unwrap();
    is_send(jobs.redirect(&key, u64::MAX)).await.unwrap();
    is_send(jobs.unknown(&key)).await.unwrap();
    is_send(jobs.accept(job("j1", None), Some(&key))).await.unwrap();
    is_send(jobs.remember_found(job("j1", None))).await.unwrap();
    is_send(jobs.find(&JobId::parse("j1").unwrap())).await.unwrap();
    is_send(jobs.close()).await.unwrap();
}
