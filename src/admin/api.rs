//! `/api`: the active table, reloads, a decision and a job's owner as JSON. Nothing here is secret.

use http::StatusCode;
use serde_json::{Value, json};

use crate::admin::Admin;
use crate::names::{BackendName, JobId, UserId};
use crate::routing::decide::decide;
use crate::routing::table::RoutingTable;

/// An answer: its status and its JSON.
pub type Answer = (StatusCode, Value);

fn problem(status: StatusCode, detail: &str) -> Answer {
    (status, json!({ "detail": detail }))
}

/// `/api/table`: what is being served.
pub fn table(table: &RoutingTable) -> Answer {
    let exports: serde_json::Map<String, Value> = table
        .exports
        .iter()
        .map(|(kind, export)| {
            (kind.as_str().to_owned(), json!({ "percent": export.share.percent(), "params": export.params }))
        })
        .collect();
    let pinned = |home| table.rollout.pinned.values().filter(|other| **other == home).count();
    let address = |url: &crate::routing::table::BaseUrl| format!("{}{}", url.authority, url.path);
    let body = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "hash": table.hash,
        "rollout": {
            "workers": table.rollout.workers,
            "percent": table.rollout.share.percent(),
            "salt": table.rollout.salt,
            "always_workers": pinned(BackendName::Workers),
            "always_legacy": pinned(BackendName::Legacy),
        },
        "exports": exports,
        "backends": {
            "legacy": address(&table.legacy.url),
            "workers": address(&table.workers.backend.url),
            "fallback": table.workers.fallback,
            "idempotent": table.workers.idempotent,
        },
    });
    (StatusCode::OK, body)
}

/// `/api/reloads`: what is wrong with the file now, and the latest reloads, oldest first.
pub fn reloads(admin: &Admin) -> Answer {
    let state = admin.reload.get();
    let history: Vec<Value> = state
        .history
        .iter()
        .map(|event| {
            json!({
                "time": humantime::format_rfc3339_millis(event.at).to_string(),
                "result": event.outcome.as_str(),
                "hash": event.hash,
                "duration_seconds": event.duration.as_secs_f64(),
                "problems": event.problems,
            })
        })
        .collect();
    let body = json!({ "problems": state.problems, "needs_restart": state.needs_restart, "history": history });
    (StatusCode::OK, body)
}

/// `/api/explain?user=U&type=T`: where a start would go; without a user, one that says none.
pub fn explain(table: &RoutingTable, query: &str) -> Answer {
    let field = |name: &str| {
        let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        pairs.filter(|(key, _)| *key == name).map(|(_, value)| decoded(value)).next_back()
    };
    let kind = field("type").unwrap_or_default();
    let Some(export) = table.exports.get(kind.as_str()) else {
        return problem(
            StatusCode::NOT_FOUND,
            "This export type is not in the file: its requests go to legacy, untouched",
        );
    };
    let user = field("user").and_then(|user| UserId::from_text(&user)).or_else(|| table.identity.default.clone());
    let decision = decide(&table.rollout, export.share, user.as_ref());
    let body = json!({
        "type": kind,
        "user": user.as_ref().map(UserId::as_str),
        "backend": decision.backend.as_str(),
        "reason": decision.reason.as_str(),
        "bucket": decision.bucket,
        "threshold": export.share.hundredths(),
        "config_hash": table.hash,
    });
    (StatusCode::OK, body)
}

/// Decodes a value of a query: `+` is a blank, `%41` a byte; what is no UTF-8 then is replaced.
fn decoded(value: &str) -> String {
    let bytes = value.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        let hex = (*byte == b'%').then(|| value.get(at + 1..at + 3)).flatten();
        // `from_str_radix` would take a sign, too.
        let hex = hex.filter(|hex| hex.bytes().all(|digit| digit.is_ascii_hexdigit()));
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(decoded) => {
                out.push(decoded);
                at += 3;
            }
            None => {
                out.push(if *byte == b'+' { b' ' } else { *byte });
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// `/api/jobs/{id}`: who owns a job.
pub async fn job(admin: &Admin, id: &str) -> Answer {
    let Ok(id) = JobId::parse(id) else { return problem(StatusCode::BAD_REQUEST, "This is not a job id") };
    match admin.gateway.jobs.find(&id).await {
        Ok(Some(job)) => {
            let started = std::time::UNIX_EPOCH + std::time::Duration::from_millis(job.started_ms);
            let body = json!({
                "job_id": job.id.as_str(),
                "backend": job.backend.as_str(),
                "type": job.export.as_ref().map(|kind| kind.as_str()),
                "user": job.user.as_ref().map(UserId::as_str),
                "started": humantime::format_rfc3339_millis(started).to_string(),
                "state": job.state.as_str(),
            });
            (StatusCode::OK, body)
        }
        Ok(None) => problem(StatusCode::NOT_FOUND, "The store does not know this job"),
        Err(error) => problem(StatusCode::SERVICE_UNAVAILABLE, &error.line()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_a_query_are_decoded() {
        assert_eq!(decoded("a+b%2Fc%zz%4"), "a b/c%zz%4");
        assert_eq!(decoded("%+5"), "% 5");
        assert_eq!(decoded("%c3%a9"), "\u{e9}");
    }
}
