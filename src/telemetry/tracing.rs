//! Events (start, reload, errors) through `tracing`, to stderr: JSON lines, or text on a terminal.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use crate::telemetry::access_log::Format;

/// What is logged by default. What h2 warns of is a client's doing, names none, and comes as often as clients like.
const FILTER: &str = "info,h2=error";

/// Sets the process's subscriber up; `EXPORT_GATEWAY_LOG` filters (default `info`, `h2` from `error` on).
pub fn init(format: Format) {
    let filter = EnvFilter::try_from_env("EXPORT_GATEWAY_LOG").unwrap_or_else(|_| EnvFilter::new(FILTER));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    // It fails only when a subscriber is set already, as in tests that share a process.
    let _ = match format {
        Format::Json => builder.json().flatten_event(true).try_init(),
        // Whether stdout is a terminal says nothing of stderr: `2> file` must get plain text.
        Format::Pretty if std::io::stderr().is_terminal() => builder.try_init(),
        Format::Pretty => builder.with_ansi(false).try_init(),
    };
}
