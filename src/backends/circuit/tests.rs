//! The circuit by a clock that the test moves.

use super::*;

fn settings() -> Settings {
    Settings {
        window: Duration::from_secs(10),
        minimum: 20,
        failure_share: 0.5,
        consecutive: 3,
        open: Duration::from_secs(5),
        open_max: Duration::from_secs(30),
        probes: 1,
    }
}

fn url(host: &str) -> BaseUrl {
    BaseUrl { tls: false, host: host.into(), port: 80, path: String::new(), authority: host.into() }
}

/// A circuit with a clock that the test moves.
struct Bench {
    circuit: Arc<Circuit>,
    settings: Settings,
    now: Instant,
}

impl Bench {
    fn new() -> Bench {
        Bench { circuit: Arc::default(), settings: settings(), now: Instant::now() }
    }

    fn admit(&self) -> Option<Pass> {
        self.circuit.admit(&self.settings, &url("w"), self.now)
    }

    fn run(&self, counted: Counted) -> Option<Change> {
        self.admit().expect("admitted").report(counted, None, &self.settings, self.now)
    }

    fn pass(&mut self, seconds: f64) {
        self.now += Duration::from_secs_f64(seconds);
    }

    fn state(&self) -> CircuitState {
        self.circuit.state(&url("w"), self.now)
    }

    fn fail_until_open(&self) -> Duration {
        for _ in 0..100 {
            if let Some(Change::Opened(back_off)) = self.run(Counted::Failure) {
                return back_off;
            }
        }
        panic!("never opened");
    }
}

#[test]
fn three_failures_in_a_row_open_it() {
    let bench = Bench::new();
    assert_eq!(bench.run(Counted::Failure), None);
    assert_eq!(bench.run(Counted::Failure), None);
    bench.run(Counted::Success);
    bench.run(Counted::Failure);
    bench.run(Counted::Not);
    bench.run(Counted::Failure);
    assert_eq!(bench.state(), CircuitState::Closed);
    assert!(matches!(bench.run(Counted::Failure), Some(Change::Opened(_))));
    assert_eq!(bench.state(), CircuitState::Open);
    assert!(bench.admit().is_none());
}

#[test]
fn half_of_twenty_opens_it_but_nineteen_are_too_few() {
    let mut bench = Bench::new();
    bench.settings.consecutive = 1_000;
    for n in 0..19 {
        let counted = if n % 2 == 0 { Counted::Failure } else { Counted::Success };
        assert_eq!(bench.run(counted), None, "{n}");
    }
    assert!(matches!(bench.run(Counted::Failure), Some(Change::Opened(_))));
}

#[test]
fn what_is_older_than_the_window_is_forgotten() {
    let mut bench = Bench::new();
    bench.settings.consecutive = 1_000;
    for _ in 0..19 {
        bench.run(Counted::Failure);
    }
    bench.pass(10.1);
    for _ in 0..19 {
        assert_eq!(bench.run(Counted::Failure), None);
    }
}

#[test]
fn the_back_off_doubles_up_to_its_limit_and_is_reset_by_success() {
    let mut bench = Bench::new();
    let mut back_off = bench.fail_until_open();
    for expected in [5.0, 10.0, 20.0, 30.0, 30.0] {
        assert!((back_off.as_secs_f64() / expected - 1.0).abs() <= JITTER + 1e-9, "{back_off:?} for {expected}");
        bench.pass(back_off.as_secs_f64() + 0.001);
        assert_eq!(bench.state(), CircuitState::HalfOpen);
        let Some(Change::Opened(next)) = bench.run(Counted::Failure) else { panic!("a failed probe opens") };
        back_off = next;
    }
    bench.pass(40.0);
    assert_eq!(bench.run(Counted::Success), Some(Change::Closed));
    let back_off = bench.fail_until_open();
    assert!(back_off.as_secs_f64() <= 5.5);
}

#[test]
fn exactly_the_probes_pass_under_any_concurrency() {
    for probes in [1, 3] {
        let mut bench = Bench::new();
        bench.settings.probes = probes;
        bench.fail_until_open();
        bench.pass(6.0);
        let passed: Vec<Pass> = std::thread::scope(|scope| {
            let threads: Vec<_> =
                (0..8).map(|_| scope.spawn(|| (0..125).filter_map(|_| bench.admit()).collect::<Vec<Pass>>())).collect();
            threads.into_iter().flat_map(|thread| thread.join().expect("no panic")).collect()
        });
        assert_eq!(passed.len(), probes as usize);
        drop(passed);
        // A probe that was never sent leaves its place to another.
        assert!(bench.admit().is_some());
    }
}

#[test]
fn a_probe_that_says_nothing_of_workers_is_given_back() {
    let mut bench = Bench::new();
    bench.fail_until_open();
    bench.pass(6.0);
    assert_eq!(bench.run(Counted::Not), None);
    assert_eq!(bench.run(Counted::Success), Some(Change::Closed));
}

#[test]
fn retry_after_lengthens_an_opening_and_never_causes_one() {
    let mut bench = Bench::new();
    let pass = bench.admit().expect("closed");
    assert_eq!(pass.report(Counted::Failure, Some(50), &bench.settings, bench.now), None);
    let late = bench.admit().expect("closed");
    bench.run(Counted::Failure);
    let last = bench.admit().expect("closed");
    let Some(Change::Opened(back_off)) = last.report(Counted::Failure, Some(20), &bench.settings, bench.now) else {
        panic!("the third opens");
    };
    assert_eq!(back_off, Duration::from_secs(20));
    // One that was under way meanwhile asks for more, far beyond what is believed.
    late.report(Counted::Failure, Some(86_400), &bench.settings, bench.now);
    bench.pass(59.0);
    assert_eq!(bench.state(), CircuitState::Open);
    bench.pass(1.5);
    assert_eq!(bench.state(), CircuitState::HalfOpen);
}

#[test]
fn another_address_starts_afresh() {
    let bench = Bench::new();
    bench.fail_until_open();
    let elsewhere = url("elsewhere");
    assert_eq!(bench.state(), CircuitState::Open);
    assert_eq!(bench.circuit.state(&elsewhere, bench.now), CircuitState::Closed);
    assert!(bench.circuit.admit(&bench.settings, &elsewhere, bench.now).is_some());
    assert_eq!(bench.circuit.state(&elsewhere, bench.now), CircuitState::Closed);
}

#[test]
fn a_probe_of_an_old_address_has_no_say_in_a_new_one() {
    let mut bench = Bench::new();
    bench.fail_until_open();
    bench.pass(6.0);
    let old = bench.admit().expect("half open");
    let elsewhere = url("elsewhere");
    let fail = |now| {
        let pass = bench.circuit.admit(&bench.settings, &elsewhere, now).expect("admitted");
        pass.report(Counted::Failure, None, &bench.settings, now)
    };
    assert_eq!((fail(bench.now), fail(bench.now)), (None, None));
    assert!(fail(bench.now).is_some());
    let later = bench.now + Duration::from_secs(6);
    let probe = bench.circuit.admit(&bench.settings, &elsewhere, later).expect("half open");
    assert_eq!(old.report(Counted::Success, None, &bench.settings, later), None);
    assert!(bench.circuit.admit(&bench.settings, &elsewhere, later).is_none(), "its probe is still out");
    assert_eq!(probe.report(Counted::Success, None, &bench.settings, later), Some(Change::Closed));
}

#[test]
fn what_was_sent_before_the_opening_does_not_close_it() {
    let mut bench = Bench::new();
    let early = bench.admit().expect("closed");
    bench.fail_until_open();
    bench.pass(6.0);
    let probe = bench.admit().expect("half open");
    assert_eq!(early.report(Counted::Success, None, &bench.settings, bench.now), None);
    assert_eq!(bench.state(), CircuitState::HalfOpen);
    assert_eq!(probe.report(Counted::Success, None, &bench.settings, bench.now), Some(Change::Closed));
}
