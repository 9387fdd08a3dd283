//! Hosts and targets: what could name two places, or one place in two ways, goes nowhere.

use crate::refuse::{judge, lines, refused};
use crate::support::backend::Recorder;
use crate::support::client::{Request, send};
use crate::support::gateway::Gateway;

#[test]
fn a_host_is_one_and_a_host() {
    let mut cases = vec![lines("GET /x HTTP/1.1\n\n"), lines("GET /x HTTP/1.1\nX-Forwarded-Host: h\n\n")];
    for bad in [
        "a b",
        "a/b",
        "a@b",
        "",
        "a,b",
        "a?b",
        "a#b",
        "h\nHost: h",
        "h\nhost: g",
        "h:abc",
        "h:80:80",
        "[::1",
        "::1]",
        "h:-1",
        "<h>",
        "h\\x",
        "h\"",
        "[]",
        ":80",
    ] {
        cases.push(lines(&format!("GET /x HTTP/1.1\nHost: {bad}\n\n")));
    }
    refused(&cases);
    let recorder = Recorder::start();
    let gateway = Gateway::start(&recorder);
    for good in ["h", "h:80", "[::1]", "[::1]:80", "127.0.0.1:8080", "a-b.c_d.example.", "h:"] {
        let verdict = judge(&gateway, &recorder, &lines(&format!("GET /x HTTP/1.1\nHost: {good}\n\n")));
        assert_eq!(verdict.statuses, [200, 200], "{good}");
        assert_eq!(verdict.requests[0].all("host"), [good]);
        assert_eq!(verdict.requests[0].all("x-forwarded-host"), [good]);
    }
}

#[test]
fn targets_that_name_another_host_or_are_no_path_are_refused() {
    let bad = [
        "GET http://other/x",
        "GET http://h:81/x",
        "GET http://u@h/x",
        "GET https://other/x",
        "GET http://h.evil/x",
        "GET h:80",
        "GET x",
        "GET *",
        "POST *",
        "GET ?q",
        "GET /a b",
        "GET ",
        "GET /<x>\"",
        "GET /x HTTP/1.1 y",
        "GET http:///x",
    ];
    let mut cases: Vec<_> = bad.iter().map(|line| lines(&format!("{line} HTTP/1.1\nHost: h\n\n"))).collect();
    cases.push(lines("GET http://h/x HTTP/1.1\n\n"));
    cases.push(b"GET /\xff HTTP/1.1\r\nHost: h\r\n\r\n".to_vec());
    refused(&cases);
}

#[test]
fn a_fragment_has_no_place_in_a_target() {
    let bad = [
        "GET /x#y",
        "GET /x?a#b",
        "GET /#",
        "POST /x#/../api/export/overlay/start",
        "POST /api/export/overlay/start#",
        "OPTIONS *#",
    ];
    refused(&bad.map(|line| lines(&format!("{line} HTTP/1.1\nHost: h\n\n"))));
}

#[test]
fn odd_paths_under_the_export_routes_are_refused() {
    let recorder = Recorder::start();
    let gateway = Gateway::start(&recorder);
    for path in [
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
    ] {
        for method in ["POST", "GET", "DELETE"] {
            recorder.forget();
            let answer = send(gateway.addr(), &Request::new(method, path));
            assert_eq!((answer.status, answer.field("code").as_str()), (400, "odd_path"), "{method} {path}");
        }
    }
    assert_eq!(recorder.backend.connections(), 0);
}
