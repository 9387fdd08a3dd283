//! What was seen: answers, failures by kind, latencies, and when the answers' letter changed.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use tokio::sync::Notify;

use crate::exchange::Seen;

#[derive(Default)]
pub struct Tally {
    began: Cell<Option<Instant>>,
    /// Requests that may still be begun.
    left: Cell<Option<usize>>,
    latencies: RefCell<Vec<Duration>>,
    failures: RefCell<BTreeMap<String, usize>>,
    /// Requests that a kept connection could not take any more, and that were sent on a new one.
    reconnects: Cell<usize>,
    ended: Cell<usize>,
    changed: Notify,
    letter: Cell<Option<u8>>,
    /// Unix times, in seconds, of the first answer with another letter.
    changes: RefCell<Vec<(f64, char)>>,
}

impl Tally {
    pub fn begin(&self, now: Instant, requests: Option<usize>) {
        self.began.set(Some(now));
        self.left.set(requests);
    }

    pub fn began(&self) -> Instant {
        self.began.get().unwrap_or_else(Instant::now)
    }

    /// Takes the right to one more request.
    pub fn may_ask(&self) -> bool {
        match self.left.get() {
            None => true,
            Some(0) => false,
            Some(left) => {
                self.left.set(Some(left - 1));
                true
            }
        }
    }

    pub fn note(&self, due: Instant, seen: Seen) {
        self.latencies.borrow_mut().push(due.elapsed());
        if seen.letter.is_some() && seen.letter != self.letter.replace(seen.letter) {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            self.changes.borrow_mut().push((now.as_secs_f64(), seen.letter.unwrap_or_default().into()));
        }
    }

    pub fn reconnect(&self) {
        self.reconnects.set(self.reconnects.get() + 1);
    }

    pub fn fail(&self, why: &str, times: usize) {
        *self.failures.borrow_mut().entry(why.to_owned()).or_default() += times;
    }

    /// Counts a connection that never came to be.
    pub fn give_up<T>(&self, why: &str) -> Option<T> {
        self.fail(why, 1);
        None
    }

    pub fn end(&self) {
        self.ended.set(self.ended.get() + 1);
        self.changed.notify_one();
    }

    pub fn ended(&self) -> usize {
        self.ended.get()
    }

    /// Waits until one more connection has ended.
    pub async fn wait(&self) {
        self.changed.notified().await;
    }

    pub fn report(&self, took: Duration) -> Value {
        let mut latencies = self.latencies.borrow_mut();
        latencies.sort_unstable();
        let at = |share: f64| {
            let place = ((latencies.len() as f64 * share) as usize).min(latencies.len().saturating_sub(1));
            latencies.get(place).map(|latency| latency.as_secs_f64() * 1e3)
        };
        let failures = self.failures.borrow();
        json!({
            "requests": latencies.len(),
            "seconds": took.as_secs_f64(),
            "failed": failures.values().sum::<usize>(),
            "failures": *failures,
            "reconnects": self.reconnects.get(),
            "milliseconds": {"p50": at(0.5), "p90": at(0.9), "p99": at(0.99), "p999": at(0.999), "max": at(1.0)},
            "changes": *self.changes.borrow(),
        })
    }
}
