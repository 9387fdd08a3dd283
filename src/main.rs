//! stub main
use std::process::ExitCode;
fn main() -> ExitCode {
    let path = std::path::PathBuf::from(
        std::env::args().skip_while(|a| a != "--config").nth(1).unwrap_or("gateway.toml".into()),
    );
    export_gateway::telemetry::tracing::init(export_gateway::telemetry::access_log::Format::Json);
    let bytes = std::fs::read(&path).expect("file");
    let base = std::path::absolute(&path).expect("abs");
    let base = base.parent().expect("parent");
    let source = export_gateway::config::Source { bytes: &bytes, name: "gateway.toml", base_dir: base };
    match export_gateway::config::load(&source, &|n| std::env::var(n).ok()) {
        Ok((table, _)) => {
            export_gateway::cli::run::run(&path, table, export_gateway::telemetry::access_log::Format::Json)
        }
        Err(p) => {
            for p in p {
                eprintln!("{p}");
            }
            ExitCode::from(64)
        }
    }
}
