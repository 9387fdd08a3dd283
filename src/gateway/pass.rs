//! Pass-through: everything that is not an export route goes to legacy, byte for byte, streaming both ways.

use http::header::{self, HeaderValue};
use http::{Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use hyper::upgrade::{self, OnUpgrade};

use crate::backends::client::Lease;
use crate::backends::send_error::SendError;
use crate::gateway::call::Call;
use crate::gateway::core::Core;
use crate::gateway::reply::{Content, Reply};
use crate::http::body::{BodyEnd, UploadError};
use crate::http::headers;
use crate::http::interim;
use crate::http::refusal::Refusal;
use crate::names::BackendName;
use crate::routing::table::RoutingTable;
use crate::telemetry::record::Record;

/// Passes a request to legacy and its answer back.
///
/// # Errors
/// A [`Refusal`] when legacy cannot be reached, does not answer, or the client's body fails.
pub async fn stream(
    core: &Core,
    table: &RoutingTable,
    call: Call,
    mut request: Box<Request<Incoming>>,
    record: &mut Record,
) -> Result<Reply, Refusal> {
    record.backend = Some(BackendName::Legacy);
    let client_side = call.head.websocket.then(|| upgrade::on(&mut *request));
    // Whoever speaks HTTP/1.0 knows no interim answers (RFC 9110, 15.2); they are written beside hyper's HTTP/1.1.
    let takes_interim = request.version() == Version::HTTP_11 && call.peer.end == BodyEnd::Framing;
    let (mut parts, body) = (*request).into_parts();
    call.address_to_legacy(&mut parts, table)?;
    let (upload, gate) = call.upload(&mut parts, body, table);
    let mut request = Box::new(Request::from_parts(parts, upload));
    interim::hand_on(&mut *request, takes_interim.then_some(&call.peer.progress), gate.clone());
    let sent = core.client.send(BackendName::Legacy, &table.legacy, request, table.legacy.answer_timeout).await;
    call.peer.progress.interim.written().await;
    let (answer, mut lease) = sent.map_err(|error| refuse(&error, record))?;
    let kept_back = gate.filter(|gate| gate.shut());
    let closes = kept_back.is_some();
    if let Some(gate) = kept_back {
        lease.keep_back(gate);
    }
    let mut reply = hand_on(answer, lease, BackendName::Legacy, client_side, record)?;
    if closes {
        // The client may send its body all the same: nothing after it could be told from a request.
        reply.head.headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    Ok(reply)
}

/// Turns a backend's answer into ours; a 101 becomes a tunnel if the client asked for one.
///
/// # Errors
/// A [`Refusal`] for a 101 that nobody asked for, or to something else than a WebSocket.
pub fn hand_on(
    mut answer: Response<Incoming>,
    lease: Lease,
    name: BackendName,
    client_side: Option<OnUpgrade>,
    record: &mut Record,
) -> Result<Reply, Refusal> {
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        headers::strip_answer(answer.headers_mut(), false);
        return Ok(Reply::stream(answer, name, lease));
    }
    let to_websocket =
        answer.headers().get(header::UPGRADE).is_some_and(|to| to.as_bytes().eq_ignore_ascii_case(b"websocket"));
    let Some(client_side) = client_side.filter(|_| to_websocket) else {
        record.error = Some("backend switched protocols without being asked to".to_owned());
        return Err(match name {
            BackendName::Legacy => Refusal::LegacyUnavailable,
            BackendName::Workers => Refusal::WorkersUnavailable,
        });
    };
    let backend_side = upgrade::on(&mut answer);
    headers::strip_answer(answer.headers_mut(), true);
    let mut reply = Reply::stream(answer, name, lease);
    reply.content = Content::Empty;
    reply.lease = None;
    reply.upgrade = Some(Box::new((client_side, backend_side)));
    Ok(reply)
}

/// Says what a failed pass-through means for the client, and notes the cause for the operator.
pub fn refuse(error: &SendError, record: &mut Record) -> Refusal {
    record.error = Some(chain(error));
    match error {
        SendError::TimedOut(_) => Refusal::LegacyTimeout,
        SendError::Upload(UploadError::Idle) => Refusal::BodyTimeout,
        SendError::Upload(UploadError::Broken | UploadError::Unwanted) => Refusal::BodyBroken,
        SendError::Dial(_) | SendError::HandedBack(_) | SendError::Refused(_) => Refusal::LegacyUnavailable,
        SendError::Closed(_) | SendError::Unreadable(_) | SendError::Ambiguous => Refusal::LegacyUnavailable,
    }
}

/// Writes an error with its causes on one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    text
}
