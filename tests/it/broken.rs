//! Backends and clients that break off: nobody ever takes a part for the whole, and nothing is sent twice.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::support::backend::{Backend, read_request, say};
use crate::support::client::{Connection, Request, get, send, try_send};
use crate::support::eventually;
use crate::support::gateway::{Backends, Gateway, set};
use crate::support::rude::{BlackHole, Rude, Step, refused_addr};
use crate::support::wire::ReadError;

fn before(url: &str) -> Backends {
    let nobody = format!("http://{}", refused_addr());
    Backends { legacy: url.into(), workers: nobody, data: "/nonexistent".into() }
}

#[test]
fn a_cut_answer_never_looks_whole() {
    let answers = [
        "HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\nonly a part",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhelloXX",
    ];
    for answer in answers {
        for end in [Step::Close, Step::Reset] {
            let rude =
                Rude::always(vec![Step::ReadRequest, Step::text(answer), Step::Wait(Duration::from_millis(20)), end]);
            let gateway = Gateway::start(before(&rude.url()));
            match try_send(gateway.addr(), &Request::get("/")) {
                Err(ReadError::Cut(_) | ReadError::Reset) => {}
                other => panic!("{answer:?}: {other:?}"),
            }
            let line = gateway.access_log(|line| line["path"] == "/");
            assert_eq!(line["cut"], true, "{answer:?}: {line}");
            assert!(line["error"].as_str().is_some_and(|error| error.contains("broke off")), "{line}");
        }
    }
}

#[test]
fn a_reset_ends_an_answer_without_a_length_as_cut() {
    let rude = Rude::always(vec![
        Step::ReadRequest,
        Step::text("HTTP/1.1 200 OK\r\n\r\nonly a part"),
        Step::Wait(Duration::from_millis(100)),
        Step::Reset,
    ]);
    let gateway = Gateway::start(before(&rude.url()));
    match try_send(gateway.addr(), &Request::get("/")) {
        Err(ReadError::Cut(_) | ReadError::Reset) => {}
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_backend_that_is_not_there_is_502_and_one_that_is_slow_504() {
    let gone = Gateway::start(before(&format!("http://{}", refused_addr())));
    for request in [Request::get("/x"), Request::new("POST", "/x").body("abc"), Request::new("HEAD", "/x")] {
        let answer = send(gone.addr(), &request);
        assert_eq!(answer.status, 502);
        if !answer.body.bytes.is_empty() {
            assert_eq!(answer.field("code"), "legacy_unavailable");
        }
    }
    let hole = BlackHole::open();
    let unreachable =
        Gateway::with(before(&hole.url()), |table| set(table, "backends.legacy.connect_timeout", "300ms"));
    let began = Instant::now();
    let answer = get(unreachable.addr(), "/x");
    assert_eq!((answer.status, answer.field("code").as_str()), (502, "legacy_unavailable"));
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    let rude = Rude::always(vec![Step::ReadRequest, Step::Stall]);
    let slow = Gateway::with(before(&rude.url()), |table| set(table, "backends.legacy.answer_timeout", "300ms"));
    let answer = get(slow.addr(), "/x");
    assert_eq!((answer.status, answer.field("code").as_str()), (504, "legacy_timeout"));
    assert_eq!(rude.requests("GET"), 1);
}

#[test]
fn a_backend_that_speaks_no_http_is_502() {
    let texts = [
        "SSH-2.0-OpenSSH\r\n",
        "HTTP/1.1 2x0 OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\nno colon here\r\n\r\n",
        "",
        "HTTP/1.1 200 OK\r\nA: b",
    ];
    for text in texts {
        let rude = Rude::always(vec![Step::ReadRequest, Step::text(text), Step::Close]);
        let gateway = Gateway::start(before(&rude.url()));
        let answer = send(gateway.addr(), &Request::new("POST", "/x").body("abc"));
        assert_eq!((answer.status, answer.field("code").as_str()), (502, "legacy_unavailable"), "{text:?}");
        assert_eq!(rude.requests("POST"), 1, "a POST is never sent twice");
    }
}

#[test]
fn lengths_that_disagree_are_never_passed_on() {
    let answers = [
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok!",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: identity\r\n\r\nok",
    ];
    for text in answers {
        let rude = Rude::always(vec![Step::ReadRequest, Step::text(text), Step::Close]);
        let gateway = Gateway::start(before(&rude.url()));
        let mut connection = Connection::open(gateway.addr());
        match connection.exchange(&Request::get("/x")) {
            Ok(answer) if answer.status == 200 => {
                let (lengths, codings) = (answer.all("content-length").len(), answer.all("transfer-encoding").len());
                assert!(lengths + codings <= 1, "{text:?}: {answer:?}");
                assert_eq!(answer.text(), "ok", "{text:?}");
            }
            Ok(answer) => assert_eq!(answer.status, 502, "{text:?}: {answer:?}"),
            Err(error) => assert!(matches!(error, ReadError::Cut(_) | ReadError::Reset), "{text:?}: {error:?}"),
        }
    }
}

#[test]
fn a_thousand_gets_survive_a_backend_that_closes_after_each() {
    let rude = Rude::always(vec![
        Step::ReadRequest,
        // It does not say that it closes: the connection is in the pool when it ends.
        Step::text("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"),
        Step::Close,
    ]);
    let gateway = Gateway::start(before(&rude.url()));
    let mut connection = Connection::open(gateway.addr());
    for number in 0..1000 {
        let answer = connection.exchange(&Request::get("/x")).unwrap_or_else(|error| panic!("{number}: {error:?}"));
        assert_eq!((answer.status, answer.text().as_str()), (200, "ok"), "{number}: {answer:?}");
    }
}

#[test]
fn a_thousand_posts_are_never_sent_twice_however_the_backend_closes() {
    let seen = Arc::new(AtomicUsize::new(0));
    let backend = Backend::start({
        let seen = Arc::clone(&seen);
        move |number, wire| {
            // Some connections carry two requests, some end after one, all without a warning.
            for _ in 0..=number % 2 {
                read_request(wire)?;
                seen.fetch_add(1, Ordering::SeqCst);
                say(wire, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
            }
            Ok(())
        }
    });
    let gateway = Gateway::start(&backend);
    let mut connection = Connection::open(gateway.addr());
    let mut fine = 0;
    for number in 0..1000 {
        let answer = connection.exchange(&Request::new("POST", "/x").body("b")).unwrap();
        match answer.status {
            200 => fine += 1,
            // It met a closing connection: then nobody may have read it either.
            502 => {}
            other => panic!("{number}: {other}"),
        }
    }
    assert_eq!(seen.load(Ordering::SeqCst), fine, "each 200 is one request at the backend, each 502 none");
    assert!(fine >= 950, "{fine} of 1000");
}

#[test]
fn a_client_that_leaves_takes_its_request_to_the_backend_along() {
    let rude = Rude::always(vec![Step::ReadRequest, Step::ReadHead, Step::Close]);
    let gateway = Gateway::start(before(&rude.url()));
    let mut connection = Connection::open(gateway.addr());
    connection.send(&Request::get("/slow").bytes("h"));
    eventually("the request at the backend", || (rude.requests("GET") == 1).then_some(()));
    drop(connection);
    // The backend's next read ends: nobody keeps computing for a client that has gone.
    eventually("the end of the backend's connection", || (rude.open() == 0).then_some(()));
    let line = gateway.access_log(|line| line["path"] == "/slow");
    assert_eq!(line["status"], 499, "{line}");
}

#[test]
fn an_upload_that_breaks_off_is_not_taken_for_whole() {
    for start in [
        "Content-Length: 100\r\n\r\nabc",
        "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
        "Transfer-Encoding: chunked\r\n\r\n5\r\nab",
    ] {
        let rude = Rude::always(vec![Step::ReadHead, Step::ReadBytes(1), Step::ReadHead, Step::Close]);
        let gateway = Gateway::start(before(&rude.url()));
        let mut connection = Connection::open(gateway.addr());
        connection.send(format!("POST /up HTTP/1.1\r\nHost: h\r\n{start}").as_bytes());
        eventually("the beginning at the backend", || (rude.bytes() > 0 && rude.requests("POST") == 1).then_some(()));
        drop(connection);
        eventually("the end of the backend's connection", || (rude.open() == 0).then_some(()));
        let received = rude.received();
        assert!(!received[0].ends_with(b"0\r\n\r\n"), "{start:?}: looks whole");
        gateway.access_log(|line| line["path"] == "/up");
    }
}
