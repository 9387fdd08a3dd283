//! Bounds on what a client may send and how long it may take: each is reached, and each answer is received.

use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::backend::{Backend, Recorder, read_request, say};
use crate::support::client::{Connection, Request, get, send};
use crate::support::eventually;
use crate::support::gateway::{Gateway, set};
use crate::support::wire::ReadError;

fn with(recorder: &Recorder, settings: &[(&str, &str)]) -> Gateway {
    Gateway::with(recorder, |table| {
        for (path, value) in settings {
            set(table, path, *value);
        }
    })
}

#[test]
fn a_target_of_8_kib_passes_and_a_longer_one_is_414() {
    let recorder = Recorder::start();
    let gateway = Gateway::start(&recorder);
    let fits = format!("/{}", "a".repeat(8 * 1024 - 1));
    assert_eq!(get(gateway.addr(), &fits).status, 200);
    assert_eq!(recorder.requests().len(), 1);
    for more in [1, 100, 1000, 20_000, 33_000, 36_000, 40_000, 47_000, 100_000] {
        let answer = get(gateway.addr(), &format!("{fits}{}", "?".repeat(more)));
        assert_eq!((answer.status, answer.header("connection")), (414, Some("close")), "{more}");
        assert_eq!(answer.field("code"), "target_too_long");
    }
    assert_eq!(recorder.requests().len(), 1);
}

#[test]
fn fields_beyond_32_kib_are_431() {
    let recorder = Recorder::start();
    let gateway = Gateway::start(&recorder);
    let sized = |bytes: usize| Request::get("/").header("X-Big", &"b".repeat(bytes));
    assert_eq!(send(gateway.addr(), &sized(32 * 1024 - 100)).status, 200);
    for bytes in [32 * 1024, 39 * 1024, 45 * 1024, 500_000] {
        assert_eq!(send(gateway.addr(), &sized(bytes)).status, 431, "{bytes}");
    }
    let many = (0..40).fold(Request::get("/"), |it, number| it.header(&format!("X-{number}"), &"b".repeat(1000)));
    assert_eq!(send(gateway.addr(), &many).status, 431);
    assert_eq!(recorder.requests().len(), 1);
}

#[test]
fn more_than_100_fields_are_431() {
    let recorder = Recorder::start();
    let gateway = Gateway::start(&recorder);
    let fields = |count| (0..count).fold(Request::get("/"), |it, number| it.header(&format!("X-{number}"), "1"));
    // `Host` is one of them.
    assert_eq!(send(gateway.addr(), &fields(99)).status, 200);
    for count in [100, 101, 300] {
        assert_eq!(send(gateway.addr(), &fields(count)).status, 431, "{count}");
    }
    let same = (0..120).fold(Request::get("/"), |it, _| it.header("X-Same", "1"));
    assert_eq!(send(gateway.addr(), &same).status, 431);
    assert_eq!(recorder.requests().len(), 1);
}

#[test]
fn a_head_that_does_not_come_in_time_is_408() {
    let recorder = Recorder::start();
    let gateway = with(&recorder, &[("server.header_timeout", "300ms")]);
    for start in ["G", "GET / HTTP/1.1\r\n", "GET / HTTP/1.1\r\nHost: h\r\nX-Slow: 1"] {
        let mut connection = Connection::open(gateway.addr());
        connection.send(start.as_bytes());
        let began = Instant::now();
        let answer = connection.read("GET").unwrap();
        assert_eq!((answer.status, answer.field("code").as_str()), (408, "request_timeout"), "{start:?}");
        assert_eq!(answer.header("connection"), Some("close"));
        assert!(began.elapsed() > Duration::from_millis(200), "{:?}", began.elapsed());
        connection.expect_closed();
    }
    // A byte now and then does not buy more time.
    let mut connection = Connection::open(gateway.addr());
    let mut stream = connection.wire.stream.try_clone().unwrap();
    let dripper = thread::spawn(move || {
        for byte in b"GET /a-target-that-takes-its-time HTTP/1.1\r\nHost: h\r\n\r\n" {
            if std::io::Write::write_all(&mut stream, &[*byte]).is_err() {
                return;
            }
            thread::sleep(Duration::from_millis(40));
        }
    });
    assert_eq!(connection.read("GET").unwrap().status, 408);
    drop(connection);
    dripper.join().unwrap();
    assert_eq!(recorder.backend.connections(), 0);
}

#[test]
fn the_second_head_on_a_connection_has_its_time_limit_too() {
    let recorder = Recorder::start();
    let gateway = with(&recorder, &[("server.header_timeout", "300ms")]);
    let mut connection = Connection::open(gateway.addr());
    assert_eq!(connection.exchange(&Request::get("/")).unwrap().status, 200);
    // Idle is not slow: this is longer than the limit.
    thread::sleep(Duration::from_millis(400));
    assert_eq!(connection.exchange(&Request::get("/")).unwrap().status, 200);
    connection.send(b"GET /slow");
    assert_eq!(connection.read("GET").unwrap().status, 408);
    assert_eq!(recorder.requests().len(), 2);
}

#[test]
fn an_idle_connection_is_closed_without_a_word() {
    let recorder = Recorder::start();
    let gateway = with(&recorder, &[("server.idle_timeout", "300ms"), ("server.header_timeout", "10s")]);
    let mut used = Connection::open(gateway.addr());
    assert_eq!(used.exchange(&Request::get("/")).unwrap().status, 200);
    let mut silent = Connection::open(gateway.addr());
    used.expect_closed();
    silent.expect_closed();
    eventually("no open connection", || (gateway.metric("export_gateway_connections_open", &[]) == 0.0).then_some(()));
}

#[test]
fn a_silent_answer_is_not_idle() {
    let backend = Backend::start(|_, wire| {
        read_request(wire)?;
        thread::sleep(Duration::from_millis(700));
        say(wire, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n");
        thread::sleep(Duration::from_millis(700));
        say(wire, "0\r\n\r\n");
        Ok(())
    });
    let gateway = Gateway::with(&backend, |table| {
        for key in ["server.idle_timeout", "server.header_timeout", "limits.body_idle", "limits.write_idle"] {
            set(table, key, "300ms");
        }
    });
    assert_eq!(get(gateway.addr(), "/").text(), "ok");
}

#[test]
fn a_body_that_stops_is_408() {
    let recorder = Recorder::start();
    let gateway = with(&recorder, &[("limits.body_idle", "300ms")]);
    let starts = [
        "POST /pass HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\nabc",
        "POST /pass HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
        "POST /api/export/overlay/start HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\nContent-Length: 10\r\n\r\n{",
    ];
    for start in starts {
        let mut connection = Connection::open(gateway.addr());
        connection.send(start.as_bytes());
        let answer = connection.read("POST").unwrap();
        assert_eq!((answer.status, answer.field("code").as_str()), (408, "body_timeout"), "{start:?}");
        connection.expect_closed();
    }
    assert_eq!(recorder.requests().len(), 0, "no part was taken for a whole");
    // It is silence that counts, not the time in all.
    let mut connection = Connection::open(gateway.addr());
    connection.send(b"POST /slow HTTP/1.1\r\nHost: h\r\nContent-Length: 8\r\n\r\n");
    for _ in 0..8 {
        thread::sleep(Duration::from_millis(100));
        connection.send(b"x");
    }
    assert_eq!(connection.read("POST").unwrap().status, 200);
}

#[test]
fn a_client_that_does_not_read_is_cut_off() {
    let backend = Backend::start(|_, wire| {
        read_request(wire)?;
        say(wire, "HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n");
        let piece = vec![b'x'; 1_000_000];
        for _ in 0..100 {
            wire.send(&piece).map_err(|_| ReadError::Closed)?;
        }
        Ok(())
    });
    let gateway = Gateway::with(&backend, |table| set(table, "limits.write_idle", "400ms"));
    let mut connection = Connection::open(gateway.addr());
    connection.send(&Request::get("/big").bytes("h"));
    assert_eq!(connection.read_head().unwrap().0, 200);
    let line = gateway.access_log(|line| line["path"] == "/big");
    assert_eq!(line["cut"], true, "{line}");
    eventually("no open connection", || (gateway.metric("export_gateway_connections_open", &[]) == 0.0).then_some(()));
    let rest = loop {
        match connection.wire.read_some() {
            Ok(bytes) if bytes.is_empty() => break "closed",
            Ok(_) => {}
            Err(ReadError::Reset) => break "reset",
            Err(error) => panic!("{error:?}"),
        }
    };
    assert!(["closed", "reset"].contains(&rest));
}

#[test]
fn connections_beyond_the_limit_are_closed_and_counted() {
    let recorder = Recorder::start();
    let gateway = Gateway::with(&recorder, |table| set(table, "limits.connections", 5));
    let mut places: Vec<_> = (0..5).map(|_| Connection::open(gateway.addr())).collect();
    for connection in &mut places {
        assert_eq!(connection.exchange(&Request::get("/")).unwrap().status, 200);
    }
    assert_eq!(gateway.metric("export_gateway_connections_open", &[]), 5.0);
    for _ in 0..3 {
        Connection::open(gateway.addr()).expect_closed();
    }
    assert_eq!(gateway.metric("export_gateway_connections_refused_total", &[]), 3.0);
    for connection in &mut places {
        assert_eq!(connection.exchange(&Request::get("/")).unwrap().status, 200, "those inside notice nothing");
    }
    drop(places.pop());
    eventually("a free place", || {
        let mut connection = Connection::open(gateway.addr());
        connection.exchange(&Request::get("/")).ok().filter(|answer| answer.status == 200)
    });
}

#[test]
fn a_start_that_is_too_large_is_413_before_it_is_read() {
    let recorder = Recorder::start();
    let gateway = with(&recorder, &[("limits.start_body", "1KiB")]);
    let post = |bytes: usize| {
        let filler = "x".repeat(bytes.saturating_sub(28));
        Request::post_json("/api/export/overlay/start", &json!({"project_id": 1, "f": filler}))
    };
    let mut declared = Connection::open(gateway.addr());
    declared.send(b"POST /api/export/overlay/start HTTP/1.1\r\nHost: h\r\nContent-Length: 1025\r\n\r\n");
    let answer = declared.read("POST").unwrap();
    assert_eq!((answer.status, answer.field("code").as_str()), (413, "body_too_large"));
    let body = vec![b'x'; 1025];
    let chunked = [b"401\r\n".as_slice(), &body, b"\r\n0\r\n\r\n"].concat();
    let request =
        Request::new("POST", "/api/export/overlay/start").header("Transfer-Encoding", "chunked").body(chunked);
    assert_eq!(send(gateway.addr(), &request).status, 413);
    assert_eq!(recorder.requests().len(), 0);
    assert_eq!(send(gateway.addr(), &post(500)).status, 200);
    // What just passes through has no such bound.
    assert_eq!(send(gateway.addr(), &Request::new("POST", "/x").body(vec![b'x'; 100_000])).status, 200);
}

#[test]
fn starts_that_hold_too_much_memory_together_are_503() {
    let recorder = Recorder::start();
    let gateway = Gateway::with(&recorder, |table| {
        // One thread gives a refused start's room back before it reads the other on; two may refuse both at once.
        set(table, "server.threads", 1);
        set(table, "limits.start_body", "64KiB");
        set(table, "limits.answer_body", "16KiB");
        set(table, "limits.buffered", "100KiB");
    });
    let head = "POST /api/export/overlay/start HTTP/1.1\r\nHost: h\r\nContent-Length: 61440\r\n\r\n";
    let mut pair = [Connection::open(gateway.addr()), Connection::open(gateway.addr())];
    for connection in &mut pair {
        connection.send(head.as_bytes());
        connection.send(&vec![b'x'; 60 * 1024 - 1]);
    }
    // Neither is whole yet, and both do not fit: whichever is read last finds no room.
    let [one, other] = &mut pair;
    one.wire.set_deadline(Duration::from_millis(100));
    other.wire.set_deadline(Duration::from_millis(100));
    let (answer, held) = eventually("a start that finds no room", || {
        let first = one.read("POST").ok().map(|answer| (answer, false));
        first.or_else(|| other.read("POST").ok().map(|answer| (answer, true)))
    });
    assert_eq!((answer.status, answer.field("code").as_str()), (503, "overloaded"));
    assert!(answer.header("retry-after").is_some());
    let held = if held { one } else { other };
    held.wire.set_deadline(crate::support::DEADLINE);
    held.send(b"x");
    assert_eq!(held.read("POST").unwrap().status, 200);
    let again = Request::new("POST", "/api/export/overlay/start").body(vec![b'x'; 60 * 1024]);
    eventually("room again", || (send(gateway.addr(), &again).status == 200).then_some(()));
}
