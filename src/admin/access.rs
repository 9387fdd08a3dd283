//! Who may ask on the admin port.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use http::Request;
use http::header::{self, HeaderMap, HeaderName};
use sha2::{Digest, Sha256};

use crate::routing::table::Secret;

/// What an asker may see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Everything.
    Full,
    /// Whether the process lives and is ready, without detail.
    Unknown,
    /// Nothing: a page of another site asks through somebody's browser.
    Foreign,
}

/// Finds out what a request may see.
pub fn of<B>(request: &Request<B>, loopback: bool, token: Option<&Secret>) -> Access {
    let headers = request.headers();
    if loopback && !(is_local(headers, &header::HOST) && is_local(headers, &header::ORIGIN)) {
        return Access::Foreign;
    }
    match token {
        None if loopback => Access::Full,
        None => Access::Unknown,
        Some(token) => {
            let given = headers.get(header::AUTHORIZATION).and_then(|value| given(value.as_bytes()));
            if given.is_some_and(|given| same(&given, token.0.as_bytes())) { Access::Full } else { Access::Unknown }
        }
    }
}

/// The token that a request gives: as a bearer, or as the password of Basic, which is what browsers can send.
fn given(authorization: &[u8]) -> Option<Vec<u8>> {
    if let Some(token) = authorization.strip_prefix(b"Bearer ") {
        return Some(token.to_vec());
    }
    let pair = BASE64_STANDARD.decode(authorization.strip_prefix(b"Basic ")?).ok()?;
    let colon = pair.iter().position(|byte| *byte == b':')?;
    Some(pair[colon + 1..].to_vec())
}

/// Compares in a time that says nothing of where two texts differ: their hashes are compared instead.
fn same(given: &[u8], token: &[u8]) -> bool {
    let (given, token) = (Sha256::digest(given), Sha256::digest(token));
    given.iter().zip(token.iter()).fold(0, |difference, (a, b)| difference | (a ^ b)) == 0
}

/// Says whether a Host or Origin, if there is one, names this machine (DNS rebinding sends other names).
fn is_local(headers: &HeaderMap, name: &HeaderName) -> bool {
    let Some(value) = headers.get(name) else { return true };
    let Ok(text) = value.to_str() else { return false };
    let text = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://")).unwrap_or(text);
    let host = match text.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or(""),
        None => text.split(':').next().unwrap_or(""),
    };
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asks(fields: &[(&str, &str)], loopback: bool, token: Option<&str>) -> Access {
        let mut request = Request::builder();
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let token = token.map(|token| Secret(token.to_owned()));
        of(&request.body(()).expect("a request"), loopback, token.as_ref())
    }

    #[test]
    fn another_sites_page_is_kept_out() {
        assert_eq!(asks(&[("host", "127.0.0.1:9901")], true, None), Access::Full);
        assert_eq!(asks(&[("host", "[::1]:9901"), ("origin", "http://localhost:9901")], true, None), Access::Full);
        assert_eq!(asks(&[("host", "evil.example")], true, None), Access::Foreign);
        assert_eq!(asks(&[("host", "localhost"), ("origin", "https://evil.example")], true, None), Access::Foreign);
        assert_eq!(asks(&[("host", "localhost.evil.example")], true, None), Access::Foreign);
    }

    #[test]
    fn a_token_is_compared_whole() {
        let host = ("host", "gateway:9901");
        assert_eq!(asks(&[host, ("authorization", "Bearer secret")], false, Some("secret")), Access::Full);
        for wrong in ["Bearer secre", "Bearer secrets", "Basic secret", "secret", ""] {
            assert_eq!(asks(&[host, ("authorization", wrong)], false, Some("secret")), Access::Unknown);
        }
        assert_eq!(asks(&[host, ("authorization", "Basic eDpzZWNyZXQ=")], false, Some("secret")), Access::Full);
        assert_eq!(asks(&[host, ("authorization", "Basic eDpzZWNyZXQ=")], false, Some("secrets")), Access::Unknown);
        assert_eq!(asks(&[host], false, None), Access::Unknown);
    }
}
