//! The sections that say by what users, and the gateway itself, prove who they are.

use std::fmt;

use http::header::{self, HeaderName};
use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::{Deserializer, Error, IgnoredAny, MapAccess, Visitor};

use crate::config::problem::Mistake;
use crate::config::texts::Line;
use crate::config::values::{Value, Written};
use crate::routing::table::Secret;

/// `[identity.jwt]`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("required" = ["keys"]))]
pub(crate) struct JwtFile {
    /// The header that carries the token.
    pub(crate) header: Written<HeaderName>,
    /// The claim that names the user.
    pub(crate) claim: Written<Line>,
    /// A JWKS, a PEM file or a secret; required.
    pub(crate) keys: Option<Written<Line>>,
    /// Who must have issued a token.
    pub(crate) issuer: Option<Written<Line>>,
    /// Whom it must be for.
    pub(crate) audience: Option<Written<Line>>,
}

impl Default for JwtFile {
    fn default() -> JwtFile {
        JwtFile {
            header: Written(header::AUTHORIZATION),
            claim: Written(Line("sub".to_owned())),
            keys: None,
            issuer: None,
            audience: None,
        }
    }
}

/// `[backends.workers.credential]`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct CredentialFile {
    /// `Authorization: Bearer …`.
    pub(crate) bearer: Option<SecretFile>,
    /// Id of a service token of Cloudflare Access.
    pub(crate) access_client_id: Option<SecretFile>,
    /// Its secret.
    pub(crate) access_client_secret: Option<SecretFile>,
    /// Signs every request.
    pub(crate) hmac: Option<SecretFile>,
    /// Says which of the Worker's secrets `hmac` is.
    pub(crate) key_id: Option<Written<Line>>,
}

/// A secret: a text, or `{ file = "…" }`.
#[derive(Debug)]
pub(crate) enum SecretFile {
    /// In the configuration, as it is or from the environment.
    Given(Secret),
    /// In a file of its own.
    InFile(Line),
}

const EXPECTED: &str = "a text such as \"${WORKERS_SECRET}\", or { file = \"…\" }";

impl<'de> Deserialize<'de> for SecretFile {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<SecretFile, D::Error> {
        deserializer.deserialize_any(SecretVisitor)
    }
}

/// What stands there in the secret's place may be the secret: no message shows it.
struct SecretVisitor;

fn wrong<E: Error>() -> E {
    E::custom(Mistake::new(format!("is not {EXPECTED}"), ""))
}

impl<'de> Visitor<'de> for SecretVisitor {
    type Value = SecretFile;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(EXPECTED)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<SecretFile, E> {
        Secret::parse(text).map(SecretFile::Given).map_err(E::custom)
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<SecretFile, E> {
        Err(wrong())
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<SecretFile, E> {
        Err(wrong())
    }

    fn visit_i128<E: Error>(self, _: i128) -> Result<SecretFile, E> {
        Err(wrong())
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<SecretFile, E> {
        Err(wrong())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<SecretFile, A::Error> {
        let mut file = None;
        while let Some(key) = map.next_key::<String>()? {
            if key == "file" {
                file = Some(map.next_value::<Written<Line>>()?.0);
            } else {
                map.next_value::<IgnoredAny>()?;
                return Err(wrong());
            }
        }
        file.map(SecretFile::InFile).ok_or_else(wrong)
    }
}
