//! A foreign JSON object, read flat: the keys decoded, the values as they came.
//!
//! Nothing here recurses: `RawValue` is skipped with a loop, and depth is counted with another one.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::limits;

/// One member of an object.
#[derive(Debug, Clone)]
pub(super) struct Field<'a> {
    /// The key, its escapes decoded.
    pub(super) key: Cow<'a, str>,
    /// The key as it came, quotes included.
    pub(super) raw_key: &'a str,
    /// The value as it came: valid JSON.
    pub(super) value: &'a str,
}

impl<'a> Field<'a> {
    /// Returns the value if it is a string, its escapes decoded.
    pub(super) fn text(&self) -> Option<Cow<'a, str>> {
        decode(self.value)
    }
}

/// An object's members in the order they came, duplicates included.
#[derive(Debug)]
pub(super) struct Object<'a> {
    pub(super) fields: Vec<Field<'a>>,
}

/// Says why a text is not an object that can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BadObject {
    /// Not JSON in UTF-8, or more than one value, or too many members.
    Invalid,
    /// JSON, but not an object.
    NotAnObject,
    /// Nested deeper than [`limits::JSON_DEPTH`].
    TooDeep,
}

impl<'a> Object<'a> {
    /// Reads one object from a whole body; RFC 8259 in UTF-8, without a byte order mark.
    pub(super) fn read(body: &'a [u8]) -> Result<Object<'a>, BadObject> {
        if deeper_than(body, limits::JSON_DEPTH) {
            return Err(BadObject::TooDeep);
        }
        serde_json::from_slice(body)
            .map_err(|error| if error.is_data() { BadObject::NotAnObject } else { BadObject::Invalid })
    }

    /// Returns the last member of that name: where a key stands twice, parsers take the last.
    pub(super) fn last(&self, key: &str) -> Option<&Field<'a>> {
        self.fields.iter().rfind(|field| field.key == key)
    }

    /// Returns how many members have that name.
    pub(super) fn count(&self, key: &str) -> usize {
        self.fields.iter().filter(|field| field.key == key).count()
    }
}

impl<'de> Deserialize<'de> for Object<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Members)
    }
}

struct Members;

impl<'de> Visitor<'de> for Members {
    type Value = Object<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object<'de>, A::Error> {
        let mut fields = Vec::new();
        while let Some((raw_key, value)) = map.next_entry::<&RawValue, &RawValue>()? {
            if fields.len() == limits::JSON_FIELDS {
                return Err(A::Error::custom("too many members"));
            }
            let raw_key = raw_key.get();
            let key = decode(raw_key).ok_or_else(|| A::Error::custom("a key that is no text"))?;
            fields.push(Field { key, raw_key, value: value.get() });
        }
        Ok(Object { fields })
    }
}

/// Decodes a valid JSON string; `None` for another value and for lone surrogates.
fn decode(raw: &str) -> Option<Cow<'_, str>> {
    let inner = raw.strip_prefix('"')?.strip_suffix('"')?;
    if inner.contains('\\') { serde_json::from_str(raw).ok().map(Cow::Owned) } else { Some(Cow::Borrowed(inner)) }
}

/// Says whether arrays and objects are nested deeper than `limit`. On text that is not JSON the answer means nothing.
fn deeper_than(body: &[u8], limit: usize) -> bool {
    // Cheap and nearly always enough: that many brackets are not even there.
    if body.iter().filter(|byte| matches!(byte, b'[' | b'{')).count() <= limit {
        return false;
    }
    let (mut depth, mut in_string, mut escaped) = (0usize, false, false);
    for byte in body {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            _ if in_string => {}
            b'[' | b'{' => {
                depth += 1;
                if depth > limit {
                    return true;
                }
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    false
}

/// Appends `text` as a JSON string.
pub(super) fn push_text(out: &mut Vec<u8>, text: &str) {
    serde_json::to_writer(out, text).expect("a string is always JSON, and a Vec takes every byte");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn members_come_as_they_are() {
        let body =
            br#" { "a" : 1.0 , "\u0062": [ 1, {"x":"}"} ] ,"c":"\u00e9\n", "a":123456789012345678901234567890 } "#;
        let object = Object::read(body).unwrap();
        let members: Vec<_> = object.fields.iter().map(|f| (f.key.as_ref(), f.raw_key, f.value)).collect();
        assert_eq!(
            members,
            [
                ("a", r#""a""#, "1.0"),
                ("b", r#""\u0062""#, r#"[ 1, {"x":"}"} ]"#),
                ("c", r#""c""#, r#""\u00e9\n""#),
                ("a", r#""a""#, "123456789012345678901234567890"),
            ]
        );
        assert_eq!(object.last("a").unwrap().value, "123456789012345678901234567890");
        assert_eq!(object.count("a"), 2);
        assert_eq!(object.last("c").unwrap().text().as_deref(), Some("\u{e9}\n"));
        assert_eq!(object.last("b").unwrap().text(), None);
    }

    #[test]
    fn what_is_not_one_json_object_is_refused() {
        let many = format!("{{{}}}", vec![r#""k":1"#; limits::JSON_FIELDS + 1].join(","));
        let cases: &[(&[u8], BadObject)] = &[
            (b"", BadObject::Invalid),
            (b"   ", BadObject::Invalid),
            (b"{", BadObject::Invalid),
            (b"{}x", BadObject::Invalid),
            (b"{}{}", BadObject::Invalid),
            (b"\xef\xbb\xbf{}", BadObject::Invalid),
            (b"{\"a\":NaN}", BadObject::Invalid),
            (b"{\"a\":Infinity}", BadObject::Invalid),
            (b"{\"a\":01}", BadObject::Invalid),
            (b"{\"a\":+1}", BadObject::Invalid),
            (b"{\"a\":1,}", BadObject::Invalid),
            (b"{a:1}", BadObject::Invalid),
            (b"{1:1}", BadObject::Invalid),
            (b"{'a':1}", BadObject::Invalid),
            (b"{\"a\":\"\xff\"}", BadObject::Invalid),
            (b"{\"\xff\":1}", BadObject::Invalid),
            (b"{\"a\":\"\x01\"}", BadObject::Invalid),
            (b"{\"a\":\"\n\"}", BadObject::Invalid),
            (b"{\"a\":[1,{]}", BadObject::Invalid),
            (b"{\"a\":{\"b\":\"\xff\"}}", BadObject::Invalid),
            (b"{\0\"a\":1}", BadObject::Invalid),
            (b"{/**/}", BadObject::Invalid),
            ("{\"a\":1}".as_bytes().split_at(6).0, BadObject::Invalid),
            (b"[]", BadObject::NotAnObject),
            (b"null", BadObject::NotAnObject),
            (b"\"{}\"", BadObject::NotAnObject),
            (b"12", BadObject::NotAnObject),
        ];
        for (body, expected) in cases {
            assert_eq!(Object::read(body).err(), Some(*expected), "{:?}", String::from_utf8_lossy(body));
        }
        assert!(Object::read(many.as_bytes()).is_err());
    }

    #[test]
    fn depth_is_bounded_without_recursion() {
        let nested =
            |open: &str, close: &str, depth| format!("{{\"a\":{}1{}}}", open.repeat(depth), close.repeat(depth));
        let fits = limits::JSON_DEPTH - 1;
        for (open, close) in [("[", "]"), ("{\"b\":", "}")] {
            assert!(Object::read(nested(open, close, fits).as_bytes()).is_ok());
            let deep = nested(open, close, fits + 1);
            assert_eq!(Object::read(deep.as_bytes()).err(), Some(BadObject::TooDeep));
            let hostile = nested(open, close, 100_000);
            assert_eq!(Object::read(hostile.as_bytes()).err(), Some(BadObject::TooDeep));
            assert_eq!(Object::read(open.repeat(100_000).as_bytes()).err(), Some(BadObject::TooDeep));
        }
    }

    #[test]
    fn brackets_in_strings_and_side_by_side_are_not_depth() {
        let text = format!("{{\"a\":\"\\\"{}\\\\\"}}", "[".repeat(1_000));
        assert!(Object::read(text.as_bytes()).is_ok());
        let flat = format!("{{\"a\":[{}[]]}}", "[],".repeat(1_000));
        assert!(Object::read(flat.as_bytes()).is_ok());
    }

    proptest! {
        #[test]
        fn any_bytes_have_an_answer(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = Object::read(&bytes);
        }

        /// Whatever is read is also JSON to a parser that builds the whole value.
        #[test]
        fn what_is_read_is_json(text in r#"\{("[a-c\\u0-9]{0,6}":[\[\]\{\}0-9",:\\.e-]{0,12},?){0,3}\}"#) {
            if let Ok(object) = Object::read(text.as_bytes()) {
                for field in &object.fields {
                    prop_assert!(serde_json::from_str::<serde_json::Value>(field.value).is_ok() || field.value.contains(['e', '\\']));
                }
            }
        }
    }
}
