//! The connections to one backend that wait to be used again, or are used by many at a time.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::client::conn::http1::SendRequest;
use tokio::time::Instant;

use crate::backends::client::Repeat;
use crate::backends::dial::Dialer;
use crate::backends::h2::{self, InFlight, Shared};
use crate::backends::resolve::Name;
use crate::http::body::Upload;
use crate::http::socket::Peek;
use crate::limits;
use crate::routing::table::{Backend, BaseUrl};

/// Idle connections to one address; the last one used is used next.
#[derive(Debug, Default)]
pub(super) struct Pool {
    url: Option<BaseUrl>,
    /// The address's name, if it has one: connections to where it no longer leads are not used again.
    name: Option<Arc<Name>>,
    /// The number of the name's set of addresses that the idle connections were compared with.
    compared: u64,
    /// What TLS towards it is made of; connections made of something else are not used again.
    made: Option<[u8; 32]>,
    idle: VecDeque<Idle>,
    /// Connections of HTTP/2, each for many requests.
    shared: Vec<SharedConnection>,
    /// Until then a request that cannot be repeated gets a connection of its own: this backend was seen to close
    /// connections soon after an answer, and a close that is on its way cannot be seen.
    distrusted_until: Option<Instant>,
}

#[derive(Debug)]
struct Idle {
    connection: Box<Connection>,
    since: Instant,
}

#[derive(Debug)]
pub(super) struct Connection {
    pub(super) sender: Sender,
    pub(super) peek: Peek,
    pub(super) peer: Option<IpAddr>,
    pub(super) url: BaseUrl,
    pub(super) made: Option<[u8; 32]>,
}

#[derive(Debug)]
pub(super) enum Sender {
    /// For one request at a time.
    Http1(SendRequest<Upload>),
    /// A place on a connection for many.
    Http2(Box<(Shared, InFlight)>),
}

/// A connection of HTTP/2, and where it leads.
#[derive(Debug)]
struct SharedConnection {
    shared: Shared,
    peek: Peek,
    peer: Option<IpAddr>,
    url: BaseUrl,
    made: Option<[u8; 32]>,
}

impl SharedConnection {
    fn place(&self) -> Box<Connection> {
        Box::new(Connection {
            sender: Sender::Http2(Box::new((self.shared.clone(), self.shared.take()))),
            peek: self.peek.clone(),
            peer: self.peer,
            url: self.url.clone(),
            made: self.made,
        })
    }
}

/// Returns what TLS towards a backend is made of.
pub(super) fn made(backend: &Backend) -> Option<[u8; 32]> {
    backend.tls.made.as_ref().map(|made| made.from)
}

impl Connection {
    /// Gives it a request.
    pub(super) async fn try_send(
        &mut self,
        request: Box<Request<Upload>>,
    ) -> Result<Response<Incoming>, TrySendError<Request<Upload>>> {
        match &mut self.sender {
            Sender::Http1(sender) => sender.try_send_request(*request).await,
            Sender::Http2(place) => {
                let mut request = *request;
                h2::address(&mut request, &self.url);
                Box::pin(place.0.sender.try_send_request(request)).await
            }
        }
    }

    /// Makes a request that it gave back fit for another connection.
    pub(super) fn take_back(&self, request: &mut Request<Upload>) {
        if let Sender::Http2(_) = self.sender {
            h2::address_again(request, &self.url);
        }
    }

    fn is_closed(&self) -> bool {
        match &self.sender {
            Sender::Http1(sender) => sender.is_closed(),
            Sender::Http2(place) => place.0.sender.is_closed(),
        }
    }

    fn is_ready(&self) -> bool {
        match &self.sender {
            Sender::Http1(sender) => sender.is_ready(),
            Sender::Http2(place) => place.0.sender.is_ready(),
        }
    }
}

impl Pool {
    /// Sees to what the pool is about, and takes the connection that was used last.
    pub(super) fn checkout(
        &mut self,
        dialer: &Dialer,
        backend: &Backend,
        repeat: Repeat,
        now: Instant,
    ) -> Option<Box<Connection>> {
        if !self.is_for(backend) {
            *self = Pool { distrusted_until: self.distrusted_until, ..Pool::default() };
            self.url = Some(backend.url.clone());
            self.made = made(backend);
            self.name = dialer.name(&backend.url);
        }
        self.follow_name(now);
        self.take(backend, repeat, now)
    }

    /// Takes a place on a connection of HTTP/2, if there is one with room.
    pub(super) fn place(&mut self, backend: &Backend) -> Option<Box<Connection>> {
        if !self.is_for(backend) || !backend.tls.http2 {
            return None;
        }
        self.shared.iter().find(|known| known.shared.has_room()).map(SharedConnection::place)
    }

    /// Lets others use a connection of HTTP/2, too; returns the first place on it.
    pub(super) fn share(&mut self, backend: &Backend, shared: Shared, peek: Peek) -> Box<Connection> {
        let connection =
            SharedConnection { shared, peer: peek.peer(), peek, url: backend.url.clone(), made: made(backend) };
        let place = connection.place();
        if self.is_for(backend) && self.shared.len() < limits::POOL_IDLE {
            self.shared.push(connection);
        }
        place
    }

    /// Keeps a connection for the next request.
    pub(super) fn give_back(&mut self, connection: Box<Connection>) {
        let is_here = self.url.as_ref() == Some(&connection.url)
            && self.made == connection.made
            && self.leads_to(&connection)
            && matches!(connection.sender, Sender::Http1(_));
        if is_here && self.idle.len() < limits::POOL_IDLE {
            self.idle.push_back(Idle { connection, since: Instant::now() });
        }
    }

    /// Closes connections that were idle for too long, or that nothing leads to any more.
    pub(super) fn sweep(&mut self, backend: &Backend) {
        if !self.is_for(backend) {
            self.idle.clear();
            self.shared.clear();
        }
        if !self.idle.is_empty() || !self.shared.is_empty() {
            self.follow_name(Instant::now());
        }
        while self.idle.front().is_some_and(|idle| idle.since.elapsed() >= backend.idle_timeout) {
            self.idle.pop_front();
        }
        let is_old = |since: Instant| since.elapsed() >= backend.idle_timeout;
        self.shared.retain(|known| !known.shared.sender.is_closed() && !known.shared.idle_since().is_some_and(is_old));
        let mut is_early = false;
        self.idle.retain(|idle| {
            let is_closed = idle.connection.is_closed();
            is_early |= is_closed && idle.since.elapsed() < limits::EARLY_CLOSE;
            !is_closed
        });
        if is_early {
            self.distrust();
        }
    }

    fn is_for(&self, backend: &Backend) -> bool {
        self.url.as_ref() == Some(&backend.url) && (!backend.url.tls || self.made == made(backend))
    }

    /// Takes the connection that was used last; for a request that cannot be repeated the kernel is asked
    /// whether the backend has closed it meanwhile.
    fn take(&mut self, backend: &Backend, repeat: Repeat, now: Instant) -> Option<Box<Connection>> {
        if repeat == Repeat::Never && self.distrusted_until.is_some_and(|until| now < until) {
            return None;
        }
        while let Some(Idle { connection, since }) = self.idle.pop_back() {
            if now.duration_since(since) >= backend.idle_timeout {
                self.idle.clear();
                return None;
            }
            if connection.is_ready() && (repeat == Repeat::Safe || connection.peek.is_quiet()) {
                return Some(connection);
            }
            // One that is open and not ready is still given the body of a request that was answered before it was read.
            let is_open = !connection.is_ready() && !connection.is_closed();
            if !is_open && now.duration_since(since) < limits::EARLY_CLOSE {
                self.distrust();
                if repeat == Repeat::Never {
                    return None;
                }
            }
        }
        None
    }

    /// Has the name looked up again if it is time, and closes connections to addresses that it has no more.
    fn follow_name(&mut self, now: Instant) {
        let Pool { name: Some(name), compared, idle, shared, .. } = self else { return };
        name.touch(now.into_std());
        let changes = name.changes();
        if *compared != changes {
            *compared = changes;
            idle.retain(|idle| idle.connection.peer.is_some_and(|peer| name.has(peer)));
            shared.retain(|known| known.peer.is_some_and(|peer| name.has(peer)));
        }
    }

    fn leads_to(&self, connection: &Connection) -> bool {
        self.name.as_ref().is_none_or(|name| connection.peer.is_some_and(|peer| name.has(peer)))
    }

    /// For a while, requests that cannot be repeated get no used connection.
    pub(super) fn distrust(&mut self) {
        self.distrusted_until = Some(Instant::now() + limits::DISTRUST);
    }
}
