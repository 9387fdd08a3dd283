//! Interim answers (1xx): what a backend says before its answer reaches a client of HTTP/1.1, in order and in bounds.

use crate::support::backend::{Backend, read_request, say};
use crate::support::client::{Connection, Request, send};
use crate::support::gateway::{Gateway, set};
use crate::support::wire::{Framing, ReadError, latin1};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const HINTS: &str = "HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\nLink: </b.js>; rel=preload\r\n\
                     Connection: X-Hop\r\nX-Hop: 1\r\nContent-Length: 5\r\nKeep-Alive: x\r\n\r\n";

/// A backend that says this before it says OK.
fn saying(before: String) -> Backend {
    Backend::start(move |_, wire| {
        loop {
            read_request(wire)?;
            say(wire, &before);
            say(wire, OK);
        }
    })
}

fn statuses(answer: &crate::support::client::Response) -> Vec<String> {
    answer.interim.iter().map(|head| head.line.clone()).collect()
}

#[test]
fn they_arrive_before_the_answer_in_order_and_without_hop_by_hop_fields() {
    let backend = saying(format!("HTTP/1.1 102 Processing\r\n\r\n{HINTS}HTTP/1.1 199 Odd\r\nX-A: b\r\n\r\n"));
    let gateway = Gateway::start(&backend);
    let mut connection = Connection::open(gateway.addr());
    for request in [Request::get("/"), Request::new("POST", "/").body("abc"), Request::new("HEAD", "/")] {
        let is_head = request.bytes("h").starts_with(b"HEAD");
        connection.send(&request.bytes("h"));
        let answer = connection.read(if is_head { "HEAD" } else { "GET" }).unwrap();
        assert_eq!(answer.status, 200);
        assert_eq!(statuses(&answer), ["HTTP/1.1 102 Processing", "HTTP/1.1 103 Early Hints", "HTTP/1.1 199 "]);
        let hints = latin1(&answer.interim[1].raw);
        assert_eq!(
            hints,
            "HTTP/1.1 103 Early Hints\r\nlink: </a.css>; rel=preload\r\nlink: </b.js>; rel=preload\r\n\r\n"
        );
    }
}

#[test]
fn they_arrive_while_the_backend_is_still_thinking() {
    let (go, gone) = std::sync::mpsc::channel::<()>();
    let gone = std::sync::Mutex::new(gone);
    let backend = Backend::start(move |_, wire| {
        read_request(wire)?;
        say(wire, "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n");
        gone.lock().unwrap().recv().unwrap();
        say(wire, OK);
        Ok(())
    });
    let gateway = Gateway::start(&backend);
    let mut connection = Connection::open(gateway.addr());
    connection.send(&Request::get("/").bytes("h"));
    assert_eq!(connection.read_head().unwrap().0, 103);
    go.send(()).unwrap();
    assert_eq!(connection.read("GET").unwrap().text(), "ok");
}

#[test]
fn http_1_0_gets_none() {
    let backend = saying(HINTS.to_owned());
    let gateway = Gateway::start(&backend);
    let mut connection = Connection::open(gateway.addr());
    connection.send(b"GET / HTTP/1.0\r\nHost: h\r\n\r\n");
    let answer = connection.read("GET").unwrap();
    assert_eq!((answer.text().as_str(), answer.interim.len()), ("ok", 0));
}

#[test]
fn pipelined_requests_keep_theirs() {
    let backend = Backend::start(|_, wire| {
        loop {
            let (head, _) = read_request(wire)?;
            let target = head.line.split(' ').nth(1).unwrap_or_default().to_owned();
            say(wire, &format!("HTTP/1.1 103 Early Hints\r\nLink: <{target}>\r\n\r\n"));
            // Long enough that a client which does not read keeps it waiting.
            let body = target.repeat(50_000);
            say(wire, &format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()));
        }
    });
    let gateway = Gateway::start(&backend);
    let mut connection = Connection::open(gateway.addr());
    let requests: String = (0..20).map(|number| format!("GET /{number} HTTP/1.1\r\nHost: h\r\n\r\n")).collect();
    connection.send(requests.as_bytes());
    for number in 0..20 {
        let answer = connection.read("GET").unwrap();
        let link = format!("</{number}>");
        assert_eq!(answer.interim.iter().map(|it| it.header("link").unwrap()).collect::<Vec<_>>(), [link.as_str()]);
        assert_eq!(answer.text(), format!("/{number}").repeat(50_000));
    }
}

#[test]
fn a_flood_of_them_is_cut_to_a_bound_and_the_answer_arrives() {
    for (one, at_most) in
        [("HTTP/1.1 102 Processing\r\n\r\n".to_owned(), 64), (HINTS.replace("a.css", &"a".repeat(5000)), 7)]
    {
        let backend = saying(one.repeat(2000));
        let gateway = Gateway::start(&backend);
        let mut connection = Connection::open(gateway.addr());
        for _ in 0..2 {
            let answer = connection.exchange(&Request::get("/")).unwrap();
            assert_eq!(answer.text(), "ok");
            let count = answer.interim.len();
            assert!(0 < count && count <= at_most, "{count}");
        }
    }
}

#[test]
fn they_go_with_expect_100_continue() {
    let backend = Backend::start(|_, wire| {
        let head = wire.read_head()?;
        say(wire, "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n");
        let body = wire.read_body(head.framing(Framing::Empty))?;
        say(wire, "HTTP/1.1 102 Processing\r\n\r\n");
        say(wire, &format!("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n{}", latin1(&body.bytes)));
        Ok(())
    });
    let gateway = Gateway::start(&backend);
    let mut connection = Connection::open(gateway.addr());
    connection.send(b"PUT / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n");
    let mut before = [connection.read_head().unwrap().0, connection.read_head().unwrap().0];
    before.sort_unstable();
    assert_eq!(before, [100, 103]);
    connection.send(b"hello");
    let answer = connection.read("PUT").unwrap();
    assert_eq!((answer.text().as_str(), statuses(&answer)), ("hello", vec!["HTTP/1.1 102 Processing".to_owned()]));
}

#[test]
fn a_100_that_nobody_asked_for_stays_here() {
    let backend = saying("HTTP/1.1 100 Continue\r\n\r\n".to_owned());
    let gateway = Gateway::start(&backend);
    let answer = send(gateway.addr(), &Request::new("POST", "/").body("abc"));
    assert_eq!((answer.text().as_str(), answer.interim.len()), ("ok", 0));
}

#[test]
fn a_101_that_nobody_asked_for_is_a_502() {
    let backend = Backend::start(|_, wire| {
        read_request(wire)?;
        say(wire, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n\u{1}\u{2}");
        let _ = wire.read_some();
        Ok(())
    });
    let gateway = Gateway::start(&backend);
    let requests = [
        Request::get("/"),
        Request::get("/").header("Connection", "Upgrade").header("Upgrade", "h2c"),
        Request::get("/").header("Connection", "Upgrade").header("Upgrade", "websocket"),
        Request::new("POST", "/").body("abc"),
    ];
    for request in requests {
        let answer = send(gateway.addr(), &request);
        assert_eq!((answer.status, answer.field("code").as_str()), (502, "legacy_unavailable"));
    }
}

#[test]
fn one_before_a_backend_that_breaks_off_does_not_look_like_an_answer() {
    for end in ["", "HTTP/1.1 200 OK\r\nContent-Le", "garbage\r\n\r\n"] {
        let backend = Backend::start(move |_, wire| {
            read_request(wire)?;
            say(wire, &format!("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n{end}"));
            Ok(())
        });
        let gateway = Gateway::start(&backend);
        let mut connection = Connection::open(gateway.addr());
        match connection.exchange(&Request::new("POST", "/").body("abc")) {
            Ok(answer) => assert_eq!(answer.status, 502, "{answer:?}"),
            Err(error) => panic!("{end:?}: {error:?}"),
        }
        // The connection to the client is as good as before.
        assert!(!matches!(connection.exchange(&Request::get("/")), Err(ReadError::Malformed(_))));
    }
}

#[test]
fn starts_and_polls_do_not_take_a_101_for_an_answer() {
    const SWITCH: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    const JOB: &str = "HTTP/1.1 200 OK\r\nContent-Length: 17\r\n\r\n{\"job_id\":\"j101\"}";
    let backend = Backend::start(|_, wire| {
        loop {
            let (head, _) = read_request(wire)?;
            // One start is answered, after a hint; all else would like to be something other than HTTP.
            let answers = head.header("x-answer").is_some();
            say(wire, if answers { "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" } else { SWITCH });
            say(wire, if answers { JOB } else { "\u{1}\u{2}" });
        }
    });
    let gateway = Gateway::with(&backend, |table| set(table, "rollout.percent", 0.0));
    let start = || Request::post_json("/api/export/overlay/start", &crate::support::client::overlay(1));
    assert_eq!(send(gateway.addr(), &start().header("X-Answer", "1")).field("job_id"), "j101");
    let handshake = [("Connection", "Upgrade"), ("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13")];
    let asking = |request: Request| handshake.iter().fold(request, |it, (name, value)| it.header(name, value));
    for (request, status, code) in [
        (start(), 502, "start_outcome_unknown"),
        (asking(start().header("Sec-WebSocket-Key", "a")), 502, "start_outcome_unknown"),
        (Request::get("/api/export/overlay/status/j101"), 503, "owner_unavailable"),
        (asking(Request::get("/api/export/status/j101").header("Sec-WebSocket-Key", "a")), 503, "owner_unavailable"),
    ] {
        let answer = send(gateway.addr(), &request);
        assert_eq!((answer.status, answer.field("code").as_str()), (status, code), "{answer:?}");
    }
}
