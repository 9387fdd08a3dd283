//! A peer that misbehaves: a raw TCP server that plays a script on each connection, and what a raw client needs.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use socket2::{Domain, SockRef, Socket, Type};

use super::client::Connection;
use super::wire::{Framing, Wire};

/// What a rude server does next on a connection; after the last step it closes.
#[derive(Debug, Clone)]
pub enum Step {
    /// Read a request's head.
    ReadHead,
    /// Read a whole request, head and body.
    ReadRequest,
    /// Read this many bytes.
    ReadBytes(usize),
    /// Send these bytes.
    Send(Vec<u8>),
    /// Send these bytes one by one, with a pause after each.
    Dribble(Vec<u8>, Duration),
    /// Send the last request to a real backend and keep its answer.
    Forward(SocketAddr),
    /// Send the kept answer: its first so many bytes, or all.
    SendAnswer(Option<usize>),
    /// Wait.
    Wait(Duration),
    /// End the sending side, read on.
    HalfClose,
    /// End the connection with RST.
    Reset,
    /// End the connection with FIN.
    Close,
    /// Do nothing until the server ends.
    Stall,
    /// Go on with the first step.
    Again,
}

impl Step {
    /// Sends text.
    pub fn text(text: &str) -> Step {
        Step::Send(text.as_bytes().to_vec())
    }

    /// Sends a whole JSON answer with the right length.
    pub fn json(status: u16, body: &str) -> Step {
        let length = body.len();
        Step::Send(
            format!("HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}")
                .into_bytes(),
        )
    }
}

#[derive(Debug, Default)]
struct Seen {
    connections: AtomicUsize,
    open: AtomicUsize,
    ended: AtomicBool,
    received: Mutex<Vec<Vec<u8>>>,
    sockets: Mutex<Vec<(usize, TcpStream)>>,
}

/// A raw TCP server; it and all its connections end when it is dropped.
#[derive(Debug)]
pub struct Rude {
    addr: SocketAddr,
    seen: Arc<Seen>,
}

impl Rude {
    /// Starts a server that plays the same steps on every connection.
    pub fn always(steps: Vec<Step>) -> Rude {
        Rude::start(move |_| steps.clone())
    }

    /// Starts a server that asks `script` for the steps of each connection; the first one is number 0.
    pub fn start(script: impl Fn(usize) -> Vec<Step> + Send + 'static) -> Rude {
        Rude::start_at(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), script)
    }

    /// The same at a fixed address, to come back where something else was.
    pub fn start_at(addr: SocketAddr, script: impl Fn(usize) -> Vec<Step> + Send + 'static) -> Rude {
        let listener = TcpListener::bind(addr).unwrap();
        let addr = listener.local_addr().unwrap();
        let seen = Arc::new(Seen::default());
        let shared = Arc::clone(&seen);
        thread::spawn(move || {
            for stream in listener.incoming() {
                if shared.ended.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                let number = shared.connections.fetch_add(1, Ordering::SeqCst);
                shared.open.fetch_add(1, Ordering::SeqCst);
                shared.received.lock().unwrap().push(Vec::new());
                shared.sockets.lock().unwrap().push((number, stream.try_clone().unwrap()));
                let (steps, shared) = (script(number), Arc::clone(&shared));
                thread::spawn(move || {
                    play(stream, &steps, number, &shared);
                    shared.open.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        Rude { addr, seen }
    }

    /// Stands before a real backend and loses its answers: the request arrives there, and the client's connection is
    /// reset after so many bytes of the answer.
    pub fn losing_answers(backend: SocketAddr, after: usize) -> Rude {
        Rude::always(vec![Step::ReadRequest, Step::Forward(backend), Step::SendAnswer(Some(after)), Step::Reset])
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
        self.seen.connections.load(Ordering::SeqCst)
    }

    /// Counts the connections whose script is still under way.
    pub fn open(&self) -> usize {
        self.seen.open.load(Ordering::SeqCst)
    }

    /// Returns what each connection has sent, in order of acceptance.
    pub fn received(&self) -> Vec<Vec<u8>> {
        self.seen.received.lock().unwrap().clone()
    }

    /// Counts the bytes received on all connections.
    pub fn bytes(&self) -> usize {
        self.seen.received.lock().unwrap().iter().map(Vec::len).sum()
    }

    /// Counts the requests of a method that were read on all connections.
    pub fn requests(&self, method: &str) -> usize {
        let line = format!("{method} /");
        let received = self.received();
        received.iter().map(|bytes| bytes.windows(line.len()).filter(|at| *at == line.as_bytes()).count()).sum()
    }
}

impl Drop for Rude {
    fn drop(&mut self) {
        self.seen.ended.store(true, Ordering::SeqCst);
        for (_, socket) in self.seen.sockets.lock().unwrap().drain(..) {
            let _ = socket.shutdown(std::net::Shutdown::Both);
        }
        // Wakes the accepting thread, which then sees that it is over.
        let _ = TcpStream::connect_timeout(&self.addr, Duration::from_secs(1));
    }
}

fn play(stream: TcpStream, steps: &[Step], number: usize, seen: &Seen) {
    let mut wire = Wire::new(stream);
    wire.set_deadline(Duration::from_secs(60));
    let (mut request, mut answer) = (Vec::new(), Vec::new());
    let mut at = 0;
    while let Some(step) = steps.get(at) {
        at += 1;
        let going_on = match step {
            Step::ReadHead => note(wire.read_head().map(|head| head.raw), number, seen, &mut request),
            Step::ReadRequest => note(read_request(&mut wire), number, seen, &mut request),
            Step::ReadBytes(count) => note(wire.read_exact(*count), number, seen, &mut request),
            Step::Send(bytes) => wire.send(bytes).is_ok(),
            Step::Dribble(bytes, pause) => dribble(&mut wire.stream, bytes, *pause),
            Step::Forward(backend) => {
                answer = forward(*backend, &request);
                true
            }
            Step::SendAnswer(first) => wire.send(&answer[..first.unwrap_or(answer.len()).min(answer.len())]).is_ok(),
            Step::Wait(time) => {
                thread::sleep(*time);
                true
            }
            Step::HalfClose => wire.stream.shutdown(std::net::Shutdown::Write).is_ok(),
            Step::Reset => {
                // The clone for the end of the server would keep the socket open, so that no RST would leave.
                forget(number, seen);
                return reset(wire.stream);
            }
            Step::Close => break,
            Step::Stall => {
                while !seen.ended.load(Ordering::SeqCst) {
                    thread::sleep(Duration::from_millis(20));
                }
                break;
            }
            Step::Again => {
                at = 0;
                true
            }
        };
        if !going_on {
            break;
        }
    }
    forget(number, seen);
}

fn note<E>(read: Result<Vec<u8>, E>, number: usize, seen: &Seen, request: &mut Vec<u8>) -> bool {
    let Ok(bytes) = read else { return false };
    seen.received.lock().unwrap()[number].extend_from_slice(&bytes);
    *request = bytes;
    true
}

fn forget(number: usize, seen: &Seen) {
    seen.sockets.lock().unwrap().retain(|(other, _)| *other != number);
}

fn read_request(wire: &mut Wire) -> Result<Vec<u8>, super::wire::ReadError> {
    let head = wire.read_head()?;
    let body = wire.read_body(head.framing(Framing::Empty))?;
    Ok([head.raw, body.bytes].concat())
}

fn forward(backend: SocketAddr, request: &[u8]) -> Vec<u8> {
    let mut connection = Connection::open(backend);
    connection.send(request);
    match connection.read("POST") {
        Ok(answer) => {
            assert_ne!(answer.framing, Framing::Chunked, "only answers with a length can be passed on");
            [answer.head.raw, answer.body.bytes].concat()
        }
        Err(_) => Vec::new(),
    }
}

/// Ends a connection with RST.
pub fn reset(stream: TcpStream) {
    let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
}

/// Sends bytes one by one with a pause after each; false when the peer is gone.
pub fn dribble(stream: &mut TcpStream, bytes: &[u8], pause: Duration) -> bool {
    bytes.iter().all(|byte| {
        let sent = stream.write_all(&[*byte]).is_ok();
        thread::sleep(pause);
        sent
    })
}

/// Returns an address of this machine where nothing listens: connecting is refused.
pub fn refused_addr() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.local_addr().unwrap()
}

/// A listener whose queue is full, so that connecting to it gets no answer at all.
#[derive(Debug)]
pub struct BlackHole {
    addr: SocketAddr,
    _listener: Socket,
    _queue: Vec<Socket>,
}

impl BlackHole {
    /// Fills the queue of a listener that never accepts.
    pub fn open() -> BlackHole {
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        listener.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
        listener.listen(0).unwrap();
        let addr = listener.local_addr().unwrap().as_socket().expect("an internet address");
        let queue = (0..4)
            .map(|_| {
                let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
                let _ = socket.connect_timeout(&addr.into(), Duration::from_millis(50));
                socket
            })
            .collect();
        BlackHole { addr, _listener: listener, _queue: queue }
    }

    /// Returns the address.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Returns the base URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }
}
