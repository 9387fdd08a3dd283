//! The two clocks that the job store reads: wall time for what is written down, monotonic time for waiting.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Tells the time; tests set it.
#[derive(Debug, Clone)]
pub enum Clock {
    /// The machine's clocks, monotonic time counted from this instant.
    System(Instant),
    /// A clock that stands still until it is moved.
    Manual(Arc<ManualClock>),
}

impl Clock {
    /// Reads the machine's clocks.
    pub fn system() -> Clock {
        Clock::System(Instant::now())
    }

    /// Returns wall time, milliseconds since the Unix epoch; 0 for a clock set before it.
    pub fn wall_ms(&self) -> u64 {
        match self {
            Clock::System(_) => {
                let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
            }
            Clock::Manual(clock) => clock.read().wall_ms,
        }
    }

    /// Returns monotonic time since some fixed instant.
    pub fn monotonic(&self) -> Duration {
        match self {
            Clock::System(origin) => origin.elapsed(),
            Clock::Manual(clock) => clock.read().monotonic,
        }
    }
}

/// Both clocks, moved by hand.
#[derive(Debug)]
pub struct ManualClock(Mutex<Instants>);

#[derive(Debug, Clone, Copy)]
struct Instants {
    wall_ms: u64,
    monotonic: Duration,
}

impl ManualClock {
    /// Starts at a wall time in milliseconds since the Unix epoch and at monotonic zero.
    pub fn at(wall_ms: u64) -> Arc<ManualClock> {
        Arc::new(ManualClock(Mutex::new(Instants { wall_ms, monotonic: Duration::ZERO })))
    }

    /// Lets time pass on both clocks.
    pub fn pass(&self, time: Duration) {
        let mut now = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        now.monotonic += time;
        now.wall_ms += u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    }

    /// Sets the wall clock alone, as an operator or NTP would.
    pub fn set_wall_ms(&self, wall_ms: u64) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).wall_ms = wall_ms;
    }

    fn read(&self) -> Instants {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
