//! What makes an `input_key` out of what was looked up: the template, its placeholders, and what a key may not hold.

use serde_json::Value;

use crate::limits;
use crate::routing::table::UrlLookup;

/// Says why there is no key.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LookupError {
    /// There is no such video: the client's 400.
    #[error("no row")]
    Missing,
    /// The look-up failed: nothing was sent, legacy decides.
    #[error("the look-up of the input key failed")]
    Failed(#[source] LookupFailure),
}

/// Why a look-up failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LookupFailure {
    /// The database file is not there, not a file, or not to be read.
    #[error("the database file cannot be read")]
    File(#[source] std::sync::Arc<std::io::Error>),
    /// SQLite said so: locked, no such table, not a database, too many steps.
    #[error("SQLite")]
    Sqlite(#[source] std::sync::Arc<rusqlite::Error>),
    /// What was found makes no key.
    #[error("what was found makes no key")]
    Value(#[source] BadKey),
    /// The answer is not JSON.
    #[error("the answer is not JSON")]
    Json(#[source] std::sync::Arc<serde_json::Error>),
    /// Legacy was asked and gave nothing usable.
    #[error("legacy was asked: {0}")]
    Asked(String),
    /// Too many look-ups wait already.
    #[error("too many look-ups wait")]
    QueueFull,
    /// There was no answer in time.
    #[error("no answer in time")]
    TooSlow,
    /// The threads have ended.
    #[error("the look-up threads have ended")]
    Closed,
}

/// What is wrong with a value or with the key made of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadKey {
    /// A placeholder names no column.
    #[error("no column {0:?}")]
    NoColumn(String),
    /// A `{` without its `}`.
    #[error("a placeholder is not closed")]
    Unclosed,
    /// NULL.
    #[error("column {0:?} is NULL")]
    Null(String),
    /// Neither text nor an integer.
    #[error("column {0:?} is neither text nor an integer")]
    Kind(String),
    /// Empty text.
    #[error("column {0:?} is empty")]
    Empty(String),
    /// A byte below 0x20 or 0x7f.
    #[error("a control byte")]
    Control,
    /// A segment that is `..`.
    #[error("a .. segment")]
    Parent,
    /// Longer than [`limits::INPUT_KEY`] bytes.
    #[error("too long")]
    TooLong,
}

impl From<BadKey> for LookupError {
    fn from(bad: BadKey) -> LookupError {
        LookupError::Failed(LookupFailure::Value(bad))
    }
}

/// A value that a placeholder may stand for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Filling {
    Null,
    Text(String),
    Other,
}

/// Fills the `{name}` placeholders of a template and checks what comes out.
///
/// `value` returns what a name stands for, `None` for a name it does not know.
pub(super) fn fill(template: &str, value: impl Fn(&str) -> Option<Filling>) -> Result<String, BadKey> {
    let mut key = String::with_capacity(template.len() + 64);
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('{') {
        let (name, after) = after.split_once('}').ok_or(BadKey::Unclosed)?;
        key.push_str(before);
        match value(name).ok_or_else(|| BadKey::NoColumn(name.to_owned()))? {
            Filling::Null => return Err(BadKey::Null(name.to_owned())),
            Filling::Other => return Err(BadKey::Kind(name.to_owned())),
            Filling::Text(text) if text.is_empty() => return Err(BadKey::Empty(name.to_owned())),
            Filling::Text(text) => key.push_str(&text),
        }
        rest = after;
    }
    key.push_str(rest);
    check(key)
}

fn check(key: String) -> Result<String, BadKey> {
    if key.is_empty() {
        return Err(BadKey::Empty("key".to_owned()));
    }
    if key.len() > limits::INPUT_KEY {
        return Err(BadKey::TooLong);
    }
    if key.bytes().any(|byte| byte.is_ascii_control()) {
        return Err(BadKey::Control);
    }
    // A backslash separates nothing in an object key, but somebody downstream may think that it does.
    if key.split(['/', '\\']).any(|segment| segment == "..") {
        return Err(BadKey::Parent);
    }
    Ok(key)
}

/// Makes the key from legacy's answer to a look-up by URL.
///
/// # Errors
/// [`LookupError::Missing`] when the pointer finds null or nothing, [`LookupError::Failed`] for anything unusable.
pub fn key_from_answer(lookup: &UrlLookup, body: &[u8]) -> Result<String, LookupError> {
    let answer: Value = serde_json::from_slice(body)
        .map_err(|error| LookupError::Failed(LookupFailure::Json(std::sync::Arc::new(error))))?;
    let found = match answer.pointer(&lookup.pointer) {
        None | Some(Value::Null) => return Err(LookupError::Missing),
        Some(Value::String(text)) => Filling::Text(text.clone()),
        Some(Value::Number(number)) if number.is_i64() || number.is_u64() => Filling::Text(number.to_string()),
        Some(_) => Filling::Other,
    };
    Ok(fill(&lookup.key, |name| (name == "filename").then(|| found.clone()))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(template: &str, text: &str) -> Result<String, BadKey> {
        fill(template, |name| (name == "filename").then(|| Filling::Text(text.to_owned())))
    }

    #[test]
    fn a_key_is_filled_and_checked() {
        let bad = |text: &str| filled("working_videos/{filename}", text).unwrap_err();
        assert_eq!(filled("working_videos/{filename}", "a b.mp4").unwrap(), "working_videos/a b.mp4");
        assert_eq!(filled("{filename}/{filename}", "x").unwrap(), "x/x");
        assert_eq!(filled("videos/{filename}", "{filename}").unwrap(), "videos/{filename}", "values are not templates");
        assert_eq!(filled("videos/{filename}", "..mp4").unwrap(), "videos/..mp4");
        assert_eq!(bad(""), BadKey::Empty("filename".into()));
        assert_eq!(bad("../secret"), BadKey::Parent);
        assert_eq!(bad("a/../b"), BadKey::Parent);
        assert_eq!(bad("a\\..\\b"), BadKey::Parent);
        assert_eq!(bad("a\nb"), BadKey::Control);
        assert_eq!(bad("a\0b"), BadKey::Control);
        assert_eq!(bad("a\u{7f}b"), BadKey::Control);
        assert_eq!(bad(&"x".repeat(limits::INPUT_KEY)), BadKey::TooLong);
        assert_eq!(filled("{other}", "x").unwrap_err(), BadKey::NoColumn("other".into()));
        assert_eq!(filled("{filename", "x").unwrap_err(), BadKey::Unclosed);
        assert_eq!(filled("a{filename}b", ".").unwrap(), "a.b");
        assert_eq!(filled("{filename}{filename}", ".").unwrap_err(), BadKey::Parent, "checked as a whole");
    }

    #[test]
    fn an_answer_by_url_makes_the_same_key() {
        let lookup = UrlLookup {
            path: "/api/projects/{project_id}/working-video".into(),
            pointer: "/video/filename".into(),
            key: "working_videos/{filename}".into(),
            missing: "No working video found".into(),
        };
        let key = |body: &str| key_from_answer(&lookup, body.as_bytes());
        assert_eq!(key(r#"{"video": {"filename": "a.mp4"}}"#).unwrap(), "working_videos/a.mp4");
        assert_eq!(key(r#"{"video": {"filename": 7}}"#).unwrap(), "working_videos/7");
        assert!(matches!(key(r#"{"video": {"filename": null}}"#), Err(LookupError::Missing)));
        assert!(matches!(key(r#"{"video": null}"#), Err(LookupError::Missing)));
        assert!(matches!(key("{}"), Err(LookupError::Missing)));
        for bad in [r#"{"video": {"filename": "../x"}}"#, r#"{"video": {"filename": []}}"#, r#"{"video": "#, "\u{0}"] {
            assert!(matches!(key(bad), Err(LookupError::Failed(_))), "{bad}");
        }
        assert!(matches!(key(r#"{"video": {"filename": 1.5}}"#), Err(LookupError::Failed(_))));
        assert!(matches!(key(&"[".repeat(100_000)), Err(LookupError::Failed(_))));
    }
}
