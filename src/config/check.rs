//! From the file as written to the routing table: what single values mean together.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use http::header::HeaderName;

use super::credential::check_credential;
use super::file::{CircuitFile, CorsFile, File, LegacyFile, LimitsFile, STDOUT};
use super::input_key::check_exports;
use super::problem::{Mistake, Origin, Problem, Warning};
use super::store::check_store;
use super::texts::WebSocket;
use super::tls::{check_backend_tls, check_server_tls};
use super::tree::Tree;
use super::users::{check_identity, check_rollout};
use super::values::{Size, Written};
use crate::limits;
use crate::routing::table::{
    Backend, BaseUrl, Circuit, Cors, Fixed, Jobs, Limits, RoutingTable, Secret, Server, Workers,
};

/// What a check can see, and where it writes what it finds.
pub(crate) struct Checker<'a> {
    pub(crate) origin: Origin<'a>,
    pub(crate) tree: &'a Tree<'a>,
    pub(crate) base_dir: &'a Path,
    pub(crate) problems: Vec<Problem>,
    pub(crate) warnings: Vec<Warning>,
}

impl Checker<'_> {
    /// Reports a problem of the value at `path`, or of the nearest section around it that is in the file.
    pub(crate) fn problem(&mut self, path: &[&str], message: impl Into<String>, advice: impl Into<String>) {
        if self.problems.len() >= limits::CONFIG_PROBLEMS {
            return;
        }
        let mistake = Mistake::new(message, advice);
        let key = key_of(path);
        let place = (1..=path.len()).rev().find_map(|length| Some((length, self.tree.locate(&path[..length])?)));
        let problem = match place {
            Some((length, (_, value))) if length == path.len() => self.origin.at(value, &key, mistake),
            Some((_, (section, _))) => self.origin.at(section, &key, mistake),
            None => self.origin.nowhere(&key, mistake),
        };
        // One problem per value: what follows from the first one would only distract.
        let same = |known: &Problem| known.key == key && (known.line, known.column) == (problem.line, problem.column);
        if !self.problems.iter().any(same) {
            self.problems.push(problem);
        }
    }

    pub(crate) fn warn(&mut self, path: &[&str], message: impl Into<String>) {
        self.warnings.push(Warning { key: key_of(path), message: message.into() });
    }

    /// Says whether the file has this key.
    pub(crate) fn has(&self, path: &[&str]) -> bool {
        self.tree.locate(path).is_some()
    }

    /// Says whether the value at `path` stands in the file itself: no part of it comes from the environment.
    pub(crate) fn is_literal(&self, path: &[&str]) -> bool {
        let written = self.tree.locate(path).and_then(|(_, value)| self.origin.text.get(value));
        written.is_some_and(|text| !text.contains("${") || text.contains("$${"))
    }

    /// Says whether the value at `path` is already known to be wrong.
    pub(crate) fn reported(&self, path: &[&str]) -> bool {
        let key = key_of(path);
        self.problems.iter().any(|problem| problem.key == key)
    }

    /// Reports a number or duration below its smallest useful value.
    fn at_least<T: PartialOrd>(&mut self, path: &[&str], value: &T, least: &T, shown: &str) {
        if value < least {
            self.problem(path, "is too small", format!("write {shown} or more"));
        }
    }

    fn positive(&mut self, section: &[&str], durations: &[(&str, Duration)]) {
        for (key, duration) in durations {
            let path: Vec<&str> = section.iter().copied().chain([*key]).collect();
            self.at_least(&path, duration, &Duration::from_millis(1), "\"1ms\"");
        }
    }
}

/// Writes a path with dots; the entries of a list are not told apart.
fn key_of(path: &[&str]) -> String {
    let keys = path.iter().filter(|step| !step.starts_with('['));
    keys.map(|step| super::tree::quoted(step)).collect::<Vec<_>>().join(".")
}

/// Names an entry of a list, as [`Tree::locate`] takes it.
pub(crate) fn entry(index: usize) -> String {
    format!("[{index}]")
}

/// Compiles the file. The table is only of use when no problem was found.
pub(crate) fn check(checker: &mut Checker<'_>, file: &File, hash: String, end_marker: bool) -> Option<RoutingTable> {
    let fixed = check_fixed(checker, file);
    let server = check_server(checker, file);
    let legacy = check_legacy(checker, &file.backends.legacy);
    let workers = check_workers(checker, file);
    let circuit = check_circuit(checker, &file.circuit);
    let identity = check_identity(checker, &file.identity);
    let rollout = check_rollout(checker, &file.rollout);
    let exports = check_exports(checker, file);
    let jobs = Jobs { keep: file.jobs.keep.0, key_keep: file.jobs.key_keep.0 };
    checker.at_least(&["jobs", "keep"], &jobs.keep, &Duration::from_secs(60), "\"1m\"");
    checker.at_least(&["jobs", "key_keep"], &jobs.key_keep, &Duration::from_secs(60), "\"1m\"");
    let limits = check_limits(checker, &file.limits);
    let cors = file.cors.as_ref().map(|cors| check_cors(checker, cors));
    let (legacy, workers) = (legacy?, workers?);
    check_between(checker, &server, &legacy, &workers);
    Some(RoutingTable {
        hash,
        end_marker,
        fixed,
        server,
        legacy,
        workers,
        circuit,
        identity,
        rollout,
        exports,
        jobs,
        limits,
        cors,
    })
}

fn check_fixed(checker: &mut Checker<'_>, file: &File) -> Fixed {
    let (listen, admin) = (file.server.listen.0, file.admin.listen.0);
    let same_address = listen.ip() == admin.ip() || listen.ip().is_unspecified() || admin.ip().is_unspecified();
    if listen.port() != 0 && listen.port() == admin.port() && same_address {
        checker.problem(&["admin", "listen"], "is the address of server.listen too", "give it a port of its own");
    }
    let threads = file.server.threads.as_ref().map(|threads| threads.0);
    if let Some(0 | 1025..) = threads {
        checker.problem(&["server", "threads"], "is not between 1 and 1024", "leave it out for one per core");
    }
    Fixed {
        listen,
        threads: threads.map_or_else(cores, |threads| threads as usize),
        admin_listen: admin,
        store: check_store(checker, file),
        otlp: file.telemetry.otlp.as_ref().map(|url| url.0.clone()),
        access_log: Some(&file.log.access.0.0).filter(|to| *to != STDOUT).map(|path| join(checker.base_dir, path)),
    }
}

/// Returns the number of cores, the same one for the whole life of the process: a reload must not see it change.
fn cores() -> usize {
    static CORES: OnceLock<usize> = OnceLock::new();
    *CORES.get_or_init(|| std::thread::available_parallelism().map_or(1, std::num::NonZero::get))
}

/// Joins a path of the file to its folder, without `.` segments.
pub(crate) fn join(base: &Path, path: &str) -> PathBuf {
    base.join(path).components().collect()
}

fn check_server(checker: &mut Checker<'_>, file: &File) -> Server {
    let server = &file.server;
    let token = file.admin.token.as_ref().map(|token| token.0.clone()).filter(|token| !token.0.is_empty());
    let token_is_bad = checker.reported(&["admin", "token"]);
    if !file.admin.listen.0.ip().to_canonical().is_loopback() && token.is_none() && !token_is_bad {
        checker.problem(
            &["admin", "listen"],
            format!("{} is not loopback, and there is no admin.token", file.admin.listen.0),
            "set token = \"${ADMIN_TOKEN}\" in [admin], or listen on 127.0.0.1",
        );
    }
    if token.as_ref().is_some_and(|Secret(token)| token.len() < 16) {
        checker.warn(&["admin", "token"], "is short: 16 characters or more are hard to guess");
    }
    let durations = [
        ("header_timeout", server.header_timeout.0),
        ("idle_timeout", server.idle_timeout.0),
        ("drain_timeout", server.drain_timeout.0),
    ];
    checker.positive(&["server"], &durations);
    let has_proxies = !server.trusted_proxies.is_empty() || checker.has(&["server", "trusted_proxies", "[0]"]);
    if server.proxy_protocol.0 && !has_proxies {
        checker.problem(
            &["server", "proxy_protocol"],
            "needs server.trusted_proxies, which is empty: nobody could connect",
            "add the networks of the load balancers that send PROXY headers: trusted_proxies = [\"10.0.0.0/8\"]",
        );
    }
    let tls = server.tls.as_ref().map(|tls| check_server_tls(checker, tls));
    Server {
        tls,
        header_timeout: server.header_timeout.0,
        idle_timeout: server.idle_timeout.0,
        drain_delay: server.drain_delay.0,
        drain_timeout: server.drain_timeout.0,
        trusted_proxies: server.trusted_proxies.iter().map(|net| net.0).collect(),
        proxy_protocol: server.proxy_protocol.0,
        public_url: server.public_url.as_ref().map(|url| url.0.clone()),
        admin_token: token,
    }
}

fn required_url(checker: &mut Checker<'_>, name: &str, url: Option<&Written<BaseUrl>>) -> Option<BaseUrl> {
    let path = ["backends", name, "url"];
    if url.is_none() && !checker.has(&path) {
        checker.problem(&path, "is missing", format!("add url = \"https://…\" to [backends.{name}]"));
    }
    url.map(|url| url.0.clone())
}

fn check_legacy(checker: &mut Checker<'_>, file: &LegacyFile) -> Option<Backend> {
    let url = required_url(checker, "legacy", file.url.as_ref());
    let durations = [
        ("connect_timeout", file.connect_timeout.0),
        ("start_timeout", file.start_timeout.0),
        ("status_timeout", file.status_timeout.0),
        ("answer_timeout", file.answer_timeout.0),
    ];
    checker.positive(&["backends", "legacy"], &durations);
    if file.idle_timeout.0 >= Duration::from_secs(5) {
        let message = "is not below 5s, when uvicorn closes unused connections: requests may meet a closing one";
        checker.warn(&["backends", "legacy", "idle_timeout"], message);
    }
    let tls = check_backend_tls(checker, "legacy", file.tls.as_ref(), url.as_ref());
    Some(Backend {
        url: url?,
        tls,
        connect_timeout: file.connect_timeout.0,
        start_timeout: file.start_timeout.0,
        status_timeout: file.status_timeout.0,
        answer_timeout: file.answer_timeout.0,
        idle_timeout: file.idle_timeout.0,
        credential: None,
    })
}

fn check_workers(checker: &mut Checker<'_>, file: &File) -> Option<Workers> {
    let workers = &file.backends.workers;
    let section = ["backends", "workers"];
    let url = required_url(checker, "workers", workers.url.as_ref());
    let durations = [
        ("connect_timeout", workers.connect_timeout.0),
        ("start_timeout", workers.start_timeout.0),
        ("status_timeout", workers.status_timeout.0),
    ];
    checker.positive(&section, &durations);
    let own = file.server.public_url.as_ref().map(|url| url.0.clone());
    let through_gateway = workers.websocket.0 == WebSocket::Gateway;
    if through_gateway && own.is_none() && !checker.has(&["server", "public_url"]) {
        checker.problem(
            &["backends", "workers", "websocket"],
            "\"gateway\" needs server.public_url, which is not set",
            "add public_url = \"https://…\" to [server]: the address browsers know this gateway by",
        );
    }
    let credential = workers.credential.as_ref().map(|file| check_credential(checker, file, workers));
    let tls = check_backend_tls(checker, "workers", workers.tls.as_ref(), url.as_ref());
    let url = url?;
    let public = workers.public_url.as_ref().map(|url| url.0.clone());
    let websocket_base = if through_gateway { own } else { public }.unwrap_or_else(|| url.clone());
    Some(Workers {
        websocket_base,
        fallback: workers.fallback.0,
        declined: workers.declined.iter().map(|status| status.0.0).collect::<BTreeSet<u16>>(),
        idempotent: workers.idempotent.0,
        forward_headers: check_forwarded(checker, &workers.forward_headers, &file.identity.header.0),
        backend: Backend {
            url,
            tls,
            connect_timeout: workers.connect_timeout.0,
            start_timeout: workers.start_timeout.0,
            status_timeout: workers.status_timeout.0,
            // Nothing passes through to workers but WebSocket handshakes: they are answered as soon as a poll is.
            answer_timeout: workers.status_timeout.0,
            idle_timeout: workers.idle_timeout.0,
            credential,
        },
    })
}

/// Headers that the gateway writes itself or that belong to one connection: they can be neither forwarded nor an identity.
pub(crate) const OWN_HEADERS: [&str; 28] = [
    "cf-access-client-id",
    "cf-access-client-secret",
    "cloudflare-workers-version-key",
    "cloudflare-workers-version-overrides",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "expect",
    "export-gateway-key-id",
    "export-gateway-signature",
    "export-gateway-time",
    "forwarded",
    "host",
    "idempotency-key",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "x-export-backend",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-request-id",
];

fn check_forwarded(checker: &mut Checker<'_>, names: &[Written<HeaderName>], identity: &HeaderName) -> Vec<HeaderName> {
    let mut kept: Vec<HeaderName> = Vec::new();
    for (index, Written(name)) in names.iter().enumerate() {
        let path = ["backends", "workers", "forward_headers", &entry(index)];
        if OWN_HEADERS.contains(&name.as_str()) || name == identity {
            checker.problem(&path, format!("{name} is a header the gateway writes itself"), "take it out of the list");
        } else if !kept.contains(name) {
            kept.push(name.clone());
        }
    }
    kept
}

fn check_circuit(checker: &mut Checker<'_>, file: &CircuitFile) -> Circuit {
    checker.at_least(&["circuit", "window"], &file.window.0, &Duration::from_secs(1), "\"1s\"");
    checker.at_least(&["circuit", "open"], &file.open.0, &Duration::from_millis(1), "\"1ms\"");
    for (key, value) in [("minimum", &file.minimum), ("consecutive", &file.consecutive), ("probes", &file.probes)] {
        checker.at_least(&["circuit", key], &value.0, &1, "1");
    }
    if file.open_max.0 < file.open.0 {
        checker.problem(&["circuit", "open_max"], "is shorter than circuit.open", "make it at least as long");
    }
    Circuit {
        window: file.window.0,
        minimum: file.minimum.0,
        failure_share: file.failure_share.0.0,
        consecutive: file.consecutive.0,
        open: file.open.0,
        open_max: file.open_max.0,
        probes: file.probes.0,
    }
}

fn check_limits(checker: &mut Checker<'_>, file: &LimitsFile) -> Limits {
    let bytes = |size: &Written<Size>| usize::try_from(size.0.0).unwrap_or(usize::MAX);
    let sizes = [("start_body", &file.start_body), ("answer_body", &file.answer_body), ("target", &file.target)];
    for (key, size) in sizes {
        checker.at_least(&["limits", key], &bytes(size), &256, "\"256B\"");
    }
    checker.at_least(&["limits", "headers"], &bytes(&file.headers), &8192, "\"8KiB\"");
    if bytes(&file.headers) < bytes(&file.target) {
        let advice = "the target is part of the head: make headers larger";
        checker.problem(&["limits", "headers"], "is smaller than limits.target", advice);
    }
    if bytes(&file.buffered) < bytes(&file.start_body).saturating_add(bytes(&file.answer_body)) {
        let advice = "one start needs both: make buffered larger";
        checker.problem(&["limits", "buffered"], "is smaller than start_body and answer_body together", advice);
    }
    let per_address = file.connections_per_address.as_ref().map(|count| count.0);
    let counts = [
        ("header_count", file.header_count.0),
        ("connections", file.connections.0),
        ("connections_per_address", per_address.unwrap_or(1)),
    ];
    for (key, value) in counts {
        if !(1..=1_000_000).contains(&value) {
            checker.problem(&["limits", key], format!("{value} is not between 1 and 1000000"), "");
        }
    }
    checker.positive(&["limits"], &[("body_idle", file.body_idle.0), ("write_idle", file.write_idle.0)]);
    Limits {
        start_body: bytes(&file.start_body),
        answer_body: bytes(&file.answer_body),
        buffered: bytes(&file.buffered),
        target: bytes(&file.target),
        headers: bytes(&file.headers),
        header_count: file.header_count.0 as usize,
        connections: file.connections.0 as usize,
        connections_per_address: per_address.map(|count| count as usize),
        body_idle: file.body_idle.0,
        write_idle: file.write_idle.0,
    }
}

fn check_cors(checker: &mut Checker<'_>, file: &CorsFile) -> Cors {
    if file.origins.is_empty() && !checker.has(&["cors", "origins", "[0]"]) {
        checker.problem(
            &["cors", "origins"],
            "is missing",
            "add origins = [\"https://app.example.com\"], or leave [cors] out",
        );
    }
    Cors {
        origins: file.origins.iter().map(|origin| origin.0.0.clone()).collect(),
        credentials: file.credentials.0,
        headers: file.headers.iter().map(|name| name.0.clone()).collect(),
    }
}

/// What sections say of each other.
fn check_between(checker: &mut Checker<'_>, server: &Server, legacy: &Backend, workers: &Workers) {
    if legacy.url == workers.backend.url {
        checker.warn(&["backends", "workers", "url"], "is the same address as backends.legacy.url");
    }
    let longest = legacy.start_timeout.max(workers.backend.start_timeout);
    if server.drain_timeout < longest {
        let message = format!("is shorter than the longest start ({} s): a restart may cut one", longest.as_secs());
        checker.warn(&["server", "drain_timeout"], message);
    }
}
