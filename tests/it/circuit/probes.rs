//! Who finds out whether workers are well again, and what comes of it.

use std::time::{Duration, Instant};

use super::{Bench, CLOSED, FAILURES, HALF_OPEN, readyz, start_by};
use crate::support::client::Connection;
use crate::support::gateway::set;
use crate::support::stand_in::Say;
use crate::support::{eventually, within};

#[test]
fn of_a_thousand_starts_at_once_just_the_probes_get_through() {
    const STARTS: usize = 1_000;
    let long = Duration::from_secs(60);
    for probes in [1, 3] {
        let bench = Bench::with(|table| {
            set(table, "circuit.probes", probes as i64);
            set(table, "circuit.open", "100ms");
            set(table, "circuit.open_max", "100ms");
        });
        bench.open();
        bench.wait_for(HALF_OPEN);
        bench.workers.say(Say::Hold);
        let mut clients: Vec<_> = (0..STARTS).map(|_| Connection::open(bench.gateway.addr()).deadline(long)).collect();
        let request = start_by("moves", "crowd").bytes("gateway");
        clients.iter_mut().for_each(|client| client.send(&request));
        within(long, "all starts at a backend", || {
            let (legacy, workers) = bench.starts();
            (legacy + workers == STARTS + 2 * FAILURES).then_some(())
        });
        assert_eq!(bench.starts(), (FAILURES + STARTS - probes, FAILURES + probes));
        assert_eq!(bench.state(), HALF_OPEN);
        bench.workers.say(Say::Job);
        let answers = clients.iter_mut().map(|client| client.read("POST").unwrap());
        let backends: Vec<_> =
            answers.map(|it| (it.status, it.header("x-export-backend") == Some("workers"))).collect();
        assert!(backends.iter().all(|(status, _)| *status == 200));
        assert_eq!(backends.iter().filter(|(_, workers)| *workers).count(), probes);
        assert_eq!((bench.state(), bench.gateway.events("circuit of workers closed").len()), (CLOSED, 1));
        assert_eq!(bench.taken_by("closed"), "workers");
    }
}

#[test]
fn each_failed_probe_doubles_the_back_off_up_to_its_limit() {
    let bench = Bench::with(|table| {
        set(table, "circuit.open", "200ms");
        set(table, "circuit.open_max", "500ms");
    });
    let mut began = Instant::now();
    bench.open();
    for round in 1..4 {
        let announced = Duration::from_secs_f64(bench.openings()[round - 1]);
        bench.wait_for(HALF_OPEN);
        assert!(began.elapsed() >= announced, "{:?} for {announced:?}", began.elapsed());
        began = Instant::now();
        assert_eq!(bench.taken_by("probe"), "legacy");
        assert_eq!(bench.workers.starts(), FAILURES + round);
        eventually("the next opening", || (bench.openings().len() > round).then_some(()));
    }
    let openings = bench.openings();
    for (seconds, expected) in openings.iter().zip([0.2, 0.4, 0.5, 0.5]) {
        assert!((seconds / expected - 1.0).abs() < 0.101, "{openings:?}");
    }
    bench.wait_for(HALF_OPEN);
    bench.workers.say(Say::Job);
    assert_eq!(bench.taken_by("probe"), "workers");
    assert_eq!(bench.state(), CLOSED);
    assert_eq!(readyz(&bench.gateway).1["status"], "ready");
    // Success has forgotten the doubling.
    bench.open();
    assert!(bench.openings()[4] < 0.23, "{:?}", bench.openings());
}

#[test]
fn a_probe_that_says_nothing_of_workers_leaves_its_place_to_the_next() {
    let bench = Bench::with(|table| {
        set(table, "circuit.open", "100ms");
        set(table, "circuit.open_max", "100ms");
    });
    bench.open();
    bench.wait_for(HALF_OPEN);
    bench.workers.say(Say::Status(404, ""));
    for round in 1..4 {
        assert_eq!(bench.taken_by("says-nothing"), "legacy");
        assert_eq!((bench.state(), bench.workers.starts()), (HALF_OPEN, FAILURES + round));
    }
    bench.workers.say(Say::Job);
    assert_eq!((bench.taken_by("probe").as_str(), bench.state()), ("workers", CLOSED));
}

#[test]
fn retry_after_lengthens_an_opening_and_never_causes_one() {
    for (lines, seconds) in [
        ("Retry-After: 5\r\n", 5.0..=5.0),
        ("Retry-After: 86400\r\n", 60.0..=60.0),
        ("Retry-After: 0\r\n", 1.0..=1.0),
        ("Retry-After: soon\r\n", 0.09..=0.11),
    ] {
        for status in [429, 503] {
            let bench = Bench::with(|table| {
                set(table, "circuit.open", "100ms");
                set(table, "circuit.open_max", "100ms");
            });
            bench.workers.say(Say::Status(status, lines));
            for _ in 1..FAILURES {
                assert_eq!((bench.taken_by("asks").as_str(), bench.state()), ("legacy", CLOSED), "{lines}");
            }
            assert_eq!(bench.taken_by("opens"), "legacy");
            let opened = eventually("the opening", || bench.openings().pop());
            assert!(seconds.contains(&opened), "{status} {lines}: {opened}");
        }
    }
}
