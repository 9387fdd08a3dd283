//! A new connection to a backend: name, addresses and TLS, within one time-out, with a typed cause when it fails.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tokio_rustls::{TlsConnector, TlsStream};

use crate::backends::resolve::{Name, Resolver};
use crate::config::{client_configs, system_roots};
use crate::http::socket::{Socket, Tcp};
use crate::limits;
use crate::routing::table::{Backend, BaseUrl};
use crate::routing::tls::ClientConfigs;

/// Why there is no connection. Whichever it is: no byte of a request was sent.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The name has no address, or nobody could say.
    #[error("name could not be resolved")]
    Dns(#[source] io::Error),
    /// No address took the connection.
    #[error("connection refused or unreachable")]
    Connect(#[source] io::Error),
    /// `connect_timeout` passed.
    #[error("no connection within {0:?}")]
    TimedOut(Duration),
    /// The TLS handshake failed: a certificate that is not for this name, expired, or not signed by a known root.
    #[error("TLS handshake failed")]
    Tls(#[source] io::Error),
}

/// What is needed to dial: backends' names and the TLS settings towards them.
#[derive(Clone)]
pub struct Dialer {
    /// For backends that name no files of their own.
    tls: Arc<ClientConfigs>,
    resolver: Arc<Resolver>,
}

impl std::fmt::Debug for Dialer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Dialer")
    }
}

/// Which versions of HTTP a connection may be for, where TLS leaves the choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offer {
    /// HTTP/1.1, which WebSockets need.
    Http1,
    /// HTTP/2 if the backend agrees to it.
    Http2,
}

/// Why TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
#[error("TLS cannot be set up")]
pub struct TlsSetupError(#[from] rustls::Error);

impl Dialer {
    /// Reads the system's roots (`SSL_CERT_FILE` and `SSL_CERT_DIR` are honoured). Verification is always on.
    ///
    /// # Errors
    /// [`TlsSetupError`] when the TLS library refuses its own defaults.
    pub fn new() -> Result<Dialer, TlsSetupError> {
        let tls = Arc::new(client_configs(system_roots(), None)?);
        Ok(Dialer { tls, resolver: Arc::new(Resolver::start()) })
    }

    /// Returns a backend's name; `None` if it is given by its address.
    pub fn name(&self, of: &BaseUrl) -> Option<Arc<Name>> {
        self.resolver.name(&of.host)
    }

    /// Connects to a backend within its `connect_timeout`.
    ///
    /// # Errors
    /// [`DialError`] says what failed.
    pub async fn dial(&self, backend: &Backend, offer: Offer) -> Result<Socket, DialError> {
        let limit = backend.connect_timeout;
        match timeout(limit, self.dial_unbounded(backend, offer)).await {
            Ok(result) => result,
            Err(_) => Err(DialError::TimedOut(limit)),
        }
    }

    async fn dial_unbounded(&self, backend: &Backend, offer: Offer) -> Result<Socket, DialError> {
        let to = &backend.url;
        let addresses: Vec<SocketAddr> = match self.name(to) {
            None => to.host.parse().map(|ip| SocketAddr::new(ip, to.port)).into_iter().collect(),
            Some(name) => {
                let found = name.resolve(Instant::now()).await.map_err(DialError::Dns)?;
                interleave(found.iter().map(|address| with_port(*address, to.port)).collect())
            }
        };
        let tcp = Tcp::new(first_to_connect(&addresses).await?);
        if !to.tls {
            return Ok(Socket::Plain(tcp));
        }
        let name = ServerName::try_from(to.host.clone())
            .map_err(|error| DialError::Tls(io::Error::new(io::ErrorKind::InvalidInput, error)))?;
        let configs = match &backend.tls.made {
            Some(made) => &made.value,
            // Files that were not read must not turn into the system's roots.
            None if backend.tls.names_files() => return Err(DialError::Tls(io::ErrorKind::NotFound.into())),
            None => &self.tls,
        };
        let config = match offer {
            Offer::Http1 => &configs.http1,
            Offer::Http2 => &configs.http2,
        };
        let connecting = TlsConnector::from(config.clone()).connect(name, tcp);
        let stream = connecting.await.map_err(DialError::Tls)?;
        Ok(Socket::Tls(Box::new(TlsStream::Client(stream))))
    }
}

fn with_port(mut address: SocketAddr, port: u16) -> SocketAddr {
    address.set_port(port);
    address
}

/// Puts IPv6 and IPv4 in turn, first family first (RFC 8305, section 4), at most `limits::DIAL_ADDRESSES`.
fn interleave(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let first_is_v6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (same, other): (Vec<SocketAddr>, Vec<SocketAddr>) =
        addresses.into_iter().partition(|address| address.is_ipv6() == first_is_v6);
    let mut rest = other.into_iter();
    let mut mixed: Vec<SocketAddr> =
        same.into_iter().flat_map(|address| [Some(address), rest.next()]).flatten().collect();
    mixed.extend(rest);
    mixed.truncate(limits::DIAL_ADDRESSES);
    mixed
}

/// Dials the addresses one after the other, 250 ms apart or as soon as one fails; the first that connects wins.
async fn first_to_connect(addresses: &[SocketAddr]) -> Result<TcpStream, DialError> {
    let mut waiting = addresses.iter();
    let mut attempts = FuturesUnordered::new();
    let mut last = io::Error::new(io::ErrorKind::NotFound, "name has no address");
    loop {
        match waiting.next() {
            Some(address) => attempts.push(TcpStream::connect(*address)),
            None if attempts.is_empty() => return Err(DialError::Connect(last)),
            None => {}
        }
        let stagger = async {
            if waiting.len() == 0 {
                std::future::pending::<()>().await;
            }
            sleep(limits::DIAL_STAGGER).await;
        };
        tokio::select! {
            Some(result) = attempts.next() => match result {
                Ok(stream) => return Ok(stream),
                Err(error) => last = error,
            },
            () = stagger => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_families_take_turns() {
        let parse = |texts: &[&str]| texts.iter().map(|t| t.parse().expect("an address")).collect::<Vec<SocketAddr>>();
        let mixed =
            interleave(parse(&["[::1]:1", "[::2]:1", "1.1.1.1:1", "[::3]:1", "2.2.2.2:1", "3.3.3.3:1", "4.4.4.4:1"]));
        assert_eq!(
            mixed,
            parse(&["[::1]:1", "1.1.1.1:1", "[::2]:1", "2.2.2.2:1", "[::3]:1", "3.3.3.3:1", "4.4.4.4:1"])
        );
    }

    #[tokio::test]
    async fn a_dead_address_costs_no_time_when_it_refuses() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let alive = listener.local_addr().expect("an address");
        let dead = {
            let other = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
            other.local_addr().expect("an address")
        };
        let stream = first_to_connect(&[dead, alive]).await.expect("a connection");
        assert_eq!(stream.peer_addr().expect("a peer"), alive);
        assert!(matches!(first_to_connect(&[dead]).await, Err(DialError::Connect(_))));
    }
}
