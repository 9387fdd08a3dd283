//! `run`: puts the process together, serves, and takes it down in order.

mod hand_over;
mod supervisor;
mod traces;

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};
use tower::limit::GlobalConcurrencyLimitLayer;

use crate::admin::{self, Admin};
use crate::backends::dial::{Dialer, TlsSetupError};
use crate::gateway::core::Gateway;
use crate::jobs::clock::Clock;
use crate::jobs::database::Lookups;
use crate::jobs::{Jobs, Settings, StoreHeld};
use crate::limits;
use crate::reload::{self, ReloadHandle, ReloadStatus};
use crate::routing::table::RoutingTable;
use crate::server::pulse::Pulse;
use crate::server::sockets::{self, Passed, SocketError};
use crate::server::upgrade::{Predecessor, TakeOverError};
use crate::server::{self, Serving, Stage, notify};
use crate::telemetry::access_log::{AccessLog, Format, Writer};
use crate::telemetry::metrics::Metrics;
use crate::telemetry::outlet::Outlet;
use crate::telemetry::traces::Exporter;
use hand_over::HandOver;
use opentelemetry_otlp::ExporterBuildError;

/// Exit code for what a person must mend outside of the file.
const CANNOT_START: u8 = 1;

/// Why the process cannot start although its file is good.
#[derive(Debug, thiserror::Error)]
enum StartError {
    #[error(transparent)]
    Sockets(#[from] SocketError),
    #[error(transparent)]
    TakeOver(#[from] TakeOverError),
    #[error(transparent)]
    Store(#[from] StoreHeld),
    #[error(transparent)]
    Tls(#[from] TlsSetupError),
    #[error("cannot open the access log {path} (log.access)")]
    AccessLog {
        path: String,
        #[source]
        source: std::io::Error,
    },
    #[error("traces cannot be set up: OTEL_… in the environment, or telemetry.otlp")]
    Traces(#[from] ExporterBuildError),
    #[error("metrics cannot be set up")]
    Metrics(#[from] prometheus::Error),
    #[error("the operating system refused {what}")]
    System {
        what: &'static str,
        #[source]
        source: std::io::Error,
    },
}

/// Runs the gateway until it is told to stop; returns 0 after an orderly end.
///
/// `format` is what was asked for; without it, a file gets JSON, and standard output what suits it.
pub fn run(path: &Path, table: RoutingTable, format: Option<Format>) -> ExitCode {
    match start_and_serve(path, table, format) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = crate::gateway::pass::chain(&error), "the gateway cannot start");
            ExitCode::from(CANNOT_START)
        }
    }
}

/// What lives as long as the process.
struct Process {
    gateway: Arc<Gateway>,
    reload: Arc<ReloadStatus>,
    stage: watch::Sender<Stage>,
    signals: Signals,
    writer: Writer,
    exporter: Option<Exporter>,
    hand_over: HandOver,
    predecessor: Option<Predecessor>,
    pulse: Arc<Pulse>,
}

/// What the process is told from outside.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    upgrade: Signal,
}

impl Signals {
    /// Listens from now on; what comes before it is asked for is not lost.
    fn listen() -> Result<Signals, StartError> {
        let on = |kind| signal(kind).map_err(|source| StartError::System { what: "a signal handler", source });
        Ok(Signals {
            terminate: on(SignalKind::terminate())?,
            interrupt: on(SignalKind::interrupt())?,
            hangup: on(SignalKind::hangup())?,
            upgrade: on(SignalKind::user_defined2())?,
        })
    }
}

fn start_and_serve(path: &Path, table: RoutingTable, format: Option<Format>) -> Result<(), StartError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| StartError::System { what: "a runtime", source })?;
    // Before anything is served: a stop that comes while the store opens still ends in order.
    let signals = runtime.block_on(async { Signals::listen() })?;
    let seats = raise_descriptors(table.limits.connections);
    let fixed = table.fixed.clone();
    let outlet = match &fixed.access_log {
        None => Outlet::stdout(),
        Some(path) => {
            Outlet::file(path).map_err(|source| StartError::AccessLog { path: path.display().to_string(), source })?
        }
    };
    let format = format.unwrap_or_else(|| outlet.format());
    let (access_log, writer) = AccessLog::start(outlet, format)
        .map_err(|source| StartError::System { what: "the access log's thread", source })?;
    let metrics = Arc::new(Metrics::new(access_log.lost())?);
    metrics.table_applied(&table);
    let dialer = Dialer::new()?;
    let (traces, exporter) = traces::start(fixed.otlp.as_ref(), &dialer, runtime.handle())?;
    let (predecessor, passed, lock) = match Predecessor::meet()? {
        Some((predecessor, passed, lock)) => (Some(predecessor), passed, lock),
        None => (None, Passed::from_environment(&fixed)?, None),
    };
    let sockets = sockets::open(&fixed, passed)?;
    let settings = Settings { keep: table.jobs.keep, key_keep: table.jobs.key_keep, clock: Clock::system() };
    let jobs = Jobs::open_beside(&fixed.store, settings, lock)?;
    let table = Arc::new(ArcSwap::from_pointee(table));
    let gateway = Arc::new(Gateway::new(table.clone(), jobs, Lookups::start(), metrics));
    gateway.seats.bound_by_descriptors(seats);
    let (stage, stages) = watch::channel(Stage::Serving);
    let serving = Serving {
        gateway: gateway.clone(),
        dialer,
        access_log,
        traces,
        stage: stages.clone(),
        in_flight: GlobalConcurrencyLimitLayer::new(limits::REQUESTS),
        // Sockets of systemd's are there for the next process, too.
        passed_on: Arc::new(AtomicBool::new(sockets.kept_outside)),
        pulse: Arc::new(Pulse::new(fixed.threads)),
    };
    let system = |what| move |source| StartError::System { what, source };
    let address = sockets.server.first().and_then(|listener| listener.local_addr().ok()).unwrap_or(fixed.listen);
    let loopback = fixed.admin_listen.ip().is_loopback();
    let (hand_over, (admin_listener, listeners)) =
        HandOver::new(sockets, serving.passed_on.clone(), fixed.threads).map_err(system("a descriptor"))?;
    let predecessor = predecessor.map(|old| hand_over::take_its_place(old, &gateway)).transpose()?;
    let (done, all_done) = mpsc::channel(1);
    let pulse = serving.pulse.clone();
    let threads = server::start(serving, listeners, &done).map_err(system("a serving thread"))?;
    drop(done);
    tracing::info!(%address, threads = threads.len(), version = env!("CARGO_PKG_VERSION"), "listening");
    let reload = Arc::new(ReloadStatus::default());
    let process = Process { gateway, reload, stage, signals, writer, exporter, hand_over, predecessor, pulse };
    let ended = runtime.block_on(live(path, process, admin_listener, loopback, all_done));
    // Not dropped: that would wait for a blocking call that hangs.
    runtime.shutdown_background();
    ended
}

/// From the first request to the last.
async fn live(
    path: &Path,
    process: Process,
    admin_listener: std::net::TcpListener,
    loopback: bool,
    mut all_done: mpsc::Receiver<()>,
) -> Result<(), StartError> {
    let system = |what| move |source| StartError::System { what, source };
    let admin_listener = TcpListener::from_std(admin_listener).map_err(system("the admin port"))?;
    let address = admin_listener.local_addr().map_err(system("the admin port"))?;
    tracing::info!(%address, "admin listening");
    let Process { gateway, reload, stage, mut signals, writer, exporter, mut hand_over, predecessor, pulse } = process;
    let watched = watch_file(path, &gateway, &reload).map_err(system("the watch on the file"))?;
    let admin =
        Arc::new(Admin { gateway: gateway.clone(), reload: reload.clone(), stage: stage.subscribe(), loopback });
    let told = notify::is_wanted().then(|| tokio::spawn(supervisor::tell(admin.clone(), pulse)));
    let admin = tokio::spawn(admin::serve(admin, admin_listener));
    if let Some(old) = predecessor {
        hand_over::serving(old, gateway.clone()).map_err(system("a thread"))?;
    }
    notify::ready();
    let replaced = loop {
        tokio::select! {
            _ = signals.hangup.recv() => supervisor::reload(&watched, &reload),
            _ = signals.terminate.recv() => break false,
            _ = signals.interrupt.recv() => break false,
            _ = signals.upgrade.recv() => hand_over.begin(&gateway),
            true = hand_over.prepared(&gateway) => break true,
        }
    };
    hand_over.let_go();
    let table = gateway.table.load_full();
    let (delay, patience) = (table.server.drain_delay, table.server.drain_timeout);
    tracing::info!(delay_seconds = delay.as_secs_f64(), timeout_seconds = patience.as_secs_f64(), "draining");
    if replaced {
        // Another process answers to operators and to the service manager from now on.
        admin.abort();
        told.inspect(|told| told.abort());
    } else {
        notify::stopping();
        stage.send_replace(Stage::Leaving);
        sleep(delay).await;
    }
    stage.send_replace(Stage::Draining);
    if timeout(patience, all_done.recv()).await.is_err() {
        tracing::warn!("drain timeout: what is still open is cut");
        stage.send_replace(Stage::Cut);
        // Threads end at once now; one that does not must not keep the process.
        let _ = timeout(Duration::from_secs(1), all_done.recv()).await;
    }
    admin.abort();
    if let Err(error) = gateway.jobs.close().await {
        tracing::warn!(error = error.line(), "the job store was not closed in order");
    }
    if let Some(exporter) = exporter {
        // Its own limit is the shorter one; what it waits for runs on this thread.
        match tokio::task::spawn_blocking(move || exporter.shut_down(limits::TRACE_END)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(error, "the last spans were not sent"),
            Err(error) => tracing::warn!(%error, "the last spans were not sent"),
        }
    }
    tracing::info!("stopped");
    // Nobody may be reading what is written: then the process ends all the same.
    if timeout(limits::LOG_END, tokio::task::spawn_blocking(move || writer.join())).await.is_err() {
        tracing::warn!("the access log could not be written to its end");
    }
    Ok(())
}

fn watch_file(path: &Path, gateway: &Arc<Gateway>, status: &Arc<ReloadStatus>) -> std::io::Result<ReloadHandle> {
    let told = gateway.clone();
    let on_applied = move |table: &Arc<RoutingTable>| {
        told.metrics.table_applied(table);
        told.jobs.set_keep(table.jobs.keep, table.jobs.key_keep);
    };
    let env = |name: &str| std::env::var(name).ok();
    reload::spawn(path.to_owned(), gateway.table.clone(), status.clone(), Box::new(env), Box::new(on_applied))
}

/// Raises the limit of descriptors as far as the connections allowed need it; returns for how many there are enough.
///
/// Every client connection may need a second one to a backend; what is left serves files and the admin port.
fn raise_descriptors(connections: usize) -> usize {
    let wanted = connections as u64 * 2 + limits::OWN_DESCRIPTORS;
    let got = rlimit::increase_nofile_limit(wanted).unwrap_or_else(|error| {
        tracing::warn!(%error, wanted, "the limit of file descriptors could not be raised");
        rlimit::getrlimit(rlimit::Resource::NOFILE).map_or(wanted, |(soft, _)| soft)
    });
    let connections = usize::try_from((got - limits::OWN_DESCRIPTORS.min(got / 2)) / 2).unwrap_or(usize::MAX);
    if got < wanted {
        let message = "too few file descriptors for limits.connections, fewer are served: raise nofile";
        tracing::warn!(got, wanted, connections, "{message}");
    }
    connections
}
