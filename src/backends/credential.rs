//! What every request to workers carries beside its own fields: the gateway's proof of who it is, and the key that pins
//! a user to one version of the Worker.
//!
//! # The signature
//!
//! HMAC-SHA256 under the shared secret, in lower-case hexadecimal, over nine lines joined by `\n`:
//!
//! ```text
//! export-gateway-1
//! POST                                      method
//! reel-ballers-api.example.workers.dev      Host, as sent
//! /api/export/overlay/start                 path, as sent
//! a=1                                       query without its ?, empty if there is none
//! ann                                       X-User-Id, or empty
//! 0192f0c1-…                                Idempotency-Key, or empty
//! 1764000000                                seconds since 1970
//! e3b0c442…b855                             SHA-256 of the body, in lower-case hexadecimal
//! ```
//!
//! No part can hold a line break, so two requests never have the same nine lines. The whole is UTF-8, as a Worker reads
//! header values. A Worker refuses a time that is more than 60 s away from its own. Within those a copy of a request is
//! taken again: `Idempotency-Key` is signed so that such a copy can be told.
//! `tests/backends/workers/gateway_signature.js` is the Worker's side.

use std::fmt::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Request, Uri};
use ring::{digest, hmac};

use crate::http::body::Upload;
use crate::http::headers::{IDEMPOTENCY_KEY, X_USER_ID};
use crate::routing::table::{Credential, HeldSecret, Hmac};

/// The first line of what is signed; another form of signature would have another one.
const FORM: &str = "export-gateway-1";
/// When a request was signed, in seconds since 1970.
pub const SIGNED_AT: HeaderName = HeaderName::from_static("export-gateway-time");
/// The signature.
pub const SIGNATURE: HeaderName = HeaderName::from_static("export-gateway-signature");
/// Which of the Worker's secrets it was made with.
pub const KEY_ID: HeaderName = HeaderName::from_static("export-gateway-key-id");
/// Pins a user to a version of the Worker while a new one is rolled out.
pub const VERSION_KEY: HeaderName = HeaderName::from_static("cloudflare-workers-version-key");
/// Id of a service token of Cloudflare Access.
const ACCESS_ID: HeaderName = HeaderName::from_static("cf-access-client-id");
/// Secret of a service token of Cloudflare Access.
const ACCESS_SECRET: HeaderName = HeaderName::from_static("cf-access-client-secret");

/// Adds to a request for workers what they know the gateway and the user's version by. It must be complete before.
pub fn present(request: &mut Request<Upload>, credential: Option<&Credential>, now: SystemTime) {
    if let Some(key) = request.headers().get(X_USER_ID).map(version_key) {
        request.headers_mut().insert(VERSION_KEY, key);
    }
    let Some(credential) = credential else { return };
    if let Some(bearer) = &credential.bearer {
        put_secret(request.headers_mut(), header::AUTHORIZATION, &format!("Bearer {}", bearer.value.0));
    }
    if let Some((id, secret)) = &credential.access {
        put_secret(request.headers_mut(), ACCESS_ID, &id.value.0);
        put_secret(request.headers_mut(), ACCESS_SECRET, &secret.value.0);
    }
    if let Some(hmac) = &credential.hmac {
        sign(request, hmac, now);
    }
}

/// A hash of the user: the same user is on the same version everywhere, and nobody reads who it is.
fn version_key(user: &HeaderValue) -> HeaderValue {
    let hash = digest::digest(&digest::SHA256, &[b"version key\n", user.as_bytes()].concat());
    header_of(&hex(&hash.as_ref()[..16]))
}

fn put_secret(headers: &mut HeaderMap, name: HeaderName, text: &str) {
    let mut value = header_of(text);
    value.set_sensitive(true);
    headers.insert(name, value);
}

fn sign(request: &mut Request<Upload>, hmac: &Hmac, now: SystemTime) {
    let seconds = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()).to_string();
    let text = signed_text(request, &seconds);
    let signature = signature(&hmac.secret, &text);
    let headers = request.headers_mut();
    headers.insert(SIGNED_AT, header_of(&seconds));
    headers.insert(SIGNATURE, header_of(&signature));
    if let Some(id) = &hmac.key_id {
        headers.insert(KEY_ID, header_of(id));
    }
}

fn signature(secret: &HeldSecret, text: &str) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.value.0.as_bytes());
    hex(hmac::sign(&key, text.as_bytes()).as_ref())
}

fn signed_text(request: &Request<Upload>, seconds: &str) -> String {
    let field = |name: &HeaderName| {
        let value = request.headers().get(name).map_or(&[][..], HeaderValue::as_bytes);
        // As the Worker's runtime reads it.
        String::from_utf8_lossy(value)
    };
    let body = match request.body() {
        Upload::Full(Some(body)) => body,
        // Requests to workers have a body at hand, or none.
        Upload::Full(None) | Upload::Empty | Upload::Client(_) => &bytes::Bytes::new(),
    };
    let uri: &Uri = request.uri();
    [
        FORM,
        request.method().as_str(),
        &field(&header::HOST),
        uri.path(),
        uri.query().unwrap_or_default(),
        &field(&X_USER_ID),
        &field(&IDEMPOTENCY_KEY),
        seconds,
        &hex(digest::digest(&digest::SHA256, body).as_ref()),
    ]
    .join("\n")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn header_of(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).expect("visible ASCII, checked where it was read")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use http::Method;

    use super::*;
    use crate::routing::table::Secret;

    fn held(text: &str) -> HeldSecret {
        HeldSecret { value: Secret(text.to_owned()), file: None }
    }

    fn start(body: &'static str) -> Request<Upload> {
        let mut request = Request::new(Upload::full(Bytes::from_static(body.as_bytes())));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = Uri::from_static("/base/api/export/overlay/start?a=1");
        let fields: [(HeaderName, &[u8]); 3] =
            [(header::HOST, b"w.example:8443"), (X_USER_ID, "caf\u{e9}".as_bytes()), (IDEMPOTENCY_KEY, b"key-1")];
        for (name, value) in fields {
            request.headers_mut().insert(name, HeaderValue::from_bytes(value).unwrap());
        }
        request
    }

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    /// Made with Python's `hmac` and `hashlib`.
    #[test]
    fn the_signature_has_published_vectors() {
        let hmac = Hmac { secret: held("0123456789abcdef0123456789abcdef"), key_id: Some("2026-11".to_owned()) };
        let credential = Credential { hmac: Some(hmac), ..Credential::default() };
        let mut request = start("{\"project_id\":12}");
        present(&mut request, Some(&credential), at(1_764_000_000));
        let headers = request.headers();
        assert_eq!(headers[SIGNED_AT], "1764000000");
        assert_eq!(headers[KEY_ID], "2026-11");
        assert_eq!(headers[SIGNATURE], START_VECTOR);
        assert_eq!(headers[VERSION_KEY], VERSION_VECTOR);
        let mut poll = Request::new(Upload::Empty);
        *poll.uri_mut() = Uri::from_static("/api/export/status/j");
        poll.headers_mut().insert(header::HOST, HeaderValue::from_static("w"));
        present(&mut poll, Some(&credential), at(1));
        assert_eq!(poll.headers()[SIGNATURE], POLL_VECTOR);
        assert!(poll.headers().get(VERSION_KEY).is_none(), "nobody is pinned to no version");
    }

    const START_VECTOR: &str = "422fe41429e5357c166d1ff042eebc889c83f928d2df19aaee458c90d80250c6";
    const POLL_VECTOR: &str = "616369fbd2e6c6b2a9b292256432763693654a64d2e976cacc25852932903811";
    const VERSION_VECTOR: &str = "bdf54d57ccf28a5a50565afb62fee905";

    #[test]
    fn no_part_of_a_request_can_be_changed_under_its_signature() {
        let signed = signed_text(&start("{}"), "9");
        let changes: [fn(&mut Request<Upload>); 6] = [
            |request| *request.method_mut() = Method::PUT,
            |request| *request.uri_mut() = Uri::from_static("/base/api/export/framing/start?a=1"),
            |request| *request.uri_mut() = Uri::from_static("/base/api/export/overlay/start"),
            |request| drop(request.headers_mut().insert(header::HOST, HeaderValue::from_static("w.example"))),
            |request| drop(request.headers_mut().insert(X_USER_ID, HeaderValue::from_static("caf"))),
            |request| drop(request.headers_mut().remove(IDEMPOTENCY_KEY)),
        ];
        for (number, change) in changes.into_iter().enumerate() {
            let mut request = start("{}");
            change(&mut request);
            assert_ne!(signed_text(&request, "9"), signed, "change {number}");
        }
        assert_ne!(signed_text(&start("{ }"), "9"), signed);
        assert_ne!(signed_text(&start("{}"), "10"), signed);
    }

    #[test]
    fn the_three_ways_go_along_together_and_none_can_be_read_from_a_log() {
        let credential = Credential {
            bearer: Some(held("hunter2-bearer")),
            access: Some((held("hunter2-id"), held("hunter2-access"))),
            hmac: Some(Hmac { secret: held("hunter2-hmac"), key_id: None }),
        };
        let mut request = start("{}");
        present(&mut request, Some(&credential), at(1));
        let headers = request.headers();
        assert_eq!(headers[header::AUTHORIZATION], "Bearer hunter2-bearer");
        assert_eq!(
            (&headers[ACCESS_ID], &headers[ACCESS_SECRET]),
            (&header_of("hunter2-id"), &header_of("hunter2-access"))
        );
        assert!(headers.get(KEY_ID).is_none());
        assert!(!format!("{request:?}{credential:?}").contains("hunter2"));
    }
}
