//! `gateway.toml` as it is written: one struct per section, each key with its default.
//!
//! What a value may be is in `values.rs`; what values mean together is checked in `check.rs`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use http::header::HeaderName;
use ipnet::IpNet;
use schemars::JsonSchema;
use serde::Deserialize;

mod outlets;
mod proofs;
mod tls;

pub(crate) use outlets::{LogFile, STDOUT, TelemetryFile};
pub(crate) use proofs::{CredentialFile, JwtFile, SecretFile};
pub(crate) use tls::{BackendTlsFile, CertificateFile, ServerTlsFile};

use super::store::Store;
use super::texts::{CookieName, Declined, Line, Origin, Text, User, WebSocket};
use super::values::{Fraction, Size, TrustedPeers, Written};
use crate::limits;
use crate::routing::table::{BaseUrl, Secret, Share};

/// The whole file.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("required" = ["backends"]))]
pub(crate) struct File {
    /// The public port.
    pub(crate) server: ServerFile,
    /// The second port: health and metrics.
    pub(crate) admin: AdminFile,
    /// The two places an export can run.
    pub(crate) backends: BackendsFile,
    /// When workers count as down.
    pub(crate) circuit: CircuitFile,
    /// Who a request comes from.
    pub(crate) identity: IdentityFile,
    /// Which users are moved.
    pub(crate) rollout: RolloutFile,
    /// The export types that are taken over, by name.
    #[schemars(extend("propertyNames" = {"pattern": "^[a-z0-9_-]{1,64}$"}))]
    pub(crate) exports: BTreeMap<String, ExportFile>,
    /// How long jobs are remembered, and where.
    pub(crate) jobs: JobsFile,
    /// Where what operators read goes.
    pub(crate) log: LogFile,
    /// Where traces go.
    pub(crate) telemetry: TelemetryFile,
    /// Bounds on what clients and backends may send.
    pub(crate) limits: LimitsFile,
    /// CORS for answers that legacy did not make.
    pub(crate) cors: Option<CorsFile>,
}

/// `[server]`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ServerFile {
    /// Address and port; port 0 takes any free one. Needs a restart.
    pub(crate) listen: Written<SocketAddr>,
    /// Worker threads; default: the cores there are. Needs a restart.
    #[schemars(extend("minimum" = 1, "maximum" = 1024))]
    pub(crate) threads: Option<Written<u32>>,
    /// A client has this long to send its request head, from its first byte.
    pub(crate) header_timeout: Written<Duration>,
    /// A kept-alive connection without a request.
    pub(crate) idle_timeout: Written<Duration>,
    /// After SIGTERM: still accepting, `/readyz` already 503.
    pub(crate) drain_delay: Written<Duration>,
    /// Then in-flight work gets this long.
    pub(crate) drain_timeout: Written<Duration>,
    /// Networks whose `X-Forwarded-*` are kept and appended to.
    pub(crate) trusted_proxies: Vec<Written<IpNet>>,
    /// Connections begin with a PROXY header of one of these networks.
    pub(crate) proxy_protocol: Written<bool>,
    /// What clients call the gateway.
    pub(crate) public_url: Option<Written<BaseUrl>>,
    /// TLS towards clients; left out: plain HTTP.
    pub(crate) tls: Option<ServerTlsFile>,
}

impl Default for ServerFile {
    fn default() -> ServerFile {
        ServerFile {
            listen: Written(SocketAddr::from(([0, 0, 0, 0], 8080))),
            threads: None,
            header_timeout: seconds(10),
            idle_timeout: seconds(75),
            drain_delay: seconds(0),
            drain_timeout: seconds(75),
            trusted_proxies: Vec::new(),
            proxy_protocol: Written(false),
            public_url: None,
            tls: None,
        }
    }
}

/// `[admin]`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct AdminFile {
    /// Address and port; needs a restart.
    pub(crate) listen: Written<SocketAddr>,
    /// Bearer token; needed when `listen` is not loopback.
    pub(crate) token: Option<Written<Secret>>,
}

impl Default for AdminFile {
    fn default() -> AdminFile {
        AdminFile { listen: Written(SocketAddr::from(([127, 0, 0, 1], 9901))), token: None }
    }
}

/// `[backends]`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("required" = ["legacy", "workers"]))]
pub(crate) struct BackendsFile {
    /// The FastAPI backend.
    pub(crate) legacy: LegacyFile,
    /// The Cloudflare Worker.
    pub(crate) workers: WorkersFile,
}

/// `[backends.legacy]`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("required" = ["url"]))]
pub(crate) struct LegacyFile {
    /// Where it is; required.
    pub(crate) url: Option<Written<BaseUrl>>,
    /// Name, all addresses and TLS together.
    pub(crate) connect_timeout: Written<Duration>,
    /// A start, until the whole answer.
    pub(crate) start_timeout: Written<Duration>,
    /// A status poll, until the whole answer.
    pub(crate) status_timeout: Written<Duration>,
    /// Pass-through: until the answer's head.
    pub(crate) answer_timeout: Written<Duration>,
    /// How long an unused connection is kept.
    pub(crate) idle_timeout: Written<Duration>,
    /// Roots and the gateway's own certificate, for an `https` address.
    pub(crate) tls: Option<BackendTlsFile>,
}

impl Default for LegacyFile {
    fn default() -> LegacyFile {
        LegacyFile {
            url: None,
            connect_timeout: seconds(1),
            start_timeout: seconds(60),
            status_timeout: seconds(10),
            answer_timeout: seconds(300),
            idle_timeout: seconds(4),
            tls: None,
        }
    }
}

/// `[backends.workers]`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("required" = ["url"]))]
pub(crate) struct WorkersFile {
    /// Where they are; required.
    pub(crate) url: Option<Written<BaseUrl>>,
    /// What browsers see, if not `url`.
    pub(crate) public_url: Option<Written<BaseUrl>>,
    /// Name, all addresses and TLS together.
    pub(crate) connect_timeout: Written<Duration>,
    /// A start, until the whole answer.
    pub(crate) start_timeout: Written<Duration>,
    /// A status poll, until the whole answer.
    pub(crate) status_timeout: Written<Duration>,
    /// How long an unused connection is kept.
    pub(crate) idle_timeout: Written<Duration>,
    /// Where `websocket_url` points: `direct` or `gateway`.
    pub(crate) websocket: Written<WebSocket>,
    /// Whether a start that provably made no job goes to legacy.
    pub(crate) fallback: Written<bool>,
    /// Statuses that mean: no job was made.
    pub(crate) declined: Vec<Written<Declined>>,
    /// Whether the Worker honours `Idempotency-Key`.
    pub(crate) idempotent: Written<bool>,
    /// Client headers workers get beside the fixed ones.
    pub(crate) forward_headers: Vec<Written<HeaderName>>,
    /// Roots and the gateway's own certificate, for an `https` address.
    pub(crate) tls: Option<BackendTlsFile>,
    /// How the gateway proves who it is.
    pub(crate) credential: Option<CredentialFile>,
}

impl Default for WorkersFile {
    fn default() -> WorkersFile {
        WorkersFile {
            url: None,
            public_url: None,
            connect_timeout: seconds(1),
            start_timeout: seconds(30),
            status_timeout: seconds(10),
            // Cloudflare closes idle connections after 400 s; well below, so that a start never meets a dying one.
            idle_timeout: seconds(60),
            websocket: Written(WebSocket::Direct),
            fallback: Written(true),
            declined: [404, 405, 429, 503].map(|status| Written(Declined(status))).into(),
            idempotent: Written(false),
            forward_headers: Vec::new(),
            tls: None,
            credential: None,
        }
    }
}

/// `[circuit]`, of workers.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct CircuitFile {
    /// Length of the sliding window.
    pub(crate) window: Written<Duration>,
    /// Outcomes in the window before a share counts.
    #[schemars(extend("minimum" = 1))]
    pub(crate) minimum: Written<u32>,
    /// Share of failures that opens, above 0 and up to 1.
    pub(crate) failure_share: Written<Fraction>,
    /// Failures in a row that open whatever the rate.
    #[schemars(extend("minimum" = 1))]
    pub(crate) consecutive: Written<u32>,
    /// First opening; doubles up to `open_max`.
    pub(crate) open: Written<Duration>,
    /// Longest opening.
    pub(crate) open_max: Written<Duration>,
    /// Requests let through when half open.
    #[schemars(extend("minimum" = 1))]
    pub(crate) probes: Written<u32>,
}

impl Default for CircuitFile {
    fn default() -> CircuitFile {
        CircuitFile {
            window: seconds(10),
            minimum: Written(20),
            failure_share: Written(Fraction(0.5)),
            consecutive: Written(3),
            open: seconds(5),
            open_max: seconds(30),
            probes: Written(1),
        }
    }
}

/// `[identity]`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct IdentityFile {
    /// The header that carries the user.
    pub(crate) header: Written<HeaderName>,
    /// Who an anonymous request is; left out: nobody, and it stays on legacy.
    pub(crate) default: Option<Written<User>>,
    /// Who may set the header: `"any"` or networks.
    pub(crate) trusted: TrustedPeers,
    /// The cookie that names the user; comes before the header.
    pub(crate) cookie: Option<Written<CookieName>>,
    /// The token that names the user; comes before the cookie.
    pub(crate) jwt: Option<JwtFile>,
}

impl Default for IdentityFile {
    fn default() -> IdentityFile {
        IdentityFile {
            header: Written(HeaderName::from_static("x-user-id")),
            default: None,
            trusted: TrustedPeers::Any,
            cookie: None,
            jwt: None,
        }
    }
}

/// `[rollout]`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RolloutFile {
    /// The master switch.
    pub(crate) workers: Written<bool>,
    /// Percentage of users, at most two decimals.
    pub(crate) percent: Written<Share>,
    /// Mixed into the bucket's hash; changing it reshuffles every user.
    pub(crate) salt: Written<Line>,
    /// Users who are on workers whatever the percentage.
    pub(crate) always_workers: Vec<Written<User>>,
    /// Users who are on legacy whatever the percentage.
    pub(crate) always_legacy: Vec<Written<User>>,
}

impl Default for RolloutFile {
    fn default() -> RolloutFile {
        RolloutFile {
            workers: Written(false),
            percent: Written(Share::default()),
            salt: Written(Line("exports".to_owned())),
            always_workers: Vec::new(),
            always_legacy: Vec::new(),
        }
    }
}

/// `[exports.{type}]`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ExportFile {
    /// Body fields that go into `params`; left out: every field but `project_id`.
    pub(crate) params: Option<Vec<Written<Line>>>,
    /// This type's own percentage.
    pub(crate) percent: Option<Written<Share>>,
    /// Where `input_key` comes from; left out: as overlay.
    pub(crate) input_key: Option<InputKeyFile>,
}

/// `[exports.{type}.input_key]`: one of three forms, told apart by `field`, `database` or `url`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("oneOf" = [{"required": ["field"]}, {"required": ["database"]}, {"required": ["url"]}]))]
pub(crate) struct InputKeyFile {
    /// The client sends it in this body field.
    pub(crate) field: Option<Written<Line>>,
    /// Path of a user's SQLite database, with `{user_id}`.
    pub(crate) database: Option<Written<Line>>,
    /// One SELECT with `:project_id`.
    pub(crate) query: Option<Written<Text>>,
    /// Path on legacy, with `{project_id}`.
    pub(crate) url: Option<Written<Line>>,
    /// JSON pointer into legacy's answer.
    pub(crate) pointer: Option<Written<Line>>,
    /// The key, with `{column}` or `{filename}`.
    pub(crate) key: Option<Written<Line>>,
    /// What the client is told when nothing is found.
    pub(crate) missing: Option<Written<Line>>,
}

/// `[jobs]`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct JobsFile {
    /// File of the embedded store, or the address of a Redis; needs a restart.
    pub(crate) store: Written<Store>,
    /// Replicas of a Redis that must have a write before it counts; needs a restart.
    #[schemars(extend("maximum" = limits::REDIS_REPLICAS))]
    pub(crate) wait_replicas: Written<u32>,
    /// How long an owner is kept.
    pub(crate) keep: Written<Duration>,
    /// How long an `Idempotency-Key` is kept.
    pub(crate) key_keep: Written<Duration>,
}

impl Default for JobsFile {
    fn default() -> JobsFile {
        JobsFile {
            store: Written(Store::File("data/jobs.db".to_owned())),
            wait_replicas: Written(0),
            keep: seconds(7 * 24 * 3600),
            key_keep: seconds(24 * 3600),
        }
    }
}

/// `[limits]`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct LimitsFile {
    /// Body of a start.
    pub(crate) start_body: Written<Size>,
    /// Answer to an intercepted route.
    pub(crate) answer_body: Written<Size>,
    /// All intercepted bodies and answers together.
    pub(crate) buffered: Written<Size>,
    /// Request target.
    pub(crate) target: Written<Size>,
    /// Request head.
    pub(crate) headers: Written<Size>,
    /// Header fields.
    #[schemars(extend("minimum" = 1, "maximum" = 1_000_000))]
    pub(crate) header_count: Written<u32>,
    /// Client connections.
    #[schemars(extend("minimum" = 1, "maximum" = 1_000_000))]
    pub(crate) connections: Written<u32>,
    /// Client connections of one address (IPv6: of one /64); left out: as many as there are.
    #[schemars(extend("minimum" = 1, "maximum" = 1_000_000))]
    pub(crate) connections_per_address: Option<Written<u32>>,
    /// A request body that stops.
    pub(crate) body_idle: Written<Duration>,
    /// A client that does not read.
    pub(crate) write_idle: Written<Duration>,
}

impl Default for LimitsFile {
    fn default() -> LimitsFile {
        LimitsFile {
            start_body: Written(Size(1 << 20)),
            answer_body: Written(Size(1 << 20)),
            buffered: Written(Size(64 << 20)),
            target: Written(Size(8 << 10)),
            headers: Written(Size(32 << 10)),
            header_count: Written(100),
            connections: Written(10_000),
            connections_per_address: None,
            body_idle: seconds(30),
            write_idle: seconds(600),
        }
    }
}

/// `[cors]`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("required" = ["origins"]))]
pub(crate) struct CorsFile {
    /// Origins that may read answers.
    #[schemars(extend("minItems" = 1))]
    pub(crate) origins: Vec<Written<Origin>>,
    /// Whether credentials may be sent.
    pub(crate) credentials: Written<bool>,
    /// Request headers that preflights allow; empty: those that were asked for.
    pub(crate) headers: Vec<Written<HeaderName>>,
}

impl Default for CorsFile {
    fn default() -> CorsFile {
        CorsFile { origins: Vec::new(), credentials: Written(true), headers: Vec::new() }
    }
}

fn seconds(seconds: u64) -> Written<Duration> {
    Written(Duration::from_secs(seconds))
}
