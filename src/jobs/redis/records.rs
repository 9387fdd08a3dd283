//! Records as hashes, and back. What comes from Redis is read as anybody's: bounded, and skipped where it is not what
//! this version writes.

use bytes::Bytes;
use redis::{Cmd, Value};

use crate::jobs::record::{BodyHash, Claim, Intent, IntentState, Job, JobState, KeptAnswer};
use crate::limits;
use crate::names::{BackendName, ExportType, JobId, UserId};

/// Stands in every record. A change that an older gateway would misread gets a new one.
pub(super) const VERSION: &str = "1";

/// A job's fields.
const JOB_FIELDS: [&str; 6] = ["v", "backend", "export", "user", "started", "state"];

/// How many fields a script returns of an intent.
pub(super) const INTENT_FIELDS: usize = 14;

/// Fields of a record as Redis returns them.
type Fields = Vec<Option<Vec<u8>>>;

/// Reads a job's fields.
pub(super) fn read_job_fields(key: &str) -> Cmd {
    let mut command = redis::cmd("HMGET");
    command.arg(key).arg(&JOB_FIELDS);
    command
}

/// Adds an intent's fields to a command.
pub(super) fn add_intent(command: &mut Cmd, intent: &Intent, token: &str) {
    let mut add = |name: &str, value: &[u8]| {
        command.arg(name).arg(value);
    };
    add("v", VERSION.as_bytes());
    add("request", intent.request_id.as_bytes());
    add("export", intent.export.as_str().as_bytes());
    add("backend", intent.backend.as_str().as_bytes());
    add("started", intent.started_ms.to_string().as_bytes());
    add("deadline", intent.deadline_ms.to_string().as_bytes());
    add("state", intent.state.as_str().as_bytes());
    add("token", token.as_bytes());
    if let Some(user) = &intent.user {
        add("user", user.as_str().as_bytes());
    }
    if let Some(claim) = &intent.claim {
        add("body", &claim.body);
    }
    if let Some(resend) = &intent.resend {
        add("resend", resend);
    }
}

/// Makes a job of its fields; `None` when there is none, or none that can be read.
pub(crate) fn job(id: &JobId, value: Value) -> Option<Job> {
    let fields = fields(value, JOB_FIELDS.len()).filter(|fields| fields.iter().any(Option::is_some))?;
    let job = parse_job(id, &fields);
    if job.is_none() {
        tracing::warn!(job = %id, "a job in the store cannot be read: of another version, or not a job");
    }
    job
}

fn parse_job(id: &JobId, fields: &Fields) -> Option<Job> {
    is_ours(fields)?;
    Some(Job {
        id: id.clone(),
        backend: BackendName::parse(text(fields, 1)?)?,
        export: optional(fields, 2, ExportType::parse)?,
        user: optional(fields, 3, UserId::from_text)?,
        started_ms: number(fields, 4)?,
        state: JobState::parse(text(fields, 5)?)?,
    })
}

/// What is under an intent's key.
#[derive(Debug)]
pub(crate) enum Held {
    /// An intent.
    Intent(Box<Intent>),
    /// None: nothing, or the mark of one that was given up.
    Nothing,
    /// Something that cannot be read.
    Unreadable,
}

impl Held {
    pub(super) fn intent(self) -> Option<Intent> {
        match self {
            Held::Intent(intent) => Some(*intent),
            Held::Nothing | Held::Unreadable => None,
        }
    }
}

/// Makes an intent of its fields, as of `now_ms`.
pub(crate) fn intent(key: &str, value: Value, now_ms: u64) -> Held {
    let Some(fields) = fields(value, INTENT_FIELDS) else { return unreadable(key) };
    if fields.iter().all(Option::is_none) || text(&fields, 7) == Some("gone") {
        return Held::Nothing;
    }
    parse_intent(key, &fields, now_ms).map_or_else(|| unreadable(key), |intent| Held::Intent(Box::new(intent)))
}

fn unreadable(key: &str) -> Held {
    tracing::warn!(key, "a start in the store cannot be read: of another version, or not a start");
    Held::Unreadable
}

fn parse_intent(key: &str, fields: &Fields, now_ms: u64) -> Option<Intent> {
    is_ours(fields)?;
    let deadline_ms = number(fields, 6)?;
    let state = match text(fields, 7)? {
        // Another gateway asks workers for it: what comes of it is not known yet.
        "asked" => IntentState::Unknown,
        word => IntentState::parse(word)?,
    };
    let is_late = state == IntentState::Running && deadline_ms <= now_ms;
    let claim = match (text(fields, 8), bytes(fields, 9)) {
        (Some(token), Some(body)) => Some(Claim { token: token.into(), body: BodyHash::try_from(body).ok()? }),
        (_, None) => None,
        (None, Some(_)) => return None,
    };
    let answer = match state {
        IntentState::Answered => Some(KeptAnswer {
            status: text(fields, 11)?.parse().ok().filter(|status| (100..=999).contains(status))?,
            content_type: optional(fields, 12, |text| Some(Box::from(text)))?,
            body: bytes(fields, 13).filter(|body| body.len() <= limits::KEPT_ANSWER).map(Bytes::copy_from_slice)?,
        }),
        IntentState::Running | IntentState::Unknown => None,
    };
    Some(Intent {
        key: key.into(),
        request_id: text(fields, 1)?.into(),
        user: optional(fields, 2, UserId::from_text)?,
        export: ExportType::parse(text(fields, 3)?)?,
        backend: BackendName::parse(text(fields, 4)?)?,
        started_ms: number(fields, 5)?,
        deadline_ms,
        state: if is_late { IntentState::Unknown } else { state },
        claim,
        resend: bytes(fields, 10).map(Bytes::copy_from_slice),
        answer,
    })
}

/// Takes a reply for fields: exactly so many, each of a sensible size.
fn fields(value: Value, count: usize) -> Option<Fields> {
    let fields: Fields = redis::from_redis_value(value).ok()?;
    let fits = |field: &Option<Vec<u8>>| field.as_ref().is_none_or(|bytes| bytes.len() <= limits::REDIS_BODY);
    (fields.len() == count && fields.iter().all(fits)).then_some(fields)
}

fn is_ours(fields: &Fields) -> Option<()> {
    (text(fields, 0)? == VERSION).then_some(())
}

fn bytes(fields: &Fields, at: usize) -> Option<&[u8]> {
    fields.get(at)?.as_deref()
}

fn text(fields: &Fields, at: usize) -> Option<&str> {
    let bytes = bytes(fields, at).filter(|bytes| bytes.len() <= limits::REDIS_TEXT)?;
    std::str::from_utf8(bytes).ok()
}

fn number(fields: &Fields, at: usize) -> Option<u64> {
    text(fields, at)?.parse().ok()
}

/// Reads a field that may be missing; `None` when it is there and is not what it should be.
fn optional<T>(fields: &Fields, at: usize, parse: impl Fn(&str) -> Option<T>) -> Option<Option<T>> {
    if bytes(fields, at).is_none() {
        return Some(None);
    }
    text(fields, at).and_then(parse).map(Some)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn reply(fields: &[Option<&[u8]>]) -> Value {
        let value = |field: &Option<&[u8]>| field.map_or(Value::Nil, |bytes| Value::BulkString(bytes.to_vec()));
        Value::Array(fields.iter().map(value).collect())
    }

    fn id() -> JobId {
        JobId::parse("j").unwrap()
    }

    #[test]
    fn a_record_of_another_version_or_of_nobody_is_skipped() {
        let good = [Some(&b"1"[..]), Some(b"workers"), Some(b"overlay"), Some(b"ann"), Some(b"5"), Some(b"open")];
        assert_eq!(job(&id(), reply(&good)).unwrap().started_ms, 5);
        let anonymous = [good[0], good[1], None, None, good[4], good[5]];
        assert_eq!(job(&id(), reply(&anonymous)).unwrap().user, None);
        let long = vec![b'1'; limits::REDIS_TEXT + 1];
        for (at, bad) in [
            (0, &b"2"[..]),
            (1, b"elsewhere"),
            (2, b"../x"),
            (3, b"!"),
            (4, b"-5"),
            (4, &long),
            (5, b"asked"),
            (5, b"\xff"),
        ] {
            let mut fields = good;
            fields[at] = Some(bad);
            assert_eq!(job(&id(), reply(&fields)), None, "{at} {bad:?}");
        }
        assert_eq!(job(&id(), reply(&good[..5])), None);
        assert_eq!(job(&id(), Value::Int(5)), None);
        assert_eq!(job(&id(), reply(&[None; 6])), None);
    }

    proptest! {
        #[test]
        fn anything_may_stand_in_a_record(values in prop::collection::vec(prop::option::of(prop::collection::vec(any::<u8>(), 0..40)), 0..20)) {
            let fields: Vec<_> = values.iter().map(Option::as_deref).collect();
            let _ = job(&id(), reply(&fields));
            let _ = intent("k", reply(&fields), 7);
        }
    }
}
