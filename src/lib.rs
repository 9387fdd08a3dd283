//! `export-gateway`: a reverse proxy that knows what an export job is.
//!
//! It stands in front of a backend ("legacy"). Everything passes through untouched and streaming, but for the export
//! routes: by a table that is reloaded whenever `gateway.toml` changes, a start goes to "workers" or to legacy, and
//! whatever is asked about a job afterwards goes to the backend that started it.
//!
//! # The map
//!
//! Ground floor first. A folder uses only what stands above it in this list; a test holds it to that.
//!
//! - [`limits`]: every bound that the file does not set. [`names`]: the words of the domain, parsed once.
//! - [`routing`]: which way a request goes: path → route, headers → user, user → bucket → decision. Pure.
//! - [`exports`]: what a start becomes for workers, and what an answer means: **the outcome of a start**
//!   ([`exports::outcome`]) and **what is done then** ([`exports::step`], the only place that allows a fallback); and in
//!   which order ([`exports::protocol`], gone through by a model checker: `docs/proof.md`). Pure.
//! - [`config`]: the file's text → a [`routing::table::RoutingTable`], or everything that is wrong with it.
//! - [`telemetry`]: the record of each request, metrics, events.
//! - [`http`]: sockets, header fields, bodies, WebSocket tunnels, and [`http::refusal`], the only file that picks a
//!   status for an answer of our own.
//! - [`backends`]: dialling, pooling, and the one rule for sending again.
//! - [`jobs`]: who owns which job, and what a client's key stands for ([`jobs::idempotency`]), durably; and the look-up of
//!   `input_key`.
//! - [`gateway`]: **the request flow**. [`gateway::serve`] and the `answer` behind it show every branch.
//! - [`reload`]: watches the file, settles, compiles, swaps once.
//! - [`server`]: sockets (own or passed in), threads, accepting, the end, and a new process that takes over. [`admin`]: the
//!   second port. [`cli`]: commands; `cli::run` puts all together.
//! - `fuzzing`: what must hold for any input, for `fuzz/` and tests alone.
//!
//! # Two flows
//!
//! ```text
//! a request                                         an edit of gateway.toml
//!
//! accept (server)                                   event or tick (reload::watch)
//!  → checks (http::headers, routing::identity)       → read until it holds still
//!  → route (routing::route)                          → parse, check, compile (config)
//!  → start: key known? → its answer again
//!         decide → record intent → send              → one ArcSwap::store; a refused file changes nothing
//!         → judge → record owner → answer
//!    status, WebSocket: owner → that backend
//!    all else: legacy, streaming (gateway::pass)
//!  → record written with the last byte
//! ```
//!
//! # What always holds
//!
//! 1. A request sees one table from start to end: it is loaded once, in [`gateway::serve`].
//! 2. A start's intent is durable before a byte of it leaves, and its job's owner before the client hears of the job.
//! 3. Only an outcome that excludes a job may fall back, and only once: [`exports::step::Fallback`] cannot be made
//!    from anything else.
//! 4. A request is sent again only if it was handed back unwritten, is a GET or HEAD without a body, or is a start of
//!    unknown outcome for workers that honour keys, while its intent still says workers ([`gateway::start::again`]).
//! 5. A flip of the file moves starts, never jobs.
//! 6. Pass-through never holds a body in memory.

pub mod limits;
pub mod names;
pub mod routing;
pub mod exports;
pub mod config;
pub mod telemetry;
pub mod http;
pub mod backends;
pub mod jobs;
pub mod gateway;
pub mod reload;
pub mod server;
pub mod admin;
pub mod cli;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
