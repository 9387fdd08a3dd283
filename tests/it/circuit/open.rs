//! What becomes of starts, polls and reloads while the circuit is open.

use std::time::{Duration, Instant};

use super::{Bench, CLOSED, DECLINE, FAILURES, OPEN, readyz, start_by};
use crate::support::client::{self, Connection};
use crate::support::gateway::set;
use crate::support::scene::{assert_own, line_of, poll_of};
use crate::support::stand_in::{Say, StandIn};

#[test]
fn an_open_circuit_adds_less_than_a_millisecond() {
    const ROUNDS: usize = 300;
    let bench = Bench::with(|_| {});
    bench.open();
    let (mut stays, mut moves) = (Connection::open(bench.gateway.addr()), Connection::open(bench.gateway.addr()));
    let connections = bench.workers.backend().connections();
    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..ROUNDS {
        // In turn, so that a busy moment of the machine meets both.
        for (at, connection) in [&mut stays, &mut moves].into_iter().enumerate() {
            let request = start_by(["stays", "moves"][at], "timed");
            let began = Instant::now();
            let answer = connection.exchange(&request).unwrap();
            times[at].push(began.elapsed());
            assert_eq!((answer.status, answer.header("x-export-backend")), (200, Some("legacy")));
        }
    }
    let [legacy, open] = times.map(|mut times| {
        times.sort_unstable();
        times[ROUNDS / 2]
    });
    println!("median of a start on legacy {legacy:?}, with an open circuit {open:?}");
    assert!(open < legacy + Duration::from_millis(1), "{open:?} against {legacy:?}");
    assert_eq!(bench.starts(), (FAILURES + 2 * ROUNDS, FAILURES));
    assert_eq!(bench.workers.backend().connections(), connections);
}

#[test]
fn without_a_fallback_nothing_is_left() {
    let bench = Bench::with(|table| set(table, "backends.workers.fallback", false));
    bench.workers.say(DECLINE);
    for _ in 0..FAILURES {
        assert_own(&bench.start("declined"), 503, "no_backend");
    }
    assert_eq!(bench.state(), OPEN);
    bench.workers.say(Say::Job);
    let answer = bench.start("refused");
    assert_own(&answer, 503, "no_backend");
    assert!(answer.header("retry-after").is_some_and(|seconds| seconds.parse::<u32>().is_ok_and(|it| it > 0)));
    assert_eq!(bench.starts(), (0, FAILURES));
    let line = line_of(&bench.gateway, "refused");
    assert_eq!((&line["reason"], &line["outcome"]), (&"circuit_open".into(), &"not_sent".into()), "{line}");
    let labels = [("reason", "circuit_open"), ("outcome", "not_sent")];
    assert_eq!(bench.gateway.metric("export_gateway_starts_total", &labels), 1.0);
    assert_eq!(bench.gateway.metric("export_gateway_fallbacks_total", &[]), 0.0);
}

#[test]
fn polls_still_go_to_the_jobs_owner() {
    let bench = Bench::with(|_| {});
    let job = bench.start("job").field("job_id");
    bench.open();
    for form in [None, Some("overlay")] {
        let answer = client::send(bench.gateway.addr(), &poll_of("moves", &job, form));
        assert_eq!((answer.status, answer.header("x-export-backend")), (200, Some("workers")));
        assert_eq!(answer.field("job_id"), job);
    }
    assert_eq!((bench.legacy.polls(), bench.workers.polls()), (0, 2));
    let on_legacy = bench.start("on-legacy").field("job_id");
    let answer = client::send(bench.gateway.addr(), &poll_of("moves", &on_legacy, None));
    assert_eq!((answer.status, answer.header("x-export-backend")), (200, Some("legacy")));
    assert_eq!(bench.state(), OPEN);
}

#[test]
fn a_reload_leaves_it_open_but_another_address_starts_afresh() {
    let bench = Bench::with(|_| {});
    bench.open();
    bench.gateway.edit(|table| {
        set(table, "rollout.salt", "another");
        set(table, "circuit.consecutive", 5);
        set(table, "circuit.open", "30m");
    });
    assert_eq!((bench.taken_by("reloaded").as_str(), bench.state()), ("legacy", OPEN));
    assert_eq!(bench.workers.starts(), FAILURES);

    let other = StandIn::start("o");
    bench.gateway.edit(|table| set(table, "backends.workers.url", other.url()));
    // Before any start: what was said of the old address is not said of this one.
    assert_eq!(bench.state(), CLOSED);
    assert_eq!(readyz(&bench.gateway).1["status"], "ready");
    assert_eq!(bench.taken_by("elsewhere"), "workers");
    assert_eq!((other.starts(), bench.workers.starts()), (1, FAILURES));

    let old = bench.workers.url();
    bench.gateway.edit(|table| set(table, "backends.workers.url", old.as_str()));
    bench.workers.say(Say::Job);
    assert_eq!((bench.taken_by("back").as_str(), bench.state()), ("workers", CLOSED));
}

#[test]
fn what_an_old_address_answers_late_is_not_held_against_the_new_one() {
    let bench = Bench::with(|table| set(table, "circuit.consecutive", 1));
    bench.workers.say(Say::Hold);
    let mut late = Connection::open(bench.gateway.addr());
    late.send(&start_by("moves", "late").bytes("gateway"));
    crate::support::eventually("the start at workers", || (bench.workers.starts() == 1).then_some(()));
    let other = StandIn::start("o");
    bench.gateway.edit(|table| set(table, "backends.workers.url", other.url()));
    assert_eq!(bench.taken_by("elsewhere"), "workers");
    bench.workers.say(DECLINE);
    assert_eq!(late.read("POST").unwrap().header("x-export-backend"), Some("legacy"));
    assert_eq!((bench.state(), bench.taken_by("still").as_str()), (CLOSED, "workers"));
}
