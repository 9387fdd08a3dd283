//! TLS as a table has it: the files that the configuration names, and what was made of them when they were read.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustls::{ClientConfig, ServerConfig};

/// A certificate and its key, by their files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFiles {
    /// Absolute path of the chain, PEM, the server's or client's own certificate first.
    pub certificate: PathBuf,
    /// Absolute path of the private key, PEM.
    pub key: PathBuf,
}

/// `[server.tls]`: clients are met with TLS.
#[derive(Debug, Clone)]
pub struct ServerTls {
    /// The certificates; the first one is shown to clients that ask for a name which none of them has.
    pub certificates: Vec<CertificateFiles>,
    /// How long a client has for its handshake.
    pub handshake_timeout: Duration,
    /// Whether clients may speak HTTP/2.
    pub http2: bool,
    /// What serves; `None` until the files are read.
    pub made: Option<Made<ServerConfig>>,
}

/// `[backends.legacy.tls]` and `[backends.workers.tls]`: how the backend is verified, always, and who the gateway is to it.
#[derive(Debug, Clone, Default)]
pub struct BackendTls {
    /// Absolute path of a PEM file with the roots; `None`: the system's.
    pub roots: Option<PathBuf>,
    /// The gateway's own certificate.
    pub certificate: Option<CertificateFiles>,
    /// Whether HTTP/2 is spoken where the backend agrees to it.
    pub http2: bool,
    /// What is dialled with; `None` where no file is named, and until the files are read.
    pub made: Option<Made<ClientConfigs>>,
}

/// Settings towards a backend, for each of the two ways to speak HTTP there.
#[derive(Debug)]
pub struct ClientConfigs {
    /// HTTP/1.1 alone.
    pub http1: Arc<ClientConfig>,
    /// HTTP/2 where the backend agrees.
    pub http2: Arc<ClientConfig>,
}

impl BackendTls {
    /// Says whether anything but the system's roots is needed.
    pub fn names_files(&self) -> bool {
        self.roots.is_some() || self.certificate.is_some()
    }

    /// Says whether connections dialled with one may be used for the other.
    pub fn is_same(&self, other: &BackendTls) -> bool {
        let from = |tls: &BackendTls| tls.made.as_ref().map(|made| made.from);
        self.http2 == other.http2 && from(self) == from(other)
    }
}

/// Something made of files.
pub struct Made<T> {
    /// The thing.
    pub value: Arc<T>,
    /// SHA-256 over all that it was made of: while this stays, so does the thing, and with it the sessions that peers
    /// may resume.
    pub from: [u8; 32],
}

impl<T> Clone for Made<T> {
    fn clone(&self) -> Made<T> {
        Made { value: self.value.clone(), from: self.from }
    }
}

impl<T> fmt::Debug for Made<T> {
    /// Names what it was made of; what is in it is long, and near to keys.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Made(")?;
        self.from.iter().take(6).try_for_each(|byte| write!(f, "{byte:02x}"))?;
        f.write_str(")")
    }
}
