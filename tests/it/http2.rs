//! HTTP/2 towards clients: every stream is a request like any other, and the connection ends as it should.

use std::collections::BTreeSet;
use std::process::Command;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::HeaderMap;

use crate::support::backend::{Backend, Recorder, read_request, say};
use crate::support::client::overlay;
use crate::support::gateway::set;
use crate::support::h2_frames::{self, Client, DATA, END_STREAM, RST_STREAM, Verdict, post};
use crate::support::http2::{Call, Http2, call, get};
use crate::support::parts::shared;
use crate::support::scene::line_of;
use crate::tls_in::Secure;

impl Secure {
    /// Opens a connection of HTTP/2.
    fn http2(&self) -> Http2 {
        Http2::open(&self.trust(&[]), self.gateway.addr())
    }
}

#[test]
fn a_stream_is_the_request_of_http1_that_it_stands_for() {
    let recorder = Recorder::start();
    let secure = Secure::start(&recorder, |_, _| {});
    let mut client = secure.http2();
    let fields =
        [("cookie", "a=1"), ("x-request-id", "h2-1"), ("cookie", "b=2"), ("accept", "*/*"), ("te", "trailers")];
    let answer = client.send(&call("GET", "/a%20b?c=d", &fields, "")).unwrap();
    assert_eq!((answer.status, answer.text().as_str()), (200, "ok"));
    assert_eq!(answer.header("content-length"), Some("2"));
    let seen = recorder.only();
    assert_eq!(seen.head.line, "GET /a%20b?c=d HTTP/1.1");
    assert_eq!(seen.all("host"), ["localhost"]);
    assert_eq!(seen.all("cookie"), ["a=1; b=2"], "the crumbs of one cookie are put together");
    assert_eq!((seen.all("x-forwarded-proto"), seen.all("x-forwarded-host")), (vec!["https"], vec!["localhost"]));
    assert!(seen.all("transfer-encoding").is_empty() && seen.all("content-length").is_empty());
    let line = line_of(&secure.gateway, "h2-1");
    assert_eq!((line["status"].as_u64(), line["bytes"].as_u64()), (Some(200), Some(2)), "{line}");
    assert!(line["cut"].is_null(), "{line}");
    assert_eq!(secure.gateway.metric("export_gateway_tls_handshakes_total", &[("result", "h2")]), 1.0);
}

#[test]
fn bodies_arrive_whole_with_and_without_a_length() {
    let recorder = Recorder::start();
    let secure = Secure::start(&recorder, |_, _| {});
    let mut client = secure.http2();
    let big = "x".repeat(3 << 20);
    for (method, fields, body) in [
        ("POST", vec![], "hello"),
        ("POST", vec![("content-length", "5")], "hello"),
        ("GET", vec![], "a body of a GET"),
        ("DELETE", vec![], "with a body"),
        ("PUT", vec![], big.as_str()),
        ("POST", vec![("content-length", "0")], ""),
    ] {
        recorder.forget();
        assert_eq!(client.send(&call(method, "/b", &fields, body)).unwrap().status, 200, "{method}");
        let seen = recorder.only();
        assert_eq!(seen.body.bytes, body.as_bytes(), "{method}");
        let is_chunked = seen.all("transfer-encoding") == ["chunked"];
        assert_eq!(is_chunked, fields.is_empty(), "{method}: a length that was given stays, none is invented");
        assert_eq!(recorder.strays(), 0);
    }
}

#[test]
fn promised_trailers_arrive_both_ways_and_no_others() {
    let backend = Backend::start(|_, wire| {
        loop {
            let (head, body) = read_request(wire)?;
            let echoed = format!("{:?} te={:?}", body.trailers, head.header("te"));
            say(wire, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum, Set-Cookie\r\n\r\n");
            say(
                wire,
                &format!("{:x}\r\n{echoed}\r\n0\r\nX-Sum: 42\r\nX-Other: 1\r\nSet-Cookie: a=b\r\n\r\n", echoed.len()),
            );
        }
    });
    let secure = Secure::start(&backend, |_, _| {});
    let mut client = secure.http2();
    let mut trailers = HeaderMap::new();
    for (name, value) in [("x-check", "7"), ("x-undeclared", "1"), ("content-length", "3")] {
        trailers.insert(name, value.parse().unwrap());
    }
    let fields = [("te", "trailers"), ("trailer", "x-check, content-length")];
    let with = Call { trailers: trailers.clone(), ..call("POST", "/t", &fields, "abc") };
    let answer = client.send(&with).unwrap();
    assert_eq!(answer.text().to_lowercase(), r#"[("x-check", "7")] te=some("trailers")"#);
    assert_eq!(answer.trailers.len(), 1, "{:?}", answer.trailers);
    assert_eq!(answer.trailers["x-sum"], "42");
    let unwanted = client.send(&Call { trailers, ..call("POST", "/t", &[], "abc") }).unwrap();
    assert!(unwanted.trailers.is_empty(), "who does not ask for trailers gets none");
    assert_eq!(unwanted.text(), "[] te=None");
}

#[test]
fn many_streams_run_beside_each_other() {
    let recorder = Recorder::start();
    let secure = Secure::start(&recorder, |_, _| {});
    let mut client = secure.http2();
    // Until the gateway's settings have come, a client does not know that 128 are the most.
    assert_eq!(client.send(&get("/0")).unwrap().status, 200);
    for _ in 0..5 {
        let calls: Vec<_> = (0..200).map(|number| get(&format!("/{number}"))).collect();
        for (answer, at) in client.send_all(&calls).into_iter().zip(0..) {
            assert_eq!(answer.unwrap_or_else(|error| panic!("{at}: {error}")).status, 200);
        }
    }
    let targets: BTreeSet<_> = recorder.requests().into_iter().map(|request| request.head.line).collect();
    assert_eq!((recorder.requests().len(), targets.len()), (1_001, 200));
    assert_eq!(secure.gateway.metric("export_gateway_connections_open", &[]), 1.0);
}

#[test]
fn starts_and_polls_go_their_way() {
    let parts = shared();
    let secure = Secure::start(parts, |_, _| {});
    let user = parts.user();
    let mut client = secure.http2();
    let fields = [("x-user-id", user.as_str()), ("content-type", "application/json"), ("idempotency-key", "k-1")];
    let start = call("POST", "/api/export/overlay/start", &fields, &overlay(12).to_string());
    let answer = client.send(&start).unwrap();
    assert_eq!((answer.status, answer.header("x-export-backend")), (200, Some("workers")), "{}", answer.text());
    let again = client.send(&start).unwrap();
    assert_eq!((again.status, again.header("idempotent-replayed")), (200, Some("true")));
    assert_eq!((again.text(), parts.jobs_of(&user)), (answer.text(), (0, 1)));
    let job: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
    let path = format!("/api/export/status/{}", job["job_id"].as_str().unwrap());
    assert_eq!(client.send(&call("GET", &path, &fields[..1], "")).unwrap().status, 200);
    let early = [&fields[..2], &[("early-data", "1")]].concat();
    assert_eq!(client.send(&call("POST", "/api/export/overlay/start", &early, "{}")).unwrap().status, 425);
    assert_eq!(client.send(&call("POST", "/api/export/%2e%2e/start", &fields, "{}")).unwrap().status, 400);
}

#[test]
fn heads_and_empty_answers_end_where_they_should() {
    for (status, more, expected) in [
        ("200 OK", "Content-Length: 4\r\n", Some("4")),
        ("204 No Content", "", None),
        ("304 Not Modified", "ETag: \"a\"\r\nContent-Length: 9\r\n", Some("9")),
    ] {
        let answer =
            format!("HTTP/1.1 {status}\r\nConnection: keep-alive, X-Hop\r\nX-Hop: 1\r\nKeep-Alive: 5\r\n{more}\r\n");
        let recorder = Recorder::answering(answer.leak());
        let secure = Secure::start(&recorder, |_, _| {});
        let mut client = secure.http2();
        let answer = client.send(&call("HEAD", "/", &[], "")).unwrap();
        assert_eq!(answer.header("content-length"), expected, "{status}");
        assert!(answer.body.is_empty() && answer.headers.get("x-hop").is_none());
        assert!(answer.headers.get("connection").is_none() && answer.headers.get("keep-alive").is_none());
    }
}

#[test]
fn an_upload_that_is_cancelled_does_not_look_whole() {
    let recorder = Recorder::start();
    let secure = Secure::start(&recorder, |_, _| {});
    for code in [0_u32, 8, 2] {
        for path in ["/upload", "/api/export/overlay/start"] {
            recorder.forget();
            let mut client = Client::open(&secure.trust(&["h2"]), secure.gateway.addr());
            client.request(1, &[&post(path)[..], &[("content-type", "application/json")]].concat(), 0);
            client.send(DATA, 0, 1, br#"{"project_id":12}"#);
            // The upload is under way, and so is the read of a start's body.
            std::thread::sleep(Duration::from_millis(100));
            client.send(RST_STREAM, 0, 1, &code.to_be_bytes());
            client.request(3, &h2_frames::get("/next"), END_STREAM);
            assert_eq!(client.verdict(3), Verdict::Answer(200));
            let seen = recorder.requests();
            assert_eq!(seen.len(), 1, "{path}, cancelled with {code}: {seen:?}");
            assert_eq!(seen[0].head.line, "GET /next HTTP/1.1");
        }
    }
}

#[test]
fn an_answer_that_breaks_off_is_a_reset_not_an_end() {
    let backend = Backend::start(|number, wire| {
        read_request(wire)?;
        let framing = if number == 0 { "Content-Length: 100" } else { "Transfer-Encoding: chunked" };
        say(wire, &format!("HTTP/1.1 200 OK\r\n{framing}\r\n\r\n5\r\nhello\r\n"));
        Ok(())
    });
    let secure = Secure::start(&backend, |_, _| {});
    let mut client = secure.http2();
    for what in ["a length", "chunks"] {
        let broken = client.send(&get("/")).expect_err(what);
        assert!(broken.is_reset() || broken.is_io(), "{what}: {broken}");
    }
    assert_eq!(client.send(&call("CONNECT", "", &[], "")).map(|answer| answer.status).ok(), None.or(Some(501)));
}

#[test]
fn a_silent_connection_is_told_to_go() {
    let recorder = Recorder::start();
    let secure = Secure::start(&recorder, |table, _| set(table, "server.idle_timeout", "500ms"));
    let mut client = secure.http2();
    assert_eq!(client.send(&get("/")).unwrap().status, 200);
    let began = Instant::now();
    assert_eq!(client.ended(), Some(0), "GOAWAY, then the end");
    assert!(began.elapsed() >= Duration::from_millis(450), "{:?}", began.elapsed());
}

#[test]
fn what_is_under_way_is_answered_when_the_gateway_goes() {
    let backend = Backend::start(|_, wire| {
        read_request(wire)?;
        say(wire, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello");
        std::thread::sleep(Duration::from_millis(700));
        say(wire, "world");
        Ok(())
    });
    let mut secure = Secure::start(&backend, |_, _| {});
    let (mut client, mut idle) = (secure.http2(), secure.http2());
    let pid = secure.gateway.pid();
    let stop = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(300));
        crate::support::signal(pid, "TERM");
    });
    let answers = client.send_all(&[get("/1"), get("/2"), get("/3")]);
    assert!(answers.iter().all(|answer| answer.as_ref().is_ok_and(|it| it.text() == "helloworld")), "{answers:?}");
    stop.join().unwrap();
    assert_eq!(client.ended(), Some(0));
    assert_eq!(idle.ended(), Some(0));
    assert!(secure.gateway.wait(Duration::from_secs(10)).success());
}

#[test]
fn a_client_that_is_asleep_does_not_keep_the_gateway_from_going() {
    let recorder = Recorder::start();
    let mut secure = Secure::start(&recorder, |_, _| {});
    let mut asleep = Client::open(&secure.trust(&["h2"]), secure.gateway.addr());
    asleep.request(1, &h2_frames::get("/"), END_STREAM);
    assert_eq!(asleep.verdict(1), Verdict::Answer(200));
    // It takes neither the GOAWAY nor the question behind it; the drain time-out would be 75 s.
    secure.gateway.signal("TERM");
    assert!(secure.gateway.wait(Duration::from_secs(30)).success());
    drop(asleep);
}

#[test]
fn a_large_upload_is_slowed_down_by_its_backend() {
    let backend = Backend::start(|_, wire| {
        let head = wire.read_head()?;
        std::thread::sleep(Duration::from_millis(1_000));
        let body = wire.read_body(head.framing(crate::support::wire::Framing::Empty))?;
        let length = body.bytes.len().to_string();
        say(wire, &format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{length}", length.len()));
        Ok(())
    });
    let secure = Secure::start(&backend, |_, _| {});
    let before = secure.gateway.rss_kib();
    let piece = Bytes::from(vec![7; 1 << 20]);
    let upload = Call { body: vec![piece; 64], ..call("POST", "/upload", &[], "") };
    let mut client = secure.http2();
    assert_eq!(client.send(&upload).unwrap().text(), (64 << 20).to_string());
    let grown = secure.gateway.rss_kib().saturating_sub(before);
    assert!(grown < 24 * 1024, "{grown} KiB for an upload of 64 MiB");
}

#[test]
fn curl_speaks_it_too() {
    let recorder = Recorder::start();
    let secure = Secure::start(&recorder, |_, _| {});
    let roots = secure.folder.path().join("ca.pem");
    std::fs::write(&roots, secure.authority.pem()).unwrap();
    let port = secure.gateway.addr().port();
    let curl = |arguments: &[&str]| {
        let output = Command::new("curl")
            .args(["--silent", "--show-error", "--max-time", "20", "--cacert", roots.to_str().unwrap()])
            .args(["--resolve", &format!("localhost:{port}:127.0.0.1"), "--write-out", " %{http_version} %{http_code}"])
            .args(arguments)
            .arg(format!("https://localhost:{port}/curl"))
            .output()
            .expect("curl runs");
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(curl(&["--http2"]), "ok 2 200");
    assert_eq!(curl(&["--http1.1"]), "ok 1.1 200");
    assert_eq!(curl(&["--http2", "--tls-max", "1.2"]), "ok 2 200");
    assert_eq!(curl(&["--http2", "--data", "a=b", "--header", "Expect: 100-continue"]), "ok 2 200");
    assert_eq!(recorder.requests().last().unwrap().body.bytes, b"a=b");
}
