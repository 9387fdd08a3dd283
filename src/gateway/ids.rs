//! Ids of requests and starts: unique over all threads and processes, and cheap. Asking for random bytes for each would
//! cost as much as all the rest of it.

use std::cell::Cell;
use std::time::{SystemTime, UNIX_EPOCH};

use uuid::{Builder, Uuid};

/// A thread's source of ids.
#[derive(Debug)]
pub(super) struct Ids {
    /// What tells this thread's ids from all others' of the same millisecond: random, but for the counter's place.
    seed: [u8; 10],
    made: Cell<u32>,
}

impl Ids {
    /// Starts with random bytes of its own.
    pub(super) fn new() -> Ids {
        let random = Uuid::new_v4();
        let mut seed = [0; 10];
        // Of the random UUID's bytes those that are random whole; its version and variant stand in the sixth and eighth.
        seed[..3].copy_from_slice(&random.as_bytes()[..3]);
        seed[7..].copy_from_slice(&random.as_bytes()[9..12]);
        Ids { seed, made: Cell::new(0) }
    }

    /// Makes a UUID of version 7 (RFC 9562, 5.7): the time, 42 bits of this thread's, and a counter of 32.
    pub(super) fn next(&self, now: SystemTime) -> Uuid {
        let millis = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
        let made = self.made.get();
        self.made.set(made.wrapping_add(1));
        let mut rest = self.seed;
        // Where neither version nor variant is written over it.
        rest[3..7].copy_from_slice(&made.to_be_bytes());
        Builder::from_unix_timestamp_millis(millis, &rest).into_uuid()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;
    use std::time::Duration;

    #[test]
    fn no_two_ids_are_the_same_on_one_thread_or_on_several() {
        let (one, other) = (Ids::new(), Ids::new());
        let now = SystemTime::now();
        let ids: HashSet<Uuid> = (0..10_000).flat_map(|_| [one.next(now), other.next(now)]).collect();
        assert_eq!(ids.len(), 20_000);
        assert!(ids.iter().all(|id| id.get_version_num() == 7));
    }

    #[test]
    fn ids_sort_by_time() {
        let ids = Ids::new();
        let earlier = ids.next(UNIX_EPOCH + Duration::from_secs(1_700_000_000));
        let later = ids.next(UNIX_EPOCH + Duration::from_millis(1_700_000_000_001));
        assert!(earlier < later);
    }

    #[test]
    fn no_bit_of_a_threads_own_is_the_same_for_all_threads() {
        let all: Vec<[u8; 10]> = (0..200).map(|_| Ids::new().seed).collect();
        for byte in [0, 1, 2, 7, 8, 9] {
            let (ones, zeros) = all.iter().fold((0, 0), |(ones, zeros), seed| (ones | seed[byte], zeros | !seed[byte]));
            assert_eq!((ones, zeros), (0xff, 0xff), "byte {byte}");
        }
    }
}
