//! When old records may be deleted: never on the word of a clock that has just jumped.

use std::time::Duration;

use rusqlite::{Connection, TransactionBehavior};

use super::intents;
use super::rows::{self, Effect};
use crate::jobs::clock::Clock;
use crate::limits;

/// How long what is kept.
#[derive(Debug, Clone, Copy)]
pub(super) struct Keep {
    /// Jobs, and starts of unknown outcome.
    pub(super) records: Duration,
    /// What belongs to a client's key.
    pub(super) keys: Duration,
}

/// Decides when to delete, and deletes a little at a time.
pub(super) struct Expiry {
    /// Monotonic time of the next pass.
    next: Duration,
    /// Wall minus monotonic time, ms, as long as the clock is believed.
    believed: i128,
    /// Another such difference, and since when (monotonic) it has been seen.
    doubted: Option<(i128, Duration)>,
    paused: bool,
}

impl Expiry {
    pub(super) fn new(clock: &Clock) -> Expiry {
        let next = clock.monotonic() + limits::EXPIRY_EVERY;
        Expiry { next, believed: difference(clock), doubted: None, paused: false }
    }

    /// Returns how long it is until the next pass.
    pub(super) fn wait(&self, clock: &Clock) -> Duration {
        self.next.saturating_sub(clock.monotonic())
    }

    /// Deletes at most [`limits::EXPIRY_BATCH`] jobs and intents when a pass is due and the clock is to be believed.
    pub(super) fn step(&mut self, conn: &Connection, clock: &Clock, keep: Keep) -> rusqlite::Result<Effect> {
        let believed = self.believes(clock);
        if !self.wait(clock).is_zero() {
            return Ok(Effect::default());
        }
        self.next = clock.monotonic() + limits::EXPIRY_EVERY;
        let now_ms = clock.wall_ms();
        let skew_ms = millis(limits::CLOCK_SKEW);
        let plausible = believed && rows::newest_ms(conn)? <= now_ms.saturating_add(skew_ms);
        if plausible == self.paused {
            self.paused = !plausible;
            tracing::warn!(paused = self.paused, "expiry of job records follows the clock");
        }
        if !plausible {
            return Ok(Effect::default());
        }
        let transaction = rusqlite::Transaction::new_unchecked(conn, TransactionBehavior::Immediate)?;
        let before = |keep: Duration| now_ms.saturating_sub(millis(keep));
        let (jobs, mut effect) = rows::expire(&transaction, before(keep.records), limits::EXPIRY_BATCH)?;
        let times = (before(keep.records), before(keep.keys), now_ms);
        let intents = intents::expire(&transaction, times, limits::EXPIRY_BATCH)?;
        effect.changed |= intents > 0;
        transaction.commit()?;
        if jobs.max(intents) >= limits::EXPIRY_BATCH {
            self.next = clock.monotonic() + limits::EXPIRY_NEXT;
        }
        Ok(effect)
    }

    /// Says whether the wall clock runs evenly with the monotonic one; a step is believed after a day without another.
    fn believes(&mut self, clock: &Clock) -> bool {
        let now = difference(clock);
        if is_near(now, self.believed) {
            self.doubted = None;
            return true;
        }
        match self.doubted {
            Some((seen, since)) if is_near(now, seen) => {
                if clock.monotonic().saturating_sub(since) < limits::CLOCK_BELIEVED {
                    return false;
                }
                self.believed = now;
                self.doubted = None;
                true
            }
            _ => {
                self.doubted = Some((now, clock.monotonic()));
                false
            }
        }
    }
}

fn difference(clock: &Clock) -> i128 {
    i128::from(clock.wall_ms()) - i128::from(millis(clock.monotonic()))
}

fn is_near(one: i128, other: i128) -> bool {
    one.abs_diff(other) <= limits::CLOCK_SKEW.as_millis()
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
