//! Keys when an answer is lost or the gateway dies: with and without a Worker that honours keys, never two jobs.

use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::idempotency::{assert_replayed, keyed};
use crate::support::client::{Connection, Response, try_send};
use crate::support::gateway::{Gateway, set};
use crate::support::parts::{Set, header_of};
use crate::support::rude::{Rude, Step};
use crate::support::{DEADLINE, eventually, within};

const KEY: &str = "click-1";

fn try_start(gateway: &Gateway, user: &str) -> Option<Response> {
    try_send(gateway.addr(), &keyed(user, KEY)).ok()
}

fn start(gateway: &Gateway, user: &str) -> Response {
    try_start(gateway, user).expect("an answer")
}

fn code(answer: &Response) -> String {
    answer.json()["code"].as_str().unwrap_or_default().to_owned()
}

/// Parts of one's own whose Worker honours keys.
fn honouring() -> Set {
    let set = Set::start();
    set.workers.settings(json!({"idempotent": true}));
    set
}

fn asks_again(table: &mut toml::Table) {
    set(table, "backends.workers.idempotent", true);
}

/// A deadline that passes within the test: 3 s for a start, and the 5 s on top.
fn quick(table: &mut toml::Table) {
    for backend in ["legacy", "workers"] {
        set(table, &format!("backends.{backend}.start_timeout"), "3s");
    }
}

fn keys_seen(set: &Set, user: &str) -> Vec<String> {
    set.workers.seen_from("start", user).iter().map(|seen| header_of(seen, "idempotency-key").concat()).collect()
}

#[test]
fn a_worker_that_honours_keys_is_asked_once_more_after_a_lost_answer() {
    let set = honouring();
    let workers = set.workers.addr();
    let rude = Rude::start(move |number| match number {
        0 => vec![Step::ReadRequest, Step::Forward(workers), Step::SendAnswer(Some(20)), Step::Reset],
        _ => vec![Step::ReadRequest, Step::Forward(workers), Step::SendAnswer(None)],
    });
    let gateway = Gateway::with(&set, |table| {
        asks_again(table);
        self::set(table, "backends.workers.url", rude.url());
    });
    let user = set.user();
    let first = start(&gateway, &user);
    assert_eq!((first.status, first.header("X-Export-Backend")), (200, Some("workers")), "{}", first.text());
    let keys = keys_seen(&set, &user);
    assert!(keys.len() == 2 && keys[0] == keys[1], "{keys:?}");
    assert_eq!(set.jobs_of(&user), (0, 1));
    assert_replayed(&first, &start(&gateway, &user));
    assert_eq!(keys_seen(&set, &user).len(), 2);
    assert_eq!(gateway.events("start is asked of workers once more").len(), 1);
}

#[test]
fn a_worker_is_asked_once_more_and_not_oftener() {
    let set = honouring();
    let rude = Rude::losing_answers(set.workers.addr(), 20);
    let gateway = Gateway::with(&set, |table| {
        asks_again(table);
        self::set(table, "backends.workers.url", rude.url());
    });
    let user = set.user();
    let lost = start(&gateway, &user);
    assert_eq!((lost.status, code(&lost).as_str()), (502, "start_outcome_unknown"));
    let again = start(&gateway, &user);
    assert_eq!((again.status, code(&again).as_str()), (409, "start_outcome_unknown"));
    assert_eq!((rude.requests("POST"), set.jobs_of(&user)), (2, (0, 1)));
}

/// Kills the gateway while workers have made the job and hold the answer.
fn killed_after_the_job(set: &Set, gateway: &mut Gateway, user: &str) {
    set.workers.fault(json!({"start": {"mode": "pass", "user": user, "delay_after_ms": 60_000, "times": 1}}));
    let addr = gateway.addr();
    thread::scope(|scope| {
        let cut = scope.spawn(|| try_send(addr, &keyed(user, KEY)));
        eventually("the job", || (set.jobs_of(user).1 == 1).then_some(()));
        gateway.kill9();
        cut.join().unwrap().expect_err("no answer");
    });
    gateway.restart();
}

#[test]
fn a_start_that_was_killed_is_under_way_until_its_deadline_and_unknown_after() {
    let set = Set::start();
    let (mut gateway, user) = (Gateway::with(&set, quick), set.user());
    killed_after_the_job(&set, &mut gateway, &user);
    let again = start(&gateway, &user);
    assert_eq!((again.status, code(&again).as_str()), (409, "start_in_progress"));
    let end = within(2 * DEADLINE, "the deadline", || {
        Some(start(&gateway, &user)).filter(|answer| code(answer) != "start_in_progress")
    });
    assert_eq!((end.status, code(&end).as_str()), (409, "start_outcome_unknown"));
    assert_eq!(set.jobs_of(&user), (0, 1));
    assert_eq!(keys_seen(&set, &user).len(), 1, "nothing is asked again");
}

#[test]
fn a_start_that_was_killed_is_found_again_where_workers_honour_keys() {
    let set = honouring();
    let (mut gateway, user) = (Gateway::with(&set, asks_again), set.user());
    killed_after_the_job(&set, &mut gateway, &user);
    let found = eventually("the answer", || Some(start(&gateway, &user)).filter(|answer| answer.status == 200));
    assert_eq!(found.header("Idempotent-Replayed"), Some("true"));
    assert_eq!(found.field("job_id"), set.workers.jobs_of(&user)[0]["job_id"]);
    assert!(found.field("websocket_url").ends_with(&format!("/api/jobs/{}/ws", found.field("job_id"))));
    let keys = keys_seen(&set, &user);
    assert!(keys.len() == 2 && keys[0] == keys[1], "{keys:?}");
    assert_eq!(set.jobs_of(&user), (0, 1));
    let status = crate::support::client::status(gateway.addr(), &user, &found.field("job_id"));
    assert_eq!((status.status, status.header("X-Export-Backend")), (200, Some("workers")));
    let labels = [("reason", "restart"), ("outcome", "accepted")];
    assert_eq!(gateway.metric("export_gateway_starts_total", &labels), 1.0);
}

#[test]
fn a_start_that_moved_to_legacy_is_never_asked_of_workers_again() {
    let set = honouring();
    let (moved, open) = (set.user(), set.user());
    let mut gateway = Gateway::with(&set, asks_again);
    let busy = json!({"mode": "answer", "status": 503, "json": {"error": "busy"}, "user": moved, "times": 1});
    set.workers.fault(json!({"start": busy}));
    set.workers.fault(json!({"start": {"mode": "pass", "user": open, "delay_after_ms": 60_000, "times": 1}}));
    set.legacy.fault(json!({"start": {"mode": "pass", "user": moved, "delay_after_ms": 60_000, "times": 1}}));
    let addr = gateway.addr();
    thread::scope(|scope| {
        let starts = [&moved, &open].map(|user| scope.spawn(move || try_send(addr, &keyed(user, KEY))));
        eventually("both jobs", || (set.jobs_of(&moved).0 == 1 && set.jobs_of(&open).1 == 1).then_some(()));
        gateway.kill9();
        for start in starts {
            start.join().unwrap().expect_err("no answer");
        }
    });
    gateway.restart();
    // All that is asked again is asked at once: when the one is found, the other was not asked.
    eventually("the one that is open", || try_start(&gateway, &open).filter(|answer| answer.status == 200));
    assert_eq!((keys_seen(&set, &open).len(), keys_seen(&set, &moved).len()), (2, 1));
    let held = start(&gateway, &moved);
    assert_eq!((held.status, code(&held).as_str()), (409, "start_in_progress"));
    assert_eq!(held.header("X-Export-Backend"), Some("legacy"));
    assert_eq!((set.jobs_of(&moved), set.jobs_of(&open)), ((1, 0), (0, 1)));
}

#[test]
fn open_starts_wait_for_workers_that_cannot_be_reached() {
    let mut set = honouring();
    let (mut gateway, user) = (Gateway::with(&set, asks_again), set.user());
    set.workers.fault(json!({"start": {"mode": "pass", "user": user, "delay_after_ms": 60_000, "times": 1}}));
    let addr = gateway.addr();
    thread::scope(|scope| {
        let cut = scope.spawn(|| try_send(addr, &keyed(&user, KEY)));
        eventually("the job", || (set.jobs_of(&user).1 == 1).then_some(()));
        gateway.kill9();
        cut.join().unwrap().expect_err("no answer");
    });
    set.workers.kill();
    gateway.restart();
    assert_eq!(code(&start(&gateway, &user)), "start_in_progress");
    set.workers.restart();
    set.workers.settings(json!({"idempotent": true}));
    let found = within(2 * DEADLINE, "the answer", || try_start(&gateway, &user).filter(|it| it.status == 200));
    assert_eq!(found.header("Idempotent-Replayed"), Some("true"));
    assert_eq!(set.jobs_of(&user), (0, 1));
}

/// Keeps everybody else from writing into the gateway's store until it is dropped.
fn locked(gateway: &Gateway) -> rusqlite::Connection {
    let store = rusqlite::Connection::open(gateway.folder().join("jobs.db")).unwrap();
    store.busy_timeout(DEADLINE).unwrap();
    store.execute_batch("BEGIN IMMEDIATE").unwrap();
    store
}

#[test]
fn an_answer_that_could_not_be_stored_is_stored_later_and_meanwhile_nothing_is_started() {
    let set = Set::start();
    let (gateway, user) = (Gateway::start(&set), set.user());
    set.workers.fault(json!({"start": {"mode": "pass", "user": user, "delay_after_ms": 1500, "times": 1}}));
    let (lost, lock) = thread::scope(|scope| {
        let lost = scope.spawn(|| start(&gateway, &user));
        eventually("the job", || (set.jobs_of(&user).1 == 1).then_some(()));
        let lock = locked(&gateway);
        (lost.join().unwrap(), lock)
    });
    assert_eq!((lost.status, code(&lost).as_str()), (500, "start_outcome_unknown"));
    assert_eq!(code(&start(&gateway, &user)), "start_in_progress");
    drop(lock);
    let found = eventually("the answer", || Some(start(&gateway, &user)).filter(|it| it.status == 200));
    assert_eq!(found.header("Idempotent-Replayed"), Some("true"));
    assert_eq!((set.jobs_of(&user), keys_seen(&set, &user).len()), ((0, 1), 1));
}

#[test]
fn a_start_that_cannot_be_moved_to_legacy_durably_does_not_go_there_if_it_could_be_asked_again() {
    let set = honouring();
    // With a key: refused. Neither: it goes on unrecorded. Where workers could be asked again for what is still recorded,
    // nobody can promise that nothing will be started.
    let unknown = (500, "start_outcome_unknown");
    let cases = [
        (true, false, unknown),
        (true, true, unknown),
        (false, true, (503, "store_unavailable")),
        (false, false, (200, "")),
    ];
    for (idempotent, key, expected) in cases {
        let user = set.user();
        let gateway = Gateway::with(&set, |table| self::set(table, "backends.workers.idempotent", idempotent));
        let busy = json!({"mode": "answer", "status": 503, "json": {"error": "busy"}, "user": user, "times": 1});
        let mut slow = busy;
        slow["delay_ms"] = json!(1500);
        set.workers.fault(json!({"start": slow}));
        let answer = thread::scope(|scope| {
            let answer = scope.spawn(|| match key {
                true => start(&gateway, &user),
                false => crate::support::client::start_overlay(gateway.addr(), &user),
            });
            eventually("the start at workers", || (keys_seen(&set, &user).len() == 1).then_some(()));
            let lock = locked(&gateway);
            let answer = answer.join().unwrap();
            drop(lock);
            answer
        });
        let seen = (answer.status, code(&answer));
        assert_eq!(seen, (expected.0, expected.1.to_owned()), "idempotent {idempotent} key {key}: {}", answer.text());
        let refused = expected.0 != 200;
        assert_eq!(set.jobs_of(&user), (usize::from(!refused), 0));
        if key {
            let made = eventually("the key is free", || Some(start(&gateway, &user)).filter(|it| it.status == 200));
            assert_eq!((made.header("Idempotent-Replayed"), set.jobs_of(&user)), (None, (0, 1)));
        }
        let store = rusqlite::Connection::open(gateway.folder().join("jobs.db")).unwrap();
        let open = "SELECT count(*) FROM intents WHERE state = 'running'";
        let open = || store.query_row(open, [], |row| row.get::<_, i64>(0)).unwrap();
        eventually("nothing is left to be asked again", || (open() == 0).then_some(()));
    }
}

/// Kills the gateway at some moment of a start, starts it again, and asks under the same key; returns the answers.
fn killed_at_random(gateway: &mut Gateway, user: &str, after: Duration) -> (Option<Response>, Response) {
    let mut connection = Connection::open(gateway.addr());
    let first = thread::scope(|scope| {
        let first = scope.spawn(move || connection.exchange(&keyed(user, KEY)).ok());
        let until = Instant::now() + after;
        while Instant::now() < until {
            std::hint::spin_loop();
        }
        gateway.kill9();
        first.join().unwrap()
    });
    gateway.restart();
    (first, start(gateway, user))
}

#[test]
fn killed_at_any_moment_a_start_is_made_once_and_an_answered_one_answered_again() {
    let set = honouring();
    let mut counts = [0; 3];
    for (percent, idempotent) in [(100, false), (0, false), (100, true)] {
        let mut gateway = Gateway::with(&set, |table| {
            self::set(table, "rollout.percent", percent);
            self::set(table, "backends.workers.idempotent", idempotent);
        });
        let began = Instant::now();
        assert_eq!(start(&gateway, &set.user()).status, 200);
        // From nothing at all to well beyond an answer.
        let step = began.elapsed() / 12;
        for round in 0..20 {
            let user = set.user();
            let after = step * round;
            let (first, again) = killed_at_random(&mut gateway, &user, after);
            match (&first, again.status) {
                (Some(first), _) => assert_replayed(first, &again),
                (None, 200) => {}
                (None, _) => assert_eq!((again.status, code(&again).as_str()), (409, "start_in_progress")),
            }
            counts[0] += usize::from(first.is_some());
            counts[1] += usize::from(first.is_none() && again.status == 200);
            counts[2] += usize::from(again.status == 409);
            let (legacy, workers) = set.jobs_of(&user);
            assert!(legacy + workers <= 1, "{user}: {legacy} on legacy, {workers} on workers");
            if again.status == 200 {
                assert_eq!(legacy + workers, 1);
                let jobs: Vec<Value> = [set.legacy.jobs_of(&user), set.workers.jobs_of(&user)].concat();
                let id = jobs[0]["job_id"].as_str().or(jobs[0]["id"].as_str()).expect("an id");
                assert_eq!(again.field("job_id"), id);
            }
        }
    }
    assert!(counts.iter().all(|count| *count > 0), "answered, started anew, open: {counts:?}");
}
