//! `[server.tls]`, `[backends.legacy.tls]` and `[backends.workers.tls]`: which files, and what they mean together.

use std::time::Duration;

use super::check::{Checker, entry, join};
use super::file::{BackendTlsFile, CertificateFile, ServerTlsFile};
use super::texts::Line;
use super::values::Written;
use crate::limits;
use crate::routing::table::BaseUrl;
use crate::routing::tls::{BackendTls, CertificateFiles, ServerTls};

pub(crate) fn check_server_tls(checker: &mut Checker<'_>, file: &ServerTlsFile) -> ServerTls {
    let section = ["server", "tls"];
    let first = pair(checker, &section, file.certificate.as_ref(), file.key.as_ref());
    let mut certificates: Vec<CertificateFiles> = first.into_iter().collect();
    for (index, CertificateFile { certificate, key }) in file.more.iter().enumerate() {
        let path = ["server", "tls", "more", &entry(index)];
        certificates.extend(pair(checker, &path, certificate.as_ref(), key.as_ref()));
    }
    if file.more.len() >= limits::CERTIFICATES {
        let message = format!("has more than {} certificates", limits::CERTIFICATES - 1);
        checker.problem(&["server", "tls", "more"], message, "one certificate may have many names");
    }
    let handshake_timeout = file.handshake_timeout.0;
    if handshake_timeout < Duration::from_millis(1) {
        checker.problem(&["server", "tls", "handshake_timeout"], "is too small", "write \"1ms\" or more");
    }
    ServerTls { certificates, handshake_timeout, http2: file.http2.0, made: None }
}

pub(crate) fn check_backend_tls(
    checker: &mut Checker<'_>,
    name: &str,
    file: Option<&BackendTlsFile>,
    url: Option<&BaseUrl>,
) -> BackendTls {
    let is_workers = name == "workers";
    let Some(file) = file else { return BackendTls { http2: is_workers, ..BackendTls::default() } };
    let section = ["backends", name, "tls"];
    let wants_pair = [("certificate", &file.certificate), ("key", &file.key)]
        .iter()
        .any(|(key, value)| value.is_some() || checker.has(&["backends", name, "tls", key]));
    let certificate =
        if wants_pair { pair(checker, &section, file.certificate.as_ref(), file.key.as_ref()) } else { None };
    if !is_workers && file.http2.as_ref().is_some_and(|http2| http2.0) {
        let advice = "take it out: legacy is spoken to in HTTP/1.1, which uvicorn has";
        checker.problem(&["backends", name, "tls", "http2"], "is for workers only", advice);
    }
    if url.is_some_and(|url| !url.tls) {
        checker.warn(&section, format!("counts for nothing: backends.{name}.url is not https"));
    }
    BackendTls {
        roots: file.roots.as_ref().map(|roots| join(checker.base_dir, &roots.0.0)),
        certificate,
        http2: is_workers && file.http2.as_ref().is_none_or(|http2| http2.0),
        made: None,
    }
}

/// Reads a certificate and its key, which need each other.
fn pair(
    checker: &mut Checker<'_>,
    section: &[&str],
    certificate: Option<&Written<Line>>,
    key: Option<&Written<Line>>,
) -> Option<CertificateFiles> {
    for (name, value) in [("certificate", certificate), ("key", key)] {
        let path: Vec<&str> = section.iter().copied().chain([name]).collect();
        if value.is_none() && !checker.has(&path) {
            checker.problem(&path, "is missing", format!("add {name} = \"….pem\": a PEM file"));
        }
    }
    let file = |line: &Written<Line>| join(checker.base_dir, &line.0.0);
    Some(CertificateFiles { certificate: file(certificate?), key: file(key?) })
}
