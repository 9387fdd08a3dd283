//! The statements about intents, and about what is kept of them for a client's key.

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::rows::{Effect, list, optional, signed, unsigned, valid};
use crate::jobs::record::{BodyHash, Claim, Intent, IntentState, Kept, KeptAnswer};
use crate::limits;
use crate::names::{BackendName, ExportType, UserId};

/// What every version of the store has; enough for a list.
pub(super) const COLUMNS: &str = "key, request_id, user, export, backend, started_ms, deadline_ms, state";
/// Those and what came with the second version.
pub(crate) const ALL_COLUMNS: &str = "key, request_id, user, export, backend, started_ms, deadline_ms, state,
    token, body, resend, status, content_type, answer, run";

/// Adds an intent of this `run` of the gateway; changes nothing when there is one with its key.
pub(super) fn claim(conn: &Connection, intent: &Intent, run: i64) -> rusqlite::Result<Effect> {
    insert(conn, intent, run, "ON CONFLICT (key) DO NOTHING")
}

/// Adds an intent of this `run` of the gateway.
///
/// # Errors
/// A broken constraint when there is one with its key.
pub(super) fn put(conn: &Connection, intent: &Intent, run: i64) -> rusqlite::Result<Effect> {
    insert(conn, intent, run, "")
}

fn insert(conn: &Connection, intent: &Intent, run: i64, conflict: &str) -> rusqlite::Result<Effect> {
    let sql = format!(
        "INSERT INTO intents ({COLUMNS}, token, body, resend, run) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) {conflict}"
    );
    let count = conn.prepare_cached(&sql)?.execute(params![
        intent.key,
        intent.request_id,
        intent.user.as_ref().map(UserId::as_str),
        intent.export.as_str(),
        intent.backend.as_str(),
        signed(intent.started_ms),
        signed(intent.deadline_ms),
        intent.state.as_str(),
        intent.claim.as_ref().map(|claim| &*claim.token),
        intent.claim.as_ref().map(|claim| claim.body.as_slice()),
        intent.resend.as_deref(),
        run,
    ])?;
    Ok(Effect::rows(count))
}

/// Moves a running intent; it is never asked of the former backend again.
pub(super) fn move_to(conn: &Connection, key: &str, to: BackendName, deadline_ms: u64) -> rusqlite::Result<Effect> {
    let sql = "UPDATE intents SET backend = ?, deadline_ms = ?, resend = NULL WHERE key = ? AND state = 'running'";
    let count = conn.prepare_cached(sql)?.execute(params![to.as_str(), signed(deadline_ms), key])?;
    Ok(Effect::rows(count))
}

pub(super) fn close(conn: &Connection, key: &str) -> rusqlite::Result<Effect> {
    Ok(Effect::rows(conn.prepare_cached("DELETE FROM intents WHERE key = ?")?.execute([key])?))
}

/// Deletes an intent if it is the one with this token.
pub(super) fn release(conn: &Connection, key: &str, token: &str) -> rusqlite::Result<Effect> {
    let sql = "DELETE FROM intents WHERE key = ? AND token = ?";
    Ok(Effect::rows(conn.prepare_cached(sql)?.execute([key, token])?))
}

pub(super) fn mark_unknown(conn: &Connection, key: &str) -> rusqlite::Result<Effect> {
    let sql = "UPDATE intents SET state = 'unknown', resend = NULL WHERE key = ?";
    Ok(Effect::rows(conn.prepare_cached(sql)?.execute([key])?))
}

/// Keeps an answer with its intent, whatever was thought of the start before.
pub(super) fn keep(conn: &Connection, kept: &Kept) -> rusqlite::Result<Effect> {
    let sql = "UPDATE intents SET state = 'answered', resend = NULL, status = ?, content_type = ?, answer = ?
        WHERE key = ? AND token = ?";
    let KeptAnswer { status, content_type, body } = &kept.answer;
    let values = params![status, content_type, body.as_ref(), kept.key, kept.token];
    Ok(Effect::rows(conn.prepare_cached(sql)?.execute(values)?))
}

/// Deletes up to `limit` intents of each kind: those without a client's key that began before `before_ms`, those with
/// one that began before `keys_before_ms` and are not running any more at `now_ms`; returns how many.
pub(super) fn expire(
    conn: &Connection,
    (before_ms, keys_before_ms, now_ms): (u64, u64, u64),
    limit: usize,
) -> rusqlite::Result<usize> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let sql = "DELETE FROM intents WHERE seq IN
        (SELECT seq FROM intents WHERE started_ms < ? AND token IS NULL ORDER BY started_ms LIMIT ?)";
    let count = conn.prepare_cached(sql)?.execute(params![signed(before_ms), limit])?;
    let sql = "DELETE FROM intents WHERE seq IN (SELECT seq FROM intents
        WHERE started_ms < ? AND deadline_ms <= ? AND token IS NOT NULL ORDER BY started_ms LIMIT ?)";
    let keys = conn.prepare_cached(sql)?.execute(params![signed(keys_before_ms), signed(now_ms), limit])?;
    Ok(count + keys)
}

/// Reads one intent as of `now_ms`.
pub(crate) fn intent(conn: &Connection, key: &str, now_ms: u64) -> rusqlite::Result<Option<Intent>> {
    let sql = format!("SELECT {ALL_COLUMNS} FROM intents WHERE key = ?");
    Ok(conn.prepare_cached(&sql)?.query_row([key], |row| valid(read_all(row, now_ms))).optional()?.flatten())
}

/// Reads intents that are running or unknown as of `now_ms`, oldest first, of one backend or of both; without what is
/// kept for a client's key.
pub(crate) fn open_intents(
    conn: &Connection,
    backend: Option<BackendName>,
    limit: usize,
    now_ms: u64,
) -> rusqlite::Result<Vec<Intent>> {
    let sql = format!(
        "SELECT {COLUMNS} FROM intents WHERE state <> 'answered' AND backend IN (?, ?)
            ORDER BY started_ms, seq LIMIT ?"
    );
    list(conn, &sql, backend, limit, |row| read(row, now_ms))
}

/// Reads intents as they are written, in the order of their rows, those after `seq`; `None` for one that cannot be read.
pub(crate) fn intents_after(conn: &Connection, seq: i64, limit: usize) -> rusqlite::Result<Vec<(i64, Option<Intent>)>> {
    let sql = format!("SELECT {ALL_COLUMNS}, seq FROM intents WHERE seq > ? ORDER BY seq LIMIT ?");
    let mut statement = conn.prepare_cached(&sql)?;
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    statement.query_map([seq, limit], |row| Ok((row.get("seq")?, valid(read_all(row, 0))?)))?.collect()
}

/// Reads intents of other runs that workers may be asked again for, oldest first, as they are written: whatever their
/// deadline.
pub(super) fn left_open(conn: &Connection, run: i64, limit: usize) -> rusqlite::Result<Vec<Intent>> {
    let sql = format!(
        "SELECT {ALL_COLUMNS} FROM intents WHERE state <> 'answered' AND state = 'running' AND resend IS NOT NULL
            AND backend = 'workers' AND run IS NOT ? ORDER BY started_ms, seq LIMIT ?"
    );
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let mut statement = conn.prepare_cached(&sql)?;
    let rows = statement.query_map(params![run, limit], |row| valid(read_all(row, 0)))?;
    rows.filter_map(Result::transpose).collect()
}

/// Reads [`COLUMNS`]; `None` for values that no intent has.
pub(super) fn read(row: &Row<'_>, now_ms: u64) -> rusqlite::Result<Option<Intent>> {
    let deadline_ms = unsigned(row.get(6)?);
    let parts = (
        optional(row, 2, UserId::from_text)?,
        ExportType::parse(row.get_ref(3)?.as_str()?),
        BackendName::parse(row.get_ref(4)?.as_str()?),
        IntentState::parse(row.get_ref(7)?.as_str()?),
    );
    let (Some(user), Some(export), Some(backend), Some(state)) = parts else { return Ok(None) };
    // Past its deadline nobody is waiting for the answer any more, whatever process that was.
    let is_late = state == IntentState::Running && deadline_ms <= now_ms;
    Ok(Some(Intent {
        key: row.get(0)?,
        request_id: row.get(1)?,
        user,
        export,
        backend,
        started_ms: unsigned(row.get(5)?),
        deadline_ms,
        state: if is_late { IntentState::Unknown } else { state },
        claim: None,
        resend: None,
        answer: None,
    }))
}

/// Reads [`ALL_COLUMNS`]; `None` for values that no intent has.
pub(super) fn read_all(row: &Row<'_>, now_ms: u64) -> rusqlite::Result<Option<Intent>> {
    let Some(mut intent) = read(row, now_ms)? else { return Ok(None) };
    let token: Option<Box<str>> = row.get(8)?;
    let body: Option<BodyHash> = row.get(9)?;
    intent.claim = token.zip(body).map(|(token, body)| Claim { token, body });
    intent.resend = row.get_ref(10)?.as_blob_or_null()?.map(Bytes::copy_from_slice);
    if intent.state == IntentState::Answered {
        let status = row.get::<_, Option<i64>>(11)?.and_then(|status| u16::try_from(status).ok());
        let body = row.get_ref(13)?.as_blob_or_null()?.unwrap_or_default();
        let Some(status) = status.filter(|status| (100..=999).contains(status)) else { return Ok(None) };
        if body.len() > limits::KEPT_ANSWER {
            return Ok(None);
        }
        intent.answer = Some(KeptAnswer { status, content_type: row.get(12)?, body: Bytes::copy_from_slice(body) });
    }
    Ok(Some(intent))
}
