//! A job's WebSocket: tunnelled to workers, for browsers that cannot or should not reach them directly.

use http::header::{self, HeaderMap, HeaderName};
use http::{Request, StatusCode};
use hyper::body::Incoming;
use hyper::upgrade;

use crate::gateway::attempt::reply_from_workers;
use crate::gateway::call::{self, Call};
use crate::gateway::core::Core;
use crate::gateway::pass::{chain, hand_on};
use crate::gateway::reply::{Content, Reply};
use crate::http::headers;
use crate::http::refusal::Refusal;
use crate::limits;
use crate::names::{BackendName, JobId};
use crate::routing::table::RoutingTable;
use crate::telemetry::record::Record;

/// What a handshake says beside the fields that every request to workers has (RFC 6455, 4.1).
const HANDSHAKE: [HeaderName; 4] = [
    header::SEC_WEBSOCKET_KEY,
    header::SEC_WEBSOCKET_VERSION,
    header::SEC_WEBSOCKET_PROTOCOL,
    header::SEC_WEBSOCKET_EXTENSIONS,
];

/// Opens the WebSocket of a job. The job id is the capability: browsers cannot send an identity here.
///
/// # Errors
/// A [`Refusal`] when the job is legacy's, too many unknown ids are asked for, or workers cannot be reached.
pub async fn answer(
    core: &Core,
    table: &RoutingTable,
    call: Call,
    id: JobId,
    mut request: Request<Incoming>,
    record: &mut Record,
) -> Result<Reply, Refusal> {
    record.job = Some(id.clone());
    record.backend = Some(BackendName::Workers);
    let known = core.gateway.jobs.find(&id).await.map_err(|error| {
        record.error = Some(error.line());
        Refusal::OwnerUnavailable { retry_after: limits::RETRY_AFTER }
    })?;
    let _place = match &known {
        Some(job) if job.backend == BackendName::Legacy => {
            record.backend = Some(BackendName::Legacy);
            return Err(Refusal::JobNotFound);
        }
        Some(_) => None,
        None => Some(core.gateway.unknown_sockets.try_acquire().map_err(|_| Refusal::Overloaded)?),
    };
    let user = known.as_ref().and_then(|job| job.user.as_ref());
    let mut headers = call.head_for_workers(request.headers(), user, table)?;
    for name in HANDSHAKE {
        for value in request.headers().get_all(&name) {
            headers.append(name.clone(), value.clone());
        }
    }
    headers::strip_request(&mut headers, &call.head);
    let backend = &table.workers.backend;
    let client_side = upgrade::on(&mut request);
    let handshake = call::get(backend, &format!("/api/jobs/{id}/ws"), headers)?;
    let sent = core.client.send(BackendName::Workers, backend, Box::new(handshake), backend.status_timeout).await;
    let (mut answer, lease) = sent.map_err(|error| {
        record.error = Some(chain(&error));
        Refusal::WorkersUnavailable
    })?;
    if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
        keep_agreed(answer.headers_mut());
        return hand_on(answer, lease, BackendName::Workers, Some(client_side), record);
    }
    if backend.credential.is_some() && matches!(answer.status(), StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
        // It is about the gateway's credential, which is no business of the client's.
        record.error = Some(format!("workers refused the gateway's credential with {}", answer.status()));
        return Err(Refusal::WorkersUnavailable);
    }
    let (parts, body) = answer.into_parts();
    let mut reply = reply_from_workers(&parts, bytes::Bytes::new());
    reply.content = Content::Stream(body);
    reply.lease = Some(lease);
    Ok(reply)
}

/// What clients get of workers' 101: that it is a WebSocket's, and what was agreed (RFC 6455, 4.2.2).
const AGREED: [HeaderName; 4] =
    [header::UPGRADE, header::SEC_WEBSOCKET_ACCEPT, header::SEC_WEBSOCKET_PROTOCOL, header::SEC_WEBSOCKET_EXTENSIONS];

fn keep_agreed(headers: &mut HeaderMap) {
    let mut kept = HeaderMap::with_capacity(8);
    for name in AGREED {
        for value in headers.get_all(&name) {
            kept.append(name.clone(), value.clone());
        }
    }
    *headers = kept;
}
