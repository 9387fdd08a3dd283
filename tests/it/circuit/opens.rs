//! What opens the circuit, and what does not.

use std::time::Duration;

use serde_json::json;
use toml::Table;

use super::{Bench, CLOSED, DECLINE, OPEN, gateway, readyz, start, state};
use crate::support::client;
use crate::support::gateway::set;
use crate::support::rude::{BlackHole, refused_addr};
use crate::support::scene::{assert_own, line_of, poll_of, start_of};
use crate::support::stand_in::{Say, StandIn};

#[test]
fn failures_in_a_row_open_it_and_everybody_can_see_that() {
    let bench = Bench::with(|_| {});
    assert_eq!(readyz(&bench.gateway), (200, json!({"status": "ready", "reasons": []})));
    for round in [[DECLINE, DECLINE, Say::Job], [DECLINE, DECLINE, DECLINE]] {
        for say in round {
            assert_eq!(bench.state(), CLOSED);
            bench.workers.say(say);
            assert_eq!(bench.taken_by("before"), if say == Say::Job { "workers" } else { "legacy" });
        }
    }
    assert_eq!((bench.state(), bench.starts()), (OPEN, (5, 6)));
    assert_eq!(bench.gateway.events("circuit of workers opened").len(), 1);

    bench.workers.say(Say::Job);
    assert_eq!(bench.taken_by("after"), "legacy");
    assert_eq!(bench.starts(), (6, 6), "workers are left alone");
    let line = line_of(&bench.gateway, "after");
    let fields =
        ["reason", "outcome", "fallback", "decision", "backend"].map(|name| line[name].as_str().unwrap_or("-"));
    assert_eq!(fields, ["circuit_open", "accepted", "circuit_open", "legacy", "legacy"], "{line}");
    let labels = [("type", "overlay"), ("backend", "legacy"), ("reason", "circuit_open"), ("outcome", "accepted")];
    assert_eq!(bench.gateway.metric("export_gateway_starts_total", &labels), 1.0);
    let fallbacks = |cause| bench.gateway.metric("export_gateway_fallbacks_total", &[("cause", cause)]);
    assert_eq!((fallbacks("circuit_open"), fallbacks("declined_503")), (1.0, 5.0));
    let (status, body) = readyz(&bench.gateway);
    assert_eq!(
        (status, &body["status"], &body["reasons"][0]["code"]),
        (200, &json!("degraded"), &json!("circuit_open"))
    );
    assert!(body["reasons"][0]["detail"].as_str().is_some_and(|detail| detail.contains("workers")), "{body}");
}

#[test]
fn a_share_of_failures_opens_it_once_there_are_enough() {
    // f: a failure. Five of five are too few starts, 4 of 9 too few failures: only the last of each row opens it.
    for row in ["ffffff", "jjjjfffjff"] {
        let bench = Bench::with(|table| {
            set(table, "circuit.consecutive", 1_000_000);
            set(table, "circuit.minimum", 6);
            set(table, "circuit.failure_share", 0.5);
            set(table, "circuit.window", "1h");
        });
        for (at, say) in row.chars().enumerate() {
            assert_eq!(bench.state(), CLOSED, "{row}, before number {at}");
            bench.workers.say(if say == 'f' { DECLINE } else { Say::Job });
            bench.taken_by("share");
        }
        assert_eq!((bench.state(), bench.workers.starts()), (OPEN, row.len()), "{row}");
    }
}

#[test]
fn failures_older_than_the_window_are_forgotten() {
    let bench = Bench::with(|table| {
        set(table, "circuit.consecutive", 1_000_000);
        set(table, "circuit.minimum", 4);
        set(table, "circuit.window", "1s");
    });
    bench.workers.say(DECLINE);
    for _ in 0..3 {
        bench.taken_by("old");
    }
    // What is waited for is the window itself.
    std::thread::sleep(Duration::from_millis(1_100));
    bench.taken_by("new");
    assert_eq!(bench.state(), CLOSED);
}

#[test]
fn every_failure_of_workers_counts() {
    let (refused, black_hole) = (format!("http://{}", refused_addr()), BlackHole::open());
    let told = [
        Say::Status(503, ""),
        Say::Status(429, ""),
        Say::Status(500, ""),
        Say::Status(502, ""),
        Say::Status(302, "Location: /\r\n"),
        Say::Cut,
    ];
    for say in told {
        let bench = Bench::with(|table| set(table, "circuit.consecutive", 1));
        bench.workers.say(say);
        bench.start("counts");
        assert_eq!((bench.state(), bench.workers.starts()), (OPEN, 1), "{say:?}");
    }
    for url in [refused.as_str(), &black_hole.url(), "http://does-not-exist.invalid"] {
        let legacy = StandIn::start("l");
        let gateway = gateway(&legacy, url, |table| {
            set(table, "circuit.consecutive", 1);
            set(table, "backends.workers.connect_timeout", "200ms");
        });
        assert_eq!(start(&gateway, "counts").header("x-export-backend"), Some("legacy"));
        assert_eq!((state(&gateway), legacy.starts()), (OPEN, 1), "{url}");
    }
}

#[test]
fn what_says_nothing_of_workers_does_not_count() {
    let bench = Bench::with(|table| {
        // The first thing that counts as a failure opens it.
        set(table, "circuit.consecutive", 1);
        set(table, "server.threads", 1);
        let lookup = toml::toml! {
            database = "/nonexistent/{user_id}.sqlite"
            query = "SELECT filename FROM working_videos WHERE project_id = :project_id"
            key = "{filename}"
        };
        set(table, "exports.framing.input_key", lookup);
    });
    for (status, taken_by) in [(404, "legacy"), (405, "legacy"), (400, "workers"), (401, "workers"), (422, "workers")] {
        bench.workers.say(Say::Status(status, ""));
        let answer = bench.start("status");
        assert_eq!(answer.header("x-export-backend"), Some(taken_by), "{status}");
        assert_eq!(bench.state(), CLOSED, "{status}");
    }
    bench.workers.say(Say::Job);
    let job = bench.start("job").field("job_id");

    let failed = start_of("framing", r#"{"project_id":12}"#).user("moves").header("X-Request-Id", "look-up");
    assert_eq!(client::send(bench.gateway.addr(), &failed).header("x-export-backend"), Some("legacy"));
    assert_eq!(line_of(&bench.gateway, "look-up")["fallback"], "lookup_failed");
    assert_eq!(bench.state(), CLOSED);

    // A kept connection is gone when it is wanted: handed back unwritten, and sent on a new one.
    let before = bench.workers.backend().connections();
    bench.workers.backend().cut_all();
    assert_eq!(bench.taken_by("handed-back"), "workers");
    assert_eq!((bench.workers.backend().connections(), bench.state()), (before + 1, CLOSED));

    // Polls fail with workers away.
    let table: Table = bench.gateway.config_text().parse().unwrap();
    let refused = format!("http://{}", refused_addr());
    bench.gateway.edit(|table| set(table, "backends.workers.url", refused.as_str()));
    for _ in 0..5 {
        let answer = client::send(bench.gateway.addr(), &poll_of("moves", &job, None));
        assert_own(&answer, 503, "owner_unavailable");
        assert_eq!(answer.header("x-export-backend"), Some("workers"));
    }
    assert_eq!(bench.state(), CLOSED);
    bench.gateway.edit(|changed| *changed = table);
    bench.workers.say(DECLINE);
    bench.taken_by("counts");
    assert_eq!(bench.state(), OPEN, "what counts opens it at once");
}
