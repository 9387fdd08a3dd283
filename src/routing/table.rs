//! The routing table: all that a request needs to know, compiled from one configuration file.
//!
//! A table is built whole, then swapped in; a request sees exactly one. It holds no connection,
//! no file handle and no counter, so that replacing it touches nothing that is under way.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use http::header::{HeaderName, HeaderValue};
use ipnet::IpNet;

use super::redis_location::RedisLocation;
use super::tls::{BackendTls, ServerTls};
use crate::names::{BackendName, ExportType, UserId};
use crate::routing::token::Jwt;

/// One configuration, compiled.
#[derive(Debug, Clone)]
pub struct RoutingTable {
    /// First 12 hex digits of the SHA-256 of the file's bytes.
    pub hash: String,
    /// Whether the file's last line is `# END`: then a text without it is an incomplete one.
    pub end_marker: bool,
    /// What may change only with a restart.
    pub fixed: Fixed,
    /// Time-outs and trust of the public port.
    pub server: Server,
    /// The backend that everything belongs to.
    pub legacy: Backend,
    /// The backend that exports move to.
    pub workers: Workers,
    /// When workers count as down.
    pub circuit: Circuit,
    /// Who a request comes from.
    pub identity: Identity,
    /// Which users are moved.
    pub rollout: Rollout,
    /// The export types that are taken over.
    pub exports: BTreeMap<ExportType, Export>,
    /// How long jobs and keys are kept.
    pub jobs: Jobs,
    /// Bounds on what clients and backends may send.
    pub limits: Limits,
    /// CORS for answers that legacy did not make.
    pub cors: Option<Cors>,
}

impl RoutingTable {
    /// Sums up who is moved in one line: `overlay 25 %, framing 0 %`, or that nobody is.
    pub fn shares(&self) -> String {
        if !self.rollout.workers {
            return "none, rollout.workers is false".to_owned();
        }
        let shares = self.exports.iter().map(|(kind, export)| format!("{kind} {} %", export.share.percent()));
        shares.collect::<Vec<_>>().join(", ")
    }
}

/// Keys that a reload cannot apply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fixed {
    /// `server.listen`; port 0 takes any free port.
    pub listen: SocketAddr,
    /// `server.threads`: worker threads, each with its own runtime.
    pub threads: usize,
    /// `admin.listen`.
    pub admin_listen: SocketAddr,
    /// `jobs.store`.
    pub store: StoreLocation,
    /// `telemetry.otlp`: where traces go.
    pub otlp: Option<BaseUrl>,
    /// `log.access`: absolute path; `None`: standard output.
    pub access_log: Option<PathBuf>,
}

/// Where job records live.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreLocation {
    /// The embedded SQLite file.
    File(PathBuf),
    /// A Redis that several gateways share.
    Redis {
        /// Which one.
        location: RedisLocation,
        /// `jobs.wait_replicas`: how many of its replicas must have a write before it counts.
        wait_replicas: u32,
    },
}

impl StoreLocation {
    /// Says whether the records are the same, however they are written.
    pub fn is_same_place(&self, other: &StoreLocation) -> bool {
        match (self, other) {
            (StoreLocation::Redis { location, .. }, StoreLocation::Redis { location: other, .. }) => location == other,
            _ => self == other,
        }
    }
}

/// `[server]` and `[admin]` as far as a reload can change them.
#[derive(Debug, Clone)]
pub struct Server {
    /// From the first byte of a request head to its last.
    pub header_timeout: Duration,
    /// A kept-alive connection without a request.
    pub idle_timeout: Duration,
    /// After SIGTERM: still accepting, not ready.
    pub drain_delay: Duration,
    /// After that, how long in-flight work gets.
    pub drain_timeout: Duration,
    /// Peers whose `X-Forwarded-*` are kept and appended to.
    pub trusted_proxies: Vec<IpNet>,
    /// Whether connections begin with a PROXY header of one of these peers.
    pub proxy_protocol: bool,
    /// What clients call the gateway, for `websocket = "gateway"`.
    pub public_url: Option<BaseUrl>,
    /// TLS towards clients; `None`: plain HTTP.
    pub tls: Option<ServerTls>,
    /// Bearer token of the admin port; a secret, so its `Debug` hides it.
    pub admin_token: Option<Secret>,
}

/// A text that must never be shown.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(pub String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// An `http` or `https` base address: host, port and base path without a trailing slash.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct BaseUrl {
    /// `true` for `https`.
    pub tls: bool,
    /// Host as written, lower case, IPv6 without brackets.
    pub host: String,
    /// Port, filled in from the scheme when it was left out.
    pub port: u16,
    /// Empty, or begins with `/` and does not end with one.
    pub path: String,
    /// `host[:port]` as a `Host` header and a URL carry it (default port left out, IPv6 in brackets).
    pub authority: String,
}

/// What both backends have.
#[derive(Debug, Clone)]
pub struct Backend {
    /// Where it is.
    pub url: BaseUrl,
    /// How it is verified where its address is `https`.
    pub tls: BackendTls,
    /// Name, all addresses and TLS together.
    pub connect_timeout: Duration,
    /// A start, from the first byte sent to the whole answer.
    pub start_timeout: Duration,
    /// A status poll, likewise.
    pub status_timeout: Duration,
    /// Pass-through: until the answer's head.
    pub answer_timeout: Duration,
    /// How long an unused connection is kept.
    pub idle_timeout: Duration,
    /// How the gateway proves itself there; legacy is asked for no proof.
    pub credential: Option<Credential>,
}

/// `[backends.workers.credential]`: each way that is given goes along with every request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Credential {
    /// `Authorization: Bearer …`.
    pub bearer: Option<HeldSecret>,
    /// A service token of Cloudflare Access: its id and its secret.
    pub access: Option<(HeldSecret, HeldSecret)>,
    /// A signature over the request.
    pub hmac: Option<Hmac>,
}

/// `hmac` and `key_id` of a credential.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hmac {
    /// The secret that workers share.
    pub secret: HeldSecret,
    /// Which of their secrets it is.
    pub key_id: Option<String>,
}

/// A secret that the configuration gives, or a file of its own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HeldSecret {
    /// The secret; empty until its file is read.
    pub value: Secret,
    /// Absolute path of its file, if it has one.
    pub file: Option<PathBuf>,
}

/// `[backends.workers]`.
#[derive(Debug, Clone)]
pub struct Workers {
    /// What it shares with legacy.
    pub backend: Backend,
    /// The base of `websocket_url` before `/api/jobs/…`: workers' `public_url` or `url`, or the gateway's own (`websocket = "gateway"`).
    pub websocket_base: BaseUrl,
    /// Whether a start that provably made no job goes to legacy.
    pub fallback: bool,
    /// Statuses that mean: no job was made.
    pub declined: BTreeSet<u16>,
    /// Whether the Worker honours `Idempotency-Key`.
    pub idempotent: bool,
    /// Client headers workers get beside the fixed ones.
    pub forward_headers: Vec<HeaderName>,
}

/// `[circuit]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Circuit {
    /// Length of the sliding window.
    pub window: Duration,
    /// Outcomes in the window before a share counts.
    pub minimum: u32,
    /// Share of failures that opens, 0.0 to 1.0.
    pub failure_share: f64,
    /// Failures in a row that open whatever the rate.
    pub consecutive: u32,
    /// First opening.
    pub open: Duration,
    /// Longest opening.
    pub open_max: Duration,
    /// Requests let through when half open.
    pub probes: u32,
}

/// `[identity]`.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The header that carries the user.
    pub header: HeaderName,
    /// Who an anonymous request is; `None`: nobody.
    pub default: Option<UserId>,
    /// Who may set the header.
    pub trusted: Trusted,
    /// The cookie that names the user; comes before the header.
    pub cookie: Option<String>,
    /// The token that names the user; comes before the cookie.
    pub jwt: Option<Jwt>,
}

/// Who may set the identity header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trusted {
    /// Everybody (`"any"`).
    Any,
    /// These networks only; from others the header is removed.
    Networks(Vec<IpNet>),
}

/// `[rollout]`.
#[derive(Debug, Clone)]
pub struct Rollout {
    /// The master switch.
    pub workers: bool,
    /// Share of users for types without a share of their own.
    pub share: Share,
    /// Mixed into the bucket's hash.
    pub salt: String,
    /// Users whose home is fixed, whatever the share.
    pub pinned: HashMap<UserId, BackendName>,
}

/// A share of users in hundredths of a percent: 0 to 10,000.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Share(u16);

impl Share {
    /// Makes a share of hundredths of a percent; `None` above 10,000.
    pub fn from_hundredths(hundredths: u16) -> Option<Share> {
        (hundredths <= 10_000).then_some(Share(hundredths))
    }

    /// Returns hundredths of a percent, 0 to 10,000.
    pub fn hundredths(self) -> u16 {
        self.0
    }

    /// Returns the percentage, 0.0 to 100.0.
    pub fn percent(self) -> f64 {
        f64::from(self.0) / 100.0
    }
}

/// `[exports.{type}]`.
#[derive(Debug, Clone)]
pub struct Export {
    /// Body fields that go into `params`; `None`: every field but `project_id`.
    pub params: Option<Vec<String>>,
    /// This type's own share, or the rollout's.
    pub share: Share,
    /// Where `input_key` comes from.
    pub input_key: InputKey,
}

/// Where `input_key` comes from. A type without its own uses overlay's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InputKey {
    /// The client sends it in this body field.
    Field(String),
    /// A query on the user's SQLite database.
    Database(DatabaseLookup),
    /// Legacy is asked.
    Url(UrlLookup),
}

/// `input_key = { database, query, key, missing }`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatabaseLookup {
    /// Absolute path with `{user_id}` in it.
    pub database: String,
    /// The part of the path before the first `{`, up to its last `/`: must exist.
    pub base: PathBuf,
    /// One SELECT with `:project_id` (and perhaps `:user_id`).
    pub query: String,
    /// `{column}` placeholders are filled from the row.
    pub key: String,
    /// `detail` of the 400 when there is no row.
    pub missing: String,
}

/// `input_key = { url, pointer, key, missing }`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UrlLookup {
    /// Path on legacy with `{project_id}` in it.
    pub path: String,
    /// JSON pointer (RFC 6901) to the file name.
    pub pointer: String,
    /// The key; `{filename}` is what the pointer found.
    pub key: String,
    /// `detail` of the 400 when legacy says 404 or the pointer finds null.
    pub missing: String,
}

/// `[jobs]` as far as a reload can change it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Jobs {
    /// How long an owner is kept.
    pub keep: Duration,
    /// How long an `Idempotency-Key` is kept.
    pub key_keep: Duration,
}

/// `[limits]`, in bytes, fields and time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Body of a start.
    pub start_body: usize,
    /// Answer to an intercepted route.
    pub answer_body: usize,
    /// All intercepted bodies and answers together.
    pub buffered: usize,
    /// Request target.
    pub target: usize,
    /// Request head.
    pub headers: usize,
    /// Header fields.
    pub header_count: usize,
    /// Client connections.
    pub connections: usize,
    /// Client connections of one address; `None`: as many as there are.
    pub connections_per_address: Option<usize>,
    /// A request body that stops.
    pub body_idle: Duration,
    /// A client that does not read.
    pub write_idle: Duration,
}

/// `[cors]`.
#[derive(Debug, Clone)]
pub struct Cors {
    /// Origins that may read answers, compared byte for byte.
    pub origins: Vec<HeaderValue>,
    /// Whether credentials may be sent.
    pub credentials: bool,
    /// Request headers that preflights allow; empty: those that were asked for.
    pub headers: Vec<HeaderName>,
}
