//! Readiness: not ready only while starting or draining; degraded, with reasons, while something needs a person.

use std::time::Instant;

use http::StatusCode;
use serde_json::json;

use crate::admin::Admin;
use crate::backends::circuit::CircuitState;
use crate::config;
use crate::routing::table::RoutingTable;
use crate::server::Stage;

/// Whether the process should get requests, and what an operator should know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Readiness {
    /// All is well.
    Ready,
    /// It serves, but something needs a person.
    Degraded(Vec<Reason>),
    /// It is going away.
    Draining,
}

/// One thing that needs a person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason {
    /// A word for programs.
    pub code: &'static str,
    /// A sentence for people.
    pub detail: String,
}

impl Readiness {
    /// Returns 503 while draining, else 200: a typo in a file must not take every replica out.
    pub fn status(&self) -> StatusCode {
        match self {
            Readiness::Ready | Readiness::Degraded(_) => StatusCode::OK,
            Readiness::Draining => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// Writes `{"status", "reasons"}`; without detail for those who have not shown who they are.
    pub fn json(&self, detail: bool) -> String {
        let (status, reasons) = match self {
            Readiness::Ready => ("ready", &[][..]),
            Readiness::Degraded(reasons) => ("degraded", &reasons[..]),
            Readiness::Draining => ("draining", &[][..]),
        };
        if !detail {
            return json!({ "status": status }).to_string();
        }
        let reasons: Vec<_> =
            reasons.iter().map(|reason| json!({ "code": reason.code, "detail": reason.detail })).collect();
        json!({ "status": status, "reasons": reasons }).to_string()
    }
}

/// Finds out how the process is.
pub fn readiness(admin: &Admin, table: &RoutingTable) -> Readiness {
    if *admin.stage.borrow() > Stage::Serving {
        return Readiness::Draining;
    }
    let mut reasons = Vec::new();
    let mut add = |code, detail| reasons.push(Reason { code, detail });
    let reloads = admin.reload.get();
    for problem in reloads.problems {
        add("config_refused", problem);
    }
    for line in reloads.stale {
        add("key_file_refused", line);
    }
    for key in reloads.needs_restart {
        add("config_needs_restart", format!("{key} has changed in the file: it applies after a restart"));
    }
    for warning in config::environment_warnings(table) {
        add("config_warning", warning.to_string());
    }
    match admin.gateway.circuit.state(&table.workers.backend.url, Instant::now()) {
        CircuitState::Closed => {}
        state @ (CircuitState::Open | CircuitState::HalfOpen) => {
            add("circuit_open", format!("workers fail: their circuit is {}, new starts go to legacy", state.as_str()));
        }
    }
    if let Err(cause) = admin.gateway.jobs.health() {
        add("store_unavailable", cause);
    }
    for warning in admin.gateway.jobs.warnings() {
        add("store_not_durable", warning);
    }
    let owed = admin.gateway.jobs.owed();
    if owed > 0 {
        add("owners_not_stored", format!("{owed} job owners wait to be written"));
    }
    if reasons.is_empty() { Readiness::Ready } else { Readiness::Degraded(reasons) }
}
