//! What workers answered, whole: by the real Worker on workerd with its fault switches.

use serde_json::{Value, json};

use super::{Stage, Then, USER};
use crate::support::client;
use crate::support::eventually;
use crate::support::gateway::set;
use crate::support::rude::{Rude, Step};
use crate::support::scene::{assert_own, start_as};

impl Stage {
    /// Plays a start against this fault.
    fn fault(&mut self, what: &str, fault: Value, made: usize, then: Then) {
        self.set.workers.fault(json!({"start": fault}));
        self.play(what, made, then);
    }
}

fn answer(status: u16, body: &str) -> Value {
    json!({"mode": "answer", "status": status, "body": body})
}

#[test]
fn a_start_that_workers_decline_goes_to_legacy_once() {
    let mut stage = Stage::real(|_| {});
    stage.play("accepted", 1, Then::Accepted);
    for (status, cause) in [(404, "declined_404"), (405, "declined_405"), (429, "declined_429"), (503, "declined_503")]
    {
        stage.fault(&format!("{status} JSON"), answer(status, "json"), 0, Then::Legacy(cause));
        if status != 503 {
            stage.fault(&format!("{status} HTML"), answer(status, "html"), 0, Then::Legacy(cause));
            stage.fault(&format!("{status} empty"), answer(status, "empty"), 0, Then::Legacy(cause));
        }
    }
    for code in [1015, 1027] {
        for form in ["html", "json", "text"] {
            let fault = json!({"mode": "edge", "code": code, "form": form});
            stage.fault(&format!("edge {code} {form}"), fault, 0, Then::Legacy("declined_429"));
        }
    }
    stage.play("accepted again", 1, Then::Accepted);
    stage.finish();
}

#[test]
fn a_start_that_workers_refuse_is_the_clients_to_mend() {
    let mut stage = Stage::real(|_| {});
    for status in [400, 401, 402, 403, 406, 408, 409, 410, 411, 413, 415, 418, 422, 425, 431, 451] {
        for body in ["json", "html", "empty"] {
            stage.set.workers.fault(json!({"start": answer(status, body)}));
            let direct = client::send(stage.set.workers.addr(), &start_as(USER, "direct"));
            stage.set.workers.reset();
            stage.set.workers.fault(json!({"start": answer(status, body)}));
            let passed = stage.play(&format!("{status} {body}"), 0, Then::Passed(status));
            assert_eq!(passed.text(), direct.text());
            assert_eq!(passed.header("content-type"), direct.header("content-type"), "{status} {body}");
            assert_eq!(passed.header("server"), None);
        }
    }
    stage.set.runpod.kill();
    stage.play("500 with a job (RunPod away)", 1, Then::PassedWithJob);
    stage.set.runpod.restart();
    stage.finish();
}

#[test]
fn an_answer_that_says_nothing_certain_is_never_followed_by_a_second_backend() {
    let elsewhere = Rude::always(vec![Step::ReadRequest, Step::json(200, r#"{"job_id":"elsewhere"}"#)]);
    let mut stage = Stage::real(|_| {});
    for status in [500, 501, 502, 504, 505, 507, 511, 520, 521, 522, 523, 524, 525, 526, 530] {
        stage.fault(&format!("{status} JSON"), answer(status, "json"), 0, Then::Unknown(status));
        stage.fault(&format!("{status} HTML"), answer(status, "html"), 0, Then::Unknown(status));
    }
    for (what, body) in [("HTML", "html"), ("empty", "empty"), ("text", "busy")] {
        stage.fault(&format!("503 {what}"), answer(503, body), 0, Then::Unknown(503));
    }
    for (code, status) in [(1101, 500), (1102, 503), (520, 520), (522, 522), (530, 530)] {
        for form in ["html", "json", "text"] {
            let fault = json!({"mode": "edge", "code": code, "form": form, "make_job": true});
            stage.fault(&format!("edge {code} {form}, job made"), fault, 1, Then::Unknown(status));
        }
    }
    // 1101 and 1102 count whatever their status; 1015 with a 503 is not the Worker's own word.
    for (code, status, shown) in
        [(1101, 404, 502), (1101, 429, 502), (1102, 405, 502), (1102, 200, 502), (1101, 400, 502), (1015, 503, 503)]
    {
        let fault = json!({"mode": "edge", "code": code, "form": "json", "status": status});
        stage.fault(&format!("edge {code} as {status}"), fault, 0, Then::Unknown(shown));
    }
    for status in [300, 301, 302, 303, 304, 307, 308] {
        let location = format!("{}/api/export/overlay/start", elsewhere.url());
        let fault = json!({"mode": "redirect", "status": status, "location": location});
        stage.fault(&format!("{status} elsewhere"), fault, 0, Then::Unknown(502));
    }
    assert_eq!(elsewhere.connections(), 0, "no redirect is followed");
    let to_itself = json!({"mode": "redirect", "status": 308, "location": "/api/export/overlay/start"});
    stage.fault("308 to itself", to_itself, 0, Then::Unknown(502));
    stage.fault("the Worker throws", json!({"mode": "exception", "make_job": true}), 1, Then::Unknown(500));
    stage.finish();
}

#[test]
fn a_success_that_names_no_job_is_not_one() {
    let mut stage = Stage::real(|_| {});
    stage.play("accepted", 1, Then::Accepted);
    let before = stage.gateway.rss_kib();
    let cases = [
        ("malformed JSON", json!({"mode": "malformed_json"})),
        ("no job_id", json!({"mode": "no_job_id"})),
        ("201 without job_id", json!({"mode": "no_job_id", "status": 201})),
        ("job_id twice", json!({"mode": "duplicate_keys"})),
        ("not UTF-8", json!({"mode": "non_utf8"})),
        ("garbage", json!({"mode": "garbage"})),
        ("200 HTML", json!({"mode": "answer", "status": 200, "body": "html", "make_job": true})),
        ("200 empty", json!({"mode": "answer", "status": 200, "body": "empty", "make_job": true})),
        ("204", json!({"mode": "answer", "status": 204, "body": "empty", "make_job": true})),
        ("gzip", json!({"mode": "gzip"})),
        ("gzip bomb, 100 MiB", json!({"mode": "gzip_bomb"})),
        ("100 MiB of JSON", json!({"mode": "huge_json"})),
        ("100 MiB of JSON, chunked", json!({"mode": "huge_json", "chunked": true})),
        ("100,000 deep", json!({"mode": "deep_json"})),
    ];
    for (what, fault) in cases {
        stage.fault(what, fault, 1, Then::Unknown(502));
    }
    let after = stage.gateway.rss_kib();
    assert!(after < before + 32 * 1024, "{before} KiB before, {after} KiB after");
    stage.play("accepted again", 1, Then::Accepted);
    stage.finish();
}

#[test]
fn a_hostile_job_id_goes_nowhere() {
    const MARK: &str = "h0st1le";
    let mut stage = Stage::real(|_| {});
    let text = |text: &str| json!(text.replace('@', MARK));
    let values = [
        ("job_id ../../@", text("../../@")),
        ("job_id with CR LF", text("@\r\nSet-Cookie: a=b")),
        ("job_id with quotes", text("@\"},{\"x\":\"")),
        ("job_id with a slash", text("@/ws")),
        ("job_id with a space", text("@ x")),
        ("job_id with %2e", text("%2e%2e@")),
        ("job_id beyond ASCII", text("@\u{e9}")),
        ("job_id with NUL", text("@\0")),
        ("job_id empty", json!("")),
        ("job_id a number", json!(12)),
        ("job_id null", json!(null)),
        ("job_id a list", json!([MARK])),
        ("job_id true", json!(true)),
        ("job_id 129 letters", json!(format!("{MARK}{}", "x".repeat(122)))),
        ("job_id 10 KiB", json!(MARK.repeat(10 * 1024 / MARK.len()))),
    ];
    for (what, value) in values {
        stage.set.workers.fault(json!({"start": {"mode": "job_id", "value": value}}));
        let answer = stage.play(what, 1, Then::Unknown(502));
        let all = String::from_utf8_lossy(&answer.head.raw).into_owned() + &answer.text();
        assert!(!all.contains(MARK), "{what}: {all}");
    }
    stage.fault("job_id 128 letters", json!({"mode": "job_id", "length": 128}), 1, Then::Accepted);
    let log = stage.gateway.stderr_text();
    assert!(!log.contains(MARK), "{log}");
    let rows = stage.rows.len();
    let gateway = &stage.gateway;
    eventually("all lines of the access log", || {
        let lines = gateway.access_lines();
        (lines.iter().filter(|line| line["route"] == "start").count() == rows).then_some(())
    });
    assert!(stage.gateway.access_lines().iter().all(|line| !line.to_string().contains(MARK)));
    stage.finish();
}

#[test]
fn without_a_fallback_nobody_else_is_asked() {
    let stage = Stage::real(|table| set(table, "backends.workers.fallback", false));
    let jobs = stage.jobs();
    for (n, status) in [404, 405, 429, 503].into_iter().enumerate() {
        stage.set.workers.fault(json!({"start": answer(status, "json")}));
        let answer = client::send(stage.gateway.addr(), &start_as(USER, "declined"));
        assert_own(&answer, 503, "no_backend");
        assert!(answer.header("retry-after").is_some());
        assert_eq!(stage.saw(), (0, n + 1), "{status}");
    }
    assert_eq!(stage.jobs(), jobs);
}
