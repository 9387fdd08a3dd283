//! The HTTP that OpenTelemetry's exporter does: one connection for each batch, dialled and verified as backends are.
//!
//! The exporter has a thread of its own and no runtime; what it sends is sent on the process's. An answer is read up to
//! [`limits::TRACE_ANSWER`], a batch may take [`limits::TRACE_EXPORT`].

use std::fmt;

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Request, Response, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use opentelemetry_http::{HttpClient, HttpError};
use tokio::runtime::Handle;
use tokio::time::timeout;

use crate::backends::dial::{Dialer, Offer};
use crate::limits;
use crate::routing::table::{Backend, BaseUrl};
use crate::routing::tls::BackendTls;

/// Sends batches of spans.
pub struct Collector {
    dialer: Dialer,
    runtime: Handle,
}

impl fmt::Debug for Collector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Collector")
    }
}

/// Says why an address cannot be sent to.
#[derive(Debug, thiserror::Error)]
#[error("the collector's address has no host, or is neither http nor https")]
struct NoAddress;

impl Collector {
    /// Sends on this runtime.
    pub fn new(dialer: Dialer, runtime: Handle) -> Collector {
        Collector { dialer, runtime }
    }
}

#[async_trait::async_trait]
impl HttpClient for Collector {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let dialer = self.dialer.clone();
        let sent = self.runtime.spawn(async move { timeout(limits::TRACE_EXPORT, exchange(&dialer, request)).await });
        sent.await??
    }
}

async fn exchange(dialer: &Dialer, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
    let backend = backend_at(request.uri()).ok_or(NoAddress)?;
    let socket = dialer.dial(&backend, Offer::Http1).await?;
    let (mut sender, connection) =
        http1::Builder::new().max_header_size(limits::ANSWER_HEAD).handshake(TokioIo::new(socket)).await?;
    let driver = tokio::spawn(connection);
    let (mut parts, body) = request.into_parts();
    parts.headers.insert(header::HOST, HeaderValue::from_str(&backend.url.authority)?);
    parts.uri = parts.uri.path_and_query().map_or_else(|| Uri::from_static("/"), |path| Uri::from(path.clone()));
    let answer = sender.send_request(Request::from_parts(parts, Full::new(body))).await?;
    let (parts, body) = answer.into_parts();
    let body = Limited::new(body, limits::TRACE_ANSWER).collect().await?.to_bytes();
    driver.abort();
    Ok(Response::from_parts(parts, body))
}

fn backend_at(uri: &Uri) -> Option<Backend> {
    let tls = match uri.scheme_str()? {
        "http" => false,
        "https" => true,
        _ => return None,
    };
    let authority = uri.authority()?;
    let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
    let port = authority.port_u16().unwrap_or(if tls { 443 } else { 80 });
    let url =
        BaseUrl { tls, host, port, path: String::new(), authority: authority.as_str().rsplit('@').next()?.to_owned() };
    Some(Backend {
        url,
        tls: BackendTls::default(),
        connect_timeout: limits::TRACE_EXPORT,
        start_timeout: limits::TRACE_EXPORT,
        status_timeout: limits::TRACE_EXPORT,
        answer_timeout: limits::TRACE_EXPORT,
        idle_timeout: limits::TRACE_EXPORT,
        credential: None,
    })
}
