//! The words of the domain as types: each is parsed once, on entry, and is valid from then on.

use std::fmt;
use std::sync::Arc;

use crate::limits;

/// Names one of the two places an export can run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum BackendName {
    /// The FastAPI backend that everything but the export routes belongs to.
    Legacy,
    /// The Cloudflare Worker with a Durable Object per job.
    Workers,
}

impl BackendName {
    /// Both backends, in the order they are shown.
    pub const ALL: [BackendName; 2] = [BackendName::Legacy, BackendName::Workers];

    /// Returns the name used in headers, logs, metrics and the store.
    pub fn as_str(self) -> &'static str {
        match self {
            BackendName::Legacy => "legacy",
            BackendName::Workers => "workers",
        }
    }

    /// Reads the name back from where [`BackendName::as_str`] wrote it.
    pub fn parse(text: &str) -> Option<BackendName> {
        BackendName::ALL.into_iter().find(|name| name.as_str() == text)
    }
}

impl fmt::Display for BackendName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A user as legacy understands one: filtered, never empty, safe as one folder name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UserId(Arc<str>);

impl UserId {
    /// Filters header bytes (read as Latin-1) as legacy does; `None` when nothing is left.
    ///
    /// What Python's `\w` and `-` match among U+0000..=U+00FF is kept, the rest is dropped.
    pub fn filter(bytes: &[u8]) -> Option<UserId> {
        if bytes.iter().all(|byte| is_ascii_kept(*byte)) {
            let text = std::str::from_utf8(bytes).ok().filter(|text| !text.is_empty())?;
            return Some(UserId(Arc::from(text)));
        }
        let text: String = bytes.iter().map(|byte| char::from(*byte)).filter(|c| is_kept(*c)).collect();
        if text.is_empty() { None } else { Some(UserId(Arc::from(text))) }
    }

    /// Filters text that came from the configuration, the store or a command line.
    ///
    /// Characters above U+00FF cannot come in a header and are dropped.
    pub fn from_text(text: &str) -> Option<UserId> {
        let text: String = text.chars().filter(|c| is_kept(*c)).collect();
        if text.is_empty() { None } else { Some(UserId(Arc::from(text))) }
    }

    /// Returns the filtered id.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the id as the Latin-1 bytes that a header carries.
    pub fn header_bytes(&self) -> Vec<u8> {
        self.0.chars().filter_map(|c| u8::try_from(u32::from(c)).ok()).collect()
    }
}

impl fmt::Display for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn is_ascii_kept(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-'
}

/// Says what Python's `re` matches with `[\w-]` in Latin-1: checked against CPython 3.11 for all 256 code points.
fn is_kept(c: char) -> bool {
    match u32::from(c) {
        0..=0x7f => c.is_ascii_alphanumeric() || c == '_' || c == '-',
        0xaa | 0xb2 | 0xb3 | 0xb5 | 0xb9 | 0xba | 0xbc..=0xbe => true,
        0xc0..=0xff => c != '\u{d7}' && c != '\u{f7}',
        _ => false,
    }
}

/// A job id that is safe in a path, a URL and a log: `[A-Za-z0-9_-]{1,128}`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct JobId(Arc<str>);

/// Says that a text is not a job id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a job id: 1 to {} of A-Z, a-z, 0-9, _ and - are", limits::JOB_ID)]
pub struct BadJobId;

impl JobId {
    /// Parses a job id.
    ///
    /// # Errors
    /// [`BadJobId`] for anything outside `[A-Za-z0-9_-]{1,128}`.
    pub fn parse(text: &str) -> Result<JobId, BadJobId> {
        let fits = (1..=limits::JOB_ID).contains(&text.len());
        if fits && text.bytes().all(is_ascii_kept) { Ok(JobId(Arc::from(text))) } else { Err(BadJobId) }
    }

    /// Returns the id.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::borrow::Borrow<str> for JobId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// A kind of export: a key of `[exports]`, as it stands in the path.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ExportType(Arc<str>);

impl ExportType {
    /// Parses an export type; `None` outside `[a-z0-9_-]{1,64}`.
    pub fn parse(text: &str) -> Option<ExportType> {
        let fits = (1..=limits::EXPORT_TYPE).contains(&text.len());
        let plain = text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-');
        (fits && plain).then(|| ExportType(Arc::from(text)))
    }

    /// Returns the name as it stands in the path.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ExportType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::borrow::Borrow<str> for ExportType {
    fn borrow(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_ids_are_filtered_as_legacy_does() {
        let cases: &[(&[u8], Option<&str>)] = &[
            (b"alice", Some("alice")),
            (b"../../etc", Some("etc")),
            (b"a b\tc", Some("abc")),
            (b"user-1_x", Some("user-1_x")),
            (b"", None),
            (b"...", None),
            (b"caf\xe9", Some("caf\u{e9}")),
            (b"\xd7\xf7\xa0", None),
            (b"\xbd", Some("\u{bd}")),
        ];
        for (bytes, expected) in cases {
            assert_eq!(UserId::filter(bytes).as_ref().map(UserId::as_str), *expected, "{bytes:?}");
        }
    }

    /// `[c for c in map(chr, range(256)) if re.match(r'[\w-]', c)]` on CPython 3.11.
    #[test]
    fn the_kept_characters_are_those_of_python() {
        let kept: Vec<u32> = (0..=255u32).filter(|n| is_kept(char::from_u32(*n).expect("below 256"))).collect();
        assert_eq!(kept.len(), PYTHON_KEPT);
        assert!(kept.contains(&0xb5) && !kept.contains(&0xb7));
    }
    const PYTHON_KEPT: usize = 135;

    #[test]
    fn hostile_job_ids_do_not_parse() {
        for bad in ["", "../../x", "a/b", "a\r\nb", "a\"b", "a b", &"x".repeat(129), "\u{e9}"] {
            assert_eq!(JobId::parse(bad), Err(BadJobId), "{bad:?}");
        }
        assert!(JobId::parse(&"x".repeat(128)).is_ok());
    }
}
