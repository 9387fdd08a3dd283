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
    /// Addresses so far: what an earlier one answers late says nothing of this one.
    address: u64,
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
    address: u64,
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
            *inner = Inner { url: Some(url.clone()), address: inner.address + 1, ..Inner::default() };
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
        Some(Pass { circuit: self.clone(), address: inner.address, kind })
    }

    /// Returns what the circuit of this address is now.
    pub fn state(&self, url: &BaseUrl, now: Instant) -> CircuitState {
        let inner = self.lock();
        if inner.url.as_ref() != Some(url) {
            return CircuitState::Closed;
        }
        match inner.state {
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
        if self.address != inner.address {
            return None;
        }
        inner.report(kind, counted, retry_after, settings, now)
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        let Kind::Probe(opening) = self.kind else { return };
        let mut inner = self.circuit.lock();
        if self.address == inner.address
            && opening == inner.opening
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
mod tests;
