//! Who goes where: the share, the pinned users, the switch; and what the log and the metrics say about it.

use std::collections::HashMap;

use export_gateway::names::{BackendName, UserId};
use export_gateway::routing::decide::decide;
use export_gateway::routing::table::{Rollout, Share};
use serde_json::json;
use toml::Table;

use crate::support::client::{self, Connection, Request};
use crate::support::gateway::{Backends, Gateway, set, unset};
use crate::support::parts::{self, header_of};
use crate::support::rude::{Rude, Step};
use crate::support::scene::{calm, line_of, start_as, start_of};

/// Hundredths of a percent, growing.
const SHARES: [u16; 6] = [0, 50, 100, 1_000, 5_000, 10_000];

fn home(user: &str, share: u16) -> BackendName {
    let share = Share::from_hundredths(share).expect("a share");
    let rollout = Rollout { workers: true, share, salt: "exports".into(), pinned: HashMap::new() };
    decide(&rollout, share, UserId::from_text(user).as_ref()).backend
}

#[test]
fn a_growing_share_moves_users_one_way() {
    const USERS: usize = 10_000;
    let users: Vec<String> = (0..USERS).map(|n| format!("customer-{n}")).collect();
    let mut before = vec![BackendName::Legacy; USERS];
    for share in SHARES {
        let now: Vec<BackendName> = users.iter().map(|user| home(user, share)).collect();
        let back =
            before.iter().zip(&now).filter(|pair| *pair == (&BackendName::Workers, &BackendName::Legacy)).count();
        assert_eq!(back, 0, "users moved back at {share}");
        let moved = now.iter().filter(|home| **home == BackendName::Workers).count();
        let expected = USERS * usize::from(share) / 10_000;
        // Six standard deviations of a binomial with n = 10,000: 300 at 50 %.
        assert!(moved.abs_diff(expected) <= 300, "{moved} of {USERS} at {share}");
        if share == 0 || share == 10_000 {
            assert_eq!(moved, expected);
        }
        println!("  {:>6} %: {moved} of {USERS} on workers", f64::from(share) / 100.0);
        before = now;
    }
}

/// Both backends as raw servers that accept every start; a connection carries one.
struct Both {
    legacy: Rude,
    workers: Rude,
}

impl Both {
    fn start() -> Both {
        let accepting = |name: &'static str| {
            Rude::start(move |n| {
                let body = format!(r#"{{"job_id":"{name}-{n}","status":"processing"}}"#);
                let length = body.len();
                let head = format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n");
                vec![Step::ReadRequest, Step::Send([head.as_bytes(), body.as_bytes()].concat())]
            })
        };
        Both { legacy: accepting("legacy"), workers: accepting("workers") }
    }

    fn gateway(&self, change: impl FnOnce(&mut Table)) -> Gateway {
        let backends = Backends { legacy: self.legacy.url(), workers: self.workers.url(), data: std::env::temp_dir() };
        Gateway::with(backends, |table| {
            calm(table);
            unset(table, "exports.overlay");
            set(table, "exports.overlay.input_key.field", "key");
            change(table);
        })
    }
}

const BODY: &str = r#"{"project_id":1,"key":"k"}"#;

#[test]
fn over_http_users_go_where_the_library_says() {
    let both = Both::start();
    for share in [50, 1_000, 5_000] {
        let gateway = both.gateway(|table| set(table, "rollout.percent", f64::from(share) / 100.0));
        let mut connection = Connection::open(gateway.addr());
        let mut on_workers = 0;
        for n in 0..300 {
            let user = format!("customer-{n}");
            let answer = connection.exchange(&start_of("overlay", BODY).user(&user)).unwrap();
            let expected = home(&user, share).as_str();
            assert_eq!((answer.status, answer.header("x-export-backend")), (200, Some(expected)), "{user} at {share}");
            assert!(answer.field("job_id").starts_with(expected));
            on_workers += usize::from(expected == "workers");
        }
        let count = |backend| {
            let labels = [("backend", backend), ("reason", "canary"), ("outcome", "accepted"), ("type", "overlay")];
            gateway.metric("export_gateway_starts_total", &labels)
        };
        assert_eq!((count("workers"), count("legacy")), (on_workers as f64, (300 - on_workers) as f64));
    }
}

#[test]
fn every_decision_has_its_reason() {
    let both = Both::start();
    let pinned = |table: &mut Table| {
        set(table, "rollout.always_workers", vec![toml::Value::from("new")]);
        set(table, "rollout.always_legacy", vec![toml::Value::from("old")]);
    };
    // The user "a" has bucket 2,387 or so; what matters is that 0 % and 100 % leave no doubt.
    type Case = (&'static str, fn(&mut Table), Option<&'static str>, &'static str, &'static str);
    let cases: [Case; 11] = [
        ("switch", |table| set(table, "rollout.workers", false), Some("new"), "legacy", "switch_off"),
        ("switch-anonymous", |table| set(table, "rollout.workers", false), None, "legacy", "switch_off"),
        ("anonymous", |table| unset(table, "identity.default"), None, "legacy", "anonymous"),
        ("nothing-left", |table| unset(table, "identity.default"), Some("/;."), "legacy", "anonymous"),
        ("old", |_| {}, Some("old"), "legacy", "always_legacy"),
        ("old-filtered", |_| {}, Some("o/l.d"), "legacy", "always_legacy"),
        ("new", |table| set(table, "rollout.percent", 0), Some("new"), "workers", "always_workers"),
        ("share-0", |table| set(table, "rollout.percent", 0), Some("who"), "legacy", "canary"),
        ("share-100", |_| {}, Some("who"), "workers", "canary"),
        ("default-user", |_| {}, None, "workers", "canary"),
        ("default-is-old", |table| set(table, "identity.default", "old"), None, "legacy", "always_legacy"),
    ];
    for (id, change, user, backend, reason) in cases {
        let gateway = both.gateway(|table| {
            pinned(table);
            change(table);
        });
        let mut request = start_of("overlay", BODY).header("X-Request-Id", id);
        if let Some(user) = user {
            request = request.user(user);
        }
        let answer = client::send(gateway.addr(), &request);
        assert_eq!((answer.status, answer.header("x-export-backend")), (200, Some(backend)), "{id}");
        let line = line_of(&gateway, id);
        assert_eq!((&line["reason"], &line["decision"]), (&json!(reason), &json!(backend)), "{line}");
        assert_eq!(line["bucket"].is_number(), reason == "canary", "{line}");
        let labels = [("reason", reason), ("backend", backend), ("outcome", "accepted")];
        assert_eq!(gateway.metric("export_gateway_starts_total", &labels), 1.0, "{id}");
        assert_eq!(gateway.metric("export_gateway_starts_total", &[]), 1.0, "{id}");
    }
}

#[test]
fn a_type_can_have_a_share_of_its_own_and_users_keep_their_place() {
    let both = Both::start();
    let gateway = both.gateway(|table| {
        set(table, "rollout.percent", 50);
        set(table, "exports.overlay.percent", 0);
        set(table, "exports.framing.percent", 100);
        set(table, "exports.annotate.input_key.field", "key");
        set(table, "exports.framing.input_key.field", "key");
    });
    let mut connection = Connection::open(gateway.addr());
    for n in 0..40 {
        let user = format!("customer-{n}");
        let mut start = |export: &str| {
            let answer = connection.exchange(&start_of(export, BODY).user(&user)).unwrap();
            answer.header("x-export-backend").expect("a backend").to_owned()
        };
        let homes = [start("overlay"), start("framing"), start("annotate")];
        assert_eq!(homes, ["legacy", "workers", home(&user, 5_000).as_str()], "{user}");
    }
    for (export, percent) in [("overlay", 0.0), ("framing", 100.0), ("annotate", 50.0)] {
        assert_eq!(gateway.metric("export_gateway_rollout_percent", &[("type", export)]), percent);
    }
}

#[test]
fn a_type_that_is_not_listed_and_another_method_are_legacys() {
    let set = parts::shared();
    let gateway = Gateway::start(set);
    let user = set.user();
    for (method, target) in [
        ("POST", "/api/export/multiplayer/start"),
        ("POST", "/api/export/overlay/start/"),
        ("GET", "/api/export/overlay/start"),
        ("PUT", "/api/export/overlay/start"),
        ("POST", "/api/export/Overlay/start"),
        ("POST", "/api/export/status/some-job"),
        ("GET", "/api/export/overlay/status/no.such.job"),
    ] {
        let request = Request::new(method, target).user(&user).header("Content-Type", "application/json");
        let request = request.body(client::overlay(12).to_string());
        let (ours, direct) = (client::send(gateway.addr(), &request), client::send(set.legacy.addr(), &request));
        assert_eq!((ours.status, ours.text()), (direct.status, direct.text()), "{method} {target}");
        assert_eq!(ours.header("x-export-backend"), None, "{method} {target}");
    }
    assert!(set.workers.seen_from("start", &user).is_empty());
    assert_eq!(set.jobs_of(&user), (0, 0));
    // Legacy's router decodes once: so does the gateway, and nothing slips past.
    let encoded = Request::post_json("/api/%65xport/%6fverlay/st%61rt", &client::overlay(12)).user(&user);
    assert_eq!(client::send(gateway.addr(), &encoded).header("x-export-backend"), Some("workers"));
}

#[test]
fn a_header_from_outside_the_trusted_networks_names_nobody() {
    let set = parts::shared();
    let gateway = Gateway::with(set, |table| {
        crate::support::gateway::set(table, "identity.trusted", vec![toml::Value::from("10.0.0.0/8")]);
        unset(table, "identity.default");
    });
    let user = set.user();
    let answer = client::send(gateway.addr(), &start_as(&user, "untrusted"));
    assert_eq!(answer.header("x-export-backend"), Some("legacy"));
    assert_eq!(line_of(&gateway, "untrusted")["reason"], "anonymous");
    let seen = set.legacy.seen_of("start");
    let seen = seen.iter().find(|seen| header_of(seen, "x-request-id") == ["untrusted"]).expect("the start");
    assert!(header_of(seen, "x-user-id").is_empty(), "{seen}");
}
