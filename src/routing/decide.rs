//! User → backend for a start, and why.

use crate::names::{BackendName, UserId};
use crate::routing::bucket::bucket;
use crate::routing::table::{Rollout, Share};

/// Where a start goes, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    /// The backend that is chosen.
    pub backend: BackendName,
    /// Why.
    pub reason: Reason,
    /// The user's bucket, 0 to 9,999, when it decided; an override further on keeps it.
    pub bucket: Option<u16>,
}

impl Decision {
    /// Returns the decision for legacy that replaces this one for a reason found on the way (an open circuit, a body that
    /// cannot be translated); a start that was for legacy anyway keeps its reason.
    #[must_use]
    pub fn overruled(self, reason: Reason) -> Decision {
        match self.backend {
            BackendName::Legacy => self,
            BackendName::Workers => Decision { backend: BackendName::Legacy, reason, ..self },
        }
    }
}

/// Why a start goes where it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// `rollout.workers = false`.
    SwitchOff,
    /// Nobody is known to be asking.
    Anonymous,
    /// The user is in `rollout.always_legacy`.
    AlwaysLegacy,
    /// The user is in `rollout.always_workers`.
    AlwaysWorkers,
    /// The user's bucket, against the share of the export type.
    Canary,
    /// Workers were chosen, but count as down.
    CircuitOpen,
    /// Workers were chosen, but the body cannot be translated with certainty.
    Untranslatable,
}

impl Reason {
    /// Every reason, in the order of the decision.
    pub const ALL: [Reason; 7] = [
        Reason::SwitchOff,
        Reason::Anonymous,
        Reason::AlwaysLegacy,
        Reason::AlwaysWorkers,
        Reason::Canary,
        Reason::CircuitOpen,
        Reason::Untranslatable,
    ];

    /// Returns the word used in the access log, in metrics and by `explain`.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::SwitchOff => "switch_off",
            Reason::Anonymous => "anonymous",
            Reason::AlwaysLegacy => "always_legacy",
            Reason::AlwaysWorkers => "always_workers",
            Reason::Canary => "canary",
            Reason::CircuitOpen => "circuit_open",
            Reason::Untranslatable => "untranslatable",
        }
    }
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Decides where a start goes; `share` is the export type's, `user` is the one that is also sent upstream.
///
/// The order is fixed: the switch, no identity, the pinned users, the bucket. The circuit is not asked here: its
/// state is not part of the configuration ([`Decision::overruled`]).
pub fn decide(rollout: &Rollout, share: Share, user: Option<&UserId>) -> Decision {
    let decided = |backend, reason| Decision { backend, reason, bucket: None };
    if !rollout.workers {
        return decided(BackendName::Legacy, Reason::SwitchOff);
    }
    let Some(user) = user else {
        return decided(BackendName::Legacy, Reason::Anonymous);
    };
    match rollout.pinned.get(user) {
        Some(BackendName::Legacy) => decided(BackendName::Legacy, Reason::AlwaysLegacy),
        Some(BackendName::Workers) => decided(BackendName::Workers, Reason::AlwaysWorkers),
        None => {
            let bucket = bucket(&rollout.salt, user);
            let moved = bucket < share.hundredths();
            let backend = if moved { BackendName::Workers } else { BackendName::Legacy };
            Decision { backend, reason: Reason::Canary, bucket: Some(bucket) }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;
    use BackendName::{Legacy, Workers};

    fn share(hundredths: u16) -> Share {
        Share::from_hundredths(hundredths).unwrap()
    }

    fn user(text: &str) -> UserId {
        UserId::from_text(text).unwrap()
    }

    fn rollout(workers: bool) -> Rollout {
        let pinned = HashMap::from([(user("old"), Legacy), (user("new"), Workers)]);
        Rollout { workers, share: share(0), salt: "exports".into(), pinned }
    }

    #[test]
    fn the_order_of_the_decision() {
        // The buckets of `user-1` and `alice` are 435 and 7651.
        let cases = [
            (false, 10_000, Some("new"), Legacy, Reason::SwitchOff, None),
            (false, 10_000, None, Legacy, Reason::SwitchOff, None),
            (true, 10_000, None, Legacy, Reason::Anonymous, None),
            (true, 10_000, Some("old"), Legacy, Reason::AlwaysLegacy, None),
            (true, 0, Some("new"), Workers, Reason::AlwaysWorkers, None),
            (true, 0, Some("user-1"), Legacy, Reason::Canary, Some(435)),
            (true, 435, Some("user-1"), Legacy, Reason::Canary, Some(435)),
            (true, 436, Some("user-1"), Workers, Reason::Canary, Some(435)),
            (true, 7_651, Some("alice"), Legacy, Reason::Canary, Some(7_651)),
            (true, 7_652, Some("alice"), Workers, Reason::Canary, Some(7_651)),
            (true, 0, Some("user-10824"), Legacy, Reason::Canary, Some(0)),
            (true, 1, Some("user-10824"), Workers, Reason::Canary, Some(0)),
            (true, 9_999, Some("user-21468"), Legacy, Reason::Canary, Some(9_999)),
            (true, 10_000, Some("user-21468"), Workers, Reason::Canary, Some(9_999)),
        ];
        for (workers, hundredths, id, backend, reason, bucket) in cases {
            let decision = decide(&rollout(workers), share(hundredths), id.map(user).as_ref());
            assert_eq!(decision, Decision { backend, reason, bucket }, "{workers} {hundredths} {id:?}");
        }
    }

    #[test]
    fn only_a_start_for_workers_is_overruled() {
        let moved = decide(&rollout(true), share(10_000), Some(&user("alice")));
        let expected = Decision { backend: Legacy, reason: Reason::CircuitOpen, bucket: Some(7_651) };
        assert_eq!(moved.overruled(Reason::CircuitOpen), expected);
        let stays = decide(&rollout(true), share(0), Some(&user("alice")));
        assert_eq!(stays.overruled(Reason::CircuitOpen), stays);
    }

    #[test]
    fn every_reason_has_its_own_word() {
        let words: std::collections::BTreeSet<_> = Reason::ALL.iter().map(|reason| reason.as_str()).collect();
        assert_eq!(words.len(), Reason::ALL.len());
    }

    proptest! {
        #[test]
        fn growing_a_share_moves_nobody_back(id in "[a-z0-9]{1,12}", salt in ".{0,8}", a in 0u16..=10_000, b in 0u16..=10_000) {
            let rollout = Rollout { salt, ..rollout(true) };
            let (small, large) = (share(a.min(b)), share(a.max(b)));
            let before = decide(&rollout, small, Some(&user(&id))).backend;
            let after = decide(&rollout, large, Some(&user(&id))).backend;
            prop_assert!(before == Legacy || after == Workers);
        }
    }
}
