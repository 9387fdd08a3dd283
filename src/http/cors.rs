//! CORS for answers that legacy did not make (Fetch standard, section 3.2): legacy does its own.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

use crate::routing::table::Cors;

/// Seconds that a browser may keep a preflight's answer: a change of the file is seen within ten minutes.
const PREFLIGHT_KEPT: u64 = 600;

/// What an answer to an actual request says about CORS.
const REPLACED: [HeaderName; 3] = [
    header::ACCESS_CONTROL_ALLOW_ORIGIN,
    header::ACCESS_CONTROL_ALLOW_CREDENTIALS,
    header::ACCESS_CONTROL_EXPOSE_HEADERS,
];

/// Says whether this is a preflight: an `OPTIONS` that asks for a method.
pub fn is_preflight(headers: &HeaderMap) -> bool {
    headers.contains_key(header::ORIGIN) && headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
}

/// Replaces whatever an answer says about CORS by what the file says for this origin.
pub fn apply(cors: &Cors, origin: Option<&HeaderValue>, headers: &mut HeaderMap) {
    for name in REPLACED {
        headers.remove(name);
    }
    headers.append(header::VARY, HeaderValue::from_static("Origin"));
    let Some(origin) = origin.filter(|origin| cors.origins.contains(origin)) else { return };
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
    if cors.credentials {
        headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
    }
    let exposed = HeaderValue::from_static("X-Request-Id, X-Export-Backend, Retry-After, Idempotent-Replayed");
    headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, exposed);
}

/// Adds what a preflight asks for: methods, fields and how long the answer may be kept.
pub fn answer_preflight(cors: &Cors, request: &HeaderMap, headers: &mut HeaderMap) {
    let allowed = request.get(header::ORIGIN).is_some_and(|origin| cors.origins.contains(origin));
    if !allowed {
        return;
    }
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, POST, OPTIONS"));
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from(PREFLIGHT_KEPT));
    if cors.headers.is_empty() {
        if let Some(asked) = request.get(header::ACCESS_CONTROL_REQUEST_HEADERS) {
            headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, asked.clone());
        }
        headers.append(header::VARY, HeaderValue::from_static("Access-Control-Request-Headers"));
        return;
    }
    let names: Vec<&str> = cors.headers.iter().map(HeaderName::as_str).collect();
    if let Ok(names) = HeaderValue::from_str(&names.join(", ")) {
        headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, names);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cors() -> Cors {
        Cors { origins: vec![HeaderValue::from_static("https://app")], credentials: true, headers: Vec::new() }
    }

    #[test]
    fn a_workers_star_is_replaced() {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
        apply(&cors(), Some(&HeaderValue::from_static("https://app")), &mut headers);
        assert_eq!(headers[header::ACCESS_CONTROL_ALLOW_ORIGIN], "https://app");
        assert_eq!(headers[header::ACCESS_CONTROL_ALLOW_CREDENTIALS], "true");
    }

    #[test]
    fn a_strange_origin_gets_nothing() {
        for origin in [None, Some(HeaderValue::from_static("https://evil"))] {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
            apply(&cors(), origin.as_ref(), &mut headers);
            assert!(!headers.contains_key(header::ACCESS_CONTROL_ALLOW_ORIGIN));
        }
    }

    #[test]
    fn a_preflight_is_told_what_it_asked_for() {
        let mut request = HeaderMap::new();
        request.insert(header::ORIGIN, HeaderValue::from_static("https://app"));
        request.insert(header::ACCESS_CONTROL_REQUEST_HEADERS, HeaderValue::from_static("x-user-id, content-type"));
        let mut headers = HeaderMap::new();
        answer_preflight(&cors(), &request, &mut headers);
        assert_eq!(headers[header::ACCESS_CONTROL_ALLOW_HEADERS], "x-user-id, content-type");
    }
}
