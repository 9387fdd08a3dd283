//! HTTP/2 towards workers: one connection carries many requests, and a backend may refuse a single one of them.

use std::cell::Cell;
use std::error::Error;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;

use http::header::{self, HeaderValue};
use http::uri::{Parts, Scheme, Uri};
use http::{Request, Version};
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper::rt::Executor;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::task::{spawn_local, yield_now};
use tokio::time::Instant;

use crate::http::body::Upload;
use crate::http::socket::Socket;
use crate::limits;
use crate::routing::table::BaseUrl;

/// A connection that many requests share.
#[derive(Debug, Clone)]
pub(super) struct Shared {
    pub(super) sender: SendRequest<Upload>,
    used: Rc<Use>,
}

/// How a connection is used.
#[derive(Debug)]
struct Use {
    streams: Cell<usize>,
    /// Streams that the backend allows at a time, as far as it has said.
    most: Cell<usize>,
    since: Cell<Instant>,
}

/// One request under way; dropped when its answer has been read to the end or given up.
#[derive(Debug)]
pub(super) struct InFlight(Rc<Use>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.streams.set(self.0.streams.get() - 1);
        self.0.since.set(Instant::now());
    }
}

/// Runs what hyper wants run on this thread.
#[derive(Clone)]
struct LocalTasks;

impl<F: Future<Output = ()> + 'static> Executor<F> for LocalTasks {
    fn execute(&self, task: F) {
        spawn_local(task);
    }
}

impl Shared {
    /// Begins HTTP/2 on a connection whose handshake came to it.
    pub(super) async fn begin(socket: Socket) -> Result<Shared, hyper::Error> {
        let (sender, driver) = Builder::new(LocalTasks)
            .timer(TokioTimer::new())
            .initial_stream_window_size(limits::H2_ANSWER_WINDOW)
            .initial_connection_window_size(limits::H2_ANSWERS_WINDOW)
            .max_frame_size(limits::H2_FRAME)
            .max_header_list_size(limits::ANSWER_HEAD as u32)
            .max_send_buf_size(limits::H2_SEND_BUFFER)
            .initial_max_send_streams(limits::H2_BACKEND_STREAMS)
            .max_concurrent_reset_streams(limits::H2_FORGOTTEN)
            .max_local_error_reset_streams(limits::H2_ERROR_RESETS)
            .keep_alive_interval(limits::H2_BACKEND_PING)
            .keep_alive_timeout(limits::H2_BACKEND_PONG)
            .keep_alive_while_idle(true)
            .handshake(TokioIo::new(socket))
            .await?;
        let most = Cell::new(limits::H2_BACKEND_STREAMS);
        let used = Rc::new(Use { streams: Cell::new(0), most, since: Cell::new(Instant::now()) });
        let told = used.clone();
        let mut driver = driver;
        spawn_local(async move {
            // Its error reaches whoever waits for an answer or reads its body.
            let _ = poll_fn(|cx| {
                let ended = Pin::new(&mut driver).poll(cx);
                told.most.set(driver.current_max_send_streams());
                ended
            })
            .await;
        });
        Ok(Shared { sender, used })
    }

    /// Says whether one more request may go on it now.
    pub(super) fn has_room(&self) -> bool {
        !self.sender.is_closed() && self.used.streams.get() < self.used.most.get().min(limits::H2_BACKEND_STREAMS)
    }

    /// Returns since when it carries nothing; `None` while it does.
    pub(super) fn idle_since(&self) -> Option<Instant> {
        (self.used.streams.get() == 0).then(|| self.used.since.get())
    }

    /// Counts a request that goes on it.
    pub(super) fn take(&self) -> InFlight {
        self.used.streams.set(self.used.streams.get() + 1);
        InFlight(self.used.clone())
    }

    /// Lets the connection's own tasks read what has come: a `GOAWAY` or an end that is here already must be known
    /// before a request goes that cannot be repeated. Says whether it may still go.
    pub(super) async fn settle(&self) -> bool {
        for _ in 0..3 {
            // The task comes back behind the driver of the sockets and the connection's tasks.
            yield_now().await;
        }
        !self.sender.is_closed()
    }
}

/// Writes a request for workers as HTTP/2 has it: the place it goes to stands in its target (RFC 9113, 8.3.1).
pub(super) fn address(request: &mut Request<Upload>, to: &BaseUrl) {
    let headers = request.headers_mut();
    let host = headers.remove(header::HOST);
    for name in [header::CONNECTION, header::TRANSFER_ENCODING] {
        headers.remove(name);
    }
    let authority = host.as_ref().and_then(|host| host.to_str().ok()).unwrap_or(&to.authority).parse();
    let mut parts = Parts::default();
    parts.scheme = Some(Scheme::HTTPS);
    parts.authority = authority.ok();
    parts.path_and_query = request.uri().path_and_query().cloned();
    // A target that is none is left as it is, and the connection gives it back.
    if let Ok(uri) = Uri::from_parts(parts) {
        *request.uri_mut() = uri;
    }
    *request.version_mut() = Version::HTTP_2;
}

/// Undoes [`address`], for a request that was given back.
pub(super) fn address_again(request: &mut Request<Upload>, to: &BaseUrl) {
    let authority = request.uri().authority().map_or(to.authority.as_str(), |authority| authority.as_str());
    if let Ok(host) = HeaderValue::from_str(authority) {
        request.headers_mut().insert(header::HOST, host);
    }
    if let Some(path) = request.uri().path_and_query().cloned() {
        *request.uri_mut() = Uri::from(path);
    }
    *request.version_mut() = Version::HTTP_11;
}

/// Says whether the backend has certified that it did nothing with a request (RFC 9113, 8.7): it refused the stream, or
/// went away naming a last stream below it. A stream at or below that one ends with an error of another kind.
pub(super) fn is_refusal(error: &hyper::Error) -> bool {
    let Some(error) = error.source().and_then(|source| source.downcast_ref::<h2::Error>()) else { return false };
    let refused = error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM);
    error.is_remote() && (refused || error.is_go_away())
}
