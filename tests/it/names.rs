//! Workers by name: where the name leads to is followed, and remembered while nobody can say.

use std::fs;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tempfile::NamedTempFile;

use crate::support::client::{self, Response};
use crate::support::eventually;
use crate::support::gateway::{self, Backends, Gateway, set, unset};
use crate::support::scene::start_of;
use crate::support::stand_in::StandIn;

const MOVED: &str = "name has other addresses";
const NOT_RESOLVED: &str = "name not resolved, its last addresses stay";

/// A gateway whose workers have a name, and two places that it may lead to: the same port of two addresses.
struct Bench {
    gateway: Gateway,
    legacy: StandIn,
    places: [StandIn; 2],
    hosts: NamedTempFile,
}

impl Bench {
    fn start() -> Bench {
        let legacy = StandIn::start("l");
        let first = StandIn::start("first");
        let port = first.backend().addr().port();
        let second = StandIn::start_at(SocketAddr::from(([127, 0, 0, 2], port)), "second");
        let hosts = NamedTempFile::new().unwrap();
        fs::write(hosts.path(), "127.0.0.1 workers.example\n").unwrap();
        let url = format!("http://workers.example:{port}");
        let mut table = gateway::table(&Backends { legacy: legacy.url(), workers: url, data: "/nonexistent".into() });
        unset(&mut table, "exports.overlay.input_key");
        unset(&mut table, "exports.overlay.params");
        set(&mut table, "exports.overlay.input_key.field", "key");
        // Nothing but the name's way decides about a kept connection.
        set(&mut table, "backends.workers.idle_timeout", "1h");
        let gateway = Gateway::with_hosts(&table.to_string(), hosts.path());
        Bench { gateway, legacy, places: [first, second], hosts }
    }

    /// Lets the name lead to these addresses, as far as `/etc/hosts` goes.
    fn lead_to(&self, addresses: &[&str]) {
        let lines: String = addresses.iter().map(|address| format!("{address} workers.example\n")).collect();
        fs::write(self.hosts.path(), lines).unwrap();
    }

    fn start_export(&self) -> Response {
        let request = start_of("overlay", r#"{"project_id":12,"key":"clip.mp4"}"#).user("moves");
        let answer = client::send(self.gateway.addr(), &request);
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer
    }

    fn starts(&self) -> [usize; 2] {
        [self.places[0].starts(), self.places[1].starts()]
    }

    fn connections(&self) -> usize {
        self.places[0].backend().connections()
    }
}

#[test]
fn a_new_address_is_used_within_a_second() {
    let bench = Bench::start();
    for _ in 0..20 {
        bench.start_export();
    }
    assert_eq!(bench.starts(), [20, 0]);
    let kept = bench.connections();
    assert!(kept < 20, "connections are kept: {kept}");
    bench.lead_to(&["127.0.0.2"]);
    let began = Instant::now();
    eventually("a start at the new address", || {
        bench.start_export();
        (bench.starts()[1] > 0).then_some(())
    });
    let took = began.elapsed();
    println!("the new address was used after {took:?}");
    assert!(took < Duration::from_secs(3), "one second on an idle machine: {took:?}");
    // From now on nobody goes to the old one, over whatever connection.
    let [old, new] = bench.starts();
    for _ in 0..20 {
        bench.start_export();
    }
    assert_eq!((bench.starts(), bench.legacy.starts()), ([old, new + 20], 0));
    assert_eq!(bench.gateway.events(MOVED).len(), 1);
}

#[test]
fn an_idle_connection_to_an_old_address_is_closed_without_any_request() {
    let bench = Bench::start();
    bench.start_export();
    bench.lead_to(&["127.0.0.2"]);
    bench.gateway.event(MOVED);
    bench.start_export();
    assert_eq!((bench.starts(), bench.legacy.starts()), ([1, 1], 0));
}

#[test]
fn one_more_address_leaves_kept_connections_alone() {
    let bench = Bench::start();
    bench.start_export();
    bench.lead_to(&["127.0.0.2", "127.0.0.1"]);
    bench.gateway.event(MOVED);
    let kept = bench.connections();
    let threads = std::thread::available_parallelism().unwrap().get();
    for _ in 0..20 {
        bench.start_export();
    }
    // A thread without a connection yet may dial either address.
    let starts = bench.starts();
    assert_eq!((starts.iter().sum::<usize>(), bench.legacy.starts()), (21, 0));
    assert!(starts[0] > 1 && bench.connections() < kept + threads, "{starts:?}");
}

#[test]
fn the_last_address_is_kept_while_nobody_knows_the_name() {
    let bench = Bench::start();
    bench.start_export();
    bench.lead_to(&[]);
    bench.gateway.event(NOT_RESOLVED);
    // Kept connections and new ones lead to it.
    bench.start_export();
    bench.places[0].backend().cut_all();
    for _ in 0..10 {
        bench.start_export();
    }
    assert_eq!((bench.starts(), bench.legacy.starts()), ([12, 0], 0));
    bench.lead_to(&["127.0.0.2"]);
    bench.gateway.event(MOVED);
    bench.start_export();
    assert_eq!((bench.starts(), bench.legacy.starts()), ([12, 1], 0));
    assert_eq!(bench.gateway.events(NOT_RESOLVED).len(), 1, "an outage is told of once");
}

#[test]
fn a_name_that_comes_up_late_is_found() {
    let bench = Bench::start();
    bench.lead_to(&[]);
    let answer = bench.start_export();
    assert_eq!(answer.header("x-export-backend"), Some("legacy"));
    bench.lead_to(&["127.0.0.2"]);
    eventually("workers found", || (bench.start_export().header("x-export-backend") == Some("workers")).then_some(()));
    assert_eq!(bench.starts(), [0, 1]);
}
