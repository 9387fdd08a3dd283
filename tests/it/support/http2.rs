//! A client that knows HTTP/2, on a runtime of its own; `h2_frames.rs` is the one that can break it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use http::{HeaderMap, Request};
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::tls_client::Trust;

const LIMIT: Duration = Duration::from_secs(30);

/// A connection whose streams are used from this thread, one or many at a time.
pub struct Http2 {
    runtime: Runtime,
    sender: SendRequest<Bytes>,
    connection: JoinHandle<Result<(), h2::Error>>,
}

/// A whole answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// Its fields.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Vec<u8>,
    /// The fields behind its body.
    pub trailers: HeaderMap,
}

impl Answer {
    /// Returns the body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Returns a field's first value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

/// A request with its body and the fields behind it.
#[derive(Debug, Clone)]
pub struct Call {
    /// Its head.
    pub head: Request<()>,
    /// Its body, in pieces.
    pub body: Vec<Bytes>,
    /// The fields behind its body.
    pub trailers: HeaderMap,
}

/// Makes a GET.
pub fn get(path: &str) -> Call {
    call("GET", path, &[], "")
}

/// Makes a request of any method; an empty body is none.
pub fn call(method: &str, path: &str, fields: &[(&str, &str)], body: &str) -> Call {
    let mut builder = Request::builder().method(method).uri(format!("https://localhost{path}"));
    for (name, value) in fields {
        builder = builder.header(*name, *value);
    }
    let body = if body.is_empty() { vec![] } else { vec![Bytes::copy_from_slice(body.as_bytes())] };
    Call { head: builder.body(()).unwrap(), body, trailers: HeaderMap::new() }
}

impl Http2 {
    /// Connects, with ALPN `h2`.
    pub fn open(trust: &Trust, addr: SocketAddr) -> Http2 {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let mut config = (*trust.config()).clone();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let (sender, connection) = runtime.block_on(async {
            let tcp = TcpStream::connect(addr).await.unwrap();
            tcp.set_nodelay(true).unwrap();
            let name = ServerName::try_from("localhost").unwrap();
            let tls = TlsConnector::from(Arc::new(config)).connect(name, tcp).await.unwrap();
            let (sender, connection) = timeout(LIMIT, h2::client::handshake(tls)).await.unwrap().unwrap();
            (sender, tokio::spawn(connection))
        });
        Http2 { runtime, sender, connection }
    }

    /// Makes one request.
    pub fn send(&mut self, call: &Call) -> Result<Answer, h2::Error> {
        self.send_all(std::slice::from_ref(call)).remove(0)
    }

    /// Makes all of these at the same time; the answers are in their order.
    pub fn send_all(&mut self, calls: &[Call]) -> Vec<Result<Answer, h2::Error>> {
        let sender = &self.sender;
        self.runtime.block_on(async {
            let all = calls.iter().map(|call| timeout(LIMIT, exchange(sender.clone(), call.clone())));
            let answers = futures_util::future::join_all(all).await;
            answers.into_iter().map(|answer| answer.expect("an answer in time")).collect()
        })
    }

    /// Waits for the end of the connection; returns the code that it ended with, 0 for a peaceful end.
    pub fn ended(&mut self) -> Option<u32> {
        let ended = self.runtime.block_on(async { timeout(LIMIT, &mut self.connection).await.expect("an end") });
        match ended.unwrap() {
            Ok(()) => Some(0),
            Err(error) => error.reason().map(u32::from),
        }
    }
}

async fn exchange(sender: SendRequest<Bytes>, call: Call) -> Result<Answer, h2::Error> {
    let mut sender = sender.ready().await?;
    let is_empty = call.body.is_empty() && call.trailers.is_empty();
    let (answer, mut body) = sender.send_request(call.head, is_empty)?;
    let last = call.body.len().saturating_sub(1);
    for (at, piece) in call.body.into_iter().enumerate() {
        body.send_data(piece, at == last && call.trailers.is_empty())?;
    }
    if !call.trailers.is_empty() {
        body.send_trailers(call.trailers)?;
    }
    let (head, mut stream) = answer.await?.into_parts();
    let mut bytes = Vec::new();
    while let Some(piece) = stream.data().await {
        let piece = piece?;
        stream.flow_control().release_capacity(piece.len())?;
        bytes.extend_from_slice(&piece);
    }
    let trailers = stream.trailers().await?.unwrap_or_default();
    Ok(Answer { status: head.status.as_u16(), headers: head.headers, body: bytes, trailers })
}
