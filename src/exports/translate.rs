//! A start's body, from the client's words into those of workers.
//!
//! `{"project_id": 12, "a": …, "b": …}` → `{"project_id": 12, "input_key": "…", "params": {"a": …, "b": …}}`.
//! Values are copied byte for byte. What cannot be translated with certainty is not translated: legacy then judges it.

use std::borrow::Cow;

use http::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderValue};

use crate::exports::object::{BadObject, Field, Object, push_text};
use crate::exports::whole_number::whole_number;
use crate::limits;
use crate::routing::table::{Export, InputKey};

const PROJECT_ID: &str = "project_id";

/// A start that can be told to workers.
#[derive(Debug)]
pub struct Start<'a> {
    project_id: i64,
    input_key: Option<Cow<'a, str>>,
    params: Vec<Field<'a>>,
}

/// Says why a start cannot be translated with certainty.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Untranslatable {
    /// No JSON content type, or several.
    #[error("the content type is not JSON")]
    ContentType,
    /// The body is encoded.
    #[error("the body has a content encoding")]
    ContentEncoding,
    /// Not one JSON value in UTF-8, or one with too many members.
    #[error("the body is not valid JSON")]
    Json,
    /// JSON, but not an object.
    #[error("the body is not a JSON object")]
    NotAnObject,
    /// Nested too deeply.
    #[error("the body is nested deeper than {}", limits::JSON_DEPTH)]
    TooDeep,
    /// No `project_id`, or not a whole number of 64 bits.
    #[error("project_id is not a whole number of 64 bits")]
    ProjectId,
    /// The field that should carry `input_key` is missing or not a usable key.
    #[error("the input key is missing or not usable")]
    InputKey,
}

impl Untranslatable {
    /// Returns the word for the log.
    pub fn as_str(self) -> &'static str {
        match self {
            Untranslatable::ContentType => "content_type",
            Untranslatable::ContentEncoding => "content_encoding",
            Untranslatable::Json => "invalid_json",
            Untranslatable::NotAnObject => "not_an_object",
            Untranslatable::TooDeep => "too_deep",
            Untranslatable::ProjectId => "project_id",
            Untranslatable::InputKey => "input_key",
        }
    }
}

/// Reads the start that a client sent, whole.
///
/// # Errors
/// [`Untranslatable`] for whatever legacy and workers could understand differently.
pub fn read<'a>(headers: &HeaderMap, body: &'a [u8], export: &Export) -> Result<Start<'a>, Untranslatable> {
    if headers.contains_key(CONTENT_ENCODING) {
        return Err(Untranslatable::ContentEncoding);
    }
    let mut types = headers.get_all(CONTENT_TYPE).iter();
    match (types.next(), types.next()) {
        (Some(only), None) if is_json(only) => {}
        _ => return Err(Untranslatable::ContentType),
    }
    let object = Object::read(body).map_err(|bad| match bad {
        BadObject::Invalid => Untranslatable::Json,
        BadObject::NotAnObject => Untranslatable::NotAnObject,
        BadObject::TooDeep => Untranslatable::TooDeep,
    })?;
    let project_id = object.last(PROJECT_ID).and_then(|field| whole_number(field.value));
    let project_id = project_id.ok_or(Untranslatable::ProjectId)?;
    let (input_field, input_key) = match &export.input_key {
        InputKey::Field(name) => {
            let key = object.last(name).and_then(Field::text).filter(|key| is_usable_key(key));
            (Some(name.as_str()), Some(key.ok_or(Untranslatable::InputKey)?))
        }
        InputKey::Database(_) | InputKey::Url(_) => (None, None),
    };
    let mut params: Vec<Field<'a>> = Vec::with_capacity(object.fields.len());
    for field in object.fields {
        let listed = match &export.params {
            Some(names) => names.iter().any(|name| *name == field.key),
            None => field.key != PROJECT_ID,
        };
        if !listed || input_field == Some(field.key.as_ref()) {
            continue;
        }
        match params.iter_mut().find(|earlier| earlier.key == field.key) {
            Some(earlier) => earlier.value = field.value,
            None => params.push(field),
        }
    }
    Ok(Start { project_id, input_key, params })
}

impl Start<'_> {
    /// Returns the project, signed and of 64 bits as SQLite's integers are.
    pub fn project_id(&self) -> i64 {
        self.project_id
    }

    /// Returns the key that the client sent itself, where the export type is set up so.
    pub fn field_input_key(&self) -> Option<&str> {
        self.input_key.as_deref()
    }

    /// Writes the body that workers get.
    pub fn compose(&self, input_key: &str) -> Vec<u8> {
        let params: usize = self.params.iter().map(|field| field.raw_key.len() + field.value.len() + 2).sum();
        let mut out = Vec::with_capacity(params + input_key.len() + 80);
        out.extend_from_slice(b"{\"project_id\":");
        out.extend_from_slice(self.project_id.to_string().as_bytes());
        out.extend_from_slice(b",\"input_key\":");
        push_text(&mut out, input_key);
        out.extend_from_slice(b",\"params\":{");
        for (index, field) in self.params.iter().enumerate() {
            if index > 0 {
                out.push(b',');
            }
            out.extend_from_slice(field.raw_key.as_bytes());
            out.push(b':');
            out.extend_from_slice(field.value.as_bytes());
        }
        out.extend_from_slice(b"}}");
        out
    }
}

/// Says whether a content type is `application/json` or `application/*+json`, whatever its case and parameters.
fn is_json(value: &HeaderValue) -> bool {
    let Ok(value) = value.to_str() else { return false };
    let essence = value.split(';').next().unwrap_or_default().trim_matches([' ', '\t']);
    let Some((kind, subtype)) = essence.split_once('/') else { return false };
    let is_token = |c: u8| c.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&c);
    let suffixed = subtype.len() > 5 && subtype.as_bytes()[subtype.len() - 5..].eq_ignore_ascii_case(b"+json");
    kind.eq_ignore_ascii_case("application")
        && subtype.bytes().all(is_token)
        && (suffixed || subtype.eq_ignore_ascii_case("json"))
}

/// Says whether a key names one object and nothing outside its folder, as is asked of looked-up file names.
fn is_usable_key(key: &str) -> bool {
    (1..=limits::INPUT_KEY).contains(&key.len())
        && !key.chars().any(char::is_control)
        && !key.split(['/', '\\']).any(|segment| segment == "..")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::routing::table::{DatabaseLookup, Share};

    fn export(params: Option<&[&str]>, input_key: InputKey) -> Export {
        let params = params.map(|names| names.iter().map(|name| name.to_string()).collect());
        Export { params, share: Share::from_hundredths(0).unwrap(), input_key }
    }

    fn looked_up() -> InputKey {
        InputKey::Database(DatabaseLookup {
            database: "/d/{user_id}/database.sqlite".into(),
            base: "/d".into(),
            query: "SELECT 1".into(),
            key: "working_videos/{filename}".into(),
            missing: "No working video found".into(),
        })
    }

    fn overlay() -> Export {
        export(Some(&["highlight_regions", "effect_type"]), looked_up())
    }

    fn json() -> HeaderMap {
        HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static("application/json"))])
    }

    fn composed(body: &str, export: &Export) -> Result<String, Untranslatable> {
        let start = read(&json(), body.as_bytes(), export)?;
        let key = start.field_input_key().unwrap_or("working_videos/a.mp4").to_owned();
        Ok(String::from_utf8(start.compose(&key)).unwrap())
    }

    #[test]
    fn translations() {
        let every = export(None, looked_up());
        let by_field = export(None, InputKey::Field("input_key".into()));
        let listed_field = export(Some(&["a", "input_key", "project_id"]), InputKey::Field("input_key".into()));
        let cases = [
            (
                &overlay(),
                r#"{"project_id": 12, "highlight_regions": [{"x": 1.0, "y":2e0}], "effect_type": "dark"}"#,
                r#"{"project_id":12,"input_key":"working_videos/a.mp4","params":{"highlight_regions":[{"x": 1.0, "y":2e0}],"effect_type":"dark"}}"#,
            ),
            // The order is the body's; what is not listed stays out; what is missing is left out.
            (
                &overlay(),
                r#"{"effect_type":"x","other":1,"project_id":"007","input_key":"evil","params":{}}"#,
                r#"{"project_id":7,"input_key":"working_videos/a.mp4","params":{"effect_type":"x"}}"#,
            ),
            (&overlay(), r#"{"project_id":1}"#, r#"{"project_id":1,"input_key":"working_videos/a.mp4","params":{}}"#),
            // The last of duplicate keys, at the place of the first; escapes in keys and values stay.
            (
                &every,
                r#"{"project_id":1,"a":1,"b":2,"\u0061":12345678901234567890123,"project_id":2,"\u0063":"\ud800"}"#,
                r#"{"project_id":2,"input_key":"working_videos/a.mp4","params":{"a":12345678901234567890123,"b":2,"\u0063":"\ud800"}}"#,
            ),
            (
                &every,
                r#"{"project_id":null,"project\u005fid":3,"x":null}"#,
                r#"{"project_id":3,"input_key":"working_videos/a.mp4","params":{"x":null}}"#,
            ),
            (
                &by_field,
                r#"{"input_key":"a\"\u002fb.mp4","project_id":1,"z":[]}"#,
                r#"{"project_id":1,"input_key":"a\"/b.mp4","params":{"z":[]}}"#,
            ),
            (
                &listed_field,
                r#"{"input_key":"k","project_id":1.0,"a":-0.0}"#,
                r#"{"project_id":1,"input_key":"k","params":{"project_id":1.0,"a":-0.0}}"#,
            ),
        ];
        for (export, body, expected) in cases {
            assert_eq!(composed(body, export).as_deref(), Ok(expected), "{body}");
        }
    }

    #[test]
    fn what_is_not_certain_is_not_translated() {
        let by_field = export(None, InputKey::Field("input_key".into()));
        let deep = format!(r#"{{"project_id":1,"a":{}1{}}}"#, "[".repeat(200), "]".repeat(200));
        let cases = [
            (&overlay(), "", Untranslatable::Json),
            (&overlay(), "\u{feff}{\"project_id\":1}", Untranslatable::Json),
            (&overlay(), r#"{"project_id":1,"a":NaN}"#, Untranslatable::Json),
            (&overlay(), r#"{"project_id":1} x"#, Untranslatable::Json),
            (&overlay(), r#"[{"project_id":1}]"#, Untranslatable::NotAnObject),
            (&overlay(), deep.as_str(), Untranslatable::TooDeep),
            (&overlay(), "{}", Untranslatable::ProjectId),
            (&overlay(), r#"{"project_id":1,"project_id":null}"#, Untranslatable::ProjectId),
            (&overlay(), r#"{"Project_id":1}"#, Untranslatable::ProjectId),
            (&overlay(), r#"{"project_id":1.5}"#, Untranslatable::ProjectId),
            (&overlay(), r#"{"project_id":9223372036854775808}"#, Untranslatable::ProjectId),
            (&overlay(), r#"{"project_id":true}"#, Untranslatable::ProjectId),
            (&by_field, r#"{"project_id":1}"#, Untranslatable::InputKey),
            (&by_field, r#"{"project_id":1,"input_key":null}"#, Untranslatable::InputKey),
            (&by_field, r#"{"project_id":1,"input_key":""}"#, Untranslatable::InputKey),
            (&by_field, r#"{"project_id":1,"input_key":"a/../b"}"#, Untranslatable::InputKey),
            (&by_field, r#"{"project_id":1,"input_key":"a\nb"}"#, Untranslatable::InputKey),
        ];
        for (export, body, expected) in cases {
            assert_eq!(composed(body, export), Err(expected), "{body}");
        }
        let bad_utf8 = b"{\"project_id\":1,\"a\":\"\xff\"}";
        assert_eq!(read(&json(), bad_utf8, &overlay()).err(), Some(Untranslatable::Json));
    }

    #[test]
    fn content_types() {
        let good = [
            "application/json",
            "APPLICATION/Json",
            "application/json; charset=utf-8",
            "application/json;charset=\"x;y\"",
            "application/vnd.api+json",
            "application/problem+JSON ;v=1",
        ];
        let bad = [
            "",
            "text/json",
            "text/plain",
            "application/jsonx",
            "application/+json/x",
            "application",
            "application/+json",
            "application/x-www-form-urlencoded",
            "application/json, text/plain",
            "multipart/form-data; a=application/json",
            "application/a b+json",
        ];
        let cases = good.map(|value| (value, true)).into_iter().chain(bad.map(|value| (value, false)));
        for (value, expected) in cases {
            let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_str(value).unwrap())]);
            assert_eq!(read(&headers, br#"{"project_id":1}"#, &overlay()).is_ok(), expected, "{value:?}");
        }
        let mut twice = json();
        twice.append(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let mut encoded = json();
        encoded.append(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        let reason = |headers| read(&headers, br#"{"project_id":1}"#, &overlay()).err();
        assert_eq!(reason(HeaderMap::new()), Some(Untranslatable::ContentType));
        assert_eq!(reason(twice), Some(Untranslatable::ContentType));
        assert_eq!(reason(encoded), Some(Untranslatable::ContentEncoding));
    }

    /// JSON texts of any shape, up to a few levels.
    fn value() -> impl Strategy<Value = String> {
        let leaf = prop_oneof![
            Just("null".to_owned()),
            Just("1.0".to_owned()),
            "-?(0|[1-9][0-9]{0,25})(\\.[0-9]{1,20})?([eE][+-]?[0-9]{1,3})?",
            ".{0,10}".prop_map(|text| serde_json::to_string(&text).unwrap()),
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(|items| format!("[ {}]", items.join(" ,"))),
                prop::collection::vec(("[a-c]", inner), 0..4).prop_map(|items| {
                    let members: Vec<_> = items.iter().map(|(key, value)| format!("\"{key}\" :{value}")).collect();
                    format!("{{{}}}", members.join(", "))
                }),
            ]
        })
    }

    proptest! {
        #[test]
        fn values_arrive_byte_for_byte(project in any::<i64>(), values in prop::collection::vec(value(), 0..6), key in ".{0,12}") {
            let members: Vec<_> = values.iter().enumerate().map(|(n, value)| format!("\"k{n}\":{value}")).collect();
            let rest: String = members.iter().map(|member| format!(", {member} ")).collect();
            let body = format!("{{\"project_id\":{project}{rest}}}");
            let start = read(&json(), body.as_bytes(), &export(None, looked_up())).unwrap();
            prop_assert_eq!(start.project_id(), project);
            let out = String::from_utf8(start.compose(&key)).unwrap();
            let key = serde_json::to_string(&key).unwrap();
            let expected = format!("{{\"project_id\":{project},\"input_key\":{key},\"params\":{{{}}}}}", members.join(","));
            prop_assert_eq!(out, expected);
        }

        #[test]
        fn any_body_has_an_answer(bytes in prop::collection::vec(any::<u8>(), 0..64), text in r#"\{"project_id":.{0,20}\}"#) {
            let _ = read(&json(), &bytes, &overlay());
            let _ = read(&json(), text.as_bytes(), &overlay());
        }
    }
}
