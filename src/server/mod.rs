//! The process's life: a runtime per thread, accepting, limits, and the way down.

pub mod connection;
pub mod entry;
pub mod h2;
pub mod listen;
pub mod notify;
pub mod proxied;
pub mod pulse;
pub mod sockets;
pub mod stack;
pub mod streams;
pub mod tls;
pub mod upgrade;

use std::io;
use std::net::TcpListener;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{mpsc, watch};
use tokio::task::spawn_local;
use tokio::time::{Instant, interval, sleep, timeout};

use crate::backends::client::Client;
use crate::backends::dial::Dialer;
use crate::gateway::core::{Core, Gateway};
use crate::gateway::seats::{Seat, Unseated};
use crate::gateway::start::again::{self, Left};
use crate::gateway::unpolled;
use crate::http::socket::{Socket, Tcp};
use crate::limits;
use crate::server::entry::Entry;
use crate::server::listen::Listeners;
use crate::server::pulse::Pulse;
use crate::server::stack::InFlight;
use crate::telemetry::access_log::AccessLog;
use crate::telemetry::record::Recorder;
use crate::telemetry::traces::Traces;

/// How far down the way the process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Serving.
    Serving,
    /// Still accepting, but no longer ready: a load balancer is given time to notice.
    Leaving,
    /// Accepting no more; what is under way is finished.
    Draining,
    /// Out of time: what is still open is cut.
    Cut,
}

/// What every serving thread is made from.
#[derive(Debug, Clone)]
pub struct Serving {
    /// The process's state.
    pub gateway: Arc<Gateway>,
    /// TLS towards backends.
    pub dialer: Dialer,
    /// Where access-log lines go.
    pub access_log: AccessLog,
    /// Makes spans, if traces are sent.
    pub traces: Option<Traces>,
    /// Follows the way down.
    pub stage: watch::Receiver<Stage>,
    /// Places for requests under way.
    pub in_flight: InFlight,
    /// Set once another process has the listening sockets, too, and serves whoever is queued there.
    pub passed_on: Arc<AtomicBool>,
    /// Shows that the threads go round.
    pub pulse: Arc<Pulse>,
}

/// Starts one thread per set of listeners; each ends when the process is draining and its connections are done, or cut, and
/// then drops its `done`.
///
/// # Errors
/// The operating system refuses a thread or a runtime.
pub fn start(
    serving: Serving,
    listeners: Vec<Vec<TcpListener>>,
    done: &mpsc::Sender<()>,
) -> io::Result<Vec<JoinHandle<()>>> {
    let mut threads = Vec::new();
    for (number, listeners) in listeners.into_iter().enumerate() {
        let (serving, done) = (serving.clone(), done.clone());
        let thread = std::thread::Builder::new().name(format!("serve-{number}")).spawn(move || {
            run_thread(&serving, listeners, number);
            drop((serving, done));
        })?;
        threads.push(thread);
    }
    Ok(threads)
}

fn run_thread(serving: &Serving, listeners: Vec<TcpListener>, number: usize) {
    let runtime = match Builder::new_current_thread().enable_all().build_local(LocalOptions::default()) {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "a serving thread could not start");
            return;
        }
    };
    runtime.block_on(serve(serving, listeners, number));
}

async fn serve(serving: &Serving, listeners: Vec<TcpListener>, number: usize) {
    let listener = match Listeners::new(listeners) {
        Ok(listeners) => listeners,
        Err(error) => {
            tracing::error!(%error, "a listener could not be used");
            return;
        }
    };
    let recorder = Recorder {
        lines: serving.access_log.lines(),
        metrics: serving.gateway.metrics.clone(),
        requests: crate::telemetry::metrics::RequestMetrics::default(),
        traces: serving.traces.clone(),
    };
    let core = Rc::new(Core::new(
        serving.gateway.clone(),
        Client::new(serving.dialer.clone(), serving.traces.clone()),
        recorder,
    ));
    let keeper = spawn_local(keep(core.clone(), serving.pulse.clone(), number));
    let background =
        (number == 0).then(|| [spawn_local(ask_open_starts(core.clone())), spawn_local(unpolled::watch(core.clone()))]);
    let mut stage = serving.stage.clone();
    tokio::select! {
        () = accept(serving, &core, &listener) => {}
        _ = stage.wait_for(|stage| *stage >= Stage::Draining) => {}
    }
    if serving.passed_on.load(Ordering::Acquire) {
        drop(listener);
    } else {
        accept_queued(serving, &core, listener).await;
    }
    core.tunnels.close_all();
    tokio::select! {
        () = core.tasks.none_left() => {}
        _ = stage.wait_for(|stage| *stage >= Stage::Cut) => {}
    }
    keeper.abort();
    // What these did not come to is still open at the next start.
    for task in background.into_iter().flatten() {
        task.abort();
    }
    core.recorder.lines.flush();
}

/// Accepts until it is dropped.
async fn accept(serving: &Serving, core: &Rc<Core>, listener: &Listeners) {
    loop {
        match listener.accept().await {
            Ok((stream, address)) => admit(serving, core, stream, address),
            Err(error) => {
                // Out of descriptors, most likely: connections wait in the kernel's queue meanwhile.
                core.gateway.turned.note_failure(&error);
                sleep(limits::ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Takes what the kernel has queued and what is on its way there, then closes the listener.
async fn accept_queued(serving: &Serving, core: &Rc<Core>, listener: Listeners) {
    let last = async |limit| {
        let until = Instant::now() + limit;
        while let Ok(Ok((stream, address))) =
            timeout(until.saturating_duration_since(Instant::now()), listener.accept()).await
        {
            admit(serving, core, stream, address);
        }
    };
    last(limits::LAST_ACCEPTS).await;
    listener.begin_no_more();
    last(limits::LAST_HANDSHAKES).await;
}

fn admit(serving: &Serving, core: &Rc<Core>, stream: tokio::net::TcpStream, address: std::net::SocketAddr) {
    let table = core.gateway.table.load();
    let Some(seat) = Seat::take(&core.gateway, table.limits.connections) else {
        core.gateway.turned.note(&core.gateway, Unseated::Full, address.ip().to_canonical());
        return;
    };
    let tls = table.server.tls.clone();
    let (in_flight, stage) = (serving.in_flight.clone(), serving.stage.clone());
    if table.server.proxy_protocol {
        let (core, task) = (core.clone(), core.tasks.begin());
        spawn_local(async move {
            let entry = Box::pin(entry::announced(core.clone(), stream, address, seat, stage.clone())).await;
            match (entry, tls) {
                (Some(entry), Some(tls)) => tls::serve(core, in_flight, entry, stage, tls).await,
                (Some(Entry { tcp, guest }), None) => {
                    let socket = Socket::Plain(Tcp::new(tcp));
                    Box::pin(connection::serve(core, in_flight, socket, guest, stage)).await;
                }
                (None, _) => {}
            }
            drop(task);
        });
        return;
    }
    let Some(entry) = entry::direct(core, &table, stream, address, seat) else { return };
    let (core, task) = (core.clone(), core.tasks.begin());
    match tls {
        Some(tls) => {
            spawn_local(async move {
                tls::serve(core, in_flight, entry, stage, tls).await;
                drop(task);
            });
        }
        None => {
            spawn_local(async move {
                let socket = Socket::Plain(Tcp::new(entry.tcp));
                connection::serve(core, in_flight, socket, entry.guest, stage).await;
                drop(task);
            });
        }
    }
}

/// Asks workers for the starts that an earlier process left open, until workers could be reached; where others share
/// the store, for those that any of them leaves open, for as long as the thread serves.
async fn ask_open_starts(core: Rc<Core>) {
    let mut tries = 0;
    while tries < limits::ASK_AGAIN_TRIES {
        let (table, store) = (core.gateway.table.load_full(), core.gateway.jobs.store());
        // An embedded file is shared only while one gateway takes over from another: then it is nobody's turn.
        let is_shared = store.is_shared();
        let left = again::ask_open(&core, &table).await;
        if !is_shared {
            tries += 1;
            if left == Left::Nothing {
                return;
            }
        }
        sleep(limits::ASK_AGAIN_PAUSE).await;
    }
}

/// Flushes the log and closes idle backend connections, for as long as the thread serves, and shows that it does.
async fn keep(core: Rc<Core>, pulse: Arc<Pulse>, number: usize) {
    let mut ticks = interval(limits::LOG_FLUSH);
    loop {
        ticks.tick().await;
        pulse.beat(number);
        core.recorder.lines.flush();
        let table = core.gateway.table.load_full();
        core.client.sweep(&table.legacy, &table.workers.backend);
    }
}
