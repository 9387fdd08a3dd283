//! A WebSocket client that writes and reads frames itself, so that a test can break the rules and see each frame.

use std::net::SocketAddr;

use super::client::{Connection, Request};
use super::wire::{Head, ReadError};

/// The handshake key of the RFC's own example, and the answer it must get.
pub const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
/// What `Sec-WebSocket-Accept` must say to [`KEY`].
pub const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// A frame as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Whether it is the last one of its message.
    pub fin: bool,
    /// 0 continuation, 1 text, 2 binary, 8 close, 9 ping, 10 pong.
    pub opcode: u8,
    /// The payload, unmasked.
    pub payload: Vec<u8>,
}

impl Frame {
    /// Returns code and reason of a close frame; 1005 for an empty one, `None` for any other frame.
    pub fn close_code(&self) -> Option<(u16, String)> {
        match (self.opcode, self.payload.as_slice()) {
            (8, [high, low, reason @ ..]) => {
                Some((u16::from_be_bytes([*high, *low]), String::from_utf8_lossy(reason).into_owned()))
            }
            (8, _) => Some((1005, String::new())),
            _ => None,
        }
    }
}

/// A socket after its handshake.
#[derive(Debug)]
pub struct RawSocket {
    /// The connection beneath.
    pub connection: Connection,
    /// The head of the 101.
    pub head: Head,
}

/// Makes a handshake as a browser would send it.
pub fn handshake(target: &str) -> Request {
    Request::get(target)
        .header("Connection", "keep-alive, Upgrade")
        .header("Upgrade", "websocket")
        .header("Sec-WebSocket-Version", "13")
        .header("Sec-WebSocket-Key", KEY)
}

impl RawSocket {
    /// Sends a handshake and reads the 101; panics on any other answer.
    pub fn open(addr: SocketAddr, handshake: &Request) -> RawSocket {
        let mut connection = Connection::open(addr);
        connection.send(&handshake.bytes(&addr.to_string()));
        let (status, head) = connection.read_head().unwrap();
        assert_eq!(status, 101, "{head:?}");
        assert_eq!(head.header("sec-websocket-accept"), Some(ACCEPT));
        RawSocket { connection, head }
    }

    /// Sends one frame, masked as a client must.
    pub fn send(&mut self, fin: bool, opcode: u8, payload: &[u8]) {
        let frame = frame(fin, opcode, payload, Some([0x12, 0x34, 0x56, 0x78]));
        self.connection.send(&frame);
    }

    /// Sends a whole text message.
    pub fn send_text(&mut self, text: &str) {
        self.send(true, 1, text.as_bytes());
    }

    /// Sends a close frame.
    pub fn send_close(&mut self, code: u16, reason: &str) {
        self.send(true, 8, &[&code.to_be_bytes(), reason.as_bytes()].concat());
    }

    /// Reads one frame.
    pub fn read(&mut self) -> Result<Frame, ReadError> {
        let wire = &mut self.connection.wire;
        let head = wire.read_exact(2)?;
        let length = match head[1] & 0x7f {
            126 => {
                let bytes = wire.read_exact(2)?;
                usize::from(u16::from_be_bytes([bytes[0], bytes[1]]))
            }
            127 => {
                let bytes: [u8; 8] = wire.read_exact(8)?.try_into().expect("eight bytes");
                usize::try_from(u64::from_be_bytes(bytes)).expect("a length that fits")
            }
            short => usize::from(short),
        };
        let mask = if head[1] & 0x80 == 0 { None } else { Some(wire.read_exact(4)?) };
        let mut payload = wire.read_exact(length)?;
        if let Some(mask) = mask {
            payload.iter_mut().zip(mask.iter().cycle()).for_each(|(byte, key)| *byte ^= key);
        }
        Ok(Frame { fin: head[0] & 0x80 != 0, opcode: head[0] & 0x0f, payload })
    }

    /// Reads frames until a close frame; `None` where the connection ends without one.
    pub fn close_code(&mut self) -> Option<(u16, String)> {
        loop {
            match self.read() {
                Ok(frame) => {
                    if let Some(code) = frame.close_code() {
                        return Some(code);
                    }
                }
                Err(ReadError::TimedOut) => panic!("the socket stayed open"),
                Err(_) => return None,
            }
        }
    }
}

/// Writes a frame; a server's has no mask.
pub fn frame(fin: bool, opcode: u8, payload: &[u8], mask: Option<[u8; 4]>) -> Vec<u8> {
    let masked = if mask.is_some() { 0x80 } else { 0 };
    let mut bytes = vec![if fin { 0x80 } else { 0 } | opcode];
    match payload.len() {
        length @ 0..=125 => bytes.push(masked | u8::try_from(length).expect("at most 125")),
        length @ 126..=0xffff => {
            bytes.push(masked | 126);
            bytes.extend(u16::try_from(length).expect("two bytes").to_be_bytes());
        }
        length => {
            bytes.push(masked | 127);
            bytes.extend((length as u64).to_be_bytes());
        }
    }
    let key = mask.unwrap_or_default();
    bytes.extend(mask.iter().flatten());
    bytes.extend(payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key));
    bytes
}
