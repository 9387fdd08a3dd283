//! One exchange through the gateway, as HTTP/1.1 has it: framing, versions, methods, early answers, 1xx.

use std::sync::Mutex;
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use crate::support::backend::{Backend, Recorder, read_request, say};
use crate::support::client::{Connection, Request, get, send};
use crate::support::gateway::Gateway;
use crate::support::parts::shared;
use crate::support::wire::{Framing, ReadError, latin1};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

#[test]
fn declared_trailers_arrive_both_ways() {
    let backend = Backend::start(|_, wire| {
        let (head, body) = read_request(wire)?;
        let (name, value) = body.trailers.first().cloned().unwrap_or_default();
        let echoed = format!("{name}={value};te={:?};trailer={:?}", head.header("te"), head.header("trailer"));
        let length = echoed.len();
        say(wire, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n");
        say(wire, &format!("{length:x}\r\n{echoed}\r\n0\r\nX-Sum: 42\r\n\r\n"));
        Ok(())
    });
    let gateway = Gateway::start(&backend);
    let mut connection = Connection::open(gateway.addr());
    connection.send(
        b"POST /t HTTP/1.1\r\nHost: h\r\nTE: trailers, gzip\r\nConnection: TE\r\nTrailer: X-Check\r\n\
          Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-Check: 7\r\n\r\n",
    );
    let answer = connection.read("POST").unwrap();
    assert_eq!(answer.text().to_lowercase(), "x-check=7;te=some(\"trailers\");trailer=some(\"x-check\")");
    let trailers = &answer.body.trailers;
    assert_eq!(trailers.len(), 1, "{trailers:?}");
    assert!(trailers[0].0.eq_ignore_ascii_case("x-sum") && trailers[0].1 == "42", "{trailers:?}");
}

#[test]
fn trailers_cannot_smuggle_fields_in() {
    for field in ["X-User-Id: mallory", "Content-Length: 3", "Host: evil", "Transfer-Encoding: chunked", "Cookie: a=b"]
    {
        let recorder = Recorder::start();
        let gateway = Gateway::start(&recorder);
        let name = field.split(':').next().unwrap();
        let mut connection = Connection::open(gateway.addr());
        connection.send(
            format!(
                "POST /t HTTP/1.1\r\nHost: h\r\nX-User-Id: alice\r\nTransfer-Encoding: chunked\r\n\r\n\
                 3\r\nabc\r\n0\r\n{field}\r\n\r\n"
            )
            .as_bytes(),
        );
        let status = connection.read("POST").unwrap().status;
        assert!(status == 200 || status == 400, "{status}");
        for request in recorder.requests() {
            // Not declared: it must not go on, and never into the head.
            assert_eq!(request.body.trailers, vec![], "{name}");
            assert_eq!(request.all("x-user-id"), ["alice"]);
            assert_eq!(request.all("host"), ["h"]);
            assert!(request.all("cookie").is_empty() && request.all("content-length").is_empty());
        }
    }
}

#[test]
fn a_body_waits_for_the_backends_100() {
    let backend = Backend::start(|_, wire| {
        let head = wire.read_head()?;
        assert_eq!(head.header("expect"), Some("100-continue"));
        // Nothing may come before the word.
        wire.set_deadline(Duration::from_millis(200));
        assert_eq!(wire.read_some(), Err(ReadError::TimedOut));
        wire.set_deadline(Duration::from_secs(20));
        say(wire, "HTTP/1.1 100 Continue\r\n\r\n");
        let body = wire.read_body(head.framing(Framing::Empty))?;
        assert_eq!(body.bytes, b"hello");
        say(wire, OK);
        Ok(())
    });
    let gateway = Gateway::start(&backend);
    let mut connection = Connection::open(gateway.addr());
    connection.send(b"PUT / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n");
    let (status, _) = connection.read_head().unwrap();
    assert_eq!(status, 100);
    connection.send(b"hello");
    assert_eq!(connection.read("PUT").unwrap().text(), "ok");
}

#[test]
fn a_backend_that_refuses_an_expected_body_gets_none_and_the_client_hears_no_100() {
    let (answered, came) = channel();
    let answered = Mutex::new(answered);
    let backend = Backend::start(move |_, wire| {
        wire.read_head()?;
        say(wire, "HTTP/1.1 413 Too Big\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbig");
        let after = wire.read_some();
        answered.lock().unwrap().send(after).unwrap();
        Ok(())
    });
    let gateway = Gateway::start(&backend);
    let mut connection = Connection::open(gateway.addr());
    connection.send(b"PUT / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n");
    let answer = connection.read("PUT").unwrap();
    assert_eq!((answer.status, answer.text().as_str(), answer.interim.len()), (413, "big", 0));
    assert_eq!(answer.header("connection"), Some("close"), "a body or a request may follow: nobody could tell");
    // The end of the connection, not a body.
    assert_eq!(came.recv_timeout(Duration::from_secs(10)).unwrap(), Ok(Vec::new()));
    connection.expect_closed();
}

#[test]
fn a_backend_that_does_not_know_100_gets_the_body_after_a_while() {
    let recorder = Recorder::start();
    let gateway = Gateway::start(&recorder);
    let mut connection = Connection::open(gateway.addr());
    let began = Instant::now();
    connection.send(b"PUT / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n");
    let (status, _) = connection.read_head().unwrap();
    assert_eq!(status, 100);
    assert!(began.elapsed() > Duration::from_millis(500), "{:?}", began.elapsed());
    connection.send(b"hello");
    assert_eq!(connection.read("PUT").unwrap().status, 200);
    assert_eq!(recorder.only().body.bytes, b"hello");
}

#[test]
fn a_refusal_before_an_expected_body_says_that_the_connection_ends() {
    let recorder = Recorder::start();
    let gateway = Gateway::start(&recorder);
    for (target, field) in
        [("/api/export/a%2Fb", "X-A: 1"), ("/", "X-User-Id: a,b"), ("/api/export/status/x", "X-A: 1")]
    {
        let method = if target.contains("status") { "GET" } else { "PUT" };
        let head = format!("{method} {target} HTTP/1.1\r\nHost: h\r\n{field}\r\n");
        let mut connection = Connection::open(gateway.addr());
        connection.send(format!("{head}Expect: 100-continue\r\nContent-Length: 5\r\n\r\n").as_bytes());
        let answer = connection.read(method).unwrap();
        assert!(answer.status >= 400 && answer.interim.is_empty(), "{target}: {answer:?}");
        assert_eq!(answer.header("connection"), Some("close"), "{target}");
        connection.expect_closed();
    }
}

#[test]
fn an_unknown_expectation_is_417_and_goes_nowhere() {
    let recorder = Recorder::start();
    let gateway = Gateway::start(&recorder);
    for expectation in ["200-ok", "100-continue, x", "100-continue2"] {
        let answer = send(gateway.addr(), &Request::new("PUT", "/").header("Expect", expectation).body("hello"));
        assert_eq!(answer.status, 417, "{expectation}");
    }
    assert_eq!(recorder.backend.connections(), 0);
}

#[test]
fn http_1_0_is_answered_and_kept_as_asked_for() {
    let recorder = Recorder::start();
    let gateway = Gateway::start(&recorder);
    let mut once = Connection::open(gateway.addr());
    once.send(b"GET /once HTTP/1.0\r\nHost: h\r\n\r\n");
    assert_eq!(once.read("GET").unwrap().text(), "ok");
    once.expect_closed();
    let mut kept = Connection::open(gateway.addr());
    for _ in 0..2 {
        kept.send(b"GET /kept HTTP/1.0\r\nHost: h\r\nConnection: keep-alive\r\n\r\n");
        let answer = kept.read("GET").unwrap();
        assert_eq!((answer.text().as_str(), answer.framing), ("ok", Framing::Length(2)));
        assert!(answer.header("connection").is_some_and(|it| it.eq_ignore_ascii_case("keep-alive")), "{answer:?}");
    }
    let mut nameless = Connection::open(gateway.addr());
    nameless.send(b"GET /nameless HTTP/1.0\r\n\r\n");
    assert_eq!(nameless.read("GET").unwrap().text(), "ok");
    let requests = recorder.requests();
    let authority = recorder.backend.addr().to_string();
    assert_eq!(requests.last().unwrap().all("host"), [authority.as_str()]);
    assert!(requests.last().unwrap().all("x-forwarded-host").is_empty());
    assert!(requests.iter().all(|request| request.head.line.ends_with(" HTTP/1.1")), "{requests:?}");
}

#[test]
fn a_chunked_answer_reaches_an_http_1_0_client_without_chunks() {
    let gateway = Gateway::start(shared());
    let mut connection = Connection::open(gateway.addr());
    connection.send(b"GET /api/chunked?sizes=5,3 HTTP/1.0\r\nHost: h\r\n\r\n");
    let answer = connection.read("GET").unwrap();
    assert_eq!((answer.status, answer.framing, answer.text().as_str()), (200, Framing::UntilClose, "aaaaabbb"));
}

#[test]
fn head_keeps_its_length_and_has_no_body() {
    let gateway = Gateway::start(shared());
    let mut connection = Connection::open(gateway.addr());
    for _ in 0..2 {
        let answer = connection.exchange(&Request::new("HEAD", "/files/123456")).unwrap();
        assert_eq!((answer.status, answer.header("content-length")), (200, Some("123456")));
    }
    // Had a body followed, it would be in the way here.
    assert_eq!(connection.exchange(&Request::get("/api/health")).unwrap().status, 200);
}

#[test]
fn answers_without_a_body_are_not_waited_for() {
    let gateway = Gateway::start(shared());
    let mut connection = Connection::open(gateway.addr());
    for code in [204, 304, 204] {
        let answer = connection.exchange(&Request::get(&format!("/api/status/{code}"))).unwrap();
        assert_eq!((answer.status, answer.body.bytes.len()), (code, 0));
        assert_eq!(answer.header("transfer-encoding"), None);
    }
    assert_eq!(connection.exchange(&Request::get("/api/health")).unwrap().status, 200);
}

#[test]
fn every_status_passes_as_it_is() {
    let gateway = Gateway::start(shared());
    let mut connection = Connection::open(gateway.addr());
    for code in [200, 201, 299, 301, 307, 400, 401, 404, 418, 429, 451, 500, 502, 503, 504, 599] {
        let answer = connection.exchange(&Request::get(&format!("/api/status/{code}"))).unwrap();
        assert_eq!((answer.status, answer.field("detail")), (code, format!("status {code}")));
        assert_eq!(answer.header("x-export-backend"), None);
    }
}

#[test]
fn an_early_answer_reaches_a_client_that_is_still_sending() {
    for (status, keep) in [(413, false), (400, false), (200, true)] {
        let backend = Backend::start(move |_, wire| {
            loop {
                let head = wire.read_head()?;
                let last = if keep { "" } else { "Connection: close\r\n" };
                let body = "x".repeat(100_000);
                say(wire, &format!("HTTP/1.1 {status} Early\r\n{last}Content-Length: 100000\r\n\r\n{body}"));
                if !keep {
                    // As a server does that wants its answer to arrive: it closes its side and reads on for a while.
                    wire.stream.shutdown(std::net::Shutdown::Write).unwrap();
                }
                wire.read_body(head.framing(Framing::Empty))?;
            }
        });
        let gateway = Gateway::start(&backend);
        for _ in 0..5 {
            let mut connection = Connection::open(gateway.addr());
            connection.send(b"POST /big HTTP/1.1\r\nHost: h\r\nContent-Length: 3000000\r\n\r\n");
            let mut stream = connection.wire.stream.try_clone().unwrap();
            let sender = thread::spawn(move || {
                for _ in 0..30 {
                    // The answer may well be the last thing that this connection carries.
                    if std::io::Write::write_all(&mut stream, &[b'u'; 100_000]).is_err() {
                        return;
                    }
                }
            });
            let answer = connection.read("POST").unwrap();
            assert_eq!((answer.status, answer.body.bytes.len()), (status, 100_000));
            sender.join().unwrap();
        }
    }
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let gateway = Gateway::start(shared());
    let mut connection = Connection::open(gateway.addr());
    connection.send(
        b"GET /api/status/201 HTTP/1.1\r\nHost: h\r\n\r\n\
          POST /api/sink HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc\
          POST /api/sink HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n\
          HEAD /files/7 HTTP/1.1\r\nHost: h\r\n\r\n\
          GET /api/status/418 HTTP/1.1\r\nHost: h\r\n\r\n",
    );
    assert_eq!(connection.read("GET").unwrap().status, 201);
    assert_eq!(connection.read("POST").unwrap().json()["size"], 3);
    assert_eq!(connection.read("POST").unwrap().json()["size"], 2);
    assert_eq!(connection.read("HEAD").unwrap().header("content-length"), Some("7"));
    assert_eq!(connection.read("GET").unwrap().status, 418);
}

#[test]
fn an_answer_that_ends_with_its_connection_arrives_whole() {
    for version in ["HTTP/1.1", "HTTP/1.0"] {
        let body = "z".repeat(300_000);
        let backend = Backend::start(move |_, wire| {
            read_request(wire)?;
            say(wire, &format!("{version} 200 OK\r\nContent-Type: text/plain\r\n\r\n{body}"));
            Ok(())
        });
        let gateway = Gateway::start(&backend);
        let answer = get(gateway.addr(), "/");
        assert_eq!((answer.status, answer.body.bytes.len()), (200, 300_000));
        let line = gateway.access_log(|line| line["path"] == "/");
        assert_eq!((&line["bytes"], &line["cut"]), (&300_000.into(), &serde_json::Value::Null));
    }
}

#[test]
fn connections_are_kept_on_both_sides() {
    let recorder = Recorder::start();
    let gateway = Gateway::with(&recorder, |table| crate::support::gateway::set(table, "server.threads", 1));
    let mut connection = Connection::open(gateway.addr());
    for number in 0..50 {
        let request = if number % 2 == 0 { Request::get("/") } else { Request::new("POST", "/").body("x") };
        assert_eq!(connection.exchange(&request).unwrap().text(), "ok");
    }
    assert_eq!((recorder.requests().len(), recorder.backend.connections()), (50, 1));
}

#[test]
fn any_method_may_have_a_body_and_any_name() {
    let recorder = Recorder::start();
    let gateway = Gateway::start(&recorder);
    for method in ["GET", "DELETE", "OPTIONS", "PATCH", "PROPFIND", "M-SEARCH", "get", "X"] {
        recorder.forget();
        let answer = send(gateway.addr(), &Request::new(method, "/thing?a=%20&b=+").body("body"));
        assert_eq!(answer.status, 200, "{method}");
        let request = recorder.only();
        assert_eq!(request.head.line, format!("{method} /thing?a=%20&b=+ HTTP/1.1"));
        assert_eq!(latin1(&request.body.bytes), "body");
        assert_eq!(request.all("content-length"), ["4"]);
    }
    recorder.forget();
    assert_eq!(send(gateway.addr(), &Request::new("OPTIONS", "*")).status, 200);
    assert_eq!(recorder.only().head.line, "OPTIONS * HTTP/1.1");
}

#[test]
fn a_target_arrives_byte_for_byte() {
    let recorder = Recorder::start();
    let gateway = Gateway::start(&recorder);
    let targets = [
        "/",
        "/a//b/../c/./",
        "/%7e%2F%00%ff?",
        "/?a=/../&&=%zz",
        "/a;b=c:@!$'()*+,[]|^{}",
        "/x?y?z",
        "//evil/x",
        "/api/export",
    ];
    for target in targets {
        recorder.forget();
        assert_eq!(get(gateway.addr(), target).status, 200, "{target}");
        assert_eq!(recorder.only().head.line, format!("GET {target} HTTP/1.1"));
    }
    recorder.forget();
    let absolute = Request::get("http://h/abs?q").header("Host", "h");
    assert_eq!(send(gateway.addr(), &absolute).status, 200);
    assert_eq!(recorder.only().head.line, "GET /abs?q HTTP/1.1");
}

#[test]
fn a_base_path_of_the_backend_comes_first() {
    let recorder = Recorder::start();
    let url = format!("{}/base", recorder.backend.url());
    let gateway = Gateway::with(&recorder, |table| crate::support::gateway::set(table, "backends.legacy.url", url));
    assert_eq!(get(gateway.addr(), "/a?b").status, 200);
    assert_eq!(recorder.only().head.line, "GET /base/a?b HTTP/1.1");
}
