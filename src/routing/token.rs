//! JSON Web Tokens (RFC 7519): from a signed token to the user it names.
//!
//! A key is for one algorithm, decided when its file is read: what a token says of its own algorithm only chooses among
//! the keys, so that no secret is ever taken for a public key, and `none` names no key at all. Expiry reads the clock;
//! there is no other I/O here.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use http::header::HeaderName;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, JwkSet, KeyAlgorithm, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, DecodingKeyKind, Validation, decode, decode_header};
use serde_json::{Map, Value};

use crate::limits;
use crate::names::UserId;
use crate::routing::signatures;

/// `identity.jwt`.
#[derive(Debug, Clone)]
pub struct Jwt {
    /// The header that carries the token; in `Authorization` behind `Bearer`.
    pub header: HeaderName,
    /// The claim that names the user.
    pub claim: String,
    /// Who must have issued a token; `None`: whoever has a key.
    pub issuer: Option<String>,
    /// Whom a token must be for; `None`: only tokens that name nobody.
    pub audience: Option<String>,
    /// Absolute path of the file with the keys.
    pub file: PathBuf,
    /// What the file held; none until it is read.
    pub keys: Keys,
}

/// The keys that tokens are checked with.
#[derive(Clone, Default)]
pub struct Keys(Arc<[Key]>);

struct Key {
    id: Option<String>,
    key: DecodingKey,
    validation: Validation,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keys({})", self.0.len())
    }
}

/// Says why a file holds no keys; never what is in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadKeys {
    /// It begins like JSON and is no key or set of keys.
    #[error("is not a JSON Web Key or a set of them")]
    Json,
    /// A PEM block that is neither an RSA nor a P-256 public key.
    #[error("has a PEM block that is not an RSA or P-256 public key")]
    Pem,
    /// A private key: it has no business here.
    #[error("holds a private key: only public keys belong here")]
    Private,
    /// A certificate.
    #[error("holds a certificate: write its public key (openssl x509 -pubkey)")]
    Certificate,
    /// An RSA key below 2048 bits.
    #[error("has an RSA key of fewer than 2048 bits")]
    ShortRsa,
    /// A secret that can be guessed (RFC 7518, section 3.2).
    #[error("has a secret of fewer than 32 bytes")]
    ShortSecret,
    /// Neither JSON nor PEM nor one line.
    #[error("is not a JWKS, a PEM file or a secret in one line")]
    Unknown,
    /// A set without a key for RS256, ES256 or HS256.
    #[error("has no key for RS256, ES256 or HS256")]
    NoneUsable,
    /// More keys than are tried.
    #[error("has more than {} keys", limits::TOKEN_KEYS)]
    TooMany,
}

/// Says why a token names nobody; never what is in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadToken {
    /// It is longer than [`limits::TOKEN`].
    #[error("token is too long")]
    TooLong,
    /// It is not three parts of base64url and JSON, or of an algorithm that is not known, or demands extensions.
    #[error("token is not a signed JWT of a known algorithm")]
    Malformed,
    /// There is no key of its algorithm and id.
    #[error("token names no key that is known")]
    NoKey,
    /// No key has made its signature.
    #[error("token's signature is not of any key")]
    Signature,
    /// It is over.
    #[error("token has expired")]
    Expired,
    /// Its time has not come.
    #[error("token is not valid yet")]
    NotYet,
    /// Another issuer.
    #[error("token is of another issuer")]
    Issuer,
    /// Another audience.
    #[error("token is for another audience")]
    Audience,
    /// A claim that is needed is missing or of another kind.
    #[error("token lacks a claim, or has it in another form")]
    Claims,
    /// The claim names no user that a header could carry.
    #[error("token's claim names no user")]
    NoUser,
}

impl Keys {
    /// Reads a JWKS, a PEM file or a secret, whichever it is, for tokens of this issuer and audience.
    ///
    /// # Errors
    /// [`BadKeys`] when it is none of the three, or has no key that can be used.
    pub fn read(bytes: &[u8], issuer: Option<&str>, audience: Option<&str>) -> Result<Keys, BadKeys> {
        signatures::install();
        let text = std::str::from_utf8(bytes).map_err(|_| BadKeys::Unknown)?.trim();
        let found = match text {
            _ if text.starts_with('{') => of_json(text)?,
            _ if text.contains("-----BEGIN") => of_pem(text)?,
            _ if text.contains(char::is_control) => return Err(BadKeys::Unknown),
            secret => vec![(None, Algorithm::HS256, of_secret(secret.as_bytes())?)],
        };
        match found.len() {
            0 => return Err(BadKeys::NoneUsable),
            count if count > limits::TOKEN_KEYS => return Err(BadKeys::TooMany),
            _ => {}
        }
        let key = |(id, algorithm, key)| Key { id, key, validation: validation(algorithm, issuer, audience) };
        Ok(Keys(found.into_iter().map(key).collect()))
    }

    /// Returns how many there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }
}

type Found = (Option<String>, Algorithm, DecodingKey);

fn validation(algorithm: Algorithm, issuer: Option<&str>, audience: Option<&str>) -> Validation {
    let mut validation = Validation::new(algorithm);
    let named = [issuer.map(|_| "iss"), audience.map(|_| "aud")];
    validation.set_required_spec_claims(&["exp"].into_iter().chain(named.into_iter().flatten()).collect::<Vec<_>>());
    validation.leeway = limits::TOKEN_LEEWAY.as_secs();
    validation.validate_nbf = true;
    if let Some(issuer) = issuer {
        validation.set_issuer(&[issuer]);
    }
    if let Some(audience) = audience {
        validation.set_audience(&[audience]);
    }
    validation
}

fn of_json(text: &str) -> Result<Vec<Found>, BadKeys> {
    if holds_private(text) {
        return Err(BadKeys::Private);
    }
    let jwks = match serde_json::from_str::<JwkSet>(text) {
        Ok(set) => set.keys,
        Err(_) => vec![serde_json::from_str::<Jwk>(text).map_err(|_| BadKeys::Json)?],
    };
    // What cannot be used is passed over: sets hold keys for encryption and of newer algorithms, too.
    let mut found = Vec::new();
    for jwk in jwks {
        let for_signatures = matches!(jwk.common.public_key_use, None | Some(PublicKeyUse::Signature));
        let (algorithm, named) = match &jwk.algorithm {
            AlgorithmParameters::RSA(_) => (Algorithm::RS256, KeyAlgorithm::RS256),
            AlgorithmParameters::EllipticCurve(ec) if ec.curve == EllipticCurve::P256 => {
                (Algorithm::ES256, KeyAlgorithm::ES256)
            }
            AlgorithmParameters::OctetKey(_) => (Algorithm::HS256, KeyAlgorithm::HS256),
            _ => continue,
        };
        if !for_signatures || jwk.common.key_algorithm.is_some_and(|only| only != named) {
            continue;
        }
        let key = DecodingKey::from_jwk(&jwk).map_err(|_| BadKeys::Json)?;
        match key.kind() {
            DecodingKeyKind::RsaModulusExponent { n, .. } if significant(n) < RSA_BYTES => {
                return Err(BadKeys::ShortRsa);
            }
            DecodingKeyKind::SecretOrDer(secret) if algorithm == Algorithm::HS256 && secret.len() < SECRET_BYTES => {
                return Err(BadKeys::ShortSecret);
            }
            DecodingKeyKind::SecretOrDer(point) if algorithm == Algorithm::ES256 && point.len() != P256_POINT => {
                return Err(BadKeys::Json);
            }
            _ => {}
        }
        found.push((jwk.common.key_id, algorithm, key));
    }
    Ok(found)
}

/// Says whether a key of a pair is there with its private half (RFC 7518, sections 6.2.2 and 6.3.2).
fn holds_private(text: &str) -> bool {
    let Ok(Value::Object(file)) = serde_json::from_str(text) else { return false };
    let is_private = |key: &Value| key.get("d").is_some_and(|half| !half.is_null());
    match file.get("keys") {
        Some(Value::Array(keys)) => keys.iter().any(is_private),
        _ => file.get("d").is_some_and(|half| !half.is_null()),
    }
}

/// 2048 bits: what signatures are verified with at the least.
const RSA_BYTES: usize = 256;
/// The length of SHA-256 (RFC 7518, section 3.2).
const SECRET_BYTES: usize = 32;
/// An uncompressed point of P-256.
const P256_POINT: usize = 65;

fn significant(number: &[u8]) -> usize {
    number.iter().skip_while(|byte| **byte == 0).count()
}

fn of_pem(text: &str) -> Result<Vec<Found>, BadKeys> {
    let mut found = Vec::new();
    for block in text.split("-----BEGIN ").skip(1) {
        let label = block.split("-----").next().unwrap_or_default();
        match label {
            "PUBLIC KEY" | "RSA PUBLIC KEY" => {}
            "CERTIFICATE" => return Err(BadKeys::Certificate),
            _ if label.contains("PRIVATE") => return Err(BadKeys::Private),
            _ => return Err(BadKeys::Pem),
        }
        let pem = format!("-----BEGIN {block}");
        if let Ok(key) = DecodingKey::from_rsa_pem(pem.as_bytes()) {
            // The modulus and some twenty bytes of exponent and framing.
            if key.try_get_as_bytes().is_ok_and(|der| der.len() < RSA_BYTES) {
                return Err(BadKeys::ShortRsa);
            }
            found.push((None, Algorithm::RS256, key));
            continue;
        }
        let key = DecodingKey::from_ec_pem(pem.as_bytes()).map_err(|_| BadKeys::Pem)?;
        if key.try_get_as_bytes().map_or(0, <[u8]>::len) != P256_POINT {
            return Err(BadKeys::Pem);
        }
        found.push((None, Algorithm::ES256, key));
    }
    Ok(found)
}

fn of_secret(secret: &[u8]) -> Result<DecodingKey, BadKeys> {
    match secret.len() {
        0..SECRET_BYTES => Err(BadKeys::ShortSecret),
        _ => Ok(DecodingKey::from_secret(secret)),
    }
}

/// Finds out which user a token names.
///
/// # Errors
/// [`BadToken`] unless a key has signed it, its time is now, and issuer, audience and claim are as the file wants them.
pub fn user_of(jwt: &Jwt, token: &[u8]) -> Result<UserId, BadToken> {
    if token.len() > limits::TOKEN {
        return Err(BadToken::TooLong);
    }
    let head = decode_header(token).map_err(|_| BadToken::Malformed)?;
    if head.crit.is_some() {
        // What must be understood is not (RFC 7515, section 4.1.11).
        return Err(BadToken::Malformed);
    }
    let fits = |key: &&Key| {
        key.validation.algorithms[0] == head.alg && (key.id.is_none() || head.kid.is_none() || key.id == head.kid)
    };
    let mut failed = BadToken::NoKey;
    for key in jwt.keys.0.iter().filter(fits) {
        match decode::<Map<String, Value>>(token, &key.key, &key.validation) {
            // RFC 7519 knows one issuer; the library takes a list that holds ours, too.
            Ok(token) if jwt.issuer.is_some() && !token.claims.get("iss").is_some_and(Value::is_string) => {
                return Err(BadToken::Issuer);
            }
            Ok(token) => return user_in(&token.claims, &jwt.claim).ok_or(BadToken::NoUser),
            Err(error) => failed = bad_token(error.kind()),
        }
        if failed != BadToken::Signature {
            break;
        }
    }
    Err(failed)
}

fn bad_token(kind: &ErrorKind) -> BadToken {
    match kind {
        ErrorKind::InvalidSignature => BadToken::Signature,
        ErrorKind::ExpiredSignature => BadToken::Expired,
        ErrorKind::ImmatureSignature => BadToken::NotYet,
        ErrorKind::InvalidIssuer => BadToken::Issuer,
        ErrorKind::InvalidAudience => BadToken::Audience,
        ErrorKind::MissingRequiredClaim(_) | ErrorKind::InvalidClaimFormat(_) => BadToken::Claims,
        _ => BadToken::Malformed,
    }
}

/// A text or a whole number, filtered as a header's value is. What a header is refused for, or cannot carry, is not
/// dropped but refused: the rest might be somebody else.
fn user_in(claims: &Map<String, Value>, claim: &str) -> Option<UserId> {
    let text = match claims.get(claim)? {
        Value::String(text) => text.clone(),
        Value::Number(number) if number.is_i64() || number.is_u64() => number.to_string(),
        _ => return None,
    };
    let is_plain = |c: char| u32::from(c) <= 0xff && !c.is_ascii_control() && c != ',';
    let fits = text.len() <= limits::USER_VALUE && text.chars().all(is_plain);
    UserId::from_text(&text).filter(|_| fits)
}

#[cfg(test)]
mod tests;
