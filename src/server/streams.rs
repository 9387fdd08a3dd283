//! The streams of one HTTP/2 connection: how many are under way, which of them nobody reads, and whether they are
//! opened only to be cancelled.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderName;
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Instant, sleep_until};

use crate::gateway::core::Gateway;
use crate::gateway::reply::ReplyBody;
use crate::gateway::seats::SharedSeat;
use crate::limits;
use crate::routing::table::Limits;

/// What is known of a connection's streams.
#[derive(Debug)]
pub struct Streams {
    active: Cell<usize>,
    /// When the last one ended.
    ended: Cell<Instant>,
    begun: Cell<bool>,
    /// Streams that were cancelled as soon as they were opened, less those that were not.
    cancelled: Cell<u32>,
    /// The one that was opened last, until its task has begun.
    newest: RefCell<Option<Rc<Stream>>>,
    write_idle: Duration,
    gateway: Arc<Gateway>,
    /// `limits.connections`, in which streams beside the first count.
    connections: usize,
}

/// One stream, from its request to the last byte of its answer.
#[derive(Debug)]
pub struct Stream {
    streams: Rc<Streams>,
    began: Instant,
    /// Since when the client has had something of the answer to take; `None` while it waits for more of it.
    handed: Cell<Option<Instant>>,
    complete: Cell<bool>,
    has_place: bool,
    _seat: Option<SharedSeat>,
}

impl Streams {
    /// Starts with none; an answer that its client does not take is given up after `limits.write_idle`.
    pub fn new(gateway: Arc<Gateway>, limits: &Limits) -> Streams {
        Streams {
            active: Cell::new(0),
            ended: Cell::new(Instant::now()),
            begun: Cell::new(false),
            cancelled: Cell::new(0),
            newest: RefCell::new(None),
            write_idle: limits.write_idle,
            gateway,
            connections: limits.connections,
        }
    }

    /// Begins a stream.
    pub fn begin(self: &Rc<Streams>) -> Rc<Stream> {
        let is_first = self.active.replace(self.active.get() + 1) == 0;
        let seat = (!is_first).then(|| SharedSeat::take(&self.gateway, self.connections));
        self.begun.set(true);
        let stream = Rc::new(Stream {
            streams: self.clone(),
            began: Instant::now(),
            handed: Cell::new(None),
            complete: Cell::new(false),
            has_place: is_first || seat.as_ref().is_some_and(Option::is_some),
            _seat: seat.flatten(),
        });
        *self.newest.borrow_mut() = Some(stream.clone());
        stream
    }

    /// Takes the stream that was begun last, for its task.
    pub fn take_begun(&self) -> Option<Rc<Stream>> {
        self.newest.borrow_mut().take()
    }

    /// Says whether there has been any.
    pub fn has_begun(&self) -> bool {
        self.begun.get()
    }

    /// Returns since when there is none; `None` while there is one.
    pub fn idle_since(&self) -> Option<Instant> {
        (self.active.get() == 0).then(|| self.ended.get())
    }

    /// Says whether the client opens streams only to cancel them (CVE-2023-44487): each costs a request to a backend.
    pub fn are_wasted(&self) -> bool {
        self.cancelled.get() > limits::H2_CANCELLED
    }
}

impl Stream {
    /// Says whether there was room for it.
    pub fn has_place(&self) -> bool {
        self.has_place
    }

    /// Waits until the client has left what there is of its answer for too long.
    pub async fn stalled(&self) {
        let limit = self.streams.write_idle;
        let mut due = Instant::now() + limit;
        loop {
            sleep_until(due).await;
            due = self.handed.get().unwrap_or_else(Instant::now) + limit;
            if due <= Instant::now() {
                return;
            }
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let streams = &self.streams;
        let now = Instant::now();
        streams.active.set(streams.active.get().saturating_sub(1));
        streams.ended.set(now);
        let at_once = !self.complete.get() && now.duration_since(self.began) < limits::H2_AT_ONCE;
        let cancelled = streams.cancelled.get();
        streams.cancelled.set(if at_once { cancelled.saturating_add(1) } else { cancelled.saturating_sub(1) });
    }
}

/// An answer's body on its stream.
#[derive(Debug)]
pub struct StreamBody {
    body: ReplyBody,
    stream: Rc<Stream>,
    /// The trailer fields that may follow.
    trailers: Vec<HeaderName>,
}

impl StreamBody {
    /// Sends a body on a stream, and behind it the `trailers` of these names.
    pub fn new(body: ReplyBody, stream: Rc<Stream>, trailers: Vec<HeaderName>) -> StreamBody {
        StreamBody { body, stream, trailers }
    }
}

impl Body for StreamBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        self.stream.handed.set(None);
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        self.stream.handed.set(Some(Instant::now()));
        let Some(Ok(frame)) = frame else { return Poll::Ready(frame) };
        let mut fields = match frame.into_trailers() {
            Ok(fields) => fields,
            Err(frame) => return Poll::Ready(Some(Ok(frame))),
        };
        let gone: Vec<HeaderName> = fields.keys().filter(|name| !self.trailers.contains(name)).cloned().collect();
        for name in gone {
            fields.remove(name);
        }
        Poll::Ready((!fields.is_empty()).then(|| Ok(Frame::trailers(fields))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for StreamBody {
    fn drop(&mut self) {
        self.stream.complete.set(self.body.is_end_stream());
    }
}
