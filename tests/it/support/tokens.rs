//! JSON Web Tokens as an issuer makes them, and as a forger does.

use std::time::{SystemTime, UNIX_EPOCH};

use ring::hmac;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use serde_json::{Value, json};

/// Seconds since 1970.
pub fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64
}

/// Writes base64url without padding (RFC 7515, section 2).
pub fn base64url(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let word = chunk.iter().chain([&0; 2]).take(3).fold(0_u32, |word, byte| word << 8 | u32::from(*byte));
        for at in 0..=chunk.len() {
            text.push(char::from(DIGITS[(word >> (18 - 6 * at) & 63) as usize]));
        }
    }
    text
}

/// Joins a token's head and claims.
pub fn message(head: &Value, claims: &Value) -> String {
    format!("{}.{}", base64url(head.to_string().as_bytes()), base64url(claims.to_string().as_bytes()))
}

/// The claims of a user who has just logged in.
pub fn claims(user: &str) -> Value {
    json!({"sub": user, "iss": "https://issuer.example", "aud": "exports", "exp": now() + 300})
}

/// Makes a token by HS256.
pub fn hs256(secret: &[u8], claims: &Value) -> String {
    let message = message(&json!({"alg": "HS256", "typ": "JWT"}), claims);
    let signature = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), message.as_bytes());
    format!("{message}.{}", base64url(signature.as_ref()))
}

/// A key for ES256.
#[derive(Debug)]
pub struct Es256(EcdsaKeyPair);

impl Es256 {
    /// Makes a new one.
    pub fn new() -> Es256 {
        let random = SystemRandom::new();
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
        Es256(EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.as_ref(), &random).unwrap())
    }

    /// Returns the public key as a set of one.
    pub fn jwks(&self, id: &str) -> String {
        let point = self.point();
        let (x, y) = (base64url(&point[1..33]), base64url(&point[33..]));
        json!({"keys": [{"kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": id, "x": x, "y": y}]})
            .to_string()
    }

    /// Returns the public key's point.
    pub fn point(&self) -> &[u8] {
        self.0.public_key().as_ref()
    }

    /// Makes a token.
    pub fn token(&self, id: &str, claims: &Value) -> String {
        let message = message(&json!({"alg": "ES256", "kid": id}), claims);
        let signature = self.0.sign(&SystemRandom::new(), message.as_bytes()).unwrap();
        format!("{message}.{}", base64url(signature.as_ref()))
    }
}
