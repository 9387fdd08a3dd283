//! HTTP/1.1 as bytes on a socket: heads, bodies and chunks read exactly, each read under a deadline.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::DEADLINE;

/// Header fields in the order and case in which they came; values read as Latin-1.
pub type Headers = Vec<(String, String)>;

/// Why a message could not be read.
#[derive(Debug, PartialEq, Eq)]
pub enum ReadError {
    /// The peer closed before the first byte of a message.
    Closed,
    /// The peer closed in the middle of a message; these bytes of its body had come.
    Cut(Vec<u8>),
    /// The peer reset the connection.
    Reset,
    /// The deadline passed.
    TimedOut,
    /// What came is no HTTP/1.1.
    Malformed(String),
}

/// How the end of a body is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// There is no body.
    Empty,
    /// `Content-Length`.
    Length(usize),
    /// `Transfer-Encoding: chunked`.
    Chunked,
    /// The connection's end.
    UntilClose,
}

/// A first line with its header fields.
#[derive(Debug, Clone)]
pub struct Head {
    /// The first line without its line end.
    pub line: String,
    /// The header fields.
    pub headers: Headers,
    /// The whole head as it came, with the empty line.
    pub raw: Vec<u8>,
}

impl Head {
    /// Returns the first value of a field, whatever its case.
    pub fn header(&self, name: &str) -> Option<&str> {
        find(&self.headers, name).first().copied()
    }

    /// Says how the body after this head ends, `otherwise` where no field says it.
    pub fn framing(&self, otherwise: Framing) -> Framing {
        if find(&self.headers, "transfer-encoding").iter().any(|value| value.eq_ignore_ascii_case("chunked")) {
            return Framing::Chunked;
        }
        match self.header("content-length").map(|value| value.trim().parse()) {
            Some(Ok(length)) => Framing::Length(length),
            _ => otherwise,
        }
    }
}

/// A body with all that its framing said.
#[derive(Debug, Default, Clone)]
pub struct Body {
    /// The bytes, without framing.
    pub bytes: Vec<u8>,
    /// The sizes of the chunks, in order; empty for other framings.
    pub chunks: Vec<usize>,
    /// The fields after the last chunk.
    pub trailers: Headers,
}

/// Finds all values of a field, whatever its case.
pub fn find<'a>(headers: &'a Headers, name: &str) -> Vec<&'a str> {
    let wanted = headers.iter().filter(|(have, _)| have.eq_ignore_ascii_case(name));
    wanted.map(|(_, value)| value.as_str()).collect()
}

/// A socket with what was read from it but not used yet.
#[derive(Debug)]
pub struct Wire {
    /// The socket itself.
    pub stream: TcpStream,
    buffer: Vec<u8>,
    limit: Duration,
}

impl Wire {
    /// Wraps a socket; each call below may take [`DEADLINE`].
    pub fn new(stream: TcpStream) -> Wire {
        stream.set_nodelay(true).unwrap();
        stream.set_write_timeout(Some(DEADLINE)).unwrap();
        Wire { stream, buffer: Vec::new(), limit: DEADLINE }
    }

    /// Changes how long one call may take.
    pub fn set_deadline(&mut self, limit: Duration) {
        self.limit = limit;
    }

    /// Writes bytes exactly as they are.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Takes what has come, waiting for at least one byte; empty at the end of the stream.
    pub fn read_some(&mut self) -> Result<Vec<u8>, ReadError> {
        if self.buffer.is_empty() {
            self.fill(self.end())?;
        }
        Ok(std::mem::take(&mut self.buffer))
    }

    /// Takes exactly `count` bytes.
    pub fn read_exact(&mut self, count: usize) -> Result<Vec<u8>, ReadError> {
        self.exact(count, self.end())
    }

    /// Reads a first line and the header fields after it.
    pub fn read_head(&mut self) -> Result<Head, ReadError> {
        let end = self.end();
        let length = loop {
            if let Some(at) = self.buffer.windows(4).position(|four| four == b"\r\n\r\n") {
                break at + 4;
            }
            if self.fill(end)? == 0 {
                return Err(if self.buffer.is_empty() { ReadError::Closed } else { ReadError::Cut(Vec::new()) });
            }
        };
        let raw: Vec<u8> = self.buffer.drain(..length).collect();
        let text = latin1(&raw[..length - 4]);
        let mut lines = text.split("\r\n");
        let line = lines.next().unwrap_or_default().to_owned();
        let headers = fields(lines)?;
        Ok(Head { line, headers, raw })
    }

    /// Reads a body to its end.
    pub fn read_body(&mut self, framing: Framing) -> Result<Body, ReadError> {
        let end = self.end();
        match framing {
            Framing::Empty => Ok(Body::default()),
            Framing::Length(length) => Ok(Body { bytes: self.exact(length, end)?, ..Body::default() }),
            Framing::Chunked => self.chunked(end),
            Framing::UntilClose => {
                while self.fill(end)? > 0 {}
                Ok(Body { bytes: std::mem::take(&mut self.buffer), ..Body::default() })
            }
        }
    }

    fn chunked(&mut self, end: Instant) -> Result<Body, ReadError> {
        let mut body = Body::default();
        loop {
            let line = self.line(end).map_err(|error| with_body(error, &body.bytes))?;
            let size = usize::from_str_radix(line.split(';').next().unwrap_or_default().trim(), 16)
                .map_err(|_| ReadError::Malformed(format!("chunk size {line:?}")))?;
            if size == 0 {
                break;
            }
            let piece = self.exact(size + 2, end).map_err(|error| with_body(error, &body.bytes))?;
            if !piece.ends_with(b"\r\n") {
                return Err(ReadError::Malformed("a chunk without its line end".into()));
            }
            body.bytes.extend_from_slice(&piece[..size]);
            body.chunks.push(size);
        }
        loop {
            let line = self.line(end).map_err(|error| with_body(error, &body.bytes))?;
            if line.is_empty() {
                return Ok(body);
            }
            body.trailers.extend(fields([line.as_str()].into_iter())?);
        }
    }

    fn line(&mut self, end: Instant) -> Result<String, ReadError> {
        loop {
            if let Some(at) = self.buffer.windows(2).position(|two| two == b"\r\n") {
                let line: Vec<u8> = self.buffer.drain(..at + 2).collect();
                return Ok(latin1(&line[..at]));
            }
            if self.fill(end)? == 0 {
                return Err(ReadError::Cut(std::mem::take(&mut self.buffer)));
            }
        }
    }

    fn exact(&mut self, count: usize, end: Instant) -> Result<Vec<u8>, ReadError> {
        while self.buffer.len() < count {
            match self.fill(end) {
                Ok(0) => return Err(ReadError::Cut(std::mem::take(&mut self.buffer))),
                Ok(_) => {}
                Err(error) => return Err(error),
            }
        }
        let rest = self.buffer.split_off(count);
        Ok(std::mem::replace(&mut self.buffer, rest))
    }

    fn end(&self) -> Instant {
        Instant::now() + self.limit
    }

    fn fill(&mut self, end: Instant) -> Result<usize, ReadError> {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ReadError::TimedOut);
        }
        self.stream.set_read_timeout(Some(left)).unwrap();
        let mut piece = [0; 64 * 1024];
        loop {
            match self.stream.read(&mut piece) {
                Ok(count) => {
                    self.buffer.extend_from_slice(&piece[..count]);
                    return Ok(count);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(read_error(&error)),
            }
        }
    }
}

fn read_error(error: &io::Error) -> ReadError {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => ReadError::TimedOut,
        io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted | io::ErrorKind::BrokenPipe => {
            ReadError::Reset
        }
        _ => ReadError::Malformed(error.to_string()),
    }
}

fn with_body(error: ReadError, before: &[u8]) -> ReadError {
    match error {
        ReadError::Cut(last) => ReadError::Cut([before, &last].concat()),
        other => other,
    }
}

fn fields<'a>(lines: impl Iterator<Item = &'a str>) -> Result<Headers, ReadError> {
    lines
        .map(|line| match line.split_once(':') {
            Some((name, value)) => Ok((name.to_owned(), value.trim_matches([' ', '\t']).to_owned())),
            None => Err(ReadError::Malformed(format!("header line {line:?}"))),
        })
        .collect()
}

/// Reads bytes as Latin-1: every byte is one character.
pub fn latin1(bytes: &[u8]) -> String {
    bytes.iter().map(|&byte| char::from(byte)).collect()
}
