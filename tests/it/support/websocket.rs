//! A WebSocket client that knows the protocol; `raw_websocket.rs` is the one that can break it.

use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde_json::Value;
use tungstenite::client::IntoClientRequest;
use tungstenite::handshake::HandshakeError;
use tungstenite::http::{HeaderMap, HeaderName, HeaderValue};
use tungstenite::protocol::frame::CloseFrame;
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::{Error, Message, WebSocket};

use super::DEADLINE;

/// An open WebSocket; every read has a deadline.
#[derive(Debug)]
pub struct Socket {
    inner: WebSocket<TcpStream>,
    /// The header fields of the 101.
    pub headers: HeaderMap,
}

/// The answer to a handshake that was not 101.
#[derive(Debug)]
pub struct Refused {
    /// Its status.
    pub status: u16,
    /// Its header fields.
    pub headers: HeaderMap,
    /// Its body, as far as it came with the head.
    pub body: String,
}

impl Socket {
    /// Opens `ws://HOST:PORT/path`; panics where the server refuses.
    pub fn open(url: &str) -> Socket {
        Socket::try_open(url, &[]).unwrap_or_else(|refused| panic!("{url}: {refused:?}"))
    }

    /// Opens a URL with header fields, such as `Sec-WebSocket-Protocol`, `X-User-Id` or `Origin`.
    pub fn try_open(url: &str, headers: &[(&str, &str)]) -> Result<Socket, Box<Refused>> {
        let mut request = url.into_client_request().expect("a WebSocket URL");
        for (name, value) in headers {
            let name: HeaderName = name.parse().expect("a header name");
            request.headers_mut().append(name, HeaderValue::from_str(value).expect("a header value"));
        }
        let authority = request.uri().authority().expect("a host").as_str().to_owned();
        let addr: SocketAddr = authority.parse().expect("an address with a port");
        let stream = TcpStream::connect_timeout(&addr, DEADLINE).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        match tungstenite::client(request, stream) {
            Ok((inner, answer)) => Ok(Socket { inner, headers: answer.headers().clone() }),
            Err(HandshakeError::Failure(Error::Http(answer))) => Err(Box::new(Refused {
                status: answer.status().as_u16(),
                headers: answer.headers().clone(),
                body: String::from_utf8_lossy(answer.body().as_deref().unwrap_or_default()).into_owned(),
            })),
            Err(error) => panic!("handshake with {url}: {error}"),
        }
    }

    /// Returns the subprotocol that was agreed on.
    pub fn protocol(&self) -> Option<&str> {
        self.headers.get("sec-websocket-protocol").and_then(|value| value.to_str().ok())
    }

    /// Sends a text message.
    pub fn send_text(&mut self, text: &str) {
        self.inner.send(Message::text(text)).unwrap();
    }

    /// Sends a binary message.
    pub fn send_bytes(&mut self, bytes: &[u8]) {
        self.inner.send(Message::binary(bytes.to_vec())).unwrap();
    }

    /// Sends a close frame.
    pub fn close(&mut self, code: u16, reason: &str) {
        let frame = CloseFrame { code: CloseCode::from(code), reason: reason.into() };
        self.inner.close(Some(frame)).unwrap();
    }

    /// Reads the next text or binary message; panics at the end of the socket or of the deadline.
    pub fn read(&mut self) -> Message {
        self.next(DEADLINE).unwrap_or_else(|end| panic!("the socket ended: {end:?}"))
    }

    /// Reads the next message as text.
    pub fn read_text(&mut self) -> String {
        self.read().into_text().expect("a text message").to_string()
    }

    /// Reads JSON messages until one fits.
    pub fn read_until(&mut self, fits: impl Fn(&Value) -> bool) -> Value {
        let end = Instant::now() + DEADLINE;
        loop {
            let text = self.read_text();
            if let Some(found) = serde_json::from_str(&text).ok().filter(&fits) {
                return found;
            }
            assert!(Instant::now() < end, "no such message within {DEADLINE:?}, the last was {text}");
        }
    }

    /// Reads on until the socket is closed; returns code and reason of the close frame (1005 for an empty one), or
    /// `None` where the connection ended without one.
    pub fn closed(&mut self) -> Option<(u16, String)> {
        let end = Instant::now() + DEADLINE;
        loop {
            match self.next(end.saturating_duration_since(Instant::now())) {
                Ok(_) => {}
                Err(code) => return code,
            }
        }
    }

    fn next(&mut self, limit: Duration) -> Result<Message, Option<(u16, String)>> {
        let end = Instant::now() + limit;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "nothing came within {limit:?}");
            self.inner.get_ref().set_read_timeout(Some(left)).unwrap();
            match self.inner.read() {
                Ok(message @ (Message::Text(_) | Message::Binary(_))) => return Ok(message),
                Ok(Message::Close(frame)) => {
                    let _ = self.inner.flush(); // Sends the answer to it.
                    let code = frame.map_or((1005, String::new()), |it| (it.code.into(), it.reason.to_string()));
                    return Err(Some(code));
                }
                Ok(_) => {}
                Err(Error::Io(error)) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(_) => return Err(None),
            }
        }
    }
}
