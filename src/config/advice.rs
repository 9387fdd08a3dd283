//! Turns what serde and the TOML parser say into sentences that help.

use toml::de::{DeTable, Deserializer};

use serde::Deserialize;

use super::file::File;
use super::problem::Mistake;

/// Sections whose keys are looked through for a key that stands in the wrong one.
const SECTIONS: [&str; 17] = [
    "server",
    "server.tls",
    "admin",
    "backends.legacy",
    "backends.legacy.tls",
    "backends.workers",
    "backends.workers.tls",
    "backends.workers.credential",
    "circuit",
    "identity",
    "identity.jwt",
    "rollout",
    "exports.overlay",
    "exports.overlay.input_key",
    "jobs",
    "limits",
    "cors",
];

/// Rewrites a message of the TOML parser about the text it stopped at.
pub(crate) fn for_syntax(message: &str, stopped_at: &str) -> Mistake {
    if message == "duplicate key" {
        return Mistake::new("stands in this section a second time", "keep one of the two");
    }
    if message.starts_with("string values must be quoted") {
        return match stopped_at.trim() {
            "" => Mistake::new("has no value", "write one behind the =, or put a # in front of the line"),
            "yes" | "on" | "True" | "TRUE" => Mistake::new(format!("{stopped_at} is not a value"), "write true"),
            "no" | "off" | "False" | "FALSE" => Mistake::new(format!("{stopped_at} is not a value"), "write false"),
            other => Mistake::new("text must stand in quotes", format!("write {}", super::values::shown(other))),
        };
    }
    let advice = match message {
        _ if message.contains("basic string") || message.contains("literal string") => "is a closing quote missing?",
        _ if message.starts_with("missing comma") => "is a comma missing, or a ] in a line above?",
        _ => "",
    };
    Mistake::new(format!("is not valid TOML: {message}"), advice)
}

/// Rewrites a message of serde about the entry at `key`.
pub(crate) fn for_value(message: &str, key: &str) -> Mistake {
    if let Some(expected) = unknown_field(message) {
        return unknown_key(key, &expected);
    }
    if let Some(rest) = message.strip_prefix("invalid type: ") {
        let (found, expected) = rest.split_once(", expected ").unwrap_or((rest, "something else"));
        let found = match found {
            _ if super::problem::is_secret(key) => String::new(),
            "map" => "a section".to_owned(),
            "sequence" => "a list".to_owned(),
            other => {
                other.replace("boolean ", "").replace("integer ", "").replace("floating point ", "").replace('`', "")
            }
        };
        let expected = match expected {
            "a sequence" => "a list in brackets: [\"…\"]",
            expected if expected.starts_with("struct ") || expected == "a map" => "a section of keys",
            expected => expected,
        };
        let found = found.strip_prefix("string ").unwrap_or(&found);
        return Mistake::new(format!("{found} is not {expected}").trim_start(), "");
    }
    match message.split_once('\n') {
        Some((message, advice)) => Mistake::new(message, advice),
        None => Mistake::new(message, ""),
    }
}

/// Reads the names out of "unknown field `x`, expected one of `a`, `b`".
fn unknown_field(message: &str) -> Option<Vec<String>> {
    let rest = message.strip_prefix("unknown field `")?;
    let (_, expected) = rest.rsplit_once("`, expected ")?;
    Some(expected.split('`').skip(1).step_by(2).map(str::to_owned).collect())
}

fn unknown_key(key: &str, expected: &[String]) -> Mistake {
    let (section, name) = key.rsplit_once('.').unwrap_or(("", key));
    let mistake = |advice: String| Mistake::new("is not a known key", advice);
    if ["verify", "insecure", "skip"].iter().any(|word| name.contains(word)) {
        let advice = "certificates are always verified; name the file with their root: roots = \"…\" in tls";
        return mistake(advice.to_owned());
    }
    if let Some(near) = nearest(name, expected) {
        return mistake(format!("did you mean `{near}`?"));
    }
    let plain = name.trim_matches('"');
    let homes: Vec<String> = SECTIONS
        .iter()
        .filter(|home| **home != section && keys_of(home).iter().any(|known| known == plain))
        .map(|home| format!("[{home}]"))
        .collect();
    if !homes.is_empty() {
        return mistake(format!("`{plain}` belongs to {}", homes.join(" or ")));
    }
    let place = if section.is_empty() { "the sections are" } else { "the keys here are" };
    mistake(format!("{place} {}", expected.join(", ")))
}

/// Returns the known name that `name` is most likely a slip of.
fn nearest<'k>(name: &str, known: &'k [String]) -> Option<&'k str> {
    let name = name.trim_matches('"').to_lowercase().replace('-', "_");
    let allowed = (name.chars().count() / 3).clamp(1, 3);
    known
        .iter()
        .map(|known| (strsim::damerau_levenshtein(&name, known), known.as_str()))
        .filter(|(distance, _)| *distance <= allowed)
        .min()
        .map(|(_, known)| known)
}

/// Asks the structs of the file which keys a section has.
fn keys_of(section: &str) -> Vec<String> {
    let text = format!("[{section}]\n\"?\" = 0\n");
    let Ok(table) = DeTable::parse(&text) else { return Vec::new() };
    match File::deserialize(Deserializer::from(table)) {
        Ok(_) => Vec::new(),
        Err(error) => unknown_field(error.message()).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_section_names_its_keys() {
        for section in SECTIONS {
            assert!(keys_of(section).len() >= 2, "{section}");
        }
    }

    #[test]
    fn unknown_keys_are_explained() {
        let known = ["percent".to_owned(), "always_workers".to_owned()];
        let cases = [
            ("rollout.precent", "did you mean `percent`?"),
            ("rollout.always-workers", "did you mean `always_workers`?"),
            ("rollout.Percent", "did you mean `percent`?"),
            ("rollout.websocket", "`websocket` belongs to [backends.workers]"),
            ("percent_of", "did you mean `percent`?"),
            ("zzz", "the sections are percent, always_workers"),
            ("rollout.zzz", "the keys here are percent, always_workers"),
        ];
        for (key, advice) in cases {
            assert_eq!(unknown_key(key, &known).advice, advice, "{key}");
        }
    }
}
