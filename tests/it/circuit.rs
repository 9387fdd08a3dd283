//! Workers' circuit from outside: what opens it, what an open one costs, who probes it, and what closes it again.

mod open;
mod opens;
mod probes;

use serde_json::Value;
use toml::Table;

use crate::support::client::{self, Request, Response};
use crate::support::eventually;
use crate::support::gateway::{Backends, Gateway, series, set, unset};
use crate::support::scene::start_of;
use crate::support::stand_in::{Say, StandIn};

const CLOSED: f64 = 0.0;
const HALF_OPEN: f64 = 1.0;
const OPEN: f64 = 2.0;

/// Failures in a row that open it, by default.
const FAILURES: usize = 3;

/// A failure that starts no job, so that each start still ends well on legacy.
const DECLINE: Say = Say::Status(503, "");

/// A gateway between two stand-ins.
struct Bench {
    gateway: Gateway,
    legacy: StandIn,
    workers: StandIn,
}

impl Bench {
    /// Failures in a row open for an hour, unless `change` says otherwise.
    fn with(change: impl FnOnce(&mut Table)) -> Bench {
        let (legacy, workers) = (StandIn::start("l"), StandIn::start("w"));
        let gateway = gateway(&legacy, &workers.url(), change);
        Bench { gateway, legacy, workers }
    }

    fn start(&self, id: &str) -> Response {
        start(&self.gateway, id)
    }

    /// Starts an export and returns who took it.
    fn taken_by(&self, id: &str) -> String {
        let answer = self.start(id);
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.header("x-export-backend").expect("a backend").to_owned()
    }

    fn state(&self) -> f64 {
        state(&self.gateway)
    }

    /// Counts the starts at legacy and at workers.
    fn starts(&self) -> (usize, usize) {
        (self.legacy.starts(), self.workers.starts())
    }

    /// Returns how long each opening so far was announced to be, seconds.
    fn openings(&self) -> Vec<f64> {
        let events = self.gateway.events("circuit of workers opened");
        events.iter().map(|event| event["open_seconds"].as_f64().expect("seconds")).collect()
    }

    /// Lets as many starts fail as open the circuit.
    fn open(&self) {
        self.workers.say(DECLINE);
        let before = self.openings().len();
        for _ in 0..FAILURES {
            assert_eq!(self.taken_by("fails"), "legacy");
        }
        eventually("the opening in the log", || (self.openings().len() > before).then_some(()));
    }

    fn wait_for(&self, wanted: f64) {
        eventually(&format!("circuit state {wanted}"), || (self.state() == wanted).then_some(()));
    }
}

fn gateway(legacy: &StandIn, workers: &str, change: impl FnOnce(&mut Table)) -> Gateway {
    let backends = Backends { legacy: legacy.url(), workers: workers.into(), data: "/nonexistent".into() };
    Gateway::with(backends, |table| {
        unset(table, "exports.overlay.input_key");
        unset(table, "exports.overlay.params");
        set(table, "exports.overlay.input_key.field", "key");
        set(table, "rollout.always_legacy", vec![toml::Value::from("stays")]);
        set(table, "circuit.minimum", 1_000_000);
        for key in ["circuit.open", "circuit.open_max"] {
            set(table, key, "1h");
        }
        change(table);
    })
}

fn start_by(user: &str, id: &str) -> Request {
    start_of("overlay", r#"{"project_id":12,"key":"clip.mp4"}"#).user(user).header("X-Request-Id", id)
}

fn start(gateway: &Gateway, id: &str) -> Response {
    client::send(gateway.addr(), &start_by("moves", id))
}

fn state(gateway: &Gateway) -> f64 {
    let metrics = gateway.metrics();
    let series = series(&metrics, "export_gateway_circuit_state");
    let of_workers: Vec<_> = series.iter().filter(|(labels, _)| labels["backend"] == "workers").collect();
    assert_eq!(of_workers.len(), 1, "{series:?}");
    of_workers[0].1
}

fn readyz(gateway: &Gateway) -> (u16, Value) {
    let answer = client::get(gateway.admin(), "/readyz");
    (answer.status, answer.json())
}
