//! Any bytes as a token and as a file of keys: nobody is named by what no key has signed.

use std::sync::LazyLock;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::header;
use ring::hmac;
use serde_json::Value;

use super::choice;
use crate::limits;
use crate::names::UserId;
use crate::routing::token::{Jwt, Keys, user_of};

const SECRET: &str = "a secret of more than thirty-two bytes";

/// A secret's key, and a public one of each other kind that nobody here can sign with.
static JWT: LazyLock<Jwt> = LazyLock::new(|| {
    let secret = URL_SAFE_NO_PAD.encode(SECRET);
    let modulus = include_str!("../routing/token/fixtures/modulus").trim();
    let set = format!(
        r#"{{"keys":[{{"kty":"oct","kid":"s","k":"{secret}"}},{{"kty":"RSA","kid":"r","n":"{modulus}","e":"AQAB"}}]}}"#
    );
    Jwt {
        header: header::AUTHORIZATION,
        claim: "sub".to_owned(),
        issuer: Some("i".to_owned()),
        audience: Some("a".to_owned()),
        file: "/keys".into(),
        keys: Keys::read(set.as_bytes(), Some("i"), Some("a")).expect("two keys"),
    }
});

/// The first byte chooses: a token as it is, or a head and claims (a line each) that are signed here.
pub(super) fn token(bytes: &[u8]) {
    let (kind, rest) = choice(bytes);
    let token = if kind % 2 == 0 { rest.to_vec() } else { signed(rest) };
    let Ok(user) = user_of(&JWT, &token) else { return };
    assert!(token.len() <= limits::TOKEN);
    let text = std::str::from_utf8(&token).expect("a token is text");
    let (message, signature) = text.rsplit_once('.').expect("a signature");
    let signature = URL_SAFE_NO_PAD.decode(signature).expect("base64url");
    let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes());
    assert!(hmac::verify(&key, message.as_bytes(), &signature).is_ok(), "{text} is signed by nobody");
    let (head, claims) = message.split_once('.').expect("two parts");
    let part = |text: &str| -> Value {
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(text).expect("base64url")).expect("JSON")
    };
    let (head, claims) = (part(head), part(claims));
    assert_eq!(head["alg"], "HS256");
    assert!(head.get("crit").is_none_or(Value::is_null), "{head}");
    assert!(head["kid"].is_null() || head["kid"] == "s", "{head}");
    assert_eq!(claims["iss"], "i");
    let is_for_us = claims["aud"] == "a" || claims["aud"].as_array().is_some_and(|all| all.contains(&"a".into()));
    assert!(is_for_us, "{claims}");
    assert!(claims["exp"].as_f64().is_some_and(|time| time > 1_700_000_000.0), "{claims}");
    let named = match &claims["sub"] {
        Value::String(text) => text.clone(),
        number => number.as_number().expect("a text or a number").to_string(),
    };
    assert!(!named.chars().any(|c| c.is_ascii_control() || u32::from(c) > 0xff || c == ','), "{named:?}");
    assert_eq!(UserId::from_text(&named), Some(user));
}

fn signed(text: &[u8]) -> Vec<u8> {
    let end = text.iter().position(|byte| *byte == b'\n').unwrap_or(text.len());
    let (head, claims) = text.split_at(end);
    let message =
        format!("{}.{}", URL_SAFE_NO_PAD.encode(head), URL_SAFE_NO_PAD.encode(claims.get(1..).unwrap_or_default()));
    let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes());
    let signature = URL_SAFE_NO_PAD.encode(hmac::sign(&key, message.as_bytes()));
    format!("{message}.{signature}").into_bytes()
}

/// A file is keys, or it is refused; and no key of it takes a token that nobody has signed.
pub(super) fn keys(bytes: &[u8]) {
    let keys = match Keys::read(bytes, None, None) {
        Ok(keys) => keys,
        Err(bad) => return assert!(!bad.to_string().is_empty()),
    };
    assert!((1..=limits::TOKEN_KEYS).contains(&keys.count()));
    let text = String::from_utf8_lossy(bytes);
    let is_json = text.trim_start().starts_with('{');
    assert!(is_json || !text.contains("-----BEGIN PRIVATE KEY-----"), "a private key was taken");
    assert_eq!(format!("{keys:?}"), format!("Keys({})", keys.count()), "keys are not shown");
    let jwt = Jwt { issuer: None, audience: None, keys, ..JWT.clone() };
    // Their signatures are empty, or a digest of the empty message under the public key's own bytes.
    let claims = URL_SAFE_NO_PAD.encode(r#"{"sub":"ann","exp":4102444800}"#);
    for algorithm in ["none", "HS256", "RS256", "ES256", "HS384"] {
        let head = URL_SAFE_NO_PAD.encode(format!(r#"{{"alg":"{algorithm}"}}"#));
        for signature in ["", "AA", "47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU"] {
            assert!(user_of(&jwt, format!("{head}.{claims}.{signature}").as_bytes()).is_err(), "{algorithm}");
        }
    }
    // A public key is no secret: what is signed with the file's bytes as one is signed by nobody, unless it is one.
    let is_secret = !text.contains("-----BEGIN") && !is_json;
    let message = format!("{}.{claims}", URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256"}"#));
    let key = hmac::Key::new(hmac::HMAC_SHA256, text.trim().as_bytes());
    let signature = URL_SAFE_NO_PAD.encode(hmac::sign(&key, message.as_bytes()));
    assert_eq!(user_of(&jwt, format!("{message}.{signature}").as_bytes()).is_ok(), is_secret);
}
