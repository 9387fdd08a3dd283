//! The writes that callers ask for, each about one key.

use rusqlite::Connection;

use super::rows::{self, Effect};
use super::{intents, writer::run};
use crate::jobs::record::{Closing, Intent, Job, JobState, Kept};
use crate::names::{BackendName, JobId};

/// One write.
pub(super) enum Op {
    PutIntent(Box<Intent>),
    Claim(Box<Intent>),
    MoveIntent { key: Box<str>, to: BackendName, deadline_ms: u64 },
    CloseIntent(Box<str>),
    Release { key: Box<str>, token: Box<str> },
    MarkUnknown(Box<str>),
    Keep(Kept),
    PutJob { job: Job, closes: Option<Closing> },
    FinishJob(JobId, JobState),
}

/// Carries a write out; two that belong together happen both or not at all.
pub(super) fn apply(conn: &Connection, op: &Op, this_run: i64) -> rusqlite::Result<Effect> {
    match op {
        Op::PutIntent(intent) => intents::put(conn, intent, this_run),
        Op::Claim(intent) => intents::claim(conn, intent, this_run),
        Op::MoveIntent { key, to, deadline_ms } => intents::move_to(conn, key, *to, *deadline_ms),
        Op::CloseIntent(key) => intents::close(conn, key),
        Op::Release { key, token } => intents::release(conn, key, token),
        Op::MarkUnknown(key) => intents::mark_unknown(conn, key),
        Op::Keep(kept) => intents::keep(conn, kept),
        Op::PutJob { job, closes: None } => rows::put_job(conn, job),
        Op::PutJob { job, closes: Some(closing) } => {
            run(conn, "SAVEPOINT both")?;
            let both = rows::put_job(conn, job).and_then(|effect| close(conn, closing).map(|_| effect));
            if both.is_err() {
                if conn.is_autocommit() {
                    return both;
                }
                run(conn, "ROLLBACK TO both")?;
            }
            run(conn, "RELEASE both")?;
            both
        }
        Op::FinishJob(id, state) => rows::finish_job(conn, id, *state),
    }
}

fn close(conn: &Connection, closing: &Closing) -> rusqlite::Result<Effect> {
    match closing {
        Closing::Forget(key) => intents::close(conn, key),
        Closing::Keep(kept) => intents::keep(conn, kept),
    }
}
