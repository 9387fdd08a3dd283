//! A backend whose every byte a test decides: a closure per connection, over a real socket.

use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use super::gateway::Backends;
use super::rude::refused_addr;
use super::wire::{Body, Framing, Head, ReadError, Wire};

/// A server that runs a closure for each connection; it and all its connections end when it is dropped.
#[derive(Debug)]
pub struct Backend {
    addr: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    ended: AtomicBool,
    connections: AtomicUsize,
    sockets: Mutex<Vec<TcpStream>>,
}

/// A request as it arrived.
#[derive(Debug, Clone)]
pub struct Received {
    /// Its first line and fields.
    pub head: Head,
    /// Its body with chunks and trailers.
    pub body: Body,
    /// The connection it came on, the first one is number 0.
    pub connection: usize,
}

impl Received {
    /// Returns the values of a field.
    pub fn all(&self, name: &str) -> Vec<&str> {
        super::wire::find(&self.head.headers, name)
    }
}

/// Reads a whole request.
pub fn read_request(wire: &mut Wire) -> Result<(Head, Body), ReadError> {
    let head = wire.read_head()?;
    let body = wire.read_body(head.framing(Framing::Empty))?;
    Ok((head, body))
}

/// Writes text; a peer that has gone is told by the next read.
pub fn say(wire: &mut Wire, text: &str) {
    let _ = wire.send(text.as_bytes());
}

impl Backend {
    /// Starts a server; the closure gets the connection's number and its bytes, and its return closes it.
    pub fn start(play: impl Fn(usize, &mut Wire) -> Result<(), ReadError> + Send + Sync + 'static) -> Backend {
        Backend::start_at(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), play)
    }

    /// The same at a given address.
    pub fn start_at(
        addr: SocketAddr,
        play: impl Fn(usize, &mut Wire) -> Result<(), ReadError> + Send + Sync + 'static,
    ) -> Backend {
        let listener = TcpListener::bind(addr).unwrap();
        let addr = listener.local_addr().unwrap();
        let shared = Arc::new(Shared::default());
        let (seen, play) = (Arc::clone(&shared), Arc::new(play));
        thread::spawn(move || {
            for stream in listener.incoming() {
                if seen.ended.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                let number = seen.connections.fetch_add(1, Ordering::SeqCst);
                seen.sockets.lock().unwrap().push(stream.try_clone().unwrap());
                let play = Arc::clone(&play);
                thread::spawn(move || {
                    let end = stream.try_clone().unwrap();
                    let mut wire = Wire::new(stream);
                    wire.set_deadline(Duration::from_secs(60));
                    let _ = play(number, &mut wire);
                    // The clone above would keep it open.
                    let _ = end.shutdown(Shutdown::Both);
                });
            }
        });
        Backend { addr, shared }
    }

    /// Returns the address.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Returns the base URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Counts the connections accepted so far.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// Ends every connection that is open, as a restart would.
    pub fn cut_all(&self) {
        for socket in self.shared.sockets.lock().unwrap().drain(..) {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        self.cut_all();
        // Wakes the accepting thread, which then sees that it is over.
        let _ = TcpStream::connect_timeout(&self.addr, Duration::from_secs(1));
    }
}

impl From<&Backend> for Backends {
    /// Legacy is this backend; nobody is where workers should be, and nobody has a database.
    fn from(backend: &Backend) -> Backends {
        Backends {
            legacy: backend.url(),
            workers: format!("http://{}", refused_addr()),
            data: PathBuf::from("/nonexistent"),
        }
    }
}

/// A backend that keeps every request it could read and answers each with the same bytes.
#[derive(Debug)]
pub struct Recorder {
    /// The server beneath.
    pub backend: Backend,
    requests: Arc<Mutex<Vec<Received>>>,
    strays: Arc<Mutex<Vec<Option<Head>>>>,
}

impl Recorder {
    /// Starts one that answers 200 `ok`.
    pub fn start() -> Recorder {
        Recorder::answering("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nok")
    }

    /// Starts one with an answer of its own.
    pub fn answering(answer: &'static str) -> Recorder {
        let requests: Arc<Mutex<Vec<Received>>> = Arc::default();
        let strays: Arc<Mutex<Vec<Option<Head>>>> = Arc::default();
        let (kept, odd) = (Arc::clone(&requests), Arc::clone(&strays));
        let backend = Backend::start(move |connection, wire| {
            loop {
                let head = match wire.read_head() {
                    Ok(head) => head,
                    // Some proxies end a connection that they no longer need with a reset.
                    Err(ReadError::Closed | ReadError::Reset) => return Ok(()),
                    Err(_) => {
                        odd.lock().unwrap().push(None);
                        return Ok(());
                    }
                };
                match wire.read_body(head.framing(Framing::Empty)) {
                    Ok(body) => kept.lock().unwrap().push(Received { head, body, connection }),
                    Err(_) => {
                        odd.lock().unwrap().push(Some(head));
                        return Ok(());
                    }
                }
                say(wire, answer);
            }
        });
        Recorder { backend, requests, strays }
    }

    /// Returns its base URL.
    pub fn url(&self) -> String {
        self.backend.url()
    }

    /// Returns the requests so far.
    pub fn requests(&self) -> Vec<Received> {
        self.requests.lock().unwrap().clone()
    }

    /// Returns the one request there is; panics where there are none or several.
    pub fn only(&self) -> Received {
        let requests = self.requests();
        assert_eq!(requests.len(), 1, "{requests:?}");
        requests[0].clone()
    }

    /// Counts what arrived but was no whole request.
    pub fn strays(&self) -> usize {
        self.strays.lock().unwrap().len()
    }

    /// Returns the heads of what arrived but was no whole request; `None` for one whose head was none.
    pub fn stray_heads(&self) -> Vec<Option<Head>> {
        self.strays.lock().unwrap().clone()
    }

    /// Forgets what came so far.
    pub fn forget(&self) {
        self.requests.lock().unwrap().clear();
        self.strays.lock().unwrap().clear();
    }
}

impl From<&Recorder> for Backends {
    fn from(recorder: &Recorder) -> Backends {
        Backends::from(&recorder.backend)
    }
}
