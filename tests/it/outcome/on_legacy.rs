//! Starts that were decided for legacy: one backend, one try, its answer unchanged.

use std::time::Duration;

use serde_json::{Value, json};

use super::{USER, parts};
use crate::support::client::{self, Response};
use crate::support::gateway::{Gateway, set as set_key};
use crate::support::parts::Set;
use crate::support::rude::{BlackHole, Rude, Step, refused_addr};
use crate::support::scene::{self, assert_own, everybody_on_legacy, line_of, poll_of, start_as};

/// Where a start on legacy must have ended.
#[derive(Debug, Clone, Copy)]
enum Ended {
    /// Legacy's own answer, with this status and outcome.
    Own(u16, &'static str),
    /// Our answer with this status and code.
    Ours(u16, &'static str),
}

struct Rows(Vec<(String, Ended, usize, usize)>);

impl Rows {
    fn play(&mut self, set: &Set, gateway: &Gateway, what: &str, made: usize, ended: Ended) -> Response {
        let before = set.jobs_of(USER);
        let id = format!("row-{}", self.0.len());
        let answer = client::send(gateway.addr(), &start_as(USER, &id));
        let after = set.jobs_of(USER);
        let jobs = (after.0 - before.0, after.1 - before.1);
        assert_eq!(jobs, (made, 0), "{what}: {}", answer.text());
        let saw = set.legacy.count("start") as usize;
        assert!(saw <= 1, "{what}: sent {saw} times");
        assert_eq!(set.workers.count("start"), 0, "{what}");
        match ended {
            Ended::Own(status, _) => assert_eq!(answer.status, status, "{what}: {}", answer.text()),
            Ended::Ours(status, code) => {
                assert_own(&answer, status, code);
                assert_eq!(answer.header("retry-after").is_some(), code == "no_backend", "{what}");
            }
        }
        assert_eq!(answer.header("x-export-backend"), Some("legacy"), "{what}");
        self.0.push((what.to_owned(), ended, saw, made));
        set.legacy.reset();
        answer
    }

    fn finish(&self, gateway: &Gateway) {
        println!("\n  {:<44} {:>4} {:>4}  answer", "what legacy did", "saw", "jobs");
        for (n, (what, ended, saw, made)) in self.0.iter().enumerate() {
            let line = line_of(gateway, &format!("row-{n}"));
            let (shown, outcome) = match ended {
                Ended::Own(status, outcome) => (format!("{status}, its own"), *outcome),
                Ended::Ours(status, code) => {
                    (format!("{status} {code}"), if *code == "no_backend" { "not_sent" } else { "unknown" })
                }
            };
            assert_eq!((&line["outcome"], &line["reason"]), (&json!(outcome), &json!("switch_off")), "{line}");
            println!("  {what:<44} {saw:>4} {made:>4}  {shown}; {outcome}");
        }
    }
}

#[test]
fn legacys_answer_is_passed_on_whatever_it_says() {
    let set = parts();
    let gateway = Gateway::with(&*set, everybody_on_legacy);
    let mut rows = Rows(Vec::new());
    let accepted = rows.play(&set, &gateway, "accepted", 1, Ended::Own(200, "accepted"));
    let poll = client::send(gateway.addr(), &poll_of(USER, &accepted.field("job_id"), None));
    assert_eq!((poll.status, poll.header("x-export-backend")), (200, Some("legacy")));
    assert_eq!((set.legacy.count("status"), set.workers.count("status")), (1, 0), "the owner is stored");
    set.legacy.reset();
    let own = |status, outcome| Ended::Own(status, outcome);
    let answer = |status: u16, body: &str| json!({"mode": "answer", "status": status, "body": body});
    let cases: Vec<(&str, Value, usize, Ended)> = vec![
        ("200 without job_id", json!({"mode": "no_job_id"}), 1, own(200, "accepted")),
        ("200 with a hostile job_id", json!({"mode": "job_id", "value": "../../x"}), 1, own(200, "accepted")),
        ("200 malformed", json!({"mode": "malformed_json"}), 1, own(200, "accepted")),
        ("200 garbage", json!({"mode": "garbage"}), 1, own(200, "accepted")),
        ("200 gzip", json!({"mode": "gzip"}), 1, own(200, "accepted")),
        ("204", answer(204, "empty"), 0, own(204, "accepted")),
        ("302", json!({"mode": "redirect", "status": 302}), 0, own(302, "unknown")),
        ("307", json!({"mode": "redirect", "status": 307}), 0, own(307, "unknown")),
        ("400", answer(400, "json"), 0, own(400, "rejected")),
        ("404", answer(404, "html"), 0, own(404, "rejected")),
        ("429", answer(429, "empty"), 0, own(429, "rejected")),
        ("500", answer(500, "json"), 0, own(500, "unknown")),
        ("500 with a job", json!({"mode": "error_with_job"}), 1, own(500, "unknown")),
        ("503", answer(503, "json"), 0, own(503, "unknown")),
        ("520", answer(520, "html"), 0, own(520, "unknown")),
    ];
    for (what, fault, made, ended) in cases {
        set.legacy.fault(json!({"start": fault}));
        let direct = client::send(set.legacy.addr(), &start_as(USER, "direct"));
        set.legacy.reset();
        set.legacy.fault(json!({"start": fault}));
        let answer = rows.play(&set, &gateway, what, made, ended);
        if made == 0 {
            assert_eq!(answer.text(), direct.text(), "{what}");
        }
        for name in ["content-type", "content-encoding", "location", "server"] {
            assert_eq!(answer.header(name), direct.header(name), "{what}: {name}");
        }
    }
    rows.finish(&gateway);
}

#[test]
fn a_start_that_breaks_on_legacy_is_unknown() {
    let set = parts();
    let gateway = Gateway::with(&*set, |table| {
        everybody_on_legacy(table);
        set_key(table, "backends.legacy.start_timeout", "500ms");
    });
    let mut rows = Rows(Vec::new());
    for how in ["reset", "close"] {
        for at in ["before_head", "mid_head", "mid_body"] {
            set.legacy.fault(json!({"start": {"mode": "cut", "at": at, "how": how}}));
            let what = format!("{how} {}", at.replace('_', " "));
            rows.play(&set, &gateway, &what, 1, Ended::Ours(502, "start_outcome_unknown"));
        }
    }
    let cases = [
        ("no HTTP at all", json!({"mode": "raw", "bytes": "what?\r\n\r\n"}), 502),
        ("100 MiB", json!({"mode": "huge_json"}), 502),
        ("never answers", json!({"mode": "stall", "seconds": 2}), 504),
        ("answers too late", json!({"mode": "pass", "delay_after_ms": 800}), 504),
    ];
    for (what, fault, status) in cases {
        set.legacy.fault(json!({"start": fault}));
        rows.play(&set, &gateway, what, 1, Ended::Ours(status, "start_outcome_unknown"));
    }
    rows.finish(&gateway);
}

#[test]
fn a_legacy_that_cannot_be_reached_is_no_backend() {
    let set = parts();
    let black_hole = BlackHole::open();
    for (what, url) in [("refused", format!("http://{}", refused_addr())), ("black hole", black_hole.url())] {
        let gateway = Gateway::with(scene::legacy_at(&set, url), |table| {
            everybody_on_legacy(table);
            set_key(table, "backends.legacy.connect_timeout", "200ms");
        });
        let mut rows = Rows(Vec::new());
        rows.play(&set, &gateway, what, 0, Ended::Ours(503, "no_backend"));
        rows.finish(&gateway);
    }
}

#[test]
fn legacy_gets_a_start_once_whatever_it_does_with_the_connection() {
    let set = parts();
    let scripts: [Vec<Step>; 4] = [
        vec![Step::ReadBytes(1), Step::Reset],
        vec![Step::ReadBytes(1), Step::Close],
        vec![Step::ReadRequest, Step::Reset],
        vec![Step::ReadHead, Step::Wait(Duration::from_millis(20)), Step::Close],
    ];
    for script in scripts {
        let rude = Rude::always(script.clone());
        let gateway = Gateway::with(scene::legacy_at(&set, rude.url()), everybody_on_legacy);
        let answer = client::send(gateway.addr(), &start_as(USER, "rude"));
        assert_own(&answer, 502, "start_outcome_unknown");
        assert_eq!(rude.connections(), 1, "{script:?}");
    }
}

#[test]
fn a_legacy_that_closes_at_once_is_tried_once() {
    // Whether a byte left first is a race; it decides which of the two is true, and both are said as they are.
    let set = parts();
    for end in [Step::Reset, Step::Close] {
        let rude = Rude::always(vec![end]);
        let gateway = Gateway::with(scene::legacy_at(&set, rude.url()), everybody_on_legacy);
        for n in 1..=20 {
            let answer = client::send(gateway.addr(), &start_as(USER, "at-once"));
            match answer.status {
                503 => assert_own(&answer, 503, "no_backend"),
                _ => assert_own(&answer, 502, "start_outcome_unknown"),
            };
            assert_eq!(rude.connections(), n);
        }
    }
}
