//! One client connection that speaks HTTP/1.1: hyper, the time a client has for a request head, and the end.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use crate::gateway;
use crate::gateway::core::Core;
use crate::http::body::BodyEnd;
use crate::http::early::Early;
use crate::http::inbound::{Inbound, Phase, Progress};
use crate::http::refusal::Refusal;
use crate::http::socket::Socket;
use crate::limits;
use crate::routing::table::RoutingTable;
use crate::server::Stage;
use crate::server::entry::Guest;
use crate::server::stack::{self, InFlight};

/// How a connection came to its end.
enum End {
    /// Hyper is done with it.
    Done,
    /// A request head did not arrive in time.
    HeadTimeout,
    /// No request, no reader, or no more of a body, for too long.
    Idle,
}

/// What hyper knows of the way down.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Leave {
    Staying,
    AfterGrace,
    Told,
}

/// Serves one connection to its end.
pub async fn serve(
    core: Rc<Core>,
    in_flight: InFlight,
    socket: Socket,
    guest: Guest,
    mut stage: watch::Receiver<Stage>,
) {
    let table = core.gateway.table.load_full();
    let progress = Progress::new(socket.peek_handle());
    let task = poll_fn(|cx| Poll::Ready(cx.waker().clone())).await;
    progress.interim.written_by(&task);
    let peer = guest.peer(socket.scheme(), BodyEnd::Framing, progress.clone());
    let io = TokioIo::new(Inbound::new(socket, progress.clone(), table.limits.target));
    let service = stack::service(core.clone(), peer.clone(), &in_flight);
    let mut connection = builder(&table).serve_connection(io, service).with_upgrades();
    let mut patience = Patience::new(&table);
    drop(table);
    let mut timer = pin!(sleep_until(patience.next));
    let mut draining = pin!(async move {
        // An error means that the sender is gone: the process is ending.
        let _ = stage.wait_for(|stage| *stage >= Stage::Draining).await;
    });
    let mut leave = Leave::Staying;
    let mut grace = pin!(sleep_until(patience.next));
    let end = poll_fn(|cx| {
        if leave == Leave::Staying && draining.as_mut().poll(cx).is_ready() {
            leave = Leave::AfterGrace;
            grace.as_mut().reset(Instant::now() + limits::FIRST_REQUEST);
        }
        // A connection that came just now gets its one request answered: to close it would lose that request.
        if leave == Leave::AfterGrace && (progress.has_begun() || grace.as_mut().poll(cx).is_ready()) {
            leave = Leave::Told;
            Pin::new(&mut connection).graceful_shutdown();
        }
        // An error is the client's: it left, or broke HTTP's rules and was told so.
        if Pin::new(&mut connection).poll(cx).is_ready() {
            return Poll::Ready(End::Done);
        }
        patience.look(&progress);
        loop {
            // A time that has moved back later is noticed when the timer fires: most requests never touch it.
            if timer.deadline() > patience.next {
                timer.as_mut().reset(patience.next);
            }
            if timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            if let Some(end) = patience.end(Instant::now()) {
                return Poll::Ready(end);
            }
            timer.as_mut().reset(patience.next);
        }
    })
    .await;
    if let End::HeadTimeout = end
        && let Some(parts) = connection.into_parts()
    {
        let mut io = parts.io.into_inner();
        let early = Early::new(Refusal::HeadTimeout);
        // The client may be gone: then there is nobody to tell.
        let _ = io.write_all(&early.bytes()).await;
        let _ = io.shutdown().await;
        gateway::note_early(&core, &peer, &early);
    } else if let Some(early) = progress.take_early() {
        gateway::note_early(&core, &peer, &early);
    }
}

fn builder(table: &RoutingTable) -> http1::Builder {
    let limits = &table.limits;
    let mut builder = http1::Builder::new();
    builder
        .preserve_header_case(true)
        .auto_date_header(false)
        .half_close(false)
        .max_headers(limits.header_count)
        // The target counts in; the gateway itself checks each of the two.
        .max_header_size(limits.headers + limits.target)
        // Its timer would close silently, and runs on idle connections too: `Patience` does both.
        .header_read_timeout(None);
    builder
}

/// Watches how long a connection waits for its client, without a timer per request.
struct Patience {
    header: Duration,
    idle: Duration,
    write: Duration,
    body: Duration,
    /// What the connection was waiting for when it was last looked at.
    waiting: Waiting,
    /// When its time is up.
    next: Instant,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Waiting {
    First,
    Request,
    Head,
    Reader,
    Body,
    Us,
}

impl Patience {
    fn new(table: &RoutingTable) -> Patience {
        let now = Instant::now();
        let mut patience = Patience {
            header: table.server.header_timeout,
            idle: table.server.idle_timeout,
            write: table.limits.write_idle,
            body: table.limits.body_idle,
            waiting: Waiting::First,
            next: now,
        };
        patience.next = now + patience.limit();
        patience
    }

    /// Looks after each poll of the connection at what it waits for; only a change costs a look at the clock.
    fn look(&mut self, progress: &Progress) {
        let waiting = match progress.phase() {
            _ if progress.is_write_blocked() => Waiting::Reader,
            Phase::Idle if self.waiting == Waiting::First => Waiting::First,
            Phase::Idle => Waiting::Request,
            Phase::Head => Waiting::Head,
            Phase::Rest => Waiting::Body,
            Phase::Busy => Waiting::Us,
        };
        let goes_on = match waiting {
            // However slow: as long as bytes move, nobody is cut off.
            Waiting::Reader | Waiting::Body => progress.take_moved(),
            Waiting::First | Waiting::Request | Waiting::Head | Waiting::Us => false,
        };
        if waiting == self.waiting && !goes_on {
            return;
        }
        self.waiting = waiting;
        if waiting != Waiting::Us {
            self.next = Instant::now() + self.limit();
        }
    }

    fn limit(&self) -> Duration {
        match self.waiting {
            // A client that says nothing at all is given no longer than one that says half of it.
            Waiting::First => self.header.min(self.idle),
            Waiting::Request | Waiting::Us => self.idle,
            Waiting::Head => self.header,
            Waiting::Reader => self.write,
            Waiting::Body => self.body,
        }
    }

    /// Says whether the time is up, once the timer has fired.
    fn end(&mut self, now: Instant) -> Option<End> {
        if self.waiting == Waiting::Us {
            // Nobody waits for the client: its time begins with the next thing that it is to do.
            self.next = now + self.idle;
        }
        if now < self.next {
            return None;
        }
        match self.waiting {
            Waiting::Head => Some(End::HeadTimeout),
            Waiting::First | Waiting::Request | Waiting::Reader | Waiting::Body => Some(End::Idle),
            Waiting::Us => None,
        }
    }
}
