//! One exchange with a backend whose answer is read whole: what was sent, what came back, and whether a byte left.

use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, StatusCode, Version, response};
use tokio::time::{Instant, timeout_at};

use crate::backends::dial::DialError;
use crate::backends::send_error::SendError;
use crate::exports::outcome::{Attempt, Broken, NotSent};
use crate::exports::step::StartRefusal;
use crate::gateway::call::backend_target;
use crate::gateway::core::Core;
use crate::gateway::pass::chain;
use crate::gateway::reply::{Origin, Reply};
use crate::http::body::{BodyEnd, Bound, ReadError, Reservation, Upload, read_whole};
use crate::http::headers;
use crate::http::refusal::Refusal;
use crate::names::BackendName;
use crate::routing::table::{Backend, BaseUrl, RoutingTable};
use crate::telemetry::record::Record;

/// `identity`, for `Accept-Encoding`: answers that are read must not be compressed.
pub const IDENTITY: HeaderValue = HeaderValue::from_static("identity");

/// What was seen of an exchange.
#[derive(Debug)]
pub enum Seen {
    /// No byte of the request left.
    NotSent {
        /// Why.
        why: NotSent,
        /// The cause, for operators.
        error: Option<String>,
    },
    /// A byte may have left and there is no whole answer.
    Broken {
        /// How it ended.
        how: Broken,
        /// The answer's status, if its head came.
        status: Option<StatusCode>,
        /// The cause, for operators.
        error: String,
    },
    /// A whole answer.
    Answered(Answer),
}

/// A whole answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Status and fields.
    pub parts: response::Parts,
    /// The body; empty if it came compressed although it must not.
    pub body: Bytes,
}

impl Seen {
    /// Nothing was sent, for a reason of our own.
    pub fn not_sent(why: NotSent) -> Seen {
        Seen::NotSent { why, error: None }
    }

    /// Returns what the outcome is judged on.
    pub fn attempt(&self) -> Attempt<'_> {
        match self {
            Seen::NotSent { why, .. } => Attempt::NotSent(*why),
            Seen::Broken { how, status, .. } => Attempt::Broken { how: *how, status: *status },
            Seen::Answered(answer) => Attempt::Answered { status: answer.parts.status, body: &answer.body },
        }
    }

    /// Returns the whole answer.
    ///
    /// # Errors
    /// The refusal for an outcome that is not known, where there is none: its caller has judged that there is one.
    pub fn into_answer(self) -> Result<Answer, Refusal> {
        match self {
            Seen::Answered(answer) => Ok(answer),
            Seen::NotSent { .. } | Seen::Broken { .. } => Err(Refusal::StartOutcomeUnknown(StatusCode::BAD_GATEWAY)),
        }
    }

    /// Returns the seconds after which the backend wants to be asked again.
    pub fn retry_after(&self) -> Option<u64> {
        let Seen::Answered(answer) = self else { return None };
        answer.parts.headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()
    }

    /// Notes the cause of a failure in the request's record.
    pub fn note(&self, record: &mut Record) {
        match self {
            Seen::NotSent { error: Some(error), .. } | Seen::Broken { error, .. } => record.error = Some(error.clone()),
            Seen::NotSent { error: None, .. } | Seen::Answered(_) => {}
        }
    }
}

/// Sends a request and reads the answer whole, both within `limit`.
pub async fn make(
    core: &Core,
    name: BackendName,
    backend: &Backend,
    request: Request<Upload>,
    limit: Duration,
    bound: Bound,
    held: &mut Reservation,
) -> Seen {
    let until = Instant::now() + limit;
    let (answer, lease) = match core.client.send(name, backend, Box::new(request), limit).await {
        Ok(sent) => sent,
        Err(error) => return unsent_or_broken(&error),
    };
    let (parts, body) = answer.into_parts();
    let broken = |how, error: String| Seen::Broken { how, status: Some(parts.status), error };
    if parts.status == StatusCode::SWITCHING_PROTOCOLS {
        // Nobody asked for it here: what follows is no HTTP, and there is no answer.
        return broken(Broken::Unreadable, "backend switched protocols without being asked to".to_owned());
    }
    let end = if parts.version == Version::HTTP_2 { BodyEnd::Flag } else { BodyEnd::Framing };
    let bound = Bound { idle: limit, ..bound };
    let body = match timeout_at(until, read_whole(body, end, bound, held)).await {
        Err(_) => return broken(Broken::Timeout, format!("answer not whole within {limit:?}")),
        Ok(Err(error)) => {
            let how = match error {
                ReadError::TooLarge(_) | ReadError::Overloaded => Broken::TooLarge,
                ReadError::Idle => Broken::Timeout,
                ReadError::Broken(_) | ReadError::Cancelled => Broken::Cut,
            };
            return broken(how, chain(&error));
        }
        Ok(Ok(body)) => body,
    };
    lease.give_back();
    let plain = match parts.headers.get(header::CONTENT_ENCODING) {
        None => true,
        Some(encoding) => name == BackendName::Legacy || encoding == IDENTITY,
    };
    Seen::Answered(Answer { parts, body: if plain { body } else { Bytes::new() } })
}

fn unsent_or_broken(error: &SendError) -> Seen {
    let text = chain(error);
    let not_sent = |why| Seen::NotSent { why, error: Some(text.clone()) };
    let broken = |how| Seen::Broken { how, status: None, error: text.clone() };
    match error {
        SendError::Dial(DialError::Dns(_)) => not_sent(NotSent::Dns),
        SendError::Dial(DialError::Connect(_)) => not_sent(NotSent::Unreachable),
        SendError::Dial(DialError::TimedOut(_)) => not_sent(NotSent::ConnectTimeout),
        SendError::Dial(DialError::Tls(_)) => not_sent(NotSent::Tls),
        SendError::HandedBack(_) => not_sent(NotSent::HandedBack),
        SendError::Refused(_) => not_sent(NotSent::StreamRefused),
        SendError::Upload(_) => broken(Broken::Write),
        SendError::Closed(_) => broken(Broken::Closed),
        SendError::Unreadable(_) | SendError::Ambiguous => broken(Broken::Unreadable),
        SendError::TimedOut(_) => broken(Broken::Timeout),
    }
}

/// Returns the bounds of an answer that is read whole; the time is the caller's.
pub fn answer_bound(table: &RoutingTable) -> Bound {
    Bound { bytes: table.limits.answer_body, buffered: table.limits.buffered, idle: Duration::MAX }
}

/// Makes a POST of bytes at hand.
///
/// # Errors
/// A [`Refusal`] if the backend's base path and `path` make no valid target.
pub fn post(url: &BaseUrl, path: &str, headers: HeaderMap, body: Bytes) -> Result<Request<Upload>, Refusal> {
    let mut request = Request::new(Upload::full(body));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = backend_target(url, path)?;
    *request.headers_mut() = headers;
    Ok(request)
}

/// Makes the client's answer from legacy's: unchanged.
pub fn reply_from_legacy(Answer { mut parts, body }: Answer) -> Reply {
    headers::strip_answer(&mut parts.headers, false);
    let mut reply = Reply::own(parts.status, "", body);
    reply.head = parts;
    reply.origin = Origin::Legacy;
    reply
}

/// The fields of workers' answers that clients get.
const FROM_WORKERS: [HeaderName; 3] = [header::CONTENT_TYPE, header::CACHE_CONTROL, header::RETRY_AFTER];

/// Makes the client's answer from workers': status, body and three fields.
pub fn reply_from_workers(parts: &response::Parts, body: Bytes) -> Reply {
    let mut reply = Reply::own(parts.status, "", body);
    reply.head.headers.clear();
    for name in FROM_WORKERS {
        if let Some(value) = parts.headers.get(&name) {
            reply.head.headers.insert(name, value.clone());
        }
    }
    reply
}

impl From<StartRefusal> for Refusal {
    fn from(refusal: StartRefusal) -> Refusal {
        match refusal {
            StartRefusal::NoBackend => Refusal::NoBackend,
            StartRefusal::StoreUnavailable => Refusal::StoreUnavailable,
            StartRefusal::OutcomeUnknown(status) => Refusal::StartOutcomeUnknown(status),
        }
    }
}
