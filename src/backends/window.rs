//! Outcomes of starts in a sliding window of time.

use std::time::Instant;

use crate::routing::table::Circuit as Settings;

/// The window is counted in this many slices, so that its size in memory does not grow with the traffic.
const SLICES: u32 = 10;

/// Outcomes of the last while, and failures in a row.
#[derive(Debug, Default)]
pub(super) struct Window {
    slices: [Slice; SLICES as usize],
    in_a_row: u32,
}

#[derive(Debug, Default, Clone, Copy)]
struct Slice {
    began: Option<Instant>,
    outcomes: u32,
    failures: u32,
}

impl Window {
    /// Counts one outcome.
    pub(super) fn count(&mut self, settings: &Settings, now: Instant, failure: bool) {
        for slice in &mut self.slices {
            if slice.began.is_some_and(|began| now.saturating_duration_since(began) >= settings.window) {
                *slice = Slice::default();
            }
        }
        let length = settings.window / SLICES;
        let current = self
            .slices
            .iter()
            .position(|slice| slice.began.is_some_and(|began| now.saturating_duration_since(began) < length))
            .or_else(|| self.slices.iter().position(|slice| slice.began.is_none()))
            // All are in use: the oldest is about to fall out of the window anyway.
            .or_else(|| (0..self.slices.len()).min_by_key(|at| self.slices[*at].began))
            .unwrap_or(0);
        let slice = &mut self.slices[current];
        let fresh = slice.began.is_none_or(|began| now.saturating_duration_since(began) >= length);
        if fresh {
            *slice = Slice { began: Some(now), ..Slice::default() };
        }
        slice.outcomes = slice.outcomes.saturating_add(1);
        slice.failures = slice.failures.saturating_add(u32::from(failure));
        self.in_a_row = if failure { self.in_a_row.saturating_add(1) } else { 0 };
    }

    /// Says whether there are enough failures to open.
    pub(super) fn is_bad(&self, settings: &Settings) -> bool {
        let outcomes: u32 = self.slices.iter().map(|slice| slice.outcomes).sum();
        let failures: u32 = self.slices.iter().map(|slice| slice.failures).sum();
        let share = f64::from(failures) / f64::from(outcomes.max(1));
        self.in_a_row >= settings.consecutive || (outcomes >= settings.minimum && share >= settings.failure_share)
    }
}
