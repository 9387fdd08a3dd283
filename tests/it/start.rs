//! A start on workers: what they get, and what the client gets of their answer.

use serde_json::json;

use crate::support::client::{self, Request};
use crate::support::gateway::{Gateway, set as set_key};
use crate::support::parts::{self, header_of};
use crate::support::rude::{Rude, Step};
use crate::support::scene::{self, fields, header, only, start_as, start_of};
use crate::support::unique_user;

const KEY: &str = r#""input_key":"working_videos/clip.mp4""#;

#[test]
fn workers_get_the_translated_body_to_the_byte() {
    let set = parts::shared();
    let gateway = Gateway::start(set);
    // What the client writes; what workers read after project and key.
    let cases = [
        // Numbers keep their spelling, keys their order, spaces within values stay.
        (
            "overlay",
            r#"{"effect_type": "x", "highlight_regions": [{"y": 1.0, "x":1e2, "n":123456789012345678901234567890 }], "project_id": 12}"#,
            r#"{"effect_type":"x","highlight_regions":[{"y": 1.0, "x":1e2, "n":123456789012345678901234567890 }]}"#,
        ),
        // A listed field that is missing is left out, one that is not listed stays behind.
        (
            "overlay",
            r#"{"project_id":"12","effect_type":null,"input_key":"evil","other":1}"#,
            r#"{"effect_type":null}"#,
        ),
        ("overlay", r#"{"project_id":12.0}"#, "{}"),
        // Without a list every field goes, but project_id.
        (
            "framing",
            r#"{"target_fps":60.00,"project_id":12,"crop_keyframes":[ ],"big":18446744073709551616}"#,
            r#"{"target_fps":60.00,"crop_keyframes":[ ],"big":18446744073709551616}"#,
        ),
        ("annotate", r#"{"project_id":1,"clips":[{"a":-0.0}],"project_id":12}"#, r#"{"clips":[{"a":-0.0}]}"#),
        ("annotate", r#"{"project_id":12,"a":1,"b":2,"a":3,"caf\u00e9":"é"}"#, r#"{"a":3,"b":2,"caf\u00e9":"é"}"#),
    ];
    for (export, body, params) in cases {
        let user = set.user();
        let answer = client::send(gateway.addr(), &start_of(export, body).user(&user));
        assert_eq!(answer.status, 200, "{body}: {}", answer.text());
        let seen = only(&set.workers, "start", &user);
        let expected = format!(r#"{{"project_id":12,{KEY},"params":{params}}}"#);
        assert_eq!(seen["body"], expected.as_str(), "{body}");
        assert_eq!(seen["path"], format!("/api/export/{export}/start").as_str());
        assert_eq!(header(&seen, "content-length"), expected.len().to_string());
        assert_eq!(set.jobs_of(&user), (0, 1));
    }
}

#[test]
fn workers_get_the_headers_they_need_and_no_others() {
    let set = parts::shared();
    let rude = Rude::start(|n| vec![Step::ReadRequest, Step::json(200, &format!(r#"{{"job_id":"headers-{n}"}}"#))]);
    let gateway = Gateway::start(scene::workers_at(set, rude.url()));
    let user = set.user();
    let request = start_as(&user, "req-1")
        .header("Cookie", "session=s3cr3t")
        .header("Authorization", "Bearer t0k3n")
        .header("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
        .header("tracestate", "a=1")
        .header("tracestate", "b=2")
        .header("User-Agent", "reel/1.0")
        .header("X-Forwarded-For", "6.6.6.6")
        .header("X-Forwarded-Host", "evil")
        .header("X-Forwarded-Proto", "gopher")
        .header("Forwarded", "for=6.6.6.6")
        .header("Origin", "https://app.reelballers.com")
        .header("Referer", "https://app.reelballers.com/")
        .header("Accept-Language", "de")
        .header("Accept-Encoding", "gzip, br")
        .header("Cloudflare-Workers-Version-Key", "evil")
        .header("X-Anything", "1");
    assert_eq!(client::send(gateway.addr(), &request).status, 200);
    let received = rude.received();
    assert!(received[0].starts_with(b"POST /api/export/overlay/start HTTP/1.1\r\n"));
    let mut seen: Vec<_> =
        fields(&received[0]).into_iter().map(|(name, value)| (name.to_ascii_lowercase(), value)).collect();
    seen.sort();
    let key = seen.iter().find(|(name, _)| name == "idempotency-key").expect("a key").1.clone();
    assert!(is_uuid(&key), "{key}");
    let hash = ring::digest::digest(&ring::digest::SHA256, format!("version key\n{user}").as_bytes());
    let version: String = hash.as_ref()[..16].iter().map(|byte| format!("{byte:02x}")).collect();
    let host = gateway.addr().to_string();
    let length = received[0].len() - received[0].windows(4).position(|at| at == b"\r\n\r\n").unwrap() - 4;
    let expected = [
        ("accept", "application/json"),
        ("accept-encoding", "identity"),
        ("cloudflare-workers-version-key", &version),
        ("content-length", &length.to_string()),
        ("content-type", "application/json"),
        ("host", &rude.addr().to_string()),
        ("idempotency-key", &key),
        ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        ("tracestate", "a=1"),
        ("tracestate", "b=2"),
        ("user-agent", "reel/1.0"),
        ("x-forwarded-for", "127.0.0.1"),
        ("x-forwarded-host", &host),
        ("x-forwarded-proto", "http"),
        ("x-request-id", "req-1"),
        ("x-user-id", &user),
    ];
    let expected: Vec<_> = expected.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
    assert_eq!(seen, expected);
}

#[test]
fn listed_headers_go_along_and_each_start_has_a_key_of_its_own() {
    let set = parts::shared();
    let gateway = Gateway::with(set, |table| {
        let names = ["Authorization", "X-Plan"].map(toml::Value::from).to_vec();
        set_key(table, "backends.workers.forward_headers", names);
    });
    let user = set.user();
    for _ in 0..2 {
        let request = start_as(&user, "x").header("Authorization", "Bearer t").header("X-Plan", "pro");
        let answer = client::send(gateway.addr(), &request.header("Cookie", "a=b"));
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    let seen = set.workers.seen_from("start", &user);
    assert_eq!(seen.len(), 2);
    for request in &seen {
        assert_eq!((header(request, "authorization"), header(request, "x-plan")), ("Bearer t".into(), "pro".into()));
        assert!(header_of(request, "cookie").is_empty());
    }
    assert_ne!(header(&seen[0], "idempotency-key"), header(&seen[1], "idempotency-key"));
}

#[test]
fn the_answer_is_workers_own_with_a_websocket_url() {
    let set = parts::shared();
    let own = set.workers.url().replace("http://", "ws://");
    type Change = (&'static str, toml::Value);
    let cases: [(Vec<Change>, &str); 4] = [
        (vec![], &own),
        (vec![("backends.workers.public_url", "https://jobs.example.com/base/".into())], "wss://jobs.example.com/base"),
        (vec![("backends.workers.public_url", "http://jobs.example.com:8080".into())], "ws://jobs.example.com:8080"),
        (
            vec![
                ("backends.workers.websocket", "gateway".into()),
                ("backends.workers.public_url", "https://other.example.com".into()),
                ("server.public_url", "https://api.example.com:443/".into()),
            ],
            "wss://api.example.com",
        ),
    ];
    for (changes, base) in cases {
        let gateway =
            Gateway::with(set, |table| changes.into_iter().for_each(|(key, value)| set_key(table, key, value)));
        let user = set.user();
        let answer = client::send(gateway.addr(), &start_as(&user, "ws-1"));
        let job = answer.field("job_id");
        let expected =
            format!(r#"{{"job_id":"{job}","status":"processing","websocket_url":"{base}/api/jobs/{job}/ws"}}"#);
        assert_eq!((answer.status, answer.text()), (200, expected.clone()));
        let mut headers: Vec<_> =
            answer.head.headers.iter().map(|(name, value)| (name.to_ascii_lowercase(), value.clone())).collect();
        headers.sort();
        let length = expected.len().to_string();
        let wanted = [
            ("content-length", length.as_str()),
            ("content-type", "application/json"),
            ("x-export-backend", "workers"),
            ("x-request-id", "ws-1"),
        ];
        assert_eq!(headers, wanted.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }
}

#[test]
fn of_workers_headers_three_reach_the_client() {
    let set = parts::shared();
    let gateway = Gateway::start(set);
    let user = set.user();
    let added = json!([
        ["cache-control", "no-store"],
        ["retry-after", "7"],
        ["set-cookie", "evil=1"],
        ["server", "cloudflare"],
        ["cf-ray", "x"],
        ["x-export-backend", "legacy"],
        ["x-request-id", "theirs"]
    ]);
    set.workers.fault(json!({"start": {"mode": "pass", "user": user, "headers": added}}));
    let answer = client::send(gateway.addr(), &start_as(&user, "three"));
    let mut names: Vec<_> = answer.head.headers.iter().map(|(name, _)| name.to_ascii_lowercase()).collect();
    names.sort();
    let wanted = ["cache-control", "content-length", "content-type", "retry-after", "x-export-backend", "x-request-id"];
    assert_eq!(names, wanted);
    assert_eq!(answer.header("x-export-backend"), Some("workers"));
    assert_eq!(answer.header("x-request-id"), Some("three"));
}

#[test]
fn a_request_id_is_kept_if_it_is_plain_and_made_if_not() {
    let set = parts::shared();
    let gateway = Gateway::start(set);
    let longest = "x".repeat(128);
    let too_long = "x".repeat(129);
    let cases: [(&[&str], bool); 10] = [
        (&["a"], true),
        (&["!~\"\\{}<>;,"], true),
        (&[&longest], true),
        (&[&too_long], false),
        (&[""], false),
        (&["a b"], false),
        (&["a\tb"], false),
        (&["caf\u{e9}"], false),
        (&["twice", "twice"], false),
        (&[], false),
    ];
    for (ids, kept) in cases {
        let user = set.user();
        let mut request = client::Request::post_json("/api/export/overlay/start", &client::overlay(12)).user(&user);
        for id in ids {
            request = request.header("X-Request-Id", id);
        }
        let answer = client::send(gateway.addr(), &request);
        let id = answer.header("x-request-id").expect("an id").to_owned();
        assert_eq!(answer.all("x-request-id").len(), 1);
        if kept {
            assert_eq!([id.as_str()], ids);
        } else {
            assert!(is_uuid(&id), "{id} for {ids:?}");
        }
        assert_eq!(header(&only(&set.workers, "start", &user), "x-request-id"), id);
        // The same rule for the other routes: an answer of legacy's to a poll, and a refusal of our own.
        let mut poll = Request::get("/api/export/overlay/status/no-such-job").user(&user);
        for id in ids {
            poll = poll.header("X-Request-Id", id);
        }
        let answer = client::send(gateway.addr(), &poll);
        assert_eq!((answer.status, answer.all("x-request-id").len()), (404, 1));
        assert_eq!(kept, ids.first() == answer.header("x-request-id").as_ref());
    }
}

#[test]
fn passed_answers_get_nothing_added_but_legacy_gets_the_request_id() {
    let set = parts::shared();
    let gateway = Gateway::start(set);
    let user = unique_user();
    let request = Request::get("/api/projects").user(&user);
    let answer = client::send(gateway.addr(), &request.clone().header("X-Request-Id", "mine"));
    assert_eq!((answer.status, answer.text().as_str()), (200, "[]"));
    assert_eq!((answer.header("x-request-id"), answer.header("x-export-backend")), (None, None));
    assert_eq!(client::send(gateway.addr(), &request).status, 200);
    let ids: Vec<_> =
        set.legacy.seen_from("other", &user).iter().map(|request| header(request, "x-request-id")).collect();
    assert_eq!(ids[0], "mine");
    assert!(is_uuid(&ids[1]), "{ids:?}");
}

#[test]
fn no_working_video_is_said_in_legacys_own_bytes() {
    let set = parts::shared();
    let gateway = Gateway::start(set);
    let user = set.user();
    let body = client::overlay(13).to_string();
    let ours = client::send(gateway.addr(), &start_of("overlay", &body).user(&user));
    assert!(set.legacy.seen_from("start", &user).is_empty() && set.workers.seen_from("start", &user).is_empty());
    let legacys = client::send(set.legacy.addr(), &start_of("overlay", &body).user(&user));
    assert_eq!((ours.status, ours.text()), (legacys.status, legacys.text()));
    assert_eq!((ours.status, ours.text().as_str()), (400, r#"{"detail":"No working video found"}"#));
    assert_eq!(ours.header("content-type"), legacys.header("content-type"));
    assert_eq!(set.jobs_of(&user), (0, 0));
}

#[test]
fn the_user_that_is_decided_is_the_user_that_workers_hear_of() {
    let set = parts::shared();
    let rude = Rude::start(|n| vec![Step::ReadRequest, Step::json(200, &format!(r#"{{"job_id":"user-{n}"}}"#))]);
    let gateway = Gateway::start(scene::workers_at(set, rude.url()));
    let user = format!("{}\u{e9}\u{b5}", unique_user());
    set.legacy.add_video(&user, 12, "clip.mp4");
    // What legacy drops is dropped before the look-up, so no id leaves its folder.
    let request = start_as(&format!("../{user}/ ;\u{d7}"), "user").header("X_User_Id", "somebody-else");
    let answer = client::send(gateway.addr(), &request);
    assert_eq!((answer.status, answer.header("x-export-backend")), (200, Some("workers")), "{}", answer.text());
    // UTF-8, which is how the Worker's runtime reads header values.
    let received = rude.received().remove(0);
    let received = fields(&String::from_utf8(received).unwrap().chars().map(|c| c as u8).collect::<Vec<_>>());
    let named: Vec<_> = received.iter().filter(|(name, _)| name.to_ascii_lowercase().contains("user")).collect();
    assert_eq!(named.iter().map(|(_, value)| value).collect::<Vec<_>>(), [&user]);
}

fn is_uuid(text: &str) -> bool {
    let lengths: Vec<_> = text.split('-').map(str::len).collect();
    lengths == [8, 4, 4, 4, 12] && text.bytes().all(|byte| byte == b'-' || byte.is_ascii_hexdigit())
}
