//! `export-gateway`: arguments, then a command or the server.

use std::process::ExitCode;

use clap::Parser;
use export_gateway::cli::{self, Args};
use export_gateway::config;
use export_gateway::telemetry;

/// Idle WebSockets keep a quarter of the memory that they keep with glibc's, and it goes back when they close.
#[cfg(not(feature = "system-allocator"))]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    if let Some(code) = export_gateway::server::upgrade::go_between() {
        return code;
    }
    let args = Args::parse();
    if let Some(code) = args.run_offline() {
        return code;
    }
    let (table, warnings) = match cli::load_to_serve(&args.config) {
        Ok(loaded) => loaded,
        Err(code) => return code,
    };
    telemetry::tracing::init(args.log_format());
    let environment = config::environment_warnings(&table).into_iter().chain(config::mount_warning(&args.config));
    for warning in warnings.into_iter().chain(environment) {
        tracing::warn!(key = warning.key, "{warning}");
    }
    cli::run::run(&args.config, table, args.log_format())
}
