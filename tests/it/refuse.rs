//! Requests that two readers could read differently: refused before a byte is forwarded, or made unambiguous.
//!
//! Each case is raw bytes with a second request right behind. It is judged at the client (statuses, the end of the
//! connection) and at the backend, which records whatever comes.

use std::time::Duration;

use crate::support::backend::{Received, Recorder};
use crate::support::client::Connection;
use crate::support::gateway::Gateway;
use crate::support::wire::{ReadError, latin1};

const BEHIND: &str = "GET /behind HTTP/1.1\r\nHost: h\r\n\r\n";

/// What came of some bytes.
#[derive(Debug)]
pub(crate) struct Verdict {
    pub(crate) statuses: Vec<u16>,
    pub(crate) closed: bool,
    pub(crate) requests: Vec<Received>,
    pub(crate) strays: usize,
}

pub(crate) fn judge(gateway: &Gateway, recorder: &Recorder, bytes: &[u8]) -> Verdict {
    recorder.forget();
    let mut connection = Connection::open(gateway.addr()).deadline(Duration::from_secs(5));
    connection.send(&[bytes, BEHIND.as_bytes()].concat());
    let mut statuses = Vec::new();
    let closed = loop {
        match connection.read("GET") {
            Ok(answer) => statuses.push(answer.status),
            Err(ReadError::Closed | ReadError::Reset | ReadError::Cut(_)) => break true,
            Err(error) => panic!("{:?}: {error:?} after {statuses:?}", latin1(bytes)),
        }
        if statuses.len() == 2 {
            break false;
        }
    };
    Verdict { statuses, closed, requests: recorder.requests(), strays: recorder.strays() }
}

pub(crate) fn lines(head: &str) -> Vec<u8> {
    head.replace('\n', "\r\n").into_bytes()
}

/// 400 or 501, the connection closed, nothing at the backend.
pub(crate) fn refused(cases: &[Vec<u8>]) {
    let recorder = Recorder::start();
    let gateway = Gateway::start(&recorder);
    for bytes in cases {
        let verdict = judge(&gateway, &recorder, bytes);
        let shown = latin1(bytes);
        assert!(matches!(verdict.statuses[..], [400 | 431 | 501 | 505]), "{shown:?}: {verdict:?}");
        assert!(verdict.closed && verdict.requests.is_empty(), "{shown:?}: {verdict:?}");
    }
    assert_eq!(recorder.backend.connections(), 0, "nothing was ever forwarded");
}

/// Refused, or exactly this one request with this body arrives and the connection ends.
fn refused_or_one(cases: &[Vec<u8>], body: &str) {
    let recorder = Recorder::start();
    let gateway = Gateway::start(&recorder);
    for bytes in cases {
        let verdict = judge(&gateway, &recorder, bytes);
        let shown = latin1(bytes);
        assert!(verdict.closed, "{shown:?}: {verdict:?}");
        match verdict.statuses[..] {
            [400 | 501] => assert!(verdict.requests.is_empty() && verdict.strays == 0, "{shown:?}: {verdict:?}"),
            [200] => {
                let [request] = &verdict.requests[..] else { panic!("{shown:?}: {verdict:?}") };
                assert_eq!(latin1(&request.body.bytes), body, "{shown:?}");
                let framings = request.all("content-length").len() + request.all("transfer-encoding").len();
                assert_eq!(framings, 1, "{shown:?}: {request:?}");
            }
            _ => panic!("{shown:?}: {verdict:?}"),
        }
    }
}

fn post(fields: &str, body: &str) -> Vec<u8> {
    [lines(&format!("POST /x HTTP/1.1\nHost: h\n{fields}\n\n")), body.as_bytes().to_vec()].concat()
}

fn get(fields: &str) -> Vec<u8> {
    lines(&format!("GET /x HTTP/1.1\nHost: h\n{fields}\n\n"))
}

#[test]
fn a_length_beside_chunks_never_splits_a_request() {
    let chunks = "3\r\nabc\r\n0\r\n\r\n";
    refused_or_one(
        &[
            post("Content-Length: 3\nTransfer-Encoding: chunked", chunks),
            post("Transfer-Encoding: chunked\nContent-Length: 3", chunks),
            post("Transfer-Encoding: Chunked\ncontent-length: 0", chunks),
            post("Content-Length: 13\nTransfer-encoding:chunked", chunks),
            post("Content-Length: 999\nTransfer-Encoding: chunked", chunks),
        ],
        "abc",
    );
}

#[test]
fn lengths_that_are_several_or_no_numbers_are_refused() {
    let bad = [
        "3\nContent-Length: 4",
        "3, 4",
        "3,3",
        "+3",
        "-3",
        "0x3",
        "3 3",
        "",
        "3a",
        "a",
        "3.0",
        "３",
        "\"3\"",
        "99999999999999999999999",
        "18446744073709551616",
        "3;3",
    ];
    let cases: Vec<_> = bad.iter().map(|length| post(&format!("Content-Length: {length}"), "abc")).collect();
    refused(&cases);
}

#[test]
fn the_same_length_twice_is_refused_or_sent_once() {
    let recorder = Recorder::start();
    let gateway = Gateway::start(&recorder);
    let verdict = judge(&gateway, &recorder, &post("Content-Length: 3\nContent-Length: 3", "abc"));
    match verdict.statuses[..] {
        [400] => assert!(verdict.requests.is_empty()),
        // Not ambiguous any more: one length, and what follows is the next request.
        [200, 200] => {
            assert_eq!(verdict.requests.len(), 2);
            assert_eq!(verdict.requests[0].all("content-length"), ["3"]);
            assert_eq!(verdict.requests[0].body.bytes, b"abc");
        }
        _ => panic!("{verdict:?}"),
    }
}

#[test]
fn transfer_codings_other_than_one_chunked_are_refused() {
    let chunks = "3\r\nabc\r\n0\r\n\r\n";
    let bad = [
        "gzip",
        "gzip, chunked",
        "chunked, gzip",
        "chunked, chunked",
        "chunked,",
        ",chunked",
        "identity",
        "xchunked",
        "chunkedx",
        "chunked;q=1",
        "\"chunked\"",
        "chunked\nTransfer-Encoding: chunked",
        "chunked\nTransfer-Encoding: identity",
        "identity\nTransfer-Encoding: chunked",
        "cow\nTransfer-Encoding: chunked",
        "\u{b}chunked",
        "chunked\u{b}",
        "",
    ];
    let cases: Vec<_> = bad.iter().map(|coding| post(&format!("Transfer-Encoding: {coding}"), chunks)).collect();
    refused(&cases);
}

#[test]
fn chunks_in_http_1_0_are_refused() {
    let body = "3\r\nabc\r\n0\r\n\r\n";
    let cases: Vec<_> = ["", "Connection: keep-alive\n", "Content-Length: 3\n"]
        .iter()
        .map(|more| {
            [lines(&format!("POST /x HTTP/1.0\nHost: h\n{more}Transfer-Encoding: chunked\n\n")), body.into()].concat()
        })
        .collect();
    refused(&cases);
}

#[test]
fn folded_lines_bare_line_ends_and_nul_are_refused() {
    let raw: [&[u8]; 14] = [
        b"GET /x HTTP/1.1\r\nHost: h\r\nX: a\r\n b\r\n\r\n",
        b"GET /x HTTP/1.1\r\nHost: h\r\nX: a\r\n\tb\r\n\r\n",
        b"GET /x HTTP/1.1\r\n Host: h\r\nHost: h\r\n\r\n",
        b"GET /x HTTP/1.1\r\nHost: h\r\nX:\r\n Transfer-Encoding: chunked\r\n\r\n",
        b"GET /x HTTP/1.1\r\nHost: h\r\nX: a\rb\r\n\r\n",
        b"GET /x HTTP/1.1\r\nHost: h\r\nX: a\rContent-Length: 3\r\n\r\n",
        b"GET /x HTTP/1.1\rHost: h\r\n\r\n",
        b"GET /x HTTP/1.1\r\nHost: h\r\nX\r: a\r\n\r\n",
        b"GET /x HTTP/1.1\r\nHost: h\r\nX: a\0b\r\n\r\n",
        b"GET /x HTTP/1.1\r\nHost: h\r\nX\0: a\r\n\r\n",
        b"GET /x\0 HTTP/1.1\r\nHost: h\r\n\r\n",
        b"G\0T /x HTTP/1.1\r\nHost: h\r\n\r\n",
        b"GET /x HTTP/1.1\r\nHost: h\0\r\n\r\n",
        b"GET /x HTTP/1.1\r\nHost: h\r\nX: a\x7fb\r\n\r\n",
    ];
    refused(&raw.map(<[u8]>::to_vec));
}

#[test]
fn a_bare_line_feed_ends_no_line() {
    let raw: [&[u8]; 4] = [
        b"GET /x HTTP/1.1\nHost: h\n\n",
        b"GET /x HTTP/1.1\r\nHost: h\nX: a\r\n\r\n",
        b"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 3\n\r\nabc",
        b"POST /x HTTP/1.1\r\nHost: h\r\nX: a\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ];
    refused(&raw.map(<[u8]>::to_vec));
}

#[test]
fn names_that_are_no_names_are_refused() {
    let bad = [
        "X Y: a",
        "X : a",
        "X\t: a",
        ": a",
        "X(: a",
        "X\u{80}: a",
        "no colon",
        "X@Y: a",
        "Content-Length : 0",
        "\"X\": a",
        "X/Y: a",
    ];
    refused(&bad.iter().map(|line| get(line)).collect::<Vec<_>>());
}

#[test]
fn connect_and_trace_are_refused() {
    let bad = [
        "CONNECT other:443",
        "CONNECT h:80",
        "CONNECT /",
        "CONNECT http://h/",
        "TRACE /",
        "TRACE /x?y",
        "TRACE *",
        "TRACE http://h/",
    ];
    refused(&bad.map(|line| lines(&format!("{line} HTTP/1.1\nHost: h\n\n"))));
}

#[test]
fn other_versions_of_http_are_refused() {
    let bad = [
        "GET /x\r\n",
        "GET /x\r\n\r\n",
        "GET /x HTTP/1.2\r\nHost: h\r\n\r\n",
        "GET /x HTTP/2.0\r\nHost: h\r\n\r\n",
        "GET /x http/1.1\r\nHost: h\r\n\r\n",
        "GET /x HTTP/0.9\r\nHost: h\r\n\r\n",
        "GET /x HTTP/1\r\nHost: h\r\n\r\n",
        "GET  /x HTTP/1.1\r\nHost: h\r\n\r\n",
        "GET /x  HTTP/1.1\r\nHost: h\r\n\r\n",
        " GET /x HTTP/1.1\r\nHost: h\r\n\r\n",
        "GET\t/x HTTP/1.1\r\nHost: h\r\n\r\n",
        "\u{16}\u{3}\u{1}\0\u{5}hello\r\n\r\n",
    ];
    refused(&bad.map(|text| text.as_bytes().to_vec()));
}

#[test]
fn http_2_without_its_handshake_is_turned_away() {
    let recorder = Recorder::start();
    let gateway = Gateway::start(&recorder);
    for text in ["PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0"] {
        let verdict = judge(&gateway, &recorder, text.as_bytes());
        assert!(verdict.closed && matches!(verdict.statuses[..], [] | [400]), "{text:?}: {verdict:?}");
    }
    assert_eq!(recorder.backend.connections(), 0);
}

#[test]
fn chunks_that_are_none_never_make_a_whole_request() {
    let recorder = Recorder::start();
    let gateway = Gateway::start(&recorder);
    let bad = [
        "zz\r\nabc\r\n0\r\n\r\n",
        "-3\r\nabc\r\n0\r\n\r\n",
        "+3\r\nabc\r\n0\r\n\r\n",
        "0x3\r\nabc\r\n0\r\n\r\n",
        "\r\nabc\r\n0\r\n\r\n",
        "fffffffffffffffff\r\nabc\r\n0\r\n\r\n",
        "3\r\nabcd\r\n0\r\n\r\n",
        "3\r\nabc0\r\n\r\n",
        "3\rabc\r\n0\r\n\r\n",
        "3 3\r\nabc\r\n0\r\n\r\n",
        "3\r\nabc\r\n0\r\nX: a\r\n b: c\r\n\0\r\n\r\n",
    ];
    for chunks in bad {
        let verdict = judge(&gateway, &recorder, &post("Transfer-Encoding: chunked", chunks));
        assert!(verdict.closed && verdict.requests.is_empty(), "{chunks:?}: {verdict:?}");
        assert!(matches!(verdict.statuses[..], [] | [400 | 502]), "{chunks:?}: {verdict:?}");
    }
    // And what is odd but allowed is one body.
    for chunks in ["003\r\nabc\r\n000\r\n\r\n", "3;a=b;c=\"d\"\r\nabc\r\n0\r\n\r\n", "1\r\na\r\n2\r\nbc\r\n0\r\n\r\n"] {
        let verdict = judge(&gateway, &recorder, &post("Transfer-Encoding: chunked", chunks));
        assert_eq!((verdict.statuses.as_slice(), verdict.requests.len()), ([200, 200].as_slice(), 2), "{chunks:?}");
        assert_eq!(latin1(&verdict.requests[0].body.bytes), "abc");
    }
}

#[test]
fn a_body_that_looks_like_a_request_stays_a_body() {
    let recorder = Recorder::start();
    let gateway = Gateway::start(&recorder);
    let inner = "GET /inner HTTP/1.1\r\nHost: h\r\n\r\n";
    let chunked = format!("{:x}\r\n{inner}\r\n0\r\n\r\n", inner.len());
    for bytes in [
        post(&format!("Content-Length: {}", inner.len()), inner),
        post("Transfer-Encoding: chunked", &chunked),
        get(&format!("Content-Length: {}", inner.len())).into_iter().chain(inner.bytes()).collect(),
    ] {
        let verdict = judge(&gateway, &recorder, &bytes);
        assert_eq!(verdict.statuses, [200, 200]);
        let targets: Vec<_> = verdict.requests.iter().map(|it| it.head.line.split(' ').nth(1).unwrap()).collect();
        assert_eq!(targets, ["/x", "/behind"]);
        assert_eq!(latin1(&verdict.requests[0].body.bytes), inner);
    }
}
