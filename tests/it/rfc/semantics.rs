//! RFC 9110 and our own rules: expectations, identity, request ids, and odd paths under the export routes.

use super::judge::{Case, Expect, Section, get, hold, lines, post};

pub(crate) fn sections() -> Vec<Section> {
    vec![
        ("RFC 9110 10.1.1 Expect", expectations()),
        ("identity is one plain value", identity()),
        ("request ids", request_ids()),
        ("odd paths under the export routes", odd_paths()),
    ]
}

/// What only this gateway promises: no peer is asked for it.
pub(crate) fn is_ours(section: &str) -> bool {
    !section.starts_with("RFC 9110 10.1.1")
}

fn expectations() -> Vec<Case> {
    let mut cases = Vec::new();
    for bad in [
        "200-ok",
        "100-continue, x",
        "100-continue2",
        "x",
        "100 continue",
        "100-continue;a",
        "100-continue, 100-continue",
        "",
    ] {
        cases.push(Case::new(get(&format!("Expect: {bad}")), Expect::Status(417)));
    }
    for good in ["100-continue", "100-Continue", "\t100-CONTINUE "] {
        cases.push(Case::accept(get(&format!("Expect: {good}"))).body(""));
    }
    cases.push(Case::last(lines("GET /x HTTP/1.0\nHost: h\nExpect: 100-continue\n\n")));
    cases
}

fn identity() -> Vec<Case> {
    let mut cases = Vec::new();
    for bad in [
        "X-User-Id: a\nX-User-Id: b",
        "X-User-Id: a\nx-user-id: a",
        "X-User-Id: a,b",
        "X-User-Id: a, b",
        "X-User-Id: ,",
        "X-User-Id: a\tb",
        "X-User-Id: a\nX-User-Id:",
        "x-user-id: maya\nX: a\nX-USER-ID: mallory",
    ] {
        cases.push(Case::new(get(bad), Expect::Status(400)));
    }
    for spelled in ["X_User_Id: mallory", "x-user_id: mallory", "X_User-Id: mallory"] {
        let name = spelled.split(':').next().unwrap_or_default();
        cases.push(
            Case::accept(get(&format!("X-User-Id: maya\n{spelled}"))).field(name, &[]).field("x-user-id", &["maya"]),
        );
    }
    for good in ["maya", "m\u{fc}ller", "a.b@c", "1"] {
        let bytes = lines(&format!("GET /x HTTP/1.1\nHost: h\nX-User-Id: {good}\n\n"));
        cases.push(Case::accept(bytes));
    }
    cases.push(Case::refuse(post("Trailer: X-User-Id\nTransfer-Encoding: chunked", "0\r\nX-User-Id: m\r\n\r\n")));
    cases.push(Case::refuse(post("Trailer: a, x_user_id\nTransfer-Encoding: chunked", "0\r\n\r\n")));
    for name in
        ["X-Forwarded-For", "x_forwarded_host", "Forwarded", "Cookie", "Idempotency-Key", "Connection", "Upgrade"]
    {
        let (head, body) =
            (format!("Trailer: X-A, {name}\nTransfer-Encoding: chunked"), format!("0\r\n{name}: 6\r\n\r\n"));
        cases.push(Case::refuse(post(&head, &body)));
    }
    cases
}

fn request_ids() -> Vec<Case> {
    let long = "i".repeat(128);
    let mut cases: Vec<_> = ["a", "A-1_.~!", long.as_str()]
        .iter()
        .map(|id| Case::accept(get(&format!("X-Request-Id: {id}"))).field("x-request-id", &[id]))
        .collect();
    cases.push(Case::accept(get("X-Request-Id: a b")));
    cases.push(Case::accept(get("X-Request-Id: a\nX-Request-Id: b")));
    cases
}

fn odd_paths() -> Vec<Case> {
    let paths = [
        "/api/export/overlay%2Fstart",
        "/api/export/overlay%2fstart",
        "/api%2Fexport/overlay/start",
        "/api/export/overlay/start%00",
        "/api/export/overlay/start%0a",
        "/api/export/overlay/start%0D%0A",
        "/api/export/%5Cstart",
        "/api/export/overlay\\start",
        "/api/export/../export/overlay/start",
        "/api/export/./overlay/start",
        "/api/export/%2e%2e/x",
        "/api/export/.%2E/x",
        "/api/export/overlay/start%7f",
        "/api/jobs/../export/overlay/start",
        "/api/jobs/abc%2Fws",
        "/api/jobs/%2e%2e/ws",
        "/%61pi/expor%74/%2e/x",
        "/api/jobs/a%1Fb/ws",
        "/api/export/%09",
        "/api/export/x/%5c..%5cy",
        "/api/jobs/%00/ws",
    ];
    let mut cases = Vec::new();
    for path in paths {
        for method in ["POST", "GET", "DELETE"] {
            cases.push(Case::new(lines(&format!("{method} {path} HTTP/1.1\nHost: h\n\n")), Expect::Status(400)));
        }
    }
    cases
}

#[test]
fn semantics_hold() {
    hold(sections());
}
