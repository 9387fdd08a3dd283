//! `bench-pingora PORT UPSTREAM_PORT {bare | LOG_FILE} [CERTIFICATE KEY]`: passes everything on; with a log file it also
//! forwards the client's address, makes a request id, and writes a JSON line per request.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use async_trait::async_trait;
use pingora_core::server::Server;
use pingora_core::server::configuration::ServerConf;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_core::{Error, Result};
use pingora_http::RequestHeader;
use pingora_proxy::{ProxyHttp, Session};

struct Peer {
    upstream: u16,
    /// The log, for the form that does the gateway's work.
    log: Option<Mutex<BufWriter<File>>>,
}

struct Request {
    began: Instant,
    id: String,
}

#[async_trait]
impl ProxyHttp for Peer {
    type CTX = Request;

    fn new_ctx(&self) -> Request {
        let id = self.log.as_ref().map(|_| uuid::Uuid::new_v4().to_string());
        Request { began: Instant::now(), id: id.unwrap_or_default() }
    }

    async fn upstream_peer(&self, _: &mut Session, _: &mut Request) -> Result<Box<HttpPeer>> {
        Ok(Box::new(HttpPeer::new(("127.0.0.1", self.upstream), false, String::new())))
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        upstream: &mut RequestHeader,
        request: &mut Request,
    ) -> Result<()> {
        if self.log.is_none() {
            return Ok(());
        }
        let address =
            session.client_addr().and_then(|address| address.as_inet()).map(|address| address.ip().to_string());
        upstream.insert_header("X-Forwarded-For", address.unwrap_or_default())?;
        upstream.insert_header("X-Forwarded-Proto", "http")?;
        if let Some(host) = session.req_header().headers.get("host") {
            upstream.insert_header("X-Forwarded-Host", host.clone())?;
        }
        upstream.insert_header("X-Request-Id", &request.id)
    }

    async fn logging(&self, session: &mut Session, _: Option<&Error>, request: &mut Request) {
        let Some(log) = &self.log else { return };
        let head = session.req_header();
        let line = serde_json::json!({
            "time": std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_secs_f64(),
            "id": request.id,
            "client": session.client_addr().map(|address| address.to_string()),
            "method": head.method.as_str(),
            "path": head.uri.path(),
            "status": session.response_written().map(|answer| answer.status.as_u16()),
            "bytes": session.body_bytes_sent(),
            "seconds": request.began.elapsed().as_secs_f64(),
        });
        let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
        // A full disk is no reason to end a measurement.
        let _ = writeln!(log, "{line}");
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [port, upstream, log, tls @ ..] = &arguments[..] else {
        panic!("usage: bench-pingora PORT UPSTREAM_PORT {{bare | LOG_FILE}} [CERTIFICATE KEY]")
    };
    let conf = ServerConf { threads: 1, upstream_keepalive_pool_size: 10_000, ..ServerConf::default() };
    let mut server = Server::new_with_opt_and_conf(None, conf);
    server.bootstrap();
    let log = (log != "bare").then(|| File::create(log).expect("a log file"));
    let peer = Peer {
        upstream: upstream.parse().expect("a port"),
        log: log.map(|file| Mutex::new(BufWriter::with_capacity(64 * 1024, file))),
    };
    let mut service = pingora_proxy::http_proxy_service(&Arc::clone(&server.configuration), peer);
    let address = format!("127.0.0.1:{port}");
    match tls {
        [certificate, key] => service.add_tls(&address, certificate, key).expect("a certificate"),
        _ => service.add_tcp(&address),
    }
    server.add_service(service);
    server.run_forever()
}
