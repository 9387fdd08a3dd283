//! The sections that say where what operators read goes.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::config::texts::Line;
use crate::config::values::Written;
use crate::routing::table::BaseUrl;

/// `[log]`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct LogFile {
    /// Where the access log goes: `stdout`, or a file that is opened anew when it was renamed. Needs a restart.
    pub(crate) access: Written<Line>,
}

impl Default for LogFile {
    fn default() -> LogFile {
        LogFile { access: Written(Line(STDOUT.to_owned())) }
    }
}

/// The word for standard output; a file of that name is `./stdout`.
pub(crate) const STDOUT: &str = "stdout";

/// `[telemetry]`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct TelemetryFile {
    /// A collector that traces are sent to by OTLP over HTTP, without its `/v1/traces`; left out: where
    /// `OTEL_EXPORTER_OTLP_ENDPOINT` says, else nowhere. Needs a restart.
    pub(crate) otlp: Option<Written<BaseUrl>>,
}
