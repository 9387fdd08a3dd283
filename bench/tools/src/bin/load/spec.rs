//! What a run is to do, as JSON: read once, and made into bytes that are sent as they are.

use std::fs::File;
use std::io::{self, BufReader, ErrorKind};
use std::net::SocketAddr;
use std::sync::Arc;

use serde::Deserialize;
use tokio_rustls::rustls::client::Resumption;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, version};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Spec {
    address: SocketAddr,
    /// PEM of the authority that signed the proxy's certificate (for `localhost`): TLS 1.3 then, without resumption.
    tls: Option<String>,
    connections: usize,
    /// Connections that are made at the same time.
    #[serde(default = "all")]
    at_once: usize,
    /// How long new requests are begun.
    #[serde(default)]
    seconds: f64,
    /// Ends the run after this many, if that comes first.
    requests: Option<usize>,
    /// Requests a second, on whichever connection is free; the time waited for one counts. Left out: as many as go.
    rate: Option<f64>,
    /// Just connect before the run; else every connection asks once.
    #[serde(default)]
    cold: bool,
    /// A new connection for every request.
    #[serde(default)]
    close: bool,
    #[serde(default)]
    websocket: bool,
    #[serde(default = "get")]
    method: String,
    /// Asked for in turn.
    paths: Vec<String>,
    #[serde(default)]
    headers: Vec<String>,
    /// The request's body as text, or as a number of bytes of the pattern.
    body: Option<String>,
    body_bytes: Option<u64>,
    expect: Expect,
}

/// What an answer's body has to be; its status has to be 200 (101 for a WebSocket).
#[derive(Deserialize, Clone)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Expect {
    /// So many bytes, all one of these letters.
    Letters(String, u64),
    /// So many bytes of the pattern.
    Pattern(u64),
    /// Short, and this is in it.
    Contains(String),
}

fn all() -> usize {
    usize::MAX >> 4
}

fn get() -> String {
    "GET".into()
}

/// A run, ready to go.
pub struct Plan {
    pub address: SocketAddr,
    pub tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
    pub connections: usize,
    pub at_once: usize,
    pub seconds: f64,
    pub requests: Option<usize>,
    pub rate: Option<f64>,
    pub is_get: bool,
    pub cold: bool,
    pub close: bool,
    pub websocket: bool,
    /// Each request's bytes, without a large body.
    pub requests_as_bytes: Vec<Vec<u8>>,
    /// Bytes of the pattern that follow each of them.
    pub body_bytes: u64,
    pub expect: Expect,
}

impl Plan {
    pub fn read(text: &str) -> io::Result<Plan> {
        let spec: Spec = serde_json::from_str(text)?;
        let tls = spec.tls.as_deref().map(client_config).transpose()?;
        let requests_as_bytes = spec.paths.iter().map(|path| spec.request(path)).collect();
        Ok(Plan {
            address: spec.address,
            tls,
            connections: spec.connections,
            at_once: spec.at_once.min(spec.connections),
            seconds: spec.seconds,
            requests: spec.requests,
            rate: spec.rate,
            is_get: spec.method == "GET",
            cold: spec.cold,
            close: spec.close,
            websocket: spec.websocket,
            requests_as_bytes,
            body_bytes: spec.body_bytes.unwrap_or(0),
            expect: spec.expect,
        })
    }
}

impl Spec {
    fn request(&self, path: &str) -> Vec<u8> {
        let mut text = format!("{} {path} HTTP/1.1\r\nHost: localhost\r\n", self.method);
        for header in &self.headers {
            text += header;
            text += "\r\n";
        }
        if self.websocket {
            text += "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                     Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
        } else if self.close {
            text += "Connection: close\r\n";
        }
        let body = self.body.as_deref().unwrap_or_default();
        if self.method != "GET" {
            text += &format!("Content-Length: {}\r\n", body.len() as u64 + self.body_bytes.unwrap_or(0));
        }
        (text + "\r\n" + body).into_bytes()
    }
}

fn client_config(path: &str) -> io::Result<(Arc<ClientConfig>, ServerName<'static>)> {
    let invalid = |error: &dyn std::fmt::Display| io::Error::new(ErrorKind::InvalidData, error.to_string());
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_reader_iter(BufReader::new(File::open(path)?)) {
        roots.add(certificate.map_err(|error| invalid(&error))?).map_err(|error| invalid(&error))?;
    }
    let mut config = ClientConfig::builder_with_protocol_versions(&[&version::TLS13])
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    Ok((Arc::new(config), ServerName::try_from("localhost").expect("a name")))
}
