//! The decision for a start. A stand-in until the real one is merged.

use super::bucket::bucket;
use super::table::{Rollout, Share};
use crate::names::{BackendName, UserId};

/// Where a start goes, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// Where it goes.
    pub backend: BackendName,
    /// Why.
    pub reason: Reason,
    /// The user's bucket, where it counted.
    pub bucket: Option<u16>,
}

/// Why a start goes where it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// `rollout.workers` is false.
    SwitchOff,
    /// Nobody knows who asks.
    Anonymous,
    /// Listed in `always_legacy`.
    AlwaysLegacy,
    /// Listed in `always_workers`.
    AlwaysWorkers,
    /// By percentage.
    Canary,
}

impl Reason {
    /// Returns the word used in logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::SwitchOff => "switch_off",
            Reason::Anonymous => "anonymous",
            Reason::AlwaysLegacy => "always_legacy",
            Reason::AlwaysWorkers => "always_workers",
            Reason::Canary => "canary",
        }
    }
}

/// Decides where a start goes.
pub fn decide(rollout: &Rollout, share: Share, user: Option<&UserId>) -> Decision {
    let plain = |backend, reason| Decision { backend, reason, bucket: None };
    if !rollout.workers {
        return plain(BackendName::Legacy, Reason::SwitchOff);
    }
    let Some(user) = user else { return plain(BackendName::Legacy, Reason::Anonymous) };
    match rollout.pinned.get(user) {
        Some(BackendName::Legacy) => return plain(BackendName::Legacy, Reason::AlwaysLegacy),
        Some(BackendName::Workers) => return plain(BackendName::Workers, Reason::AlwaysWorkers),
        None => {}
    }
    let bucket = bucket(&rollout.salt, user);
    let backend = if bucket < share.hundredths() { BackendName::Workers } else { BackendName::Legacy };
    Decision { backend, reason: Reason::Canary, bucket: Some(bucket) }
}
