//! x

use clap::Parser;

fn main() -> std::process::ExitCode {
    export_gateway::cli::Args::parse().run_offline().unwrap_or(std::process::ExitCode::SUCCESS)
}
