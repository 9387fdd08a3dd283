//! User → bucket: the one hash that decides who is in the first *n* percent.
//!
//! The bucket is the first 8 bytes, read big-endian, of SHA-256 over the salt, one zero byte and the user id (both
//! UTF-8), modulo 10,000. It never changes between releases. In Python, for `salt` and `user`:
//!
//! ```python
//! int.from_bytes(hashlib.sha256(f"{salt}\0{user}".encode()).digest()[:8], "big") % 10000
//! ```
//!
//! `user` is the id after legacy's filter ([`UserId`]), so that a user has one bucket however the id is written.

use sha2::{Digest, Sha256};

use crate::names::UserId;

/// How many buckets there are: one for each hundredth of a percent.
pub const BUCKETS: u16 = 10_000;

/// Returns the bucket of a user, 0 to 9,999.
///
/// 2^64 is not a multiple of 10,000; the bias is below 10^-15.
///
/// ```
/// use export_gateway::{names::UserId, routing::bucket::bucket};
///
/// let alice = UserId::from_text("alice").expect("letters are kept");
/// assert_eq!(bucket("exports", &alice), 7651);
/// ```
pub fn bucket(salt: &str, user: &UserId) -> u16 {
    let mut hash = Sha256::new();
    hash.update(salt.as_bytes());
    hash.update([0]);
    hash.update(user.as_str().as_bytes());
    let digest: [u8; 32] = hash.finalize().into();
    let head = digest.first_chunk().expect("a SHA-256 digest has 32 bytes");
    u16::try_from(u64::from_be_bytes(*head) % u64::from(BUCKETS)).expect("a remainder below 10,000")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn user(text: &str) -> UserId {
        UserId::from_text(text).unwrap()
    }

    /// Computed with the Python line above on CPython 3.11.
    #[test]
    fn published_vectors() {
        let long = "u".repeat(200);
        let vectors = [
            ("exports", "a", 4689),
            ("exports", "alice", 7651),
            ("exports", "bob", 5856),
            ("exports", "user-1", 435),
            ("exports", "user_2", 4030),
            ("exports", "0", 4120),
            ("exports", "X", 6848),
            ("exports", "caf\u{e9}", 3285),
            ("exports", "\u{b5}-\u{bd}", 6422),
            ("exports", "0f9b2c3e-7a54-4b1d-9c1f-2f6f0a9f8f11", 1473),
            ("exports", long.as_str(), 8439),
            ("exports", "user-10824", 0),
            ("exports", "user-21468", 9999),
            ("", "alice", 3148),
            ("exports-2", "alice", 2710),
            ("s\u{e4}lz", "alice", 4431),
            ("a\0b", "c", 6871),
            ("a", "b", 2387),
        ];
        for (salt, id, expected) in vectors {
            assert_eq!(bucket(salt, &user(id)), expected, "{salt:?} {id:?}");
        }
    }

    #[test]
    fn users_spread_evenly() {
        const USERS: u32 = 100_000;
        let mut tenths = [0u32; 10];
        let mut first_percent = 0u32;
        for n in 0..USERS {
            let bucket = bucket("exports", &user(&format!("user-{n}")));
            tenths[usize::from(bucket / 1_000)] += 1;
            first_percent += u32::from(bucket < 100);
        }
        // Six standard deviations of a binomial with n = 100,000: 569 at 10 %, 189 at 1 %.
        for (tenth, count) in tenths.iter().enumerate() {
            assert!(count.abs_diff(USERS / 10) < 569, "tenth {tenth} has {count}");
        }
        assert!(first_percent.abs_diff(USERS / 100) < 189, "{first_percent}");
    }

    #[test]
    fn another_salt_is_another_order() {
        let same = (0..1_000)
            .map(|n| user(&format!("user-{n}")))
            .filter(|id| (bucket("exports", id) < 5_000) == (bucket("exports-2", id) < 5_000))
            .count();
        assert!((400..600).contains(&same), "{same} of 1,000 stay on their side");
    }

    proptest! {
        #[test]
        fn always_in_range_and_the_same(salt in ".{0,20}", id in "[a-zA-Z0-9_-]{1,40}") {
            let first = bucket(&salt, &user(&id));
            prop_assert!(first < BUCKETS);
            prop_assert_eq!(first, bucket(&salt, &user(&id)));
        }
    }
}
