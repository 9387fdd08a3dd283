//! A TLS server in front of a real backend, with certificates as good or bad as a test wants them.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned};

use super::DEADLINE;
use super::client::Connection;

/// A certificate authority of the test's own.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

/// What is wrong with a server's certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Certificate {
    /// Nothing.
    Good,
    /// It ended in 2020.
    Expired,
    /// It is for another name.
    WrongName,
    /// Nobody known has signed it.
    SelfSigned,
}

impl Authority {
    /// Makes one.
    pub fn new() -> Authority {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // With one name for all, OpenSSL takes what it signs for self-signed.
        params.distinguished_name.push(DnType::CommonName, "an authority");
        Authority(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// Returns its certificate, for `SSL_CERT_FILE`.
    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// Returns its certificate, for those who trust it.
    pub fn der(&self) -> CertificateDer<'static> {
        self.0.der().clone()
    }

    /// Makes a certificate for names, and its key, both PEM.
    pub fn pair_for(&self, names: &[&str]) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>()).unwrap();
        params.distinguished_name.push(DnType::CommonName, names[0]);
        let certificate = params.signed_by(&key, &self.0).unwrap();
        (certificate.pem(), key.serialize_pem())
    }

    /// Writes a certificate for a host and its key into a folder; returns both paths.
    pub fn files_for(&self, host: &str, folder: &Path) -> (String, String) {
        self.write_for(&[host], folder, "server")
    }

    /// Writes a certificate for names and its key into a folder, as `STEM.pem` and `STEM.key`; returns both paths.
    pub fn write_for(&self, names: &[&str], folder: &Path, stem: &str) -> (String, String) {
        let (certificate, key) = self.pair_for(names);
        let paths = ["pem", "key"].map(|kind| folder.join(format!("{stem}.{kind}")).display().to_string());
        std::fs::write(&paths[0], certificate).unwrap();
        std::fs::write(&paths[1], key).unwrap();
        paths.into()
    }

    /// Makes the settings of a good server for `localhost`.
    pub fn server(&self) -> ServerConfig {
        self.config(Certificate::Good)
    }

    /// Makes the settings of a server that wants its clients' certificates signed by this authority.
    fn demanding(&self) -> ServerConfig {
        let mut roots = RootCertStore::empty();
        roots.add(self.der()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build().unwrap();
        let (certificate, key) = self.pair_for(&["localhost"]);
        ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(verifier)
            .with_single_cert(
                vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()],
                PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap(),
            )
            .unwrap()
    }

    fn config(&self, kind: Certificate) -> ServerConfig {
        let name = if kind == Certificate::WrongName { "other.example" } else { "localhost" };
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        if kind == Certificate::Expired {
            params.not_before = rcgen::date_time_ymd(2019, 1, 1);
            params.not_after = rcgen::date_time_ymd(2020, 1, 1);
        }
        let key = KeyPair::generate().unwrap();
        let certificate = match kind {
            Certificate::SelfSigned => params.self_signed(&key),
            _ => params.signed_by(&key, &self.0),
        };
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.unwrap().der().clone()], key)
            .unwrap()
    }
}

impl Default for Authority {
    fn default() -> Authority {
        Authority::new()
    }
}

/// A TLS server that forwards one request a connection to a backend; it serves until the test process ends.
pub struct Front {
    addr: SocketAddr,
    bytes: Arc<AtomicUsize>,
    connections: Arc<AtomicUsize>,
}

impl Front {
    /// Starts it.
    pub fn start(authority: &Authority, kind: Certificate, backend: SocketAddr) -> Front {
        Front::with(authority.config(kind), backend)
    }

    /// Starts one that wants a certificate of its clients, too.
    pub fn demanding(authority: &Authority, backend: SocketAddr) -> Front {
        Front::with(authority.demanding(), backend)
    }

    fn with(config: ServerConfig, backend: SocketAddr) -> Front {
        let config = Arc::new(config);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let addr = listener.local_addr().unwrap();
        let (bytes, connections) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let (counted, accepted) = (Arc::clone(&bytes), Arc::clone(&connections));
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                accepted.fetch_add(1, Ordering::SeqCst);
                let (config, counted) = (Arc::clone(&config), Arc::clone(&counted));
                thread::spawn(move || relay(stream, config, backend, &counted));
            }
        });
        Front { addr, bytes, connections }
    }

    /// Returns its base URL, by the name `localhost`.
    pub fn url(&self) -> String {
        format!("https://localhost:{}", self.addr.port())
    }

    /// Counts the bytes of requests that came through TLS.
    pub fn bytes(&self) -> usize {
        self.bytes.load(Ordering::SeqCst)
    }

    /// Counts the connections accepted so far.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

/// Requests of these tests fit in one read; the answer goes back as it comes, and the connection ends.
fn relay(stream: TcpStream, config: Arc<ServerConfig>, backend: SocketAddr, counted: &AtomicUsize) {
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut tls = StreamOwned::new(ServerConnection::new(config).unwrap(), stream);
    let mut request = vec![0; 64 * 1024];
    let mut length = 0;
    while !is_whole(&request[..length]) {
        match tls.read(&mut request[length..]) {
            Ok(0) | Err(_) => return,
            Ok(count) => {
                counted.fetch_add(count, Ordering::SeqCst);
                length += count;
            }
        }
    }
    let mut connection = Connection::open(backend);
    connection.send(&request[..length]);
    let answer = connection.read("POST").unwrap();
    let _ = tls.write_all(&[answer.head.raw, answer.body.bytes].concat());
    tls.conn.send_close_notify();
    let _ = tls.flush();
}

fn is_whole(request: &[u8]) -> bool {
    let text = super::wire::latin1(request);
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length = head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
    body.len() >= length.unwrap_or(0)
}
