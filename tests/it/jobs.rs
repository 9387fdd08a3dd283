//! Who owns a job: kept through crashes, flips and clients that leave.

use std::thread;
use std::time::Duration;

use serde_json::json;

use crate::support::client::{self, Connection};
use crate::support::eventually;
use crate::support::gateway::{Gateway, set as set_key};
use crate::support::parts;
use crate::support::rude::{Rude, Step};
use crate::support::scene::{self, calm, line_of, poll_of, start_as, until_seen};
use crate::support::signal;

#[test]
fn no_acknowledged_job_loses_its_owner_to_a_kill() {
    let set = parts::shared();
    let (new, old) = (set.user(), set.user());
    let mut gateway = Gateway::with(set, |table| {
        set_key(table, "rollout.always_legacy", vec![toml::Value::from(old.as_str())]);
    });
    let users = [(&new, "workers"), (&old, "legacy")];
    let mut jobs = Vec::new();
    for round in 0..30 {
        let (user, backend) = users[round % 2];
        let mut connection = Connection::open(gateway.addr());
        connection.send(&start_as(user, &format!("kill-{round}")).bytes("gateway"));
        // The first byte of the answer is the acknowledgement: dead within the same millisecond.
        let (status, head) = connection.read_head().unwrap();
        signal(gateway.pid(), "KILL");
        assert_eq!((status, head.header("x-export-backend")), (200, Some(backend)));
        let body = connection.wire.read_body(head.framing(crate::support::wire::Framing::UntilClose)).unwrap();
        let json: serde_json::Value = serde_json::from_slice(&body.bytes).unwrap();
        jobs.push((user, backend, json["job_id"].as_str().expect("an id").to_owned()));
        gateway.restart();
        let (user, backend, job) = jobs.last().unwrap();
        for form in [None, Some("overlay")] {
            let answer = client::send(gateway.addr(), &poll_of(user, job, form));
            assert_eq!((answer.status, answer.header("x-export-backend")), (200, Some(*backend)), "round {round}");
        }
    }
    for (user, backend, job) in &jobs {
        let answer = client::send(gateway.addr(), &poll_of(user, job, None));
        assert_eq!((answer.status, answer.header("x-export-backend")), (200, Some(*backend)));
    }
    // No owner was found by looking for it: each backend was asked for its own jobs only.
    assert!(set.legacy.seen_from("status", &new).is_empty() && set.workers.seen_from("status", &old).is_empty());
    assert_eq!((set.jobs_of(&new), set.jobs_of(&old)), ((0, 15), (15, 0)));
}

#[test]
fn a_flip_and_a_rollback_move_no_job() {
    let set = parts::shared();
    let user = set.user();
    set.runpod.rule(json!({"match": {"user": user}, "seconds": 3600}));
    let mut gateway = Gateway::start(set);
    let mut jobs = Vec::new();
    let flips: [(&str, toml::Value, &str); 5] = [
        ("rollout.percent", 100.into(), "workers"),
        ("rollout.percent", 0.into(), "legacy"),
        ("rollout.percent", 100.into(), "workers"),
        ("rollout.workers", false.into(), "legacy"),
        ("rollout.workers", true.into(), "workers"),
    ];
    for (key, value, backend) in flips {
        let mut table: toml::Table = gateway.config_text().parse().unwrap();
        set_key(&mut table, key, value);
        gateway.write_by_rename(&table.to_string());
        gateway.restart();
        let answer = client::send(gateway.addr(), &start_as(&user, "flip"));
        assert_eq!((answer.status, answer.header("x-export-backend")), (200, Some(backend)));
        jobs.push((backend, answer.field("job_id")));
        for (backend, job) in &jobs {
            for form in [None, Some("overlay")] {
                let answer = client::send(gateway.addr(), &poll_of(&user, job, form));
                assert_eq!((answer.status, answer.header("x-export-backend")), (200, Some(*backend)), "after {key}");
                assert_eq!(answer.field("job_id"), *job);
            }
        }
    }
    assert_eq!(set.jobs_of(&user), (2, 3));
}

#[test]
fn a_start_runs_to_its_end_when_its_client_leaves() {
    let set = parts::shared();
    let (new, old) = (set.user(), set.user());
    let gateway = Gateway::with(set, |table| {
        set_key(table, "rollout.always_legacy", vec![toml::Value::from(old.as_str())]);
    });
    let held = |user: &str| json!({"start": {"mode": "pass", "delay_after_ms": 300, "user": user}});
    set.workers.fault(held(&new));
    set.legacy.fault(held(&old));
    for (user, backend) in [(&new, "workers"), (&old, "legacy")] {
        let mut connection = Connection::open(gateway.addr());
        connection.send(&start_as(user, &format!("left-{backend}")).bytes("gateway"));
        let part: &parts::Part = if backend == "workers" { &set.workers } else { &set.legacy };
        until_seen(part, "start", user, 1);
        drop(connection);
        let line = line_of(&gateway, &format!("left-{backend}"));
        assert_eq!((&line["status"], &line["outcome"]), (&json!(499), &json!("accepted")), "{line}");
        let job = line["job_id"].as_str().expect("a job").to_owned();
        assert_eq!(part.jobs_of(user)[0]["job_id"], job.as_str());
        let answer = client::send(gateway.addr(), &poll_of(user, &job, None));
        assert_eq!((answer.status, answer.header("x-export-backend")), (200, Some(backend)));
    }
    assert_eq!((set.jobs_of(&new), set.jobs_of(&old)), ((0, 1), (1, 0)));
    assert!(set.legacy.seen_from("status", &new).is_empty(), "the owner was stored, not found");
    let labels = [("route", "start"), ("status", "499")];
    assert_eq!(gateway.metric("export_gateway_requests_total", &labels), 2.0);
}

#[test]
fn a_fallback_runs_to_its_end_when_its_client_leaves() {
    let set = parts::shared();
    let user = set.user();
    let rude = Rude::always(vec![
        Step::ReadRequest,
        Step::Wait(Duration::from_millis(300)),
        Step::json(404, r#"{"error":"no"}"#),
    ]);
    let gateway = Gateway::with(scene::workers_at(set, rude.url()), calm);
    let mut connection = Connection::open(gateway.addr());
    connection.send(&start_as(&user, "left").bytes("gateway"));
    eventually("the start at workers", || (rude.requests("POST") == 1).then_some(()));
    drop(connection);
    let line = line_of(&gateway, "left");
    assert_eq!(
        (&line["status"], &line["outcome"], &line["backend"]),
        (&json!(499), &json!("accepted"), &json!("legacy"))
    );
    assert_eq!(set.jobs_of(&user), (1, 0));
}

#[test]
fn an_orderly_end_waits_for_a_start_whose_client_has_left() {
    let set = parts::shared();
    let user = set.user();
    set.workers.fault(json!({"start": {"mode": "pass", "delay_after_ms": 300, "user": user}}));
    let mut gateway = Gateway::start(set);
    let mut connection = Connection::open(gateway.addr());
    connection.send(&start_as(&user, "drain").bytes("gateway"));
    until_seen(&set.workers, "start", &user, 1);
    drop(connection);
    assert!(gateway.term().success());
    gateway.restart();
    let job = set.workers.jobs_of(&user)[0]["job_id"].as_str().unwrap().to_owned();
    let answer = client::send(gateway.addr(), &poll_of(&user, &job, None));
    assert_eq!((answer.status, answer.header("x-export-backend")), (200, Some("workers")));
    assert!(set.legacy.seen_from("status", &user).is_empty(), "the owner was stored, not found");
}

#[test]
fn many_starts_at_once_each_have_one_job_and_its_owner() {
    let set = parts::shared();
    let gateway = Gateway::start(set);
    let users: Vec<String> = (0..8).map(|_| set.user()).collect();
    let starts: Vec<(String, String)> = thread::scope(|scope| {
        let run = |user: &String| {
            let (user, addr) = (user.clone(), gateway.addr());
            scope.spawn(move || {
                let mut connection = Connection::open(addr);
                let start = || connection.exchange(&start_as(&user, "many")).unwrap().field("job_id");
                let jobs: Vec<String> = std::iter::repeat_with(start).take(10).collect();
                jobs.into_iter().map(|job| (user.clone(), job)).collect::<Vec<_>>()
            })
        };
        let threads: Vec<_> = users.iter().map(run).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    let ids: std::collections::BTreeSet<&String> = starts.iter().map(|(_, job)| job).collect();
    assert_eq!((starts.len(), ids.len()), (80, 80));
    for (user, job) in &starts {
        assert_eq!(client::send(gateway.addr(), &poll_of(user, job, None)).field("job_id"), *job);
    }
    for user in &users {
        assert_eq!(set.jobs_of(user), (0, 10));
    }
}
