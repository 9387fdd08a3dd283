//! A client's connection as hyper sees it: it notes what the connection is waiting for, and closes without
//! taking the last answer away from a client that is still sending.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::Version;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::http::early::Early;
use crate::http::linger::Linger;
use crate::http::screen::Screen;
use crate::http::socket::{Peek, Socket};

/// What a client's connection is waiting for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// The first byte of a request.
    Idle,
    /// The rest of a request head.
    Head,
    /// Us: a request is being answered.
    Busy,
    /// The rest of a request body whose answer is over already.
    Rest,
}

/// What a connection's task and its socket tell each other. Shared because hyper owns the socket.
#[derive(Debug)]
pub struct Progress {
    phase: AtomicU8,
    /// Whether a byte of any request has come.
    begun: AtomicBool,
    /// Request bodies that a backend is still being given.
    unread: AtomicUsize,
    write_blocked: AtomicBool,
    /// Whether the client has sent or taken a byte since it was last asked.
    moved: AtomicBool,
    /// Whether the request at hand is of HTTP/1.0, where the end of the connection may be the end of an answer.
    is_old: AtomicBool,
    peek: Peek,
    /// The refusal of a head that never became a request, for the log.
    early: Mutex<Option<Early>>,
}

/// A request body that is still being read, for as long as this lives.
#[derive(Debug)]
pub struct Unread(Arc<Progress>);

impl Drop for Unread {
    fn drop(&mut self) {
        self.0.unread.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Progress {
    /// Starts idle; `peek` is the connection it is about.
    pub fn new(peek: Peek) -> Arc<Progress> {
        Arc::new(Progress {
            phase: AtomicU8::new(Phase::Idle as u8),
            begun: AtomicBool::new(false),
            unread: AtomicUsize::new(0),
            write_blocked: AtomicBool::new(false),
            moved: AtomicBool::new(false),
            is_old: AtomicBool::new(false),
            peek,
            early: Mutex::default(),
        })
    }

    /// Takes the refusal of a head that never became a request.
    pub fn take_early(&self) -> Option<Early> {
        self.early.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Begins a request of this version.
    pub fn begin(&self, version: Version) {
        self.enter(Phase::Busy);
        self.is_old.store(version == Version::HTTP_10, Ordering::Relaxed);
    }

    /// Makes sure that an answer that broke off does not look whole: to an HTTP/1.0 client only a reset says so.
    pub fn cut(&self) {
        if self.is_old.load(Ordering::Relaxed) {
            self.peek.reset_on_close();
        }
    }

    /// Notes that a request body is being read from now on.
    pub fn read_body(self: &Arc<Progress>) -> Unread {
        self.unread.fetch_add(1, Ordering::Relaxed);
        Unread(self.clone())
    }

    /// Returns what the connection is waiting for.
    pub fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Relaxed) {
            0 | 1 if self.unread.load(Ordering::Relaxed) > 0 => Phase::Rest,
            0 => Phase::Idle,
            1 => Phase::Head,
            _ => Phase::Busy,
        }
    }

    /// Says what the connection is waiting for now.
    pub fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Relaxed);
    }

    /// Says whether a byte of any request has come.
    pub fn has_begun(&self) -> bool {
        self.begun.load(Ordering::Relaxed)
    }

    /// Says whether the client has stopped reading while there is something to send.
    pub fn is_write_blocked(&self) -> bool {
        self.write_blocked.load(Ordering::Relaxed)
    }

    /// Says whether the client has sent or taken a byte since this was last asked.
    pub fn take_moved(&self) -> bool {
        self.moved.swap(false, Ordering::Relaxed)
    }

    fn note_blocked(&self, blocked: bool) {
        if blocked != self.is_write_blocked() {
            self.write_blocked.store(blocked, Ordering::Relaxed);
        }
    }

    fn note_write<T>(&self, result: &Poll<T>) {
        self.note_blocked(result.is_pending());
        if result.is_ready() {
            self.moved.store(true, Ordering::Relaxed);
        }
    }
}

/// A client's socket.
#[derive(Debug)]
pub struct Inbound {
    socket: Socket,
    progress: Arc<Progress>,
    linger: Option<Linger>,
    screen: Screen,
    /// What is sent in place of hyper's own answer, as far as it is not sent yet.
    instead: Option<Bytes>,
}

impl Inbound {
    /// Wraps a client's socket.
    pub fn new(socket: Socket, progress: Arc<Progress>) -> Inbound {
        Inbound { socket, progress, linger: None, screen: Screen::default(), instead: None }
    }

    /// Gives the socket back, for a tunnel.
    pub fn into_socket(self) -> Socket {
        self.socket
    }

    /// Gives hyper's own refusal of a head the words that all refusals have; `None` for every other write.
    fn poll_instead(&mut self, cx: &mut Context<'_>, buf: &[u8]) -> Option<Poll<io::Result<usize>>> {
        if self.progress.phase() != Phase::Head {
            return None;
        }
        let instead = match &mut self.instead {
            Some(instead) => instead,
            None => {
                let early = Early::in_place_of(buf, &self.screen)?;
                let bytes = early.bytes();
                *self.progress.early.lock().unwrap_or_else(PoisonError::into_inner) = Some(early);
                self.instead.insert(bytes.into())
            }
        };
        while !instead.is_empty() {
            match Pin::new(&mut self.socket).poll_write(cx, instead) {
                Poll::Ready(Ok(0)) => return Some(Poll::Ready(Err(io::ErrorKind::WriteZero.into()))),
                Poll::Ready(Ok(sent)) => drop(instead.split_to(sent)),
                Poll::Ready(Err(error)) => return Some(Poll::Ready(Err(error))),
                Poll::Pending => return Some(Poll::Pending),
            }
        }
        Some(Poll::Ready(Ok(buf.len())))
    }
}

impl AsyncRead for Inbound {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.socket).poll_read(cx, buf))?;
        if buf.filled().len() > before {
            self.progress.moved.store(true, Ordering::Relaxed);
            if self.progress.phase() == Phase::Idle {
                self.progress.begun.store(true, Ordering::Relaxed);
                self.progress.enter(Phase::Head);
                self.screen = Screen::default();
            }
            if self.progress.phase() == Phase::Head {
                self.screen.look(&mut buf.filled_mut()[before..]);
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Inbound {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let instead = self.poll_instead(cx, buf);
        let result = instead.unwrap_or_else(|| Pin::new(&mut self.socket).poll_write(cx, buf));
        self.progress.note_write(&result);
        result
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let instead = if let [only] = bufs { self.poll_instead(cx, only) } else { None };
        let result = instead.unwrap_or_else(|| Pin::new(&mut self.socket).poll_write_vectored(cx, bufs));
        self.progress.note_write(&result);
        result
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.socket).poll_flush(cx);
        // With TLS, what was written may still be here; plain TCP has nothing to flush.
        if let Socket::Tls(_) = self.socket {
            self.progress.note_blocked(result.is_pending());
        }
        result
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Inbound { socket, linger, .. } = &mut *self;
        Linger::poll(linger, socket, cx)
    }
}
