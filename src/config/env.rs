//! `${NAME}` and `${NAME:-default}` in the strings of a file.

use std::borrow::Cow;

use super::problem::Mistake;

/// Where variables are looked up; `None` for one that is not set.
pub type Env<'a> = &'a dyn Fn(&str) -> Option<String>;

/// A reference that cannot be filled in.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct BadReference {
    /// The reference as it is written, for pointing at it.
    pub(crate) written: String,
    pub(crate) mistake: Mistake,
}

/// Fills the references of one string in; `$${` stands for `${` itself.
///
/// A default also stands in for an empty variable, as in a shell. What a variable holds is not looked at again.
pub(crate) fn expand<'t>(text: &'t str, env: Env<'_>) -> Result<Cow<'t, str>, Vec<BadReference>> {
    if !text.contains("${") {
        return Ok(Cow::Borrowed(text));
    }
    let (mut filled, mut bad) = (String::with_capacity(text.len()), Vec::new());
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        if rest[..at].ends_with('$') {
            filled.push_str(&rest[..at - 1]);
            filled.push_str("${");
            rest = &rest[at + 2..];
            continue;
        }
        filled.push_str(&rest[..at]);
        let Some(length) = rest[at..].find('}') else {
            let mistake = Mistake::new("a reference is not closed", "write ${NAME}, or $${ for the two characters");
            bad.push(BadReference { written: rest[at..].to_owned(), mistake });
            rest = "";
            break;
        };
        let written = &rest[at..=at + length];
        match resolve(&written[2..written.len() - 1], env) {
            Ok(value) => filled.push_str(&value),
            Err(mistake) => bad.push(BadReference { written: written.to_owned(), mistake }),
        }
        rest = &rest[at + length + 1..];
    }
    filled.push_str(rest);
    if bad.is_empty() { Ok(Cow::Owned(filled)) } else { Err(bad) }
}

fn resolve(inside: &str, env: Env<'_>) -> Result<String, Mistake> {
    let (name, default) = match inside.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (inside, None),
    };
    let starts_well = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    if !starts_well || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
        // What stands there is not shown: it may be the secret itself, or half of the file.
        let advice = "write ${NAME} or ${NAME:-default}, or $${ for the two characters";
        return Err(Mistake::new("a reference does not hold the name of an environment variable", advice));
    }
    match (env(name), default) {
        (Some(value), None) => Ok(value),
        (Some(value), Some(_)) if !value.is_empty() => Ok(value),
        (_, Some(default)) => Ok(default.to_owned()),
        (None, None) => Err(Mistake::new(
            format!("the environment variable {name} is not set"),
            format!("set {name}, or give a default: ${{{name}:-value}}"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(name: &str) -> Option<String> {
        match name {
            "HOST" => Some("example.test".to_owned()),
            "EMPTY" => Some(String::new()),
            "NESTED" => Some("${HOST}".to_owned()),
            _ => None,
        }
    }

    #[test]
    fn references_are_filled_in() {
        let cases = [
            ("plain $HOST {user_id} $", "plain $HOST {user_id} $"),
            ("http://${HOST}:80/${HOST}", "http://example.test:80/example.test"),
            ("${NONE:-b}-${HOST:-b}", "b-example.test"),
            ("${NONE:-}", ""),
            ("${NONE:-http://a:1}", "http://a:1"),
            ("[${EMPTY}]", "[]"),
            ("${EMPTY:-x}", "x"),
            ("${NESTED}", "${HOST}"),
            ("$${HOST} $$${HOST}", "${HOST} $${HOST}"),
        ];
        for (text, expected) in cases {
            assert_eq!(expand(text, &env).expect(text), expected, "{text}");
        }
    }

    #[test]
    fn what_cannot_be_filled_in_is_named() {
        let bad = expand("a${NONE}b${1}c${}d${HOST", &env).expect_err("four are bad");
        let written: Vec<&str> = bad.iter().map(|bad| bad.written.as_str()).collect();
        assert_eq!(written, ["${NONE}", "${1}", "${}", "${HOST"]);
        assert_eq!(bad[0].mistake.message, "the environment variable NONE is not set");
    }
}
