//! A user's place between 0 and 9999. A stand-in: not the published hash.

use sha2::{Digest, Sha256};

use crate::names::UserId;

/// Returns the bucket of a user, 0 to 9999.
pub fn bucket(salt: &str, user: &UserId) -> u16 {
    let digest = Sha256::digest(format!("{salt}\0{user}"));
    let number = digest.iter().take(8).fold(0u64, |number, byte| number << 8 | u64::from(*byte));
    u16::try_from(number % 10_000).expect("below 10,000")
}
