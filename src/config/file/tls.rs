//! The sections about TLS, towards clients and towards backends.

use std::time::Duration;

use serde::Deserialize;

use crate::config::texts::Line;
use crate::config::values::Written;

/// `[server.tls]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ServerTlsFile {
    /// PEM file of the chain, the server's own certificate first; required.
    pub(crate) certificate: Option<Written<Line>>,
    /// PEM file of its private key; required.
    pub(crate) key: Option<Written<Line>>,
    /// Further certificates, chosen by the name that a client asks for.
    pub(crate) more: Vec<CertificateFile>,
    /// How long a client has for its handshake.
    pub(crate) handshake_timeout: Written<Duration>,
    /// Whether clients may speak HTTP/2.
    pub(crate) http2: Written<bool>,
}

impl Default for ServerTlsFile {
    fn default() -> ServerTlsFile {
        ServerTlsFile {
            certificate: None,
            key: None,
            more: Vec::new(),
            handshake_timeout: Written(Duration::from_secs(10)),
            http2: Written(true),
        }
    }
}

/// One of `server.tls.more`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct CertificateFile {
    /// PEM file of the chain; required.
    pub(crate) certificate: Option<Written<Line>>,
    /// PEM file of its private key; required.
    pub(crate) key: Option<Written<Line>>,
}

/// `[backends.legacy.tls]` and `[backends.workers.tls]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct BackendTlsFile {
    /// PEM file of the roots that may vouch for the backend; left out: the system's.
    pub(crate) roots: Option<Written<Line>>,
    /// PEM file of the gateway's own certificate.
    pub(crate) certificate: Option<Written<Line>>,
    /// PEM file of its private key.
    pub(crate) key: Option<Written<Line>>,
    /// Whether HTTP/2 is spoken where workers agree to it; default: yes. Legacy is HTTP/1.1.
    pub(crate) http2: Option<Written<bool>>,
}
