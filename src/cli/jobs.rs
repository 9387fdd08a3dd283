//! `jobs`: what the store says of one job, and of all that are open, read beside a running gateway.

use std::io::{self, Write};
use std::process::ExitCode;

use serde_json::json;

use super::source::{Source, name_of};
use crate::jobs::clock::Clock;
use crate::jobs::record::{Intent, IntentState, Job};
use crate::jobs::sqlite::rows;
use crate::limits;
use crate::names::{BackendName, ExportType, JobId, UserId};
use crate::routing::table::{RoutingTable, StoreLocation};

/// Prints who started a job, where and when; exit code 1 when the store does not know it.
pub fn show(table: &RoutingTable, id: &str) -> ExitCode {
    finish(show_to(&mut io::stdout().lock(), &table.fixed.store, id, Clock::system().wall_ms()))
}

/// Prints open jobs, and starts that are under way or whose outcome nobody knows; exit code 0 also when there are none.
pub fn list(table: &RoutingTable, backend: Option<BackendName>, json: bool) -> ExitCode {
    finish(list_to(&mut io::stdout().lock(), &table.fixed.store, backend, json, Clock::system().wall_ms()))
}

/// Why there is nothing to print.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error("{0}")]
    Sentence(String),
    #[error("cannot read the job store {path}: {source}")]
    Store { path: String, source: rusqlite::Error },
    #[error("cannot write: {0}")]
    Output(#[from] io::Error),
}

pub(super) fn finish(result: Result<(), Failure>) -> ExitCode {
    let Err(failure) = result else { return ExitCode::SUCCESS };
    if !matches!(&failure, Failure::Output(error) if error.kind() == io::ErrorKind::BrokenPipe) {
        // Nothing is left to tell it to when the error output is gone too.
        let _ = writeln!(io::stderr().lock(), "{failure}");
    }
    ExitCode::FAILURE
}

fn show_to(out: &mut impl Write, store: &StoreLocation, id: &str, now_ms: u64) -> Result<(), Failure> {
    let id = JobId::parse(id).map_err(|error| Failure::Sentence(format!("{id:?} is {error}")))?;
    let unknown = format!("no job {id} in the store {}", name_of(store));
    let Some(source) = Source::open(store)? else {
        return Err(Failure::Sentence(format!("{unknown}: no gateway has made that file yet")));
    };
    let job = source.job(&id)?.ok_or(Failure::Sentence(unknown))?;
    let found = if job.user.is_none() { "  (anonymous, or found and not started here)" } else { "" };
    writeln!(out, "job      {}", job.id)?;
    writeln!(out, "backend  {}", job.backend)?;
    writeln!(out, "type     {}", export(job.export.as_ref()))?;
    writeln!(out, "user     {}{found}", user(job.user.as_ref()))?;
    writeln!(out, "started  {} ago  ({})", words(now_ms.saturating_sub(job.started_ms)), date(job.started_ms))?;
    writeln!(out, "state    {}", job.state.as_str())?;
    Ok(())
}

fn list_to(
    out: &mut impl Write,
    store: &StoreLocation,
    backend: Option<BackendName>,
    json: bool,
    now_ms: u64,
) -> Result<(), Failure> {
    let (jobs, intents, counts) = match Source::open(store)? {
        Some(source) => source.open_things(backend, now_ms)?,
        None if json => Default::default(),
        None => {
            writeln!(out, "no job store yet: {} does not exist until a gateway has started with it", name_of(store))?;
            return Ok(());
        }
    };
    if json {
        let value = json!({
            "jobs": jobs.iter().map(job_json).collect::<Vec<_>>(),
            "intents": intents.iter().map(intent_json).collect::<Vec<_>>(),
            "open_jobs": { "legacy": counts[0], "workers": counts[1] },
        });
        writeln!(out, "{value:#}")?;
        return Ok(());
    }
    let wanted = BackendName::ALL.into_iter().filter(|name| backend.is_none_or(|backend| backend == *name));
    let total: i64 = wanted.map(|name| counts[rows::place(name)]).sum();
    writeln!(out, "{total} open jobs (legacy {}, workers {})", counts[0], counts[1])?;
    if !jobs.is_empty() {
        let mut lines = vec![["BACKEND", "TYPE", "USER", "AGE", "JOB"].map(str::to_owned)];
        lines.extend(jobs.iter().map(|job| job_line(job, now_ms)));
        print(out, &lines)?;
    }
    note_cut(out, jobs.len())?;
    writeln!(out)?;
    writeln!(out, "{} starts under way or of unknown outcome", intents.len())?;
    if !intents.is_empty() {
        let head = ["BACKEND", "TYPE", "USER", "AGE", "OUTCOME", "DEADLINE", "REQUEST", "KEY"];
        let mut lines = vec![head.map(str::to_owned)];
        lines.extend(intents.iter().map(|intent| intent_line(intent, now_ms)));
        print(out, &lines)?;
    }
    note_cut(out, intents.len())?;
    Ok(())
}

fn note_cut(out: &mut impl Write, shown: usize) -> io::Result<()> {
    if shown == limits::LISTED { writeln!(out, "(the oldest {shown} are shown)") } else { Ok(()) }
}

fn job_line(job: &Job, now_ms: u64) -> [String; 5] {
    [
        job.backend.to_string(),
        export(job.export.as_ref()),
        user(job.user.as_ref()),
        words(now_ms.saturating_sub(job.started_ms)),
        job.id.to_string(),
    ]
}

fn intent_line(intent: &Intent, now_ms: u64) -> [String; 8] {
    let left = intent.deadline_ms.saturating_sub(now_ms);
    [
        intent.backend.to_string(),
        intent.export.to_string(),
        user(intent.user.as_ref()),
        words(now_ms.saturating_sub(intent.started_ms)),
        intent.state.as_str().to_owned(),
        match (intent.state, left) {
            (IntentState::Unknown, 0) => "passed".to_owned(),
            (IntentState::Unknown | IntentState::Answered, _) => "-".to_owned(),
            (IntentState::Running, _) => format!("in {}", words(left)),
        },
        intent.request_id.to_string(),
        intent.key.to_string(),
    ]
}

fn job_json(job: &Job) -> serde_json::Value {
    json!({
        "job_id": job.id.as_str(),
        "backend": job.backend.as_str(),
        "type": job.export.as_ref().map(ExportType::as_str),
        "user": job.user.as_ref().map(UserId::as_str),
        "started_ms": job.started_ms,
        "state": job.state.as_str(),
    })
}

fn intent_json(intent: &Intent) -> serde_json::Value {
    json!({
        "key": intent.key,
        "request_id": intent.request_id,
        "backend": intent.backend.as_str(),
        "type": intent.export.as_str(),
        "user": intent.user.as_ref().map(UserId::as_str),
        "started_ms": intent.started_ms,
        "deadline_ms": intent.deadline_ms,
        "state": intent.state.as_str(),
    })
}

fn export(export: Option<&ExportType>) -> String {
    export.map_or_else(|| "-".to_owned(), ToString::to_string)
}

fn user(user: Option<&UserId>) -> String {
    user.map_or_else(|| "-".to_owned(), ToString::to_string)
}

/// Prints lines as columns, each as wide as its widest field but the last.
fn print<const N: usize>(out: &mut impl Write, lines: &[[String; N]]) -> io::Result<()> {
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..N).map(width).collect();
    for line in lines {
        for (field, width) in line.iter().zip(&widths).take(N - 1) {
            write!(out, "{field:width$}  ")?;
        }
        writeln!(out, "{}", line[N - 1])?;
    }
    Ok(())
}

/// Says a length of time as people do: the largest unit that counts at least 1, and two of them below a day.
fn words(ms: u64) -> String {
    let seconds = ms / 1000;
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{minutes} min {} s", seconds % 60),
        3600..86_400 => format!("{hours} h {} min", minutes % 60),
        _ if days == 1 => "1 day".to_owned(),
        _ => format!("{days} days"),
    }
}

/// Writes a moment as `2026-11-24 13:24:05 UTC` (days to civil date after Howard Hinnant's algorithm).
fn date(ms: u64) -> String {
    let seconds = ms / 1000;
    let shifted = seconds / 86_400 + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::jobs::record::JobState;
    use crate::jobs::{Jobs, Settings};

    const NOW_MS: u64 = 1_795_526_645_000;

    fn printed(print: impl FnOnce(&mut Vec<u8>) -> Result<(), Failure>) -> Result<String, String> {
        let mut out = Vec::new();
        print(&mut out).map_err(|failure| failure.to_string())?;
        Ok(String::from_utf8(out).unwrap())
    }

    #[tokio::test]
    async fn the_store_is_read_beside_a_running_gateway() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("jobs.db");
        let store = StoreLocation::File(path.clone());
        let none = printed(|out| show_to(out, &store, "j1", NOW_MS)).unwrap_err();
        assert!(none.contains("no gateway has made that file yet"), "{none}");
        assert!(printed(|out| list_to(out, &store, None, false, NOW_MS)).unwrap().contains("no job store yet"));
        assert!(!path.exists());

        let settings = Settings {
            keep: Duration::from_secs(86_400),
            key_keep: Duration::from_secs(86_400),
            clock: Clock::system(),
        };
        let jobs = Jobs::open(&store, settings).unwrap();
        let job = Job {
            id: JobId::parse("j1").unwrap(),
            backend: BackendName::Workers,
            export: ExportType::parse("overlay"),
            user: UserId::from_text("ann"),
            started_ms: NOW_MS - 185_000,
            state: JobState::Open,
        };
        jobs.accept(job.clone(), None).await.unwrap();
        let found = Job { id: JobId::parse("j2").unwrap(), user: None, export: None, ..job };
        jobs.remember_found(Job { backend: BackendName::Legacy, ..found }).await.unwrap();
        for (key, deadline_ms) in [("k1", NOW_MS + 30_000), ("k2", NOW_MS - 1)] {
            let intent = Intent {
                key: key.into(),
                request_id: "r-1".into(),
                user: UserId::from_text("ann"),
                export: ExportType::parse("overlay").unwrap(),
                backend: BackendName::Workers,
                started_ms: NOW_MS - 35_000,
                deadline_ms,
                state: IntentState::Running,
                claim: None,
                resend: None,
                answer: None,
            };
            jobs.begin(intent).await.unwrap();
        }

        let shown = printed(|out| show_to(out, &store, "j1", NOW_MS)).unwrap();
        let expected = "job      j1\nbackend  workers\ntype     overlay\nuser     ann\n\
            started  3 min 5 s ago  (2026-11-24 13:21:00 UTC)\nstate    open\n";
        assert_eq!(shown, expected);
        assert!(printed(|out| show_to(out, &store, "j2", NOW_MS)).unwrap().contains("found and not started here"));
        assert!(printed(|out| show_to(out, &store, "j9", NOW_MS)).unwrap_err().starts_with("no job j9 in the store"));
        assert!(printed(|out| show_to(out, &store, "../x", NOW_MS)).unwrap_err().contains("not a job id"));

        let listed = printed(|out| list_to(out, &store, None, false, NOW_MS)).unwrap();
        let expected = "\
2 open jobs (legacy 1, workers 1)
BACKEND  TYPE     USER  AGE        JOB
workers  overlay  ann   3 min 5 s  j1
legacy   -        -     3 min 5 s  j2

2 starts under way or of unknown outcome
BACKEND  TYPE     USER  AGE   OUTCOME  DEADLINE  REQUEST  KEY
workers  overlay  ann   35 s  running  in 30 s   r-1      k1
workers  overlay  ann   35 s  unknown  passed    r-1      k2
";
        assert_eq!(listed, expected, "{listed}");
        let json = printed(|out| list_to(out, &store, Some(BackendName::Workers), true, NOW_MS)).unwrap();
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(json["jobs"].as_array().unwrap().len(), 1);
        assert_eq!(json["intents"][1]["state"], "unknown");
        assert_eq!(json["open_jobs"]["legacy"], 1);
        jobs.close().await.unwrap();
        assert!(printed(|out| show_to(out, &store, "j1", NOW_MS)).is_ok(), "and after it has stopped");
        std::fs::write(&path, "garbage").unwrap();
        assert!(printed(|out| show_to(out, &store, "j1", NOW_MS)).unwrap_err().contains("cannot read the job store"));
    }

    #[test]
    fn times_read_as_people_say_them() {
        let cases = [(0, "0 s"), (59_999, "59 s"), (61_000, "1 min 1 s"), (3_600_000, "1 h 0 min")];
        for (ms, expected) in cases.into_iter().chain([(90_000_000, "1 day"), (864_000_000, "10 days")]) {
            assert_eq!(words(ms), expected);
        }
        assert_eq!(date(0), "1970-01-01 00:00:00 UTC");
        assert_eq!(date(951_782_399_000), "2000-02-28 23:59:59 UTC");
        assert_eq!(date(951_782_400_000), "2000-02-29 00:00:00 UTC");
        assert_eq!(date(1_795_526_645_000), "2026-11-24 13:24:05 UTC");
    }
}
