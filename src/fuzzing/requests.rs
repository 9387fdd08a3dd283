//! Any path, any head, any bytes on a connection.

use std::collections::BTreeMap;
use std::time::Duration;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, Version};

use super::choice;
use crate::http::forwarding::{self, Sender};
use crate::http::headers;
use crate::http::screen::{Follows, Screen};
use crate::names::{ExportType, JobId};
use crate::routing::route::{self, OddPath, Route};
use crate::routing::table::{Export, InputKey, Limits, Share};

const TYPES: [&str; 3] = ["annotate", "overlay", "status"];

/// The first byte chooses the method; the rest is the path. Beside it: what uvicorn and Starlette make of the same path.
pub(super) fn route(bytes: &[u8]) {
    let (method, path) = choice(bytes);
    let methods = [Method::POST, Method::GET, Method::OPTIONS, Method::PUT];
    let method = &methods[usize::from(method & 3)];
    let path = String::from_utf8_lossy(path);
    let export = Export { params: None, share: Share::default(), input_key: InputKey::Field("input_key".to_owned()) };
    let exports: BTreeMap<_, _> =
        TYPES.iter().filter_map(|name| Some((ExportType::parse(name)?, export.clone()))).collect();
    let found = route::find(method, &path, &exports);
    let decoded = unquoted(path.as_bytes());
    // `$` also matches in front of a last line feed.
    let seen = decoded.strip_suffix(b"\n").unwrap_or(&decoded);
    let start = TYPES.iter().find(|name| seen == format!("/api/export/{name}/start").as_bytes());
    if *method == Method::POST {
        match (&found, start) {
            (Ok(Route::Start(export)), Some(name)) => assert_eq!(export.as_str(), *name),
            (Err(OddPath), _) => {}
            (Ok(Route::Pass), None) => {}
            (found, start) => unreachable!("{path:?}: {found:?}, legacy: {start:?}"),
        }
    }
    let is_ours = decoded.starts_with(b"/api/export/") || decoded.starts_with(b"/api/jobs/");
    let is_odd = decoded.iter().any(|byte| byte.is_ascii_control() || *byte == b'\\')
        || decoded.split(|byte| *byte == b'/').any(|segment| segment == b"." || segment == b"..")
        || path.to_ascii_lowercase().contains("%2f");
    assert_eq!(found == Err(OddPath), is_ours && is_odd, "{path:?}");
    let named = match &found {
        Ok(Route::Status { export: None, job }) => format!("/api/export/status/{job}"),
        Ok(Route::Status { export: Some(export), job }) => format!("/api/export/{export}/status/{job}"),
        Ok(Route::JobSocket(job)) => format!("/api/jobs/{job}/ws"),
        _ => return,
    };
    assert_eq!(String::from_utf8_lossy(&decoded), named);
    assert!(*method == Method::GET && named.split('/').any(|segment| JobId::parse(segment).is_ok()));
}

/// Python's `unquote` of bytes.
fn unquoted(raw: &[u8]) -> Vec<u8> {
    let mut pieces = raw.split(|byte| *byte == b'%');
    let mut decoded = pieces.next().unwrap_or_default().to_vec();
    for piece in pieces {
        let digits = piece.get(..2).filter(|two| two.iter().all(u8::is_ascii_hexdigit));
        match digits.and_then(|two| u8::from_str_radix(std::str::from_utf8(two).ok()?, 16).ok()) {
            Some(byte) => decoded.extend([byte].iter().chain(&piece[2..])),
            None => decoded.extend([b'%'].iter().chain(piece)),
        }
    }
    decoded
}

fn limits() -> Limits {
    Limits {
        start_body: 1 << 20,
        answer_body: 1 << 20,
        buffered: 1 << 26,
        target: 64,
        headers: 512,
        header_count: 16,
        connections: 10,
        connections_per_address: None,
        body_idle: Duration::from_secs(30),
        write_idle: Duration::from_secs(600),
    }
}

/// The first byte chooses method, version and trust; then come the target and fields, one a line.
pub(super) fn headers(bytes: &[u8]) {
    let (settings, rest) = choice(bytes);
    let mut lines = rest.split(|byte| *byte == b'\n');
    let target = lines.next().unwrap_or_default();
    let mut request = Request::new(());
    let Ok(uri) = std::str::from_utf8(target).unwrap_or_default().parse() else { return };
    *request.uri_mut() = uri;
    *request.method_mut() =
        [Method::GET, Method::POST, Method::OPTIONS, Method::TRACE][usize::from(settings & 3)].clone();
    *request.version_mut() = if settings & 4 != 0 { Version::HTTP_10 } else { Version::HTTP_11 };
    for line in lines.take(1000) {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
        let value = HeaderValue::from_bytes(line[colon + 1..].trim_ascii());
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(&line[..colon]), value) {
            request.headers_mut().append(name, value);
        }
    }
    answer_fields(request.headers().clone(), settings & 8 != 0);
    let Ok(head) = headers::check(&request, &limits()) else { return };
    let came = request.headers();
    assert!(came.len() <= 16 && came.get_all(header::HOST).iter().count() <= 1);
    assert!(came.get_all(header::TRANSFER_ENCODING).iter().count() <= 1);
    let mut once = came.clone();
    headers::strip_request(&mut once, &head);
    let mut twice = once.clone();
    headers::strip_request(&mut twice, &head);
    assert_eq!(once, twice, "stripping twice is stripping once");
    nothing_of_this_hop(&once, came);
    match (once.get(header::CONNECTION), head.websocket) {
        (Some(said), true) => assert!(said == "Upgrade" && once[header::UPGRADE] == "websocket"),
        (Some(said), false) => assert!(said == "TE" && once[header::TE] == "trailers" && head.te_trailers),
        (None, is_websocket) => assert!(!is_websocket),
    }
    for name in [header::HOST, header::CONTENT_LENGTH, header::AUTHORIZATION, header::COOKIE, header::CONTENT_TYPE] {
        assert!(came.get_all(&name).iter().eq(once.get_all(&name)), "{name} did not go on as it came");
    }
    forwarding_fields(once, settings & 16 != 0);
}

fn tokens<'h>(headers: &'h HeaderMap, name: &HeaderName) -> impl Iterator<Item = String> + use<'h> {
    let text: Vec<_> = headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes())).collect();
    let tokens: Vec<_> = text.join(",").split(',').map(|token| token.trim().to_ascii_lowercase()).collect();
    tokens.into_iter()
}

/// Checks what is left of `came` for fields of one hop.
fn nothing_of_this_hop(left: &HeaderMap, came: &HeaderMap) {
    for name in ["keep-alive", "proxy-connection", "proxy-authorization"] {
        assert!(!left.contains_key(name), "{name} is left");
    }
    let own = [header::CONNECTION, header::UPGRADE, header::TE];
    for name in &own {
        let values = left.get_all(name).iter().count();
        let is_own = left
            .get(name)
            .is_none_or(|value| value == "Upgrade" || value == "websocket" || value == "TE" || value == "trailers");
        assert!(values <= 1 && is_own, "{name}: {:?}", left.get(name));
    }
    for token in tokens(came, &header::CONNECTION) {
        let is_own = own.iter().any(|name| *name == *token);
        assert!(
            is_own || HeaderName::from_bytes(token.as_bytes()).is_err() || !left.contains_key(&token),
            "{token} is left"
        );
    }
    for (name, value) in left {
        let is_own = own.contains(name);
        assert!(is_own || came.get_all(name).iter().any(|other| other == value), "{name} was made up");
    }
}

/// The same fields as an answer's.
fn answer_fields(came: HeaderMap, upgrading: bool) {
    let mut once = came.clone();
    headers::strip_answer(&mut once, upgrading);
    let mut twice = once.clone();
    headers::strip_answer(&mut twice, upgrading);
    assert_eq!(once, twice, "stripping twice is stripping once");
    for name in ["keep-alive", "proxy-connection", "proxy-authenticate", "transfer-encoding", "te"] {
        assert!(!once.contains_key(name), "{name} is left");
    }
    assert_eq!(once.contains_key(header::CONNECTION), upgrading);
    assert_eq!(once.contains_key(header::UPGRADE), upgrading);
    if !came.contains_key(header::TRANSFER_ENCODING) {
        assert!(came.get_all(header::CONTENT_LENGTH).iter().eq(once.get_all(header::CONTENT_LENGTH)));
    }
}

fn forwarding_fields(mut headers: HeaderMap, trusted: bool) {
    let before = headers.clone();
    let address = HeaderValue::from_static("192.0.2.7");
    forwarding::write(&mut headers, &Sender { address: &address, scheme: "https", trusted });
    let fields = |headers: &HeaderMap, name| -> Vec<HeaderValue> { headers.get_all(name).iter().cloned().collect() };
    let hops = fields(&headers, "x-forwarded-for");
    assert_eq!(hops.len(), 1);
    if trusted {
        assert_eq!(tokens(&headers, &forwarding::X_FORWARDED_FOR).last().as_deref(), Some("192.0.2.7"));
        for name in ["x-forwarded-proto", "x-forwarded-host"] {
            assert!(
                !before.contains_key(name) || fields(&before, name) == fields(&headers, name),
                "{name} was not kept"
            );
        }
    } else {
        assert_eq!(hops, ["192.0.2.7"]);
        assert_eq!(fields(&headers, "x-forwarded-proto"), ["https"]);
        assert_eq!(fields(&headers, "x-forwarded-host"), fields(&before, "host"));
    }
    assert!(!headers.contains_key(header::FORWARDED));
}

/// The first byte says how many more say where the rest is cut; the verdict is the same under any cuts.
pub(super) fn screen(bytes: &[u8]) {
    let (count, rest) = choice(bytes);
    let (cuts, text) = rest.split_at(usize::from(count % 8).min(rest.len()));
    let whole = looked_at(text, [text.len()].into_iter());
    let in_bytes = looked_at(text, std::iter::repeat(1));
    let in_pieces = looked_at(text, cuts.iter().map(|cut| usize::from(*cut)).chain([text.len()]));
    assert_eq!(whole, in_bytes, "{:?}", String::from_utf8_lossy(text));
    assert_eq!(whole, in_pieces, "{:?} cut at {cuts:?}", String::from_utf8_lossy(text));
    assert_eq!(whole.0, first_fault(text), "{:?}", String::from_utf8_lossy(text));
    let whole = fault_of_connection(text, count, [text.len()].into_iter());
    let in_bytes = fault_of_connection(text, count, std::iter::repeat(1));
    let in_pieces =
        fault_of_connection(text, count, cuts.iter().map(|cut| usize::from(*cut).max(1)).chain([text.len()]));
    assert_eq!(whole, in_bytes, "{:?}", String::from_utf8_lossy(text));
    assert_eq!(whole, in_pieces, "{:?} cut at {cuts:?}", String::from_utf8_lossy(text));
}

/// Returns where the screen found the first fault of a whole connection, if a parser takes each head for one with a body
/// that `kind` decides.
fn fault_of_connection(text: &[u8], kind: u8, mut sizes: impl Iterator<Item = usize>) -> Option<usize> {
    let mut bytes = text.to_vec();
    let (mut screen, mut at, mut heads) = (Screen::default(), 0, 0_u32);
    while at < bytes.len() {
        if screen.awaits() {
            heads += 1;
            let is_chunked = kind.rotate_right(heads) & 1 == 1;
            screen.go_on(if is_chunked {
                Follows::Chunks
            } else {
                Follows::Length(u64::from(u32::from(kind / 8) % heads))
            });
        }
        let size = sizes.next().unwrap_or(1).min(bytes.len() - at);
        let taken = screen.look(&mut bytes[at..at + size]);
        assert!(taken > 0 && taken <= size, "it goes on");
        at += taken;
    }
    fault(&bytes, text)
}

fn fault(after: &[u8], before: &[u8]) -> Option<usize> {
    after.iter().zip(before).position(|(after, before)| after != before)
}

/// Returns where the screen found the first fault, and how long the first line was.
fn looked_at(text: &[u8], sizes: impl Iterator<Item = usize>) -> (Option<usize>, usize) {
    let mut bytes = text.to_vec();
    let mut screen = Screen::default();
    let mut rest = &mut bytes[..];
    for size in sizes {
        if rest.is_empty() {
            break;
        }
        let (piece, after) = rest.split_at_mut(size.min(rest.len()));
        screen.look(piece);
        rest = after;
    }
    (fault(&bytes, text), screen.request_line())
}

/// The same by the rule: lines of a head end in CRLF, and the first that is not empty has no `#`.
fn first_fault(text: &[u8]) -> Option<usize> {
    let (mut start, mut is_first) = (0, true);
    while start < text.len() {
        let end = text[start..].iter().position(|byte| *byte == b'\n').map_or(text.len(), |at| start + at);
        if is_first && let Some(hash) = text[start..end].iter().position(|byte| *byte == b'#') {
            return Some(start + hash);
        }
        if end == text.len() {
            return None;
        }
        if end == start || text[end - 1] != b'\r' {
            return Some(end);
        }
        match end - start {
            1 if is_first => {}
            1 => return None,
            _ => is_first = false,
        }
        start = end + 1;
    }
    None
}
