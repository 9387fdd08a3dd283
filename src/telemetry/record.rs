//! The record of one request: its line in the access log and its metrics, written exactly once, when the last
//! byte has left or the client is gone.

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use http::{Method, Uri};

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
    uri: Uri,
    client: IpAddr,
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
    pub fn begin(recorder: Rc<Recorder>, method: Method, uri: Uri, client: IpAddr, request_id: Rc<str>) -> Record {
        Record {
            recorder,
            began: Instant::now(),
            method,
            uri,
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

    /// Returns the process's metrics.
    pub fn metrics(&self) -> &Metrics {
        &self.recorder.metrics
    }

    fn json(&self, buffer: &mut Vec<u8>, took: Duration, status: u16) {
        buffer.extend_from_slice(b"{\"time\":\"");
        let _ = write!(buffer, "{}", humantime::format_rfc3339_millis(SystemTime::now()));
        buffer.extend_from_slice(b"\",\"request_id\":");
        push_json(buffer, &self.request_id);
        let _ = write!(buffer, ",\"client\":\"{}\",\"method\":", self.client);
        push_json(buffer, self.method.as_str());
        buffer.extend_from_slice(b",\"path\":");
        push_json(buffer, self.uri.path());
        let _ = write!(buffer, ",\"route\":\"{}\",\"status\":{status}", self.route.as_str());
        for (name, word) in [
            ("backend", self.backend.map(BackendName::as_str)),
            ("decision", self.decision.map(BackendName::as_str)),
            ("reason", self.reason),
            ("outcome", self.outcome),
            ("fallback", self.fallback),
            ("code", self.code),
        ] {
            if let Some(word) = word {
                let _ = write!(buffer, ",\"{name}\":\"{word}\"");
            }
        }
        for (name, text) in [
            ("export_type", self.export.as_ref().map(ExportType::as_str)),
            ("job_id", self.job.as_ref().map(JobId::as_str)),
            ("user", self.user.as_ref().map(UserId::as_str)),
            ("error", self.error.as_deref()),
        ] {
            if let Some(text) = text {
                let _ = write!(buffer, ",\"{name}\":");
                push_json(buffer, text);
            }
        }
        if let Some(bucket) = self.bucket {
            let _ = write!(buffer, ",\"bucket\":{bucket}");
        }
        if !self.complete && self.status.is_some() {
            buffer.extend_from_slice(b",\"cut\":true");
        }
        let _ = writeln!(buffer, ",\"bytes\":{},\"duration_seconds\":{:.6}}}", self.bytes_out, took.as_secs_f64());
    }

    fn pretty(&self, buffer: &mut Vec<u8>, took: Duration, status: u16) {
        let mut path = String::new();
        // Escaped: a path may hold anything that a terminal would act on.
        let _ = write!(path, "{}", self.uri.path().escape_debug());
        let time = humantime::format_rfc3339_millis(SystemTime::now()).to_string();
        let clock = time.get(11..23).unwrap_or(&time);
        let backend = self.backend.map_or("-", BackendName::as_str);
        let _ = write!(buffer, "{clock} {status} {:>9.1?} {backend:<7} {:<4} {path}", took, self.method.as_str());
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
