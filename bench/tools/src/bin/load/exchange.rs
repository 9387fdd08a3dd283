//! One connection: a request out, its answer in, every byte of it looked at.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::task::ready;

use bench_tools::{PATTERN, head_end, is_pattern};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};

use crate::spec::{Expect, Plan};

thread_local! {
    /// Large bodies are read into this one buffer: 8,000 connections need no memory of their own for it.
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; 256 * 1024]);
}

/// A connection that is kept alive.
pub struct Conversation<S> {
    stream: S,
    held: Vec<u8>,
}

/// What was seen in an answer.
#[derive(Clone, Copy)]
pub struct Seen {
    /// The letter that the body was made of, where it was one.
    pub letter: Option<u8>,
}

fn wrong(what: impl Into<String>) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, what.into())
}

/// Says whether a connection ended before a byte of an answer.
pub fn is_closed(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::UnexpectedEof)
}

impl<S: AsyncRead + AsyncWrite + Unpin> Conversation<S> {
    pub fn new(stream: S) -> Conversation<S> {
        Conversation { stream, held: Vec::new() }
    }

    /// Asks and reads the whole answer.
    pub async fn ask(&mut self, plan: &Plan, number: usize) -> io::Result<Seen> {
        let request = &plan.requests_as_bytes[number % plan.requests_as_bytes.len()];
        self.stream.write_all(request).await?;
        let mut left = plan.body_bytes;
        while left > 0 {
            let piece = left.min(PATTERN.len() as u64) as usize;
            self.stream.write_all(&PATTERN[..piece]).await?;
            left -= piece as u64;
        }
        self.stream.flush().await?;
        let (status, length) = self.read_head().await?;
        match (plan.websocket, status) {
            (true, 101) => return self.read_greeting().await,
            (false, 200) => {}
            _ => return Err(wrong(format!("status {status}"))),
        }
        let mut check = Check { expect: &plan.expect, length, offset: 0, letter: None, text: Vec::new() };
        check.feed(&self.held)?;
        self.held.clear();
        while check.offset < length {
            self.feed(&mut check).await?;
        }
        check.end()
    }

    async fn read_head(&mut self) -> io::Result<(u16, u64)> {
        self.held.clear();
        let end = loop {
            if let Some(end) = head_end(&self.held) {
                break end;
            }
            self.held.reserve(2048);
            let is_first = self.held.is_empty();
            let read = self.stream.read_buf(&mut self.held).await;
            if read.map_err(|error| if is_first { error } else { wrong(error.to_string()) })? == 0 {
                return Err(match is_first {
                    true => io::Error::new(ErrorKind::UnexpectedEof, "closed before an answer"),
                    false => wrong("an answer's head broke off"),
                });
            }
            if self.held.len() > 64 * 1024 {
                return Err(wrong("a head without an end"));
            }
        };
        let mut fields = [httparse::EMPTY_HEADER; 64];
        let mut answer = httparse::Response::new(&mut fields);
        answer.parse(&self.held[..end]).map_err(|error| wrong(error.to_string()))?;
        let status = answer.code.unwrap_or_default();
        let mut length = (status == 101).then_some(0);
        for field in answer.headers.iter() {
            if field.name.eq_ignore_ascii_case("content-length") {
                length = std::str::from_utf8(field.value).ok().and_then(|value| value.parse().ok());
            }
        }
        self.held.drain(..end);
        Ok((status, length.ok_or_else(|| wrong("an answer without a length"))?))
    }

    /// Reads what has come, and checks it where it lies.
    async fn feed(&mut self, check: &mut Check<'_>) -> io::Result<()> {
        poll_fn(|cx| {
            SCRATCH.with_borrow_mut(|scratch| {
                let room = scratch.len().min((check.length - check.offset) as usize);
                let mut buf = ReadBuf::new(&mut scratch[..room]);
                ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buf)).map_err(|error| wrong(error.to_string()))?;
                if buf.filled().is_empty() {
                    return Err(wrong("an answer broke off")).into();
                }
                check.feed(buf.filled()).into()
            })
        })
        .await
    }

    /// Waits for what a silent WebSocket must not do, and names it.
    pub async fn said(&mut self) -> &'static str {
        match self.stream.read_u8().await {
            Ok(_) => "a WebSocket was not silent",
            Err(_) => "a WebSocket was closed",
        }
    }

    /// The upstream's first frame: the tunnel stands.
    async fn read_greeting(&mut self) -> io::Result<Seen> {
        while self.held.len() < 7 {
            if self.stream.read_buf(&mut self.held).await? == 0 {
                return Err(wrong("a WebSocket closed at once"));
            }
        }
        match self.held == b"\x81\x05hello" {
            true => {
                self.held = Vec::new();
                Ok(Seen { letter: None })
            }
            false => Err(wrong("a WebSocket said something else")),
        }
    }
}

/// Looks at a body as it comes.
struct Check<'a> {
    expect: &'a Expect,
    length: u64,
    offset: u64,
    letter: Option<u8>,
    text: Vec<u8>,
}

impl Check<'_> {
    fn feed(&mut self, bytes: &[u8]) -> io::Result<()> {
        let is_right = match self.expect {
            _ if bytes.is_empty() => true,
            Expect::Letters(letters, _) => {
                let letter = *self.letter.get_or_insert(bytes[0]);
                letters.as_bytes().contains(&letter) && bytes.iter().all(|byte| *byte == letter)
            }
            Expect::Pattern(_) => is_pattern(bytes, self.offset),
            Expect::Contains(_) => {
                self.text.extend_from_slice(bytes);
                self.text.len() < 64 * 1024
            }
        };
        self.offset += bytes.len() as u64;
        if is_right { Ok(()) } else { Err(wrong("wrong bytes")) }
    }

    fn end(self) -> io::Result<Seen> {
        let is_right = match self.expect {
            Expect::Letters(_, length) | Expect::Pattern(length) => self.offset == *length,
            Expect::Contains(text) => self.text.windows(text.len()).any(|window| window == text.as_bytes()),
        };
        if is_right { Ok(Seen { letter: self.letter }) } else { Err(wrong("wrong bytes")) }
    }
}
