//! `server.proxy_protocol`: a load balancer says with the first bytes whose connection it hands over.

use std::time::{Duration, Instant};

use toml::{Table, Value};

use crate::support::backend::Recorder;
use crate::support::client::{Connection, Request};
use crate::support::eventually;
use crate::support::gateway::{Gateway, run, set};

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

fn from_loopback(table: &mut Table) {
    set(table, "server.proxy_protocol", true);
    set(table, "server.trusted_proxies", vec![Value::from("127.0.0.0/8")]);
}

fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(body.len()).unwrap().to_be_bytes();
    [SIGNATURE, &[command, family], &length, body].concat()
}

fn v4_of(last: u8) -> Vec<u8> {
    [192, 0, 2, last, 10, 0, 0, 1, 0x30, 0x39, 0, 80].into()
}

fn get(header: &[u8]) -> Vec<u8> {
    [header, b"GET /x HTTP/1.1\r\nHost: h\r\nX-Forwarded-For: 6.6.6.6\r\n\r\n"].concat()
}

#[test]
fn the_address_of_a_header_becomes_the_peer() {
    let recorder = Recorder::start();
    let gateway = Gateway::with(&recorder, from_loopback);
    let v6 = [&[0x20, 1, 0xd, 0xb8][..], &[0; 11], &[9], &[0; 16], &[0, 1, 0, 2]].concat();
    let cases = [
        (b"PROXY TCP4 192.0.2.1 10.0.0.1 12345 80\r\n".to_vec(), "192.0.2.1"),
        (b"PROXY TCP6 2001:db8::2 ::1 12345 80\r\n".to_vec(), "2001:db8::2"),
        (b"PROXY TCP6 ::ffff:192.0.2.3 ::1 12345 80\r\n".to_vec(), "192.0.2.3"),
        (v2(0x21, 0x11, &v4_of(4)), "192.0.2.4"),
        (v2(0x21, 0x11, &[v4_of(5), vec![4, 0x1f, 0x40], vec![0; 8000]].concat()), "192.0.2.5"),
        (v2(0x21, 0x21, &v6), "2001:db8::9"),
    ];
    for (header, client) in cases {
        recorder.forget();
        let mut connection = Connection::open(gateway.addr());
        connection.send(&get(&header));
        assert_eq!(connection.read("GET").unwrap().status, 200, "{client}");
        assert_eq!(recorder.only().all("x-forwarded-for"), [client], "the client's own word counts for nothing");
        gateway.access_log(|line| line["client"] == client);
        // The header is the connection's: the second request has the same peer and no header.
        assert_eq!(connection.exchange(&Request::get("/again")).unwrap().status, 200);
        assert_eq!(recorder.requests()[1].all("x-forwarded-for"), [client]);
    }
}

#[test]
fn a_header_may_come_in_pieces() {
    let recorder = Recorder::start();
    let gateway = Gateway::with(&recorder, from_loopback);
    for (header, client) in [
        (b"PROXY TCP4 192.0.2.1 10.0.0.1 12345 80\r\n".to_vec(), "192.0.2.1"),
        (v2(0x21, 0x11, &[v4_of(2), vec![0x20, 0, 5, 0, 0, 0, 0, 0]].concat()), "192.0.2.2"),
    ] {
        recorder.forget();
        let mut connection = Connection::open(gateway.addr());
        for byte in get(&header) {
            connection.send(&[byte]);
        }
        assert_eq!(connection.read("GET").unwrap().status, 200);
        assert_eq!(recorder.only().all("x-forwarded-for"), [client]);
    }
}

#[test]
fn a_header_for_nobody_is_served_and_trusted_in_nothing() {
    let recorder = Recorder::start();
    let gateway = Gateway::with(&recorder, |table| {
        from_loopback(table);
        set(table, "identity.trusted", vec![Value::from("127.0.0.0/8")]);
    });
    let cases = [
        b"PROXY UNKNOWN\r\n".to_vec(),
        b"PROXY UNKNOWN 1 2 3\r\n".to_vec(),
        v2(0x20, 0x00, &[]),
        v2(0x20, 0x11, &v4_of(1)),
        v2(0x20, 0xee, &[1, 2, 3]),
        v2(0x21, 0x00, &[]),
        v2(0x21, 0x31, &[b'/'; 216]),
        v2(0x21, 0x12, &v4_of(1)),
    ];
    for header in cases {
        recorder.forget();
        let mut connection = Connection::open(gateway.addr());
        connection.send(&header);
        connection.send(&get(b"").split_off(0));
        assert_eq!(connection.read("GET").unwrap().status, 200, "{header:?}");
        let claimed = Request::get("/who").user("mallory").header("X-Forwarded-For", "6.6.6.6");
        assert_eq!(connection.exchange(&claimed).unwrap().status, 200);
        for request in recorder.requests() {
            assert_eq!(request.all("x-forwarded-for"), ["127.0.0.1"], "{header:?}");
            assert!(request.all("x-user-id").iter().all(|user| *user == "a"), "{header:?}: {request:?}");
        }
    }
}

#[test]
fn whatever_else_comes_is_closed_without_an_answer_and_counted() {
    let recorder = Recorder::start();
    let gateway = Gateway::with(&recorder, |table| {
        from_loopback(table);
        set(table, "server.header_timeout", "500ms");
    });
    let cases = [
        b"GET / HTTP/1.1\r\nHost: h\r\n\r\n".to_vec(),
        get(b"PROXY TCP4 192.0.2.1 10.0.0.1 12345\r\n"),
        get(b"PROXY TCP4 192.0.2.1 10.0.0.1 12345 80\n"),
        get(b"PROXY TCP4 192.0.2.1 10.0.0.1 12345 99999\r\n"),
        get(b"PROXY TCP6 192.0.2.1 10.0.0.1 12345 80\r\n"),
        get(b"PROXY tcp4 192.0.2.1 10.0.0.1 12345 80\r\n"),
        get(&[b"PROXY UNKNOWN ".as_slice(), &[b'x'; 200], b"\r\n"].concat()),
        get(&v2(0x11, 0x11, &v4_of(1))),
        get(&v2(0x22, 0x11, &v4_of(1))),
        get(&v2(0x21, 0x41, &v4_of(1))),
        get(&v2(0x21, 0x13, &v4_of(1))),
        get(&v2(0x21, 0x11, &v4_of(1)[..8])),
        get(&v2(0x21, 0x11, &vec![0; 40_000])),
        // These two stop in the middle, and time runs out.
        b"PROXY TCP4 192.0.2.1".to_vec(),
        SIGNATURE.to_vec(),
    ];
    let count = cases.len();
    for bytes in cases {
        let mut connection = Connection::open(gateway.addr());
        let began = Instant::now();
        connection.send(&bytes);
        connection.expect_closed();
        assert!(began.elapsed() < Duration::from_secs(8), "{bytes:?}");
    }
    assert_eq!(recorder.backend.connections(), 0);
    let refused = || gateway.metric("export_gateway_connections_refused_total", &[("reason", "proxy_protocol")]);
    assert_eq!(refused(), count as f64);
    eventually("no open connection", || (gateway.metric("export_gateway_connections_open", &[]) == 0.0).then_some(()));
    // A flood of them is a few lines at the most.
    assert!(gateway.events("connections are refused").len() <= 2, "{}", gateway.stderr_text());
}

#[test]
fn a_peer_that_is_no_trusted_proxy_is_closed() {
    let recorder = Recorder::start();
    let gateway = Gateway::with(&recorder, |table| {
        set(table, "server.proxy_protocol", true);
        set(table, "server.trusted_proxies", vec![Value::from("10.0.0.0/8")]);
    });
    for bytes in [get(b"PROXY TCP4 10.0.0.7 10.0.0.1 12345 80\r\n"), get(b"")] {
        let mut connection = Connection::open(gateway.addr());
        connection.send(&bytes);
        connection.expect_closed();
    }
    assert_eq!(recorder.backend.connections(), 0);
    // Off again, the same peer is a plain client, and a PROXY line no HTTP.
    gateway.edit(|table| set(table, "server.proxy_protocol", false));
    let mut connection = Connection::open(gateway.addr());
    assert_eq!(connection.exchange(&Request::get("/")).unwrap().status, 200);
    let mut connection = Connection::open(gateway.addr());
    connection.send(&get(b"PROXY TCP4 10.0.0.7 10.0.0.1 12345 80\r\n"));
    assert_eq!(connection.read("GET").unwrap().status, 400);
    assert_eq!(recorder.requests().len(), 1);
}

#[test]
fn trust_follows_the_address_of_the_header() {
    let recorder = Recorder::start();
    let gateway = Gateway::with(&recorder, |table| {
        from_loopback(table);
        // A CDN before the load balancer.
        set(table, "server.trusted_proxies", vec![Value::from("127.0.0.0/8"), Value::from("198.51.100.0/24")]);
        set(table, "identity.trusted", vec![Value::from("198.51.100.0/24")]);
    });
    for (client, hops, user) in [("198.51.100.7", "6.6.6.6, 198.51.100.7", "maya"), ("192.0.2.7", "192.0.2.7", "a")] {
        recorder.forget();
        let mut connection = Connection::open(gateway.addr());
        connection.send(format!("PROXY TCP4 {client} 10.0.0.1 1 2\r\n").as_bytes());
        let claimed = Request::get("/who").user("maya").header("X-Forwarded-For", "6.6.6.6");
        assert_eq!(connection.exchange(&claimed).unwrap().status, 200);
        let request = recorder.only();
        assert_eq!(request.all("x-forwarded-for"), [hops]);
        assert!(request.all("x-user-id").iter().all(|it| *it == user), "{request:?}");
    }
}

#[test]
fn without_trusted_proxies_the_file_is_refused() {
    let recorder = Recorder::start();
    let gateway = Gateway::start(&recorder);
    let mut table: Table = gateway.config_text().parse().unwrap();
    set(&mut table, "server.proxy_protocol", true);
    let path = gateway.folder().join("other.toml");
    std::fs::write(&path, table.to_string()).unwrap();
    let check = run(&["check", "--config", path.to_str().unwrap()]);
    let said = String::from_utf8_lossy(&check.stdout).into_owned() + &String::from_utf8_lossy(&check.stderr);
    assert_eq!(check.status.code(), Some(64), "{said}");
    assert!(said.contains("server.proxy_protocol: needs server.trusted_proxies"), "{said}");
}
