//! Clients' keys: who holds one, what is kept under it, and for how long.

use std::io::{BufRead, BufReader, Write as _};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use rusqlite::Connection;

use super::*;
use crate::jobs::clock::ManualClock;
use crate::jobs::record::Claim;
use crate::jobs::sqlite::expiry::{Expiry, Keep};
use crate::jobs::store::{Cause, StoreError};

#[tokio::test]
async fn a_key_has_one_holder_until_that_one_lets_go() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir.path().join("jobs.db"));
    assert_eq!(store.claim(claimed("k", "one")).await.unwrap(), None);
    let holder = store.claim(claimed("k", "two")).await.unwrap().unwrap();
    assert_eq!(holder.claim.unwrap(), Claim { token: "one".into(), body: [7; 32] });
    store.release("k", "two").await.unwrap();
    assert!(store.intent("k").await.unwrap().is_some(), "not theirs to free");
    store.keep_answer(kept("k", "two")).await.unwrap();
    assert_eq!(store.intent("k").await.unwrap().unwrap().state, IntentState::Running, "nor to answer");
    store.release("k", "one").await.unwrap();
    assert_eq!(store.claim(claimed("k", "two")).await.unwrap(), None);
}

#[test]
fn of_many_claims_at_once_one_succeeds() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir.path().join("jobs.db"));
    for round in 0..20 {
        let (key, won) = (format!("k-{round}"), AtomicU32::new(0));
        let claim = async |token: String| match store.claim(claimed(&key, &token)).await.unwrap() {
            None => drop(won.fetch_add(1, Ordering::Relaxed)),
            Some(holder) => assert_ne!(*holder.claim.unwrap().token, *token),
        };
        on_four_runtimes(async |thread| all((0..16).map(|task| claim(format!("t-{thread}-{task}")))).await);
        assert_eq!(won.into_inner(), 1);
    }
}

#[tokio::test]
async fn the_owner_and_the_answer_are_written_together_and_last() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("jobs.db");
    let store = open(&path);
    store.claim(claimed("k", "one")).await.unwrap();
    store.mark_unknown("k").await.unwrap();
    store.put_job(job("j", Some("ann")), Some(Closing::Keep(kept("k", "one")))).await.unwrap();
    store.claim(claimed("without-job", "one")).await.unwrap();
    store.keep_answer(kept("without-job", "one")).await.unwrap();
    assert_eq!(store.open_intents(None, 10).await.unwrap(), [], "what is answered is not open");
    store.close().await.unwrap();
    let store = open(&path);
    for key in ["k", "without-job"] {
        let read = store.intent(key).await.unwrap().unwrap();
        assert_eq!(
            (read.state, read.answer, read.resend),
            (IntentState::Answered, Some(kept(key, "one").answer), None)
        );
    }
    assert!(store.job(&id("j")).await.unwrap().is_some());
    let late = Intent { deadline_ms: 1, ..claimed("k", "two") };
    assert_eq!(
        store.claim(late).await.unwrap().unwrap().state,
        IntentState::Answered,
        "its deadline means nothing now"
    );
}

#[tokio::test]
async fn only_what_another_run_left_with_workers_is_asked_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("jobs.db");
    let store = open(&path);
    for key in ["open", "late", "moved", "unknown", "answered"] {
        store.claim(claimed(key, "one")).await.unwrap();
    }
    store.put_intent(Intent { claim: None, ..claimed("unkeyed", "") }).await.unwrap();
    store.put_intent(intent("without-body")).await.unwrap();
    store.claim(Intent { deadline_ms: 1, ..claimed("past", "one") }).await.unwrap();
    store.move_intent("moved", BackendName::Legacy, u64::MAX).await.unwrap();
    store.mark_unknown("unknown").await.unwrap();
    store.keep_answer(kept("answered", "one")).await.unwrap();
    assert_eq!(store.left_open(10).await.unwrap(), [], "nothing of this run");
    store.close().await.unwrap();

    let store = open(&path);
    store.claim(claimed("own", "one")).await.unwrap();
    let open: Vec<_> = store.left_open(10).await.unwrap();
    let keys: Vec<_> = open.iter().map(|intent| &*intent.key).collect();
    assert_eq!(keys, ["open", "late", "unkeyed", "past"]);
    assert!(open.iter().all(|intent| intent.resend.as_deref() == Some(b"{\"a\":1}")));
    assert_eq!(store.left_open(2).await.unwrap().len(), 2);
}

#[tokio::test]
async fn a_claim_whose_reply_was_lost_is_settled_by_reading_back() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir.path().join("jobs.db"));
    let lost = || StoreError::MaybeWritten(Cause::TooSlow);
    store.claim(claimed("k", "one")).await.unwrap();
    assert_eq!(store.settle(&claimed("k", "one"), lost()).await.unwrap(), None, "it was written");
    let holder = store.settle(&claimed("k", "two"), lost()).await.unwrap().unwrap();
    assert_eq!(*holder.claim.unwrap().token, *"one", "somebody else's was");
    assert!(store.settle(&claimed("free", "one"), lost()).await.is_err(), "none was");
    // After a failed sync nothing that is read is sure to last: nothing may be sent, and the key is freed.
    let failed = StoreError::MaybeWritten(Cause::Closed);
    assert!(store.settle(&claimed("k", "one"), failed).await.is_err());
    until("freed", async || store.intent("k").await.unwrap().is_none()).await;
}

#[test]
fn keys_are_kept_for_their_own_time_and_never_freed_while_running() {
    let (now_ms, hour_ms) = (1_795_526_645_000, 3_600_000);
    let dir = tempfile::tempdir().unwrap();
    let conn = schema::open_for_writing(&dir.path().join("jobs.db")).unwrap();
    let hands = ManualClock::at(now_ms);
    let clock = Clock::Manual(Arc::clone(&hands));
    let old =
        |intent: Intent| Intent { started_ms: now_ms - 25 * hour_ms, deadline_ms: now_ms - 24 * hour_ms, ..intent };
    for kept in [
        old(claimed("old", "t")),
        Intent { deadline_ms: now_ms + hour_ms, ..old(claimed("old-but-running", "t")) },
        claimed("new", "t"),
        old(intent("unkeyed")),
    ] {
        intents::put(&conn, &Intent { started_ms: kept.started_ms.min(now_ms), ..kept }, 1).unwrap();
    }
    let mut expiry = Expiry::new(&clock);
    hands.pass(Duration::from_secs(61));
    let keep = Keep { records: Duration::from_secs(7 * 86_400), keys: Duration::from_secs(86_400) };
    expiry.step(&conn, &clock, keep).unwrap();
    let is_there = |key: &str| intents::intent(&conn, key, 0).unwrap().is_some();
    assert_eq!(["old", "old-but-running", "new", "unkeyed"].map(is_there), [false, true, true, true]);
}

#[tokio::test]
async fn a_store_of_the_first_version_is_taken_over_and_can_be_given_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("jobs.db");
    let conn = Connection::open(&path).unwrap();
    conn.execute_batch(schema::STEPS[0]).unwrap();
    conn.pragma_update(None, "user_version", 1).unwrap();
    let deadline = intent("x").deadline_ms;
    // As the first version writes.
    let old = |key: &str| {
        format!(
            "INSERT INTO intents (key, request_id, user, export, backend, started_ms, deadline_ms, state)
                VALUES ('{key}', 'r-1', 'ann', 'overlay', 'workers', 5, {deadline}, 'running')"
        )
    };
    conn.execute_batch(&old("before")).unwrap();
    let listed = intents::open_intents(&conn, None, 10, 0).unwrap();
    assert_eq!(listed.len(), 1, "the command line reads a file that is not taken over yet");
    drop(conn);
    let store = open(&path);
    store.health().unwrap();
    let read = store.intent("before").await.unwrap().unwrap();
    assert_eq!((read.claim, read.resend, read.state), (None, None, IntentState::Running));
    store.claim(claimed("k", "one")).await.unwrap();
    store.close().await.unwrap();
    let conn = Connection::open(&path).unwrap();
    conn.execute_batch(&old("after")).unwrap();
    drop(conn);
    assert!(open(&path).intent("after").await.unwrap().is_some());
}

/// Not a test by itself: the process that the next test starts and kills.
#[test]
fn child_that_claims_until_killed() {
    let Ok(path) = std::env::var("STORE_TEST_KEYS") else { return };
    let store = open(Path::new(&path));
    let run = std::process::id();
    let say = |word: &str, key: &str| {
        let mut out = std::io::stdout().lock();
        writeln!(out, "{word} {key}").unwrap();
        out.flush().unwrap();
    };
    let write = async |writer: usize| {
        for number in 0.. {
            let key = format!("k-{run}-{writer}-{number}");
            assert_eq!(store.claim(claimed(&key, "t")).await.unwrap(), None);
            say("claimed", &key);
            store.put_job(job(&key, Some("ann")), Some(Closing::Keep(kept(&key, "t")))).await.unwrap();
            say("kept", &key);
        }
    };
    on_four_runtimes(async |thread| all((0..4).map(|task| write(thread * 4 + task))).await);
}

#[tokio::test]
async fn kill_9_loses_no_key_and_parts_no_answer_from_its_owner() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("jobs.db");
    let mut said = Vec::new();
    for round in 0..6u64 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "jobs::sqlite::tests::keys::child_that_claims_until_killed", "--nocapture"])
            .env("STORE_TEST_KEYS", &path)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut kept = 0;
        while kept < 20 + round * 37 {
            let line = lines.next().unwrap().unwrap();
            kept += u64::from(line.contains("kept k-"));
            said.push(line);
        }
        child.kill().unwrap();
        said.extend(lines.map_while(Result::ok));
        child.wait().unwrap();
    }
    let store = open(&path);
    let keys = |word: &str| -> Vec<String> {
        let keys = said.iter().filter_map(|line| line.split_once(word)).map(|(_, key)| key.trim().to_owned());
        keys.filter(|key| key.starts_with("k-")).collect()
    };
    let (claims, answers) = (keys("claimed "), keys("kept "));
    assert!(answers.len() > 600 && claims.len() > answers.len(), "{} {}", claims.len(), answers.len());
    for key in &claims {
        let read = store.intent(key).await.unwrap().unwrap_or_else(|| panic!("{key} is free again"));
        let owned = store.job(&id(key)).await.unwrap().is_some();
        assert_eq!(owned, read.state == IntentState::Answered, "{key}");
        assert!(owned || !answers.contains(key), "{key} had its answer");
    }
}
