//! What became of the last reloads, for `/readyz`, the metrics and the dashboard.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use super::Reload;
use crate::limits;

/// What a reload came to, as a label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// A new table serves.
    Applied,
    /// The file was no good.
    Rejected,
    /// The file was not whole.
    Incomplete,
}

impl Outcome {
    /// All outcomes, in the order they are shown.
    pub const ALL: [Outcome; 3] = [Outcome::Applied, Outcome::Rejected, Outcome::Incomplete];

    /// Returns the word used in metrics and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Outcome::Applied => "applied",
            Outcome::Rejected => "rejected",
            Outcome::Incomplete => "incomplete",
        }
    }
}

/// One reload of the past.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReloadEvent {
    /// When it ended.
    pub at: SystemTime,
    /// What it came to.
    pub outcome: Outcome,
    /// First 12 hex digits of the SHA-256 of the file's bytes; empty when it could not be read.
    pub hash: String,
    /// From the beginning of the deciding read to the swap.
    pub duration: Duration,
    /// How many problems it had.
    pub problems: usize,
}

/// Everything there is to know of reloads at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReloadState {
    /// What is wrong with the file as it stands now, one line each; empty when it serves.
    pub problems: Vec<String>,
    /// What is wrong with files that the serving one names, one line each; what they held before serves on.
    pub stale: Vec<String>,
    /// Keys of the serving file whose new value waits for a restart.
    pub needs_restart: Vec<&'static str>,
    /// The latest reloads, oldest first, at most [`limits::RELOAD_HISTORY`].
    pub history: VecDeque<ReloadEvent>,
    /// Number of reloads by [`Outcome`], in the order of [`Outcome::ALL`].
    pub counts: [u64; 3],
}

impl ReloadState {
    /// Returns how many reloads came to this.
    pub fn count(&self, outcome: Outcome) -> u64 {
        self.counts[outcome as usize]
    }

    /// Says whether the file as it stands now is the one that serves.
    pub fn is_successful(&self) -> bool {
        self.problems.is_empty()
    }
}

/// The state of reloads, shared between the reloader and those who show it.
#[derive(Debug, Default)]
pub struct ReloadStatus {
    state: Mutex<ReloadState>,
    looks: AtomicU64,
}

impl ReloadStatus {
    /// Returns the state as it is now.
    pub fn get(&self) -> ReloadState {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns how often the file was looked at: a number that stands still means that nobody does.
    pub fn looks(&self) -> u64 {
        self.looks.load(Ordering::Relaxed)
    }

    pub(super) fn count_look(&self) {
        self.looks.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn attached(&self, stale: Vec<String>) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).stale = stale;
    }

    pub(super) fn record(&self, reload: &Reload, hash: &str, duration: Duration) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (outcome, problems) = match reload {
            Reload::Same => {
                state.problems.clear();
                return;
            }
            Reload::Applied { needs_restart } => {
                state.needs_restart.clone_from(needs_restart);
                (Outcome::Applied, Vec::new())
            }
            Reload::Rejected(problems) => (Outcome::Rejected, problems.iter().map(|problem| problem.line()).collect()),
            Reload::Incomplete(problem) => (Outcome::Incomplete, vec![problem.line()]),
        };
        state.counts[outcome as usize] += 1;
        if state.history.len() == limits::RELOAD_HISTORY {
            state.history.pop_front();
        }
        let at = SystemTime::now();
        state.history.push_back(ReloadEvent { at, outcome, hash: hash.to_owned(), duration, problems: problems.len() });
        state.problems = problems;
    }
}
