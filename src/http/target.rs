//! Where a request wants to go: its target and its Host (RFC 9112, section 3.2), which must name one place.

use http::header::HeaderValue;
use http::{Method, Request};

use crate::http::refusal::Refusal;
use crate::routing::table::Limits;

/// Checks method and target.
///
/// # Errors
/// A [`Refusal`] for CONNECT, TRACE, a target over its limit, or one that is no path.
pub fn check<B>(request: &Request<B>, limits: &Limits) -> Result<(), Refusal> {
    if *request.method() == Method::CONNECT || *request.method() == Method::TRACE {
        return Err(Refusal::MethodNotImplemented);
    }
    let uri = request.uri();
    let target = uri.path_and_query().map_or("", |target| target.as_str());
    if target.len() > limits.target {
        return Err(Refusal::TargetTooLong);
    }
    let is_path = target.starts_with('/') || (target == "*" && *request.method() == Method::OPTIONS);
    // The parser takes UTF-8 in a path, and a place without a scheme before it: no URI has either (RFC 3986).
    let is_named = uri.authority().is_none() || matches!(uri.scheme_str(), Some("http" | "https"));
    if is_path && is_named && target.is_ascii() {
        Ok(())
    } else {
        Err(Refusal::BadRequest("The request target must be a path"))
    }
}

/// Checks a Host: it is `host[:port]`, and an absolute-form target must name the same one.
///
/// # Errors
/// A [`Refusal`] for any other.
pub fn check_host<B>(request: &Request<B>, value: &HeaderValue) -> Result<(), Refusal> {
    let bytes = value.as_bytes();
    if !is_host(bytes) {
        return Err(Refusal::BadRequest("Host must be a host name and perhaps a port"));
    }
    let Some(authority) = request.uri().authority() else { return Ok(()) };
    if authority.as_str().as_bytes().eq_ignore_ascii_case(bytes) {
        Ok(())
    } else {
        Err(Refusal::BadRequest("The request target and Host must name the same host"))
    }
}

/// Says whether this is `uri-host [ ":" port ]` (RFC 3986, 3.2.2) with a host that is not empty.
fn is_host(bytes: &[u8]) -> bool {
    let is_name_byte = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+;=".contains(byte);
    let end = match bytes.first() {
        Some(b'[') => bytes.iter().position(|byte| *byte == b']').map_or(0, |at| at + 1),
        _ => bytes.iter().position(|byte| *byte == b':').unwrap_or(bytes.len()),
    };
    let (name, port) = bytes.split_at(end);
    let is_named = match name {
        [b'[', address @ .., b']'] => {
            !address.is_empty() && address.iter().all(|byte| is_name_byte(byte) || *byte == b':')
        }
        name => !name.is_empty() && name.iter().all(is_name_byte),
    };
    is_named && matches!(port, [] | [b':', ..]) && port.iter().skip(1).all(u8::is_ascii_digit)
}
