//! What many tests of starts need: backends put together, requests by name, and what both sides have seen.

use serde_json::Value;
use toml::Table;

use super::client::{self, Request, Response};
use super::eventually;
use super::gateway::{Backends, Gateway, set};
use super::parts::{Part, Set, header_of};

/// Has the client say which file it is, so that no folder is missed.
pub fn no_look_up(table: &mut Table) {
    let mut input_key = Table::new();
    set(&mut input_key, "field", "input_key");
    set(table, "exports.overlay.input_key", input_key);
}

/// Returns the set's backends with another one in workers' place.
pub fn workers_at(parts: &Set, url: impl Into<String>) -> Backends {
    Backends { workers: url.into(), ..Backends::from(parts) }
}

/// Returns the set's backends with another one in legacy's place.
pub fn legacy_at(parts: &Set, url: impl Into<String>) -> Backends {
    Backends { legacy: url.into(), ..Backends::from(parts) }
}

/// Keeps the circuit closed whatever happens: for tests of what single failures do.
pub fn calm(table: &mut Table) {
    set(table, "circuit.minimum", 1_000_000);
    set(table, "circuit.consecutive", 1_000_000);
}

/// Sends every start to legacy.
pub fn everybody_on_legacy(table: &mut Table) {
    set(table, "rollout.workers", false);
}

/// Makes an overlay start of project 12 with a request id to find it by.
pub fn start_as(user: &str, request_id: &str) -> Request {
    start_of("overlay", &client::overlay(12).to_string()).user(user).header("X-Request-Id", request_id)
}

/// Makes a start of a type with a body of JSON.
pub fn start_of(export: &str, body: &str) -> Request {
    let target = format!("/api/export/{export}/start");
    Request::new("POST", &target).header("Content-Type", "application/json").body(body)
}

/// Makes a status poll: the typed form, or the flat one.
pub fn poll_of(user: &str, job: &str, export: Option<&str>) -> Request {
    let target = match export {
        Some(export) => format!("/api/export/{export}/status/{job}"),
        None => format!("/api/export/status/{job}"),
    };
    Request::get(&target).user(user)
}

/// Waits for the line of a request in the access log.
pub fn line_of(gateway: &Gateway, request_id: &str) -> Value {
    gateway.access_log(|line| line["request_id"] == request_id)
}

/// Returns the only request of a target that a part has seen from a user.
pub fn only(part: &Part, target: &str, user: &str) -> Value {
    let mut seen = part.seen_from(target, user);
    assert_eq!(seen.len(), 1, "{target} from {user}: {seen:?}");
    seen.remove(0)
}

/// Returns the only value of a header in a request that was seen.
pub fn header(request: &Value, name: &str) -> String {
    let values = header_of(request, name);
    assert_eq!(values.len(), 1, "{name} in {request}");
    values[0].to_owned()
}

/// Checks an answer that the gateway made itself; returns its sentence.
pub fn assert_own(answer: &Response, status: u16, code: &str) -> String {
    let body = answer.json();
    assert_eq!((answer.status, body["code"].as_str()), (status, Some(code)), "{body}");
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert_eq!(body["request_id"].as_str(), answer.header("x-request-id"), "{body}");
    assert_eq!(body.as_object().map(serde_json::Map::len), Some(3), "{body}");
    body["detail"].as_str().expect("a sentence").to_owned()
}

/// Waits until a part has seen a target from a user so often.
pub fn until_seen(part: &Part, target: &str, user: &str, count: usize) {
    eventually(&format!("{count} {target} from {user}"), || {
        (part.seen_from(target, user).len() >= count).then_some(())
    });
}

/// Returns the fields of a raw head as (name, value), the first line left out.
pub fn fields(head: &[u8]) -> Vec<(String, String)> {
    let text = super::wire::latin1(head);
    let head = text.split("\r\n\r\n").next().unwrap_or_default();
    let split = |line: &str| line.split_once(": ").map(|(name, value)| (name.to_owned(), value.to_owned()));
    head.split("\r\n").skip(1).map(|line| split(line).unwrap_or_else(|| panic!("header line {line:?}"))).collect()
}
