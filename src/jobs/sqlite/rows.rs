//! The statements about jobs, and what those about intents share with them: records to rows and back.

use rusqlite::{Connection, OptionalExtension, Row, ToSql, named_params, params};

use crate::jobs::record::{Job, JobState};
use crate::names::{BackendName, ExportType, JobId, UserId};

/// What one write did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Effect {
    /// Whether a row changed.
    pub(super) changed: bool,
    /// By how much the number of open jobs changed, in the order of [`BackendName::ALL`].
    pub(super) open: [i64; 2],
}

impl Effect {
    pub(super) fn rows(count: usize) -> Effect {
        Effect { changed: count > 0, open: [0; 2] }
    }

    /// Adds what another write did to the open jobs.
    pub(super) fn add_open(&mut self, other: [i64; 2]) {
        self.open[0] += other[0];
        self.open[1] += other[1];
    }
}

/// The place of a backend in counters.
pub(crate) fn place(backend: BackendName) -> usize {
    match backend {
        BackendName::Legacy => 0,
        BackendName::Workers => 1,
    }
}

/// SQLite's integers are signed: times beyond 2^63 ms are cut.
pub(super) fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

pub(super) fn unsigned(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

pub(crate) const JOB_COLUMNS: &str = "id, backend, export, user, started_ms, state";
/// Writes a job. A found one (no user) never replaces one with a user; one that is over does not open again.
pub(super) fn put_job(conn: &Connection, job: &Job) -> rusqlite::Result<Effect> {
    let before = "SELECT backend, state FROM jobs WHERE id = ?";
    let before = conn.prepare_cached(before)?.query_row([job.id.as_str()], open_place).optional()?.flatten();
    let sql = "INSERT INTO jobs (id, backend, export, user, started_ms, state)
        VALUES (:id, :backend, :export, :user, :started_ms, :state)
        ON CONFLICT (id) DO UPDATE SET
            backend = excluded.backend, export = excluded.export, user = excluded.user,
            started_ms = excluded.started_ms,
            state = iif(jobs.backend = excluded.backend AND jobs.state <> 'open', jobs.state, excluded.state)
        WHERE excluded.user IS NOT NULL OR jobs.user IS NULL
        RETURNING backend, state";
    let values = named_params! {
        ":id": job.id.as_str(),
        ":backend": job.backend.as_str(),
        ":export": job.export.as_ref().map(ExportType::as_str),
        ":user": job.user.as_ref().map(UserId::as_str),
        ":started_ms": signed(job.started_ms),
        ":state": job.state.as_str(),
    };
    let after: Option<Option<usize>> = conn.prepare_cached(sql)?.query_row(values, open_place).optional()?;
    let Some(after) = after else { return Ok(Effect::default()) };
    let mut effect = Effect { changed: true, open: [0; 2] };
    if let Some(place) = before {
        effect.open[place] -= 1;
    }
    if let Some(place) = after {
        effect.open[place] += 1;
    }
    Ok(effect)
}

/// Reads `backend, state`: the place of the counter that an open job is counted in.
///
/// One that cannot be read is in none of them: it must not keep the other rows of a statement from being counted, or from
/// being deleted.
fn open_place(row: &Row<'_>) -> rusqlite::Result<Option<usize>> {
    let open = word(row, 1)? == Some(JobState::Open.as_str());
    Ok(word(row, 0)?.and_then(BackendName::parse).filter(|_| open).map(place))
}

/// Reads a text; `None` for anything else.
fn word<'r>(row: &'r Row<'_>, column: usize) -> rusqlite::Result<Option<&'r str>> {
    Ok(row.get_ref(column)?.as_str().ok())
}

pub(super) fn finish_job(conn: &Connection, id: &JobId, state: JobState) -> rusqlite::Result<Effect> {
    if state == JobState::Open {
        return Ok(Effect::default());
    }
    let sql = "UPDATE jobs SET state = ? WHERE id = ? AND state = 'open' RETURNING backend, 'open'";
    let values = params![state.as_str(), id.as_str()];
    let finished: Option<Option<usize>> = conn.prepare_cached(sql)?.query_row(values, open_place).optional()?;
    let mut effect = Effect { changed: finished.is_some(), open: [0; 2] };
    if let Some(place) = finished.flatten() {
        effect.open[place] -= 1;
    }
    Ok(effect)
}

/// Deletes up to `limit` jobs that began before `before_ms`; returns how many.
pub(crate) fn expire(conn: &Connection, before_ms: u64, limit: usize) -> rusqlite::Result<(usize, Effect)> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let sql = "DELETE FROM jobs WHERE seq IN (SELECT seq FROM jobs WHERE started_ms < ? ORDER BY started_ms LIMIT ?)
        RETURNING backend, state";
    let mut statement = conn.prepare_cached(sql)?;
    let mut effect = Effect::default();
    let mut count = 0;
    for place in statement.query_map(params![signed(before_ms), limit], open_place)? {
        count += 1;
        if let Some(place) = place? {
            effect.open[place] -= 1;
        }
    }
    effect.changed = count > 0;
    Ok((count, effect))
}

/// Returns when the newest record began, milliseconds since the Unix epoch; 0 in an empty store.
pub(super) fn newest_ms(conn: &Connection) -> rusqlite::Result<u64> {
    let sql = "SELECT max(coalesce((SELECT max(started_ms) FROM jobs), 0),
        coalesce((SELECT max(started_ms) FROM intents), 0))";
    conn.prepare_cached(sql)?.query_row([], |row| row.get(0)).map(unsigned)
}

/// Reads one job. A row that does not hold valid values counts as not there.
pub(crate) fn job(conn: &Connection, id: &JobId) -> rusqlite::Result<Option<Job>> {
    let sql = format!("SELECT {JOB_COLUMNS} FROM jobs WHERE id = ?");
    Ok(conn.prepare_cached(&sql)?.query_row([id.as_str()], |row| valid(read_job(row))).optional()?.flatten())
}

/// Reads jobs of whatever state in the order of their rows, those after `seq`; `None` for one that cannot be read.
pub(crate) fn jobs_after(conn: &Connection, seq: i64, limit: usize) -> rusqlite::Result<Vec<(i64, Option<Job>)>> {
    let sql = format!("SELECT {JOB_COLUMNS}, seq FROM jobs WHERE seq > ? ORDER BY seq LIMIT ?");
    let mut statement = conn.prepare_cached(&sql)?;
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    statement.query_map([seq, limit], |row| Ok((row.get("seq")?, valid(read_job(row))?)))?.collect()
}

/// Reads open jobs, oldest first, of one backend or of both.
pub(crate) fn open_jobs(conn: &Connection, backend: Option<BackendName>, limit: usize) -> rusqlite::Result<Vec<Job>> {
    let sql = format!(
        "SELECT {JOB_COLUMNS} FROM jobs WHERE state = 'open' AND backend IN (?, ?) ORDER BY started_ms, seq LIMIT ?"
    );
    list(conn, &sql, backend, limit, read_job)
}

pub(super) fn list<T>(
    conn: &Connection,
    sql: &str,
    backend: Option<BackendName>,
    limit: usize,
    read: impl Fn(&Row<'_>) -> rusqlite::Result<Option<T>>,
) -> rusqlite::Result<Vec<T>> {
    let [first, second] = backend.map_or(BackendName::ALL, |backend| [backend, backend]);
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let values: [&dyn ToSql; 3] = [&first.as_str(), &second.as_str(), &limit];
    let mut statement = conn.prepare_cached(sql)?;
    let rows = statement.query_map(values, |row| valid(read(row)))?;
    rows.filter_map(Result::transpose).collect()
}

/// Counts open jobs per backend.
pub(crate) fn open_counts(conn: &Connection) -> rusqlite::Result<[i64; 2]> {
    let mut counts = [0; 2];
    let mut statement =
        conn.prepare_cached("SELECT backend, count(*) FROM jobs WHERE state = 'open' GROUP BY backend")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        if let Some(backend) = word(row, 0)?.and_then(BackendName::parse) {
            counts[place(backend)] = row.get(1)?;
        }
    }
    Ok(counts)
}

/// Takes a value of a wrong type or encoding for a row that is not there: it says nothing about the file.
pub(super) fn valid<T>(read: rusqlite::Result<Option<T>>) -> rusqlite::Result<Option<T>> {
    match read {
        Err(rusqlite::Error::FromSqlConversionFailure(..) | rusqlite::Error::InvalidColumnType(..)) => Ok(None),
        other => other,
    }
}

/// Reads the columns of [`JOB_COLUMNS`]; `None` for values that no job has.
pub(super) fn read_job(row: &Row<'_>) -> rusqlite::Result<Option<Job>> {
    let parts = (
        JobId::parse(row.get_ref(0)?.as_str()?).ok(),
        BackendName::parse(row.get_ref(1)?.as_str()?),
        optional(row, 2, ExportType::parse)?,
        optional(row, 3, UserId::from_text)?,
        JobState::parse(row.get_ref(5)?.as_str()?),
    );
    let (Some(id), Some(backend), Some(export), Some(user), Some(state)) = parts else { return Ok(None) };
    Ok(Some(Job { id, backend, export, user, started_ms: unsigned(row.get(4)?), state }))
}

/// Reads a column that may be NULL; `None` when it holds something else than it should. That must not pass for NULL: a
/// job without a user is shown to whoever asks.
pub(super) fn optional<T>(
    row: &Row<'_>,
    column: usize,
    parse: impl Fn(&str) -> Option<T>,
) -> rusqlite::Result<Option<Option<T>>> {
    let Some(text) = row.get_ref(column)?.as_str_or_null()? else { return Ok(Some(None)) };
    Ok(parse(text).map(Some))
}
