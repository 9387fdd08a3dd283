//! Which header fields go on, and which stay behind because they speak of one hop.
//!
//! Rules: RFC 9110 section 7.6.1, RFC 9112 sections 3.2 and 6.1. Fields are edited in place after one scan, so
//! that a request without anything special costs one walk over its names.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, Version};

use crate::http::refusal::Refusal;
use crate::http::target;
use crate::routing::table::Limits;

/// `X-Request-Id`.
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// `X-User-Id`, as workers know it, whatever header the client uses.
pub const X_USER_ID: HeaderName = HeaderName::from_static("x-user-id");
/// `X-Export-Backend`.
pub const X_EXPORT_BACKEND: HeaderName = HeaderName::from_static("x-export-backend");
/// `Idempotent-Replayed`: the answer is one that was given before.
pub const IDEMPOTENT_REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");
/// `Early-Data` (RFC 8470, 5.1).
pub const EARLY_DATA: HeaderName = HeaderName::from_static("early-data");
/// `Idempotency-Key`.
pub const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const CLOSE: HeaderName = HeaderName::from_static("close");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// What one walk over a request's head found.
#[derive(Debug, Default, Clone, Copy)]
pub struct Head {
    /// A WebSocket handshake (RFC 6455, 4.2.1).
    pub websocket: bool,
    /// The client understands trailers (`TE: trailers`).
    pub te_trailers: bool,
    /// The client waits for `100 Continue`.
    pub expects_continue: bool,
    /// The body is chunked.
    pub chunked: bool,
    /// There is a `Connection` that names more than `close` or `keep-alive`.
    pub nominates: bool,
    hosts: u8,
    hop: Hop,
}

/// Which fields are there that must not go on.
#[derive(Debug, Default, Clone, Copy)]
struct Hop {
    connection: bool,
    keep_alive: bool,
    proxy_connection: bool,
    proxy_authorization: bool,
    te: bool,
    upgrade: bool,
    forwarded: bool,
}

/// Checks a request's head and says what is in it.
///
/// # Errors
/// A [`Refusal`] for whatever could be understood in two ways, or is over a limit.
pub fn check<B>(request: &Request<B>, limits: &Limits) -> Result<Head, Refusal> {
    target::check(request, limits)?;
    let mut head = Head::default();
    let mut bytes = 0;
    let (mut upgrade_websocket, mut promises_trailers) = (false, false);
    for (name, value) in request.headers() {
        bytes += name.as_str().len() + value.len() + 4;
        match name.as_str() {
            "host" => {
                head.hosts = head.hosts.saturating_add(1);
                target::check_host(request, value)?;
            }
            "connection" => {
                head.hop.connection = true;
                head.nominates |= !is_plain_connection(value);
            }
            "transfer-encoding" => {
                let only_chunked = value.as_bytes().eq_ignore_ascii_case(b"chunked");
                if head.chunked || !only_chunked || request.version() != Version::HTTP_11 {
                    return Err(Refusal::BadRequest("Transfer-Encoding must be chunked, once"));
                }
                head.chunked = true;
            }
            "te" => {
                head.hop.te = true;
                head.te_trailers |= tokens(value).any(|token| token.eq_ignore_ascii_case(b"trailers"));
            }
            "upgrade" => {
                head.hop.upgrade = true;
                upgrade_websocket |= tokens(value).any(|token| token.eq_ignore_ascii_case(b"websocket"));
            }
            "expect" => {
                if !value.as_bytes().eq_ignore_ascii_case(b"100-continue") {
                    return Err(Refusal::ExpectationFailed);
                }
                head.expects_continue = request.version() == Version::HTTP_11;
            }
            "keep-alive" => head.hop.keep_alive = true,
            "proxy-connection" => head.hop.proxy_connection = true,
            "proxy-authorization" => head.hop.proxy_authorization = true,
            "forwarded" => head.hop.forwarded = true,
            "trailer" => promises_trailers = true,
            _ => {}
        }
    }
    if bytes > limits.headers || request.headers().len() > limits.header_count {
        return Err(Refusal::HeadersTooLarge);
    }
    if head.hosts != 1 && !(head.hosts == 0 && request.version() == Version::HTTP_10) {
        return Err(Refusal::BadRequest("Exactly one Host is needed"));
    }
    if head.nominates {
        check_nominated(request.headers())?;
    }
    if promises_trailers {
        check_trailers(request.headers())?;
    }
    if upgrade_websocket {
        head.websocket = is_websocket(request, &head)?;
    }
    Ok(head)
}

/// Fields that must not be taken away by naming them in `Connection`.
fn is_protected(token: &[u8]) -> bool {
    const PROTECTED: [&[u8]; 8] = [
        b"host",
        b"content-length",
        b"transfer-encoding",
        b"authorization",
        b"cookie",
        b"idempotency-key",
        b"content-type",
        b"content-encoding",
    ];
    PROTECTED.iter().any(|name| token.eq_ignore_ascii_case(name)) || is_forwarding(token)
}

fn is_forwarding(token: &[u8]) -> bool {
    token.get(..12).is_some_and(|start| start.eq_ignore_ascii_case(b"x-forwarded-"))
}

fn check_nominated(headers: &HeaderMap) -> Result<(), Refusal> {
    for token in headers.get_all(header::CONNECTION).iter().flat_map(tokens) {
        if is_protected(token) || HeaderName::from_bytes(token).is_err() {
            return Err(Refusal::BadRequest("Connection names a field that it must not name"));
        }
    }
    Ok(())
}

/// What is decided about or replaced in a head must not come once more behind the body (RFC 9110, 6.5.1). Framing, `Host`,
/// `Authorization` and what describes the body are left behind by hyper, promised or not.
fn check_trailers(headers: &HeaderMap) -> Result<(), Refusal> {
    const OF_THE_HEAD: [&[u8]; 9] = [
        b"connection",
        b"keep-alive",
        b"proxy-connection",
        b"proxy-authorization",
        b"upgrade",
        b"forwarded",
        b"cookie",
        b"idempotency-key",
        b"x-request-id",
    ];
    let must_not = |token: &[u8]| {
        let dashed: Vec<u8> = token.iter().map(|byte| if *byte == b'_' { b'-' } else { *byte }).collect();
        is_forwarding(&dashed) || OF_THE_HEAD.iter().any(|name| dashed.eq_ignore_ascii_case(name))
    };
    match headers.get_all(header::TRAILER).iter().flat_map(tokens).any(must_not) {
        true => Err(Refusal::BadRequest("Trailer names a field that it must not name")),
        false => Ok(()),
    }
}

/// Says whether `Connection` names this field: the identity header must not be taken away that way.
pub fn is_nominated(headers: &HeaderMap, name: &HeaderName) -> bool {
    lists(headers, &header::CONNECTION, name)
}

/// Says whether `Trailer` names this field: nobody says who they are behind a body that went on already.
pub fn is_trailer(headers: &HeaderMap, name: &HeaderName) -> bool {
    lists(headers, &header::TRAILER, name)
}

fn lists(headers: &HeaderMap, list: &HeaderName, name: &HeaderName) -> bool {
    let same = |token: &[u8]| {
        let dashed = token.iter().map(|byte| if *byte == b'_' { b'-' } else { byte.to_ascii_lowercase() });
        dashed.eq(name.as_str().bytes().map(|byte| if byte == b'_' { b'-' } else { byte }))
    };
    headers.get_all(list).iter().flat_map(tokens).any(same)
}

/// A handshake that is not one goes on as a plain request, unless its body could be taken for frames.
fn is_websocket<B>(request: &Request<B>, head: &Head) -> Result<bool, Refusal> {
    let headers = request.headers();
    let nominated = head.hop.connection && is_nominated(headers, &header::UPGRADE);
    let single = |name: HeaderName| {
        let mut values = headers.get_all(name).iter();
        values.next().filter(|_| values.next().is_none())
    };
    let version_13 = single(header::SEC_WEBSOCKET_VERSION).is_some_and(|value| value == "13");
    let key = single(header::SEC_WEBSOCKET_KEY).is_some();
    let plain = *request.method() != Method::GET || request.version() != Version::HTTP_11;
    if plain || !nominated || !version_13 || !key {
        return Ok(false);
    }
    let has_body = head.chunked || headers.get(header::CONTENT_LENGTH).is_some_and(|value| value != "0");
    if has_body { Err(Refusal::BadRequest("A WebSocket handshake has no body")) } else { Ok(true) }
}

/// The comma-separated members of a field value, without empty ones.
fn tokens(value: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    value.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|token| !token.is_empty())
}

/// Removes what must not go on to a backend, and adds back what this hop says itself.
pub fn strip_request(headers: &mut HeaderMap, head: &Head) {
    let hop = &head.hop;
    if hop.connection {
        remove_nominated(headers);
    }
    for (present, name) in [
        (hop.keep_alive, KEEP_ALIVE),
        (hop.proxy_connection, PROXY_CONNECTION),
        (hop.proxy_authorization, header::PROXY_AUTHORIZATION),
        (hop.te, header::TE),
        (hop.upgrade, header::UPGRADE),
        (hop.forwarded, header::FORWARDED),
    ] {
        if present {
            headers.remove(name);
        }
    }
    if head.websocket {
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    } else if head.te_trailers {
        headers.insert(header::CONNECTION, HeaderValue::from_static("TE"));
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
}

/// Removes what must not go on to the client; `upgrading`: the answer is the 101 of a WebSocket handshake.
pub fn strip_answer(headers: &mut HeaderMap, upgrading: bool) {
    let mut hop = Hop::default();
    let (mut encoding, mut authenticate) = (false, false);
    for name in headers.keys() {
        match name.as_str() {
            "connection" => hop.connection = true,
            "keep-alive" => hop.keep_alive = true,
            "proxy-connection" => hop.proxy_connection = true,
            "proxy-authenticate" => authenticate = true,
            "transfer-encoding" => encoding = true,
            "te" => hop.te = true,
            "upgrade" => hop.upgrade = true,
            _ => {}
        }
    }
    if hop.connection {
        remove_nominated(headers);
    }
    for (present, name) in [
        (hop.keep_alive, KEEP_ALIVE),
        (hop.proxy_connection, PROXY_CONNECTION),
        (authenticate, header::PROXY_AUTHENTICATE),
        (encoding, header::TRANSFER_ENCODING),
        (hop.te, header::TE),
        (hop.upgrade, header::UPGRADE),
    ] {
        if present {
            headers.remove(name);
        }
    }
    if encoding {
        // It overrides a length (RFC 9112, 6.3), which would cut the body here.
        headers.remove(header::CONTENT_LENGTH);
    }
    if upgrading {
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    }
}

/// Says whether a `Connection` is about the connection itself and names no field.
fn is_plain_connection(value: &HeaderValue) -> bool {
    let bytes = value.as_bytes();
    bytes.eq_ignore_ascii_case(b"keep-alive") || bytes.eq_ignore_ascii_case(b"close")
}

fn remove_nominated(headers: &mut HeaderMap) {
    // A field may be called as the option is (RFC 9110, 9.6); `Keep-Alive` has gone or goes by itself.
    let hides_close = |value: &HeaderValue| value.len() == 5 && headers.contains_key(CLOSE);
    let plain = |value: &HeaderValue| is_plain_connection(value) && !hides_close(value);
    if headers.get_all(header::CONNECTION).iter().all(plain) {
        headers.remove(header::CONNECTION);
        return;
    }
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .flat_map(tokens)
        .filter(|token| !is_protected(token))
        .filter_map(|token| HeaderName::from_bytes(token).ok())
        .collect();
    headers.remove(header::CONNECTION);
    for name in named {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;
    use std::time::Duration;

    fn limits() -> Limits {
        Limits {
            start_body: 1 << 20,
            answer_body: 1 << 20,
            buffered: 1 << 26,
            target: 8192,
            headers: 32768,
            header_count: 100,
            connections: 10,
            connections_per_address: None,
            body_idle: Duration::from_secs(30),
            write_idle: Duration::from_secs(600),
        }
    }

    fn parts(method: &str, uri: &str, fields: &[(&str, &str)]) -> Request<()> {
        let mut builder = Request::builder().method(method).uri(uri);
        for (name, value) in fields {
            builder = builder.header(*name, *value);
        }
        builder.body(()).expect("a request")
    }

    fn refused(method: &str, uri: &str, fields: &[(&str, &str)]) -> bool {
        check(&parts(method, uri, fields), &limits()).is_err()
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        let host = ("host", "h");
        assert!(!refused("GET", "/", &[host]));
        assert!(refused("GET", "/", &[]));
        assert!(refused("GET", "/", &[host, host]));
        for bad in ["", "a b", "a@b", "a/b", "a,b", "a?b", "a:b", "a:1:2", "[::1", "::1]", "[]", ":1"] {
            assert!(refused("GET", "/", &[("host", bad)]), "{bad:?}");
        }
        assert!(refused("CONNECT", "h:1", &[host]) && refused("TRACE", "/", &[host]));
        assert!(refused("GET", "http://other/", &[host]) && !refused("GET", "http://H/x", &[host]));
        for bad in ["cow, chunked", "chunked, chunked", "identity", "xchunked"] {
            assert!(refused("POST", "/", &[host, ("transfer-encoding", bad)]), "{bad:?}");
        }
        assert!(refused("POST", "/", &[host, ("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")]));
        for bad in ["Host", "close, content-LENGTH", "x-forwarded-for", "cookie", "a b"] {
            assert!(refused("GET", "/", &[host, ("connection", bad)]), "{bad:?}");
        }
        assert!(refused("GET", "/", &[host, ("expect", "200-ok")]));
        for bad in ["x-forwarded-for", "X-Sum, Cookie", "Forwarded", "connection", "x_forwarded_for", "Upgrade"] {
            assert!(refused("POST", "/", &[host, ("transfer-encoding", "chunked"), ("trailer", bad)]), "{bad:?}");
        }
        assert!(!refused("POST", "/", &[host, ("transfer-encoding", "chunked"), ("trailer", "X-Sum, ")]));
    }

    #[test]
    fn only_a_whole_websocket_handshake_upgrades() {
        let fields = [
            ("host", "h"),
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "x"),
        ];
        let head = check(&parts("GET", "/", &fields), &limits()).expect("a handshake");
        assert!(head.websocket);
        for missing in 1..fields.len() {
            let mut fewer = fields.to_vec();
            fewer.remove(missing);
            let head = check(&parts("GET", "/", &fewer), &limits()).expect("a plain request");
            assert!(!head.websocket, "{missing}");
        }
        let with_body = [&fields[..], &[("content-length", "3")]].concat();
        assert!(refused("GET", "/", &with_body));
        let h2c = parts("GET", "/", &[("host", "h"), ("connection", "Upgrade"), ("upgrade", "h2c")]);
        let head = check(&h2c, &limits()).expect("a plain request");
        let mut headers = h2c.headers().clone();
        strip_request(&mut headers, &head);
        assert_eq!(headers.len(), 1);
    }

    #[test]
    fn a_field_called_as_an_option_of_connection_goes_with_it() {
        let parts = parts("GET", "/", &[("host", "h"), ("connection", "close"), ("close", "1"), ("keep-alive", "x")]);
        let head = check(&parts, &limits()).expect("a request");
        let mut headers = parts.headers().clone();
        strip_request(&mut headers, &head);
        assert_eq!(headers.len(), 1, "{headers:?}");
    }

    #[test]
    fn stripping_twice_is_stripping_once() {
        let fields = [
            ("host", "h"),
            ("connection", "close, X-Secret, te"),
            ("keep-alive", "x"),
            ("te", "trailers, deflate"),
            ("x-secret", "1"),
            ("x-kept", "2"),
            ("forwarded", "for=1.2.3.4"),
            ("proxy-connection", "x"),
        ];
        let parts = parts("GET", "/", &fields);
        let head = check(&parts, &limits()).expect("a request");
        let mut once = parts.headers().clone();
        strip_request(&mut once, &head);
        let mut twice = once.clone();
        strip_request(&mut twice, &head);
        assert_eq!(once, twice);
        let names: Vec<&str> = once.keys().map(HeaderName::as_str).collect();
        assert_eq!(once.len(), 4, "{names:?}");
        assert_eq!(once["te"], "trailers");
    }
}
