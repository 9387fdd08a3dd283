//! Starts that cannot be recorded: a lock on the job store's file stands for a disk that takes no writes.

use std::thread;

use rusqlite::Connection as Database;
use serde_json::json;

use super::{Stage, Then, USER};
use crate::support::client;
use crate::support::gateway::{set, text_of};
use crate::support::scene::{assert_own, poll_of, start_as};
use crate::support::{eventually, within};

impl Stage {
    fn lock_store(&self) -> Database {
        let store = Database::open(self.gateway.folder().join("jobs.db")).unwrap();
        store.execute_batch("BEGIN IMMEDIATE").unwrap();
        store
    }
}

#[test]
fn a_start_that_cannot_be_recorded_is_not_sent_to_workers() {
    let mut stage = Stage::real(|_| {});
    let lock = stage.lock_store();
    let answer = stage.play("intent not stored", 0, Then::Legacy("store_unavailable"));
    lock.execute_batch("ROLLBACK").unwrap();
    // The store recovers by itself: the late owner is written, new starts go to workers again.
    let job = answer.field("job_id");
    until_stored(&stage, &job, "legacy");
    stage.play("accepted again", 1, Then::Accepted);
    stage.finish();
    let stage = Stage::real(|table| set(table, "backends.workers.fallback", false));
    let lock = stage.lock_store();
    let answer = client::send(stage.gateway.addr(), &start_as(USER, "alone"));
    assert_own(&answer, 503, "store_unavailable");
    assert!(answer.header("retry-after").is_some());
    assert_eq!(stage.saw(), (0, 0));
    lock.execute_batch("ROLLBACK").unwrap();
}

#[test]
fn a_job_whose_owner_cannot_be_stored_is_not_acknowledged() {
    let mut stage = Stage::real(|_| {});
    stage.set.workers.fault(json!({"start": {"mode": "pass", "delay_after_ms": 300}}));
    let path = stage.gateway.folder().join("jobs.db");
    let workers = stage.set.workers.addr();
    let locking = thread::spawn(move || {
        eventually("the start at workers", || {
            let seen = client::get(workers, "/_test/seen?target=start").json();
            (seen["counts"]["start"] == 1).then_some(())
        });
        let store = Database::open(path).unwrap();
        store.execute_batch("BEGIN IMMEDIATE").unwrap();
        store
    });
    stage.play("owner not stored", 1, Then::Unknown(500));
    let job = stage.set.workers.jobs_of(USER).last().expect("the job")["job_id"].as_str().unwrap().to_owned();
    let event = stage.gateway.event("a job runs but its owner is not stored; the write is retried");
    assert_eq!(text_of(&event, "job_id"), Some(job.as_str()));
    // Until it is written, polls find it in memory.
    let poll = client::send(stage.gateway.addr(), &poll_of(USER, &job, None));
    assert_eq!((poll.status, poll.header("x-export-backend")), (200, Some("workers")));
    locking.join().unwrap().execute_batch("ROLLBACK").unwrap();
    until_stored(&stage, &job, "workers");
    stage.gateway.kill9();
    stage.gateway.restart();
    stage.set.legacy.reset();
    let poll = client::send(stage.gateway.addr(), &poll_of(USER, &job, None));
    assert_eq!((poll.status, poll.header("x-export-backend")), (200, Some("workers")));
    assert_eq!(stage.set.legacy.count("status"), 0);
}

fn until_stored(stage: &Stage, job: &str, backend: &str) {
    let store = Database::open(stage.gateway.folder().join("jobs.db")).unwrap();
    within(crate::support::DEADLINE, "the owner in the store", || {
        let found: Option<String> =
            store.query_row("SELECT backend FROM jobs WHERE id = ?", [job], |row| row.get(0)).ok();
        found.map(|found| assert_eq!(found, backend))
    });
}
