//! A client's `Idempotency-Key`: what it is valid for, what is kept under it, and what a second start with it gets.
//!
//! Pure. The key under which a start is stored, and which workers get, is the SHA-256, in lower-case hex, of four lines
//! that end with a line feed each but for the last (version 1, pinned by a test; a change needs a new first line):
//!
//! ```text
//! export-gateway key 1
//! user <the filtered user id, UTF-8>      or: anonymous
//! POST /api/export/<type>/start
//! <the client's key>
//! ```
//!
//! None of the four can contain a line feed, so that two different starts never make the same text.

use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::record::{BodyHash, Intent, IntentState, JobState, KeptAnswer};
use crate::exports::answer;
use crate::limits;
use crate::names::{ExportType, JobId, UserId};

/// A key as a client sent it: 1 to 255 visible ASCII characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientKey(Box<str>);

impl ClientKey {
    /// Parses a header's value; `None` for what is no key.
    pub fn parse(value: &[u8]) -> Option<ClientKey> {
        let fits = (1..=limits::CLIENT_KEY).contains(&value.len()) && value.iter().all(u8::is_ascii_graphic);
        let text = std::str::from_utf8(value).ok()?;
        fits.then(|| ClientKey(Box::from(text)))
    }

    /// Returns the key of this user's starts of this type, as the module says.
    pub fn scoped(&self, user: Option<&UserId>, export: &ExportType) -> String {
        let user = user.map_or("anonymous".to_owned(), |user| format!("user {user}"));
        let text = format!("export-gateway key 1\n{user}\nPOST /api/export/{export}/start\n{}", self.0);
        hash(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// Hashes the body that a client sent.
pub fn hash(body: &[u8]) -> BodyHash {
    Sha256::digest(body).into()
}

/// What a start gets whose key another start has.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict<'a> {
    /// The answer of the other one.
    Replay(&'a KeptAnswer),
    /// The other one is under way.
    Running,
    /// Nobody knows whether the other one made a job: no new start.
    Unknown,
    /// The other one had another body: the client's mistake.
    OtherBody,
}

/// Says what a start with this body gets, when `holder` has its key.
pub fn judge<'a>(holder: &'a Intent, body: &BodyHash) -> Verdict<'a> {
    match &holder.claim {
        Some(claim) if claim.body != *body => return Verdict::OtherBody,
        Some(_) => {}
        // A record that is damaged: whose answer it holds cannot be said.
        None => return Verdict::Unknown,
    }
    match (holder.state, &holder.answer) {
        (IntentState::Answered, Some(answer)) => Verdict::Replay(answer),
        (IntentState::Running, _) => Verdict::Running,
        (IntentState::Unknown | IntentState::Answered, _) => Verdict::Unknown,
    }
}

/// Says what is kept of an answer; `None`: nothing, and the key is free again.
///
/// An answer over [`limits::KEPT_ANSWER`] is kept in its shortest form: `job_id`, `status` and `websocket_url` of the
/// job that it names. One that names none is a sentence if it was a success, since something was started; a rejection
/// is not kept at all, since nothing was.
pub fn keep(
    status: u16,
    content_type: Option<&str>,
    body: &Bytes,
    job: Option<(&JobId, JobState)>,
    websocket_url: Option<&str>,
) -> Option<KeptAnswer> {
    if body.len() + content_type.map_or(0, str::len) <= limits::KEPT_ANSWER {
        return Some(KeptAnswer { status, content_type: content_type.map(Box::from), body: body.clone() });
    }
    let text = match job {
        Some((id, JobState::Error)) => format!(r#"{{"job_id":"{id}","status":"error"}}"#),
        Some((id, JobState::Open | JobState::Complete | JobState::Lost)) => {
            format!(r#"{{"job_id":"{id}","status":"processing"}}"#)
        }
        None if (200..300).contains(&status) => {
            r#"{"detail":"The export was started; its answer was too large to be repeated","code":"answer_not_kept"}"#
                .to_owned()
        }
        None => return None,
    };
    let body = match websocket_url {
        Some(url) if job.is_some() => answer::complete(text.as_bytes(), url),
        _ => text.into_bytes(),
    };
    Some(KeptAnswer { status, content_type: Some("application/json".into()), body: body.into() })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::record::Claim;
    use super::*;
    use crate::names::BackendName;

    fn key(text: &str) -> ClientKey {
        ClientKey::parse(text.as_bytes()).unwrap()
    }

    fn overlay() -> ExportType {
        ExportType::parse("overlay").unwrap()
    }

    #[test]
    fn only_visible_ascii_of_a_sensible_length_is_a_key() {
        for bad in ["", " ", "a b", "a\tb", "a\n", "\u{7f}", "\u{e9}", &"x".repeat(256)] {
            assert_eq!(ClientKey::parse(bad.as_bytes()), None, "{bad:?}");
        }
        for good in ["x", "!~", "\"8e03978e-40d5-43dd-bc93-6894a57f9324\"", &"x".repeat(255)] {
            assert!(ClientKey::parse(good.as_bytes()).is_some(), "{good:?}");
        }
        assert_eq!(ClientKey::parse(b"\xff"), None);
    }

    /// `printf 'export-gateway key 1\nuser alice\nPOST /api/export/overlay/start\nk1' | sha256sum`, and so on.
    #[test]
    fn the_encoding_never_changes() {
        let alice = UserId::from_text("alice");
        let latin = UserId::from_text("caf\u{e9}");
        let cases = [
            (alice.as_ref(), "k1", VECTOR_ALICE),
            (None, "k1", VECTOR_ANONYMOUS),
            (latin.as_ref(), "\"k2\"", VECTOR_LATIN),
        ];
        for (user, text, expected) in cases {
            assert_eq!(key(text).scoped(user, &overlay()), expected, "{user:?} {text}");
        }
    }
    const VECTOR_ALICE: &str = "71a692d81769a4b8d74131c6e75ff5fda671807ee97e5dcf61361ad4e5ef4f7f";
    const VECTOR_ANONYMOUS: &str = "515d13f0f8d79d90372f486051caebcc4fc7433ed6e05bb79ab9cee6887b0edd";
    const VECTOR_LATIN: &str = "f39b55dd3ed3afe3cdcba46df847db085d305da2cd1a2cdffb3b834f354447a2";

    fn holder(state: IntentState, body: &[u8], answer: Option<KeptAnswer>) -> Intent {
        Intent {
            key: "k".into(),
            request_id: "r".into(),
            user: None,
            export: overlay(),
            backend: BackendName::Workers,
            started_ms: 0,
            deadline_ms: 1,
            state,
            claim: Some(Claim { token: "t".into(), body: hash(body) }),
            resend: None,
            answer,
        }
    }

    #[test]
    fn what_a_second_start_gets() {
        let answer = KeptAnswer { status: 200, content_type: None, body: Bytes::from_static(b"{}") };
        let cases = [
            (IntentState::Running, None, Verdict::Running),
            (IntentState::Unknown, None, Verdict::Unknown),
            (IntentState::Answered, Some(answer.clone()), Verdict::Replay(&answer)),
            // A record that lost its answer is no permission to start again.
            (IntentState::Answered, None, Verdict::Unknown),
        ];
        for (state, kept, expected) in cases {
            let holder = holder(state, b"one", kept);
            assert_eq!(judge(&holder, &hash(b"one")), expected, "{state:?}");
            assert_eq!(judge(&holder, &hash(b"two")), Verdict::OtherBody, "{state:?}");
            let damaged = Intent { claim: None, ..holder };
            assert_eq!(judge(&damaged, &hash(b"one")), Verdict::Unknown, "{state:?}");
        }
    }

    #[test]
    fn answers_are_kept_whole_or_in_their_shortest_form() {
        let job = JobId::parse("j-1").unwrap();
        let small = Bytes::from(vec![b'x'; limits::KEPT_ANSWER - 10]);
        let kept = keep(201, Some("text/plain"), &small, None, None).unwrap();
        assert_eq!((kept.status, kept.content_type.as_deref(), &kept.body), (201, Some("text/plain"), &small));
        let large = Bytes::from(vec![b'x'; limits::KEPT_ANSWER + 1]);
        let text = |status, job, url| {
            let kept: Option<KeptAnswer> = keep(status, Some("text/plain"), &large, job, url);
            kept.map(|kept| (kept.status, String::from_utf8(kept.body.to_vec()).unwrap()))
        };
        let (open, failed) = (Some((&job, JobState::Open)), Some((&job, JobState::Error)));
        let processing = r#"{"job_id":"j-1","status":"processing","websocket_url":"wss://w/j-1"}"#;
        assert_eq!(text(200, open, Some("wss://w/j-1")), Some((200, processing.to_owned())));
        assert_eq!(text(202, open, None).unwrap().1, r#"{"job_id":"j-1","status":"processing"}"#);
        assert_eq!(text(500, failed, None), Some((500, r#"{"job_id":"j-1","status":"error"}"#.to_owned())));
        assert!(text(200, None, None).unwrap().1.contains("answer_not_kept"));
        assert_eq!(text(422, None, None), None, "nothing was started: the key is free");
    }

    proptest! {
        #[test]
        fn different_starts_have_different_keys(
            a in ("[a-c]{0,2}", "[a-c]{1,2}", "[a-c]{1,2}"), b in ("[a-c]{0,2}", "[a-c]{1,2}", "[a-c]{1,2}"),
        ) {
            let scoped = |(user, export, text): &(String, String, String)| {
                key(text).scoped(UserId::from_text(user).as_ref(), &ExportType::parse(export).unwrap())
            };
            prop_assert_eq!(a == b, scoped(&a) == scoped(&b));
        }

        #[test]
        fn whatever_is_kept_fits(status in 200u16..600, length in 0usize..40_000, kind in "[a-z/]{0,40}") {
            let kept = keep(status, Some(&kind), &Bytes::from(vec![b'x'; length]), None, None);
            prop_assert!(kept.is_none_or(|kept| kept.body.len() <= limits::KEPT_ANSWER));
        }
    }
}
