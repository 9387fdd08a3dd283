//! HTTP/2 that breaks its rules, section by section of RFC 9113: what the client hears, and what a backend sees.

use std::time::{Duration, Instant};

use crate::support::backend::Recorder;
use crate::support::client::get as get_plain;
use crate::support::gateway::set;
use crate::support::h2_frames::{
    CONTINUATION, Client, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PADDED, PING, PRIORITY, PUSH_PROMISE,
    RST_STREAM, SETTINGS, Verdict, WINDOW_UPDATE, away, block, frame, get, post, settings,
};
use crate::support::{eventually, within};
use crate::tls_in::Secure;

mod floods;

impl Secure {
    fn frames(&self) -> Client {
        Client::open(&self.trust(&["h2"]), self.gateway.addr())
    }
}

/// What may become of a case: the client's side.
#[derive(Debug, Clone, Copy)]
enum Hears {
    /// An answer of the backend.
    Ok,
    /// A refusal with this status.
    Status(u16),
    /// The stream is reset, or the connection ended, as an error.
    Error,
    /// Any refusal: an answer from 400 on, a reset, or the connection's end as an error.
    Refused,
}

impl Hears {
    fn fits(self, verdict: Verdict) -> bool {
        match (self, verdict) {
            (Hears::Ok, Verdict::Answer(200)) => true,
            (Hears::Status(wanted), Verdict::Answer(status)) => status == wanted,
            (Hears::Error | Hears::Refused, Verdict::Reset(code) | Verdict::Away(code)) => code != 0,
            (Hears::Refused, Verdict::Answer(status)) => status >= 400,
            _ => false,
        }
    }
}

type Play = fn(&mut Client);

/// Section, what is sent, what the client hears of stream 1, and how many requests a backend sees.
type Case = (&'static str, &'static str, Play, Hears, usize);

fn with(
    mut fields: Vec<(&'static str, &'static str)>,
    more: &[(&'static str, &'static str)],
) -> Vec<(&'static str, &'static str)> {
    fields.extend_from_slice(more);
    fields
}

fn without(name: &str) -> Vec<(&'static str, &'static str)> {
    get("/").into_iter().filter(|(have, _)| *have != name).collect()
}

fn instead(name: &'static str, value: &'static str) -> Vec<(&'static str, &'static str)> {
    get("/").into_iter().map(|field| if field.0 == name { (name, value) } else { field }).collect()
}

fn only(fields: &[(&str, &str)], client: &mut Client) {
    client.request(1, fields, END_STREAM);
}

/// Frames: sections 4 to 6.
const FRAMES: &[Case] = &[
    (
        "4.1",
        "a type that nobody knows is passed over",
        |c| {
            c.send(0xbb, 0xff, 0, b"what is this");
            only(&get("/"), c);
        },
        Hears::Ok,
        1,
    ),
    (
        "4.2",
        "a frame larger than SETTINGS_MAX_FRAME_SIZE",
        |c| {
            c.request(1, &post("/"), 0);
            c.send(DATA, END_STREAM, 1, &vec![0; 16_385]);
        },
        Hears::Error,
        1,
    ),
    (
        "4.3",
        "a field block that cannot be unpacked",
        |c| {
            c.send(HEADERS, END_HEADERS | END_STREAM, 1, &[0x80, 0xff, 0xff]);
        },
        Hears::Error,
        0,
    ),
    (
        "4.3",
        "an index beyond both tables",
        |c| {
            c.send(HEADERS, END_HEADERS | END_STREAM, 1, &[0xff, 0x7f]);
        },
        Hears::Error,
        0,
    ),
    (
        "4.3",
        "a frame of another stream amid a field block",
        |c| {
            c.send(HEADERS, END_STREAM, 1, &block(&get("/")));
            c.request(3, &get("/"), END_STREAM);
        },
        Hears::Error,
        0,
    ),
    ("5.1", "DATA on a stream that was never opened", |c| c.send(DATA, END_STREAM, 1, b"x"), Hears::Error, 0),
    (
        "5.1",
        "RST_STREAM on a stream that was never opened",
        |c| {
            c.send(RST_STREAM, 0, 1, &8_u32.to_be_bytes());
        },
        Hears::Error,
        0,
    ),
    (
        "5.1",
        "WINDOW_UPDATE on a stream that was never opened",
        |c| {
            c.send(WINDOW_UPDATE, 0, 1, &1_u32.to_be_bytes());
        },
        Hears::Error,
        0,
    ),
    (
        "5.1.1",
        "a stream with an even number",
        |c| {
            c.request(2, &get("/"), END_STREAM);
        },
        Hears::Error,
        0,
    ),
    (
        "5.1.1",
        "a stream with a lower number than one before",
        |c| {
            c.request(5, &get("/five"), END_STREAM);
            assert_eq!(c.verdict(5), Verdict::Answer(200));
            c.request(1, &get("/one"), END_STREAM);
        },
        Hears::Error,
        1,
    ),
    (
        "5.3.1",
        "a stream that depends on itself in PRIORITY",
        |c| {
            c.send(PRIORITY, 0, 1, &[0, 0, 0, 1, 16]);
            only(&get("/"), c);
        },
        Hears::Error,
        0,
    ),
    ("6.1", "DATA on stream 0", |c| c.send(DATA, 0, 0, b"x"), Hears::Error, 0),
    (
        "6.1",
        "more padding than there is frame",
        |c| {
            c.request(1, &post("/"), 0);
            c.send(DATA, PADDED | END_STREAM, 1, &[9, b'a']);
        },
        Hears::Error,
        1,
    ),
    (
        "6.2",
        "HEADERS on stream 0",
        |c| c.send(HEADERS, END_HEADERS | END_STREAM, 0, &block(&get("/"))),
        Hears::Error,
        0,
    ),
    (
        "6.2",
        "padded HEADERS",
        |c| {
            let padded = [&[3][..], &block(&get("/")), &[0, 0, 0]].concat();
            c.send(HEADERS, PADDED | END_HEADERS | END_STREAM, 1, &padded);
        },
        Hears::Ok,
        1,
    ),
    (
        "6.3",
        "PRIORITY of the wrong length",
        |c| {
            c.send(PRIORITY, 0, 1, &[0, 0, 0]);
            only(&get("/"), c);
        },
        Hears::Error,
        0,
    ),
    (
        "6.4",
        "RST_STREAM of the wrong length",
        |c| {
            c.request(1, &post("/"), 0);
            c.send(RST_STREAM, 0, 1, &[0, 0, 8]);
        },
        Hears::Error,
        1,
    ),
    ("6.5", "SETTINGS on a stream", |c| c.send(SETTINGS, 0, 1, &[]), Hears::Error, 0),
    ("6.5", "SETTINGS of a length that is no multiple of 6", |c| c.send(SETTINGS, 0, 0, &[0, 1, 2]), Hears::Error, 0),
    ("6.5", "an ACK with content", |c| c.send(SETTINGS, 1, 0, &settings(&[(1, 0)])), Hears::Error, 0),
    ("6.5.2", "SETTINGS_ENABLE_PUSH of 2", |c| c.send(SETTINGS, 0, 0, &settings(&[(2, 2)])), Hears::Error, 0),
    ("6.5.2", "a window above 2^31-1", |c| c.send(SETTINGS, 0, 0, &settings(&[(4, 1 << 31)])), Hears::Error, 0),
    ("6.5.2", "a frame size below 2^14", |c| c.send(SETTINGS, 0, 0, &settings(&[(5, 100)])), Hears::Error, 0),
    (
        "6.5.2",
        "a setting that nobody knows is passed over",
        |c| {
            c.send(SETTINGS, 0, 0, &settings(&[(0xffff, 1)]));
            only(&get("/"), c);
        },
        Hears::Ok,
        1,
    ),
    (
        "6.6",
        "PUSH_PROMISE of a client",
        |c| {
            c.request(1, &post("/"), 0);
            c.send(PUSH_PROMISE, END_HEADERS, 1, &[&[0, 0, 0, 2][..], &block(&get("/"))].concat());
        },
        Hears::Error,
        1,
    ),
    ("6.7", "PING of the wrong length", |c| c.send(PING, 0, 0, b"short"), Hears::Error, 0),
    ("6.7", "PING on a stream", |c| c.send(PING, 0, 1, b"eight by"), Hears::Error, 0),
    ("6.8", "GOAWAY on a stream", |c| c.send(GOAWAY, 0, 1, &away(0, 0)), Hears::Error, 0),
    ("6.9", "WINDOW_UPDATE of 0 on the connection", |c| c.send(WINDOW_UPDATE, 0, 0, &[0; 4]), Hears::Error, 0),
    (
        "6.9",
        "WINDOW_UPDATE of 0 on a stream",
        |c| {
            c.request(1, &post("/"), 0);
            c.send(WINDOW_UPDATE, 0, 1, &[0; 4]);
        },
        Hears::Error,
        1,
    ),
    (
        "6.9.1",
        "a window of the connection above 2^31-1",
        |c| {
            for _ in 0..2 {
                c.send(WINDOW_UPDATE, 0, 0, &0x7fff_ffff_u32.to_be_bytes());
            }
        },
        Hears::Error,
        0,
    ),
    (
        "6.9.1",
        "more DATA than the window",
        |c| {
            c.request(1, &post("/"), 0);
            for _ in 0..80 {
                c.send(DATA, 0, 1, &[0; 16_384]);
            }
        },
        Hears::Error,
        1,
    ),
    (
        "6.10",
        "CONTINUATION after a whole field block",
        |c| {
            c.request(1, &post("/"), 0);
            c.send(CONTINUATION, END_HEADERS, 1, &block(&[("x-late", "1")]));
        },
        Hears::Error,
        1,
    ),
    (
        "6.10",
        "a field block in three frames",
        |c| {
            let block = block(&get("/"));
            c.send(HEADERS, END_STREAM, 1, &block[..3]);
            c.send(CONTINUATION, 0, 1, &block[3..9]);
            c.send(CONTINUATION, END_HEADERS, 1, &block[9..]);
        },
        Hears::Ok,
        1,
    ),
];

/// Messages: section 8, and what is made of them for HTTP/1.1.
const MESSAGES: &[Case] = &[
    (
        "8.1",
        "a second block of fields that does not end the stream",
        |c| {
            c.request(1, &post("/"), 0);
            c.send(HEADERS, END_HEADERS, 1, &block(&[("x-trailer", "1")]));
        },
        Hears::Error,
        1,
    ),
    (
        "8.1",
        "pseudo-header fields behind the body stay behind",
        |c| {
            c.request(1, &post("/"), 0);
            c.send(HEADERS, END_HEADERS | END_STREAM, 1, &block(&[(":path", "/other")]));
        },
        Hears::Ok,
        1,
    ),
    (
        "8.1.1",
        "less body than Content-Length",
        |c| {
            c.request(1, &with(post("/"), &[("content-length", "9")]), 0);
            c.send(DATA, END_STREAM, 1, b"short");
        },
        Hears::Refused,
        1,
    ),
    (
        "8.1.1",
        "more body than Content-Length",
        |c| {
            c.request(1, &with(post("/"), &[("content-length", "1")]), 0);
            c.send(DATA, END_STREAM, 1, b"POST /smuggled HTTP/1.1\r\nHost: h\r\n\r\n");
        },
        Hears::Refused,
        1,
    ),
    (
        "8.1.1",
        "Content-Length without a body",
        |c| only(&with(post("/"), &[("content-length", "5")]), c),
        Hears::Refused,
        0,
    ),
    (
        "8.1.1",
        "Content-Length twice, the same",
        |c| {
            c.request(1, &with(post("/"), &[("content-length", "1"), ("content-length", "1")]), 0);
            c.send(DATA, END_STREAM, 1, b"a");
        },
        Hears::Refused,
        0,
    ),
    (
        "8.1.1",
        "Content-Length twice, different",
        |c| {
            c.request(1, &with(post("/"), &[("content-length", "1"), ("content-length", "2")]), 0);
            c.send(DATA, END_STREAM, 1, b"a");
        },
        Hears::Refused,
        0,
    ),
    (
        "8.1.1",
        "Content-Length: +1",
        |c| {
            c.request(1, &with(post("/"), &[("content-length", "+1")]), 0);
            c.send(DATA, END_STREAM, 1, b"a");
        },
        Hears::Refused,
        0,
    ),
    (
        "8.1.1",
        "Content-Length: 1, 1",
        |c| {
            c.request(1, &with(post("/"), &[("content-length", "1, 1")]), 0);
            c.send(DATA, END_STREAM, 1, b"a");
        },
        Hears::Refused,
        0,
    ),
    (
        "8.1.1",
        "an empty Content-Length",
        |c| {
            c.request(1, &with(post("/"), &[("content-length", "")]), 0);
            c.send(DATA, END_STREAM, 1, b"a");
        },
        Hears::Refused,
        0,
    ),
    ("8.2", "a name in capitals", |c| only(&with(get("/"), &[("X-Upper", "1")]), c), Hears::Error, 0),
    ("8.2.1", "a name with a space", |c| only(&with(get("/"), &[("x y", "1")]), c), Hears::Refused, 0),
    ("8.2.1", "a name with a colon", |c| only(&with(get("/"), &[("x:y", "1")]), c), Hears::Refused, 0),
    ("8.2.1", "a name with a line break", |c| only(&with(get("/"), &[("x\r\ny", "1")]), c), Hears::Refused, 0),
    ("8.2.1", "an empty name", |c| only(&with(get("/"), &[("", "1")]), c), Hears::Refused, 0),
    (
        "8.2.1",
        "CR LF in a value",
        |c| {
            only(&with(get("/"), &[("x-a", "1\r\nx-user-id: mallory")]), c);
        },
        Hears::Refused,
        0,
    ),
    ("8.2.1", "LF in a value", |c| only(&with(get("/"), &[("x-a", "1\nx-b: 2")]), c), Hears::Refused, 0),
    ("8.2.1", "CR in a value", |c| only(&with(get("/"), &[("x-a", "1\rx-b: 2")]), c), Hears::Refused, 0),
    ("8.2.1", "NUL in a value", |c| only(&with(get("/"), &[("x-a", "1\0")]), c), Hears::Refused, 0),
    (
        "8.2.1",
        "a value that begins with a space",
        |c| only(&with(get("/"), &[("x-a", " 1")]), c),
        Hears::Status(400),
        0,
    ),
    ("8.2.1", "a value that ends with a tab", |c| only(&with(get("/"), &[("x-a", "1\t")]), c), Hears::Status(400), 0),
    ("8.2.2", "Connection", |c| only(&with(get("/"), &[("connection", "x-user-id")]), c), Hears::Refused, 0),
    ("8.2.2", "Keep-Alive", |c| only(&with(get("/"), &[("keep-alive", "5")]), c), Hears::Refused, 0),
    ("8.2.2", "Proxy-Connection", |c| only(&with(get("/"), &[("proxy-connection", "close")]), c), Hears::Refused, 0),
    (
        "8.2.2",
        "Transfer-Encoding: chunked",
        |c| {
            c.request(1, &with(post("/"), &[("transfer-encoding", "chunked")]), 0);
            c.send(DATA, END_STREAM, 1, b"0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n");
        },
        Hears::Refused,
        0,
    ),
    ("8.2.2", "Upgrade: h2c", |c| only(&with(get("/"), &[("upgrade", "h2c")]), c), Hears::Refused, 0),
    ("8.2.2", "Upgrade: websocket", |c| only(&with(get("/"), &[("upgrade", "websocket")]), c), Hears::Refused, 0),
    ("8.2.2", "TE: gzip", |c| only(&with(get("/"), &[("te", "gzip")]), c), Hears::Refused, 0),
    ("8.2.2", "TE: trailers, gzip", |c| only(&with(get("/"), &[("te", "trailers, gzip")]), c), Hears::Refused, 0),
    ("8.2.2", "TE: trailers", |c| only(&with(get("/"), &[("te", "trailers")]), c), Hears::Ok, 1),
    ("8.3", "a pseudo-header field that nobody knows", |c| only(&with(get("/"), &[(":x", "1")]), c), Hears::Refused, 0),
    (
        "8.3",
        "a pseudo-header field of answers",
        |c| {
            c.request(1, &[&[(":status", "200")], &get("/")[..]].concat(), END_STREAM);
        },
        Hears::Refused,
        0,
    ),
    (
        "8.3",
        "a pseudo-header field behind a plain one",
        |c| {
            c.request(1, &[&[("x-a", "1")], &get("/")[..]].concat(), END_STREAM);
        },
        Hears::Refused,
        0,
    ),
    ("8.3.1", "no :method", |c| only(&without(":method"), c), Hears::Refused, 0),
    ("8.3.1", "no :scheme", |c| only(&without(":scheme"), c), Hears::Refused, 0),
    ("8.3.1", "no :path", |c| only(&without(":path"), c), Hears::Refused, 0),
    ("8.3.1", "an empty :path", |c| only(&instead(":path", ""), c), Hears::Refused, 0),
    ("8.3.1", ":path twice", |c| only(&[&get("/")[..], &[(":path", "/b")]].concat(), c), Hears::Refused, 0),
    ("8.3.1", ":method twice", |c| only(&[&get("/")[..], &[(":method", "PUT")]].concat(), c), Hears::Refused, 0),
    ("8.3.1", ":authority twice", |c| only(&[&get("/")[..], &[(":authority", "b")]].concat(), c), Hears::Refused, 0),
    ("8.3.1", "a :method with a space", |c| only(&instead(":method", "GET /x HTTP/1.1\r\nA: b"), c), Hears::Refused, 0),
    ("8.3.1", "a :path with a space", |c| only(&instead(":path", "/a HTTP/1.1\r\nX: y"), c), Hears::Refused, 0),
    ("8.3.1", "a :path that is no path", |c| only(&instead(":path", "a"), c), Hears::Refused, 0),
    ("8.3.1", "a :path that is a URL", |c| only(&instead(":path", "http://other/"), c), Hears::Refused, 0),
    ("8.3.1", ":path * for GET", |c| only(&instead(":path", "*"), c), Hears::Refused, 0),
    ("8.3.1", "a :scheme that is not the web's", |c| only(&instead(":scheme", "ftp"), c), Hears::Refused, 0),
    ("8.3.1", "a :scheme with a line break", |c| only(&instead(":scheme", "https\r\nx: y"), c), Hears::Refused, 0),
    ("8.3.1", "an :authority with a user", |c| only(&instead(":authority", "me@localhost"), c), Hears::Refused, 0),
    ("8.3.1", "an :authority with a path", |c| only(&instead(":authority", "localhost/a"), c), Hears::Refused, 0),
    ("8.3.1", "an :authority with a line break", |c| only(&instead(":authority", "h\r\nx: y"), c), Hears::Refused, 0),
    ("8.3.1", "an empty :authority", |c| only(&instead(":authority", ""), c), Hears::Refused, 0),
    ("8.3.1", "neither :authority nor Host", |c| only(&without(":authority"), c), Hears::Refused, 0),
    (
        "8.3.1",
        "Host instead of :authority",
        |c| {
            only(&with(without(":authority"), &[("host", "localhost")]), c);
        },
        Hears::Ok,
        1,
    ),
    ("8.3.1", "Host beside the same :authority", |c| only(&with(get("/"), &[("host", "LOCALHOST")]), c), Hears::Ok, 1),
    (
        "8.3.1",
        "Host beside another :authority",
        |c| only(&with(get("/"), &[("host", "other")]), c),
        Hears::Status(400),
        0,
    ),
    (
        "8.3.1",
        "Host twice",
        |c| only(&with(without(":authority"), &[("host", "a"), ("host", "a")]), c),
        Hears::Status(400),
        0,
    ),
    (
        "8.5",
        "CONNECT",
        |c| {
            c.request(1, &[(":method", "CONNECT"), (":authority", "localhost:22")], 0);
        },
        Hears::Refused,
        0,
    ),
    (
        "8.5",
        "extended CONNECT, which was not offered",
        |c| {
            c.request(1, &[&[(":protocol", "websocket")], &instead(":method", "CONNECT")[..]].concat(), 0);
        },
        Hears::Refused,
        0,
    ),
    ("9110, 9.3.8", "TRACE", |c| only(&instead(":method", "TRACE"), c), Hears::Status(501), 0),
];

/// What the gateway's own rules say of a request, whichever HTTP it came in.
const RULES: &[Case] = &[
    (
        "own",
        "an identity twice",
        |c| only(&with(get("/"), &[("x-user-id", "a"), ("x-user-id", "b")]), c),
        Hears::Status(400),
        0,
    ),
    ("own", "an escaped slash on an export route", |c| only(&get("/api/export/a%2Fb/start"), c), Hears::Status(400), 0),
    (
        "own",
        "an expectation that is not 100-continue",
        |c| only(&with(get("/"), &[("expect", "x")]), c),
        Hears::Status(417),
        0,
    ),
    (
        "own",
        "Trailer names the identity",
        |c| {
            c.request(1, &with(post("/"), &[("trailer", "x-user-id")]), 0);
            c.send(HEADERS, END_HEADERS | END_STREAM, 1, &block(&[("x-user-id", "mallory")]));
        },
        Hears::Status(400),
        0,
    ),
    (
        "own",
        "a target over its limit",
        |c| {
            let path = format!("/{}", "a".repeat(9_000));
            c.request(1, &[&without(":path")[..], &[(":path", &path)]].concat(), END_STREAM);
        },
        Hears::Status(414),
        0,
    ),
    (
        "own",
        "101 fields",
        |c| {
            let names: Vec<String> = (0..101).map(|number| format!("x-{number}")).collect();
            let more: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "1")).collect();
            c.request(1, &[&get("/")[..], &more].concat(), END_STREAM);
        },
        Hears::Status(431),
        0,
    ),
    (
        "own",
        "fields over their limit",
        |c| {
            let value = "a".repeat(3_000);
            let more = [("x-a", value.as_str()); 12];
            let block = block(&[&get("/")[..], &more].concat());
            let (first, rest) = block.split_at(16_000);
            c.send(HEADERS, END_STREAM, 1, first);
            for (at, piece) in rest.chunks(16_000).enumerate() {
                let is_last = (at + 1) * 16_000 >= rest.len();
                c.send(CONTINUATION, if is_last { END_HEADERS } else { 0 }, 1, piece);
            }
        },
        Hears::Status(431),
        0,
    ),
];

#[test]
fn frames_that_break_the_rules() {
    play(FRAMES);
}

#[test]
fn messages_that_break_the_rules() {
    play(MESSAGES);
}

#[test]
fn the_gateways_own_rules_hold_too() {
    play(RULES);
}

/// Plays each case on a connection of its own, and then a good request on another.
fn play(cases: &[Case]) {
    let recorder = Recorder::start();
    let secure = Secure::start(&recorder, |_, _| {});
    let mut wrong = Vec::new();
    for (section, what, play, hears, requests) in cases {
        recorder.forget();
        let mut client = secure.frames();
        play(&mut client);
        let stream = if what.contains("even number") { 2 } else { 1 };
        let verdict = client.verdict(stream);
        if !hears.fits(verdict) {
            wrong.push(format!("{section} {what}: {verdict:?}, not {hears:?}"));
        }
        // A body that broke off is no request that a backend could read; nothing may be there beside it.
        let (whole, strays) = (recorder.requests(), recorder.strays());
        if whole.len() > *requests || whole.iter().any(|it| it.head.line.contains("smuggled")) {
            wrong.push(format!("{section} {what}: the backend saw {whole:?} and {strays} others"));
        }
        if matches!(hears, Hears::Ok) && whole.len() != *requests {
            wrong.push(format!("{section} {what}: the backend saw {} requests", whole.len()));
        }
        for request in &whole {
            assert!(
                request.all("host").len() == 1 && request.all("connection").iter().all(|it| *it == "TE"),
                "{request:?}"
            );
        }
        println!("{section:<12} {what:<58} {verdict:?}");
        let mut healthy = secure.frames();
        healthy.request(1, &get("/healthy"), END_STREAM);
        assert_eq!(healthy.verdict(1), Verdict::Answer(200), "after {what}");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    println!("{} cases", cases.len());
}
