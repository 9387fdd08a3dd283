//! Method and path → route: which requests are taken over, which are refused, which just pass.
//!
//! Legacy's router decides on the path decoded once (uvicorn decodes, Starlette matches), so this one does too.
//! Starlette neither merges slashes nor resolves dot segments nor folds case, but its `$` also matches in front of
//! one trailing line feed. No spelling that legacy would run as a start may come out as [`Route::Pass`].

use std::borrow::Cow;
use std::collections::BTreeMap;

use http::Method;

use crate::names::{ExportType, JobId};
use crate::routing::table::Export;

const EXPORT: &[u8] = b"/api/export/";
const JOBS: &[u8] = b"/api/jobs/";

/// Says what kind of request this is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// `POST /api/export/{type}/start`.
    Start(ExportType),
    /// `GET /api/export/{type}/status/{job_id}`, or without the type.
    Status {
        /// The type in the path; `None` in the flat form.
        export: Option<ExportType>,
        /// The job that is asked for.
        job: JobId,
    },
    /// `GET /api/jobs/{job_id}/ws`; whether it is a WebSocket handshake is in its headers.
    JobSocket(JobId),
    /// `OPTIONS` on one of the paths above; whether it is a CORS preflight is in its headers.
    Preflight,
    /// All else: legacy's.
    Pass,
}

/// Says that a path under `/api/export/` or `/api/jobs/` can be read in two ways; it is refused with 400.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("encoded slash, backslash, control byte or dot segment in the path")]
pub struct OddPath;

/// Finds the route of a request; `path` is the target's path as it came, without the query.
///
/// A path outside the two prefixes is passed without an allocation.
///
/// # Errors
/// [`OddPath`] where the decoded path begins with one of the prefixes and holds `%2F`, a backslash, a control byte
/// or a dot segment, in any spelling and for any method.
pub fn find(method: &Method, path: &str, exports: &BTreeMap<ExportType, Export>) -> Result<Route, OddPath> {
    let raw = path.as_bytes();
    if decodes_to_prefix(raw, EXPORT) {
        let path = decode(raw)?;
        Ok(export_route(method, &path[EXPORT.len()..], exports))
    } else if decodes_to_prefix(raw, JOBS) {
        let path = decode(raw)?;
        Ok(job_route(method, &path[JOBS.len()..]))
    } else {
        Ok(Route::Pass)
    }
}

fn export_route(method: &Method, rest: &[u8], exports: &BTreeMap<ExportType, Export>) -> Route {
    let mut segments = rest.split(|byte| *byte == b'/');
    let segments = (segments.next(), segments.next(), segments.next(), segments.next());
    let known = |name: &[u8]| Some(exports.get_key_value(std::str::from_utf8(name).ok()?)?.0.clone());
    let start = match segments {
        (Some(name), Some(b"start"), None, None) => known(name),
        _ => None,
    };
    let status = match segments {
        (Some(b"status"), Some(id), None, None) => job_id(id).map(|job| (None, job)),
        (Some(name), Some(b"status"), Some(id), None) => {
            known(name).and_then(|export| Some((Some(export), job_id(id)?)))
        }
        _ => None,
    };
    // Both can be there: `/api/export/status/start` is a start of a type called `status` and the status of a job `start`.
    match (method, start, status) {
        (&Method::POST, Some(export), _) => Route::Start(export),
        (&Method::GET, _, Some((export, job))) => Route::Status { export, job },
        (&Method::OPTIONS, Some(_), _) | (&Method::OPTIONS, _, Some(_)) => Route::Preflight,
        _ => Route::Pass,
    }
}

fn job_route(method: &Method, rest: &[u8]) -> Route {
    let mut segments = rest.split(|byte| *byte == b'/');
    let job = match (segments.next(), segments.next(), segments.next()) {
        (Some(id), Some(b"ws"), None) => job_id(id),
        _ => None,
    };
    match (method, job) {
        (&Method::GET, Some(job)) => Route::JobSocket(job),
        (&Method::OPTIONS, Some(_)) => Route::Preflight,
        _ => Route::Pass,
    }
}

fn job_id(segment: &[u8]) -> Option<JobId> {
    JobId::parse(std::str::from_utf8(segment).ok()?).ok()
}

/// Says whether the decoded path begins with `prefix`; stops at the first byte that differs.
fn decodes_to_prefix(mut raw: &[u8], prefix: &[u8]) -> bool {
    prefix.iter().all(|expected| {
        let Some((byte, rest)) = next_byte(raw) else { return false };
        raw = rest;
        byte == *expected
    })
}

/// Decodes a path once, as Python's `unquote` does: an escape that is not one stays as it is.
fn decode(raw: &[u8]) -> Result<Cow<'_, [u8]>, OddPath> {
    let path = if raw.contains(&b'%') { Cow::Owned(decode_escapes(raw)?) } else { Cow::Borrowed(raw) };
    let odd_byte = path.iter().any(|byte| byte.is_ascii_control() || *byte == b'\\');
    let dot_segment = path.split(|byte| *byte == b'/').any(|segment| matches!(segment, b"." | b".."));
    if odd_byte || dot_segment { Err(OddPath) } else { Ok(path) }
}

fn decode_escapes(mut raw: &[u8]) -> Result<Vec<u8>, OddPath> {
    let mut path = Vec::with_capacity(raw.len());
    while let Some((byte, rest)) = next_byte(raw) {
        // The one byte whose escape says something else than the byte itself.
        if byte == b'/' && raw[0] == b'%' {
            return Err(OddPath);
        }
        path.push(byte);
        raw = rest;
    }
    Ok(path)
}

fn next_byte(raw: &[u8]) -> Option<(u8, &[u8])> {
    match raw {
        [b'%', high, low, rest @ ..] => match (hex(*high), hex(*low)) {
            (Some(high), Some(low)) => Some((high << 4 | low, rest)),
            _ => Some((b'%', &raw[1..])),
        },
        [byte, rest @ ..] => Some((*byte, rest)),
        [] => None,
    }
}

fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::routing::table::{InputKey, Share};

    fn exports() -> BTreeMap<ExportType, Export> {
        let export = Export {
            params: None,
            share: Share::from_hundredths(0).unwrap(),
            input_key: InputKey::Field("input_key".into()),
        };
        ["overlay", "framing", "annotate"]
            .map(|name| (ExportType::parse(name).unwrap(), export.clone()))
            .into_iter()
            .collect()
    }

    fn start(name: &str) -> Result<Route, OddPath> {
        Ok(Route::Start(ExportType::parse(name).unwrap()))
    }

    fn status(export: Option<&str>, job: &str) -> Result<Route, OddPath> {
        Ok(Route::Status {
            export: export.map(|name| ExportType::parse(name).unwrap()),
            job: JobId::parse(job).unwrap(),
        })
    }

    fn socket(job: &str) -> Result<Route, OddPath> {
        Ok(Route::JobSocket(JobId::parse(job).unwrap()))
    }

    #[test]
    fn routes_that_are_taken_over() {
        let cases = [
            (Method::POST, "/api/export/overlay/start", start("overlay")),
            (Method::POST, "/api/export/annotate/start", start("annotate")),
            (Method::POST, "/api/export/%6fverlay/start", start("overlay")),
            (Method::POST, "/api/export/%6Fverlay/s%74art", start("overlay")),
            (Method::POST, "/%61pi/expor%74/overlay/start", start("overlay")),
            (Method::GET, "/api/export/overlay/status/a-B_9", status(Some("overlay"), "a-B_9")),
            (Method::GET, "/api/export/status/a-B_9", status(None, "a-B_9")),
            (Method::GET, "/api/export/status/%61%2DB", status(None, "a-B")),
            (Method::GET, "/api/export/status/start", status(None, "start")),
            (Method::GET, "/api/export/status/status", status(None, "status")),
            (Method::GET, "/api/jobs/abc/ws", socket("abc")),
            (Method::GET, "/api/jobs/%61bc/w%73", socket("abc")),
            (Method::OPTIONS, "/api/export/overlay/start", Ok(Route::Preflight)),
            (Method::OPTIONS, "/api/export/framing/status/abc", Ok(Route::Preflight)),
            (Method::OPTIONS, "/api/export/status/abc", Ok(Route::Preflight)),
            (Method::OPTIONS, "/api/jobs/abc/ws", Ok(Route::Preflight)),
        ];
        for (method, path, expected) in cases {
            assert_eq!(find(&method, path, &exports()), expected, "{method} {path}");
        }
    }

    #[test]
    fn what_is_not_taken_over_passes() {
        let long = format!("/api/export/status/{}", "x".repeat(129));
        let cases = [
            (Method::GET, "/"),
            (Method::GET, ""),
            (Method::OPTIONS, "*"),
            (Method::GET, "/api/export/overlay/start"),
            (Method::PUT, "/api/export/overlay/start"),
            (Method::HEAD, "/api/export/status/abc"),
            (Method::POST, "/api/export/status/abc"),
            (Method::POST, "/api/jobs/abc/ws"),
            (Method::POST, "/api/export/other/start"),
            (Method::POST, "/api/export/status/start"),
            (Method::GET, "/api/export/other/status/abc"),
            (Method::OPTIONS, "/api/export/other/start"),
            (Method::OPTIONS, "/api/export/overlay"),
            (Method::POST, "/api/export/overlay/start/"),
            (Method::POST, "/api/export/overlay//start"),
            (Method::POST, "//api/export/overlay/start"),
            (Method::POST, "/api//export/overlay/start"),
            (Method::POST, "/api/export/Overlay/start"),
            (Method::POST, "/API/export/overlay/start"),
            (Method::POST, "/api/export/overlay/START"),
            (Method::POST, "/api/export/overlay/start;x"),
            (Method::POST, "/api/export/overlay/start%3Fx"),
            (Method::POST, "/api/export/overlay/start%20"),
            (Method::POST, "/api/export/%256fverlay/start"),
            (Method::POST, "/api/export/overlay%252Fstart"),
            (Method::POST, "/api/export/overlay/start%"),
            (Method::POST, "/api/export/overlay/start%0"),
            (Method::POST, "/api/export/overlay/start%zz"),
            (Method::POST, "/api/export/%C3%B6verlay/start"),
            (Method::POST, "/api/export/%ff/start"),
            (Method::POST, "/api/export"),
            (Method::POST, "/api/export/"),
            (Method::POST, "/api/other/../export/overlay/start"),
            (Method::POST, "/api%2Fother/%00"),
            (Method::GET, "/videos/a%2Fb/..%5C"),
            (Method::GET, "/api/export/status/"),
            (Method::GET, "/api/export/status/a.b"),
            (Method::GET, "/api/export/status/a%20b"),
            (Method::GET, "/api/export/status/%C3%A9"),
            (Method::GET, "/api/export/status/abc/"),
            (Method::GET, "/api/export/overlay/status/abc/def"),
            (Method::GET, long.as_str()),
            (Method::GET, "/api/jobs/abc/ws/"),
            (Method::GET, "/api/jobs/abc"),
            (Method::GET, "/api/jobs//ws"),
            (Method::GET, "/ws/export/abc"),
        ];
        for (method, path) in cases {
            assert_eq!(find(&method, path, &exports()), Ok(Route::Pass), "{method} {path}");
        }
    }

    #[test]
    fn odd_paths_are_refused_whatever_the_method() {
        let paths = [
            "/api/export/overlay%2Fstart",
            "/api/export/overlay%2fstart",
            "/api%2Fexport/overlay/start",
            "%2Fapi/export/overlay/start",
            "/api/export%2Foverlay/start",
            "/api/export/overlay/start%0A",
            "/api/export/overlay/start%0D%0A",
            "/api/export/overlay/start%00",
            "/api/export/overlay/start%7F",
            "/api/export/overlay/\u{1}start",
            "/api/export/../export/overlay/start",
            "/api/export/./overlay/start",
            "/api/export/%2e/overlay/start",
            "/api/export/.%2E/x",
            "/api/export/..",
            "/%61pi/export/x/..",
            "/api/export/overlay\\start",
            "/api/export/overlay%5Cstart",
            "/api/export/anything/else/%5c",
            "/api/jobs/../export/overlay/start",
            "/api/jobs/abc%2Fws",
            "/api/jobs/abc/ws%0a",
        ];
        for path in paths {
            for method in [Method::GET, Method::POST, Method::OPTIONS, Method::DELETE] {
                assert_eq!(find(&method, path, &exports()), Err(OddPath), "{method} {path}");
            }
        }
    }

    /// A type may be called `status`: then the method tells its start from a job that is called `start`.
    #[test]
    fn a_type_called_status_is_no_ambiguity() {
        let mut exports = exports();
        let export = exports["overlay"].clone();
        exports.insert(ExportType::parse("status").unwrap(), export);
        let path = "/api/export/status/start";
        assert_eq!(find(&Method::POST, path, &exports), start("status"));
        assert_eq!(find(&Method::GET, path, &exports), status(None, "start"));
        assert_eq!(find(&Method::OPTIONS, path, &exports), Ok(Route::Preflight));
        assert_eq!(find(&Method::GET, "/api/export/status/status/x", &exports), status(Some("status"), "x"));
    }

    /// What uvicorn and Starlette do with a target's path: `re.match("^/api/export/overlay/start$", unquote(path))`.
    fn legacy_runs_a_start(path: &str) -> bool {
        let mut raw = path.as_bytes();
        let mut decoded = Vec::new();
        while let Some((byte, rest)) = next_byte(raw) {
            decoded.push(byte);
            raw = rest;
        }
        let decoded = decoded.strip_suffix(b"\n").unwrap_or(&decoded);
        decoded == b"/api/export/overlay/start"
    }

    fn escaped(text: &str, mask: u64) -> String {
        let escape = |(index, c): (usize, char)| match mask >> (index % 64) & 1 {
            1 => format!("%{:02x}", u32::from(c)),
            _ => c.to_string(),
        };
        text.chars().enumerate().map(escape).collect()
    }

    proptest! {
        #[test]
        fn no_spelling_of_a_start_slips_past(
            pieces in prop::collection::vec(prop::sample::select(vec![
                "/", "api", "export", "overlay", "start", "/api/export/", "overlay/start", "%2F", "%6f", "%0a", "%",
                "..", ".", "\\", "%61", "%73tart", "%25", "%00", "//", "%C3%A9", "?", "\n", "\u{e9}",
            ]), 0..8),
        ) {
            let path = pieces.concat();
            let found = find(&Method::POST, &path, &exports());
            if legacy_runs_a_start(&path) {
                prop_assert!(found == start("overlay") || found == Err(OddPath), "{path:?}: {found:?}");
            }
            if found == start("overlay") {
                prop_assert!(legacy_runs_a_start(&path), "{path:?}");
            }
        }

        #[test]
        fn escapes_change_nothing_but_slashes(mask: u64) {
            let path = escaped("/api/export/overlay/start", mask);
            let expected = if path.to_ascii_lowercase().contains("%2f") { Err(OddPath) } else { start("overlay") };
            prop_assert_eq!(find(&Method::POST, &path, &exports()), expected);
        }

        #[test]
        fn any_text_has_an_answer(path in ".{0,40}", tail in "[ -~]{0,30}") {
            let _ = find(&Method::GET, &path, &exports());
            let _ = find(&Method::GET, &format!("/api/export/{tail}"), &exports());
        }
    }
}
