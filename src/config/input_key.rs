//! `[exports]`: which types are taken over, and where each finds its `input_key`.

use std::collections::{BTreeMap, BTreeSet};

use super::check::{Checker, entry, join};
use super::file::{ExportFile, File, InputKeyFile};
use super::texts::Line;
use super::values::Written;
use crate::limits;
use crate::names::ExportType;
use crate::routing::table::{DatabaseLookup, Export, InputKey, UrlLookup};

/// What legacy itself answers when there is nothing to export.
const MISSING: &str = "No working video found";
/// Overlay's look-up when `[exports.overlay]` has none.
const DATABASE: &str = "user_data/{user_id}/database.sqlite";
const QUERY: &str = "SELECT filename FROM working_videos WHERE project_id = :project_id ORDER BY version DESC LIMIT 1";
const KEY: &str = "working_videos/{filename}";

/// Compiles every export type; one that has problems is left out.
pub(crate) fn check_exports(checker: &mut Checker<'_>, file: &File) -> BTreeMap<ExportType, Export> {
    let overlay = file.exports.get("overlay").map(|overlay| match &overlay.input_key {
        Some(input_key) => check_input_key(checker, "overlay", input_key),
        None => Some(default_lookup(checker)),
    });
    let mut exports = BTreeMap::new();
    for (name, export) in &file.exports {
        let input_key = match (&export.input_key, &overlay) {
            (_, Some(overlay)) if name == "overlay" => overlay.clone(),
            (Some(own), _) => check_input_key(checker, name, own),
            (None, Some(overlay)) => overlay.clone(),
            (None, None) if checker.has(&["exports", name, "input_key"]) => None,
            (None, None) => {
                let advice = format!("add [exports.{name}.input_key], or [exports.overlay], whose look-up others use");
                checker.problem(&["exports", name, "input_key"], "is missing", advice);
                None
            }
        };
        let kind = check_name(checker, name);
        let params = check_params(checker, name, export, input_key.as_ref());
        let share = export.percent.as_ref().map_or(file.rollout.percent.0, |percent| percent.0);
        if let (Some(kind), Some(input_key)) = (kind, input_key) {
            exports.insert(kind, Export { params, share, input_key });
        }
    }
    if file.exports.is_empty() && !checker.has(&["exports"]) {
        checker.warn(&["exports"], "lists no type, such as [exports.overlay]: nothing is taken over");
    }
    exports
}

fn default_lookup(checker: &Checker<'_>) -> InputKey {
    let database = absolute(checker, DATABASE);
    InputKey::Database(DatabaseLookup {
        base: base_of(&database).into(),
        database,
        query: QUERY.to_owned(),
        key: KEY.to_owned(),
        missing: MISSING.to_owned(),
    })
}

fn check_name(checker: &mut Checker<'_>, name: &str) -> Option<ExportType> {
    if name == "status" {
        let advice = "its paths would be those of GET /api/export/status/{job_id}";
        checker.problem(&["exports", name], "cannot be an export type", advice);
        return None;
    }
    let kind = ExportType::parse(name);
    if kind.is_none() {
        let advice = format!("use a-z, 0-9, - and _, at most {} of them", limits::EXPORT_TYPE);
        checker.problem(&["exports", name], "is not the name of an export type", advice);
    }
    kind
}

fn check_params(
    checker: &mut Checker<'_>,
    name: &str,
    export: &ExportFile,
    input_key: Option<&InputKey>,
) -> Option<Vec<String>> {
    let mut kept: Vec<String> = Vec::new();
    for (index, Written(Line(param))) in export.params.as_ref()?.iter().enumerate() {
        let path = ["exports", name, "params", &entry(index)];
        if param == "project_id" {
            checker.problem(&path, "project_id is sent beside the params, not in them", "take it out of the list");
        } else if matches!(input_key, Some(InputKey::Field(field)) if field == param) {
            let advice = "it is sent as input_key: take it out of the list";
            checker.problem(&path, format!("{param} is the field of input_key"), advice);
        } else if kept.contains(param) {
            checker.warn(&path, format!("lists {param} more than once"));
        } else {
            kept.push(param.clone());
        }
    }
    Some(kept)
}

fn check_input_key(checker: &mut Checker<'_>, name: &str, file: &InputKeyFile) -> Option<InputKey> {
    let section = ["exports", name, "input_key"];
    let has = |key: &str| checker.has(&["exports", name, "input_key", key]);
    let given: Vec<&str> = ["field", "database", "url"].into_iter().filter(|form| has(form)).collect();
    let form = match given.as_slice() {
        [form] => *form,
        [] => {
            let advice = "add field, or database with query and key, or url with pointer and key";
            checker.problem(&section, "does not say where the key comes from", advice);
            return None;
        }
        [first, ..] => {
            let advice = format!("one of them says where the key comes from: keep {first}, or another, alone");
            checker.problem(&section, format!("has {}", given.join(" and ")), advice);
            return None;
        }
    };
    let allowed: &[&str] = match form {
        "field" => &["field"],
        "database" => &["database", "query", "key", "missing"],
        _ => &["url", "pointer", "key", "missing"],
    };
    let others = ["query", "pointer", "key", "missing"].into_iter().filter(|key| !allowed.contains(key) && has(key));
    for key in others.collect::<Vec<_>>() {
        let advice = format!("beside {form} stand only: {}", allowed.join(", "));
        checker.problem(&["exports", name, "input_key", key], format!("does not belong to {form}"), advice);
    }
    match form {
        "field" => check_field(checker, name, &file.field.as_ref()?.0.0),
        "database" => check_database(checker, name, file),
        _ => check_url(checker, name, file),
    }
}

fn check_field(checker: &mut Checker<'_>, name: &str, field: &str) -> Option<InputKey> {
    if field == "project_id" {
        checker.problem(
            &["exports", name, "input_key", "field"],
            "cannot be project_id",
            "name the field with the key",
        );
        return None;
    }
    Some(InputKey::Field(field.to_owned()))
}

fn check_database(checker: &mut Checker<'_>, name: &str, file: &InputKeyFile) -> Option<InputKey> {
    let path = |key| ["exports", name, "input_key", key];
    let written = &file.database.as_ref()?.0.0;
    let example = format!("such as \"{DATABASE}\"");
    if written.split(['/', '\\']).any(|segment| segment == "..") {
        checker.problem(&path("database"), "has a .. segment", "write an absolute path instead");
    }
    check_placeholders(checker, &path("database"), written, |known| known == "user_id", "{user_id}");
    let query =
        required(checker, name, "query", file.query.as_ref().map(|query| &query.0.0), "a SELECT with :project_id");
    let key =
        required(checker, name, "key", file.key.as_ref().map(|key| &key.0.0), "a key such as \"videos/{filename}\"");
    let (query, key) = (query?, key?);
    let parameters = parameters(&query);
    check_query(checker, &path("query"), &query, &parameters);
    if !written.contains("{user_id}") && !parameters.contains("user_id") {
        let message = format!("is the same for every user: any user can name any project ({example})");
        checker.warn(&path("database"), message);
    }
    let columns = placeholders(&key).unwrap_or_default();
    let column = |name: &str| query.contains('*') || words(&query).any(|word| word.eq_ignore_ascii_case(name));
    check_placeholders(checker, &path("key"), &key, column, "a column of the query");
    if columns.is_empty() {
        checker.problem(
            &path("key"),
            "is the same for every project",
            "name a column of the query, such as {filename}",
        );
    }
    let database = absolute(checker, written);
    let missing = file.missing.as_ref().map_or(MISSING, |missing| &missing.0.0).to_owned();
    Some(InputKey::Database(DatabaseLookup { base: base_of(&database).into(), database, query, key, missing }))
}

fn check_query(checker: &mut Checker<'_>, path: &[&str], query: &str, parameters: &BTreeSet<String>) {
    let advice = "write one SELECT with :project_id, and :user_id where it is needed";
    let statement = query.trim().trim_end_matches(';');
    let first = words(statement).next().unwrap_or_default().to_ascii_uppercase();
    if first != "SELECT" && first != "WITH" {
        checker.problem(path, "is not a SELECT", advice);
    } else if statement.contains(';') {
        checker.problem(path, "has more than one statement", advice);
    } else if !parameters.contains("project_id") {
        checker.problem(path, "has no :project_id", advice);
    } else if let Some(unknown) = parameters.iter().find(|name| *name != "project_id" && *name != "user_id") {
        checker.problem(path, format!("has a parameter that is not known: :{unknown}"), advice);
    }
}

fn check_url(checker: &mut Checker<'_>, name: &str, file: &InputKeyFile) -> Option<InputKey> {
    let path = |key| ["exports", name, "input_key", key];
    let url = &file.url.as_ref()?.0.0;
    let example = "write a path on legacy, such as \"/api/projects/{project_id}/working-video\"";
    let plain = url.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'\\' | b'#' | b'"' | b'<' | b'>'));
    if !url.starts_with('/') || url.starts_with("//") || !plain || url.split('/').any(|part| part == "..") {
        checker.problem(&path("url"), "is not a path on legacy", example);
    } else if !url.contains("{project_id}") {
        checker.problem(&path("url"), "has no {project_id}", example);
    }
    check_placeholders(checker, &path("url"), url, |known| known == "project_id", "{project_id}");
    let pointer =
        required(checker, name, "pointer", file.pointer.as_ref().map(|text| &text.0.0), "such as \"/filename\"");
    let key =
        required(checker, name, "key", file.key.as_ref().map(|key| &key.0.0), "a key such as \"videos/{filename}\"");
    let (pointer, key) = (pointer?, key?);
    let escapes_are_good = pointer.split('~').skip(1).all(|after| after.starts_with(['0', '1']));
    if !pointer.starts_with('/') || !escapes_are_good {
        let advice = "begin with /, such as \"/filename\" or \"/video/name\" (RFC 6901)";
        checker.problem(&path("pointer"), "is not a JSON pointer", advice);
    }
    if check_placeholders(checker, &path("key"), &key, |known| known == "filename", "{filename}")
        && !key.contains("{filename}")
    {
        checker.problem(&path("key"), "has no {filename}", "{filename} is what the pointer found");
    }
    let missing = file.missing.as_ref().map_or(MISSING, |missing| &missing.0.0).to_owned();
    Some(InputKey::Url(UrlLookup { path: url.clone(), pointer, key, missing }))
}

fn required(checker: &mut Checker<'_>, name: &str, key: &str, text: Option<&String>, what: &str) -> Option<String> {
    let path = ["exports", name, "input_key", key];
    if text.is_none() && !checker.has(&path) {
        checker.problem(&path, "is missing", format!("add {key}, {what}"));
    }
    text.cloned()
}

/// Reports placeholders that are not known, and braces that pair with none.
fn check_placeholders(
    checker: &mut Checker<'_>,
    path: &[&str],
    text: &str,
    known: impl Fn(&str) -> bool,
    what: &str,
) -> bool {
    let Some(names) = placeholders(text) else {
        checker.problem(path, "has a brace without its pair", "write a placeholder as {name}");
        return false;
    };
    let unknown = names.iter().find(|name| !known(name));
    if let Some(unknown) = unknown {
        checker.problem(path, format!("has a placeholder that is not known: {{{unknown}}}"), format!("use {what}"));
    }
    unknown.is_none()
}

/// Lists the names in braces; `None` when a brace has no pair.
fn placeholders(text: &str) -> Option<Vec<String>> {
    let mut names = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(['{', '}']) {
        let inside = rest[at..].strip_prefix('{')?;
        let (name, after) = inside.split_once('}')?;
        if name.contains('{') {
            return None;
        }
        names.push(name.to_owned());
        rest = after;
    }
    Some(names)
}

fn words(query: &str) -> impl Iterator<Item = &str> {
    query.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty())
}

/// Lists the named parameters of a query, without those that only look like one inside a quoted text.
fn parameters(query: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for outside in query.split('\'').step_by(2) {
        for part in outside.split([':', '@', '$']).skip(1) {
            let name: String = part.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            if !name.is_empty() {
                names.insert(name);
            }
        }
    }
    names
}

fn absolute(checker: &Checker<'_>, path: &str) -> String {
    join(checker.base_dir, path).to_string_lossy().into_owned()
}

/// Returns the part of a path before the first placeholder, up to its last `/`.
fn base_of(path: &str) -> String {
    let fixed = path.split('{').next().unwrap_or_default();
    let end = fixed.rfind('/').unwrap_or(0);
    if end == 0 { "/".to_owned() } else { fixed[..end].to_owned() }
}
