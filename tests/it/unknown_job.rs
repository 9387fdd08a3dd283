//! Jobs that the gateway did not start: looked for at both backends, once for all who ask, and remembered.

use std::thread;

use serde_json::json;

use crate::support::client::{self, Connection, Request, Response};
use crate::support::gateway::{Gateway, set as set_key};
use crate::support::parts::{self, Set};
use crate::support::rude::refused_addr;
use crate::support::scene::{self, assert_own, poll_of, start_of};
use crate::support::unique_user;

fn poll(gateway: &Gateway, user: &str, job: &str, export: Option<&str>) -> Response {
    client::send(gateway.addr(), &poll_of(user, job, export))
}

/// Starts an export at legacy itself, past the gateway.
fn at_legacy(set: &Set, user: &str, export: &str) -> String {
    set.runpod.rule(json!({"match": {"user": user}, "seconds": 3600}));
    let answer = client::send(set.legacy.addr(), &start_of(export, &client::overlay(12).to_string()).user(user));
    answer.field("job_id")
}

/// Starts an export at workers themselves, past the gateway.
fn at_workers(set: &Set, user: &str) -> String {
    set.runpod.rule(json!({"match": {"user": user}, "seconds": 3600}));
    let body = json!({"project_id": 12, "input_key": "k", "params": {}});
    client::send(set.workers.addr(), &start_of("overlay", &body.to_string()).user(user)).field("job_id")
}

/// Counts the status polls that legacy and workers have seen from a user.
fn asked(set: &Set, user: &str) -> (usize, usize) {
    (set.legacy.seen_from("status", user).len(), set.workers.seen_from("status", user).len())
}

#[test]
fn a_job_older_than_the_gateway_is_found_where_it_is() {
    let set = parts::shared();
    let mut gateway = Gateway::start(set);
    for export in ["overlay", "framing", "annotate"] {
        for form in [Some(export), None] {
            let user = set.user();
            let job = at_legacy(set, &user, export);
            let answer = poll(&gateway, &user, &job, form);
            assert_eq!((answer.status, answer.header("x-export-backend")), (200, Some("legacy")), "{export} {form:?}");
            assert_eq!(answer.field("job_id"), job);
            let (first, workers) = asked(set, &user);
            assert!(first >= 2 && workers == 0, "{first} {workers}: looked for, then asked");
            // Remembered: the next poll asks once.
            assert_eq!(poll(&gateway, &user, &job, None).status, 200);
            assert_eq!(asked(set, &user), (first + 1, 0));
        }
    }
    let user = set.user();
    let job = at_workers(set, &user);
    for _ in 0..2 {
        let answer = poll(&gateway, &user, &job, Some("overlay"));
        assert_eq!((answer.status, answer.header("x-export-backend")), (200, Some("workers")), "{}", answer.text());
        gateway.kill9();
        gateway.restart();
    }
    assert_eq!(asked(set, &user).0, 3, "found once, remembered over a restart: {:?}", asked(set, &user));
    // Such a job has no user: it is shown to whoever asks, and the backend sees who that is.
    let other = unique_user();
    assert_eq!(poll(&gateway, &other, &job, None).status, 200);
    assert_eq!(asked(set, &other), (0, 1));
}

#[test]
fn a_job_that_neither_has_gets_legacys_own_404() {
    let set = parts::shared();
    let gateway = Gateway::start(set);
    for (form, job) in [(Some("overlay"), "no-such-job"), (None, "00000000-0000-4000-8000-00000000ffff")] {
        let user = unique_user();
        let origin = |request: Request| request.header("Origin", "https://app.reelballers.com");
        let ours = client::send(gateway.addr(), &origin(poll_of(&user, job, form)));
        assert_eq!(asked(set, &user), (3, 1), "each type at legacy, then workers");
        let direct = client::send(set.legacy.addr(), &origin(poll_of(&user, job, Some("overlay"))));
        assert_eq!((ours.status, ours.text()), (404, direct.text()));
        let others = |answer: &Response| -> Vec<(String, String)> {
            let added = ["date", "x-request-id", "x-export-backend"];
            let is_added = |name: &String| added.iter().any(|it| name.eq_ignore_ascii_case(it));
            answer.head.headers.iter().filter(|(name, _)| !is_added(name)).cloned().collect()
        };
        assert_eq!(others(&ours), others(&direct));
        assert_eq!((ours.header("x-export-backend"), &ours.head.line), (Some("legacy"), &direct.head.line));
        // Kept for a moment: who asks again costs the backends nothing.
        let before = asked(set, &user);
        assert_eq!(client::send(gateway.addr(), &origin(poll_of(&user, job, None))).text(), ours.text());
        assert_eq!(asked(set, &user), before);
    }
}

#[test]
fn a_shared_404_carries_nothing_that_was_meant_for_another() {
    let set = parts::shared();
    let gateway = Gateway::start(set);
    let user = unique_user();
    let answer = json!({
        "mode": "answer", "status": 404, "user": user, "json": {"detail": "Job not found"},
        "headers": [["set-cookie", "session=s3cr3t"], ["x-own", "kept"]],
    });
    set.legacy.fault(json!({"status": answer}));
    let first = poll(&gateway, &user, "nowhere-at-all", None);
    assert_eq!((first.status, first.header("set-cookie")), (404, Some("session=s3cr3t")), "legacy's own, unchanged");
    let second = poll(&gateway, &user, "nowhere-at-all", None);
    assert_eq!((second.status, second.header("set-cookie"), second.header("x-own")), (404, None, Some("kept")));
    assert_eq!(asked(set, &user), (3, 1));
    // Legacy names the origin that asks: what it told one is of no use to another.
    let other = unique_user();
    for origin in ["https://app.reelballers.com", "http://localhost:5173", "https://evil.example.com"] {
        let request = poll_of(&other, "nowhere-at-all", Some("overlay")).header("Origin", origin);
        let (ours, direct) = (client::send(gateway.addr(), &request), client::send(set.legacy.addr(), &request));
        let name = "access-control-allow-origin";
        assert_eq!((ours.status, ours.header(name)), (404, direct.header(name)), "{origin}");
    }
}

#[test]
fn many_who_ask_for_the_same_unknown_job_are_one_look_up() {
    let set = parts::shared();
    let gateway = Gateway::start(set);
    for found in [true, false] {
        let user = set.user();
        let job = if found { at_workers(set, &user) } else { "nowhere-at-all".to_owned() };
        // Slow enough for all hundred to be there before the answer is.
        set.workers.fault(json!({"status": {"mode": "pass", "user": user, "delay_ms": 700, "times": 1}}));
        let mut connections: Vec<_> = (0..100).map(|_| Connection::open(gateway.addr())).collect();
        let bytes = poll_of(&user, &job, None).bytes("gateway");
        connections.iter_mut().for_each(|connection| connection.send(&bytes));
        let statuses: Vec<u16> =
            connections.iter_mut().map(|connection| connection.read("GET").unwrap().status).collect();
        assert_eq!(statuses, vec![if found { 200 } else { 404 }; 100]);
        let (legacy, workers) = asked(set, &user);
        // One look-up; where the job was found, each of the hundred then asks its owner.
        assert_eq!((legacy, workers), (3, if found { 101 } else { 1 }));
    }
}

#[test]
fn one_backend_away_and_the_other_without_the_job_is_no_404() {
    let set = parts::shared();
    let away = format!("http://{}", refused_addr());
    let user = set.user();
    let (on_legacy, on_workers) = (at_legacy(set, &user, "framing"), at_workers(set, &user));
    let no_workers = Gateway::start(scene::workers_at(set, away.as_str()));
    let no_legacy = Gateway::start(scene::legacy_at(set, away.as_str()));
    for form in [None, Some("overlay")] {
        for (gateway, there, elsewhere) in
            [(&no_workers, &on_legacy, &on_workers), (&no_legacy, &on_workers, &on_legacy)]
        {
            let answer = poll(gateway, &user, elsewhere, form);
            assert_own(&answer, 503, "owner_unavailable");
            assert!(answer.header("retry-after").is_some());
            let answer = poll(gateway, &user, "nowhere-at-all", form);
            assert_own(&answer, 503, "owner_unavailable");
            // What is there is found although the other is away.
            let wanted = if form.is_some() && there == &on_legacy { Some("framing") } else { form };
            assert_eq!(poll(gateway, &user, there, wanted).status, 200);
        }
    }
}

#[test]
fn a_backend_that_says_neither_yes_nor_no_is_no_404() {
    let set = parts::shared();
    let gateway = Gateway::start(set);
    for fault in [
        json!({"mode": "answer", "status": 500}),
        json!({"mode": "edge", "code": 1101}),
        json!({"mode": "other_job"}),
        json!({"mode": "garbage"}),
    ] {
        for legacy in [true, false] {
            let user = set.user();
            let mut fault = fault.clone();
            fault["user"] = user.as_str().into();
            let part: &parts::Part = if legacy { &set.legacy } else { &set.workers };
            part.fault(json!({"status": fault}));
            let answer = poll(&gateway, &user, "nowhere-at-all", None);
            assert_own(&answer, 503, "owner_unavailable");
        }
    }
}

#[test]
fn look_ups_of_unknown_jobs_have_a_limit() {
    let set = parts::shared();
    let gateway = Gateway::with(set, |table| set_key(table, "server.threads", 1));
    let user = set.user();
    let known = at_workers(set, &user);
    assert_eq!(poll(&gateway, &user, &known, None).status, 200);
    set.workers.fault(json!({"status": {"mode": "pass", "user": user, "delay_ms": 1500, "times": 60}}));
    let statuses: Vec<Response> = thread::scope(|scope| {
        let ask = |n: usize| {
            let (user, addr) = (&user, gateway.addr());
            scope.spawn(move || client::send(addr, &poll_of(user, &format!("unknown-{n}"), None)))
        };
        let threads: Vec<_> = (0..60).map(ask).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let refused: Vec<&Response> = statuses.iter().filter(|answer| answer.status == 503).collect();
    assert_eq!((refused.len(), statuses.iter().filter(|answer| answer.status == 404).count()), (10, 50));
    for answer in refused {
        assert_own(answer, 503, "overloaded");
        assert!(answer.header("retry-after").is_some());
    }
    set.workers.fault(json!({"status": {"mode": "pass", "user": user}}));
    assert_eq!(poll(&gateway, &user, "unknown-later", None).status, 404, "places are given back");
}

#[test]
fn a_start_through_the_gateway_beats_what_was_found() {
    // A found job has no user; once its start is recorded, it is its user's alone.
    let set = parts::shared();
    let gateway = Gateway::start(set);
    let (user, other) = (set.user(), set.user());
    let job = at_workers(set, &user);
    assert_eq!(poll(&gateway, &other, &job, None).status, 200);
    set.workers.fault(json!({"start": {"mode": "job_id", "value": job, "user": user, "times": 1}}));
    let start = client::send(gateway.addr(), &scene::start_as(&user, "beats"));
    assert_eq!(start.field("job_id"), job);
    assert_eq!(poll(&gateway, &user, &job, None).status, 200);
    assert_eq!(poll(&gateway, &other, &job, None).text(), r#"{"detail":"Job not found"}"#);
}
