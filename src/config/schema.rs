//! The JSON Schema of `gateway.toml`, for editors: made of the structs that read the file, so that it cannot be of another
//! version.
//!
//! A schema knows single values, not what they mean together; and a value that holds a `${NAME}` may be anything until it
//! is filled in. What passes here may still be refused by `check`, never the other way round.

use std::borrow::Cow;
use std::time::Duration;

use http::header::HeaderName;
use ipnet::IpNet;
use schemars::transform::{Transform, transform_subschemas};
use schemars::{JsonSchema, Schema, SchemaGenerator, generate::SchemaSettings, json_schema};
use serde_json::{Value as Json, json};
use std::net::SocketAddr;

use super::file::{File, SecretFile};
use super::store::Store;
use super::texts::{CookieName, Declined, Line, Origin, Text, User, WebSocket};
use super::values::{Fraction, Size, TrustedPeers, Value, Written};
use crate::routing::table::{BaseUrl, Secret, Share};

/// Returns the schema, draft 7: what editors' TOML plugins read.
pub fn schema() -> Json {
    let settings = SchemaSettings::draft07().with(|settings| settings.inline_subschemas = true);
    let mut schema = settings.into_generator().into_root_schema_for::<File>();
    NoNull.transform(&mut schema);
    schema.insert("title".to_owned(), json!("gateway.toml of export-gateway"));
    schema.to_value()
}

/// TOML has no null: what is optional is left out.
struct NoNull;

impl Transform for NoNull {
    fn transform(&mut self, schema: &mut Schema) {
        transform_subschemas(self, schema);
        let Some(object) = schema.as_object_mut() else { return };
        if let Some(Json::Array(kinds)) = object.get_mut("type") {
            kinds.retain(|kind| kind != "null");
            if let [only] = kinds.as_slice() {
                let only = only.clone();
                object.insert("type".to_owned(), only);
            }
        }
        let Some(Json::Array(forms)) = object.get_mut("anyOf") else { return };
        forms.retain(|form| *form != json!({"type": "null"}));
        if let [Json::Object(only)] = forms.as_slice() {
            let only = only.clone();
            object.remove("anyOf");
            for (key, value) in only {
                object.entry(key).or_insert(value);
            }
        }
    }
}

/// What a kind of value looks like.
trait Shape: Value {
    /// The pattern of its text, anchored.
    const TEXT: &'static str;
    /// Its form without quotes, or the words that it is one of.
    fn bare() -> Option<Json> {
        None
    }
}

/// A text of the kind, or one that is filled in from the environment.
fn text(pattern: &str) -> Json {
    json!({"type": "string", "pattern": format!("({pattern})|\\$\\{{")})
}

impl<T: Shape> JsonSchema for Written<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        Cow::Borrowed(T::EXPECTED)
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let mut schema = match T::bare() {
            Some(bare) => json_schema!({"anyOf": [bare, text(T::TEXT)]}),
            None => Schema::try_from(text(T::TEXT)).unwrap_or_default(),
        };
        if T::SECRET {
            schema.insert("writeOnly".to_owned(), Json::Bool(true));
        }
        schema
    }
}

impl JsonSchema for TrustedPeers {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        Cow::Borrowed("TrustedPeers")
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let networks = generator.subschema_for::<Vec<Written<IpNet>>>();
        json_schema!({"anyOf": [{"const": "any"}, text("^any$"), networks]})
    }
}

impl JsonSchema for SecretFile {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        Cow::Borrowed("SecretFile")
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let secret = generator.subschema_for::<Written<Secret>>();
        let file = generator.subschema_for::<Written<Line>>();
        let in_file = json!({
            "type": "object", "properties": {"file": file}, "required": ["file"], "additionalProperties": false
        });
        json_schema!({"anyOf": [secret, in_file]})
    }
}

impl Shape for bool {
    const TEXT: &'static str = "^(true|false)$";

    fn bare() -> Option<Json> {
        Some(json!({"type": "boolean"}))
    }
}

impl Shape for u32 {
    const TEXT: &'static str = "^[0-9]+$";

    fn bare() -> Option<Json> {
        Some(json!({"type": "integer", "minimum": 0, "maximum": u32::MAX}))
    }
}

impl Shape for Fraction {
    const TEXT: &'static str = r"^\+?[0-9.]+([eE][-+]?[0-9]+)?$";

    fn bare() -> Option<Json> {
        Some(json!({"type": "number", "exclusiveMinimum": 0, "maximum": 1}))
    }
}

impl Shape for Share {
    const TEXT: &'static str = r"^-?[0-9]+(\.[0-9]{1,2}0*)?$";

    fn bare() -> Option<Json> {
        Some(json!({"type": "number", "minimum": 0, "maximum": 100}))
    }
}

impl Shape for Declined {
    const TEXT: &'static str = "^(4[0-9]{2}|503)$";

    fn bare() -> Option<Json> {
        Some(json!({"type": "integer", "anyOf": [{"minimum": 400, "maximum": 499}, {"const": 503}]}))
    }
}

impl Shape for WebSocket {
    const TEXT: &'static str = "^(direct|gateway)$";

    fn bare() -> Option<Json> {
        Some(json!({"enum": ["direct", "gateway"]}))
    }
}

impl Shape for Duration {
    const TEXT: &'static str = "^[0-9]+(ms|s|m|h|d)$";
}

impl Shape for Size {
    const TEXT: &'static str = "^[0-9]+(B|KiB|MiB|GiB)$";
}

impl Shape for SocketAddr {
    const TEXT: &'static str = r"^([0-9.]+|\[[0-9A-Fa-f:.%]+\]):[0-9]{1,5}$";
}

impl Shape for IpNet {
    const TEXT: &'static str = r"^[0-9A-Fa-f:.]+(/[0-9]{1,3})?$";
}

impl Shape for BaseUrl {
    const TEXT: &'static str = r"^[Hh][Tt][Tt][Pp][Ss]?://[^/?#@\s]+(/[^?#\s]*)?$";
}

impl Shape for Origin {
    const TEXT: &'static str = r"^https?://[^/?#@\s]+$";
}

impl Shape for HeaderName {
    const TEXT: &'static str = "^[!#$%&'*+.^_`|~0-9A-Za-z-]+$";
}

impl Shape for CookieName {
    const TEXT: &'static str = "^[!#$%&'*+.^_`|~0-9A-Za-z-]+$";
}

impl Shape for Secret {
    const TEXT: &'static str = "^[!-~]{0,4096}$";
}

impl Shape for User {
    const TEXT: &'static str = "^.+$";
}

impl Shape for Line {
    const TEXT: &'static str = r"^[^\u0000-\u001f\u007f-\u009f]+$";
}

impl Shape for Text {
    const TEXT: &'static str = r"^[^\u0000]*$";
}

impl Shape for Store {
    /// A path may have colons, but no `://`.
    const TEXT: &'static str = r"^(([^:]|:[^/]|:/[^/])+:?/?|rediss?(-sentinel|-cluster)?://\S+)$";
}
