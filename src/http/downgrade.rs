//! A request that came in HTTP/2, as the request of HTTP/1.1 that it stands for: from here on one set of rules holds
//! for both (RFC 9113, section 8).
//!
//! What the HTTP/2 layer has refused already never comes here: pseudo-header fields that are unknown, doubled, missing
//! or out of place, fields that belong to a connection, names in capitals, control bytes in values, a length that the
//! body does not have.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::uri::{PathAndQuery, Uri};
use http::{Method, Request, Response, Version};
use http_body::Body;

use crate::http::refusal::Refusal;

const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");

/// Makes the request of HTTP/1.1 that this one stands for: `Host` instead of `:authority`, a path as its target, one
/// `Cookie`, and a chunked body where no length is given.
///
/// # Errors
/// A [`Refusal`] for what could be read in two ways behind the gateway.
pub fn to_http1<B: Body>(request: &mut Request<B>) -> Result<(), Refusal> {
    check_fields(request.headers())?;
    let has_body = !request.body().is_end_stream();
    if *request.method() == Method::CONNECT {
        // Refused where all methods are; it has no target that could be a path.
        *request.version_mut() = Version::HTTP_11;
        return Ok(());
    }
    if request.uri().scheme_str().is_some_and(|scheme| scheme != "https" && scheme != "http") {
        return Err(Refusal::BadRequest("The scheme must be https"));
    }
    name_host(request)?;
    let target = request.uri().path_and_query().cloned().unwrap_or(PathAndQuery::from_static("/"));
    *request.uri_mut() = Uri::from(target);
    join_cookies(request.headers_mut());
    let headers = request.headers_mut();
    if has_body && !headers.contains_key(header::CONTENT_LENGTH) {
        headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    *request.version_mut() = Version::HTTP_11;
    Ok(())
}

/// Checks what HTTP/1.1's parser checks and HTTP/2's leaves.
fn check_fields(headers: &HeaderMap) -> Result<(), Refusal> {
    let is_blank = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    for (name, value) in headers {
        let bytes = value.as_bytes();
        // Parsers trim it, or not: two of them would see two values (8.2.1).
        if is_blank(bytes.first()) || is_blank(bytes.last()) {
            return Err(Refusal::BadRequest("A field value must not begin or end with white space"));
        }
        let is_hop = *name == header::CONNECTION
            || *name == header::TRANSFER_ENCODING
            || *name == header::UPGRADE
            || *name == KEEP_ALIVE
            || *name == PROXY_CONNECTION;
        if is_hop {
            return Err(Refusal::BadRequest("A field that belongs to a connection has no place in HTTP/2"));
        }
    }
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    let length = lengths.next();
    let is_number = length.is_none_or(|it| !it.is_empty() && it.as_bytes().iter().all(u8::is_ascii_digit));
    if !is_number || lengths.next().is_some() {
        return Err(Refusal::BadRequest("Content-Length must be one number"));
    }
    Ok(())
}

/// Writes `Host` from `:authority`; where both are there, they must be the same (8.3.1).
fn name_host<B>(request: &mut Request<B>) -> Result<(), Refusal> {
    let Some(authority) = request.uri().authority() else { return Ok(()) };
    let same = |host: &HeaderValue| host.as_bytes().eq_ignore_ascii_case(authority.as_str().as_bytes());
    if !request.headers().get_all(header::HOST).iter().all(same) {
        return Err(Refusal::BadRequest("The request target and Host must name the same host"));
    }
    if !request.headers().contains_key(header::HOST) {
        let host = HeaderValue::from_str(authority.as_str())
            .map_err(|_| Refusal::BadRequest("Host must be a host name and perhaps a port"))?;
        request.headers_mut().insert(header::HOST, host);
    }
    Ok(())
}

/// Joins the crumbs that browsers send cookies in (8.2.3): a backend would take the first for all there is.
fn join_cookies(headers: &mut HeaderMap) {
    let mut crumbs = headers.get_all(header::COOKIE).iter();
    if crumbs.nth(1).is_none() {
        return;
    }
    let crumbs: Vec<&[u8]> = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if let Ok(cookie) = HeaderValue::from_bytes(&crumbs.join(&b"; "[..])) {
        headers.insert(header::COOKIE, cookie);
    }
}

/// Takes from an answer what HTTP/2 has no place for, and returns the trailer fields that it promises, if its client
/// wants any (RFC 9110, 6.5.1).
pub fn from_http1<B>(answer: &mut Response<B>, wants_trailers: bool) -> Vec<HeaderName> {
    let headers = answer.headers_mut();
    headers.remove(header::CONNECTION);
    if !wants_trailers || !headers.contains_key(header::TRAILER) {
        return Vec::new();
    }
    let named = headers.get_all(header::TRAILER).iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    named
        .filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok())
        .filter(|name| !NO_TRAILERS.contains(name))
        .collect()
}

/// What must not come behind a body: framing, routing, who somebody is (RFC 9110, 6.5.1).
const NO_TRAILERS: [HeaderName; 14] = [
    header::CONNECTION,
    KEEP_ALIVE,
    PROXY_CONNECTION,
    header::UPGRADE,
    header::AUTHORIZATION,
    header::CONTENT_ENCODING,
    header::CONTENT_LENGTH,
    header::CONTENT_RANGE,
    header::CONTENT_TYPE,
    header::HOST,
    header::SET_COOKIE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::TE,
];

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use http_body_util::{Empty, Full};

    fn request(uri: &str, fields: &[(&str, &str)]) -> Request<Full<Bytes>> {
        let mut builder = Request::builder().method("POST").version(Version::HTTP_2).uri(uri);
        for (name, value) in fields {
            builder = builder.header(*name, *value);
        }
        builder.body(Full::new(Bytes::from_static(b"body"))).expect("a request")
    }

    #[test]
    fn it_is_the_request_that_http1_would_have_brought() {
        let mut request = request("https://h:8443/a?b=c", &[("cookie", "a=1"), ("x", "1"), ("cookie", "b=2")]);
        assert_eq!(to_http1(&mut request), Ok(()));
        assert_eq!((request.uri().to_string().as_str(), request.version()), ("/a?b=c", Version::HTTP_11));
        assert_eq!(request.headers()["host"], "h:8443");
        assert_eq!(request.headers().get_all("cookie").iter().collect::<Vec<_>>(), ["a=1; b=2"]);
        assert_eq!(request.headers()["transfer-encoding"], "chunked");
    }

    #[test]
    fn a_length_or_no_body_needs_no_chunks() {
        let mut with_length = request("https://h/", &[("content-length", "4")]);
        assert_eq!(to_http1(&mut with_length), Ok(()));
        assert!(!with_length.headers().contains_key("transfer-encoding"));
        let mut empty = Request::builder().uri("https://h/").body(Empty::<Bytes>::new()).expect("a request");
        assert_eq!(to_http1(&mut empty), Ok(()));
        assert!(!empty.headers().contains_key("transfer-encoding"));
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        let cases: [&[(&str, &str)]; 11] = [
            &[("host", "other")],
            &[("host", "h"), ("host", "other")],
            &[("content-length", "4"), ("content-length", "4")],
            &[("content-length", "")],
            &[("content-length", "+4")],
            &[("x-user-id", " alice")],
            &[("x-user-id", "alice\t")],
            &[("connection", "close")],
            &[("transfer-encoding", "chunked")],
            &[("upgrade", "websocket")],
            &[("keep-alive", "1")],
        ];
        for fields in cases {
            assert!(to_http1(&mut request("https://h/", fields)).is_err(), "{fields:?}");
        }
        assert!(to_http1(&mut request("ftp://h/", &[])).is_err());
    }

    #[test]
    fn only_promised_trailers_follow() {
        let answer =
            || Response::builder().header("trailer", "X-Sum, content-length, Set-Cookie").header("connection", "close");
        let mut wanted = answer().body(()).expect("an answer");
        assert_eq!(from_http1(&mut wanted, true), ["x-sum"]);
        assert!(!wanted.headers().contains_key("connection"));
        assert_eq!(from_http1(&mut answer().body(()).expect("an answer"), false), Vec::<HeaderName>::new());
    }
}
