//! A client's `Idempotency-Key`: one start, its answer as often as it is asked for, and nothing that anybody else sees.

use std::thread;

use serde_json::{Value, json};

use crate::support::client::{Request, Response, overlay, send};
use crate::support::gateway::{Gateway, set, unset};
use crate::support::parts::{header_of, shared};
use crate::support::rude::{Rude, refused_addr};
use crate::support::{DEADLINE, eventually};

const KEY: &str = "0b5c0ed2-9c1c-4f4e-9c9f-2f3f6f4a1d11";

/// A start of an overlay export of project 12 under a key.
pub(crate) fn keyed(user: &str, key: &str) -> Request {
    Request::post_json("/api/export/overlay/start", &overlay(12)).user(user).header("Idempotency-Key", key)
}

fn start(gateway: &Gateway, user: &str) -> Response {
    send(gateway.addr(), &keyed(user, KEY))
}

fn code(answer: &Response) -> String {
    answer.field("code")
}

fn to_legacy(table: &mut toml::Table) {
    set(table, "rollout.percent", 0);
}

/// Asserts that `second` is `first` once more.
pub(crate) fn assert_replayed(first: &Response, second: &Response) {
    assert_eq!(second.header("Idempotent-Replayed"), Some("true"), "{} {}", second.status, second.text());
    assert_eq!((second.status, second.text()), (first.status, first.text()));
    for name in ["Content-Type", "X-Export-Backend"] {
        assert_eq!(second.header(name), first.header(name), "{name}");
    }
    assert_eq!(first.header("Idempotent-Replayed"), None);
}

#[test]
fn the_same_start_on_workers_is_answered_twice_and_made_once() {
    let set = shared();
    let (gateway, user) = (Gateway::start(set), set.user());
    let first = start(&gateway, &user);
    assert_eq!((first.status, first.header("X-Export-Backend")), (200, Some("workers")));
    assert!(first.field("websocket_url").starts_with("ws://"));
    let second = send(gateway.addr(), &keyed(&user, KEY).header("X-Request-Id", "second"));
    assert_replayed(&first, &second);
    assert_eq!(set.jobs_of(&user), (0, 1));
    let seen = set.workers.seen_from("start", &user);
    assert_eq!(seen.len(), 1);
    let sent = header_of(&seen[0], "idempotency-key").concat();
    assert!(sent.len() == 64 && sent.bytes().all(|byte| byte.is_ascii_hexdigit()), "{sent}");

    let line = gateway.access_log(|line| line["request_id"] == "second");
    assert_eq!((&line["outcome"], &line["backend"]), (&json!("replayed"), &json!("workers")));
    assert_eq!((&line["job_id"], &line["decision"]), (&json!(first.field("job_id")), &Value::Null));
    assert_eq!(gateway.metric("export_gateway_starts_total", &[("outcome", "replayed")]), 1.0);
    assert_eq!(gateway.metric("export_gateway_starts_total", &[("outcome", "accepted")]), 1.0);
}

#[test]
fn the_same_start_on_legacy_is_answered_twice_and_stays_there_after_a_flip() {
    let set = shared();
    let (gateway, user) = (Gateway::with(set, to_legacy), set.user());
    let first = start(&gateway, &user);
    assert_eq!((first.status, first.header("X-Export-Backend")), (200, Some("legacy")));
    assert_replayed(&first, &start(&gateway, &user));
    gateway.set_percent(100.0);
    assert_replayed(&first, &start(&gateway, &user));
    assert_eq!(set.jobs_of(&user), (1, 0));
    let seen = set.legacy.seen_from("start", &user);
    assert_eq!(header_of(&seen[0], "idempotency-key"), [KEY], "legacy gets the client's own");
    let other = send(gateway.addr(), &keyed(&user, "another-key"));
    assert_eq!((other.status, other.header("X-Export-Backend")), (200, Some("workers")));
    assert_eq!(set.jobs_of(&user), (1, 1));
}

#[test]
fn a_key_belongs_to_a_user_and_a_route() {
    let set = shared();
    let (gateway, ann, bob) = (Gateway::start(set), set.user(), set.user());
    let of_ann = start(&gateway, &ann);
    let of_bob = start(&gateway, &bob);
    let framing = Request::post_json("/api/export/framing/start", &overlay(12)).user(&ann);
    let framing = send(gateway.addr(), &framing.header("Idempotency-Key", KEY));
    for (answer, user, jobs) in [(&of_ann, &ann, 2), (&of_bob, &bob, 1), (&framing, &ann, 2)] {
        assert_eq!((answer.status, answer.header("Idempotent-Replayed")), (200, None));
        assert_eq!(set.jobs_of(user), (0, jobs));
    }
    let keys: Vec<_> = [&ann, &bob]
        .into_iter()
        .flat_map(|user| set.workers.seen_from("start", user))
        .map(|seen| header_of(&seen, "idempotency-key").concat())
        .collect();
    assert!(keys[0] != keys[1] && keys[1] != keys[2] && keys[0] != keys[2], "{keys:?}");
    // The percent-encoded form is the same route, the default user a user like any other.
    let encoded = Request::post_json("/api/export/%6fverlay/start", &overlay(12)).user(&ann);
    assert_replayed(&of_ann, &send(gateway.addr(), &encoded.header("Idempotency-Key", KEY)));
}

#[test]
fn anonymous_starts_share_one_scope() {
    let set = shared();
    let gateway = Gateway::with(set, |table| unset(table, "identity.default"));
    set.legacy.add_video("a", 12, "clip.mp4");
    let anonymous =
        |key: &str| Request::post_json("/api/export/overlay/start", &overlay(12)).header("Idempotency-Key", key);
    let first = send(gateway.addr(), &anonymous("anonymous-1"));
    assert_eq!((first.status, first.header("X-Export-Backend")), (200, Some("legacy")));
    assert_replayed(&first, &send(gateway.addr(), &anonymous("anonymous-1")));
    let named = send(gateway.addr(), &keyed("a", "anonymous-1"));
    assert_eq!((named.status, named.header("Idempotent-Replayed")), (200, None), "the user `a` is somebody");
}

#[test]
fn another_body_under_the_same_key_is_refused_and_sent_nowhere() {
    let set = shared();
    let (gateway, user) = (Gateway::start(set), set.user());
    let first = start(&gateway, &user);
    let other = Request::post_json("/api/export/overlay/start", &overlay(13)).user(&user);
    let refused = send(gateway.addr(), &other.header("Idempotency-Key", KEY));
    assert_eq!((refused.status, code(&refused).as_str()), (422, "idempotency_key_reused"));
    assert_eq!(set.workers.seen_from("start", &user).len(), 1);
    assert_replayed(&first, &start(&gateway, &user));
}

#[test]
fn what_is_no_key_is_refused_before_anything_is_sent() {
    let set = shared();
    let (gateway, user) = (Gateway::start(set), set.user());
    let mut bad: Vec<Request> =
        ["", "a b", "caf\u{e9}", "a\tb", &"x".repeat(256)].map(|key| keyed(&user, key)).into_iter().collect();
    bad.push(keyed(&user, "one").header("idempotency-key", "two"));
    for request in &bad {
        let answer = send(gateway.addr(), request);
        assert_eq!((answer.status, code(&answer).as_str()), (400, "bad_idempotency_key"), "{request:?}");
    }
    assert_eq!(set.workers.seen_from("start", &user).len() + set.legacy.seen_from("start", &user).len(), 0);
    assert_eq!(send(gateway.addr(), &keyed(&user, &"x".repeat(255))).status, 200);
    // It is a start's field: on other routes it is none of the gateway's business.
    let other = Request::get("/api/health").header("Idempotency-Key", "a b");
    assert_eq!(send(gateway.addr(), &other).status, 200);
}

#[test]
fn of_fifty_starts_at_once_exactly_one_is_made() {
    let set = shared();
    for to_workers in [true, false] {
        let gateway = Gateway::with(set, |table| set_percent(table, to_workers));
        let user = set.user();
        let answers: Vec<Response> = thread::scope(|scope| {
            let starts: Vec<_> = (0..50).map(|_| scope.spawn(|| start(&gateway, &user))).collect();
            starts.into_iter().map(|start| start.join().unwrap()).collect()
        });
        let made: Vec<_> =
            answers.iter().filter(|it| it.status == 200 && it.header("Idempotent-Replayed").is_none()).collect();
        assert_eq!(made.len(), 1);
        for answer in &answers {
            match answer.status {
                200 => assert_eq!(answer.text(), made[0].text()),
                _ => assert_eq!((answer.status, code(answer).as_str()), (409, "start_in_progress")),
            }
        }
        let (legacy, workers) = set.jobs_of(&user);
        assert_eq!((legacy, workers), if to_workers { (0, 1) } else { (1, 0) });
        assert_replayed(made[0], &start(&gateway, &user));
    }
}

fn set_percent(table: &mut toml::Table, to_workers: bool) {
    set(table, "rollout.percent", if to_workers { 100 } else { 0 });
}

#[test]
fn a_start_under_way_says_so_until_it_is_answered() {
    let set = shared();
    let (gateway, user) = (Gateway::start(set), set.user());
    set.workers.fault(json!({"start": {"mode": "pass", "user": user, "delay_ms": 3000, "times": 1}}));
    let first = thread::scope(|scope| {
        let first = scope.spawn(|| start(&gateway, &user));
        eventually("the start at workers", || set.workers.seen_from("start", &user).pop());
        let second = start(&gateway, &user);
        assert_eq!((second.status, code(&second).as_str()), (409, "start_in_progress"));
        assert_eq!((second.header("Retry-After"), second.header("X-Export-Backend")), (Some("2"), Some("workers")));
        first.join().unwrap()
    });
    assert_eq!(first.status, 200);
    assert_replayed(&first, &start(&gateway, &user));
    assert_eq!(set.jobs_of(&user), (0, 1));
}

#[test]
fn a_client_that_left_gets_its_answer_later() {
    let set = shared();
    let (gateway, user) = (Gateway::start(set), set.user());
    set.workers.fault(json!({"start": {"mode": "pass", "user": user, "delay_after_ms": 300, "times": 1}}));
    let mut gone = crate::support::client::Connection::open(gateway.addr());
    gone.send(&keyed(&user, KEY).bytes("gateway"));
    eventually("the start at workers", || set.workers.seen_from("start", &user).pop());
    drop(gone);
    let answer = eventually("the replay", || Some(start(&gateway, &user)).filter(|answer| answer.status != 409));
    assert_eq!((answer.status, answer.header("Idempotent-Replayed")), (200, Some("true")));
    assert_eq!(set.jobs_of(&user), (0, 1));
}

#[test]
fn a_rejection_is_repeated_and_an_error_of_legacy_is_unknown() {
    let set = shared();
    let gateway = Gateway::with(set, to_legacy);
    let without_video = crate::support::unique_user();
    let first = start(&gateway, &without_video);
    assert_eq!((first.status, first.text().as_str()), (400, r#"{"detail":"No working video found"}"#));
    set.legacy.add_video(&without_video, 12, "clip.mp4");
    assert_replayed(&first, &start(&gateway, &without_video));

    let user = set.user();
    set.legacy.fault(json!({"start": {"mode": "answer", "status": 500, "make_job": true, "user": user, "times": 1}}));
    assert_eq!(start(&gateway, &user).status, 500);
    let again = start(&gateway, &user);
    assert_eq!((again.status, code(&again).as_str()), (409, "start_outcome_unknown"));
    assert_eq!(again.header("Retry-After"), None);
    assert_eq!(set.jobs_of(&user), (1, 0));
}

#[test]
fn what_the_gateway_refuses_itself_leaves_the_key_free() {
    let set = shared();
    let gateway = Gateway::with(set, |table| self::set(table, "limits.start_body", "4KiB"));
    let user = crate::support::unique_user();
    set.legacy.add_video(&user, 13, "of-another-project.mp4");
    let large = Request::post_json("/api/export/overlay/start", &json!({"project_id": 12, "pad": "x".repeat(5000)}));
    assert_eq!(send(gateway.addr(), &large.user(&user).header("Idempotency-Key", KEY)).status, 413);
    let missing = start(&gateway, &user);
    assert_eq!((missing.status, missing.text().as_str()), (400, r#"{"detail":"No working video found"}"#));
    assert_eq!(set.legacy.seen_from("start", &user).len(), 0, "the gateway's own word");
    set.legacy.add_video(&user, 12, "clip.mp4");
    let made = start(&gateway, &user);
    assert_eq!((made.status, made.header("Idempotent-Replayed")), (200, None));
}

#[test]
fn a_start_that_reached_nobody_leaves_the_key_free() {
    let set = shared();
    let user = set.user();
    let gateway = Gateway::with(set, |table| {
        self::set(table, "backends.workers.url", format!("http://{}", refused_addr()));
        self::set(table, "backends.workers.fallback", false);
    });
    let refused = start(&gateway, &user);
    assert_eq!((refused.status, code(&refused).as_str()), (503, "no_backend"));
    gateway.edit(|table| self::set(table, "backends.workers.url", set.workers.url()));
    let made = start(&gateway, &user);
    assert_eq!((made.status, made.header("Idempotent-Replayed")), (200, None));
    assert_eq!(set.jobs_of(&user), (0, 1));
}

#[test]
fn a_fallback_is_kept_as_legacys_answer() {
    let set = shared();
    let (gateway, user) = (Gateway::start(set), set.user());
    let busy = json!({"mode": "answer", "status": 503, "json": {"error": "busy"}, "user": user});
    set.workers.fault(json!({"start": busy}));
    let first = start(&gateway, &user);
    assert_eq!((first.status, first.header("X-Export-Backend")), (200, Some("legacy")));
    assert_replayed(&first, &start(&gateway, &user));
    assert_eq!((set.workers.seen_from("start", &user).len(), set.jobs_of(&user)), (1, (1, 0)));
}

#[test]
fn a_large_answer_is_kept_in_its_shortest_form() {
    let set = shared();
    let user = set.user();
    let pad = "x".repeat(20_000);
    let large = |name: &str| {
        json!({"mode": "answer", "status": 200, "user": user,
        "json": {"job_id": name, "status": "processing", "pad": pad}})
    };
    set.workers.fault(json!({"start": large("large-1")}));
    set.legacy.fault(json!({"start": large("large-2")}));
    for (percent, name, more) in [(100, "large-1", true), (0, "large-2", false)] {
        let gateway = Gateway::with(set, |table| self::set(table, "rollout.percent", percent));
        let first = start(&gateway, &user);
        assert_eq!((first.status, first.field("pad").len()), (200, 20_000));
        let second = start(&gateway, &user);
        let mut expected = json!({"job_id": name, "status": "processing"});
        if more {
            expected["websocket_url"] = json!(first.field("websocket_url"));
        }
        assert_eq!((second.status, second.json()), (200, expected));
        assert_eq!(second.header("Idempotent-Replayed"), Some("true"));
    }
}

#[test]
fn without_its_store_a_keyed_start_goes_nowhere_and_an_unkeyed_one_to_legacy() {
    let set = shared();
    let user = set.user();
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("data"), "in the way").unwrap();
    let store = folder.path().join("data/jobs.db").display().to_string();
    for percent in [100, 0] {
        let gateway = Gateway::with(set, |table| {
            self::set(table, "jobs.store", store.clone());
            self::set(table, "rollout.percent", percent);
        });
        let refused = start(&gateway, &user);
        assert_eq!((refused.status, code(&refused).as_str()), (503, "store_unavailable"));
        assert_eq!(refused.header("Retry-After"), Some("2"));
        assert_eq!(set.legacy.seen_from("start", &user).len() + set.workers.seen_from("start", &user).len(), 0);
    }
    let gateway = Gateway::with(set, |table| self::set(table, "jobs.store", store));
    let unkeyed = Request::post_json("/api/export/overlay/start", &overlay(12)).user(&user);
    assert_eq!(send(gateway.addr(), &unkeyed).status, 200);
    assert_eq!(set.jobs_of(&user), (1, 0));
    std::fs::remove_file(folder.path().join("data")).unwrap();
    let made = crate::support::within(2 * DEADLINE, "the store is back", || {
        Some(start(&gateway, &user)).filter(|answer| answer.status == 200)
    });
    assert_eq!(made.header("X-Export-Backend"), Some("workers"));
}

#[test]
fn an_answer_that_was_lost_is_never_followed_by_a_second_start() {
    let set = shared();
    let user = set.user();
    let rude = Rude::losing_answers(set.workers.addr(), 20);
    let gateway = Gateway::with(set, |table| self::set(table, "backends.workers.url", rude.url()));
    let lost = start(&gateway, &user);
    assert_eq!((lost.status, code(&lost).as_str()), (502, "start_outcome_unknown"));
    for _ in 0..3 {
        let again = start(&gateway, &user);
        assert_eq!((again.status, code(&again).as_str()), (409, "start_outcome_unknown"));
    }
    assert_eq!((rude.requests("POST"), set.jobs_of(&user)), (1, (0, 1)));
    assert_eq!(gateway.metric("export_gateway_starts_total", &[("outcome", "still_unknown")]), 3.0);
}
