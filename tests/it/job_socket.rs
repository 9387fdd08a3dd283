//! The WebSocket of a job, tunnelled to workers: the job's id is the capability.

use std::time::Duration;

use serde_json::json;

use crate::support::client::{self, Connection, Request};
use crate::support::eventually;
use crate::support::gateway::{Gateway, set as set_key};
use crate::support::parts::{self, Set, header_of};
use crate::support::raw_websocket::handshake;
use crate::support::rude::{Rude, Step, refused_addr};
use crate::support::scene::{self, assert_own, header, line_of, start_as, start_of};
use crate::support::websocket::Socket;

fn by_way_of_the_gateway(table: &mut toml::Table) {
    set_key(table, "backends.workers.websocket", "gateway");
    set_key(table, "server.public_url", "http://gateway.example.com/");
}

/// Starts a job of so many seconds; returns its id.
fn start(set: &Set, gateway: &Gateway, user: &str, seconds: f64) -> String {
    set.runpod.rule(json!({"match": {"user": user}, "seconds": seconds}));
    let answer = client::send(gateway.addr(), &start_as(user, "socket"));
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.field("job_id")
}

/// Returns what workers have seen of the handshakes for a job.
fn handshakes(set: &Set, job: &str) -> Vec<serde_json::Value> {
    let path = format!("/api/jobs/{job}/ws");
    set.workers.seen_of("websocket").into_iter().filter(|seen| seen["path"] == path.as_str()).collect()
}

#[test]
fn a_browser_follows_its_job_through_the_gateway() {
    let set = parts::shared();
    let gateway = Gateway::with(set, by_way_of_the_gateway);
    let user = set.user();
    set.runpod.rule(json!({"match": {"user": user}, "seconds": 0.6}));
    let answer = client::send(gateway.addr(), &start_as(&user, "follow"));
    let job = answer.field("job_id");
    let url = answer.field("websocket_url");
    assert_eq!(url, format!("ws://gateway.example.com/api/jobs/{job}/ws"));
    let url = url.replace("gateway.example.com", &gateway.addr().to_string());
    let fields = [
        ("Cookie", "session=1"),
        ("Authorization", "Bearer t"),
        ("Origin", "https://app.reelballers.com"),
        ("X-Request-Id", "ws-1"),
        ("Sec-WebSocket-Protocol", "progress"),
    ];
    let mut socket = Socket::try_open(&format!("{url}?token=x"), &fields).unwrap();
    assert_eq!(socket.protocol(), Some("progress"));
    eventually("one socket open", || (gateway.metric("export_gateway_websockets_open", &[]) == 1.0).then_some(()));
    let first = socket.read_until(|_| true);
    assert_eq!((&first["type"], &first["job_id"]), (&json!("status"), &json!(job)));
    socket.send_text(r#"{"type":"ping"}"#);
    socket.read_until(|message| message["type"] == "pong");
    let complete = socket.read_until(|message| message["type"] == "complete");
    assert_eq!(complete["job_id"], job.as_str());
    let seen = handshakes(set, &job).remove(0);
    assert_eq!((&seen["query"], header(&seen, "x-request-id")), (&json!(""), "ws-1".into()));
    assert_eq!(header(&seen, "x-user-id"), user, "workers hear whose job it is");
    for absent in ["cookie", "authorization"] {
        assert!(header_of(&seen, absent).is_empty(), "{absent}");
    }
    socket.send_text(r#"{"type":"close","code":4001,"reason":"enough"}"#);
    assert_eq!(socket.closed(), Some((4001, "enough".into())));
    drop(socket);
    let line = line_of(&gateway, "ws-1");
    assert_eq!((&line["route"], &line["status"], &line["job_id"]), (&json!("job_socket"), &json!(101), &json!(job)));
    eventually("no socket open", || (gateway.metric("export_gateway_websockets_open", &[]) == 0.0).then_some(()));
}

#[test]
fn bytes_and_messages_cross_the_tunnel_unchanged() {
    let set = parts::shared();
    let gateway = Gateway::with(set, by_way_of_the_gateway);
    let user = set.user();
    let job = start(set, &gateway, &user, 3600.0);
    let mut socket = Socket::open(&format!("ws://{}/api/jobs/{job}/ws", gateway.addr()));
    socket.read_until(|message| message["type"] == "status");
    socket.send_text(r#"{"type":"push","n":500}"#);
    for n in 0..500 {
        let message = socket.read_until(|message| message["progress"].is_number() && message["job_id"].is_null());
        assert_eq!(message["progress"], n);
    }
    let bytes: Vec<u8> = (0..300_000u32).map(|n| (n ^ n >> 8) as u8).collect();
    socket.send_bytes(&bytes);
    let back = loop {
        if let tungstenite::Message::Binary(back) = socket.read() {
            break back;
        }
    };
    assert!(back == bytes, "300,000 bytes came back changed");
}

#[test]
fn a_job_of_legacys_has_no_socket_here() {
    let set = parts::shared();
    let user = set.user();
    let gateway = Gateway::with(set, scene::everybody_on_legacy);
    let job = start(set, &gateway, &user, 3600.0);
    let refused = Socket::try_open(&format!("ws://{}/api/jobs/{job}/ws", gateway.addr()), &[]).unwrap_err();
    assert_eq!((refused.status, refused.headers["x-export-backend"].as_bytes()), (404, &b"legacy"[..]));
    let mut connection = Connection::open(gateway.addr());
    let answer = connection.exchange(&handshake(&format!("/api/jobs/{job}/ws"))).unwrap();
    assert_eq!((answer.status, answer.text().as_str()), (404, r#"{"detail":"Job not found"}"#));
    assert!(handshakes(set, &job).is_empty());
}

#[test]
fn an_unknown_job_is_workers_to_know() {
    let set = parts::shared();
    let gateway = Gateway::start(set);
    let user = set.user();
    set.runpod.rule(json!({"match": {"user": user}, "seconds": 3600}));
    let body = json!({"project_id": 12, "input_key": "k", "params": {}}).to_string();
    let job = client::send(set.workers.addr(), &start_of("overlay", &body).user(&user)).field("job_id");
    // An open socket holds no place: more of them than handshakes may run at once.
    let url = format!("ws://{}/api/jobs/{job}/ws", gateway.addr());
    let mut sockets: Vec<Socket> = (0..60).map(|_| Socket::open(&url)).collect();
    for socket in &mut sockets {
        assert_eq!(socket.read_until(|_| true)["job_id"], job.as_str());
    }
    let nobodys = "/api/jobs/00000000-0000-4000-8000-00000000ffff/ws";
    let mut connection = Connection::open(gateway.addr());
    let answer = connection.exchange(&handshake(nobodys)).unwrap();
    assert_eq!((answer.status, answer.json()), (404, json!({"error": "Job not found"})));
    assert_eq!(answer.header("x-export-backend"), Some("workers"));
    assert_eq!(answer.header("access-control-allow-origin"), None);
}

#[test]
fn handshakes_for_unknown_jobs_have_a_limit() {
    let set = parts::shared();
    let accepted = Step::json(200, r#"{"job_id":"known","status":"processing"}"#);
    let rude = Rude::start(move |n| match n {
        0 => vec![Step::ReadRequest, accepted.clone()],
        _ => vec![Step::ReadRequest, Step::Stall],
    });
    let gateway = Gateway::with(scene::workers_at(set, rude.url()), |table| {
        set_key(table, "backends.workers.status_timeout", "4s");
    });
    assert_eq!(start(set, &gateway, &set.user(), 1.0), "known");
    let mut waiting: Vec<Connection> = (0..50).map(|_| Connection::open(gateway.addr())).collect();
    for (n, connection) in waiting.iter_mut().enumerate() {
        connection.send(&handshake(&format!("/api/jobs/unknown-{n}/ws")).bytes("gateway"));
    }
    eventually("fifty handshakes at workers", || (rude.requests("GET") == 50).then_some(()));
    let mut one_more = Connection::open(gateway.addr());
    let answer = one_more.exchange(&handshake("/api/jobs/unknown-50/ws")).unwrap();
    assert_own(&answer, 503, "overloaded");
    assert!(answer.header("retry-after").is_some());
    // A job that is known needs no place.
    let mut known = Connection::open(gateway.addr()).deadline(Duration::from_millis(200));
    known.send(&handshake("/api/jobs/known/ws").bytes("gateway"));
    eventually("the known job's handshake at workers", || (rude.requests("GET") == 51).then_some(()));
    // Whoever leaves gives the place back.
    drop(waiting);
    let answer = eventually("a place", || {
        let mut connection = Connection::open(gateway.addr()).deadline(Duration::from_millis(100));
        match connection.exchange(&handshake("/api/jobs/unknown-51/ws")) {
            Ok(answer) if answer.status == 503 => None,
            other => Some(other),
        }
    });
    assert!(answer.is_err(), "the handshake waits at workers: {answer:?}");
}

#[test]
fn without_an_upgrade_it_goes_to_legacy() {
    let set = parts::shared();
    let gateway = Gateway::start(set);
    let user = set.user();
    let job = start(set, &gateway, &user, 3600.0);
    let request = Request::get(&format!("/api/jobs/{job}/ws?x=1")).user(&user);
    let (ours, direct) = (client::send(gateway.addr(), &request), client::send(set.legacy.addr(), &request));
    assert_eq!((ours.status, ours.text()), (direct.status, direct.text()));
    assert_eq!((ours.status, ours.header("x-export-backend")), (404, None));
    assert_eq!(set.legacy.seen_from("other", &user)[0]["query"], "x=1");
    assert!(handshakes(set, &job).is_empty());
}

#[test]
fn workers_that_are_away_are_a_502() {
    let set = parts::shared();
    let gateway = Gateway::with(scene::workers_at(set, format!("http://{}", refused_addr())), |_| {});
    let mut connection = Connection::open(gateway.addr());
    let answer = connection.exchange(&handshake("/api/jobs/some-job/ws")).unwrap();
    assert_own(&answer, 502, "workers_unavailable");
    assert_eq!(answer.header("x-export-backend"), Some("workers"));
}

#[test]
fn no_byte_is_tunnelled_before_workers_agree() {
    let set = parts::shared();
    let rude = Rude::always(vec![
        Step::ReadRequest,
        Step::Wait(Duration::from_millis(150)),
        Step::json(403, r#"{"error":"no"}"#),
        Step::Stall,
    ]);
    let gateway = Gateway::start(scene::workers_at(set, rude.url()));
    let mut connection = Connection::open(gateway.addr());
    let smuggled = "GET /api/export/status/smuggled HTTP/1.1\r\nHost: x\r\n\r\n";
    let mut bytes = handshake("/api/jobs/some-job/ws").bytes("gateway");
    bytes.extend(smuggled.bytes());
    connection.send(&bytes);
    let answer = connection.read("GET").unwrap();
    assert_eq!((answer.status, answer.text().as_str()), (403, r#"{"error":"no"}"#));
    let received = String::from_utf8(rude.received()[0].clone()).unwrap();
    assert_eq!(received.matches("HTTP/1.1").count(), 1, "{received}");
    assert!(!received.contains("smuggled"));
}
