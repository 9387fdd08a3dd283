//! Metrics, by the names that dashboards and alerts rely on. Labels are bounded: never a user, a path or a job id.

use std::cell::RefCell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder,
};

use crate::names::BackendName;
use crate::routing::table::RoutingTable;
use crate::telemetry::record::RouteName;

const BUCKETS: [f64; 14] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

/// All metrics of the process.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: IntCounterVec,
    durations: HistogramVec,
    /// Starts by type, backend that got them last, reason of the decision and outcome.
    pub starts: IntCounterVec,
    /// Starts that went to legacy because workers did not take them, by type and cause.
    pub fallbacks: IntCounterVec,
    /// Jobs not known to be over.
    pub jobs_open: IntGaugeVec,
    /// Jobs seen to end.
    pub job_outcomes: IntCounterVec,
    /// 0 closed, 1 half open, 2 open.
    pub circuit_state: IntGaugeVec,
    reloads: IntCounterVec,
    last_reload_successful: IntGauge,
    config_info: IntGaugeVec,
    rollout_percent: GaugeVec,
    /// WebSockets that are tunnelled now.
    pub websockets_open: IntGauge,
    /// Client connections that are open now.
    pub connections_open: IntGauge,
    /// Client connections that were not served, by reason.
    pub connections_refused: IntCounterVec,
    /// TLS handshakes of clients, by what they came to.
    pub tls_handshakes: IntCounterVec,
    log_lines_lost: Gauge,
    lost: Arc<AtomicU64>,
    shown: Mutex<Shown>,
}

/// What of a table is shown as labels.
#[derive(Debug, Default)]
struct Shown {
    hash: String,
    types: Vec<String>,
}

fn opts(name: &str, help: &str) -> Opts {
    Opts::new(format!("export_gateway_{name}"), help)
}

impl Metrics {
    /// Registers all metrics; `lost` counts dropped access-log lines.
    ///
    /// # Errors
    /// A name that is registered twice or malformed, which is a bug.
    pub fn new(lost: Arc<AtomicU64>) -> Result<Metrics, prometheus::Error> {
        let histogram = HistogramOpts::new(
            "export_gateway_request_duration_seconds",
            "From a request's head to its answer's last byte.",
        );
        let metrics = Metrics {
            registry: Registry::new(),
            requests: IntCounterVec::new(
                opts("requests_total", "Requests by route, backend and status."),
                &["route", "backend", "status"],
            )?,
            durations: HistogramVec::new(histogram.buckets(BUCKETS.to_vec()), &["route", "backend"])?,
            starts: IntCounterVec::new(
                opts("starts_total", "Starts by export type, backend, reason and outcome."),
                &["type", "backend", "reason", "outcome"],
            )?,
            fallbacks: IntCounterVec::new(
                opts("fallbacks_total", "Starts that fell back to legacy, by cause."),
                &["type", "cause"],
            )?,
            jobs_open: IntGaugeVec::new(opts("jobs_open", "Jobs not known to be over."), &["backend"])?,
            job_outcomes: IntCounterVec::new(
                opts("job_outcomes_total", "Jobs seen to end, by final status."),
                &["backend", "type", "status"],
            )?,
            circuit_state: IntGaugeVec::new(opts("circuit_state", "0 closed, 1 half open, 2 open."), &["backend"])?,
            reloads: IntCounterVec::new(opts("config_reloads_total", "Reloads by result."), &["result"])?,
            last_reload_successful: IntGauge::with_opts(opts(
                "config_last_reload_successful",
                "1 if the file as it stands is being served, 0 if it was refused.",
            ))?,
            config_info: IntGaugeVec::new(opts("config_info", "The file being served, by its hash."), &["hash"])?,
            rollout_percent: GaugeVec::new(opts("rollout_percent", "Share of users on workers."), &["type"])?,
            websockets_open: IntGauge::with_opts(opts("websockets_open", "WebSockets tunnelled now."))?,
            connections_open: IntGauge::with_opts(opts("connections_open", "Client connections open now."))?,
            connections_refused: IntCounterVec::new(
                opts("connections_refused_total", "Client connections that were not served, by reason."),
                &["reason"],
            )?,
            tls_handshakes: IntCounterVec::new(
                opts("tls_handshakes_total", "TLS handshakes of clients, by result: http1, h2, failed, timed_out."),
                &["result"],
            )?,
            log_lines_lost: Gauge::with_opts(opts("log_lines_lost", "Access-log lines dropped since the start."))?,
            lost,
            shown: Mutex::default(),
        };
        metrics.register()?;
        Ok(metrics)
    }

    fn register(&self) -> Result<(), prometheus::Error> {
        let registry = &self.registry;
        registry.register(Box::new(self.requests.clone()))?;
        registry.register(Box::new(self.durations.clone()))?;
        registry.register(Box::new(self.starts.clone()))?;
        registry.register(Box::new(self.fallbacks.clone()))?;
        registry.register(Box::new(self.jobs_open.clone()))?;
        registry.register(Box::new(self.job_outcomes.clone()))?;
        registry.register(Box::new(self.circuit_state.clone()))?;
        registry.register(Box::new(self.reloads.clone()))?;
        registry.register(Box::new(self.last_reload_successful.clone()))?;
        registry.register(Box::new(self.config_info.clone()))?;
        registry.register(Box::new(self.rollout_percent.clone()))?;
        registry.register(Box::new(self.websockets_open.clone()))?;
        registry.register(Box::new(self.connections_open.clone()))?;
        registry.register(Box::new(self.connections_refused.clone()))?;
        registry.register(Box::new(self.tls_handshakes.clone()))?;
        registry.register(Box::new(self.log_lines_lost.clone()))
    }

    /// Notes that a table is being served from now on.
    pub fn table_applied(&self, table: &RoutingTable) {
        let types = table.exports.keys().map(|export| export.as_str().to_owned()).collect();
        let shown = Shown { hash: table.hash.clone(), types };
        let before = std::mem::replace(&mut *self.shown.lock().unwrap_or_else(PoisonError::into_inner), shown);
        self.config_info.with_label_values(&[table.hash.as_str()]).set(1);
        for (export, settings) in &table.exports {
            let share = if table.rollout.workers { settings.share.percent() } else { 0.0 };
            self.rollout_percent.with_label_values(&[export.as_str()]).set(share);
        }
        // The new series first, then the old ones go: a scrape in between misses nothing.
        if before.hash != table.hash {
            let _ = self.config_info.remove_label_values(&[before.hash.as_str()]);
        }
        for gone in before.types.iter().filter(|name| !table.exports.contains_key(name.as_str())) {
            let _ = self.rollout_percent.remove_label_values(&[gone.as_str()]);
        }
        self.last_reload_successful.set(1);
    }

    /// Takes over how often reloads came to `result`, and whether the file as it stands now is being served.
    pub fn reloads(&self, result: &str, count: u64, serving: bool) {
        let counter = self.reloads.with_label_values(&[result]);
        counter.inc_by(count.saturating_sub(counter.get()));
        self.last_reload_successful.set(i64::from(serving));
    }

    /// Writes the Prometheus text format.
    pub fn render(&self) -> String {
        #[allow(clippy::cast_precision_loss)]
        self.log_lines_lost.set(self.lost.load(Ordering::Relaxed) as f64);
        TextEncoder::new().encode_to_string(&self.registry.gather()).unwrap_or_default()
    }
}

/// A thread's handles of the per-request metrics, looked up once each.
#[derive(Debug, Default)]
pub struct RequestMetrics {
    /// A few dozen at the most, the common ones first: looked through faster than a key is hashed.
    handles: RefCell<Vec<(Key, IntCounter, Histogram)>>,
}

type Key = (RouteName, Option<BackendName>, u16);

impl RequestMetrics {
    /// Counts a finished request.
    pub fn count(&self, metrics: &Metrics, key: Key, seconds: f64) {
        let mut handles = self.handles.borrow_mut();
        let known = handles.iter().position(|(other, ..)| *other == key);
        let at = known.unwrap_or_else(|| {
            let (route, backend, status) =
                (key.0.as_str(), key.1.map_or("none", BackendName::as_str), key.2.to_string());
            let requests = metrics.requests.with_label_values(&[route, backend, status.as_str()]);
            handles.push((key, requests, metrics.durations.with_label_values(&[route, backend])));
            handles.len() - 1
        });
        let (_, requests, durations) = &handles[at];
        requests.inc();
        durations.observe(seconds);
    }
}
