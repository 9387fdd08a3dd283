//! Workers' circuit: after enough failures, starts leave workers alone for a while, then a few probes decide.
//!
//! ```text
//! closed ──failures──▶ open ──back-off──▶ half open ──probes succeed──▶ closed
//!                       ▲                     │
//!                       └──── a probe fails ──┘   (back-off doubles, up to open_max)
//! ```
//! Time is monotonic and given by the caller. One lock, taken twice a start, holds a few numbers.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::backends::window::Window;
use crate::exports::step::Counted;
use crate::routing::table::{BaseUrl, Circuit as Settings};

/// `Retry-After` is believed within these bounds, seconds (the failure rules).
const RETRY_AFTER: std::ops::RangeInclusive<u64> = 1..=60;
/// An opening lasts its back-off times 0.9 to 1.1, so that replicas do not probe in step.
const JITTER: f64 = 0.1;

/// The circuit of one backend, shared by all threads.
#[derive(Debug, Default)]
pub struct Circuit(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// The address it is about; another one starts afresh.
    url: Option<BaseUrl>,
    state: State,
    /// Openings since it was last closed: how often the back-off has doubled.
    openings: u32,
    /// Openings ever: a probe of an earlier one has no say in a later one.
    opening: u64,
}

#[derive(Debug)]
enum State {
    Closed(Box<Window>),
    Open { until: Instant },
    HalfOpen { out: u32, succeeded: u32 },
}

impl Default for State {
    fn default() -> State {
        State::Closed(Box::default())
    }
}

/// What the circuit is, for metrics and people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CircuitState {
    /// All starts pass.
    Closed,
    /// Probes pass.
    HalfOpen,
    /// None passes.
    Open,
}

impl CircuitState {
    /// Returns the number in `export_gateway_circuit_state`.
    pub fn number(self) -> i64 {
        match self {
            CircuitState::Closed => 0,
            CircuitState::HalfOpen => 1,
            CircuitState::Open => 2,
        }
    }

    /// Returns the word for people.
    pub fn as_str(self) -> &'static str {
        match self {
            CircuitState::Closed => "closed",
            CircuitState::HalfOpen => "half_open",
            CircuitState::Open => "open",
        }
    }
}

/// The permission to send one start. Dropped without a report it counts as nothing, and a probe's place is free again.
#[derive(Debug)]
#[must_use]
pub struct Pass {
    circuit: Arc<Circuit>,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Ordinary,
    /// A probe of the opening with this number: one of an earlier opening has no place to give back.
    Probe(u64),
    Reported,
}

/// A change that operators are told of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It has opened for this long.
    Opened(Duration),
    /// It has closed again.
    Closed,
}

impl Circuit {
    /// Asks for the permission to send a start; `None` while the circuit is open or its probes are out.
    pub fn admit(self: &Arc<Circuit>, settings: &Settings, url: &BaseUrl, now: Instant) -> Option<Pass> {
        let mut inner = self.lock();
        if inner.url.as_ref() != Some(url) {
            *inner = Inner { url: Some(url.clone()), opening: inner.opening + 1, ..Inner::default() };
        }
        if let State::Open { until } = inner.state
            && now >= until
        {
            inner.state = State::HalfOpen { out: 0, succeeded: 0 };
        }
        let opening = inner.opening;
        let kind = match &mut inner.state {
            State::Closed(_) => Kind::Ordinary,
            State::Open { .. } => return None,
            State::HalfOpen { out, succeeded } if *out + *succeeded < settings.probes => {
                *out += 1;
                Kind::Probe(opening)
            }
            State::HalfOpen { .. } => return None,
        };
        Some(Pass { circuit: self.clone(), kind })
    }

    /// Returns what the circuit is now.
    pub fn state(&self, now: Instant) -> CircuitState {
        match self.lock().state {
            State::Closed(_) => CircuitState::Closed,
            State::Open { until } if now < until => CircuitState::Open,
            State::Open { .. } | State::HalfOpen { .. } => CircuitState::HalfOpen,
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        // A panic cannot leave these numbers in a state that does harm.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pass {
    /// Reports how the start ended; `retry_after` (seconds) is what workers asked for.
    pub fn report(
        mut self,
        counted: Counted,
        retry_after: Option<u64>,
        settings: &Settings,
        now: Instant,
    ) -> Option<Change> {
        let kind = std::mem::replace(&mut self.kind, Kind::Reported);
        let circuit = self.circuit.clone();
        let mut inner = circuit.lock();
        inner.report(kind, counted, retry_after, settings, now)
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        let Kind::Probe(opening) = self.kind else { return };
        let mut inner = self.circuit.lock();
        if opening == inner.opening
            && let State::HalfOpen { out, .. } = &mut inner.state
        {
            *out = out.saturating_sub(1);
        }
    }
}

impl Inner {
    fn report(
        &mut self,
        kind: Kind,
        counted: Counted,
        retry_after: Option<u64>,
        settings: &Settings,
        now: Instant,
    ) -> Option<Change> {
        let asked = retry_after.map(|seconds| seconds.clamp(*RETRY_AFTER.start(), *RETRY_AFTER.end()));
        let asked = asked.map_or(Duration::ZERO, Duration::from_secs);
        match (&mut self.state, counted) {
            (State::Closed(_), Counted::Not) => None,
            (State::Closed(window), Counted::Success) => {
                window.count(settings, now, false);
                None
            }
            (State::Closed(window), Counted::Failure) => {
                window.count(settings, now, true);
                if window.is_bad(settings) { Some(self.open(asked, settings, now)) } else { None }
            }
            // A start that was sent before the opening: it can only lengthen it.
            (State::Open { until }, Counted::Failure) => {
                *until = (*until).max(now + asked);
                None
            }
            (State::Open { .. }, _) => None,
            (State::HalfOpen { out, succeeded }, counted) if kind == Kind::Probe(self.opening) => {
                *out = out.saturating_sub(1);
                match counted {
                    Counted::Not => None,
                    Counted::Failure => Some(self.open(asked, settings, now)),
                    Counted::Success => {
                        *succeeded += 1;
                        if *succeeded < settings.probes {
                            return None;
                        }
                        self.state = State::default();
                        self.openings = 0;
                        Some(Change::Closed)
                    }
                }
            }
            (State::HalfOpen { .. }, _) => None,
        }
    }

    fn open(&mut self, asked: Duration, settings: &Settings, now: Instant) -> Change {
        let doubled = settings.open.saturating_mul(1_u32.checked_shl(self.openings).unwrap_or(u32::MAX));
        let back_off = doubled.min(settings.open_max).mul_f64(jitter()).max(asked);
        self.openings = self.openings.saturating_add(1);
        self.opening += 1;
        self.state = State::Open { until: now + back_off };
        Change::Opened(back_off)
    }
}

/// 0.9 to 1.1; the standard library's per-process random keys are random enough for that.
fn jitter() -> f64 {
    let random = f64::from((RandomState::new().hash_one(0_u8) >> 32) as u32) / f64::from(u32::MAX);
    1.0 - JITTER + 2.0 * JITTER * random
}

#[cfg(test)]
mod tests {
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
            self.circuit.state(self.now)
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
                let threads: Vec<_> = (0..8)
                    .map(|_| scope.spawn(|| (0..125).filter_map(|_| bench.admit()).collect::<Vec<Pass>>()))
                    .collect();
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
        assert!(bench.circuit.admit(&bench.settings, &url("elsewhere"), bench.now).is_some());
        assert_eq!(bench.state(), CircuitState::Closed);
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
}
