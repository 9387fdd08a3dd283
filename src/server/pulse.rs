//! Whether the serving threads still go round: a watchdog is fed only then.

use std::sync::atomic::{AtomicU64, Ordering};

/// A count per thread that grows with every round of its keeper.
#[derive(Debug)]
pub struct Pulse(Vec<AtomicU64>);

/// What the counts were when they were last looked at.
#[derive(Debug, Default)]
pub struct Seen(Vec<u64>);

impl Pulse {
    /// Starts with no thread having gone round yet.
    pub fn new(threads: usize) -> Pulse {
        Pulse((0..threads).map(|_| AtomicU64::new(0)).collect())
    }

    /// Says that a thread has gone round.
    pub fn beat(&self, thread: usize) {
        if let Some(count) = self.0.get(thread) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Says whether every thread has gone round since this was last asked.
    pub fn is_alive(&self, seen: &mut Seen) -> bool {
        let now: Vec<_> = self.0.iter().map(|count| count.load(Ordering::Relaxed)).collect();
        let before = std::mem::replace(&mut seen.0, now);
        seen.0.iter().enumerate().all(|(thread, count)| before.get(thread).is_none_or(|before| before != count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_thread_that_stands_still_is_enough() {
        let (pulse, mut seen) = (Pulse::new(2), Seen::default());
        assert!(pulse.is_alive(&mut seen), "nobody has been seen yet");
        (0..2).for_each(|thread| pulse.beat(thread));
        assert!(pulse.is_alive(&mut seen));
        pulse.beat(1);
        assert!(!pulse.is_alive(&mut seen));
        (0..2).for_each(|thread| pulse.beat(thread));
        assert!(pulse.is_alive(&mut seen));
    }
}
