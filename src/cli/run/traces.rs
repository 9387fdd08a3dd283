//! Whether traces are sent, and where to: the file says so, or the variables that OpenTelemetry has for it.

use opentelemetry_otlp::{ExporterBuildError, OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_EXPORTER_OTLP_TRACES_ENDPOINT};
use tokio::runtime::Handle;

use crate::backends::collector::Collector;
use crate::backends::dial::Dialer;
use crate::routing::table::BaseUrl;
use crate::telemetry::traces::{Exporter, Traces};

/// Starts what the file's `telemetry.otlp` or the environment asks for; `None`: nobody asks.
///
/// # Errors
/// When what the environment says cannot be used.
pub(super) fn start(
    in_file: Option<&BaseUrl>,
    dialer: &Dialer,
    runtime: &Handle,
) -> Result<(Option<Traces>, Option<Exporter>), ExporterBuildError> {
    let is = |name: &str, value: &str| std::env::var(name).is_ok_and(|text| text.eq_ignore_ascii_case(value));
    let names_a_place = |name: &str| std::env::var(name).is_ok_and(|text| !text.is_empty());
    let is_off = is("OTEL_SDK_DISABLED", "true") || is("OTEL_TRACES_EXPORTER", "none");
    let is_asked = in_file.is_some()
        || names_a_place(OTEL_EXPORTER_OTLP_TRACES_ENDPOINT)
        || names_a_place(OTEL_EXPORTER_OTLP_ENDPOINT);
    if is_off || !is_asked {
        return Ok((None, None));
    }
    let service = Some("export-gateway").filter(|_| !names_a_place("OTEL_SERVICE_NAME"));
    let collector = Collector::new(dialer.clone(), runtime.clone());
    let (traces, exporter) = Traces::start(collector, in_file, service)?;
    tracing::info!(to = in_file.map(|url| url.authority.as_str()), "traces are sent");
    Ok((Some(traces), Some(exporter)))
}
