//! Status polls: always to the backend that owns the job, in both forms, and to nobody else.

use serde_json::json;

use crate::support::client::{self, Request, Response};
use crate::support::eventually;
use crate::support::gateway::{Gateway, set as set_key};
use crate::support::parts::{self, Set};
use crate::support::rude::{BlackHole, refused_addr};
use crate::support::scene::{assert_own, calm, header, line_of, only, poll_of, start_as, start_of};

/// Starts an export whose job does not end during the test; returns its id.
fn start_long(set: &Set, gateway: &Gateway, user: &str, export: &str) -> String {
    set.runpod.rule(json!({"match": {"user": user}, "seconds": 3600}));
    let answer = client::send(gateway.addr(), &start_of(export, &client::overlay(12).to_string()).user(user));
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.field("job_id")
}

fn poll(gateway: &Gateway, user: &str, job: &str, export: Option<&str>) -> Response {
    client::send(gateway.addr(), &poll_of(user, job, export))
}

/// Sends every user to workers but this one.
fn with_old_user(set: &Set, old: &str) -> Gateway {
    Gateway::with(set, |table| {
        calm(table);
        set_key(table, "rollout.always_legacy", vec![toml::Value::from(old)]);
    })
}

#[test]
fn both_forms_ask_the_owner_alone() {
    let set = parts::shared();
    let (new, old) = (set.user(), set.user());
    let gateway = with_old_user(set, &old);
    for export in ["overlay", "framing", "annotate"] {
        let on_workers = start_long(set, &gateway, &new, export);
        let on_legacy = start_long(set, &gateway, &old, export);
        for form in [None, Some(export)] {
            let answer = poll(&gateway, &new, &on_workers, form);
            assert_eq!((answer.status, answer.header("x-export-backend")), (200, Some("workers")));
            let direct = client::get(set.workers.addr(), &format!("/api/export/status/{on_workers}"));
            // Progress goes on between the two.
            let fields = |answer: &Response| answer.json().as_object().unwrap().keys().cloned().collect::<Vec<_>>();
            assert_eq!((fields(&answer), answer.field("job_id")), (fields(&direct), on_workers.clone()));
            let answer = poll(&gateway, &old, &on_legacy, form);
            assert_eq!((answer.status, answer.header("x-export-backend")), (200, Some("legacy")));
            assert_eq!((answer.field("job_id"), &answer.json()["output_key"]), (on_legacy.clone(), &json!(null)));
        }
        // The type in the path plays no part for workers' jobs; legacy's are asked for as the client asks.
        let other = if export == "overlay" { "framing" } else { "overlay" };
        assert_eq!(poll(&gateway, &new, &on_workers, Some(other)).status, 200);
        assert_eq!(poll(&gateway, &old, &on_legacy, Some(other)).text(), r#"{"detail":"Job not found"}"#);
        let flat = set
            .legacy
            .seen_from("status", &old)
            .into_iter()
            .find(|seen| seen["path"].as_str() == Some(&format!("/api/export/{export}/status/{on_legacy}")));
        assert!(flat.is_some(), "the flat form is asked of legacy by the job's type");
    }
    assert!(set.workers.seen_from("status", &old).is_empty() && set.legacy.seen_from("status", &new).is_empty());
}

#[test]
fn a_poll_brings_workers_what_a_start_does() {
    let set = parts::shared();
    let user = set.user();
    let gateway = Gateway::start(set);
    let job = start_long(set, &gateway, &user, "overlay");
    let target = format!("/api/export/overlay/status/{job}?x=1");
    let request = Request::get(&target).user(&user).header("X-Request-Id", "poll-1").header("Cookie", "a=b");
    let answer = client::send(gateway.addr(), &request.header("Authorization", "Bearer t"));
    assert_eq!((answer.status, answer.header("x-request-id")), (200, Some("poll-1")));
    let mut names: Vec<_> = answer.head.headers.iter().map(|(name, _)| name.to_ascii_lowercase()).collect();
    names.sort();
    assert_eq!(names, ["content-length", "content-type", "x-export-backend", "x-request-id"]);
    let seen = only(&set.workers, "status", &user);
    assert_eq!((&seen["path"], &seen["query"]), (&json!(format!("/api/export/status/{job}")), &json!("")));
    assert_eq!((header(&seen, "x-request-id"), header(&seen, "x-user-id")), ("poll-1".into(), user));
    for absent in ["cookie", "authorization"] {
        assert!(parts::header_of(&seen, absent).is_empty(), "{absent}");
    }
    let line = line_of(&gateway, "poll-1");
    assert_eq!((&line["route"], &line["backend"], &line["job_id"]), (&json!("status"), &json!("workers"), &json!(job)));
}

#[test]
fn a_job_on_workers_is_shown_to_its_user_alone() {
    let set = parts::shared();
    let (user, other) = (set.user(), set.user());
    let gateway = Gateway::start(set);
    let job = start_long(set, &gateway, &user, "overlay");
    for form in [None, Some("overlay")] {
        let refused = poll(&gateway, &other, &job, form);
        assert_eq!((refused.status, refused.text().as_str()), (404, r#"{"detail":"Job not found"}"#));
        let target = poll_of(&user, &job, form);
        assert_eq!(client::send(gateway.addr(), &target).status, 200);
    }
    let anonymous = client::get(gateway.addr(), &format!("/api/export/status/{job}"));
    assert_eq!((anonymous.status, anonymous.text().as_str()), (404, r#"{"detail":"Job not found"}"#));
    assert!(set.workers.seen_from("status", &other).is_empty(), "workers are not even asked");
    assert!(set.legacy.seen_from("status", &other).is_empty());
}

#[test]
fn a_job_on_legacy_is_legacys_to_show() {
    let set = parts::shared();
    let (old, other) = (set.user(), set.user());
    let gateway = with_old_user(set, &old);
    let job = start_long(set, &gateway, &old, "overlay");
    let refused = poll(&gateway, &other, &job, None);
    assert_eq!((refused.status, refused.header("x-export-backend")), (404, Some("legacy")));
    assert_eq!(set.legacy.seen_from("status", &other).len(), 1);
    assert!(set.workers.seen_from("status", &other).is_empty());
}

#[test]
fn an_answer_about_a_job_that_says_nothing_is_a_503() {
    let set = parts::shared();
    let gateway = Gateway::with(set, |table| {
        calm(table);
        set_key(table, "backends.workers.status_timeout", "300ms");
    });
    let user = set.user();
    let job = start_long(set, &gateway, &user, "overlay");
    let faults = [
        // A Durable Object may not be found everywhere at once: for 30 s this is no "not found".
        json!({"mode": "answer", "status": 404, "make_job": true}),
        json!({"mode": "answer", "status": 500}),
        json!({"mode": "answer", "status": 503}),
        json!({"mode": "answer", "status": 429}),
        json!({"mode": "answer", "status": 403}),
        json!({"mode": "answer", "status": 204, "body": "empty"}),
        json!({"mode": "redirect", "status": 302}),
        json!({"mode": "edge", "code": 1101, "form": "html"}),
        json!({"mode": "edge", "code": 522, "form": "json"}),
        json!({"mode": "garbage"}),
        json!({"mode": "malformed_json"}),
        json!({"mode": "no_job_id"}),
        json!({"mode": "other_job"}),
        json!({"mode": "duplicate_keys"}),
        json!({"mode": "gzip"}),
        json!({"mode": "huge_json", "bytes": 2 << 20}),
        json!({"mode": "cut"}),
        json!({"mode": "stall", "seconds": 1}),
    ];
    for mut fault in faults {
        fault["user"] = user.as_str().into();
        set.workers.fault(json!({"status": fault}));
        let answer = poll(&gateway, &user, &job, None);
        assert_own(&answer, 503, "owner_unavailable");
        assert_eq!(
            (answer.header("retry-after"), answer.header("x-export-backend")),
            (Some("2"), Some("workers")),
            "{fault}"
        );
    }
    set.workers.fault(json!({"status": {"mode": "pass", "user": user}}));
    assert_eq!(poll(&gateway, &user, &job, None).status, 200);
    assert!(set.legacy.seen_from("status", &user).is_empty(), "legacy is never asked for workers' jobs");
}

#[test]
fn an_old_job_that_workers_do_not_know_is_not_found() {
    let set = parts::shared();
    let mut gateway = Gateway::start(set);
    let user = set.user();
    let job = start_long(set, &gateway, &user, "overlay");
    set.workers.fault(json!({"status": {"mode": "answer", "status": 404, "user": user}}));
    assert_own(&poll(&gateway, &user, &job, None), 503, "owner_unavailable");
    gateway.kill9();
    let store = rusqlite::Connection::open(gateway.folder().join("jobs.db")).unwrap();
    let aged = store.execute("UPDATE jobs SET started_ms = started_ms - 30000 WHERE id = ?", [&job]).unwrap();
    assert_eq!(aged, 1);
    store.close().unwrap();
    gateway.restart();
    let answer = poll(&gateway, &user, &job, None);
    assert_eq!((answer.status, answer.text().as_str()), (404, r#"{"detail":"Job not found"}"#));
    assert_eq!(answer.header("x-export-backend"), Some("workers"));
}

#[test]
fn an_owner_that_is_away_is_waited_for_and_nobody_else_is_asked() {
    let set = parts::shared();
    let (new, old) = (set.user(), set.user());
    let mut gateway = with_old_user(set, &old);
    let jobs = [(new.as_str(), "workers"), (old.as_str(), "legacy")]
        .map(|(user, backend)| (user, backend, start_long(set, &gateway, user, "overlay")));
    gateway.kill9();
    let file = gateway.config_text();
    let black_hole = BlackHole::open();
    for away in [format!("http://{}", refused_addr()), black_hole.url()] {
        for (user, backend, job) in &jobs {
            let mut table: toml::Table = file.parse().unwrap();
            set_backend(&mut table, backend, &away);
            gateway.write_by_rename(&table.to_string());
            gateway.restart();
            for form in [None, Some("overlay")] {
                let answer = poll(&gateway, user, job, form);
                assert_own(&answer, 503, "owner_unavailable");
                assert!(answer.header("retry-after").is_some());
                assert_eq!(answer.header("x-export-backend"), Some(*backend));
            }
        }
    }
    gateway.write_by_rename(&file);
    gateway.restart();
    for (user, backend, job) in &jobs {
        let answer = poll(&gateway, user, job, None);
        assert_eq!((answer.status, answer.header("x-export-backend")), (200, Some(*backend)));
    }
    assert!(set.legacy.seen_from("status", &new).is_empty() && set.workers.seen_from("status", &old).is_empty());
}

fn set_backend(table: &mut toml::Table, backend: &str, url: &str) {
    set_key(table, &format!("backends.{backend}.url"), url);
    set_key(table, &format!("backends.{backend}.connect_timeout"), "100ms");
}

#[test]
fn the_end_of_a_job_is_counted_once() {
    let set = parts::shared();
    let (new, old) = (set.user(), set.user());
    let gateway = with_old_user(set, &old);
    for (user, backend, outcome, status) in
        [(&new, "workers", "COMPLETED", "complete"), (&old, "legacy", "FAILED", "error")]
    {
        set.runpod.rule(json!({"match": {"user": user}, "seconds": 0.05, "outcome": outcome}));
        let job = client::send(gateway.addr(), &start_as(user, "end")).field("job_id");
        let open = || gateway.metric("export_gateway_jobs_open", &[("backend", backend)]);
        eventually("one job open", || (open() == 1.0).then_some(()));
        let last = eventually("the end of the job", || {
            let answer = poll(&gateway, user, &job, None);
            (answer.json()["status"] == status).then_some(answer)
        });
        assert_eq!(last.status, 200);
        for _ in 0..3 {
            assert_eq!(poll(&gateway, user, &job, Some("overlay")).json()["status"], status);
        }
        let labels = [("backend", backend), ("type", "overlay"), ("status", status)];
        assert_eq!(gateway.metric("export_gateway_job_outcomes_total", &labels), 1.0);
        eventually("no job open", || (open() == 0.0).then_some(()));
    }
}
