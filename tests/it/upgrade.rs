//! A new process takes over from a running one: the two overlap, and nobody is turned away.

use std::fs;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::idempotency::{assert_replayed, keyed};
use crate::support::backend::Recorder;
use crate::support::client::{Connection, Request, get, send, start_overlay, status, try_send};
use crate::support::gateway::{Gateway, command, is_running, set};
use crate::support::parts::shared;
use crate::support::raw_websocket::{RawSocket, handshake};
use crate::support::scene::no_look_up;
use crate::support::wire::ReadError;
use crate::support::{eventually, signal};

const LIMIT: Duration = Duration::from_secs(20);

/// Sends requests over fresh and kept connections until told to stop; counts the answers, and notes what failed.
fn load(addr: SocketAddr, stop: &AtomicBool, answered: &AtomicU64, failed: &Mutex<Vec<String>>) {
    let mut kept: Option<Connection> = None;
    while !stop.load(Ordering::SeqCst) {
        if let Err(error) = try_send(addr, &Request::get("/fresh")) {
            failed.lock().unwrap().push(format!("fresh: {error:?}"));
        }
        let (mut connection, is_fresh) = match kept.take() {
            Some(connection) => (connection, false),
            None => (Connection::open(addr), true),
        };
        match connection.exchange(&Request::get("/kept")) {
            Ok(answer) if answer.status == 200 => {
                answered.fetch_add(1, Ordering::SeqCst);
                if answer.header("connection").is_none() {
                    kept = Some(connection);
                }
            }
            // As for any client: one that was kept may have been closed while nothing was under way.
            Err(ReadError::Closed | ReadError::Reset) if !is_fresh => {}
            other => failed.lock().unwrap().push(format!("kept, fresh={is_fresh}: {other:?}")),
        }
    }
}

#[test]
fn no_request_is_lost_while_a_new_process_takes_over() {
    let recorder = Recorder::start();
    let mut gateway = Gateway::with(&recorder, no_look_up);
    let (old, addr) = (gateway.pid(), gateway.addr());
    let (stop, answered, failed) = (AtomicBool::new(false), AtomicU64::new(0), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| load(addr, &stop, &answered, &failed));
        }
        eventually("load", || (answered.load(Ordering::SeqCst) > 100).then_some(()));
        gateway.upgrade();
        assert_eq!(gateway.wait(LIMIT).code(), Some(0));
        let before = answered.load(Ordering::SeqCst);
        eventually("load on the new process", || (answered.load(Ordering::SeqCst) > before + 100).then_some(()));
        stop.store(true, Ordering::SeqCst);
    });
    assert_eq!(*failed.lock().unwrap(), Vec::<String>::new());
    let new = gateway.successor();
    assert!(new != old && is_running(new));
    assert_eq!(get(gateway.admin(), "/readyz").json()["status"], "ready");
    signal(new, "TERM");
    gateway.wait_successor(LIMIT);
    assert!(Connection::try_open(addr).is_err(), "the last one closes the listener");
}

#[test]
fn websockets_of_the_old_process_are_told_1001_and_the_new_one_takes_others() {
    let mut gateway = Gateway::start(shared());
    let mut before = RawSocket::open(gateway.addr(), &handshake("/ws/export/one"));
    before.send_text("ping");
    assert_eq!(before.read().unwrap().payload, b"pong");
    gateway.upgrade();
    assert_eq!(before.close_code(), Some((1001, String::new())));
    assert_eq!(gateway.wait(LIMIT).code(), Some(0));
    let mut after = RawSocket::open(gateway.addr(), &handshake("/ws/export/one"));
    after.send_text("ping");
    assert_eq!(after.read().unwrap().payload, b"pong");
}

#[test]
fn both_processes_know_every_job_and_every_key() {
    let set = shared();
    let (early, late) = (set.user(), set.user());
    let mut gateway = Gateway::start(set);
    let first = send(gateway.addr(), &keyed(&early, "before"));
    assert_eq!((first.status, first.header("x-export-backend")), (200, Some("workers")));
    // A start that the old process still has under way when the new one serves.
    set.workers.fault(json!({"start": {"mode": "pass", "user": late, "delay_after_ms": 2500, "times": 1}}));
    let addr = gateway.addr();
    let starting = thread::spawn({
        let late = late.clone();
        move || send(addr, &keyed(&late, "during"))
    });
    eventually("the start at workers", || (set.workers.seen_from("start", &late).len() == 1).then_some(()));
    gateway.upgrade();

    let again = send(addr, &keyed(&early, "before"));
    assert_replayed(&first, &again);
    assert_eq!(status(addr, &early, &first.field("job_id")).header("x-export-backend"), Some("workers"));
    let same = send(addr, &keyed(&late, "during"));
    assert_eq!((same.status, same.field("code").as_str()), (409, "start_in_progress"), "{}", same.text());
    // Made by the new one while the old one is still there.
    let other = set.user();
    let made = start_overlay(addr, &other);
    assert_eq!(made.status, 200);
    assert!(is_running(gateway.pid()), "the old process waits for its start");

    let started = starting.join().unwrap();
    assert_eq!(started.status, 200);
    assert_eq!(gateway.wait(LIMIT).code(), Some(0));
    assert_replayed(&started, &send(addr, &keyed(&late, "during")));
    for (user, job) in [(&late, &started), (&other, &made)] {
        let poll = status(addr, user, &job.field("job_id"));
        assert_eq!((poll.status, poll.header("x-export-backend")), (200, Some("workers")));
    }
    for user in [&early, &late, &other] {
        assert_eq!(set.jobs_of(user), (0, 1));
    }
    gateway.event("upgrade: the old process has ended");
    let file = gateway.config_path();
    let listed = || {
        let arguments = ["jobs", "list", "--open", "--backend", "workers", "--json", "--config"];
        let output = command().args(arguments).arg(&file).output().unwrap();
        let jobs: Value = serde_json::from_slice(&output.stdout).unwrap();
        jobs["jobs"].as_array().map_or(0, Vec::len) as f64
    };
    let counted = || gateway.metric("export_gateway_jobs_open", &[("backend", "workers")]);
    eventually("what the old process wrote is counted", || (counted() == listed()).then_some(()));
}

#[test]
fn one_gateway_that_is_started_by_mistake_is_refused_before_during_and_after() {
    let recorder = Recorder::start();
    let mut gateway = Gateway::start(&recorder);
    let file = gateway.config_path();
    // On a port of its own: the lock beside the store alone keeps it out.
    let try_another = || {
        let output = command().arg("--config").arg(&file).output().unwrap();
        let log = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{log}");
        assert!(log.contains("another gateway uses the job store"), "{log}");
    };
    try_another();
    let mut held = Connection::open(gateway.addr());
    held.send(b"PUT /up HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\n");
    eventually("the upload at the backend", || (recorder.backend.connections() == 1).then_some(()));
    gateway.upgrade();
    try_another();
    held.send(b"12345");
    assert_eq!(held.read("PUT").unwrap().status, 200);
    assert_eq!(gateway.wait(LIMIT).code(), Some(0));
    try_another();
    assert_eq!(get(gateway.addr(), "/").status, 200);
}

#[test]
fn a_new_process_that_cannot_serve_changes_nothing() {
    let recorder = Recorder::start();
    let mut gateway = Gateway::start(&recorder);
    let text = gateway.config_text();
    gateway.write_by_rename("[server]\nlisten = 1\n");
    gateway.signal("USR2");
    gateway.event("upgrade failed, this process serves on");
    assert_eq!(get(gateway.addr(), "/").status, 200);
    assert_eq!(send(gateway.addr(), &keyed("ann", "key")).status, 200, "the store takes what is keyed");
    gateway.write_by_rename(&text);
    // And the next one can.
    gateway.upgrade();
    assert_eq!(gateway.wait(LIMIT).code(), Some(0));
    assert_eq!(get(gateway.addr(), "/").status, 200);
}

#[test]
fn a_third_process_has_to_wait_for_the_end_of_the_first() {
    let recorder = Recorder::start();
    let mut gateway = Gateway::start(&recorder);
    let mut held = Connection::open(gateway.addr());
    held.send(b"PUT /up HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\n");
    eventually("the upload at the backend", || (recorder.backend.connections() == 1).then_some(()));
    let second = gateway.upgrade();
    signal(second, "USR2");
    let refused = gateway.event("no upgrade");
    assert!(refused["error"].as_str().is_some_and(|it| it.contains("has not ended yet")), "{refused}");
    held.send(b"12345");
    assert_eq!(held.read("PUT").unwrap().status, 200);
    assert_eq!(gateway.wait(LIMIT).code(), Some(0));
    gateway.event("upgrade: the old process has ended");
    signal(second, "USR2");
    eventually("a third process", || (gateway.events("upgrade: the old process has ended").len() == 2).then_some(()));
    gateway.take_note_of_successor();
    assert!(!is_running(second));
    assert_eq!(get(gateway.addr(), "/").status, 200);
}

#[test]
fn the_new_process_reads_a_new_file_and_keeps_the_sockets() {
    let recorder = Recorder::start();
    let mut gateway = Gateway::with(&recorder, |table| set(table, "server.threads", 1));
    let mut table: toml::Table = gateway.config_text().parse().unwrap();
    set(&mut table, "server.threads", 3);
    fs::write(gateway.config_path(), table.to_string()).unwrap();
    gateway.upgrade();
    assert_eq!(gateway.wait(LIMIT).code(), Some(0));
    let threads: Vec<_> =
        gateway.events("listening").iter().map(|event| event["threads"].as_u64().unwrap_or_default()).collect();
    assert_eq!(threads, [1, 3]);
    let addr = gateway.addr();
    for _ in 0..30 {
        assert_eq!(get(addr, "/").status, 200);
    }
}
