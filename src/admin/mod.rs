//! The second port, for operators: health, readiness, metrics, the dashboard. It never answers clients' requests.

pub mod access;
pub mod api;
pub mod health;

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;

use crate::admin::access::Access;
use crate::gateway::core::Gateway;
use crate::limits;
use crate::names::BackendName;
use crate::reload::{Outcome, ReloadStatus};
use crate::routing::table::RoutingTable;
use crate::server::Stage;

const CROSS_ORIGIN_RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");

/// What the admin port shows.
#[derive(Debug)]
pub struct Admin {
    /// The process's state.
    pub gateway: Arc<Gateway>,
    /// What became of the configuration file.
    pub reload: Arc<ReloadStatus>,
    /// How far down the way the process is.
    pub stage: watch::Receiver<Stage>,
    /// Whether the port is bound to a loopback address only.
    pub loopback: bool,
}

/// Serves the admin port until it is dropped.
pub async fn serve(admin: Arc<Admin>, listener: TcpListener) {
    let places = Arc::new(Semaphore::new(limits::ADMIN_CONNECTIONS));
    loop {
        let (Ok((stream, _)), Ok(place)) = (listener.accept().await, places.clone().acquire_owned().await) else {
            tokio::time::sleep(limits::ACCEPT_PAUSE).await;
            continue;
        };
        let admin = admin.clone();
        tokio::spawn(async move {
            let service = service_fn(async |request| Ok::<_, Infallible>(answer(&admin, &request).await));
            let mut builder = http1::Builder::new();
            builder.timer(TokioTimer::new()).header_read_timeout(limits::ADMIN_HEADER_TIMEOUT);
            let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
            // An error is the asker's: it left, or broke HTTP's rules and was told so. One that never ends to ask, or to
            // read its answer, must not keep its place from a probe.
            if timeout(limits::ADMIN_CONNECTION, connection.as_mut()).await.is_err() {
                connection.as_mut().graceful_shutdown();
                let _ = timeout(limits::ADMIN_HEADER_TIMEOUT, connection).await;
            }
            drop(place);
        });
    }
}

async fn answer(admin: &Admin, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let table = admin.gateway.table.load_full();
    let access = access::of(request, admin.loopback, table.server.admin_token.as_ref());
    let path = request.uri().path();
    let is_open = matches!(path, "/healthz" | "/readyz");
    match access {
        Access::Foreign => return problem(StatusCode::FORBIDDEN, "This port answers its own host only"),
        Access::Unknown if !is_open => {
            let mut answer = problem(StatusCode::UNAUTHORIZED, "The admin token is needed");
            // Basic is for browsers, which cannot be told a bearer token: any name, the token as the password.
            let schemes = HeaderValue::from_static("Basic realm=\"export-gateway\", Bearer");
            answer.headers_mut().insert(header::WWW_AUTHENTICATE, schemes);
            return answer;
        }
        Access::Unknown | Access::Full => {}
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return problem(StatusCode::METHOD_NOT_ALLOWED, "Only GET and HEAD are answered here");
    }
    match path {
        "/healthz" => respond(StatusCode::OK, "text/plain; charset=utf-8", "ok\n".to_owned()),
        "/readyz" => {
            let readiness = health::readiness(admin, &table);
            respond(readiness.status(), "application/json", readiness.json(access == Access::Full))
        }
        "/metrics" => respond(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", metrics(admin, &table)),
        "/" => page("text/html; charset=utf-8", include_str!("dashboard/index.html")),
        "/dashboard.css" => page("text/css; charset=utf-8", include_str!("dashboard/dashboard.css")),
        "/dashboard.js" => page("text/javascript; charset=utf-8", include_str!("dashboard/dashboard.js")),
        "/api/table" => json(api::table(&table)),
        "/api/reloads" => json(api::reloads(admin)),
        "/api/explain" => json(api::explain(&table, request.uri().query().unwrap_or_default())),
        _ => match path.strip_prefix("/api/jobs/") {
            Some(id) => json(api::job(admin, id).await),
            None => problem(StatusCode::NOT_FOUND, "There are /, /healthz, /readyz, /metrics and /api"),
        },
    }
}

fn json((status, body): api::Answer) -> Response<Full<Bytes>> {
    respond(status, "application/json", body.to_string())
}

/// A part of the dashboard. It may load its own parts and ask this port, and nothing else.
fn page(content_type: &'static str, text: &'static str) -> Response<Full<Bytes>> {
    let mut answer = respond(StatusCode::OK, content_type, text.to_owned());
    let policy = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                  form-action 'self'; frame-ancestors 'none'; base-uri 'none'";
    answer.headers_mut().insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy));
    answer
}

fn metrics(admin: &Admin, table: &RoutingTable) -> String {
    let gateway = &admin.gateway;
    let circuit = gateway.circuit.state(&table.workers.backend.url, Instant::now()).number();
    gateway.metrics.circuit_state.with_label_values(&[BackendName::Workers.as_str()]).set(circuit);
    let reloads = admin.reload.get();
    for outcome in Outcome::ALL {
        gateway.metrics.reloads(outcome.as_str(), reloads.count(outcome), reloads.is_successful());
    }
    for name in BackendName::ALL {
        gateway.metrics.jobs_open.with_label_values(&[name.as_str()]).set(gateway.jobs.open_count(name));
    }
    gateway.metrics.render()
}

fn respond(status: StatusCode, content_type: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    // A page of another site cannot read it; this way it cannot even have it loaded.
    headers.insert(CROSS_ORIGIN_RESOURCE_POLICY, HeaderValue::from_static("same-origin"));
    response
}

fn problem(status: StatusCode, detail: &str) -> Response<Full<Bytes>> {
    respond(status, "application/json", serde_json::json!({ "detail": detail }).to_string())
}
