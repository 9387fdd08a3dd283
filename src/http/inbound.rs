//! A client's connection as hyper sees it: it notes what the connection is waiting for, and closes without
//! taking the last answer away from a client that is still sending.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http::{Request, Version};
use http_body::Body;
use hyper::upgrade::OnUpgrade;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::http::early::Early;
use crate::http::interim::Interim;
use crate::http::linger::Linger;
use crate::http::screen::{Follows, Screen};
use crate::http::socket::{Peek, Socket};
use crate::limits;

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
    /// Whether a head has begun behind the request at hand.
    is_ahead: AtomicBool,
    follows: NextBytes,
    peek: Peek,
    /// The backend's 1xx answers to the request at hand.
    pub interim: Interim,
    /// The refusal of a head that never became a request, for the log.
    early: Mutex<Option<Early>>,
}

/// What hyper has said of the bytes behind the last head, until the socket takes it.
#[derive(Debug, Default)]
struct NextBytes {
    kind: AtomicU8,
    length: AtomicU64,
}

impl NextBytes {
    const UNKNOWN: u8 = 0;
    const LENGTH: u8 = 1;
    const CHUNKS: u8 = 2;
    /// Another protocol's bytes if the handshake is agreed to, else another head.
    const HANDSHAKE: u8 = 3;

    fn say(&self, follows: Follows) {
        let kind = match follows {
            Follows::Length(length) => {
                self.length.store(length, Ordering::Relaxed);
                NextBytes::LENGTH
            }
            Follows::Chunks => NextBytes::CHUNKS,
        };
        self.kind.store(kind, Ordering::Relaxed);
    }

    fn is_handshake(&self) -> bool {
        self.kind.load(Ordering::Relaxed) == NextBytes::HANDSHAKE
    }

    fn take(&self) -> Option<Follows> {
        match self.kind.swap(NextBytes::UNKNOWN, Ordering::Relaxed) {
            NextBytes::LENGTH => Some(Follows::Length(self.length.load(Ordering::Relaxed))),
            NextBytes::CHUNKS => Some(Follows::Chunks),
            _ => None,
        }
    }
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
            is_ahead: AtomicBool::new(false),
            follows: NextBytes::default(),
            peek,
            interim: Interim::default(),
            early: Mutex::default(),
        })
    }

    /// Takes the refusal of a head that never became a request.
    pub fn take_early(&self) -> Option<Early> {
        self.early.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Begins a request. Called as soon as hyper has read its head, so that the socket knows where the next one begins.
    pub fn begin<B: Body>(&self, request: &Request<B>) {
        self.enter(Phase::Busy);
        self.is_old.store(request.version() == Version::HTTP_10, Ordering::Relaxed);
        self.is_ahead.store(false, Ordering::Relaxed);
        match request.body().size_hint().exact() {
            Some(0) if request.extensions().get::<OnUpgrade>().is_some() => {
                self.follows.kind.store(NextBytes::HANDSHAKE, Ordering::Relaxed);
            }
            Some(length) => self.follows.say(Follows::Length(length)),
            None => self.follows.say(Follows::Chunks),
        }
    }

    /// Ends the request at hand, whose answer is over.
    pub fn end(&self) {
        self.enter(if self.is_ahead.load(Ordering::Relaxed) { Phase::Head } else { Phase::Idle });
    }

    /// Notes that the request at hand does not become another protocol: what came behind it is the next request.
    pub fn stays_http(&self) {
        if self.follows.is_handshake() {
            self.follows.say(Follows::Length(0));
            self.interim.wake();
        }
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
    /// What has come behind a head that hyper has not read yet.
    held: BytesMut,
    /// What is sent in place of hyper's own answer, as far as it is not sent yet.
    instead: Option<Bytes>,
    /// Interim answers of which a part is sent.
    interim: Bytes,
    /// The longest target that is taken, bytes.
    target: usize,
}

impl Inbound {
    /// Wraps a client's socket; `target` is the longest target that is taken, bytes.
    pub fn new(socket: Socket, progress: Arc<Progress>, target: usize) -> Inbound {
        Inbound {
            socket,
            progress,
            linger: None,
            screen: Screen::default(),
            held: BytesMut::new(),
            instead: None,
            interim: Bytes::new(),
            target,
        }
    }

    /// Gives the socket back for a tunnel, with what was read from it and has not been looked at.
    pub fn into_parts(self) -> (Socket, Bytes) {
        (self.socket, self.held.freeze())
    }

    /// Fills `buf` with what hyper may have now.
    fn poll_fill(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<usize>> {
        if self.progress.follows.is_handshake() && self.screen.awaits() {
            return self.poll_hold(cx);
        }
        let before = buf.filled().len();
        if self.held.is_empty() {
            ready!(Pin::new(&mut self.socket).poll_read(cx, buf))?;
        } else {
            let count = self.held.len().min(buf.remaining());
            buf.put_slice(&self.held[..count]);
        }
        let fresh = buf.filled().len() - before;
        if fresh == 0 {
            return Poll::Ready(Ok(0));
        }
        if self.screen.awaits() {
            // Hyper reads on in what it was given as a whole head: then it understood something else by it.
            self.screen.go_on(self.progress.follows.take().ok_or(io::ErrorKind::InvalidData)?);
        }
        let taken = self.screen.look(&mut buf.filled_mut()[before..]);
        if !self.held.is_empty() {
            drop(self.held.split_to(taken));
            if self.held.is_empty() {
                // An idle connection holds no memory.
                self.held = BytesMut::new();
            }
        } else if taken < fresh {
            self.held.extend_from_slice(&buf.filled()[before + taken..]);
        }
        buf.set_filled(before + taken);
        Poll::Ready(Ok(taken))
    }

    /// Keeps what comes while nobody knows what it is: frames, if the backend agrees to the handshake, or a request.
    fn poll_hold(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut scrap = [std::mem::MaybeUninit::uninit(); 4096];
        while self.held.len() < limits::HELD {
            let mut piece = ReadBuf::uninit(&mut scrap);
            ready!(Pin::new(&mut self.socket).poll_read(cx, &mut piece))?;
            if piece.filled().is_empty() {
                return Poll::Ready(Ok(0));
            }
            self.held.extend_from_slice(piece.filled());
        }
        // Read on when it is decided, which wakes this task.
        Poll::Pending
    }

    /// Writes the interim answers that wait: all of them, or those of which a part is sent.
    fn poll_interim(&mut self, cx: &mut Context<'_>, all: bool) -> Poll<io::Result<()>> {
        loop {
            while !self.interim.is_empty() {
                match Pin::new(&mut self.socket).poll_write(cx, &self.interim) {
                    Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                    Poll::Ready(Ok(sent)) => drop(self.interim.split_to(sent)),
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Pending => return Poll::Pending,
                }
            }
            match if all { self.progress.interim.next() } else { None } {
                Some(next) => self.interim = next,
                None => break,
            }
        }
        // A final answer may wait for this; it is made in the same task.
        cx.waker().wake_by_ref();
        Poll::Ready(Ok(()))
    }

    /// Gives hyper's own refusal of a head the words that all refusals have; `None` for every other write.
    fn poll_instead(&mut self, cx: &mut Context<'_>, buf: &[u8]) -> Option<Poll<io::Result<usize>>> {
        if self.progress.phase() != Phase::Head {
            return None;
        }
        let instead = match &mut self.instead {
            Some(instead) => instead,
            None => {
                let early = Early::in_place_of(buf, &self.screen, self.target)?;
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
        if ready!(self.poll_fill(cx, buf))? > 0 {
            let progress = &self.progress;
            progress.moved.store(true, Ordering::Relaxed);
            progress.is_ahead.store(self.screen.is_in_head(), Ordering::Relaxed);
            if progress.phase() == Phase::Idle {
                progress.begun.store(true, Ordering::Relaxed);
                progress.enter(Phase::Head);
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Inbound {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if !self.interim.is_empty() {
            ready!(self.poll_interim(cx, false))?;
        }
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
        if !self.interim.is_empty() {
            ready!(self.poll_interim(cx, false))?;
        }
        let instead = if let [only] = bufs { self.poll_instead(cx, only) } else { None };
        let result = instead.unwrap_or_else(|| Pin::new(&mut self.socket).poll_write_vectored(cx, bufs));
        self.progress.note_write(&result);
        result
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Hyper flushes when it has nothing left to write: this is between two messages.
        if self.progress.interim.is_waiting() || !self.interim.is_empty() {
            let written = self.poll_interim(cx, true);
            self.progress.note_write(&written);
            ready!(written)?;
        }
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
