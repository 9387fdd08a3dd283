//! Any values in a stored record: it is what it says, or it is not there.
//!
//! The promise that matters most: a record that has a user is never read as one without, since that would be shown to
//! whoever asks.

use std::cell::RefCell;

use redis::Value as Reply;
use rusqlite::Connection;
use rusqlite::types::Value;

use super::choice;
use crate::jobs::record::{Intent, IntentState, Job};
use crate::jobs::redis::records::{self, Held};
use crate::jobs::sqlite::{intents, rows, schema};
use crate::limits;
use crate::names::JobId;

const NOW: u64 = 5_000;

/// Fields are separated by `|`; one that is `~` alone is missing.
fn fields(bytes: &[u8]) -> impl Iterator<Item = Option<&[u8]>> {
    bytes.split(|byte| *byte == b'|').take(32).map(|field| Some(field).filter(|field| *field != b"~"))
}

/// The first byte chooses between a job and an intent.
pub(super) fn of_redis(bytes: &[u8]) {
    let (kind, rest) = choice(bytes);
    let fields: Vec<_> = fields(rest).collect();
    let value = |field: &Option<&[u8]>| field.map_or(Reply::Nil, |bytes| Reply::BulkString(bytes.to_vec()));
    let reply = Reply::Array(fields.iter().map(value).collect());
    let text = |at: usize| std::str::from_utf8(fields[at].expect("a field")).expect("a text");
    if kind % 2 == 0 {
        let id = JobId::parse("j-1").expect("a job id");
        if let Some(job) = records::job(&id, reply) {
            assert_eq!(fields.len(), 6);
            assert_eq!(text(0), "1");
            check_job(&job, fields[3].is_some());
            assert_eq!((job.backend.as_str(), job.state.as_str()), (text(1), text(5)));
            assert_eq!(job.export.is_some(), fields[2].is_some());
        }
        return;
    }
    if let Held::Intent(intent) = records::intent("k", reply, NOW) {
        assert_eq!(fields.len(), 14);
        assert_eq!(text(0), "1");
        check_intent(&intent, fields[2].is_some());
        assert_eq!((intent.export.as_str(), intent.backend.as_str()), (text(3), text(4)));
        assert_eq!(intent.resend.as_deref(), fields[10]);
    }
}

/// A value as its first byte says: a number, bytes, else a text.
fn cell(field: Option<&[u8]>) -> Value {
    let Some(field) = field else { return Value::Null };
    let rest = field.get(1..).unwrap_or_default();
    match field.first() {
        Some(b'#') => Value::Integer(std::str::from_utf8(rest).ok().and_then(|it| it.parse().ok()).unwrap_or(0)),
        Some(b'&') => Value::Blob(rest.to_vec()),
        _ => Value::Text(String::from_utf8_lossy(field).into_owned()),
    }
}

thread_local! {
    static STORE: RefCell<Connection> = RefCell::new(store());
}

/// The tables of the store without their types: what a file that was damaged, or written by somebody else, may hold.
fn store() -> Connection {
    let conn = Connection::open_in_memory().expect("memory");
    for step in schema::STEPS {
        let lax = ["STRICT", " NOT NULL", " TEXT", " INTEGER", " BLOB"].iter().fold(step.to_owned(), |sql, word| {
            sql.replace(" INTEGER PRIMARY KEY", " integer primary key").replace(word, "")
        });
        conn.execute_batch(&lax).expect("the tables");
    }
    conn
}

/// The first byte chooses between a job and an intent.
pub(super) fn of_sqlite(bytes: &[u8]) {
    let (kind, rest) = choice(bytes);
    STORE.with_borrow_mut(|conn| {
        let one = conn.transaction().expect("a transaction");
        match kind % 2 {
            0 => a_job(&one, rest),
            _ => an_intent(&one, rest),
        }
        one.rollback().expect("nothing is kept");
    });
}

/// Puts a row into a table; says whether it fits.
fn insert(conn: &Connection, table: &str, columns: &str, bytes: &[u8]) -> Option<Vec<Value>> {
    let count = columns.split(',').count();
    let values: Vec<_> = fields(bytes).map(cell).chain(std::iter::repeat(Value::Null)).take(count).collect();
    let marks = vec!["?"; count].join(", ");
    let sql = format!("INSERT INTO {table} ({columns}) VALUES ({marks})");
    conn.prepare_cached(&sql).expect("a statement").execute(rusqlite::params_from_iter(&values)).ok()?;
    Some(values)
}

fn a_job(conn: &Connection, bytes: &[u8]) {
    let Some(row) = insert(conn, "jobs", rows::JOB_COLUMNS, bytes) else { return };
    let all = rows::jobs_after(conn, 0, 10).expect("a row that cannot be read says nothing about the store");
    let (_, job) = all.into_iter().next().expect("the row");
    let open = rows::open_jobs(conn, None, 10).expect("a list");
    assert!(open.len() <= 1 && rows::open_counts(conn).is_ok());
    if let Some(job) = job {
        check_job(&job, row[3] != Value::Null);
        assert_eq!(row[0], Value::Text(job.id.as_str().to_owned()));
        assert_eq!(rows::job(conn, &job.id).expect("one row"), Some(job.clone()));
        assert!(open.is_empty() || open == [job]);
    }
    let (expired, _) = rows::expire(conn, u64::MAX, 10).expect("one row does not keep the others from expiring");
    let left = rows::jobs_after(conn, 0, 10).expect("a list");
    assert_eq!(expired + left.len(), 1);
}

fn an_intent(conn: &Connection, bytes: &[u8]) {
    let Some(row) = insert(conn, "intents", intents::ALL_COLUMNS, bytes) else { return };
    let all = intents::intents_after(conn, 0, 10).expect("a row that cannot be read says nothing about the store");
    let (_, intent) = all.into_iter().next().expect("the row");
    let open = intents::open_intents(conn, None, 10, NOW).expect("a list");
    assert!(open.len() <= 1);
    if let Some(intent) = intent {
        check_intent(&intent, row[2] != Value::Null);
        let read = intents::intent(conn, &intent.key, NOW).expect("one row").expect("the row");
        check_intent(&read, row[2] != Value::Null);
        let is_late = intent.state == IntentState::Running && intent.deadline_ms <= NOW;
        assert_eq!(read.state, if is_late { IntentState::Unknown } else { intent.state });
    }
}

fn check_job(job: &Job, has_user: bool) {
    assert_eq!(job.user.is_some(), has_user, "{job:?}");
}

fn check_intent(intent: &Intent, has_user: bool) {
    assert_eq!(intent.user.is_some(), has_user, "{intent:?}");
    assert_eq!(intent.state == IntentState::Answered, intent.answer.is_some(), "{intent:?}");
    if let Some(answer) = &intent.answer {
        assert!((100..=999).contains(&answer.status), "{intent:?}");
        assert!(answer.body.len() <= limits::KEPT_ANSWER);
    }
}
