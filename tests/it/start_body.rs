//! Bodies of starts: what cannot be translated, what is too large, how they may come, and what legacy gets of them.

use std::net::SocketAddr;

use crate::support::client::{self, Connection, Request, Response};
use crate::support::eventually;
use crate::support::gateway::{Gateway, set as set_key};
use crate::support::parts;
use crate::support::rude::{Rude, Step};
use crate::support::scene::{self, assert_own, everybody_on_legacy, fields, header, line_of, only, start_as, start_of};
use crate::support::wire::ReadError;

/// A start that cannot be translated: what it is called, its content type and encoding, its body.
type Odd = (&'static str, Option<&'static str>, Option<&'static str>, String);

fn untranslatable() -> Vec<Odd> {
    let json = Some("application/json");
    let good = client::overlay(12).to_string();
    let deep = format!(r#"{{"project_id":12,"x":{}{}}}"#, "[".repeat(200), "]".repeat(200));
    let with_project = |project: &str| good.replace("\"project_id\":12", &format!("\"project_id\":{project}"));
    vec![
        ("no content type", None, None, good.clone()),
        ("text", Some("text/plain"), None, good.clone()),
        ("form", Some("application/x-www-form-urlencoded"), None, "project_id=12".into()),
        ("encoding", json, Some("gzip"), good.clone()),
        ("identity", json, Some("identity"), good.clone()),
        ("nothing", json, None, String::new()),
        ("half", json, None, good[..good.len() / 2].into()),
        ("list", json, None, format!("[{good}]")),
        ("text value", json, None, "\"12\"".into()),
        ("byte order mark", json, None, format!("\u{feff}{good}")),
        ("deep", json, None, deep),
        ("no project", json, None, "{}".into()),
        ("null", json, None, with_project("null")),
        ("fraction", json, None, with_project("12.5")),
        ("boolean", json, None, with_project("true")),
        ("words", json, None, with_project("\"twelve\"")),
        ("over 64 bits", json, None, with_project("9223372036854775808")),
        ("last of two", json, None, r#"{"project_id":12,"highlight_regions":[],"project_id":[]}"#.into()),
    ]
}

fn odd_start((name, kind, encoding, body): &Odd, user: &str) -> Request {
    let mut request =
        Request::new("POST", "/api/export/overlay/start").user(user).header("X-Request-Id", &dashed(name));
    for (field, value) in [("Content-Type", kind), ("Content-Encoding", encoding)] {
        if let Some(value) = value {
            request = request.header(field, value);
        }
    }
    if body.is_empty() { request.header("Content-Length", "0") } else { request.body(body.as_bytes()) }
}

fn dashed(name: &str) -> String {
    name.replace(' ', "-")
}

/// An answer without what differs from one answer to the next: the job's id and the date.
fn comparable(answer: &Response) -> (u16, String, Vec<(String, String)>) {
    let job = serde_json::from_slice::<serde_json::Value>(&answer.body.bytes).unwrap_or_default()["job_id"].clone();
    let text = match job.as_str() {
        Some(job) => answer.text().replace(job, "JOB"),
        None => answer.text(),
    };
    let own =
        |name: &str| ["date", "x-request-id", "x-export-backend"].iter().any(|added| name.eq_ignore_ascii_case(added));
    let headers = answer.head.headers.iter().filter(|(name, _)| !own(name)).cloned().collect();
    (answer.status, text, headers)
}

#[test]
fn what_cannot_be_translated_gets_legacys_own_answer() {
    let set = parts::shared();
    let gateway = Gateway::start(set);
    for odd in &untranslatable() {
        let (user, other) = (set.user(), set.user());
        let ours = client::send(gateway.addr(), &odd_start(odd, &user));
        let legacys = client::send(set.legacy.addr(), &odd_start(odd, &other));
        assert_eq!(comparable(&ours), comparable(&legacys), "{}", odd.0);
        assert_eq!(ours.header("x-export-backend"), Some("legacy"));
        assert!(set.workers.seen_from("start", &user).is_empty(), "{}", odd.0);
        let (through, direct) = (only(&set.legacy, "start", &user), only(&set.legacy, "start", &other));
        assert_eq!(through["body_sha256"], direct["body_sha256"], "{}", odd.0);
    }
    for (name, ..) in untranslatable() {
        let line = line_of(&gateway, &dashed(name));
        assert_eq!((&line["reason"], &line["decision"]), (&"untranslatable".into(), &"legacy".into()), "{line}");
        assert!(line["error"].is_string(), "{line}");
    }
    let counted = gateway.metric("export_gateway_starts_total", &[("reason", "untranslatable"), ("backend", "legacy")]);
    assert_eq!(counted, untranslatable().len() as f64);
    assert_eq!(gateway.metric("export_gateway_fallbacks_total", &[]), 0.0, "it never was for workers");
}

#[test]
fn without_a_fallback_what_cannot_be_translated_is_a_422() {
    let set = parts::shared();
    let gateway = Gateway::with(set, |table| set_key(table, "backends.workers.fallback", false));
    for odd in &untranslatable() {
        let user = set.user();
        let answer = client::send(gateway.addr(), &odd_start(odd, &user));
        assert_own(&answer, 422, "untranslatable");
        assert!(set.legacy.seen_from("start", &user).is_empty() && set.workers.seen_from("start", &user).is_empty());
    }
}

/// A JSON start of exactly so many bytes.
fn padded(length: usize) -> String {
    let start = r#"{"project_id":12,"highlight_regions":[],"pad":""#;
    format!("{start}{}\"}}", "x".repeat(length - start.len() - 2))
}

fn chunked(body: &str, sizes: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    for piece in body.as_bytes().chunks(sizes) {
        bytes.extend(format!("{:x}\r\n", piece.len()).bytes());
        bytes.extend(piece);
        bytes.extend(b"\r\n");
    }
    bytes.extend(b"0\r\n\r\n");
    bytes
}

#[test]
fn a_body_over_the_limit_is_a_413_wherever_the_start_was_to_go() {
    const LIMIT: usize = 1024 * 1024;
    let set = parts::shared();
    for on_legacy in [false, true] {
        let gateway = Gateway::with(set, |table| {
            if on_legacy {
                everybody_on_legacy(table);
            }
        });
        let user = set.user();
        let send = |request: &Request| client::send(gateway.addr(), request);
        let fits = send(&start_of("overlay", &padded(LIMIT)).user(&user));
        assert_eq!(fits.status, 200, "{}", fits.text());
        // The answer comes although not one byte of the body does, and no 100 invites it.
        let declared = Request::new("POST", "/api/export/overlay/start")
            .user(&user)
            .header("Content-Type", "application/json")
            .header("Content-Length", &(LIMIT + 1).to_string())
            .header("Expect", "100-continue");
        let refused = send(&declared);
        assert_own(&refused, 413, "body_too_large");
        assert!(refused.interim.is_empty(), "{:?}", refused.interim);
        let mut connection = Connection::open(gateway.addr());
        let mut whole = start_of("overlay", "").user(&user).header("Transfer-Encoding", "chunked");
        whole = whole.body(chunked(&padded(LIMIT + 1), 65_536));
        assert_own(&connection.exchange(&whole).unwrap(), 413, "body_too_large");
        connection.expect_closed();
        assert_eq!(set.jobs_of(&user), if on_legacy { (1, 0) } else { (0, 1) });
    }
}

#[test]
fn a_chunked_start_is_a_start() {
    let set = parts::shared();
    let gateway = Gateway::start(set);
    let body = client::overlay(12).to_string();
    for sizes in [1, 7, 10_000] {
        let user = set.user();
        let request = start_of("overlay", "").user(&user).header("Transfer-Encoding", "chunked");
        let answer = client::send(gateway.addr(), &request.body(chunked(&body, sizes)));
        assert_eq!(answer.status, 200, "{}", answer.text());
        let seen = only(&set.workers, "start", &user);
        assert_eq!(header(&seen, "content-length"), seen["body_length"].to_string());
        assert_eq!(set.jobs_of(&user), (0, 1));
    }
}

#[test]
fn a_start_that_waits_for_a_100_gets_one_and_starts_once() {
    let set = parts::shared();
    for on_legacy in [false, true] {
        let gateway = Gateway::with(set, |table| {
            if on_legacy {
                everybody_on_legacy(table);
            }
        });
        let user = set.user();
        let body = client::overlay(12).to_string();
        let request = start_of("overlay", &body).user(&user).header("Expect", "100-continue");
        let bytes = request.bytes("gateway");
        let (head, body) = bytes.split_at(bytes.len() - body.len());
        let mut connection = Connection::open(gateway.addr());
        connection.send(head);
        assert_eq!(connection.read_head().unwrap().0, 100);
        connection.send(body);
        let answer = connection.read("POST").unwrap();
        assert_eq!((answer.status, answer.interim.len()), (200, 0), "{}", answer.text());
        assert_eq!(set.jobs_of(&user), if on_legacy { (1, 0) } else { (0, 1) });
    }
}

#[test]
fn a_body_that_stops_or_breaks_off_starts_nothing() {
    let set = parts::shared();
    let gateway = Gateway::with(set, |table| set_key(table, "limits.body_idle", "300ms"));
    let user = set.user();
    let whole = start_as(&user, "half").bytes("gateway");
    let mut stopped = Connection::open(gateway.addr());
    stopped.send(&whole[..whole.len() - 20]);
    assert_own(&stopped.read("POST").unwrap(), 408, "body_timeout");
    let mut broken = Connection::open(gateway.addr());
    broken.send(&whole[..whole.len() - 20]);
    broken.wire.stream.shutdown(std::net::Shutdown::Write).unwrap();
    match broken.read("POST") {
        Ok(answer) => drop(assert_own(&answer, 400, "body_broken")),
        Err(error) => assert!(matches!(error, ReadError::Closed | ReadError::Reset), "{error:?}"),
    }
    assert!(set.legacy.seen_from("start", &user).is_empty() && set.workers.seen_from("start", &user).is_empty());
}

#[test]
fn a_start_decided_for_legacy_is_forwarded_as_it_is() {
    let set = parts::shared();
    let answer = "HTTP/1.1 202 Sure\r\nX-OWN-Case: a\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\nContent-Type: application/json\r\nContent-Length: 24\r\n\r\n{\"job_id\" : \"by-legacy\"}";
    let rude = Rude::always(vec![Step::ReadRequest, Step::text(answer)]);
    let gateway = Gateway::with(scene::legacy_at(set, rude.url()), everybody_on_legacy);
    let body = "{\"project_id\": 12.50,  \"a\":1,\"a\":2}\r\n";
    let request = Request::new("POST", "/api/export/%6fverlay/start?a=1&b=%20&c")
        .header("HOST", "app.reelballers.com")
        .header("content-TYPE", "application/json; charset=utf-8")
        .header("X-uSeR-iD", "Somebody Else")
        .header("Cookie", "session=1; theme=dark")
        .header("AUTHORIZATION", "Bearer t0k3n")
        .header("Idempotency-KEY", "the-client's-own")
        .header("X-Request-ID", "raw-1")
        .header("Accept-Encoding", "gzip")
        .header("Accept", "a/b")
        .header("Accept", "c/d")
        .body(body);
    let got = client::send(gateway.addr(), &request);
    assert_eq!((got.status, got.head.line.as_str()), (202, "HTTP/1.1 202 Sure"));
    assert_eq!(got.text(), "{\"job_id\" : \"by-legacy\"}");
    assert!(got.head.headers.contains(&("X-OWN-Case".into(), "a".into())), "{:?}", got.head.headers);
    assert_eq!(got.all("set-cookie"), ["a=1", "b=2"]);
    let received = &rude.received()[0];
    assert!(received.ends_with(format!("\r\n\r\n{body}").as_bytes()));
    assert!(received.starts_with(b"POST /api/export/%6fverlay/start?a=1&b=%20&c HTTP/1.1\r\n"));
    let mut seen = fields(received);
    seen.sort();
    let length = body.len().to_string();
    let mut expected = [
        ("HOST", "app.reelballers.com"),
        ("content-TYPE", "application/json; charset=utf-8"),
        ("X-uSeR-iD", "Somebody Else"),
        ("Cookie", "session=1; theme=dark"),
        ("AUTHORIZATION", "Bearer t0k3n"),
        ("Idempotency-KEY", "the-client's-own"),
        ("X-Request-ID", "raw-1"),
        ("Accept-Encoding", "identity"),
        ("Accept", "a/b"),
        ("Accept", "c/d"),
        ("Content-Length", &length),
        ("x-forwarded-for", "127.0.0.1"),
        ("x-forwarded-proto", "http"),
        ("x-forwarded-host", "app.reelballers.com"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()));
    expected.sort();
    assert_eq!(seen, expected);
}

#[test]
fn legacy_keeps_the_query_and_workers_do_not_get_it() {
    let set = parts::shared();
    let gateway = Gateway::with(set, |table| {
        set_key(table, "rollout.always_legacy", vec![toml::Value::from("old-user")]);
    });
    let target = "/api/export/overlay/start?x=1&y=%2F";
    let user = set.user();
    set.legacy.add_video("old-user", 12, "clip.mp4");
    for user in [user.as_str(), "old-user"] {
        let answer = client::send(gateway.addr(), &Request::post_json(target, &client::overlay(12)).user(user));
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    assert_eq!(only(&set.workers, "start", &user)["query"], "");
    assert_eq!(only(&set.legacy, "start", "old-user")["query"], "x=1&y=%2F");
}

#[test]
fn all_bodies_together_have_a_limit() {
    let set = parts::shared();
    let gateway = Gateway::with(set, |table| {
        for (key, size) in [("start_body", "100KiB"), ("answer_body", "1KiB"), ("buffered", "140KiB")] {
            set_key(table, &format!("limits.{key}"), size);
        }
        set_key(table, "server.threads", 1);
    });
    let user = set.user();
    let bytes = start_of("overlay", &padded(99 * 1024)).user(&user).bytes("gateway");
    let (most, last) = bytes.split_at(bytes.len() - 1);
    // Three quarters of the limit are for starts. One of a project without a video is too large beside the slow one, once all of that has been read.
    let probe = start_of("overlay", &padded(9 * 1024).replace("12", "13")).user(&user);
    let refused = eventually("no room beside a slow start", || {
        let mut slow = Connection::open(gateway.addr());
        slow.send(most);
        let (client, server) = (slow.wire.stream.local_addr().unwrap(), gateway.addr());
        eventually("the slow one's bytes in the gateway", || {
            (queues(client, server)?.0 == 0 && queues(server, client)?.1 == 0).then_some(())
        });
        let refused = client::send(gateway.addr(), &probe);
        if refused.status == 400 {
            return None; // It came first, and the slow one was or will be refused.
        }
        slow.send(last);
        let answer = slow.read("POST").unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
        Some(refused)
    });
    assert_own(&refused, 503, "overloaded");
    assert!(refused.header("retry-after").is_some());
    eventually("what was held to be given back", || (client::send(gateway.addr(), &probe).status == 400).then_some(()));
    assert_eq!(set.jobs_of(&user), (0, 1));
}

/// Returns how many bytes of a socket wait in the kernel to be sent and to be read (`/proc/net/tcp`).
fn queues(local: SocketAddr, peer: SocketAddr) -> Option<(u64, u64)> {
    let ends = format!("0100007F:{:04X} 0100007F:{:04X} ", local.port(), peer.port());
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let line = table.lines().find(|line| line.contains(&ends))?;
    let (sending, reading) = line.split_whitespace().nth(4)?.split_once(':')?;
    Some((u64::from_str_radix(sending, 16).ok()?, u64::from_str_radix(reading, 16).ok()?))
}
