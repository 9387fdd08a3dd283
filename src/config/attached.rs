//! The files that `gateway.toml` names and that belong to it: keys of tokens, secrets, certificates. Loading the configuration leaves
//! their places empty; reading them is a second step, which is repeated whenever one of them changes.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use super::certificates::{BadFile, make_client, make_server};
use super::problem::{Mistake, Origin, Problem};
use super::read::read;
use super::texts::Line;
use super::values::Value;
use crate::names::BackendName;
use crate::routing::table::{HeldSecret, RoutingTable, Secret};
use crate::routing::tls::{BackendTls, CertificateFiles};
use crate::routing::token::{Jwt, Keys};

/// What the files said when they were read together.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Contents(BTreeMap<PathBuf, Result<Vec<u8>, String>>);

impl fmt::Debug for Contents {
    /// Names the files; what is in them is secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Contents {
    /// Reads every file that a table names.
    pub fn read(table: &RoutingTable) -> Contents {
        let jwt = table.identity.jwt.iter().map(|jwt| &jwt.file);
        let secrets = secrets(table).into_iter().filter_map(|(_, secret)| secret.file.as_ref());
        let read = |path: &PathBuf| (path.clone(), read(path).map(|(bytes, _)| bytes).map_err(|error| reason(&error)));
        let certificates = certificates(table).flat_map(|files| [&files.certificate, &files.key]);
        let roots =
            [&table.legacy, &table.workers.backend].into_iter().filter_map(|backend| backend.tls.roots.as_ref());
        Contents(jwt.chain(secrets).chain(certificates).chain(roots).map(read).collect())
    }

    /// Says whether the table names no file at all.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn of(&self, path: &Path) -> Result<&[u8], String> {
        match self.0.get(path) {
            Some(Ok(bytes)) => Ok(bytes),
            Some(Err(reason)) => Err(format!("cannot be read: {reason}")),
            None => Err("was not read".to_owned()),
        }
    }
}

fn reason(error: &std::io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_lowercase()
}

/// Fills the places of a table that files are for. Where a file is no good, what `serving` has from the same file
/// stays, and a line says so.
///
/// # Errors
/// A problem for each file that is no good and has nothing to stay, with `name` as the configuration file's.
pub fn attach(
    table: &mut RoutingTable,
    contents: &Contents,
    serving: Option<&RoutingTable>,
    name: &str,
) -> Result<Vec<String>, Vec<Problem>> {
    let (mut stale, mut problems) = (Vec::new(), Vec::new());
    let mut failed = |key: &str, path: &Path, (what, advice): (String, &str), kept: bool| {
        let message = format!("{} {what}", path.display());
        if kept {
            stale.push(format!("{key}: {message}; what it held before stays"));
        } else {
            problems.push(Origin { file: name, text: "" }.nowhere(key, Mistake::new(message, advice)));
        }
    };
    if let Some(jwt) = &mut table.identity.jwt {
        let before = serving.and_then(|serving| serving.identity.jwt.as_ref()).filter(|old| old.file == jwt.file);
        if let Err(what) = read_keys(jwt, contents) {
            // Keys know the issuer and audience they are for: with others they would let the wrong tokens in.
            let same =
                |old: &&Jwt| old.keys.count() > 0 && (&old.issuer, &old.audience) == (&jwt.issuer, &jwt.audience);
            let before = before.filter(same).map(|old| old.keys.clone());
            failed("identity.jwt.keys", &jwt.file, (what, ""), before.is_some());
            jwt.keys = before.unwrap_or_default();
        }
    }
    for (key, secret) in secrets_mut(table) {
        let Some(path) = secret.file.clone() else { continue };
        match read_secret(&path, contents) {
            Ok(value) => secret.value = value,
            Err(what) => {
                let all = serving.map(secrets).unwrap_or_default();
                let before = all.into_iter().find(|(old, held)| *old == key && held.file.as_ref() == Some(&path));
                let before = before.map(|(_, held)| held.value.clone()).filter(|value| !value.0.is_empty());
                failed(&format!("backends.workers.credential.{key}"), &path, (what, ""), before.is_some());
                secret.value = before.unwrap_or_default();
            }
        }
    }
    attach_certificates(table, contents, serving, &mut failed);
    if problems.is_empty() { Ok(stale) } else { Err(problems) }
}

fn attach_certificates(
    table: &mut RoutingTable,
    contents: &Contents,
    serving: Option<&RoutingTable>,
    failed: &mut impl FnMut(&str, &Path, (String, &str), bool),
) {
    if let Some(tls) = &mut table.server.tls {
        let before = serving.and_then(|serving| serving.server.tls.as_ref());
        if let Err(BadFile { key, path, what, advice }) = make_server(tls, contents, before) {
            let before = before.filter(|old| old.certificates == tls.certificates).and_then(|old| old.made.clone());
            failed(&format!("server.tls.{key}"), &path, (what, advice), before.is_some());
            tls.made = before;
        }
    }
    for name in BackendName::ALL {
        let backend = |table: &RoutingTable| match name {
            BackendName::Legacy => table.legacy.tls.clone(),
            BackendName::Workers => table.workers.backend.tls.clone(),
        };
        let before = serving.map(backend);
        let tls = match name {
            BackendName::Legacy => &mut table.legacy.tls,
            BackendName::Workers => &mut table.workers.backend.tls,
        };
        if let Err(BadFile { key, path, what, advice }) = make_client(tls, contents, before.as_ref()) {
            let same = |old: &BackendTls| (&old.roots, &old.certificate) == (&tls.roots, &tls.certificate);
            let before = before.filter(same).and_then(|old| old.made);
            failed(&format!("backends.{}.tls.{key}", name.as_str()), &path, (what, advice), before.is_some());
            tls.made = before;
        }
    }
}

fn read_keys(jwt: &mut Jwt, contents: &Contents) -> Result<(), String> {
    let bytes = contents.of(&jwt.file)?;
    let keys = Keys::read(bytes, jwt.issuer.as_deref(), jwt.audience.as_deref());
    jwt.keys = keys.map_err(|bad| bad.to_string())?;
    Ok(())
}

/// A secret's file is one line; the line break that editors put at its end is not part of it.
fn read_secret(path: &Path, contents: &Contents) -> Result<Secret, String> {
    let text = std::str::from_utf8(contents.of(path)?).map_err(|_| "is not text".to_owned())?;
    let line = Line::parse(text.trim_end()).map_err(|mistake| mistake.message)?;
    Secret::parse(&line.0).map_err(|mistake| mistake.message)
}

fn certificates(table: &RoutingTable) -> impl Iterator<Item = &CertificateFiles> {
    let server = table.server.tls.iter().flat_map(|tls| &tls.certificates);
    let backends = [&table.legacy, &table.workers.backend].into_iter();
    server.chain(backends.filter_map(|backend| backend.tls.certificate.as_ref()))
}

fn secrets(table: &RoutingTable) -> Vec<(&'static str, &HeldSecret)> {
    let Some(credential) = &table.workers.backend.credential else { return Vec::new() };
    let access = credential.access.as_ref();
    let held = [
        ("bearer", credential.bearer.as_ref()),
        ("access_client_id", access.map(|(id, _)| id)),
        ("access_client_secret", access.map(|(_, secret)| secret)),
        ("hmac", credential.hmac.as_ref().map(|hmac| &hmac.secret)),
    ];
    held.into_iter().filter_map(|(key, secret)| Some((key, secret?))).collect()
}

fn secrets_mut(table: &mut RoutingTable) -> Vec<(&'static str, &mut HeldSecret)> {
    let Some(credential) = &mut table.workers.backend.credential else { return Vec::new() };
    let (id, secret) = credential.access.as_mut().map(|(id, secret)| (id, secret)).unzip();
    let held = [
        ("bearer", credential.bearer.as_mut()),
        ("access_client_id", id),
        ("access_client_secret", secret),
        ("hmac", credential.hmac.as_mut().map(|hmac| &mut hmac.secret)),
    ];
    held.into_iter().filter_map(|(key, secret)| Some((key, secret?))).collect()
}
