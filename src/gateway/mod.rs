//! The request flow: every branch that a request can take is visible in `answer`.

mod ids;
pub mod core;
pub mod call;
pub mod attempt;
pub mod input_key;
pub mod reply;
pub mod pass;
pub mod start;
pub mod status;
pub mod search;
pub mod seats;
pub mod socket;
pub mod unpolled;

use std::panic::AssertUnwindSafe;
use std::rc::Rc;
use std::sync::Arc;

use futures_util::FutureExt;
use http::header::{self, HeaderValue};
use http::{Method, Request, Response, StatusCode, Uri, Version};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use tokio::task::spawn_local;

use crate::gateway::call::Call;
use crate::gateway::core::{Core, Peer};
use crate::gateway::reply::{Content, Origin, Reply, ReplyBody};
use crate::http::cors;
use crate::http::early::Early;
use crate::http::headers::{X_EXPORT_BACKEND, X_REQUEST_ID};
use crate::http::refusal::Refusal;
use crate::http::tunnel::Tunnel;
use crate::routing::route::{self, OddPath, Route};
use crate::routing::table::RoutingTable;
use crate::telemetry::record::{Record, RouteName};

/// Answers one request, whatever happens.
pub async fn serve(core: Rc<Core>, peer: Rc<Peer>, request: Box<Request<Incoming>>) -> Response<ReplyBody> {
    let table = core.gateway.table.load_full(); // One table for the whole request, whatever reloads meanwhile.
    let request_id = call::request_id(&core, request.headers());
    let mut record = Box::new(Record::begin(core.recorder.clone(), &request, peer.address_value.clone(), request_id));
    if let Some(traces) = &core.recorder.traces {
        record.span = Some(Box::new(traces.begin(request.headers())));
    }
    let cors_origin = table.cors.as_ref().and_then(|_| request.headers().get(header::ORIGIN).cloned());
    let route = route::find(request.method(), request.uri().path(), &table.exports);
    let is_start = matches!(route, Ok(Route::Start(_)));
    let flow = answer_or_refuse(core.clone(), peer.clone(), table.clone(), route, request, record);
    let (mut reply, record) = if is_start {
        // A start runs to its end in a task of its own, even if its client leaves: a job costs money.
        spawn_local(flow).await.expect("a task that catches its panics and is not aborted")
    } else {
        flow.await
    };
    if let (Some(cors), Origin::NotLegacy) = (&table.cors, reply.origin) {
        cors::apply(cors, cors_origin.as_ref(), &mut reply.head.headers);
    }
    finish(&core, &peer, reply, record)
}

/// Turns a refusal, or a panic, into an answer.
async fn answer_or_refuse(
    core: Rc<Core>,
    peer: Rc<Peer>,
    table: Arc<RoutingTable>,
    route: Result<Route, OddPath>,
    request: Box<Request<Incoming>>,
    mut record: Box<Record>,
) -> (Reply, Box<Record>) {
    let _task = core.tasks.begin();
    let waits = request.headers().contains_key(header::EXPECT);
    let answered = AssertUnwindSafe(answer(&core, &peer, &table, route, request, &mut record)).catch_unwind().await;
    let reply = match answered {
        Ok(Ok(reply)) => reply,
        Ok(Err(refusal)) => refuse_waiting(&refusal, waits, &mut record),
        // The panic's own message has gone to the log through the hook. A start may have left before it.
        Err(_) if record.route == RouteName::Start => {
            Reply::refuse(&Refusal::StartOutcomeUnknown(StatusCode::INTERNAL_SERVER_ERROR), &mut record)
        }
        Err(_) => Reply::refuse(&Refusal::Internal, &mut record),
    };
    (reply, record)
}

/// Which way a request goes. The long ways are boxed, so that the short one, which most requests go, is cheap to set up.
async fn answer(
    core: &Rc<Core>,
    peer: &Rc<Peer>,
    table: &RoutingTable,
    route: Result<Route, OddPath>,
    mut request: Box<Request<Incoming>>,
    record: &mut Record,
) -> Result<Reply, Refusal> {
    let call = Call::check(peer, table, &request, record)?;
    if let Some(span) = &record.span {
        span.tell(request.headers_mut());
    }
    match route.map_err(|OddPath| Refusal::OddPath)? {
        Route::Start(export) => {
            record.route = RouteName::Start;
            call.refuse_bad_token(record)?;
            Box::pin(start::answer(core, table, call, export, *request, record)).await
        }
        Route::Status { export, job } => {
            record.route = RouteName::Status;
            call.refuse_bad_token(record)?;
            Box::pin(status::answer(core, table, call, export, job, *request, record)).await
        }
        Route::JobSocket(job) if call.head.websocket => {
            record.route = RouteName::JobSocket;
            call.refuse_bad_token(record)?;
            Box::pin(socket::answer(core, table, call, job, *request, record)).await
        }
        Route::Preflight if table.cors.is_some() && cors::is_preflight(request.headers()) => {
            record.route = RouteName::Preflight;
            Ok(preflight(table, &request))
        }
        Route::Preflight | Route::JobSocket(_) | Route::Pass => {
            record.route = RouteName::Pass;
            pass::stream(core, table, call, request, record).await
        }
    }
}

/// Notes that a head was refused which never became a request.
pub fn note_early(core: &Rc<Core>, peer: &Rc<Peer>, early: &Early) {
    let mut unread = Request::new(());
    *unread.method_mut() = Method::from_bytes(b"-").unwrap_or_default();
    *unread.uri_mut() = Uri::from_static("*");
    let (client, id) = (peer.address_value.clone(), Rc::from(early.request_id.as_str()));
    let mut record = Record::begin(core.recorder.clone(), &unread, client, id);
    record.status = Some(early.refusal.status().as_u16());
    record.code = Some(early.refusal.code());
    record.complete = true;
}

/// Makes the answer of a refusal; a client that `waits` for a word about its body may send it all the same, so that nothing
/// after it could be told from a request (RFC 9110, 10.1.1).
fn refuse_waiting(refusal: &Refusal, waits: bool, record: &mut Record) -> Reply {
    let mut reply = Reply::refuse(refusal, record);
    if waits {
        reply.head.headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    reply
}

/// Answers a request that there is no room for.
pub fn shed(core: &Rc<Core>, peer: &Rc<Peer>, request: &Request<Incoming>) -> Response<ReplyBody> {
    refuse(core, peer, request, &Refusal::Overloaded)
}

/// Answers a request that does not come as far as the flow.
pub fn refuse(core: &Rc<Core>, peer: &Rc<Peer>, request: &Request<Incoming>, refusal: &Refusal) -> Response<ReplyBody> {
    let id = call::request_id(core, request.headers());
    let mut record = Box::new(Record::begin(core.recorder.clone(), request, peer.address_value.clone(), id));
    let reply = refuse_waiting(refusal, request.headers().contains_key(header::EXPECT), &mut record);
    finish(core, peer, reply, record)
}

fn preflight(table: &RoutingTable, request: &Request<Incoming>) -> Reply {
    let mut reply = Reply::own(StatusCode::NO_CONTENT, "", bytes::Bytes::new());
    if let Some(cors) = &table.cors {
        cors::answer_preflight(cors, request.headers(), &mut reply.head.headers);
    }
    reply
}

/// Hands the answer to the connection; from here on its record is written when its last byte has left.
fn finish(core: &Rc<Core>, peer: &Rc<Peer>, reply: Reply, mut record: Box<Record>) -> Response<ReplyBody> {
    let Reply { mut head, mut content, upgrade, origin, lease, held } = reply;
    peer.progress.interim.give_up();
    if upgrade.is_none() {
        peer.progress.stays_http();
    }
    record.status = Some(head.status.as_u16());
    // Ours, not the backend's (RFC 9110, 2.5): a client takes 1.0 for the end of the connection.
    head.version = Version::HTTP_11;
    if let (Content::Full(Some(body)), true) = (&content, record.is_head()) {
        head.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
        content = Content::Empty;
    }
    let is_ours = matches!(record.route, RouteName::Start | RouteName::Status | RouteName::JobSocket);
    if (is_ours || origin == Origin::NotLegacy)
        && let Ok(id) = HeaderValue::from_str(&record.request_id)
    {
        head.headers.insert(X_REQUEST_ID, id);
    }
    if let (true, Some(backend)) = (is_ours, record.backend) {
        head.headers.insert(X_EXPORT_BACKEND, HeaderValue::from_static(backend.as_str()));
    }
    let record = match upgrade {
        Some(sides) => {
            record.own_target();
            spawn_local(run_tunnel(core.clone(), peer.clone(), *sides, record));
            None
        }
        None => Some(record),
    };
    Response::from_parts(head, ReplyBody::new(content, lease, held, record, peer.progress.clone()))
}

/// Runs a WebSocket from both sides' agreement to its end.
///
/// What waits for the sides is larger than what relays between them: the relay is a task of its own, since it is kept for
/// as long as the WebSocket is.
async fn run_tunnel(
    core: Rc<Core>,
    peer: Rc<Peer>,
    (client, backend): (OnUpgrade, OnUpgrade),
    mut record: Box<Record>,
) {
    let kept = (OpenSocket::count(&core), core.tasks.begin(), peer);
    let sides = tokio::try_join!(client, backend);
    let joined = match sides {
        Ok((client, backend)) => Tunnel::join(client, backend, core.tunnels.clone()),
        Err(error) => {
            record.error = Some(error.to_string());
            return;
        }
    };
    let Some(mut tunnel) = joined else {
        record.error = Some("upgraded connection is of another type".to_owned());
        return;
    };
    spawn_local(async move {
        // By reference: awaited by value, it would be in the task twice.
        let failed = (&mut tunnel).await.err();
        record.complete = failed.is_none();
        record.error = failed.map(|error| error.to_string());
        drop((tunnel, record, kept));
    });
}

/// Counts an open WebSocket for as long as it lives.
struct OpenSocket(Rc<Core>);

impl OpenSocket {
    fn count(core: &Rc<Core>) -> OpenSocket {
        core.gateway.metrics.websockets_open.inc();
        OpenSocket(core.clone())
    }
}

impl Drop for OpenSocket {
    fn drop(&mut self) {
        self.0.gateway.metrics.websockets_open.dec();
    }
}
