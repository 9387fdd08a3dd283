//! No spelling of a start that real uvicorn runs slips past the gateway as something else.
//!
//! Every spelling goes to uvicorn itself, which says what it takes for a start, and through the gateway: what legacy ran
//! as a start there must carry the gateway's `X-Export-Backend`, and be counted as a start.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use crate::support::client::{Connection, Response, overlay};
use crate::support::gateway::{Gateway, set};
use crate::support::parts::shared;
use crate::support::wire::{ReadError, latin1};

const START: &str = "/api/export/overlay/start";

/// Targets that might be read as the path of a start.
fn targets() -> BTreeSet<Vec<u8>> {
    let mut targets = BTreeSet::new();
    let mut add = |target: &str| {
        targets.insert(target.as_bytes().to_vec());
    };
    add(START);
    for (at, byte) in START.bytes().enumerate() {
        let (before, after) = (&START[..at], &START[at + 1..]);
        for escape in
            [format!("%{byte:02x}"), format!("%{byte:02X}"), format!("%25{byte:02x}"), format!("%u00{byte:02x}")]
        {
            add(&format!("{before}{escape}{after}"));
        }
        let upper = char::from(byte).to_ascii_uppercase();
        add(&format!("{before}{upper}{after}"));
        if byte == b'/' {
            for other in [
                "//",
                "/./",
                "/%2e/",
                "/x/../",
                "/%2e%2e/",
                "\\",
                "%5c",
                "%5C",
                "/;/",
                "/%00/",
                "%c0%af",
                "%ef%bc%8f",
                "/%20",
                "%2f%2f",
            ] {
                add(&format!("{before}{other}{after}"));
            }
        }
    }
    let all: String = START.bytes().map(|byte| format!("%{byte:02x}")).collect();
    let letters: String =
        START.bytes().map(|byte| if byte == b'/' { "/".into() } else { format!("%{byte:02X}") }).collect();
    for target in [all.as_str(), letters.as_str()] {
        add(target);
    }
    for tail in [
        "?",
        "?a",
        "?a=b&c",
        "??",
        "?#",
        "#",
        "#a",
        "/",
        "//",
        "/.",
        "/..",
        "/x/..",
        ";",
        ";a=b",
        "%3b",
        "%3f",
        "%3Fa",
        "%23",
        "%20",
        "%09",
        "%0a",
        "%0d",
        "%0d%0a",
        "%00",
        "%",
        "%2",
        "%zz",
        "%c3%a9",
        "%ff",
        ".",
        "..",
        "%2e",
        "%7f",
        "\\",
        "%5c",
        "&",
        "=",
        "*",
        "+",
        "%2B",
        ",",
        "?/../x",
        "/?",
        "%2f",
        "/%2e",
        "%0a%0a",
        "%0b",
        "%85",
        "%e2%80%a8",
    ] {
        add(&format!("{START}{tail}"));
    }
    for head in [
        "/",
        "/.",
        "/..",
        "/x/..",
        "//h",
        "/%2e",
        "/%2e%2e",
        "/;",
        "/%00",
        "/%0a",
        ".",
        "",
        "http://h",
        "http://h/",
        "http://h/.",
        "HTTP://H",
        "http://h:80",
        "https://h",
        "h",
    ] {
        add(&format!("{head}{START}"));
    }
    for pieces in [
        "/api/export/overlay/%73tart",
        "/api/export/ov%65rlay/sta%72t",
        "/%61%70%69/export/overlay/start",
        "/api/export/overlay\t/start",
        "/api/export/overlay/start\u{1}",
        "/api/export/\u{ff4f}verlay/start",
        "/api/export/o\u{301}verlay/start",
        "/api/export/overlay/st%61rt?x=%2f",
    ] {
        add(pieces);
    }
    targets
}

fn request(method: &str, target: &[u8], version: &str, user: &str, framing: Framing) -> Vec<u8> {
    let body = overlay(12).to_string();
    let (field, body) = match framing {
        Framing::Length => (format!("Content-Length: {}", body.len()), body),
        Framing::Chunks => {
            ("Transfer-Encoding: chunked".to_owned(), format!("{:x};a=b\r\n{body}\r\n0\r\n\r\n", body.len()))
        }
    };
    let head = format!(
        " {version}\r\nHost: h\r\nX-User-Id: {user}\r\nContent-Type: application/json\r\nConnection: close\r\n{field}\r\n\r\n"
    );
    [method.as_bytes(), b" ", target, head.as_bytes(), body.as_bytes()].concat()
}

#[derive(Debug, Clone, Copy)]
enum Framing {
    Length,
    Chunks,
}

fn ask(addr: SocketAddr, bytes: &[u8]) -> Result<Response, ReadError> {
    let mut connection = Connection::open(addr);
    connection.send(bytes);
    connection.read("POST")
}

/// A start was run: there is a job.
fn ran(answer: &Result<Response, ReadError>) -> bool {
    answer.as_ref().is_ok_and(|answer| {
        let json: Option<serde_json::Value> = serde_json::from_slice(&answer.body.bytes).ok();
        answer.status == 200 && json.is_some_and(|json| json["job_id"].is_string())
    })
}

#[test]
fn no_spelling_that_uvicorn_runs_as_a_start_slips_past() {
    let parts = shared();
    let user = parts.user();
    let gateway = Gateway::with(parts, |table| set(table, "rollout.percent", 0));
    let (mut direct, mut through, mut refused, mut slipped, mut asked) = (0, 0, 0, Vec::new(), 0);
    let mut cases: Vec<(&str, Vec<u8>, &str, Framing)> =
        targets().into_iter().map(|target| ("POST", target, "HTTP/1.1", Framing::Length)).collect();
    for method in ["post", "Post", "PUT", "GET", "HEAD", "PATCH", "POST\t", "POSTS", "QUERY"] {
        cases.push((method, START.into(), "HTTP/1.1", Framing::Length));
    }
    cases.push(("POST", START.into(), "HTTP/1.0", Framing::Length));
    cases.push(("POST", START.into(), "HTTP/1.1", Framing::Chunks));
    cases.push(("POST", b"/api/export/%6fverlay/start".to_vec(), "HTTP/1.1", Framing::Chunks));
    for (method, target, version, framing) in cases {
        let bytes = request(method, &target, version, &user, framing);
        asked += 1;
        let runs = ran(&ask(parts.legacy.addr(), &bytes));
        direct += usize::from(runs);
        let before = parts.legacy.jobs_of(&user).len();
        let answer = ask(gateway.addr(), &bytes);
        let started = parts.legacy.jobs_of(&user).len() - before;
        let marked = answer.as_ref().is_ok_and(|it| it.header("x-export-backend") == Some("legacy"));
        match started {
            0 if runs => {
                let status = answer.as_ref().map(|it| it.status).unwrap_or_default();
                assert!(status == 400, "{:?} runs at uvicorn, but got {answer:?}", latin1(&target));
                refused += 1;
            }
            0 => {}
            1 if marked => through += 1,
            _ => slipped.push(format!("{method} {:?} {version}: {started} jobs, {answer:?}", latin1(&target))),
        }
    }
    println!(
        "| spellings | run by uvicorn itself | seen as a start | refused | slipped past |\n| --- | --- | --- | --- | --- |\n\
         | {asked} | {direct} | {through} | {refused} | {} |",
        slipped.len()
    );
    assert!(slipped.is_empty(), "{}", slipped.join("\n"));
    // The check can fail only if uvicorn does read escapes.
    assert!(direct > 50 && through > 30, "{direct} run by uvicorn, {through} through the gateway");
    assert_eq!(gateway.metric("export_gateway_starts_total", &[("outcome", "accepted")]), f64::from(through));
}
