//! The command line: what can be asked for, and the commands that need no running gateway.

pub mod check;
pub mod diff;
pub mod explain;
pub mod healthcheck;
pub mod jobs;
pub mod man;
pub mod run;
mod copy;
mod source;

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::{self, Problem, Warning};
use crate::names::BackendName;
use crate::routing::table::RoutingTable;
use crate::telemetry::access_log::Format;

/// Exit code for a configuration that cannot be used (`EX_USAGE` of sysexits.h).
pub const EXIT_CONFIG: u8 = 64;

const EXAMPLES: &str = "\
Examples:
  export-gateway                                      serve as gateway.toml says
  export-gateway check --config new.toml              find every problem of a file, before it is live
  export-gateway explain --user ann --type overlay    say where ann's next export starts, and why
  export-gateway diff gateway.toml new.toml          say who would move
  export-gateway jobs show 0192f0c1                   say which backend owns a job
  export-gateway jobs list --open --backend workers   list what would be lost if workers went away
  export-gateway jobs copy --from data/jobs.db        take the records along to the store of gateway.toml

The file is live within a second of being saved; kill -HUP makes the gateway look at once.";

/// A reverse proxy that moves video exports from one backend to another, job by job.
#[derive(Debug, Parser)]
#[command(name = "export-gateway", version, about, after_help = EXAMPLES)]
pub struct Args {
    /// The configuration file
    #[arg(long, global = true, env = "EXPORT_GATEWAY_CONFIG", default_value = "gateway.toml", value_name = "FILE")]
    pub config: PathBuf,
    /// How the log is written; pretty on a terminal, else json
    #[arg(long, global = true, value_parser = parse_format, value_name = "json|pretty")]
    pub log_format: Option<Format>,
    /// What to do; without one: `run`
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// A command.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve; this is what happens without a command
    Run,
    /// Say what the file means, or everything that is wrong with it (exit code 64)
    Check,
    /// Say where a start would go, and why
    Explain(ExplainArgs),
    /// Say who would move if one file took another's place
    Diff(DiffArgs),
    /// Ask a running gateway whether it is ready; for containers
    Healthcheck,
    /// Print a script that completes commands in a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page, for packagers
    #[command(hide = true)]
    Man,
    /// Ask the job store
    #[command(subcommand)]
    Jobs(JobsCommand),
}

/// Arguments of `explain`.
#[derive(Debug, clap::Args)]
pub struct ExplainArgs {
    /// The user, as the identity header would carry it
    #[arg(long, required_unless_present = "anonymous")]
    pub user: Option<String>,
    /// The export type, such as overlay
    #[arg(long = "type", value_name = "TYPE")]
    pub export: String,
    /// A request that says no user
    #[arg(long, conflicts_with = "user")]
    pub anonymous: bool,
    /// Answer as one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `diff`.
#[derive(Debug, clap::Args)]
pub struct DiffArgs {
    /// The file that serves
    pub old: PathBuf,
    /// The file that is to take its place
    pub new: PathBuf,
    /// A file with one user a line: who of them would move
    #[arg(long, value_name = "FILE")]
    pub users: Option<PathBuf>,
}

/// Commands of `jobs`.
#[derive(Debug, Subcommand)]
pub enum JobsCommand {
    /// Say who started a job, where and when
    Show {
        /// The job's id
        id: String,
    },
    /// Copy every record from one store to another, as when one machine becomes many; may be repeated
    Copy {
        /// The store to read: a file or a Redis; left out: the one that the configuration names
        #[arg(long, value_name = "STORE", required_unless_present = "to")]
        from: Option<String>,
        /// The store to write to, likewise; a file must not be in use by a gateway
        #[arg(long, value_name = "STORE")]
        to: Option<String>,
    },
    /// List jobs that are not known to be over
    List {
        /// Open jobs only; there is no other list yet
        #[arg(long, required = true)]
        open: bool,
        /// Jobs of one backend only: legacy or workers
        #[arg(long, value_parser = parse_backend)]
        backend: Option<BackendName>,
        /// Answer as JSON
        #[arg(long)]
        json: bool,
    },
}

impl Args {
    /// Returns how the log is written: as asked for, else pretty on a terminal.
    pub fn log_format(&self) -> Format {
        let default = if std::io::stdout().is_terminal() { Format::Pretty } else { Format::Json };
        self.log_format.unwrap_or(default)
    }

    /// Runs a command that needs no running gateway; `None` when the gateway is to run.
    pub fn run_offline(&self) -> Option<ExitCode> {
        match &self.command {
            None | Some(Command::Run) => None,
            Some(Command::Check) => Some(check::run(&self.config)),
            Some(Command::Explain(args)) => Some(with_table(&self.config, |table| explain::run(table, args))),
            Some(Command::Diff(args)) => Some(diff::run(args)),
            Some(Command::Healthcheck) => Some(with_table(&self.config, healthcheck::run)),
            Some(Command::Completions { shell }) => {
                let mut script = Vec::new();
                let mut command = <Args as clap::CommandFactory>::command();
                clap_complete::generate(*shell, &mut command, "export-gateway", &mut script);
                Some(write_out(&String::from_utf8_lossy(&script)))
            }
            Some(Command::Man) => Some(man::run()),
            Some(Command::Jobs(JobsCommand::Show { id })) => {
                Some(with_table(&self.config, |table| jobs::show(table, id)))
            }
            Some(Command::Jobs(JobsCommand::Copy { from, to })) => {
                Some(with_table(&self.config, |table| copy::run(table, from.as_deref(), to.as_deref())))
            }
            Some(Command::Jobs(JobsCommand::List { open: _, backend, json })) => {
                Some(with_table(&self.config, |table| jobs::list(table, *backend, *json)))
            }
        }
    }
}

fn parse_format(text: &str) -> Result<Format, String> {
    match text {
        "json" => Ok(Format::Json),
        "pretty" => Ok(Format::Pretty),
        _ => Err("a format is json or pretty".to_owned()),
    }
}

fn parse_backend(text: &str) -> Result<BackendName, String> {
    BackendName::parse(text).ok_or_else(|| "a backend is legacy or workers".to_owned())
}

/// Looks an environment variable up; one that is not Unicode counts as not set.
pub fn process_env(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Loads the configuration to serve by it.
///
/// # Errors
/// Exit code 64, after every problem was written to standard error.
pub fn load_to_serve(path: &Path) -> Result<(RoutingTable, Vec<Warning>), ExitCode> {
    load_or(path, "the gateway does not start")
}

/// Loads the configuration to look at it; the errors are those of [`load_to_serve`].
fn load(path: &Path) -> Result<(RoutingTable, Vec<Warning>), ExitCode> {
    load_or(path, "nothing was changed")
}

fn load_or(path: &Path, consequence: &str) -> Result<(RoutingTable, Vec<Warning>), ExitCode> {
    config::load_file(path, &process_env).map_err(|problems| {
        write_problems(path, &problems, consequence);
        ExitCode::from(EXIT_CONFIG)
    })
}

fn with_table(path: &Path, command: impl FnOnce(&RoutingTable) -> ExitCode) -> ExitCode {
    match load(path) {
        Ok((table, _)) => command(&table),
        Err(code) => code,
    }
}

/// Writes every problem in its long form, then how many there are and what that means.
fn write_problems(path: &Path, problems: &[Problem], consequence: &str) {
    let mut text = String::new();
    for problem in problems {
        text += &problem.long();
        text.push('\n');
    }
    let count = match problems.len() {
        1 => "1 problem".to_owned(),
        many => format!("{many} problems"),
    };
    text += &format!("{count} in {}; {consequence}.\n", path.display());
    // Standard error may be closed; the exit code still tells.
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}

/// Writes to standard output; a closed one is a failure.
fn write_out(text: &str) -> ExitCode {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn the_file_may_be_named_before_and_after_a_command() {
        for line in ["--config a.toml check", "check --config a.toml", "jobs list --open --config a.toml"] {
            let args = Args::try_parse_from(std::iter::once("export-gateway").chain(line.split(' '))).expect(line);
            assert_eq!(args.config, Path::new("a.toml"), "{line}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for line in [
            "explain --type overlay",
            "explain --user a --anonymous --type overlay",
            "explain --user a",
            "jobs list",
            "jobs copy",
            "jobs list --open --backend elsewhere",
            "--log-format xml",
        ] {
            assert!(Args::try_parse_from(std::iter::once("export-gateway").chain(line.split(' '))).is_err(), "{line}");
        }
    }
}
