//! Bodies on their way to a backend, and bodies that are read whole within a bound.

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::task::AtomicWaker;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep, sleep};

use crate::http::inbound::Unread;
use crate::limits;

/// A request body towards a backend.
#[derive(Debug)]
pub enum Upload {
    /// None at all.
    Empty,
    /// One piece that we hold; `None` once it is handed over.
    Full(Option<Bytes>),
    /// The client's, as it comes.
    Client(ClientBody),
}

impl Upload {
    /// Makes a body of bytes at hand.
    pub fn full(bytes: Bytes) -> Upload {
        if bytes.is_empty() { Upload::Empty } else { Upload::Full(Some(bytes)) }
    }

    /// Returns a look at when the client's last piece came; `None` for a body that is at hand.
    pub fn moved(&self) -> Option<Rc<Cell<Instant>>> {
        match self {
            Upload::Empty | Upload::Full(_) => None,
            Upload::Client(body) => Some(body.moved.clone()),
        }
    }
}

/// The client's fault while its body was being forwarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UploadError {
    /// It sent nothing for `limits.body_idle`.
    #[error("client stopped sending its body")]
    Idle,
    /// It broke off or broke the framing.
    #[error("client's body broke off")]
    Broken,
    /// The backend answered instead of asking for it; no fault at all, and the answer has been passed on.
    #[error("backend did not ask for the body")]
    Unwanted,
}

impl Body for Upload {
    type Data = Bytes;
    type Error = UploadError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, UploadError>>> {
        match self.get_mut() {
            Upload::Empty => Poll::Ready(None),
            Upload::Full(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Upload::Client(body) => body.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Upload::Empty => true,
            Upload::Full(bytes) => bytes.is_none(),
            Upload::Client(body) => body.incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Upload::Empty => SizeHint::with_exact(0),
            Upload::Full(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Upload::Client(body) => body.incoming.size_hint(),
        }
    }
}

/// How the end of a body is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyEnd {
    /// By the framing of HTTP/1.1, which hyper judges.
    Framing,
    /// By a flag of HTTP/2: hyper takes a stream that was cancelled for one that has ended.
    Flag,
}

impl BodyEnd {
    /// Says whether a body that gives no more has broken off.
    fn is_missing(self, body: &Incoming) -> bool {
        self == BodyEnd::Flag && !body.is_end_stream()
    }
}

/// A client's body with a limit on silence, and perhaps a gate that the backend opens.
#[derive(Debug)]
pub struct ClientBody {
    incoming: Incoming,
    idle_limit: Duration,
    end: BodyEnd,
    idle: Option<Pin<Box<Sleep>>>,
    gate: Option<(Arc<Gate>, Pin<Box<Sleep>>)>,
    /// When the last piece came.
    moved: Rc<Cell<Instant>>,
    _unread: Unread,
}

impl ClientBody {
    /// Wraps a client's body; `idle_limit` is the longest silence between two reads.
    pub fn new(
        incoming: Incoming,
        end: BodyEnd,
        idle_limit: Duration,
        gate: Option<Arc<Gate>>,
        unread: Unread,
    ) -> ClientBody {
        let gate = gate.map(|gate| (gate, Box::pin(sleep(limits::CONTINUE_WAIT))));
        ClientBody {
            incoming,
            end,
            idle_limit,
            idle: None,
            gate,
            moved: Rc::new(Cell::new(Instant::now())),
            _unread: unread,
        }
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, UploadError>>> {
        if let Some((gate, wait)) = &mut self.gate {
            gate.waker.register(cx.waker());
            if gate.state() == GateState::Waiting && wait.as_mut().poll(cx).is_ready() {
                gate.open();
            }
            match gate.state() {
                GateState::Open => self.gate = None,
                GateState::Waiting | GateState::Shut => return Poll::Pending,
                GateState::Over => return Poll::Ready(Some(Err(UploadError::Unwanted))),
            }
        }
        match Pin::new(&mut self.incoming).poll_frame(cx) {
            Poll::Ready(frame) => {
                self.idle = None;
                self.moved.set(Instant::now());
                if frame.is_none() && self.end.is_missing(&self.incoming) {
                    return Poll::Ready(Some(Err(UploadError::Broken)));
                }
                Poll::Ready(frame.map(|frame| frame.map_err(|_| UploadError::Broken)))
            }
            Poll::Pending => {
                let idle = self.idle.get_or_insert_with(|| Box::pin(sleep(self.idle_limit)));
                ready!(idle.as_mut().poll(cx));
                Poll::Ready(Some(Err(UploadError::Idle)))
            }
        }
    }
}

/// Holds a body back until the backend has said `100 Continue`; a backend that answers at once gets no body.
#[derive(Debug, Default)]
pub struct Gate {
    state: AtomicU8,
    waker: AtomicWaker,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum GateState {
    /// The backend has not said anything.
    Waiting = 0,
    /// The body may go.
    Open = 1,
    /// The backend has answered without asking for the body: none of it goes.
    Shut = 2,
    /// And its answer has been passed on: the connection is of no more use.
    Over = 3,
}

impl Gate {
    fn state(&self) -> GateState {
        match self.state.load(Ordering::Acquire) {
            0 => GateState::Waiting,
            1 => GateState::Open,
            2 => GateState::Shut,
            _ => GateState::Over,
        }
    }

    fn go(&self, from: GateState, to: GateState) -> bool {
        let gone = self.state.compare_exchange(from as u8, to as u8, Ordering::AcqRel, Ordering::Acquire).is_ok();
        if gone {
            self.waker.wake();
        }
        gone
    }

    /// Lets the body go, unless the backend has answered already.
    pub fn open(&self) {
        self.go(GateState::Waiting, GateState::Open);
    }

    /// Keeps the body back for good, unless it was let go already; says whether it is kept back.
    pub fn shut(&self) -> bool {
        self.go(GateState::Waiting, GateState::Shut)
    }

    /// Ends the upload that was kept back, and its connection with it.
    pub fn end(&self) {
        self.go(GateState::Shut, GateState::Over);
    }
}

/// A bound on all bytes that are held in memory for intercepted requests, over all threads.
#[derive(Debug, Default)]
pub struct Budget {
    used: AtomicUsize,
}

/// A part of the budget, given back when it is dropped.
#[derive(Debug)]
pub struct Reservation {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Reservation {
    /// Starts with nothing reserved.
    pub fn new(budget: Arc<Budget>) -> Reservation {
        Reservation { budget, bytes: 0 }
    }

    /// Reserves `more` bytes if all reservations together stay within `limit`.
    pub fn grow(&mut self, more: usize, limit: usize) -> bool {
        let used = self.budget.used.fetch_add(more, Ordering::Relaxed);
        self.bytes += more;
        used.saturating_add(more) <= limit
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Why a body could not be read whole.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Longer than its bound.
    #[error("body is larger than {0} bytes")]
    TooLarge(usize),
    /// All bodies together are over `limits.buffered`.
    #[error("too many bytes are held already")]
    Overloaded,
    /// Nothing came for too long.
    #[error("body stopped")]
    Idle,
    /// It broke off or its framing is broken.
    #[error("body broke off")]
    Broken(#[source] hyper::Error),
    /// Its stream was cancelled.
    #[error("body was cancelled")]
    Cancelled,
}

/// The bounds for reading a body whole.
#[derive(Debug, Clone, Copy)]
pub struct Bound {
    /// Most bytes of this body.
    pub bytes: usize,
    /// Most bytes of all bodies.
    pub buffered: usize,
    /// Longest silence between two reads.
    pub idle: Duration,
}

/// Reads a body whole; a declared length over the bound is refused before anything is read.
///
/// # Errors
/// [`ReadError`] when it is too large, stops or breaks off.
pub async fn read_whole(
    mut body: Incoming,
    end: BodyEnd,
    bound: Bound,
    held: &mut Reservation,
) -> Result<Bytes, ReadError> {
    let declared = body.size_hint().lower();
    if declared > bound.bytes as u64 {
        return Err(ReadError::TooLarge(bound.bytes));
    }
    let mut first: Option<Bytes> = None;
    let mut rest = BytesMut::new();
    loop {
        let frame = match tokio::time::timeout(bound.idle, body.frame()).await {
            Err(_) => return Err(ReadError::Idle),
            Ok(None) if end.is_missing(&body) => return Err(ReadError::Cancelled),
            Ok(None) => break,
            Ok(Some(frame)) => frame.map_err(ReadError::Broken)?,
        };
        let Ok(data) = frame.into_data() else { continue };
        let so_far = first.as_ref().map_or(0, Bytes::len) + rest.len();
        if so_far + data.len() > bound.bytes {
            return Err(ReadError::TooLarge(bound.bytes));
        }
        if !held.grow(data.len(), bound.buffered) {
            return Err(ReadError::Overloaded);
        }
        match first.take() {
            None if rest.is_empty() => first = Some(data),
            held => {
                if let Some(first) = held {
                    rest.extend_from_slice(&first);
                }
                rest.extend_from_slice(&data);
            }
        }
    }
    Ok(first.unwrap_or_else(|| rest.freeze()))
}
