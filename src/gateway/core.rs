//! What requests share: the gateway of the process, and the part of it that each thread has for itself.

use std::cell::Cell;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use http::header::HeaderValue;
use ipnet::IpNet;
use tokio::sync::{Notify, Semaphore};

use crate::backends::circuit::Circuit;
use crate::backends::client::Client;
use crate::gateway::ids::Ids;
use crate::gateway::search::Search;
use crate::gateway::seats::{Seat, Seats, Turned};
use crate::gateway::unpolled::Polls;
use crate::http::body::{BodyEnd, Budget};
use crate::http::inbound::Progress;
use crate::http::tunnel::Tunnels;
use crate::jobs::Jobs;
use crate::jobs::clock::Clock;
use crate::jobs::database::Lookups;
use crate::limits;
use crate::routing::table::RoutingTable;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::record::Recorder;

/// The process's state, shared by all threads.
#[derive(Debug)]
pub struct Gateway {
    /// The routing table being served; loaded once per request.
    pub table: Arc<ArcSwap<RoutingTable>>,
    /// Who owns which job.
    pub jobs: Jobs,
    /// The look-up of `input_key` in users' databases.
    pub lookups: Lookups,
    /// Look-ups of jobs that the store does not know.
    pub search: Search,
    /// Whether workers are asked at all.
    pub circuit: Arc<Circuit>,
    /// When jobs were last asked about.
    pub polls: Polls,
    /// WebSocket handshakes for unknown jobs that may run at once.
    pub unknown_sockets: Semaphore,
    /// Bytes held for intercepted requests.
    pub budget: Arc<Budget>,
    /// Client connections that are open, in all and by address.
    pub seats: Seats,
    /// Client connections that were not served.
    pub turned: Turned,
    /// The process's metrics.
    pub metrics: Arc<Metrics>,
    /// Wall and monotonic time.
    pub clock: Clock,
}

impl Gateway {
    /// Joins the parts.
    pub fn new(table: Arc<ArcSwap<RoutingTable>>, jobs: Jobs, lookups: Lookups, metrics: Arc<Metrics>) -> Gateway {
        Gateway {
            table,
            jobs,
            lookups,
            search: Search::new(),
            circuit: Arc::default(),
            polls: Polls::default(),
            unknown_sockets: Semaphore::new(limits::UNKNOWN_JOB_SOCKETS),
            budget: Arc::default(),
            seats: Seats::default(),
            turned: Turned::default(),
            metrics,
            clock: Clock::system(),
        }
    }
}

/// A thread's part: its connections, its log buffer, its tunnels.
#[derive(Debug)]
pub struct Core {
    /// The process's state.
    pub gateway: Arc<Gateway>,
    /// Connections to backends.
    pub client: Client,
    /// Where records go.
    pub recorder: Rc<Recorder>,
    /// WebSockets of this thread.
    pub tunnels: Rc<Tunnels>,
    /// What must be done before the thread ends: connections, tunnels, starts whose client has left.
    pub tasks: Tasks,
    ids: Ids,
}

impl Core {
    /// Starts a thread's part with no connections.
    pub fn new(gateway: Arc<Gateway>, client: Client, recorder: Recorder) -> Core {
        let (recorder, ids) = (Rc::new(recorder), Ids::new());
        Core { gateway, client, recorder, tunnels: Rc::default(), tasks: Tasks::default(), ids }
    }

    /// Makes an id that no other request has: a UUID of version 7 (RFC 9562), so that ids sort by time.
    pub fn fresh_id(&self) -> Rc<str> {
        let id = self.ids.next(SystemTime::now());
        let mut text = [0; uuid::fmt::Hyphenated::LENGTH];
        Rc::from(&*id.hyphenated().encode_lower(&mut text))
    }
}

/// Counts what is under way on one thread.
#[derive(Debug, Clone, Default)]
pub struct Tasks(Rc<TasksState>);

#[derive(Debug, Default)]
struct TasksState {
    running: Cell<usize>,
    ended: Notify,
}

/// Something under way; dropped when it is done.
#[derive(Debug)]
pub struct Task(Rc<TasksState>);

impl Tasks {
    /// Counts one more.
    pub fn begin(&self) -> Task {
        self.0.running.set(self.0.running.get() + 1);
        Task(self.0.clone())
    }

    /// Waits until nothing is under way.
    pub async fn none_left(&self) {
        while self.0.running.get() > 0 {
            self.0.ended.notified().await;
        }
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.0.running.set(self.0.running.get() - 1);
        self.0.ended.notify_one();
    }
}

/// A client's connection, as its requests see it.
#[derive(Debug)]
pub struct Peer {
    /// Its address.
    pub address: IpAddr,
    /// The address as a header value.
    pub address_value: HeaderValue,
    /// `http` or `https`: how it reached us.
    pub scheme: &'static str,
    /// How the ends of its requests' bodies are known.
    pub end: BodyEnd,
    /// What the connection is waiting for.
    pub progress: Arc<Progress>,
    /// Whether the address is a proxy's that did not say whose the connection is: then it stands for nobody, and no
    /// trust follows from it.
    pub is_nameless: bool,
    /// Holds the connection's place under `limits.connections`.
    pub seat: Rc<Seat>,
}

impl Peer {
    /// Says whether the connection comes from one of these networks.
    pub fn is_in(&self, networks: &[IpNet]) -> bool {
        !self.is_nameless && is_in(networks, self.address)
    }
}

/// Says whether an address is in one of the networks; IPv4 that comes as IPv6 counts as IPv4.
pub fn is_in(networks: &[IpNet], address: IpAddr) -> bool {
    !networks.is_empty() && networks.iter().any(|network| network.contains(&address.to_canonical()))
}
