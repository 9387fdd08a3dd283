//! SIGTERM: what is under way is finished, what is idle is closed, and the process ends with 0.

use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::backend::{Backend, Recorder, read_request, say};
use crate::support::client::{Connection, Request, get, overlay, send, start_overlay};
use crate::support::eventually;
use crate::support::gateway::{Gateway, set};
use crate::support::parts::shared;
use crate::support::raw_websocket::{RawSocket, handshake};
use crate::support::wire::ReadError;

/// Waits until nobody listens any more.
fn listener_gone(addr: SocketAddr) {
    eventually("a refused connection", || Connection::try_open(addr).err());
}

/// A backend that answers in two parts; each call of the sender lets one connection go on.
fn two_parts() -> (Backend, Sender<()>, Receiver<()>) {
    let ((go_on, wait), (halfway, reached)) = (channel(), channel());
    let (wait, halfway) = (Mutex::new(wait), Mutex::new(halfway));
    let backend = Backend::start(move |_, wire| {
        loop {
            let (head, _) = read_request(wire)?;
            if head.line.contains("/quick") {
                say(wire, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
                continue;
            }
            say(wire, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n");
            halfway.lock().unwrap().send(()).unwrap();
            let _ = wait.lock().unwrap().recv_timeout(Duration::from_secs(20));
            say(wire, "6\r\nsecond\r\n0\r\n\r\n");
        }
    });
    (backend, go_on, reached)
}

#[test]
fn an_idle_gateway_ends_at_once() {
    let recorder = Recorder::start();
    let mut gateway = Gateway::start(&recorder);
    let mut kept = Connection::open(gateway.addr());
    assert_eq!(kept.exchange(&Request::get("/")).unwrap().status, 200);
    let mut silent = Connection::open(gateway.addr());
    // Accepted for certain: the one behind it is being served.
    get(gateway.addr(), "/");
    let began = Instant::now();
    assert_eq!(gateway.term().code(), Some(0));
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    kept.expect_closed();
    silent.expect_closed();
    assert!(Connection::try_open(gateway.addr()).is_err());
    assert_eq!(gateway.access_lines().len(), 2, "all lines are written");
}

#[test]
fn a_download_under_way_is_finished() {
    let (backend, go_on, reached) = two_parts();
    let mut gateway = Gateway::start(&backend);
    let mut connection = Connection::open(gateway.addr());
    connection.send(&Request::get("/slow").bytes("h"));
    reached.recv_timeout(Duration::from_secs(10)).unwrap();
    gateway.signal("TERM");
    listener_gone(gateway.addr());
    go_on.send(()).unwrap();
    let answer = connection.read("GET").unwrap();
    assert_eq!(answer.text(), "firstsecond");
    assert_eq!(gateway.wait(Duration::from_secs(10)).code(), Some(0));
    connection.expect_closed();
}

#[test]
fn an_upload_under_way_is_finished() {
    let recorder = Recorder::start();
    let mut gateway = Gateway::start(&recorder);
    let mut connection = Connection::open(gateway.addr());
    connection.send(b"PUT /up HTTP/1.1\r\nHost: h\r\nContent-Length: 200000\r\n\r\n");
    connection.send(&[b'a'; 100_000]);
    eventually("the upload at the backend", || (recorder.backend.connections() == 1).then_some(()));
    gateway.signal("TERM");
    listener_gone(gateway.addr());
    connection.send(&[b'b'; 100_000]);
    assert_eq!(connection.read("PUT").unwrap().status, 200);
    assert_eq!(gateway.wait(Duration::from_secs(10)).code(), Some(0));
    assert_eq!(recorder.only().body.bytes.len(), 200_000);
}

#[test]
fn real_events_under_way_come_to_their_end() {
    let mut gateway = Gateway::start(shared());
    let mut connection = Connection::open(gateway.addr());
    connection.send(&Request::get("/api/events?n=10&interval_ms=50").bytes("h"));
    connection.read_head().unwrap();
    gateway.signal("TERM");
    let mut text = String::new();
    while !text.contains("0\r\n\r\n") {
        let piece = connection.wire.read_some().unwrap();
        assert!(!piece.is_empty(), "cut after {text:?}");
        text.push_str(&String::from_utf8(piece).unwrap());
    }
    assert!((0..10).all(|number| text.contains(&format!("id: {number}\n"))), "{text:?}");
    assert_eq!(gateway.wait(Duration::from_secs(10)).code(), Some(0));
}

#[test]
fn a_start_under_way_is_answered_and_its_job_has_an_owner() {
    let set = shared();
    let user = set.user();
    set.workers.fault(json!({"start": {"mode": "pass", "user": user, "delay_after_ms": 600, "times": 1}}));
    let mut gateway = Gateway::start(set);
    let addr = gateway.addr();
    let starting = thread::spawn({
        let user = user.clone();
        move || start_overlay(addr, &user)
    });
    eventually("the start at workers", || (set.workers.seen_from("start", &user).len() == 1).then_some(()));
    gateway.signal("TERM");
    let answer = starting.join().unwrap();
    assert_eq!((answer.status, answer.header("x-export-backend")), (200, Some("workers")));
    assert_eq!(gateway.wait(Duration::from_secs(10)).code(), Some(0));
    assert_eq!(set.jobs_of(&user), (0, 1));
    gateway.restart();
    let job = answer.field("job_id");
    let poll = crate::support::client::status(gateway.addr(), &user, &job);
    assert_eq!((poll.status, poll.header("x-export-backend")), (200, Some("workers")));
}

#[test]
fn a_start_whose_client_has_left_still_runs_to_its_end() {
    let set = shared();
    let user = set.user();
    set.workers.fault(json!({"start": {"mode": "pass", "user": user, "delay_after_ms": 600, "times": 1}}));
    let mut gateway = Gateway::start(set);
    let mut connection = Connection::open(gateway.addr());
    connection.send(&Request::post_json("/api/export/overlay/start", &overlay(12)).user(&user).bytes("h"));
    eventually("the start at workers", || (set.workers.seen_from("start", &user).len() == 1).then_some(()));
    drop(connection);
    gateway.signal("TERM");
    assert_eq!(gateway.wait(Duration::from_secs(10)).code(), Some(0));
    let line = gateway.access_log(|line| line["route"] == "start");
    let job = line["job_id"].as_str().expect("the job that was made").to_owned();
    gateway.restart();
    assert_eq!(crate::support::client::status(gateway.addr(), &user, &job).status, 200);
}

#[test]
fn both_ends_of_a_websocket_are_told_1001() {
    let (codes, seen) = channel();
    let codes = Mutex::new(codes);
    let backend = Backend::start(move |_, wire| {
        read_request(wire)?;
        say(
            wire,
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
        );
        codes.lock().unwrap().send(wire.read_exact(8)?).unwrap();
        Ok(())
    });
    let mut gateway = Gateway::start(&backend);
    let mut sockets: Vec<_> = (0..5).map(|_| RawSocket::open(gateway.addr(), &handshake("/ws"))).collect();
    let began = Instant::now();
    gateway.signal("TERM");
    for socket in &mut sockets {
        assert_eq!(socket.close_code(), Some((1001, String::new())));
        let close = seen.recv_timeout(Duration::from_secs(10)).unwrap();
        let (mask, code) = (&close[2..6], [close[6] ^ close[2], close[7] ^ close[3]]);
        assert_eq!((&close[..2], u16::from_be_bytes(code)), (&[0x88, 0x82][..], 1001), "masked by {mask:?}");
    }
    assert_eq!(gateway.wait(Duration::from_secs(10)).code(), Some(0));
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
}

#[test]
fn a_frame_that_is_half_sent_is_finished_before_the_close() {
    let (go_on, wait) = channel::<()>();
    let wait = Mutex::new(wait);
    let backend = Backend::start(move |_, wire| {
        read_request(wire)?;
        say(
            wire,
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n\u{1}",
        );
        // A text frame of ten bytes, the first five now.
        wire.send(b"\x0ahello").unwrap();
        wait.lock().unwrap().recv_timeout(Duration::from_secs(20)).unwrap();
        wire.send(b"world").unwrap();
        while !wire.read_some()?.is_empty() {}
        Ok(())
    });
    let mut gateway = Gateway::start(&backend);
    let mut socket = RawSocket::open(gateway.addr(), &handshake("/ws"));
    gateway.signal("TERM");
    listener_gone(gateway.addr());
    go_on.send(()).unwrap();
    let frame = socket.read().unwrap();
    assert_eq!((frame.opcode, frame.payload.as_slice()), (1, b"helloworld".as_slice()));
    assert_eq!(socket.close_code(), Some((1001, String::new())));
    assert_eq!(gateway.wait(Duration::from_secs(10)).code(), Some(0));
}

#[test]
fn readiness_goes_first_and_the_listener_after_the_delay() {
    let recorder = Recorder::start();
    let mut gateway = Gateway::with(&recorder, |table| set(table, "server.drain_delay", "700ms"));
    assert_eq!(get(gateway.admin(), "/readyz").status, 200);
    let began = Instant::now();
    gateway.signal("TERM");
    eventually("not ready", || (get(gateway.admin(), "/readyz").status == 503).then_some(()));
    assert!(began.elapsed() < Duration::from_millis(600), "{:?}", began.elapsed());
    assert_eq!(get(gateway.admin(), "/readyz").json()["status"], "draining");
    assert_eq!(get(gateway.admin(), "/healthz").status, 200);
    // Those who have not noticed yet are served.
    assert_eq!(get(gateway.addr(), "/").status, 200);
    listener_gone(gateway.addr());
    assert!(began.elapsed() >= Duration::from_millis(700), "{:?}", began.elapsed());
    assert_eq!(gateway.wait(Duration::from_secs(10)).code(), Some(0));
}

#[test]
fn readiness_is_503_for_as_long_as_something_is_under_way() {
    let (backend, go_on, reached) = two_parts();
    let mut gateway = Gateway::start(&backend);
    let mut connection = Connection::open(gateway.addr());
    connection.send(&Request::get("/slow").bytes("h"));
    reached.recv_timeout(Duration::from_secs(10)).unwrap();
    gateway.signal("TERM");
    listener_gone(gateway.addr());
    assert_eq!(get(gateway.admin(), "/readyz").status, 503);
    assert!(gateway.metrics().contains("export_gateway_connections_open 1"));
    go_on.send(()).unwrap();
    assert_eq!(connection.read("GET").unwrap().text(), "firstsecond");
    assert_eq!(gateway.wait(Duration::from_secs(10)).code(), Some(0));
}

#[test]
fn what_does_not_end_is_cut_and_the_exit_is_still_0() {
    let (backend, _go_on, reached) = two_parts();
    let mut gateway = Gateway::with(&backend, |table| set(table, "server.drain_timeout", "500ms"));
    let mut connection = Connection::open(gateway.addr());
    connection.send(&Request::get("/endless").bytes("h"));
    reached.recv_timeout(Duration::from_secs(10)).unwrap();
    let began = Instant::now();
    assert_eq!(gateway.term().code(), Some(0));
    assert!(began.elapsed() >= Duration::from_millis(500), "{:?}", began.elapsed());
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert!(matches!(connection.read("GET"), Err(ReadError::Cut(_) | ReadError::Reset)));
    let line = gateway.access_log(|line| line["path"] == "/endless");
    assert_eq!(line["cut"], true, "{line}");
}

#[test]
fn a_kept_connection_is_told_to_close_with_its_last_answer() {
    let (backend, go_on, reached) = two_parts();
    let mut gateway = Gateway::start(&backend);
    let mut connection = Connection::open(gateway.addr());
    assert_eq!(connection.exchange(&Request::get("/quick")).unwrap().header("connection"), None);
    connection.send(&Request::get("/slow").bytes("h"));
    reached.recv_timeout(Duration::from_secs(10)).unwrap();
    gateway.signal("TERM");
    listener_gone(gateway.addr());
    // A request behind it is not begun any more: its client sees the end and asks elsewhere.
    connection.send(&Request::get("/quick").bytes("h"));
    go_on.send(()).unwrap();
    assert_eq!(connection.read("GET").unwrap().text(), "firstsecond");
    connection.expect_closed();
    assert_eq!(gateway.wait(Duration::from_secs(10)).code(), Some(0));
}

#[test]
fn no_request_is_lost_when_sigterm_comes_under_load() {
    let recorder = Recorder::start();
    for round in 0..3 {
        recorder.forget();
        let mut gateway = Gateway::start(&recorder);
        let (addr, stop) = (gateway.addr(), AtomicBool::new(false));
        let (answered, lost) = (AtomicU64::new(0), Mutex::new(Vec::new()));
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    // As any HTTP client does: a kept connection that ends before an answer's first byte is replaced,
                    // and a refused connection means that the load balancer has gone elsewhere.
                    let mut kept = None;
                    while !stop.load(Ordering::SeqCst) {
                        let (mut connection, fresh) = match kept.take() {
                            Some(connection) => (connection, false),
                            None => match Connection::try_open(addr) {
                                Ok(connection) => (connection, true),
                                Err(_) => return,
                            },
                        };
                        match Connection::exchange(&mut connection, &Request::get("/load")) {
                            Ok(answer) if answer.status == 200 => {
                                answered.fetch_add(1, Ordering::SeqCst);
                                if answer.header("connection").is_none() {
                                    kept = Some(connection);
                                }
                            }
                            Err(ReadError::Closed | ReadError::Reset) if !fresh => {}
                            other => lost.lock().unwrap().push(format!("fresh={fresh}: {other:?}")),
                        }
                    }
                });
            }
            eventually("load", || (answered.load(Ordering::SeqCst) > 200).then_some(()));
            let status = gateway.term();
            stop.store(true, Ordering::SeqCst);
            assert_eq!(status.code(), Some(0));
        });
        let lost = lost.into_inner().unwrap();
        assert!(lost.is_empty(), "round {round}: {} lost: {:?}", lost.len(), &lost[..1]);
        let (answered, lines) = (answered.into_inner(), gateway.access_lines().len() as u64);
        assert_eq!((lines, recorder.requests().len() as u64), (answered, answered), "one line each, all flushed");
    }
}

#[test]
fn sigint_is_as_good_as_sigterm() {
    let recorder = Recorder::start();
    let mut gateway = Gateway::start(&recorder);
    assert_eq!(send(gateway.addr(), &Request::get("/")).status, 200);
    gateway.signal("INT");
    assert_eq!(gateway.wait(Duration::from_secs(10)).code(), Some(0));
    assert_eq!(gateway.access_lines().len(), 1);
}
