//! `[identity]` and `[rollout]`: who a user is, and which of them are moved.

use std::collections::HashMap;

use super::check::{Checker, OWN_HEADERS, entry};
use super::file::{IdentityFile, RolloutFile};
use super::texts::User;
use super::values::{TrustedPeers, shown};
use crate::names::{BackendName, UserId};
use crate::routing::table::{Identity, Rollout, Trusted};

pub(crate) fn check_identity(checker: &mut Checker<'_>, file: &IdentityFile) -> Identity {
    let header = file.header.0.clone();
    let path = ["identity", "header"];
    if OWN_HEADERS.contains(&header.as_str()) || header == "authorization" || header == "cookie" {
        checker.problem(
            &path,
            format!("{header} cannot carry the user"),
            "use a header of its own, such as \"X-User-Id\"",
        );
    } else if header.as_str().contains('_') {
        let advice = "write it with -: servers such as nginx drop or merge names with _";
        checker.problem(&path, "has a _ in its name", advice);
    }
    let default = file.default.as_ref().map(|user| filtered(checker, &["identity", "default"], &user.0));
    if let Some(user) = &default {
        let message = format!(
            "all requests without a user are the one user `{user}`: they move to workers together, or not at all"
        );
        checker.warn(&["identity", "default"], message);
    }
    let trusted = match &file.trusted {
        TrustedPeers::Any => Trusted::Any,
        TrustedPeers::Networks(networks) => Trusted::Networks(networks.iter().map(|net| net.0).collect()),
    };
    if matches!(&trusted, Trusted::Networks(networks) if networks.is_empty()) {
        checker.warn(&["identity", "trusted"], "is empty: nobody may say who a user is, every request is anonymous");
    }
    Identity { header, default, trusted }
}

/// Warns when legacy, and so the gateway, reads a user id differently from how it is written.
fn filtered(checker: &mut Checker<'_>, path: &[&str], user: &User) -> UserId {
    if user.id.as_str() != user.written {
        let message = format!("{} is read as `{}`, as legacy reads it", shown(&user.written), user.id);
        checker.warn(path, message);
    }
    user.id.clone()
}

pub(crate) fn check_rollout(checker: &mut Checker<'_>, file: &RolloutFile) -> Rollout {
    let mut pinned: HashMap<UserId, BackendName> = HashMap::new();
    let lists = [
        ("always_workers", &file.always_workers, BackendName::Workers),
        ("always_legacy", &file.always_legacy, BackendName::Legacy),
    ];
    for (list, users, backend) in lists {
        for (index, user) in users.iter().enumerate() {
            let path = ["rollout", list, &entry(index)];
            let id = filtered(checker, &path, &user.0);
            match pinned.get(&id) {
                None => drop(pinned.insert(id, backend)),
                Some(before) if *before == backend => checker.warn(&path, format!("lists `{id}` more than once")),
                Some(_) => checker.problem(
                    &path,
                    format!("user `{id}` is in always_workers and in always_legacy"),
                    "take the user out of one of the two lists",
                ),
            }
        }
    }
    Rollout { workers: file.workers.0, share: file.percent.0, salt: file.salt.0.0.clone(), pinned }
}
