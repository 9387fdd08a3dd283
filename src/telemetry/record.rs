//! The record of one request: its line in the access log and its metrics, written exactly once, when the last
//! byte has left or the client is gone.

use std::fmt::Write as _;
use std::io::Write as _;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::uri::PathAndQuery;
use http::{HeaderValue, Method, Request};

use crate::names::{BackendName, ExportType, JobId, UserId};
use crate::telemetry::access_log::{Format, Lines, push_json};
use crate::telemetry::metrics::{Metrics, RequestMetrics};

/// The status that the log shows for a client that left before its answer (as nginx does).
pub const CLIENT_GONE: u16 = 499;

/// A thread's outlets for records.
#[derive(Debug)]
pub struct Recorder {
    /// The access log's buffer of this thread.
    pub lines: Lines,
    /// The process's metrics.
    pub metrics: Arc<Metrics>,
    /// This thread's handles of the per-request ones.
    pub requests: RequestMetrics,
}

/// What kind of request it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RouteName {
    /// A start of an export.
    Start,
    /// A status poll.
    Status,
    /// A job's WebSocket.
    JobSocket,
    /// A CORS preflight answered here.
    Preflight,
    /// Everything else.
    Pass,
    /// Refused before it had a route.
    Refused,
}

impl RouteName {
    /// Returns the word in logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            RouteName::Start => "start",
            RouteName::Status => "status",
            RouteName::JobSocket => "job_socket",
            RouteName::Preflight => "preflight",
            RouteName::Pass => "pass",
            RouteName::Refused => "refused",
        }
    }
}

/// What is known of a request. Fields that stay empty are left out of its line.
#[derive(Debug)]
pub struct Record {
    recorder: Rc<Recorder>,
    began: Instant,
    method: Method,
    /// `None` for a target that is no path.
    target: Option<PathAndQuery>,
    client: HeaderValue,
    /// `X-Request-Id`, as backends and the client see it.
    pub request_id: Rc<str>,
    /// What kind of request it is.
    pub route: RouteName,
    /// The backend that answered, or was to.
    pub backend: Option<BackendName>,
    /// The backend that was decided for a start.
    pub decision: Option<BackendName>,
    /// Why.
    pub reason: Option<&'static str>,
    /// The user's place in the rollout, 0..=9999.
    pub bucket: Option<u16>,
    /// The user.
    pub user: Option<UserId>,
    /// The export type.
    pub export: Option<ExportType>,
    /// The job.
    pub job: Option<JobId>,
    /// How a start ended.
    pub outcome: Option<&'static str>,
    /// Why a start went to legacy although workers were decided.
    pub fallback: Option<&'static str>,
    /// The `code` of a refusal.
    pub code: Option<&'static str>,
    /// The cause of a failure, for operators.
    pub error: Option<String>,
    /// The answer's status; `None` until there is one.
    pub status: Option<u16>,
    /// Bytes of the answer's body that went out.
    pub bytes_out: u64,
    /// Whether the answer was sent to its end.
    pub complete: bool,
}

impl Record {
    /// Begins the record of a request.
    pub fn begin<B>(recorder: Rc<Recorder>, request: &Request<B>, client: HeaderValue, request_id: Rc<str>) -> Record {
        Record {
            recorder,
            began: Instant::now(),
            method: request.method().clone(),
            target: request.uri().path_and_query().cloned(),
            client,
            request_id,
            route: RouteName::Refused,
            backend: None,
            decision: None,
            reason: None,
            bucket: None,
            user: None,
            export: None,
            job: None,
            outcome: None,
            fallback: None,
            code: None,
            error: None,
            status: None,
            bytes_out: 0,
            complete: false,
        }
    }

    /// Copies the target out of the request head's buffer: a record that lives as long as a WebSocket would keep all of
    /// the buffer, 8 KiB, for a path.
    pub fn own_target(&mut self) {
        // It has been a target, so it is one.
        if let Some(Ok(own)) = self.target.as_ref().map(|target| target.as_str().parse()) {
            self.target = Some(own);
        }
    }

    /// Says whether the answer's body stays behind.
    pub fn is_head(&self) -> bool {
        self.method == Method::HEAD
    }

    fn path(&self) -> &str {
        self.target.as_ref().map_or("", PathAndQuery::path)
    }

    /// Returns the process's metrics.
    pub fn metrics(&self) -> &Metrics {
        &self.recorder.metrics
    }

    fn json(&self, buffer: &mut Vec<u8>, took: Duration, status: u16) {
        buffer.extend_from_slice(b"{\"time\":\"");
        self.recorder.lines.push_time(buffer);
        buffer.extend_from_slice(b"\",\"request_id\":");
        push_json(buffer, &self.request_id);
        buffer.extend_from_slice(b",\"client\":\"");
        buffer.extend_from_slice(self.client.as_bytes());
        buffer.extend_from_slice(b"\",\"method\":");
        push_json(buffer, self.method.as_str());
        buffer.extend_from_slice(b",\"path\":");
        push_json(buffer, self.path());
        push_word(buffer, "route", Some(self.route.as_str()));
        push_number(buffer, "status", u64::from(status));
        push_word(buffer, "backend", self.backend.map(BackendName::as_str));
        push_word(buffer, "decision", self.decision.map(BackendName::as_str));
        push_word(buffer, "reason", self.reason);
        push_word(buffer, "outcome", self.outcome);
        push_word(buffer, "fallback", self.fallback);
        push_word(buffer, "code", self.code);
        push_text(buffer, "export_type", self.export.as_ref().map(ExportType::as_str));
        push_text(buffer, "job_id", self.job.as_ref().map(JobId::as_str));
        push_text(buffer, "user", self.user.as_ref().map(UserId::as_str));
        push_text(buffer, "error", self.error.as_deref());
        if let Some(bucket) = self.bucket {
            push_number(buffer, "bucket", u64::from(bucket));
        }
        if !self.complete && self.status.is_some() {
            buffer.extend_from_slice(b",\"cut\":true");
        }
        push_number(buffer, "bytes", self.bytes_out);
        buffer.extend_from_slice(b",\"duration_seconds\":");
        push_seconds(buffer, took);
        buffer.extend_from_slice(b"}\n");
    }

    fn pretty(&self, buffer: &mut Vec<u8>, took: Duration, status: u16) {
        let mut path = String::new();
        // Escaped: a path may hold anything that a terminal would act on.
        let _ = write!(path, "{}", self.path().escape_debug());
        let mut time = Vec::new();
        self.recorder.lines.push_time(&mut time);
        buffer.extend_from_slice(time.get(11..23).unwrap_or(&time));
        let backend = self.backend.map_or("-", BackendName::as_str);
        let _ = write!(buffer, " {status} {:>9.1?} {backend:<7} {:<4} {path}", took, self.method.as_str());
        for (name, word) in [
            ("reason", self.reason),
            ("outcome", self.outcome),
            ("fallback", self.fallback),
            ("code", self.code),
            ("job", self.job.as_ref().map(JobId::as_str)),
            ("user", self.user.as_ref().map(UserId::as_str)),
        ] {
            if let Some(word) = word {
                let _ = write!(buffer, " {name}={word}");
            }
        }
        buffer.push(b'\n');
    }
}

/// Adds a field whose value is one of our own words.
fn push_word(buffer: &mut Vec<u8>, name: &str, word: Option<&str>) {
    let Some(word) = word else { return };
    push_name(buffer, name);
    buffer.push(b'"');
    buffer.extend_from_slice(word.as_bytes());
    buffer.push(b'"');
}

/// Adds a field whose value came from outside.
fn push_text(buffer: &mut Vec<u8>, name: &str, text: Option<&str>) {
    let Some(text) = text else { return };
    push_name(buffer, name);
    push_json(buffer, text);
}

fn push_number(buffer: &mut Vec<u8>, name: &str, number: u64) {
    push_name(buffer, name);
    buffer.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

fn push_name(buffer: &mut Vec<u8>, name: &str) {
    buffer.extend_from_slice(b",\"");
    buffer.extend_from_slice(name.as_bytes());
    buffer.extend_from_slice(b"\":");
}

/// Writes seconds with six decimals. Formatting an `f64` would cost as much as the rest of the line.
fn push_seconds(buffer: &mut Vec<u8>, took: Duration) {
    buffer.extend_from_slice(itoa::Buffer::new().format(took.as_secs()).as_bytes());
    let mut micros = took.subsec_micros();
    let mut digits = *b".000000";
    for digit in digits[1..].iter_mut().rev() {
        *digit = b'0' + (micros % 10) as u8;
        micros /= 10;
    }
    buffer.extend_from_slice(&digits);
}

impl Drop for Record {
    fn drop(&mut self) {
        let took = self.began.elapsed();
        let status = self.status.unwrap_or(CLIENT_GONE);
        let recorder = self.recorder.clone();
        recorder.lines.add(|buffer| match recorder.lines.format() {
            Format::Json => self.json(buffer, took, status),
            Format::Pretty => self.pretty(buffer, took, status),
        });
        recorder.requests.count(&recorder.metrics, (self.route, self.backend, status), took.as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_have_six_decimals() {
        for (nanos, text) in
            [(0, "0.000000"), (1_000, "0.000001"), (1_234_567_891, "1.234567"), (90_000_000_000, "90.000000")]
        {
            let mut buffer = Vec::new();
            push_seconds(&mut buffer, Duration::from_nanos(nanos));
            assert_eq!(String::from_utf8_lossy(&buffer), text);
        }
    }
}
