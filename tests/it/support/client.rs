//! A small exact HTTP/1.1 client: what is sent is what was written, what came is all there to look at.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;
use socket2::{Domain, Socket, Type};

use super::DEADLINE;
use super::wire::{Body, Framing, Head, Headers, ReadError, Wire, find};

/// A request to be written; nothing is added to it but `Host`, and `Content-Length` where there is a body.
#[derive(Debug, Clone)]
pub struct Request {
    method: String,
    target: String,
    headers: Headers,
    body: Vec<u8>,
}

impl Request {
    /// Makes a request of any method for any target.
    pub fn new(method: &str, target: &str) -> Request {
        Request { method: method.into(), target: target.into(), headers: Vec::new(), body: Vec::new() }
    }

    /// Makes a GET.
    pub fn get(target: &str) -> Request {
        Request::new("GET", target)
    }

    /// Makes a POST of JSON.
    pub fn post_json(target: &str, body: &Value) -> Request {
        Request::new("POST", target).header("Content-Type", "application/json").body(body.to_string())
    }

    /// Adds a header field.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Request {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Adds `X-User-Id`.
    #[must_use]
    pub fn user(self, user: &str) -> Request {
        self.header("X-User-Id", user)
    }

    /// Sets the body.
    #[must_use]
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Request {
        self.body = body.into();
        self
    }

    /// Returns the request as bytes, for `host`.
    pub fn bytes(&self, host: &str) -> Vec<u8> {
        let has = |name| !find(&self.headers, name).is_empty();
        let mut head = format!("{} {} HTTP/1.1\r\n", self.method, self.target);
        if !has("host") {
            head.push_str(&format!("Host: {host}\r\n"));
        }
        let mut bytes = head.into_bytes();
        for (name, value) in &self.headers {
            let line = format!("{name}: {value}\r\n");
            // Latin-1, as the reading side has it.
            bytes.extend(line.chars().map(|letter| u8::try_from(u32::from(letter)).expect("headers are Latin-1")));
        }
        if !self.body.is_empty() && !has("content-length") && !has("transfer-encoding") {
            bytes.extend(format!("Content-Length: {}\r\n", self.body.len()).bytes());
        }
        bytes.extend(b"\r\n");
        bytes.extend(&self.body);
        bytes
    }
}

/// An answer, whole.
#[derive(Debug, Clone)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// The first line and the header fields.
    pub head: Head,
    /// How the body ended.
    pub framing: Framing,
    /// The body with its chunks and trailers.
    pub body: Body,
    /// The 1xx answers that came before.
    pub interim: Vec<Head>,
}

impl Response {
    /// Returns the first value of a field.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.header(name)
    }

    /// Returns all values of a field.
    pub fn all(&self, name: &str) -> Vec<&str> {
        find(&self.head.headers, name)
    }

    /// Returns the body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body.bytes).into_owned()
    }

    /// Returns the body as JSON; panics with the answer where it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body.bytes)
            .unwrap_or_else(|error| panic!("{error} in {} {:?}", self.status, self.text()))
    }

    /// Returns a text field of the JSON body, such as `job_id`.
    pub fn field(&self, name: &str) -> String {
        let json = self.json();
        json[name].as_str().unwrap_or_else(|| panic!("no text {name:?} in {} {json}", self.status)).to_owned()
    }
}

/// A kept connection: send as often as you like, read what comes.
#[derive(Debug)]
pub struct Connection {
    /// The socket and its buffer, for all that is not a plain exchange.
    pub wire: Wire,
    addr: SocketAddr,
}

impl Connection {
    /// Connects; panics where that fails.
    pub fn open(addr: SocketAddr) -> Connection {
        Connection::try_open(addr).unwrap_or_else(|error| panic!("connect to {addr}: {error}"))
    }

    /// Connects, or says why not.
    pub fn try_open(addr: SocketAddr) -> io::Result<Connection> {
        Ok(Connection { wire: Wire::new(TcpStream::connect_timeout(&addr, DEADLINE)?), addr })
    }

    /// Connects from another address of the loopback network.
    pub fn open_from(client: IpAddr, addr: SocketAddr) -> Connection {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from((client, 0)).into()).unwrap();
        socket.connect(&addr.into()).unwrap_or_else(|error| panic!("connect to {addr}: {error}"));
        Connection { wire: Wire::new(socket.into()), addr }
    }

    /// Changes how long each call may take.
    #[must_use]
    pub fn deadline(mut self, limit: Duration) -> Connection {
        self.wire.set_deadline(limit);
        self
    }

    /// Writes bytes exactly as they are; a peer that has closed already is no failure here.
    pub fn send(&mut self, bytes: &[u8]) {
        let _ = self.wire.send(bytes);
    }

    /// Writes a request and reads its answer.
    pub fn exchange(&mut self, request: &Request) -> Result<Response, ReadError> {
        self.send(&request.bytes(&self.addr.to_string()));
        self.read(&request.method)
    }

    /// Reads the answer to a request of `method` (HEAD has no body).
    pub fn read(&mut self, method: &str) -> Result<Response, ReadError> {
        let mut interim = Vec::new();
        let (status, head) = loop {
            let head = self.wire.read_head()?;
            let status = status_of(&head)?;
            if status >= 200 || status == 101 {
                break (status, head);
            }
            interim.push(head);
        };
        let framing = match (status, method) {
            (101 | 204 | 304, _) | (_, "HEAD") => Framing::Empty,
            _ => head.framing(Framing::UntilClose),
        };
        let body = self.wire.read_body(framing)?;
        Ok(Response { status, head, framing, body, interim })
    }

    /// Reads just the head of an answer, for bodies that stream; 1xx answers count as heads.
    pub fn read_head(&mut self) -> Result<(u16, Head), ReadError> {
        let head = self.wire.read_head()?;
        Ok((status_of(&head)?, head))
    }

    /// Waits for the peer to close or reset; panics with what came instead.
    pub fn expect_closed(&mut self) {
        match self.wire.read_some() {
            Ok(bytes) if bytes.is_empty() => {}
            Err(ReadError::Reset) => {}
            other => panic!("expected the end of the connection, got {other:?}"),
        }
    }
}

fn status_of(head: &Head) -> Result<u16, ReadError> {
    let mut words = head.line.splitn(3, ' ');
    match (words.next(), words.next().map(str::parse)) {
        (Some(version), Some(Ok(status))) if version.starts_with("HTTP/1.") => Ok(status),
        _ => Err(ReadError::Malformed(format!("status line {:?}", head.line))),
    }
}

/// Sends a request on a fresh connection; panics where no whole answer comes.
pub fn send(addr: SocketAddr, request: &Request) -> Response {
    try_send(addr, request).unwrap_or_else(|error| panic!("{} {} at {addr}: {error:?}", request.method, request.target))
}

/// Sends a request on a fresh connection.
pub fn try_send(addr: SocketAddr, request: &Request) -> Result<Response, ReadError> {
    Connection::open(addr).exchange(request)
}

/// Gets a target on a fresh connection.
pub fn get(addr: SocketAddr, target: &str) -> Response {
    send(addr, &Request::get(target))
}

/// Posts JSON on a fresh connection.
pub fn post_json(addr: SocketAddr, target: &str, body: &Value) -> Response {
    send(addr, &Request::post_json(target, body))
}

/// Starts an overlay export of project 12 as `user`.
pub fn start_overlay(addr: SocketAddr, user: &str) -> Response {
    send(addr, &Request::post_json("/api/export/overlay/start", &overlay(12)).user(user))
}

/// Asks for a job's status as `user`, by the flat path.
pub fn status(addr: SocketAddr, user: &str, job: &str) -> Response {
    send(addr, &Request::get(&format!("/api/export/status/{job}")).user(user))
}

/// Returns the body of an overlay start.
pub fn overlay(project: u64) -> Value {
    serde_json::json!({
        "project_id": project,
        "highlight_regions": [{
            "start_frame": 0, "end_frame": 90, "x": 640.5, "y": 360.0, "radius_x": 80.0, "radius_y": 120.0,
            "opacity": 0.3, "color": "#ffd400",
        }],
        "effect_type": "brightness_boost",
    })
}
