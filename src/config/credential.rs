//! `[backends.workers.credential]`: how the gateway proves to workers who it is.

use std::net::IpAddr;

use super::check::{Checker, join};
use super::file::{CredentialFile, SecretFile, WorkersFile};
use super::texts::WebSocket;
use crate::routing::table::{Credential, HeldSecret, Hmac, Secret};

const SECTION: [&str; 3] = ["backends", "workers", "credential"];

pub(crate) fn check_credential(checker: &mut Checker<'_>, file: &CredentialFile, workers: &WorkersFile) -> Credential {
    let bearer = file.bearer.as_ref().map(|secret| held(checker, "bearer", secret));
    let id = file.access_client_id.as_ref().map(|secret| held(checker, "access_client_id", secret));
    let secret = file.access_client_secret.as_ref().map(|secret| held(checker, "access_client_secret", secret));
    let hmac = file.hmac.as_ref().map(|secret| held(checker, "hmac", secret));
    let written = |key| checker.has(&path(key));
    let (has_id, has_secret, has_hmac) =
        (written("access_client_id"), written("access_client_secret"), written("hmac"));
    if !has_id && !has_secret && !has_hmac && !written("bearer") {
        let advice = "add bearer, or access_client_id with access_client_secret, or hmac; or leave the section out";
        checker.problem(&SECTION, "says no way to prove anything", advice);
    }
    if has_id != has_secret {
        let (there, missing) = if has_id {
            ("access_client_id", "access_client_secret")
        } else {
            ("access_client_secret", "access_client_id")
        };
        checker.problem(&path(there), format!("needs {missing}"), "a service token of Cloudflare Access has both");
    }
    let key_id = file.key_id.as_ref().map(|id| id.0.0.clone());
    if let Some(id) = &key_id {
        if !has_hmac {
            checker.problem(&path("key_id"), "belongs to hmac, which is not there", "add hmac, or take it out");
        } else if !id.bytes().all(|byte| byte.is_ascii_graphic()) || id.len() > 64 {
            checker.problem(
                &path("key_id"),
                "is not 1 to 64 visible ASCII characters",
                "write a date, such as \"2026-11\"",
            );
        }
    }
    if hmac.as_ref().is_some_and(|secret| secret.file.is_none() && secret.value.0.len() < 32) {
        checker.warn(&path("hmac"), "is short: write 32 random characters or more (openssl rand -hex 32)");
    }
    if file.bearer.is_some() && workers.forward_headers.iter().any(|name| name.0 == "authorization") {
        let advice = "take Authorization out of the list: workers cannot get the client's and the gateway's";
        checker.problem(&["backends", "workers", "forward_headers"], "has Authorization, which bearer sets", advice);
    }
    warn_about_ways(checker, file, workers);
    let access = id.zip(secret);
    Credential { bearer, access, hmac: hmac.map(|secret| Hmac { secret, key_id }) }
}

fn warn_about_ways(checker: &mut Checker<'_>, file: &CredentialFile, workers: &WorkersFile) {
    if file.access_client_id.is_some() && workers.websocket.0 == WebSocket::Direct {
        let message = "browsers have no service token, so their WebSockets end at Cloudflare Access: set \
                       websocket = \"gateway\", or exempt /api/jobs/*/ws there";
        checker.warn(&["backends", "workers", "websocket"], message);
    }
    let readable = file.bearer.is_some() || file.access_client_id.is_some();
    let url = workers.url.as_ref().map(|url| &url.0);
    if readable && url.is_some_and(|url| !url.tls && !is_this_machine(&url.host)) {
        checker
            .warn(&SECTION, "goes over the network for everybody to read: use an https address for workers, or hmac");
    }
}

fn is_this_machine(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn path(key: &str) -> [&str; 4] {
    [SECTION[0], SECTION[1], SECTION[2], key]
}

fn held(checker: &mut Checker<'_>, key: &str, secret: &SecretFile) -> HeldSecret {
    match secret {
        SecretFile::InFile(file) => {
            HeldSecret { value: Secret::default(), file: Some(join(checker.base_dir, &file.0)) }
        }
        SecretFile::Given(value) => {
            if value.0.is_empty() {
                checker.problem(&path(key), "is empty", "is its environment variable set?");
            } else if checker.is_literal(&path(key)) {
                checker.warn(
                    &path(key),
                    "stands in the file: write \"${NAME}\" or { file = \"…\" }, and change the secret",
                );
            }
            HeldSecret { value: value.clone(), file: None }
        }
    }
}
