//! Requests to backends: a pool per thread and backend, and one rule for sending again.
//!
//! A request is sent a second time only if it was handed back unwritten, or is a GET or HEAD without a body.
//! An error says whether a byte can have left: that is what the outcome of a start is decided on.

use std::cell::RefCell;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::{Method, Request, Response, header};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::task::spawn_local;
use tokio::time::{Instant, timeout_at};

use crate::backends::credential;
use crate::backends::dial::{Dialer, Offer};
use crate::backends::h2::Shared;
use crate::backends::pool::{self, Connection, Pool, Sender};
use crate::backends::send_error::SendError;
use crate::backends::spare::Spare;
use crate::http::body::{Gate, Upload};
use crate::http::framing;
use crate::limits;
use crate::names::BackendName;
use crate::routing::table::Backend;
use crate::telemetry::traces::Traces;

/// What may be done with a request whose connection fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repeat {
    /// A GET or HEAD without a body: once more, before the answer's head.
    Safe,
    /// Never, unless it was handed back unwritten.
    Never,
}

impl Repeat {
    /// Says what a method and its body allow (RFC 9110, 9.2.2; only GET and HEAD are taken at their word).
    pub fn for_request(method: &Method, body: &Upload) -> Repeat {
        let safe = matches!(*method, Method::GET | Method::HEAD) && matches!(body, Upload::Empty);
        if safe { Repeat::Safe } else { Repeat::Never }
    }
}

/// A thread's connections to both backends.
#[derive(Debug)]
pub struct Client {
    traces: Option<Traces>,
    dialer: Dialer,
    legacy: Rc<RefCell<Pool>>,
    workers: Rc<RefCell<Pool>>,
}

/// The right to give a connection back once its answer has been read to the end. Dropped early, it closes it.
#[derive(Debug)]
pub struct Lease {
    connection: Option<Box<Connection>>,
    pool: Rc<RefCell<Pool>>,
    kept_back: Option<Arc<Gate>>,
}

impl Lease {
    /// Notes that the request's body was kept back: the connection cannot be used again and ends with the answer.
    pub fn keep_back(&mut self, gate: Arc<Gate>) {
        self.kept_back = Some(gate);
    }

    /// Gives the connection back.
    pub fn give_back(mut self) {
        if self.kept_back.is_some() {
            return;
        }
        if let Some(connection) = self.connection.take() {
            self.pool.borrow_mut().give_back(connection);
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(gate) = &self.kept_back {
            gate.end();
        }
    }
}

impl Client {
    /// Starts with no connection. With `traces`, each call of a request that belongs to a trace gets a span.
    pub fn new(dialer: Dialer, traces: Option<Traces>) -> Client {
        Client { dialer, traces, legacy: Rc::default(), workers: Rc::default() }
    }

    fn pool(&self, name: BackendName) -> &Rc<RefCell<Pool>> {
        match name {
            BackendName::Legacy => &self.legacy,
            BackendName::Workers => &self.workers,
        }
    }

    /// Sends a request and returns the answer's head with its streaming body; `head_limit` bounds the wait for it,
    /// counted from the last piece of the client's body: an upload may take as long as it goes on. The request is
    /// boxed: by value it would be copied at each of a dozen hand-overs.
    ///
    /// # Errors
    /// [`SendError`] says whether a byte can have left.
    pub async fn send(
        &self,
        name: BackendName,
        backend: &Backend,
        mut request: Box<Request<Upload>>,
        head_limit: Duration,
    ) -> Result<(Response<Incoming>, Lease), SendError> {
        let span = self.traces.as_ref().and_then(|traces| {
            let method = request.method().clone();
            traces.call(name, &backend.url, &method, request.headers_mut()).map(Box::new)
        });
        let result = self.send_in_time(name, backend, request, head_limit).await;
        if let Some(span) = span {
            match &result {
                Ok((answer, _)) => span.answered(answer.status()),
                Err(error) => span.failed(error.to_string()),
            }
        }
        result
    }

    async fn send_in_time(
        &self,
        name: BackendName,
        backend: &Backend,
        mut request: Box<Request<Upload>>,
        head_limit: Duration,
    ) -> Result<(Response<Incoming>, Lease), SendError> {
        if name == BackendName::Workers {
            // Here and nowhere else, so that no way to workers can forget it.
            credential::present(&mut request, backend.credential.as_ref(), SystemTime::now());
        }
        let moved = request.body().moved();
        let now = Instant::now();
        let mut deadline = now + head_limit;
        let mut sent = pin!(self.send_unbounded(name, backend, request, now));
        loop {
            if let Ok(result) = timeout_at(deadline, sent.as_mut()).await {
                return result;
            }
            match moved.as_ref().map(|moved| moved.get() + head_limit) {
                Some(later) if later > deadline => deadline = later,
                _ => return Err(SendError::TimedOut(head_limit)),
            }
        }
    }

    async fn send_unbounded(
        &self,
        name: BackendName,
        backend: &Backend,
        mut request: Box<Request<Upload>>,
        now: Instant,
    ) -> Result<(Response<Incoming>, Lease), SendError> {
        let repeat = Repeat::for_request(request.method(), request.body());
        let mut spare = (repeat == Repeat::Safe).then(|| Spare::of(&request));
        let pool = self.pool(name);
        let mut pooled = pool.borrow_mut().checkout(&self.dialer, backend, repeat, now);
        let offer = offer(backend, &request);
        if offer == Offer::Http2 && pooled.is_none() {
            pooled = Box::pin(self.place(pool, backend, repeat)).await;
        }
        // At most three rounds: handed back by the pool's connection, broken once, and the last.
        loop {
            let was_pooled = pooled.is_some();
            let mut connection = match pooled.take() {
                Some(connection) => connection,
                // Boxed: it is rare, and would make every request's future some KiB larger.
                None => Box::pin(self.connect(pool, backend, offer)).await?,
            };
            let mut failed = match connection.try_send(request).await {
                Ok(mut answer) => {
                    framing::settle(&mut answer).map_err(|_| SendError::Ambiguous)?;
                    let lease = Lease { connection: Some(connection), pool: pool.clone(), kept_back: None };
                    return Ok((answer, lease));
                }
                Err(failed) => failed,
            };
            request = match failed.take_message() {
                Some(mut unsent) if was_pooled => {
                    connection.take_back(&mut unsent);
                    Box::new(unsent)
                }
                Some(_) => return Err(SendError::HandedBack(failed.into_error())),
                None => {
                    let error = SendError::from_hyper(failed.into_error());
                    if was_pooled && repeat == Repeat::Never && matches!(error, SendError::Closed(_)) {
                        // It may have been closed a moment too late to see: what is not repeated gets a fresh one next.
                        pool.borrow_mut().distrust();
                    }
                    match (error, spare.take()) {
                        (SendError::Closed(_) | SendError::Refused(_), Some(spare)) => spare.into_request(),
                        (error, _) => return Err(error),
                    }
                }
            };
        }
    }

    async fn connect(
        &self,
        pool: &RefCell<Pool>,
        backend: &Backend,
        offer: Offer,
    ) -> Result<Box<Connection>, SendError> {
        let socket = self.dialer.dial(backend, offer).await?;
        let peek = socket.peek_handle();
        if socket.is_http2() {
            let shared = Box::pin(Shared::begin(socket)).await.map_err(SendError::HandedBack)?;
            return Ok(pool.borrow_mut().share(backend, shared, peek));
        }
        let peer = peek.peer();
        let (sender, driver) = http1::Builder::new()
            .preserve_header_case(true)
            .max_headers(limits::ANSWER_HEADERS)
            .max_header_size(limits::ANSWER_HEAD)
            .handshake(TokioIo::new(socket))
            .await
            .map_err(SendError::HandedBack)?;
        spawn_local(async move {
            // Its error reaches whoever waits for the answer or reads its body.
            let _ = driver.with_upgrades().await;
        });
        let (url, made) = (backend.url.clone(), pool::made(backend));
        Ok(Box::new(Connection { sender: Sender::Http1(sender), peek, peer, url, made }))
    }

    /// Takes a place on a connection of HTTP/2 that is there; a request that cannot be repeated waits a moment for what
    /// the backend may have said of going away.
    async fn place(&self, pool: &RefCell<Pool>, backend: &Backend, repeat: Repeat) -> Option<Box<Connection>> {
        loop {
            let place = pool.borrow_mut().place(backend)?;
            let Sender::Http2(held) = &place.sender else { return None };
            if repeat == Repeat::Safe || held.0.settle().await {
                return Some(place);
            }
        }
    }

    /// Closes connections that were idle for too long; called every second or so by the thread's keeper.
    pub fn sweep(&self, legacy: &Backend, workers: &Backend) {
        self.legacy.borrow_mut().sweep(legacy);
        self.workers.borrow_mut().sweep(workers);
    }
}

/// Says which versions of HTTP a request may be sent in: a WebSocket needs HTTP/1.1, and legacy has nothing else.
fn offer(backend: &Backend, request: &Request<Upload>) -> Offer {
    let may = backend.url.tls && backend.tls.http2 && !request.headers().contains_key(header::UPGRADE);
    if may { Offer::Http2 } else { Offer::Http1 }
}
