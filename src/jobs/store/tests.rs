//! What every store promises, held against each: the embedded one on a file, the shared one on a real Redis.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::*;
use crate::jobs::clock::Clock;
use crate::jobs::record::{Claim, IntentState, KeptAnswer};
use crate::jobs::redis_server::Redis;
use crate::jobs::{Jobs, Settings};
use crate::names::{ExportType, UserId};
use crate::routing::table::StoreLocation;

/// A store to be tried, and what it stands on.
struct Tried {
    location: StoreLocation,
    _folder: tempfile::TempDir,
}

impl Tried {
    fn sqlite() -> Tried {
        let folder = tempfile::tempdir().unwrap();
        Tried { location: StoreLocation::File(folder.path().join("jobs.db")), _folder: folder }
    }

    /// A prefix of its own on the server that all these tests share.
    fn redis() -> Tried {
        static SERVER: OnceLock<Redis> = OnceLock::new();
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let url = SERVER.get_or_init(Redis::start).url();
        let url = format!("{url}?prefix=t{}", NEXT.fetch_add(1, Ordering::Relaxed));
        Tried { location: crate::config::parse_store(&url).unwrap(), _folder: tempfile::tempdir().unwrap() }
    }

    fn open(&self) -> Jobs {
        let day = Duration::from_secs(86_400);
        Jobs::open(&self.location, Settings { keep: 7 * day, key_keep: day, clock: Clock::system() }).unwrap()
    }
}

/// Runs each test on each store.
macro_rules! on_both {
    ($($name:ident)*) => {
        mod sqlite { $(#[test] fn $name() { super::run(super::$name, &super::Tried::sqlite()); })* }
        mod redis { $(#[test] fn $name() { super::run(super::$name, &super::Tried::redis()); })* }
    };
}

on_both! {
    an_intent_goes_through_its_states
    an_owner_is_stored_and_its_intent_closed
    a_record_with_a_user_replaces_a_found_one_and_never_the_reverse
    a_key_has_one_holder_until_that_one_lets_go
    of_many_claims_at_once_one_succeeds
    an_answer_is_kept_with_its_owner_and_is_there_after_a_restart
    a_job_ends_once_however_many_say_so
    all_that_can_stand_in_a_record_comes_back
    what_is_open_is_listed_oldest_first_and_cut
    a_closed_store_takes_no_more
}

fn run(test: impl AsyncFn(&Tried), tried: &Tried) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test(tried));
}

fn id(text: &str) -> JobId {
    JobId::parse(text).unwrap()
}

fn job(text: &str, user: Option<&str>) -> Job {
    Job {
        id: id(text),
        backend: BackendName::Workers,
        export: ExportType::parse("overlay"),
        user: user.and_then(UserId::from_text),
        started_ms: Clock::system().wall_ms(),
        state: JobState::Open,
    }
}

fn intent(key: &str) -> Intent {
    let now = Clock::system().wall_ms();
    Intent {
        key: key.into(),
        request_id: "r-1".into(),
        user: UserId::from_text("ann"),
        export: ExportType::parse("overlay").unwrap(),
        backend: BackendName::Workers,
        started_ms: now,
        deadline_ms: now + 60_000,
        state: IntentState::Running,
        claim: None,
        resend: None,
        answer: None,
    }
}

fn claimed(key: &str, token: &str) -> Intent {
    let claim = Claim { token: token.into(), body: [7; 32] };
    Intent { claim: Some(claim), resend: Some(Bytes::from_static(b"{\"a\":1}")), ..intent(key) }
}

fn kept(key: &str, token: &str) -> Kept {
    let body = Bytes::from_static(b"{\"job_id\":\"j\"}");
    let answer = KeptAnswer { status: 200, content_type: Some("application/json".into()), body };
    Kept { key: key.into(), token: token.into(), answer }
}

/// Waits for what is written some time soon.
async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !is_so().await {
        assert!(start.elapsed() < Duration::from_secs(10), "never: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Runs tasks on four threads, each with a runtime of its own, as the gateway does.
fn on_four_runtimes(tasks: impl AsyncFn(usize) + Sync) {
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let tasks = &tasks;
            scope.spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(tasks(thread));
            });
        }
    });
}

async fn an_intent_goes_through_its_states(tried: &Tried) {
    let jobs = tried.open();
    let store = jobs.store();
    store.put_intent(intent("k1")).await.unwrap();
    assert_eq!(store.intent("k1").await.unwrap().unwrap().state, IntentState::Running);
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
    store.mark_unknown("none").await.unwrap();
    assert_eq!(store.intent("none").await.unwrap(), None);

    store.put_intent(Intent { deadline_ms: 1, ..intent("late") }).await.unwrap();
    assert_eq!(store.intent("late").await.unwrap().unwrap().state, IntentState::Unknown, "past its deadline");
    until("listed", async || store.open_intents(Some(BackendName::Workers), 10).await.unwrap().len() == 1).await;
    assert_eq!(store.open_intents(Some(BackendName::Legacy), 10).await.unwrap().len(), 0);
    store.close_intent_later("late");
    until("closed later", async || store.intent("late").await.unwrap().is_none()).await;
    until("not listed", async || store.open_intents(None, 10).await.unwrap().is_empty()).await;
}

async fn an_owner_is_stored_and_its_intent_closed(tried: &Tried) {
    let jobs = tried.open();
    let store = jobs.store();
    store.put_intent(intent("k1")).await.unwrap();
    store.put_job(job("j1", Some("ann")), Some("k1")).await.unwrap();
    assert_eq!(store.job(&id("j1")).await.unwrap().unwrap().user, UserId::from_text("ann"));
    until("closed", async || store.intent("k1").await.unwrap().is_none()).await;
    assert_eq!(store.job(&id("none")).await.unwrap(), None);
    // A list beside the records may lag behind them.
    until("listed", async || store.open_counts().await.unwrap() == [0, 1]).await;
    until("counted", async || store.open_count(BackendName::Workers) == 1).await;
    until("no intents", async || store.open_intents(None, 10).await.unwrap().is_empty()).await;

    assert!(store.finish_job(&id("j1"), JobState::Complete, "t1").await.unwrap());
    assert!(!store.finish_job(&id("j1"), JobState::Error, "t2").await.unwrap(), "once only");
    assert!(!store.finish_job(&id("none"), JobState::Error, "t3").await.unwrap());
    store.put_job(job("j1", Some("ann")), None).await.unwrap();
    assert_eq!(store.job(&id("j1")).await.unwrap().unwrap().state, JobState::Complete, "does not open again");
    until("not open", async || store.open_counts().await.unwrap() == [0, 0]).await;
    until("counted", async || store.open_count(BackendName::Workers) == 0).await;
}

async fn a_record_with_a_user_replaces_a_found_one_and_never_the_reverse(tried: &Tried) {
    let jobs = tried.open();
    let store = jobs.store();
    let found = Job { backend: BackendName::Legacy, ..job("j1", None) };
    store.put_job(found.clone(), None).await.unwrap();
    until("found", async || store.open_counts().await.unwrap() == [1, 0]).await;
    store.put_job(job("j1", Some("ann")), None).await.unwrap();
    store.put_job(found, None).await.unwrap();
    let read = store.job(&id("j1")).await.unwrap().unwrap();
    assert_eq!((read.backend, read.user), (BackendName::Workers, UserId::from_text("ann")));
    until("replaced", async || store.open_counts().await.unwrap() == [0, 1]).await;
    until("counted", async || {
        (store.open_count(BackendName::Legacy), store.open_count(BackendName::Workers)) == (0, 1)
    })
    .await;
}

async fn a_key_has_one_holder_until_that_one_lets_go(tried: &Tried) {
    let jobs = tried.open();
    let store = jobs.store();
    assert_eq!(store.claim(claimed("k", "one")).await.unwrap(), None);
    let holder = store.claim(claimed("k", "two")).await.unwrap().unwrap();
    assert_eq!(holder.claim.unwrap(), Claim { token: "one".into(), body: [7; 32] });
    store.release("k", "two").await.unwrap();
    assert!(store.intent("k").await.unwrap().is_some(), "not theirs to free");
    store.keep_answer(kept("k", "two")).await.unwrap();
    assert_eq!(store.intent("k").await.unwrap().unwrap().state, IntentState::Running, "nor to answer");
    store.release("k", "one").await.unwrap();
    assert_eq!(store.intent("k").await.unwrap(), None);
    assert_eq!(store.claim(claimed("k", "three")).await.unwrap(), None);
}

async fn of_many_claims_at_once_one_succeeds(tried: &Tried) {
    let jobs = tried.open();
    let store = jobs.store();
    for round in 0..20 {
        let (key, won) = (format!("k-{round}"), AtomicU32::new(0));
        let claim = async |token: String| match store.claim(claimed(&key, &token)).await.unwrap() {
            None => drop(won.fetch_add(1, Ordering::Relaxed)),
            Some(holder) => assert_ne!(*holder.claim.unwrap().token, *token),
        };
        on_four_runtimes(async |thread| {
            futures_util::future::join_all((0..16).map(|task| claim(format!("t-{thread}-{task}")))).await;
        });
        assert_eq!(won.into_inner(), 1);
    }
}

async fn an_answer_is_kept_with_its_owner_and_is_there_after_a_restart(tried: &Tried) {
    let jobs = tried.open();
    let store = jobs.store();
    store.claim(claimed("k", "one")).await.unwrap();
    store.mark_unknown("k").await.unwrap();
    store.put_job_closing(job("j", Some("ann")), Some(Closing::Keep(kept("k", "one")))).await.unwrap();
    assert_eq!(store.intent("k").await.unwrap().unwrap().state, IntentState::Answered, "as soon as it returns");
    store.claim(claimed("without-job", "one")).await.unwrap();
    store.keep_answer(kept("without-job", "one")).await.unwrap();
    until("not open", async || store.open_intents(None, 10).await.unwrap().is_empty()).await;
    jobs.close().await.unwrap();
    let jobs = tried.open();
    let store = jobs.store();
    for key in ["k", "without-job"] {
        let read = store.intent(key).await.unwrap().unwrap();
        let expected = (IntentState::Answered, Some(kept(key, "one").answer), None);
        assert_eq!((read.state, read.answer, read.resend), expected);
    }
    assert!(store.job(&id("j")).await.unwrap().is_some());
    assert_eq!(store.open_count(BackendName::Workers), 1, "counted at the start");
    let late = Intent { deadline_ms: 1, ..claimed("k", "two") };
    let holder = store.claim(late).await.unwrap().unwrap();
    assert_eq!(holder.state, IntentState::Answered, "its deadline means nothing now");
}

async fn a_job_ends_once_however_many_say_so(tried: &Tried) {
    let jobs = tried.open();
    let store = jobs.store();
    for round in 0..10 {
        let (id, first) = (id(&format!("j-{round}")), AtomicU32::new(0));
        store.put_job(job(id.as_str(), Some("ann")), None).await.unwrap();
        on_four_runtimes(async |thread| {
            if store.finish_job(&id, JobState::Complete, &format!("t-{thread}")).await.unwrap() {
                first.fetch_add(1, Ordering::Relaxed);
            }
        });
        assert_eq!(first.into_inner(), 1);
    }
    until("counted", async || store.open_counts().await.unwrap() == [0, 0]).await;
}

async fn all_that_can_stand_in_a_record_comes_back(tried: &Tried) {
    let jobs = tried.open();
    let store = jobs.store();
    let odd = Intent {
        request_id: "\"\\'{}$%\u{e9}".into(),
        user: UserId::from_text("caf\u{e9}_1"),
        export: ExportType::parse("framing").unwrap(),
        backend: BackendName::Legacy,
        claim: Some(Claim { token: "t \r\n*1".into(), body: std::array::from_fn(|at| (at * 8) as u8) }),
        resend: Some(Bytes::from_static(b"\0\r\n\xff{}")),
        ..intent("k")
    };
    store.claim(odd.clone()).await.unwrap();
    assert_eq!(store.intent("k").await.unwrap().as_ref(), Some(&odd));
    assert_eq!(store.claim(claimed("k", "other")).await.unwrap(), Some(odd.clone()), "the holder, whole");
    let answer = KeptAnswer { status: 422, content_type: None, body: Bytes::from_static(b"\r\n\0$-1\r\n\xfe") };
    let token = odd.claim.as_ref().unwrap().token.clone();
    store.keep_answer(Kept { key: "k".into(), token, answer: answer.clone() }).await.unwrap();
    assert_eq!(store.intent("k").await.unwrap().unwrap().answer, Some(answer));
    store.put_intent(Intent { user: None, ..intent("anonymous") }).await.unwrap();
    let read = store.intent("anonymous").await.unwrap().unwrap();
    assert_eq!((read.user, read.claim, read.resend), (None, None, None));
    for state in [JobState::Open, JobState::Complete, JobState::Error, JobState::Lost] {
        let plain = Job { export: None, user: None, state, ..job(&"x".repeat(128), None) };
        let job = Job { id: id(state.as_str()), ..plain };
        store.put_job(job.clone(), None).await.unwrap();
        assert_eq!(store.job(&job.id).await.unwrap(), Some(job));
    }
}

async fn what_is_open_is_listed_oldest_first_and_cut(tried: &Tried) {
    let jobs = tried.open();
    let store = jobs.store();
    let now = Clock::system().wall_ms();
    for number in 0..30_u64 {
        let backend = BackendName::ALL[usize::try_from(number % 2).unwrap()];
        let started_ms = now - 1_000 + (number * 7) % 30;
        store.put_job(Job { backend, started_ms, ..job(&format!("j-{number}"), Some("ann")) }, None).await.unwrap();
        let deadline_ms = now + 60_000;
        store.put_intent(Intent { backend, started_ms, deadline_ms, ..intent(&format!("k-{number}")) }).await.unwrap();
    }
    until("all listed", async || {
        store.open_counts().await.unwrap() == [15, 15] && store.open_intents(None, 100).await.unwrap().len() == 30
    })
    .await;
    let ages = |jobs: &[Job]| jobs.iter().map(|job| job.started_ms - (now - 1_000)).collect::<Vec<_>>();
    assert_eq!(ages(&store.open_jobs(None, 100).await.unwrap()), (0..30).collect::<Vec<_>>());
    assert_eq!(ages(&store.open_jobs(None, 7).await.unwrap()), (0..7).collect::<Vec<_>>());
    let workers = store.open_jobs(Some(BackendName::Workers), 100).await.unwrap();
    assert!(workers.len() == 15 && workers.iter().all(|job| job.backend == BackendName::Workers));
    let starts = store.open_intents(Some(BackendName::Legacy), 5).await.unwrap();
    assert!(starts.len() == 5 && starts.iter().all(|intent| intent.backend == BackendName::Legacy));
    assert!(starts.is_sorted_by_key(|intent| intent.started_ms));
}

async fn a_closed_store_takes_no_more(tried: &Tried) {
    let jobs = tried.open();
    jobs.health().unwrap();
    jobs.close().await.unwrap();
    let store = jobs.store();
    assert!(matches!(store.put_job(job("late", None), None).await, Err(StoreError::NotWritten(_))));
    assert!(matches!(store.intent("k").await, Err(StoreError::Unavailable(_))) || !store.is_shared());
    assert!(jobs.health().is_err());
}
