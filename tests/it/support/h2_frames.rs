//! HTTP/2 as frames on a connection: what is sent is what was written, right or wrong (RFC 9113, section 4).

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};

use rustls::{ClientConnection, StreamOwned};

use super::tls_client::Trust;

/// The client's first bytes (RFC 9113, 3.4).
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Types of frames (RFC 9113, 6).
pub const DATA: u8 = 0;
/// `HEADERS`.
pub const HEADERS: u8 = 1;
/// `PRIORITY`.
pub const PRIORITY: u8 = 2;
/// `RST_STREAM`.
pub const RST_STREAM: u8 = 3;
/// `SETTINGS`.
pub const SETTINGS: u8 = 4;
/// `PUSH_PROMISE`.
pub const PUSH_PROMISE: u8 = 5;
/// `PING`.
pub const PING: u8 = 6;
/// `GOAWAY`.
pub const GOAWAY: u8 = 7;
/// `WINDOW_UPDATE`.
pub const WINDOW_UPDATE: u8 = 8;
/// `CONTINUATION`.
pub const CONTINUATION: u8 = 9;

/// `END_STREAM`, and `ACK`.
pub const END_STREAM: u8 = 1;
/// `END_HEADERS`.
pub const END_HEADERS: u8 = 4;
/// `PADDED`.
pub const PADDED: u8 = 8;

/// `PROTOCOL_ERROR`.
pub const PROTOCOL_ERROR: u32 = 1;
/// `REFUSED_STREAM`.
pub const REFUSED_STREAM: u32 = 7;
/// `ENHANCE_YOUR_CALM`.
pub const ENHANCE_YOUR_CALM: u32 = 11;

/// One frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Its type.
    pub kind: u8,
    /// Its flags.
    pub flags: u8,
    /// Its stream.
    pub stream: u32,
    /// What follows its head.
    pub payload: Vec<u8>,
}

impl Frame {
    /// Returns the error code of a `RST_STREAM` or `GOAWAY`.
    pub fn code(&self) -> u32 {
        let at = if self.kind == GOAWAY { 4 } else { 0 };
        u32::from_be_bytes(self.payload[at..at + 4].try_into().unwrap())
    }

    /// Returns the status that a block of answer fields begins with. The gateway uses no dynamic table: it was told so.
    pub fn status(&self) -> u16 {
        // Changes of the table's size come first (RFC 7541, 6.3).
        let at = self.payload.iter().position(|byte| byte & 0xe0 != 0x20).unwrap();
        let payload = &self.payload[at..];
        match payload[0] {
            indexed @ 0x88..=0x8e => [200, 204, 206, 304, 400, 404, 500][usize::from(indexed - 0x88)],
            // `:status` by its name, and three digits, packed or plain (RFC 7541, 6.2 and appendix B).
            _ => {
                let length = payload[1];
                let text = &payload[2..2 + usize::from(length & 0x7f)];
                let digits = if length & 0x80 == 0 { text.to_vec() } else { unpacked_digits(text) };
                String::from_utf8(digits).unwrap().parse().unwrap()
            }
        }
    }
}

fn unpacked_digits(bytes: &[u8]) -> Vec<u8> {
    let mut bits = bytes.iter().flat_map(|byte| (0..8).rev().map(move |at| byte >> at & 1));
    let mut digits = Vec::new();
    while digits.len() < 3 {
        let mut code = 0;
        for _ in 0..5 {
            code = code << 1 | bits.next().unwrap();
        }
        digits.push(match code {
            0..=2 => b'0' + code,
            _ => {
                let code = code << 1 | bits.next().unwrap();
                b'3' + (code - 0b01_1001)
            }
        });
    }
    digits
}

/// What became of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// An answer with this status.
    Answer(u16),
    /// `RST_STREAM` with this code.
    Reset(u32),
    /// `GOAWAY` with this code, which is an error.
    Away(u32),
    /// The end of the connection without a word.
    Closed,
}

/// A connection of frames, either end of it.
#[derive(Debug)]
pub struct Frames<S> {
    /// What is below.
    pub io: S,
    buffer: Vec<u8>,
}

/// A client's end through TLS.
pub type Client = Frames<StreamOwned<ClientConnection, TcpStream>>;

impl Client {
    /// Connects, and says what a client says first; the dynamic table is switched off in both directions.
    pub fn open(trust: &Trust, addr: SocketAddr) -> Client {
        let tls = trust.connect(addr, "localhost").unwrap();
        assert_eq!(tls.protocol().as_deref(), Some("h2"));
        let mut frames = Frames::new(tls.stream);
        frames.io.write_all(PREFACE).unwrap();
        frames.send(SETTINGS, 0, 0, &settings(&[(1, 0)]));
        frames
    }
}

impl<S: Read + Write> Frames<S> {
    /// Wraps a connection.
    pub fn new(io: S) -> Frames<S> {
        Frames { io, buffer: Vec::new() }
    }

    /// Reads the client's first bytes.
    pub fn read_preface(&mut self) -> io::Result<()> {
        self.fill(PREFACE.len())?;
        let preface: Vec<u8> = self.buffer.drain(..PREFACE.len()).collect();
        if preface == PREFACE { Ok(()) } else { Err(ErrorKind::InvalidData.into()) }
    }

    /// Sends a frame; a peer that has gone is told by the next read.
    pub fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let _ = self.try_send(kind, flags, stream, payload);
    }

    /// Sends a frame.
    pub fn try_send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> io::Result<()> {
        self.io.write_all(&frame(kind, flags, stream, payload))?;
        self.io.flush()
    }

    /// Sends a request's fields in one frame.
    pub fn request(&mut self, stream: u32, fields: &[(&str, &str)], flags: u8) {
        self.send(HEADERS, END_HEADERS | flags, stream, &block(fields));
    }

    /// Reads a frame.
    pub fn read(&mut self) -> io::Result<Frame> {
        self.fill(9)?;
        let head: Vec<u8> = self.buffer[..9].to_vec();
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        self.fill(9 + length)?;
        let payload = self.buffer[9..9 + length].to_vec();
        self.buffer.drain(..9 + length);
        let stream = u32::from_be_bytes(head[5..9].try_into().unwrap()) & 0x7fff_ffff;
        Ok(Frame { kind: head[3], flags: head[4], stream, payload })
    }

    /// Reads the next frame that is about requests; settings and pings are answered on the way.
    pub fn next(&mut self) -> io::Result<Frame> {
        loop {
            let frame = self.read()?;
            match (frame.kind, frame.flags & END_STREAM) {
                (SETTINGS, 0) => self.send(SETTINGS, END_STREAM, 0, &[]),
                (PING, 0) => self.send(PING, END_STREAM, 0, &frame.payload),
                (SETTINGS | PING | WINDOW_UPDATE, _) => {}
                _ => return Ok(frame),
            }
        }
    }

    /// Waits for what becomes of a stream.
    pub fn verdict(&mut self, stream: u32) -> Verdict {
        loop {
            match self.next() {
                Ok(frame) if frame.kind == HEADERS && frame.stream == stream => {
                    return Verdict::Answer(frame.status());
                }
                Ok(frame) if frame.kind == RST_STREAM && frame.stream == stream => {
                    return Verdict::Reset(frame.code());
                }
                Ok(frame) if frame.kind == GOAWAY && frame.code() != 0 => return Verdict::Away(frame.code()),
                Ok(_) => {}
                Err(error) => {
                    let timed_out = matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut);
                    assert!(!timed_out, "nothing became of stream {stream}");
                    return Verdict::Closed;
                }
            }
        }
    }

    fn fill(&mut self, length: usize) -> io::Result<()> {
        while self.buffer.len() < length {
            let mut piece = [0; 16 * 1024];
            match self.io.read(&mut piece)? {
                0 => return Err(ErrorKind::UnexpectedEof.into()),
                count => self.buffer.extend_from_slice(&piece[..count]),
            }
        }
        Ok(())
    }
}

/// Writes a frame as bytes.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = length[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// Writes settings.
pub fn settings(values: &[(u16, u32)]) -> Vec<u8> {
    values.iter().flat_map(|(name, value)| [&name.to_be_bytes()[..], &value.to_be_bytes()].concat()).collect()
}

/// Writes the payload of a `GOAWAY`.
pub fn away(last: u32, code: u32) -> Vec<u8> {
    [last.to_be_bytes(), code.to_be_bytes()].concat()
}

/// Packs fields as literals that nobody remembers (RFC 7541, 6.2.2); values are Latin-1.
pub fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, value) in fields {
        bytes.push(0);
        for text in [name, value] {
            let text: Vec<u8> = text.chars().map(|letter| u8::try_from(u32::from(letter)).unwrap()).collect();
            // An integer with a prefix of seven bits (RFC 7541, 5.1).
            match text.len() {
                short @ 0..=126 => bytes.push(u8::try_from(short).unwrap()),
                long => {
                    bytes.push(127);
                    let mut rest = long - 127;
                    while rest >= 128 {
                        bytes.push(u8::try_from(rest % 128).unwrap() | 128);
                        rest /= 128;
                    }
                    bytes.push(u8::try_from(rest).unwrap());
                }
            }
            bytes.extend(text);
        }
    }
    bytes
}

/// The fields of a plain request.
pub fn get(path: &str) -> Vec<(&str, &str)> {
    vec![(":method", "GET"), (":scheme", "https"), (":authority", "localhost"), (":path", path)]
}

/// The fields of a request with a body.
pub fn post(path: &str) -> Vec<(&str, &str)> {
    vec![(":method", "POST"), (":scheme", "https"), (":authority", "localhost"), (":path", path)]
}
