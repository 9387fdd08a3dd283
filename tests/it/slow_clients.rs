//! Many clients that are slow or silent: those who are not notice nothing. `make slow` does it with 9,000 of them.

use std::fs;
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use crate::support::backend::{Backend, read_request, say};
use crate::support::client::{Connection, Request};
use crate::support::gateway::{Backends, Gateway, set, table};
use crate::support::wire::ReadError;
use crate::support::{eventually, within};

/// Answers `/big` with more than any socket holds, all else with `ok`.
fn backend() -> Backend {
    Backend::start(|_, wire| {
        loop {
            let (head, _) = read_request(wire)?;
            if head.line.contains(" /big ") {
                say(wire, "HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n");
                for _ in 0..100 {
                    wire.send(&[b'x'; 1_000_000]).map_err(|_| ReadError::Closed)?;
                }
            }
            say(wire, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        }
    })
}

fn cpu_seconds(gateway: &Gateway) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{}/stat", gateway.pid())).unwrap();
    let fields: Vec<_> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks: f64 = fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap();
    ticks / 100.0
}

/// Asks so often on one connection; returns the slowest answer but for one in a hundred.
fn healthy(gateway: &Gateway, count: usize) -> Duration {
    let mut connection = Connection::open(gateway.addr());
    let mut took: Vec<_> = (0..count)
        .map(|_| {
            let began = Instant::now();
            assert_eq!(connection.exchange(&Request::get("/")).unwrap().text(), "ok");
            began.elapsed()
        })
        .collect();
    took.sort();
    took[count * 99 / 100 - 1]
}

#[test]
fn slow_and_silent_clients_hold_nobody_up_and_are_told() {
    let backend = backend();
    let gateway = Gateway::with(&backend, |table| {
        set(table, "server.header_timeout", "2s");
        set(table, "server.idle_timeout", "60s");
        set(table, "limits.body_idle", "2s");
    });
    let before = healthy(&gateway, 300);
    let idle: Vec<_> = (0..100).map(|_| Connection::open(gateway.addr())).collect();
    let open = |bytes: &[u8]| {
        let mut connection = Connection::open(gateway.addr());
        connection.send(bytes);
        connection
    };
    let mut heads: Vec<_> = (0..100).map(|_| open(b"GET /slow HTTP/1.1\r\nHo")).collect();
    let mut bodies: Vec<_> =
        (0..100).map(|_| open(b"POST /up HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\na")).collect();
    let readers: Vec<_> = (0..20).map(|_| open(b"GET /big HTTP/1.1\r\nHost: h\r\n\r\n")).collect();
    let during = healthy(&gateway, 300);
    println!("p99 of a healthy client: {before:?} before, {during:?} during");
    // A busy machine may be slow by itself; a gateway that waits for the slow ones takes seconds.
    assert!(during < before * 2 + Duration::from_millis(500), "{before:?} before, {during:?} during");
    for connection in heads.iter_mut().chain(&mut bodies) {
        let answer = connection.read("GET").unwrap();
        assert_eq!(answer.status, 408, "{answer:?}");
        connection.expect_closed();
    }
    drop((idle, heads, bodies, readers));
    within(Duration::from_secs(5), "no open connection", || {
        (gateway.metric("export_gateway_connections_open", &[]) == 0.0).then_some(())
    });
}

#[test]
fn with_too_few_descriptors_those_inside_are_served_and_the_log_stays_short() {
    let backend = backend();
    let text = table(&Backends::from(&backend)).to_string();
    let gateway = Gateway::with_descriptors(&text, 200);
    let warning = gateway.event("too few file descriptors for limits.connections, fewer are served: raise nofile");
    assert_eq!(warning["connections"], 50, "{warning}");
    let mut inside = Connection::open(gateway.addr());
    assert_eq!(inside.exchange(&Request::get("/")).unwrap().text(), "ok");
    let crowd: Vec<_> = (0..400).filter_map(|_| TcpStream::connect(gateway.addr()).ok()).collect();
    eventually("a full house", || (gateway.metric("export_gateway_connections_open", &[]) >= 50.0).then_some(()));
    let (began, cpu) = (Instant::now(), cpu_seconds(&gateway));
    for number in 0..20 {
        // A POST may need a connection of its own to the backend: there is a descriptor for it.
        let request = if number % 2 == 0 { Request::get("/") } else { Request::new("POST", "/").body("b") };
        assert_eq!(inside.exchange(&request).unwrap().text(), "ok");
        thread::sleep(Duration::from_millis(50));
    }
    let busy = (cpu_seconds(&gateway) - cpu) / began.elapsed().as_secs_f64();
    assert!(busy < 0.5, "{busy} of a core for twenty requests");
    assert!(gateway.events("connections cannot be accepted").len() <= 2, "{}", gateway.stderr_text());
    assert!(gateway.events("connections are refused").len() <= 2, "{}", gateway.stderr_text());
    drop(crowd);
    eventually("a place", || {
        Connection::open(gateway.addr()).exchange(&Request::get("/")).ok().filter(|answer| answer.status == 200)
    });
}
