//! Requests to backends: a pool per thread and backend, and one rule for sending again.
//!
//! A request is sent a second time only if it was handed back unwritten, or is a GET or HEAD without a body.
//! An error says whether a byte can have left: that is what the outcome of a start is decided on.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::net::IpAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::{Method, Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::task::spawn_local;
use tokio::time::{Instant, timeout_at};

use crate::backends::credential;
use crate::backends::dial::{DialError, Dialer};
use crate::backends::resolve::Name;
use crate::http::body::{Gate, Upload, UploadError};
use crate::http::headers;
use crate::http::socket::Peek;
use crate::limits;
use crate::names::BackendName;
use crate::routing::table::{Backend, BaseUrl};

/// Why there is no answer from a backend.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// There is no connection; nothing was sent.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// A fresh connection gave the request back; nothing was sent.
    #[error("request was handed back unsent")]
    HandedBack(#[source] hyper::Error),
    /// The client's own body failed; a part may have been sent.
    #[error(transparent)]
    Upload(UploadError),
    /// The connection ended before an answer's head; the backend may have acted.
    #[error("connection ended before an answer")]
    Closed(#[source] hyper::Error),
    /// What came is not HTTP that may be passed on; the backend may have acted.
    #[error("answer is not valid HTTP")]
    Unreadable(#[source] hyper::Error),
    /// Where the answer ends can be read in two ways; the backend may have acted.
    #[error("answer's length is ambiguous")]
    Ambiguous,
    /// No answer's head within the time; the backend may have acted.
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
}

impl SendError {
    /// Says whether it is certain that no byte of the request was sent.
    pub fn nothing_was_sent(&self) -> bool {
        match self {
            SendError::Dial(_) | SendError::HandedBack(_) => true,
            SendError::Upload(_) | SendError::Closed(_) | SendError::Unreadable(_) => false,
            SendError::Ambiguous | SendError::TimedOut(_) => false,
        }
    }

    fn from_hyper(error: hyper::Error) -> SendError {
        let upload = std::error::Error::source(&error).and_then(|source| source.downcast_ref::<UploadError>()).copied();
        match upload {
            Some(upload) => SendError::Upload(upload),
            None if error.is_parse() => SendError::Unreadable(error),
            None => SendError::Closed(error),
        }
    }
}

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
    dialer: Dialer,
    legacy: Rc<RefCell<Pool>>,
    workers: Rc<RefCell<Pool>>,
}

/// Idle connections to one address; the last one used is used next.
#[derive(Debug, Default)]
struct Pool {
    url: Option<BaseUrl>,
    /// The address's name, if it has one: connections to where it no longer leads are not used again.
    name: Option<Arc<Name>>,
    /// The number of the name's set of addresses that the idle connections were compared with.
    compared: u64,
    idle: VecDeque<Idle>,
    /// Until then a request that cannot be repeated gets a connection of its own: this backend was seen to close
    /// connections soon after an answer, and a close that is on its way cannot be seen.
    distrusted_until: Option<Instant>,
}

#[derive(Debug)]
struct Idle {
    connection: Connection,
    since: Instant,
}

#[derive(Debug)]
struct Connection {
    sender: SendRequest<Upload>,
    peek: Peek,
    peer: Option<IpAddr>,
    url: BaseUrl,
}

/// The right to give a connection back once its answer has been read to the end. Dropped early, it closes it.
#[derive(Debug)]
pub struct Lease {
    connection: Option<Connection>,
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
        let Some(connection) = self.connection.take() else { return };
        let mut pool = self.pool.borrow_mut();
        let is_here = pool.url.as_ref() == Some(&connection.url) && pool.leads_to(&connection);
        if is_here && pool.idle.len() < limits::POOL_IDLE {
            pool.idle.push_back(Idle { connection, since: Instant::now() });
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
    /// Starts with no connection.
    pub fn new(dialer: Dialer) -> Client {
        Client { dialer, legacy: Rc::default(), workers: Rc::default() }
    }

    fn pool(&self, name: BackendName) -> &Rc<RefCell<Pool>> {
        match name {
            BackendName::Legacy => &self.legacy,
            BackendName::Workers => &self.workers,
        }
    }

    /// Sends a request and returns the answer's head with its streaming body; `head_limit` bounds the wait for it,
    /// counted from the last piece of the client's body: an upload may take as long as it goes on.
    ///
    /// # Errors
    /// [`SendError`] says whether a byte can have left.
    pub async fn send(
        &self,
        name: BackendName,
        backend: &Backend,
        mut request: Request<Upload>,
        head_limit: Duration,
    ) -> Result<(Response<Incoming>, Lease), SendError> {
        if name == BackendName::Workers {
            // Here and nowhere else, so that no way to workers can forget it.
            credential::present(&mut request, backend.credential.as_ref(), SystemTime::now());
        }
        let moved = request.body().moved();
        let mut deadline = Instant::now() + head_limit;
        let mut sent = pin!(self.send_unbounded(name, backend, request));
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
        mut request: Request<Upload>,
    ) -> Result<(Response<Incoming>, Lease), SendError> {
        let repeat = Repeat::for_request(request.method(), request.body());
        let mut spare = (repeat == Repeat::Safe).then(|| copy_head(&request));
        let pool = self.pool(name);
        let mut pooled = self.checkout(pool, backend, repeat);
        // At most three rounds: handed back by the pool's connection, broken once, and the last.
        loop {
            let was_pooled = pooled.is_some();
            let mut connection = match pooled.take() {
                Some(connection) => connection,
                None => self.connect(backend).await?,
            };
            let mut failed = match connection.sender.try_send_request(request).await {
                Ok(answer) if headers::is_ambiguous(answer.headers()) => return Err(SendError::Ambiguous),
                Ok(answer) => {
                    let lease = Lease { connection: Some(connection), pool: pool.clone(), kept_back: None };
                    return Ok((answer, lease));
                }
                Err(failed) => failed,
            };
            request = match failed.take_message() {
                Some(unsent) if was_pooled => unsent,
                Some(_) => return Err(SendError::HandedBack(failed.into_error())),
                None => {
                    let error = SendError::from_hyper(failed.into_error());
                    match (error, spare.take()) {
                        (SendError::Closed(_), Some(copy)) => copy,
                        (error, _) => return Err(error),
                    }
                }
            };
        }
    }

    async fn connect(&self, backend: &Backend) -> Result<Connection, SendError> {
        let socket = self.dialer.dial(&backend.url, backend.connect_timeout).await?;
        let peek = socket.peek_handle();
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
        Ok(Connection { sender, peek, peer, url: backend.url.clone() })
    }

    /// Closes connections that were idle for too long; called every second or so by the thread's keeper.
    pub fn sweep(&self, legacy: &Backend, workers: &Backend) {
        for (pool, backend) in [(&self.legacy, legacy), (&self.workers, workers)] {
            let mut pool = pool.borrow_mut();
            if pool.url.as_ref() != Some(&backend.url) {
                pool.idle.clear();
            }
            if !pool.idle.is_empty() {
                pool.follow_name();
            }
            while pool.idle.front().is_some_and(|idle| idle.since.elapsed() >= backend.idle_timeout) {
                pool.idle.pop_front();
            }
            let mut is_early = false;
            pool.idle.retain(|idle| {
                let is_closed = idle.connection.sender.is_closed();
                is_early |= is_closed && idle.since.elapsed() < limits::EARLY_CLOSE;
                !is_closed
            });
            if is_early {
                pool.distrust();
            }
        }
    }

    /// Takes the connection that was used last, and sees to what the pool is about.
    fn checkout(&self, pool: &RefCell<Pool>, backend: &Backend, repeat: Repeat) -> Option<Connection> {
        let mut pool = pool.borrow_mut();
        if pool.url.as_ref() != Some(&backend.url) {
            pool.url = Some(backend.url.clone());
            pool.name = self.dialer.name(&backend.url);
            pool.idle.clear();
        }
        pool.follow_name();
        pool.take(backend, repeat)
    }
}

impl Pool {
    /// Takes the connection that was used last; for a request that cannot be repeated the kernel is asked
    /// whether the backend has closed it meanwhile.
    fn take(&mut self, backend: &Backend, repeat: Repeat) -> Option<Connection> {
        let now = Instant::now();
        if repeat == Repeat::Never && self.distrusted_until.is_some_and(|until| now < until) {
            return None;
        }
        while let Some(Idle { connection, since }) = self.idle.pop_back() {
            if now.duration_since(since) >= backend.idle_timeout {
                self.idle.clear();
                return None;
            }
            if connection.sender.is_ready() && (repeat == Repeat::Safe || connection.peek.is_quiet()) {
                return Some(connection);
            }
            if now.duration_since(since) < limits::EARLY_CLOSE {
                self.distrust();
                if repeat == Repeat::Never {
                    return None;
                }
            }
        }
        None
    }

    /// Has the name looked up again if it is time, and closes connections to addresses that it has no more.
    fn follow_name(&mut self) {
        let Pool { name: Some(name), compared, idle, .. } = self else { return };
        name.touch(Instant::now().into_std());
        let changes = name.changes();
        if *compared != changes {
            *compared = changes;
            idle.retain(|idle| idle.connection.peer.is_some_and(|peer| name.has(peer)));
        }
    }

    fn leads_to(&self, connection: &Connection) -> bool {
        self.name.as_ref().is_none_or(|name| connection.peer.is_some_and(|peer| name.has(peer)))
    }

    fn distrust(&mut self) {
        self.distrusted_until = Some(Instant::now() + limits::DISTRUST);
    }
}

/// Copies a request without a body. What hyper keeps of its fields' spelling is left out: copying it costs every GET
/// more than the case of a few names is worth on the one in a million that is sent twice.
fn copy_head(request: &Request<Upload>) -> Request<Upload> {
    let mut copy = Request::new(Upload::Empty);
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.headers_mut() = request.headers().clone();
    copy
}
