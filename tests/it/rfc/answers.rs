//! RFC 9112 towards the client: an answer whose end nobody can be sure of is a 502 or a visible cut, never a whole one;
//! and nothing that a backend sends becomes the answer to another request.

use std::time::Duration;

use crate::support::backend::{Backend, read_request};
use crate::support::client::{Connection, Request};
use crate::support::gateway::Gateway;
use crate::support::wire::{ReadError, latin1};

/// What must come of an answer.
#[derive(Debug, Clone, Copy)]
enum Expect {
    /// 502, or a cut that the client sees.
    Broken,
    /// This body with the status it had; the bytes may be spelled anew.
    Whole(u16, &'static str),
    /// Either of the two.
    Any(u16, &'static str),
}

use Expect::{Any, Broken, Whole};

const SECTIONS: [(&str, &[(&[u8], Expect)]); 7] = [
    (
        "RFC 9112 4 status lines",
        &[
            (b"HTTP/1.1 20 OK\r\nContent-Length: 2\r\n\r\nok", Broken),
            (b"HTTP/1.1 2000 OK\r\nContent-Length: 2\r\n\r\nok", Broken),
            (b"HTTP/1.1 2x0 OK\r\nContent-Length: 2\r\n\r\nok", Broken),
            (b"HTTP/1.1 -20 OK\r\nContent-Length: 2\r\n\r\nok", Broken),
            (b"HTTP/1.1 000 OK\r\nContent-Length: 2\r\n\r\nok", Broken),
            (b"HTTP/1.1 099 OK\r\nContent-Length: 2\r\n\r\nok", Broken),
            (b"HTTP/1.1  200 OK\r\nContent-Length: 2\r\n\r\nok", Any(200, "ok")),
            (b"HTTP/2.0 200 OK\r\nContent-Length: 2\r\n\r\nok", Broken),
            (b"HTTP/1.2 200 OK\r\nContent-Length: 2\r\n\r\nok", Broken),
            (b"http/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", Broken),
            (b"ICY 200 OK\r\nContent-Length: 2\r\n\r\nok", Broken),
            (b"200 OK\r\nContent-Length: 2\r\n\r\nok", Broken),
            (b"ok", Broken),
            (b"<html>\r\n\r\n", Broken),
            (b"\0\0\0\x04\0\0\0\0\0", Broken),
            (b"HTTP/1.1 200 O\0K\r\nContent-Length: 2\r\n\r\nok", Broken),
            (b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\nok", Broken),
            (b"HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nok", Any(200, "ok")),
            (b"HTTP/1.1 200 \r\nContent-Length: 2\r\n\r\nok", Whole(200, "ok")),
            (b"HTTP/1.1 200 Gut \xe9\r\nContent-Length: 2\r\n\r\nok", Any(200, "ok")),
            (b"HTTP/1.1 299 X\r\nContent-Length: 2\r\n\r\nok", Whole(299, "ok")),
            (b"HTTP/1.1 600 X\r\nContent-Length: 2\r\n\r\nok", Whole(600, "ok")),
            (b"HTTP/1.1 999 X\r\nContent-Length: 2\r\n\r\nok", Whole(999, "ok")),
            (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", Whole(200, "ok")),
        ],
    ),
    (
        "RFC 9112 5 field lines",
        &[
            (b"HTTP/1.1 200 OK\r\nno colon\r\n\r\nok", Broken),
            (b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 2\r\n\r\nok", Broken),
            (b"HTTP/1.1 200 OK\r\nX:\r\n\tb\r\nContent-Length: 2\r\n\r\nok", Broken),
            (b"HTTP/1.1 200 OK\r\n X: a\r\nContent-Length: 2\r\n\r\nok", Broken),
            (b"HTTP/1.1 200 OK\r\nX: a\0b\r\nContent-Length: 2\r\n\r\nok", Broken),
            (b"HTTP/1.1 200 OK\r\nX\0: a\r\nContent-Length: 2\r\n\r\nok", Broken),
            (b"HTTP/1.1 200 OK\r\nX: a\rb\r\nContent-Length: 2\r\n\r\nok", Broken),
            (b"HTTP/1.1 200 OK\r\nX: \x01\r\nContent-Length: 2\r\n\r\nok", Broken),
            (b"HTTP/1.1 200 OK\r\nX Y: a\r\nContent-Length: 2\r\n\r\nok", Broken),
            (b"HTTP/1.1 200 OK\r\n: a\r\nContent-Length: 2\r\n\r\nok", Broken),
            (b"HTTP/1.1 200 OK\r\nX : a\r\nContent-Length: 2\r\n\r\nok", Any(200, "ok")),
            (b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok", Any(200, "ok")),
            (b"HTTP/1.1 200 OK\r\nX: a\nContent-Length: 2\r\n\r\nok", Any(200, "ok")),
        ],
    ),
    (
        "RFC 9112 6.1 codings of answers",
        &[
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nok", Broken),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", Broken),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, gzip\r\n\r\n2\r\nok\r\n0\r\n\r\n", Broken),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", Broken),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", Broken),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\nok", Broken),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\nContent-Length: 2\r\n\r\nok", Broken),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding:\r\n\r\nok", Broken),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: \x0bchunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", Broken),
            (b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", Broken),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", Broken),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 12\r\n\r\n2\r\nok\r\n0\r\n\r\n", Broken),
            (b"HTTP/1.1 200 OK\r\ntransfer-encoding: CHUNKED\r\n\r\n2\r\nok\r\n0\r\n\r\n", Whole(200, "ok")),
        ],
    ),
    (
        "RFC 9112 6.2 lengths of answers",
        &[
            (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok!", Broken),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 2\r\n\r\nok!", Broken),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 2, 3\r\n\r\nok!", Broken),
            (b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nok", Broken),
            (b"HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nok", Broken),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 0x2\r\n\r\nok", Broken),
            (b"HTTP/1.1 200 OK\r\nContent-Length: a\r\n\r\nok", Broken),
            (b"HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\nok", Broken),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\nok", Broken),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok", Any(200, "ok")),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\nok", Any(200, "ok")),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 2,2\r\nContent-Length: 2\r\n\r\nok", Any(200, "ok")),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", Whole(200, "ok")),
        ],
    ),
    (
        "RFC 9112 7.1 chunks of answers",
        &[
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nok\r\n0\r\n\r\n", Broken),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-2\r\nok\r\n0\r\n\r\n", Broken),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0x2\r\nok\r\n0\r\n\r\n", Broken),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok!\r\n0\r\n\r\n", Broken),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok0\r\n\r\n", Broken),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\nok\n0\n\n", Broken),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\n0\r\n\r\n", Broken),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;\nok\r\n0\r\n\r\n", Broken),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n10000000000000002\r\nok\r\n0\r\n\r\n", Broken),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\r\n2\r\nok\r\n0\r\n\r\n", Broken),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;a=b\r\nok\r\n0\r\n\r\n", Whole(200, "ok")),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\no\r\n1\r\nk\r\n0\r\nX: a\r\n\r\n", Whole(200, "ok")),
        ],
    ),
    (
        "RFC 9112 8 answers that end too early",
        &[
            (b"", Broken),
            (b"HTTP/1.1 200", Broken),
            (b"HTTP/1.1 200 OK\r\n", Broken),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n", Broken),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok", Broken),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n", Broken),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", Broken),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2", Broken),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok", Broken),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n", Broken),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n", Broken),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX: a\r\n", Broken),
            (b"HTTP/1.1 103 Early Hints\r\n\r\n", Broken),
            (b"HTTP/1.1 200 OK\r\n\r\nok", Whole(200, "ok")),
        ],
    ),
    (
        "RFC 9112 9.2 bytes behind an answer",
        &[
            (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokgarbage", Whole(200, "ok")),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok\r\n", Whole(200, "ok")),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil", Whole(200, "ok")),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil", Whole(200, "ok")),
            (b"HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil", Whole(204, "")),
            (b"HTTP/1.1 204 No Content\r\nContent-Length: 4\r\n\r\nevil", Any(204, "")),
            (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 4\r\n\r\nevil", Any(304, "")),
            (b"HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nevil\r\n0\r\n\r\n", Any(304, "")),
        ],
    ),
];

/// Answers one target with given bytes, any other with `fine`.
fn backend(answer: &'static [u8], ends: bool) -> Backend {
    Backend::start(move |_, wire| {
        loop {
            let (head, _) = read_request(wire)?;
            if !head.line.contains(" /odd ") {
                wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfine").map_err(|_| ReadError::Closed)?;
                continue;
            }
            wire.send(answer).map_err(|_| ReadError::Closed)?;
            if ends {
                return Ok(());
            }
        }
    })
}

fn judge(gateway: &Gateway, answer: &[u8], expect: Expect) -> Result<(), String> {
    let mut connection = Connection::open(gateway.addr()).deadline(Duration::from_secs(10));
    let got = connection.exchange(&Request::get("/odd"));
    let shown = latin1(answer);
    let broken = match &got {
        Ok(answer) => answer.status == 502,
        Err(error) => {
            matches!(error, ReadError::Closed | ReadError::Cut(_) | ReadError::Reset | ReadError::Malformed(_))
        }
    };
    let whole = |status, body: &str| got.as_ref().is_ok_and(|it| it.status == status && it.text() == body);
    let fits = match expect {
        Broken => broken,
        Whole(status, body) => whole(status, body),
        Any(status, body) => broken || whole(status, body),
    };
    if !fits {
        return Err(format!("{shown:?}: {expect:?}, but {got:?}"));
    }
    if let Ok(answer) = &got {
        let framings = answer.all("content-length").len() + answer.all("transfer-encoding").len();
        if framings > 1 {
            return Err(format!("{shown:?}: two framings: {answer:?}"));
        }
    }
    // Whatever came of it, the next request has its own answer, on this connection or another.
    for mut connection in [Some(connection), Some(Connection::open(gateway.addr()))].into_iter().flatten() {
        for method in ["GET", "POST"] {
            match connection.exchange(&Request::new(method, "/next").body(if method == "POST" { "b" } else { "" })) {
                Ok(answer) if answer.status == 200 && answer.text() == "fine" => {}
                // A POST that meets a dying connection is not sent again.
                Ok(answer) if answer.status == 502 && method == "POST" => {}
                Err(_) if got.is_err() || got.as_ref().is_ok_and(|it| it.header("connection") == Some("close")) => {
                    break;
                }
                other => return Err(format!("{shown:?}: the next {method} got {other:?}")),
            }
        }
    }
    Ok(())
}

#[test]
fn a_backends_broken_framing_is_never_passed_on_as_whole() {
    let mut table = "| section | cases | passed |\n| --- | --- | --- |\n".to_owned();
    let mut failures = Vec::new();
    for (section, cases) in SECTIONS {
        let mut failed = 0;
        for (answer, expect) in cases {
            // A backend that keeps its connection open would let a part wait for the rest: it is cut short here.
            let keeps = section.contains("9.2");
            let backend = backend(answer, !keeps);
            let gateway = Gateway::start(&backend);
            if let Err(what) = judge(&gateway, answer, *expect) {
                failed += 1;
                failures.push(format!("{section}: {what}"));
            }
        }
        table += &format!("| {section} | {} | {} |\n", cases.len(), cases.len() - failed);
    }
    println!("{table}");
    assert!(failures.is_empty(), "{} cases fail:\n{}", failures.len(), failures.join("\n"));
}

/// RFC 9110, 8.6: no recipient may be shown a length that is none, also where nobody needs it to find the end.
#[test]
fn an_answer_without_a_body_has_one_length_or_none() {
    let cases: [(&str, &str, &str, Result<Option<&str>, ()>); 11] = [
        ("HEAD", "200 OK", "Content-Length: 5\r\n", Ok(Some("5"))),
        ("HEAD", "200 OK", "Content-Length: 5, 5\r\n", Ok(Some("5"))),
        ("HEAD", "200 OK", "Content-Length: 5\r\nContent-Length: 5\r\n", Ok(Some("5"))),
        ("HEAD", "200 OK", "Content-Length: 5, 6\r\n", Err(())),
        ("HEAD", "200 OK", "Content-Length: 5\r\nContent-Length: 6\r\n", Err(())),
        ("HEAD", "200 OK", "Content-Length: +5\r\n", Err(())),
        ("HEAD", "200 OK", "Content-Length:\r\n", Err(())),
        ("HEAD", "200 OK", "Content-Length: 99999999999999999999\r\n", Err(())),
        ("HEAD", "204 No Content", "Content-Length: 5\r\n", Ok(None)),
        ("GET", "204 No Content", "Content-Length: 5, 6\r\n", Ok(None)),
        ("GET", "304 Not Modified", "Content-Length: 5, 6\r\n", Err(())),
    ];
    for (method, status, length, expected) in cases {
        let bytes = format!("HTTP/1.1 {status}\r\n{length}\r\n");
        let backend = Backend::start(move |_, wire| {
            loop {
                read_request(wire)?;
                wire.send(bytes.as_bytes()).map_err(|_| ReadError::Closed)?;
            }
        });
        let gateway = Gateway::start(&backend);
        let mut connection = Connection::open(gateway.addr());
        for _ in 0..2 {
            let answer = connection.exchange(&Request::new(method, "/")).expect("an answer");
            let is_refused = answer.status == 502 && answer.all("content-length").len() == 1;
            match expected {
                Ok(length) => assert_eq!(
                    (answer.status, answer.all("content-length")),
                    (status[..3].parse().unwrap(), length.into_iter().collect()),
                    "{status} {length:?}"
                ),
                Err(()) => assert!(is_refused, "{status} {length:?}: {answer:?}"),
            }
        }
    }
}
