//! Backends that speak HTTP/2: one of frames, as rude as a test wants it, and one that stands before a real Worker.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use bytes::Bytes;
use http::{HeaderMap, Response};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use tokio::io::copy_bidirectional;
use tokio_rustls::TlsAcceptor;

use super::DEADLINE;
use super::client::{self, Request};
use super::h2_frames::{DATA, END_HEADERS, END_STREAM, Frame, Frames, HEADERS, SETTINGS, block};
use super::tls::Authority;

/// A server's end through TLS.
pub type Server = Frames<StreamOwned<ServerConnection, TcpStream>>;

/// A server of frames that runs a closure for each connection.
#[derive(Debug)]
pub struct H2Backend {
    addr: SocketAddr,
    ended: Arc<AtomicBool>,
    connections: Arc<AtomicUsize>,
    requests: Arc<AtomicUsize>,
}

/// What a closure of [`H2Backend`] plays on.
#[derive(Debug)]
pub struct Stage {
    /// The connection, its settings exchanged.
    pub frames: Server,
    requests: Arc<AtomicUsize>,
}

impl Stage {
    /// Reads one whole request; returns its stream.
    pub fn request(&mut self) -> io::Result<u32> {
        loop {
            let Frame { kind, flags, stream, .. } = self.frames.next()?;
            if kind == HEADERS {
                self.requests.fetch_add(1, Ordering::SeqCst);
            }
            if matches!(kind, HEADERS | DATA) && flags & END_STREAM != 0 {
                return Ok(stream);
            }
        }
    }

    /// Answers a stream with JSON.
    pub fn answer(&mut self, stream: u32, body: &str) {
        let head = [&[0x88], &block(&[("content-type", "application/json")])[..]].concat();
        self.frames.send(HEADERS, END_HEADERS, stream, &head);
        self.frames.send(DATA, END_STREAM, stream, body.as_bytes());
    }

    /// Reads until the peer has gone.
    pub fn drain(&mut self) {
        while self.frames.next().is_ok() {}
    }
}

impl H2Backend {
    /// Starts one; the closure gets the connection's number, and its return closes the connection.
    pub fn start(
        authority: &Authority,
        settings: &'static [(u16, u32)],
        play: impl Fn(usize, &mut Stage) -> io::Result<()> + Send + Sync + 'static,
    ) -> H2Backend {
        let config = with_alpn(authority, &["h2"]);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let backend = H2Backend {
            addr: listener.local_addr().unwrap(),
            ended: Arc::default(),
            connections: Arc::default(),
            requests: Arc::default(),
        };
        let (ended, connections, requests) =
            (backend.ended.clone(), backend.connections.clone(), backend.requests.clone());
        let play = Arc::new(play);
        thread::spawn(move || {
            for tcp in listener.incoming().map_while(Result::ok) {
                if ended.load(Ordering::SeqCst) {
                    return;
                }
                let number = connections.fetch_add(1, Ordering::SeqCst);
                let (config, requests, play) = (config.clone(), requests.clone(), play.clone());
                thread::spawn(move || {
                    tcp.set_nodelay(true).unwrap();
                    tcp.set_read_timeout(Some(DEADLINE)).unwrap();
                    let tls = StreamOwned::new(ServerConnection::new(config).unwrap(), tcp);
                    let mut stage = Stage { frames: Frames::new(tls), requests };
                    if stage.frames.read_preface().is_ok() {
                        stage.frames.send(SETTINGS, 0, 0, &super::h2_frames::settings(settings));
                        let _ = play(number, &mut stage);
                    }
                });
            }
        });
        backend
    }

    /// Returns its base URL, by the name `localhost`.
    pub fn url(&self) -> String {
        format!("https://localhost:{}", self.addr.port())
    }

    /// Counts the connections accepted so far.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// Counts the requests that were read on all connections.
    pub fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

impl Drop for H2Backend {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        // Wakes the accepting thread, which then sees that it is over.
        let _ = TcpStream::connect(self.addr);
    }
}

fn with_alpn(authority: &Authority, alpn: &[&str]) -> Arc<ServerConfig> {
    let mut config = authority.server();
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    Arc::new(config)
}

/// A request as it came in HTTP/2.
#[derive(Debug, Clone)]
pub struct Seen {
    /// Its method.
    pub method: String,
    /// Its `:scheme`, `:authority` and `:path`.
    pub uri: String,
    /// Its fields.
    pub headers: HeaderMap,
    /// The connection that it came on.
    pub connection: usize,
}

/// Stands before a real Worker, with HTTP/2 and HTTP/1.1 by ALPN; it serves until the test process ends.
#[derive(Debug)]
pub struct H2Front {
    addr: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    /// Connections of HTTP/1.1.
    plain: Arc<AtomicUsize>,
}

impl H2Front {
    /// Starts it.
    pub fn start(authority: &Authority, worker: SocketAddr) -> H2Front {
        let acceptor = TlsAcceptor::from(with_alpn(authority, &["h2", "http/1.1"]));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let front = H2Front { addr: listener.local_addr().unwrap(), seen: Arc::default(), plain: Arc::default() };
        let (seen, plain) = (front.seen.clone(), front.plain.clone());
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                listener.set_nonblocking(true).unwrap();
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                let mut number = 0;
                while let Ok((tcp, _)) = listener.accept().await {
                    let (acceptor, seen, plain) = (acceptor.clone(), seen.clone(), plain.clone());
                    tokio::spawn(async move {
                        let Ok(mut tls) = acceptor.accept(tcp).await else { return };
                        if tls.get_ref().1.alpn_protocol() != Some(b"h2") {
                            plain.fetch_add(1, Ordering::SeqCst);
                            let mut to = tokio::net::TcpStream::connect(worker).await.unwrap();
                            let _ = copy_bidirectional(&mut tls, &mut to).await;
                            return;
                        }
                        let Ok(mut connection) = h2::server::handshake(tls).await else { return };
                        while let Some(Ok((request, respond))) = connection.accept().await {
                            let head = request.into_parts();
                            seen.lock().unwrap().push(Seen {
                                method: head.0.method.to_string(),
                                uri: head.0.uri.to_string(),
                                headers: head.0.headers.clone(),
                                connection: number,
                            });
                            tokio::spawn(forward(head, respond, worker));
                        }
                    });
                    number += 1;
                }
            });
        });
        front
    }

    /// Returns its base URL, by the name `localhost`.
    pub fn url(&self) -> String {
        format!("https://localhost:{}", self.addr.port())
    }

    /// Returns the requests that came in HTTP/2.
    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// Counts the connections of HTTP/1.1.
    pub fn plain(&self) -> usize {
        self.plain.load(Ordering::SeqCst)
    }
}

async fn forward(
    (head, mut body): (http::request::Parts, h2::RecvStream),
    mut respond: h2::server::SendResponse<Bytes>,
    worker: SocketAddr,
) {
    let mut bytes = Vec::new();
    while let Some(Ok(piece)) = body.data().await {
        let _ = body.flow_control().release_capacity(piece.len());
        bytes.extend_from_slice(&piece);
    }
    let mut request = Request::new(head.method.as_str(), head.uri.path()).body(bytes);
    for (name, value) in &head.headers {
        if name != "content-length" {
            request = request.header(name.as_str(), value.to_str().unwrap());
        }
    }
    let answer = tokio::task::spawn_blocking(move || client::send(worker, &request)).await.unwrap();
    let mut builder = Response::builder().status(answer.status);
    if let Some(kind) = answer.header("content-type") {
        builder = builder.header("content-type", kind);
    }
    if let Ok(mut stream) = respond.send_response(builder.body(()).unwrap(), false) {
        let _ = stream.send_data(answer.body.bytes.into(), true);
    }
}
