//! One client connection that speaks HTTP/2: hyper, how long it may be silent, what it may waste, and the end.
//!
//! Every stream becomes a request of HTTP/1.1 ([`crate::http::downgrade`]) and goes the way that all requests go.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;

use futures_util::future::{Either, select};
use http::header;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper::server::conn::http2;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::watch;
use tokio::task::spawn_local;
use tokio::time::{Instant, sleep_until};

use crate::gateway;
use crate::gateway::core::{Core, Peer};
use crate::http::body::BodyEnd;
use crate::http::downgrade;
use crate::http::inbound::Progress;
use crate::http::linger::Lingering;
use crate::http::socket::{Peek, Socket};
use crate::limits;
use crate::routing::table::RoutingTable;
use crate::server::Stage;
use crate::server::entry::Guest;
use crate::server::stack::{self, InFlight};
use crate::server::streams::{Stream, StreamBody, Streams};

/// Serves one connection to its end.
pub async fn serve(
    core: Rc<Core>,
    in_flight: InFlight,
    socket: Socket,
    guest: Guest,
    mut stage: watch::Receiver<Stage>,
) {
    let table = core.gateway.table.load_full();
    let (header_timeout, idle_timeout) = (table.server.header_timeout, table.server.idle_timeout);
    let moved = Rc::new(Cell::new(Instant::now()));
    let streams = Rc::new(Streams::new(core.gateway.clone(), &table.limits));
    let client = guest.address();
    let origin = Origin { scheme: socket.scheme(), peek: socket.peek_handle(), guest };
    let service = {
        let streams = streams.clone();
        service_fn(move |request| {
            let stream = streams.begin();
            answer(core.clone(), in_flight.clone(), origin.peer(), stream, request)
        })
    };
    let mut connection = pin!(
        builder(&table, StreamTasks(streams.clone()))
            .serve_connection(TokioIo::new(Lingering::new(socket, moved.clone())), service)
    );
    drop(table);
    let mut draining = pin!(async move {
        // An error means that the sender is gone: the process is ending.
        let _ = stage.wait_for(|stage| *stage >= Stage::Draining).await;
    });
    let began = Instant::now();
    let mut timer = pin!(sleep_until(began + header_timeout.min(idle_timeout)));
    // When the client was told to go: hyper closes when all is answered and sent.
    let mut told = None::<Instant>;
    let mut drains = false;
    poll_fn(|cx| {
        drains = drains || draining.as_mut().poll(cx).is_ready();
        // An error is the client's: it left, or broke HTTP's rules and was told so.
        if connection.as_mut().poll(cx).is_ready() || streams.are_wasted() {
            return Poll::Ready(());
        }
        loop {
            let now = Instant::now();
            let due = match (told, streams.idle_since()) {
                // The end of an answer may still be on its way; a client that is asleep answers nothing.
                (Some(told), Some(since)) if streams.has_begun() => {
                    told.max(since).max(moved.get()) + limits::H2_GOODBYE
                }
                (Some(told), Some(_)) => told + limits::LINGER,
                (None, Some(since)) if drains && streams.has_begun() => since,
                // A connection that came just now gets its one request answered.
                (None, Some(since)) if drains => since.max(began) + limits::FIRST_REQUEST,
                (None, Some(_)) if !streams.has_begun() => began + header_timeout.min(idle_timeout),
                (None, Some(since)) => since + idle_timeout,
                (None, None) if drains => now,
                (_, None) => now + idle_timeout,
            };
            if now < due {
                timer.as_mut().reset(due);
                if timer.as_mut().poll(cx).is_pending() {
                    return Poll::Pending;
                }
                continue;
            }
            if told.is_some() {
                return Poll::Ready(());
            }
            told = Some(now);
            // GOAWAY: what is under way is answered, no new stream is taken (RFC 9113, 6.8).
            connection.as_mut().graceful_shutdown();
            if connection.as_mut().poll(cx).is_ready() {
                return Poll::Ready(());
            }
        }
    })
    .await;
    if streams.are_wasted() {
        tracing::debug!(%client, "HTTP/2 connection cut: most of its requests were cancelled at once");
    }
}

fn builder(table: &RoutingTable, tasks: StreamTasks) -> http2::Builder<StreamTasks> {
    let limits = &table.limits;
    // What the gateway itself bounds fits in, with the 32 bytes that HTTP/2 counts for each field (RFC 9113, 6.5.2).
    let list = limits.headers + limits.target + (limits.header_count + limits::H2_PSEUDO_FIELDS) * 32;
    let mut builder = http2::Builder::new(tasks);
    builder
        .timer(TokioTimer::new())
        .auto_date_header(false)
        .max_concurrent_streams(limits::H2_STREAMS)
        .max_header_list_size(u32::try_from(list).unwrap_or(u32::MAX))
        .max_pending_accept_reset_streams(limits::H2_PENDING_RESETS)
        .max_local_error_reset_streams(limits::H2_ERROR_RESETS)
        .initial_stream_window_size(limits::H2_STREAM_WINDOW)
        .initial_connection_window_size(limits::H2_CONNECTION_WINDOW)
        .max_frame_size(limits::H2_FRAME)
        .max_send_buf_size(limits::H2_SEND_BUFFER)
        .keep_alive_interval(limits::H2_PING)
        .keep_alive_timeout(limits::H2_PONG);
    builder
}

/// Answers the request of one stream.
async fn answer(
    core: Rc<Core>,
    in_flight: InFlight,
    peer: Rc<Peer>,
    stream: Rc<Stream>,
    mut request: Request<Incoming>,
) -> Result<Response<StreamBody>, std::convert::Infallible> {
    let wants_trailers = request.headers().get(header::TE).is_some_and(|te| te == "trailers");
    let mut answer = match downgrade::to_http1(&mut request) {
        Ok(()) if !stream.has_place() => gateway::shed(&core, &peer, &request),
        Ok(()) => stack::service(core, peer, &in_flight).call(request).await?,
        Err(refusal) => gateway::refuse(&core, &peer, &request, &refusal),
    };
    let trailers = downgrade::from_http1(&mut answer, wants_trailers);
    Ok(answer.map(|body| StreamBody::new(body, stream, trailers)))
}

/// What all requests of a connection have in common.
struct Origin {
    guest: Guest,
    scheme: &'static str,
    peek: Peek,
}

impl Origin {
    /// Makes what a request knows of where it comes from; each stream has a progress of its own.
    fn peer(&self) -> Rc<Peer> {
        self.guest.peer(self.scheme, BodyEnd::Flag, Progress::new(self.peek.clone()))
    }
}

/// Runs each stream in a task of its own on this thread.
#[derive(Clone)]
struct StreamTasks(Rc<Streams>);

impl<F: Future<Output = ()> + 'static> Executor<F> for StreamTasks {
    fn execute(&self, task: F) {
        // Hyper has just called the service for this very stream.
        let stream = self.0.take_begun();
        spawn_local(async move {
            let Some(stream) = stream else { return task.await };
            // Ended this way, the stream is reset: its client reads nothing, and holds a backend's connection.
            match select(pin!(task), pin!(stream.stalled())).await {
                Either::Left(_) | Either::Right(_) => {}
            }
        });
    }
}
