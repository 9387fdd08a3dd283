//! A client that speaks TLS: which certificate it was shown, what was agreed on, and HTTP/1.1 over it.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, HandshakeKind, RootCertStore, StreamOwned, SupportedProtocolVersion};

use super::DEADLINE;
use super::client::Request;
use super::tls::Authority;

/// Whom a client trusts, and what it offers.
#[derive(Debug, Clone)]
pub struct Trust(Arc<ClientConfig>);

impl Trust {
    /// Trusts one authority and offers both versions of TLS and these protocols.
    pub fn in_authority(authority: &Authority, alpn: &[&str]) -> Trust {
        Trust::with_versions(authority, alpn, &[&rustls::version::TLS13, &rustls::version::TLS12])
    }

    /// The same with these versions of TLS.
    pub fn with_versions(
        authority: &Authority,
        alpn: &[&str],
        versions: &[&'static SupportedProtocolVersion],
    ) -> Trust {
        let mut roots = RootCertStore::empty();
        roots.add(authority.der()).unwrap();
        let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        config.enable_early_data = true;
        Trust(Arc::new(config))
    }

    /// Returns the settings.
    pub fn config(&self) -> Arc<ClientConfig> {
        self.0.clone()
    }

    /// Connects and shakes hands, asking for `name`.
    pub fn connect(&self, addr: SocketAddr, name: &str) -> io::Result<Tls> {
        let tcp = TcpStream::connect_timeout(&addr, DEADLINE)?;
        tcp.set_nodelay(true)?;
        tcp.set_read_timeout(Some(DEADLINE))?;
        tcp.set_write_timeout(Some(DEADLINE))?;
        let name = ServerName::try_from(name.to_owned()).expect("a name");
        let connection = ClientConnection::new(self.0.clone(), name).map_err(io::Error::other)?;
        let mut stream = StreamOwned::new(connection, tcp);
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock)?;
        }
        Ok(Tls { stream, rest: Vec::new() })
    }
}

/// A connection after its handshake.
#[derive(Debug)]
pub struct Tls {
    /// The stream itself.
    pub stream: StreamOwned<ClientConnection, TcpStream>,
    rest: Vec<u8>,
}

/// An answer of HTTP/1.1 with a length.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// Its head as text.
    pub head: String,
    /// Its body as text.
    pub body: String,
}

impl Tls {
    /// Returns the protocol that was agreed on.
    pub fn protocol(&self) -> Option<String> {
        self.stream.conn.alpn_protocol().map(|it| String::from_utf8_lossy(it).into_owned())
    }

    /// Returns the server's own certificate.
    pub fn certificate(&self) -> CertificateDer<'static> {
        self.stream.conn.peer_certificates().expect("a certificate")[0].clone().into_owned()
    }

    /// Says whether an earlier session was resumed.
    pub fn is_resumed(&self) -> bool {
        self.stream.conn.handshake_kind() == Some(HandshakeKind::Resumed)
    }

    /// Sends a request and reads its answer.
    pub fn exchange(&mut self, request: &Request) -> io::Result<Answer> {
        self.stream.write_all(&request.bytes("localhost"))?;
        self.read_answer()
    }

    /// Reads one answer that has a length.
    pub fn read_answer(&mut self) -> io::Result<Answer> {
        let head = loop {
            if let Some(at) = self.rest.windows(4).position(|four| four == b"\r\n\r\n") {
                break self.rest.drain(..at + 4).collect::<Vec<_>>();
            }
            self.fill()?;
        };
        let head = String::from_utf8_lossy(&head).into_owned();
        let field = |line: &str| line.to_ascii_lowercase().strip_prefix("content-length: ")?.trim().parse().ok();
        let length: usize = head.lines().find_map(field).unwrap_or(0);
        while self.rest.len() < length {
            self.fill()?;
        }
        let body = String::from_utf8_lossy(&self.rest.drain(..length).collect::<Vec<_>>()).into_owned();
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        Ok(Answer { status: status.unwrap_or_else(|| panic!("no status in {head:?}")), head, body })
    }

    fn fill(&mut self) -> io::Result<()> {
        let mut buffer = [0; 16 * 1024];
        match self.stream.read(&mut buffer)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            count => {
                self.rest.extend_from_slice(&buffer[..count]);
                Ok(())
            }
        }
    }
}
