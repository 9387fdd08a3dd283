//! What a backend's answer to a start or a status poll says about the job; a hostile answer says nothing.

use crate::exports::object::{BadObject, Object, push_text};
use crate::names::JobId;

const JOB_ID: &str = "job_id";
const STATUS: &str = "status";
const WEBSOCKET_URL: &str = "websocket_url";

/// A job that an answer names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedJob {
    /// Its id.
    pub job: JobId,
    /// What the answer says of it.
    pub status: JobStatus,
}

/// How far a job is, by an answer's `status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum JobStatus {
    /// Not said to be over: `pending`, `processing`, none, or a word that is not known.
    Open,
    /// `complete`.
    Complete,
    /// `error`.
    Error,
}

/// Says why an answer names no job that can be relied on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Unusable {
    /// Not one JSON value in UTF-8, or one with too many members.
    #[error("the answer is not valid JSON")]
    Json,
    /// JSON, but not an object.
    #[error("the answer is not a JSON object")]
    NotAnObject,
    /// Nested too deeply.
    #[error("the answer is nested too deeply")]
    TooDeep,
    /// There is no `job_id`.
    #[error("the answer has no job_id")]
    NoJobId,
    /// `job_id` stands there more than once.
    #[error("the answer has several job_id")]
    SeveralJobIds,
    /// `job_id` is not a string of the pattern.
    #[error("the answer's job_id is not one")]
    BadJobId,
    /// The answer is about another job than the one asked for.
    #[error("the answer names another job")]
    OtherJob,
}

impl From<BadObject> for Unusable {
    fn from(bad: BadObject) -> Unusable {
        match bad {
            BadObject::Invalid => Unusable::Json,
            BadObject::NotAnObject => Unusable::NotAnObject,
            BadObject::TooDeep => Unusable::TooDeep,
        }
    }
}

impl Unusable {
    /// Returns the word for the log.
    pub fn as_str(self) -> &'static str {
        match self {
            Unusable::Json => "invalid_json",
            Unusable::NotAnObject => "not_an_object",
            Unusable::TooDeep => "too_deep",
            Unusable::NoJobId => "no_job_id",
            Unusable::SeveralJobIds => "several_job_ids",
            Unusable::BadJobId => "bad_job_id",
            Unusable::OtherJob => "other_job",
        }
    }
}

/// Reads which job an answer to a start names, from either backend.
///
/// # Errors
/// [`Unusable`] unless the body is one JSON object with exactly one `job_id`, a string that is a [`JobId`].
pub fn read_start(body: &[u8]) -> Result<NamedJob, Unusable> {
    named_job(&Object::read(body)?)
}

/// Reads an answer to a status poll for `job`.
///
/// # Errors
/// [`Unusable`] unless the body is one JSON object that names this very job.
pub fn read_status(body: &[u8], job: &JobId) -> Result<JobStatus, Unusable> {
    let named = read_start(body)?;
    if named.job == *job { Ok(named.status) } else { Err(Unusable::OtherJob) }
}

/// Returns workers' answer as it came, plus `websocket_url`; one that is there is replaced.
///
/// A body that is no JSON object, which [`read_start`] would have refused, comes back unchanged.
pub fn complete(body: &[u8], websocket_url: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(body.len() + websocket_url.len() + WEBSOCKET_URL.len() + 8);
    let (Ok(object), Some(end)) = (Object::read(body), body.iter().rposition(|byte| *byte == b'}')) else {
        return body.to_vec();
    };
    if object.count(WEBSOCKET_URL) == 0 {
        out.extend_from_slice(body[..end].trim_ascii_end());
    } else {
        out.push(b'{');
        for field in object.fields.iter().filter(|field| field.key != WEBSOCKET_URL) {
            if out.len() > 1 {
                out.push(b',');
            }
            out.extend_from_slice(field.raw_key.as_bytes());
            out.push(b':');
            out.extend_from_slice(field.value.as_bytes());
        }
    }
    if out.last() != Some(&b'{') {
        out.push(b',');
    }
    push_text(&mut out, WEBSOCKET_URL);
    out.push(b':');
    push_text(&mut out, websocket_url);
    out.extend_from_slice(&body[end..]);
    out
}

pub(super) fn named_job(object: &Object<'_>) -> Result<NamedJob, Unusable> {
    let field = object.last(JOB_ID).ok_or(Unusable::NoJobId)?;
    if object.count(JOB_ID) > 1 {
        return Err(Unusable::SeveralJobIds);
    }
    let text = field.text().ok_or(Unusable::BadJobId)?;
    let job = JobId::parse(&text).map_err(|_| Unusable::BadJobId)?;
    let status = object.last(STATUS).and_then(|field| field.text());
    let status = match status.as_deref() {
        Some("complete") => JobStatus::Complete,
        Some("error") => JobStatus::Error,
        _ => JobStatus::Open,
    };
    Ok(NamedJob { job, status })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn job(text: &str) -> JobId {
        JobId::parse(text).unwrap()
    }

    #[test]
    fn usable_answers() {
        let cases = [
            (r#"{"job_id":"j-1","status":"processing"}"#, JobStatus::Open),
            (r#"{"job_id":"j-1"}"#, JobStatus::Open),
            (r#"{"status":"complete","job_id":"j-1","progress":1.0,"output_key":"x"}"#, JobStatus::Complete),
            (r#"{"job_id":"j-1","status":"error","error":null}"#, JobStatus::Error),
            (r#"{"job_id":"j-1","status":"complete","status":"error"}"#, JobStatus::Error),
            (r#"{"job_id":"j-1","status":7}"#, JobStatus::Open),
            (r#"{"job_id":"j-1","status":"Complete"}"#, JobStatus::Open),
            (r#"{"job_\u0069d":"\u006a-1","status":"comp\u006cete"}"#, JobStatus::Complete),
            ("\r\n {\"job_id\" :\t\"j-1\"} \n", JobStatus::Open),
        ];
        for (body, status) in cases {
            assert_eq!(read_start(body.as_bytes()), Ok(NamedJob { job: job("j-1"), status }), "{body}");
            assert_eq!(read_status(body.as_bytes(), &job("j-1")), Ok(status), "{body}");
            assert_eq!(read_status(body.as_bytes(), &job("j-2")), Err(Unusable::OtherJob), "{body}");
        }
    }

    #[test]
    fn hostile_answers_name_no_job() {
        let long = format!(r#"{{"job_id":"{}"}}"#, "x".repeat(10 * 1024));
        let deep = format!(r#"{{"job_id":"a","x":{}{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
        let open = format!(r#"{{"job_id":"a","x":{}"#, "{\"x\":".repeat(100_000));
        let cases: &[(&[u8], Unusable)] = &[
            (b"", Unusable::Json),
            (b"{\"job_id\":\"a\"", Unusable::Json),
            (b"{\"job_id\":\"a\"}{}", Unusable::Json),
            (b"{\"job_id\":\"a\",\"x\":\"\xff\"}", Unusable::Json),
            (b"{\"job_id\":\"a\xff\"}", Unusable::Json),
            (b"\xef\xbb\xbf{\"job_id\":\"a\"}", Unusable::Json),
            (b"<html>error code: 1101</html>", Unusable::Json),
            (b"[\"a\"]", Unusable::NotAnObject),
            (b"\"a\"", Unusable::NotAnObject),
            (deep.as_bytes(), Unusable::TooDeep),
            (open.as_bytes(), Unusable::TooDeep),
            (b"{}", Unusable::NoJobId),
            (b"{\"JOB_ID\":\"a\"}", Unusable::NoJobId),
            (b"{\"x\":{\"job_id\":\"a\"}}", Unusable::NoJobId),
            (b"{\"job_id\":\"a\",\"job_id\":\"a\"}", Unusable::SeveralJobIds),
            (b"{\"job_id\":\"a\",\"job\\u005fid\":\"b\"}", Unusable::SeveralJobIds),
            (b"{\"job_id\":12}", Unusable::BadJobId),
            (b"{\"job_id\":null}", Unusable::BadJobId),
            (b"{\"job_id\":[\"a\"]}", Unusable::BadJobId),
            (b"{\"job_id\":\"\"}", Unusable::BadJobId),
            (b"{\"job_id\":\"../../x\"}", Unusable::BadJobId),
            (b"{\"job_id\":\"a\\r\\nb\"}", Unusable::BadJobId),
            (b"{\"job_id\":\"a\\\"b\"}", Unusable::BadJobId),
            (b"{\"job_id\":\"\\ud800\"}", Unusable::BadJobId),
            (b"{\"job_id\":\"caf\\u00e9\"}", Unusable::BadJobId),
            (long.as_bytes(), Unusable::BadJobId),
        ];
        for (body, expected) in cases {
            let shown = String::from_utf8_lossy(&body[..body.len().min(60)]);
            assert_eq!(read_start(body), Err(*expected), "{shown}");
            assert_eq!(read_status(body, &job("a")), Err(*expected), "{shown}");
        }
    }

    #[test]
    fn answers_are_completed() {
        let url = "ws://h/api/jobs/j/ws";
        let cases = [
            (
                "{\"job_id\": \"j\",  \"status\": \"processing\", \"n\": 1.0}",
                "{\"job_id\": \"j\",  \"status\": \"processing\", \"n\": 1.0,\"websocket_url\":\"ws://h/api/jobs/j/ws\"}",
            ),
            ("{\"job_id\":\"j\"\n}\n", "{\"job_id\":\"j\",\"websocket_url\":\"ws://h/api/jobs/j/ws\"}\n"),
            ("{ }", "{\"websocket_url\":\"ws://h/api/jobs/j/ws\"}"),
            (
                "{\"websocket_url\":\"evil\",\"job_id\": \"j\",\"n\":1e400,\"websocket\\u005furl\":[{}]}",
                "{\"job_id\":\"j\",\"n\":1e400,\"websocket_url\":\"ws://h/api/jobs/j/ws\"}",
            ),
            ("{\"websocket_url\":null}", "{\"websocket_url\":\"ws://h/api/jobs/j/ws\"}"),
            ("[1]", "[1]"),
        ];
        for (body, expected) in cases {
            assert_eq!(String::from_utf8(complete(body.as_bytes(), url)).unwrap(), expected, "{body}");
        }
    }

    proptest! {
        #[test]
        fn completing_adds_one_member_and_keeps_the_rest(
            members in prop::collection::vec(("[a-z_]{1,14}", "(-?[1-9][0-9]{0,30}(\\.0)?|\"[a-z {}]{0,9}\"|\\[\\{\\}, 1\\])"), 0..6),
            url in ".{0,20}",
        ) {
            let members: Vec<_> = members.iter().map(|(key, value)| format!("\"{key}\": {value}")).collect();
            let body = format!("{{{}}}", members.join(" , "));
            let out = complete(body.as_bytes(), &url);
            let (before, after) = (Object::read(body.as_bytes()).unwrap(), Object::read(&out).unwrap());
            let kept = |object: &Object<'_>| -> Vec<(String, String)> {
                let others = object.fields.iter().filter(|field| field.key != WEBSOCKET_URL);
                others.map(|field| (field.raw_key.to_owned(), field.value.to_owned())).collect()
            };
            prop_assert_eq!(kept(&before), kept(&after));
            prop_assert_eq!(after.count(WEBSOCKET_URL), 1);
            let added = after.last(WEBSOCKET_URL).and_then(|field| field.text());
            prop_assert_eq!(added.as_deref(), Some(url.as_str()));
        }

        #[test]
        fn any_bytes_have_an_answer(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = read_start(&bytes);
            let _ = complete(&bytes, "ws://h");
        }
    }
}
