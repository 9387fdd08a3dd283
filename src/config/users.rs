//! `[identity]` and `[rollout]`: who a user is, and which of them are moved.

use std::collections::HashMap;

use http::header::{self, HeaderName};

use super::check::{Checker, OWN_HEADERS, entry, join};
use super::file::{IdentityFile, JwtFile, RolloutFile};
use super::texts::{Line, User};
use super::values::{TrustedPeers, Written, shown};
use crate::names::{BackendName, UserId};
use crate::routing::table::{Identity, Rollout, Trusted};
use crate::routing::token::{Jwt, Keys};

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
    let cookie = file.cookie.as_ref().map(|name| name.0.0.clone());
    let jwt = file.jwt.as_ref().and_then(|jwt| check_jwt(checker, jwt, &header));
    let proven = checker.has(&["identity", "cookie"]) || checker.has(&["identity", "jwt"]);
    let trusted = match &file.trusted {
        TrustedPeers::Any if proven => {
            if checker.has(&["identity", "trusted"]) {
                let advice =
                    "with cookie or jwt anybody could be anybody by leaving them out: list networks, or leave it out";
                checker.problem(&["identity", "trusted"], "is \"any\" beside a cookie or a jwt", advice);
            }
            Trusted::Networks(Vec::new())
        }
        TrustedPeers::Any => Trusted::Any,
        TrustedPeers::Networks(networks) => Trusted::Networks(networks.iter().map(|net| net.0).collect()),
    };
    if !proven && matches!(&trusted, Trusted::Networks(networks) if networks.is_empty()) {
        checker.warn(&["identity", "trusted"], "is empty: nobody may say who a user is, every request is anonymous");
    }
    Identity { header, default, trusted, cookie, jwt }
}

fn check_jwt(checker: &mut Checker<'_>, file: &JwtFile, identity: &HeaderName) -> Option<Jwt> {
    let path = |key| ["identity", "jwt", key];
    let header = file.header.0.clone();
    if header != header::AUTHORIZATION && OWN_HEADERS.contains(&header.as_str()) || header == header::COOKIE {
        checker.problem(&path("header"), format!("{header} cannot carry a token"), "write \"Authorization\"");
    } else if header == identity {
        let advice = "backends get the user in identity.header: the token needs a header of its own";
        checker.problem(&path("header"), format!("{header} is identity.header too"), advice);
    }
    if file.keys.is_none() && !checker.has(&path("keys")) {
        let advice = "add keys = \"jwks.json\": a JWKS, a PEM file with public keys, or a file with the HMAC secret";
        checker.problem(&path("keys"), "is missing", advice);
    }
    let text = |line: &Option<Written<Line>>| line.as_ref().map(|line| line.0.0.clone());
    let (issuer, audience) = (text(&file.issuer), text(&file.audience));
    if issuer.is_none() && !checker.has(&path("issuer")) {
        checker.warn(
            &path("issuer"),
            "is not set: any token that its keys have signed is taken, whoever it was meant for",
        );
    }
    if audience.is_none() && !checker.has(&path("audience")) {
        checker.warn(&path("audience"), "is not set: tokens that name an audience are refused");
    }
    Some(Jwt {
        header,
        claim: file.claim.0.0.clone(),
        issuer,
        audience,
        file: join(checker.base_dir, &file.keys.as_ref()?.0.0),
        keys: Keys::default(),
    })
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
