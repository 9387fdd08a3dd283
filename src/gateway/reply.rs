//! An answer on its way to the client, with all that hangs on its last byte: the record, the backend's connection,
//! the memory that was reserved.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Response, StatusCode, response};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;

use crate::backends::client::Lease;
use crate::gateway::pass::chain;
use crate::http::body::Reservation;
use crate::http::inbound::Progress;
use crate::http::refusal::Refusal;
use crate::names::BackendName;
use crate::telemetry::record::Record;

/// What a route answers.
#[derive(Debug)]
pub struct Reply {
    /// Status and fields.
    pub head: response::Parts,
    /// What follows.
    pub content: Content,
    /// The WebSocket that follows a 101: client's side, backend's side.
    pub upgrade: Option<Box<(OnUpgrade, OnUpgrade)>>,
    /// Who made it.
    pub origin: Origin,
    /// The backend's connection, given back after the last byte.
    pub lease: Option<Lease>,
    /// What the request holds in memory until then.
    pub held: Option<Reservation>,
}

/// Who made an answer: CORS is ours to add unless legacy did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// Legacy.
    Legacy,
    /// Workers, or the gateway.
    NotLegacy,
}

/// What follows an answer's head.
#[derive(Debug)]
pub enum Content {
    /// Nothing.
    Empty,
    /// One piece; `None` once it is handed over.
    Full(Option<Bytes>),
    /// The backend's body, as it comes.
    Stream(Incoming),
}

impl Reply {
    /// Makes an answer of the gateway's own.
    pub fn own(status: StatusCode, content_type: &'static str, body: Bytes) -> Reply {
        let mut head = Response::new(()).into_parts().0;
        head.status = status;
        if !body.is_empty() {
            head.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        }
        let content = if body.is_empty() { Content::Empty } else { Content::Full(Some(body)) };
        Reply { head, content, upgrade: None, origin: Origin::NotLegacy, lease: None, held: None }
    }

    /// Makes the answer of a refusal and notes it in the record.
    pub fn refuse(refusal: &Refusal, record: &mut Record) -> Reply {
        record.code = Some(refusal.code());
        let mut reply = Reply::own(refusal.status(), "application/json", refusal.body(&record.request_id));
        if let Some(seconds) = refusal.retry_after() {
            reply.head.headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if let Some(challenge) = refusal.challenge() {
            reply.head.headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
        }
        if refusal.closes() {
            reply.head.headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        reply
    }

    /// Passes a backend's answer on, streaming.
    pub fn stream(answer: Response<Incoming>, name: BackendName, lease: Lease) -> Reply {
        let (head, body) = answer.into_parts();
        let origin = match name {
            BackendName::Legacy => Origin::Legacy,
            BackendName::Workers => Origin::NotLegacy,
        };
        Reply { head, content: Content::Stream(body), upgrade: None, origin, lease: Some(lease), held: None }
    }
}

/// An answer's body towards the client. Its record is written when it is dropped, whether sent or abandoned;
/// the record of a WebSocket stays with its tunnel.
#[derive(Debug)]
pub struct ReplyBody {
    content: Content,
    ended: bool,
    lease: Option<Lease>,
    record: Option<Box<Record>>,
    progress: Arc<Progress>,
    _held: Option<Reservation>,
}

impl ReplyBody {
    /// Joins what is sent with what waits for its end.
    pub fn new(
        content: Content,
        lease: Option<Lease>,
        held: Option<Reservation>,
        record: Option<Box<Record>>,
        progress: Arc<Progress>,
    ) -> ReplyBody {
        ReplyBody { content, ended: false, lease, record, progress, _held: held }
    }
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = match &mut self.content {
            Content::Empty => None,
            Content::Full(bytes) => bytes.take().map(|bytes| Ok(Frame::data(bytes))),
            Content::Stream(body) => ready!(Pin::new(body).poll_frame(cx)),
        };
        // Trailers are the end: hyper does not ask again after them.
        if let Some(Err(_)) = frame {
            self.progress.cut();
        }
        self.ended |= frame.as_ref().is_none_or(|frame| frame.as_ref().is_ok_and(Frame::is_trailers));
        if let Some(record) = &mut self.record {
            match &frame {
                None => {}
                Some(Ok(frame)) => record.bytes_out += frame.data_ref().map_or(0, |data| data.len() as u64),
                Some(Err(error)) => record.error = Some(format!("backend's answer broke off: {}", chain(error))),
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Empty => true,
            Content::Full(bytes) => bytes.is_none(),
            Content::Stream(body) => self.ended || body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Empty => SizeHint::with_exact(0),
            Content::Full(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Content::Stream(body) => body.size_hint(),
        }
    }
}

impl Drop for ReplyBody {
    fn drop(&mut self) {
        let complete = self.is_end_stream();
        if let Some(record) = &mut self.record {
            record.complete = complete;
        }
        if complete && let Some(lease) = self.lease.take() {
            lease.give_back();
        }
        self.progress.end();
    }
}
