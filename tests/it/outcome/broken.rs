//! Starts whose connection broke after workers may have read them: Unknown, whatever a byte of the answer said.

use std::time::Duration;

use serde_json::json;

use super::{Stage, Then, USER};
use crate::support::client;
use crate::support::gateway::set;
use crate::support::rude::Step;
use crate::support::scene::{assert_own, start_as};

const ACCEPTED: &str =
    "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 19\r\n\r\n{\"job_id\":\"rude-1\"}";

/// The accepted answer up to here.
fn first(bytes: usize) -> Step {
    Step::Send(ACCEPTED.as_bytes()[..bytes].to_vec())
}

#[test]
fn an_answer_that_breaks_off_is_unknown() {
    let mut stage = Stage::rude(|table| set(table, "backends.workers.start_timeout", "5s"));
    let head = ACCEPTED.find("\r\n\r\n").unwrap() + 4;
    for (how, end) in [("reset", Step::Reset), ("closed", Step::Close)] {
        // A byte of the body first: the kernel must have taken it before the end comes.
        let pause = Step::Wait(Duration::from_millis(20));
        let cases = [
            ("after one byte of the request", vec![Step::ReadBytes(1), end.clone()], 502),
            ("after the request's head", vec![Step::ReadHead, end.clone()], 502),
            ("before the answer", vec![Step::ReadRequest, end.clone()], 502),
            ("in the status line", vec![Step::ReadRequest, first(9), pause.clone(), end.clone()], 502),
            ("in the head", vec![Step::ReadRequest, first(40), pause.clone(), end.clone()], 502),
            ("after the head", vec![Step::ReadRequest, first(head), pause.clone(), end.clone()], 502),
            ("in the body", vec![Step::ReadRequest, first(ACCEPTED.len() - 1), pause.clone(), end.clone()], 502),
        ];
        for (what, steps, status) in cases {
            stage.script([steps]);
            stage.play(&format!("{how} {what}"), 0, Then::Unknown(status));
        }
    }
    stage.finish();
}

#[test]
fn a_connection_closed_at_once_is_judged_by_whether_a_byte_left() {
    for end in [Step::Reset, Step::Close] {
        let stage = Stage::rude(|_| {});
        stage.script([vec![end]]);
        let mut unknown = 0;
        for n in 0..20 {
            let before = stage.jobs();
            let answer = client::send(stage.gateway.addr(), &start_as(USER, &format!("once-{n}")));
            let made = stage.jobs().0 - before.0;
            if answer.status == 200 {
                // Handed back unwritten: nothing had left, so legacy took it.
                assert_eq!((made, answer.header("x-export-backend")), (1, Some("legacy")));
            } else {
                assert_own(&answer, 502, "start_outcome_unknown");
                assert_eq!(made, 0);
                unknown += 1;
            }
            assert_eq!(stage.set.legacy.seen_of("start").len(), n + 1 - unknown);
        }
    }
}

#[test]
fn an_answer_that_lies_about_itself_is_unknown() {
    let mut stage = Stage::rude(|table| set(table, "backends.workers.start_timeout", "5s"));
    let json = |fields: &str, body: &str| {
        vec![
            Step::ReadRequest,
            Step::text(&format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n{fields}\r\n{body}")),
        ]
    };
    let body = r#"{"job_id":"rude-1"}"#;
    let chunk = |size: &str| format!("{size}\r\n{body}\r\n0\r\n\r\n");
    let cases = [
        ("Content-Length too long", json("Content-Length: 30\r\n", body)),
        ("Content-Length too short", json("Content-Length: 18\r\n", body)),
        ("Content-Length a word", json("Content-Length: many\r\n", body)),
        ("two Content-Length", json("Content-Length: 19\r\nContent-Length: 20\r\n", body)),
        ("chunk too long", json("Transfer-Encoding: chunked\r\n", &chunk("1e"))),
        ("chunk size a word", json("Transfer-Encoding: chunked\r\n", &chunk("many"))),
        ("chunks without an end", json("Transfer-Encoding: chunked\r\n", &format!("13\r\n{body}\r\n"))),
        ("no HTTP at all", vec![Step::ReadRequest, Step::text("SSH-2.0-OpenSSH_9.2\r\n\r\n")]),
        ("HTTP/2 without being asked", vec![Step::ReadRequest, Step::text("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")]),
        ("NUL in a field", json("X-A: a\0b\r\nContent-Length: 19\r\n", body)),
        (
            "101 without being asked",
            vec![
                Step::ReadRequest,
                Step::text("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"),
            ],
        ),
        ("head of 1 MiB", json(&format!("X-Pad: {}\r\nContent-Length: 19\r\n", "x".repeat(1 << 20)), body)),
        ("a 103 and then nothing", vec![Step::ReadRequest, Step::text("HTTP/1.1 103 Early Hints\r\n\r\n")]),
    ];
    for (what, steps) in cases {
        stage.script([steps]);
        stage.play(what, 0, Then::Unknown(502));
    }
    stage.finish();
}

#[test]
fn an_odd_answer_that_is_whole_is_accepted() {
    let mut stage = Stage::rude(|table| set(table, "backends.workers.start_timeout", "20s"));
    // The poll that follows is answered, too.
    let polled = |job: &str| vec![Step::ReadRequest, Step::json(200, &format!(r#"{{"job_id":"{job}"}}"#))];
    let cases = [
        ("no length, until the end", "HTTP/1.1 200 OK\r\n\r\n{\"job_id\":\"rude-a\"}".to_owned(), "rude-a"),
        ("HTTP/1.0", "HTTP/1.0 200 OK\r\n\r\n{\"job_id\":\"rude-b\"}".to_owned(), "rude-b"),
        (
            "chunks, 100 before",
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201 Made\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{\"job\r\ne;x=y\r\n_id\":\"rude-c\"}\r\n0\r\nX: y\r\n\r\n"
                .to_owned(),
            "rude-c",
        ),
    ];
    for (what, answer, job) in cases {
        stage.script([vec![Step::ReadRequest, Step::text(&answer)], polled(job)]);
        stage.play(what, 0, Then::Accepted);
    }
    let slow = r#"{"job_id":"rude-d"}"#;
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{slow}", slow.len());
    let drip = vec![Step::ReadRequest, Step::Dribble(head.into_bytes(), Duration::from_millis(5))];
    stage.script([drip, polled("rude-d")]);
    stage.play("one byte at a time, whole in time", 0, Then::Accepted);
    stage.finish();
}

#[test]
fn an_answer_that_does_not_come_in_time_is_unknown() {
    let mut stage = Stage::rude(|table| set(table, "backends.workers.start_timeout", "400ms"));
    let drip = Step::Dribble(ACCEPTED.as_bytes().to_vec(), Duration::from_millis(50));
    let cases = [
        ("accepts and reads nothing", vec![Step::Stall]),
        ("reads and never answers", vec![Step::ReadRequest, Step::Stall]),
        ("stops in the head", vec![Step::ReadRequest, first(40), Step::Stall]),
        ("one byte every 50 ms", vec![Step::ReadRequest, drip]),
        (
            "100 again and again",
            vec![
                Step::ReadRequest,
                Step::Dribble("HTTP/1.1 100 Continue\r\n\r\n".repeat(40).into_bytes(), Duration::from_millis(1)),
                Step::Stall,
            ],
        ),
    ];
    for (what, steps) in cases {
        stage.script([steps]);
        stage.play(what, 0, Then::Unknown(504));
    }
    let head = ACCEPTED.find("\r\n\r\n").unwrap() + 4;
    stage.script([vec![Step::ReadRequest, first(head + 3), Step::Stall]]);
    stage.play("stops in the body", 0, Then::Unknown(504));
    stage.finish();
}

#[test]
fn a_job_whose_answer_is_lost_is_not_made_twice() {
    // The real Worker makes the job; its answer does not arrive.
    let mut stage = Stage::real(|table| set(table, "backends.workers.start_timeout", "400ms"));
    stage.set.workers.fault(json!({"start": {"mode": "cut"}}));
    stage.play("cut in the body, job made", 1, Then::Unknown(502));
    stage.set.workers.fault(json!({"start": {"mode": "pass", "delay_after_ms": 700}}));
    stage.play("answer too late, job made", 1, Then::Unknown(504));
    stage.finish();
    for after in [0, 1, 30, 150] {
        let mut stage = Stage::rude(|_| {});
        stage.script([vec![
            Step::ReadRequest,
            Step::Forward(stage.set.workers.addr()),
            Step::SendAnswer(Some(after)),
            Step::Reset,
        ]]);
        stage.play(&format!("reset after {after} bytes of the answer, job made"), 1, Then::Unknown(502));
        stage.finish();
    }
}
