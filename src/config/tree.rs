//! The file as a tree in which every key and value knows its place: parsed, filled in from the environment, read.
//!
//! The structs of `file.rs` are the only description of what may stand in the file. Since serde stops at the
//! first mistake, the entry it stopped at is taken out and the rest is read again, until nothing is left to say.

use std::borrow::Cow;
use std::ops::Range;

use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue, Deserializer};

use super::advice;
use super::env::{Env, expand};
use super::problem::{Mistake, Origin, Problem};
use crate::limits;

/// One step from a table or list to what it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Key(String),
    Index(usize),
}

/// A parsed file.
pub(crate) struct Tree<'t> {
    root: Spanned<DeTable<'t>>,
    /// Values that could not be filled in: they are in the file, but cannot be read.
    unfilled: Vec<Vec<Step>>,
}

impl<'t> Tree<'t> {
    /// Parses the text; what cannot be parsed is reported, the rest is in the tree all the same.
    ///
    /// `None` when the text nests too deep to be walked.
    pub(crate) fn parse(origin: &Origin<'t>, problems: &mut Vec<Problem>) -> Option<Tree<'t>> {
        if let Some(at) = too_deep(origin.text) {
            let advice = format!("at most {} levels are read", limits::CONFIG_DEPTH);
            problems.push(origin.at(at..at + 1, "", Mistake::new("is nested too deep", advice)));
            return None;
        }
        let (root, errors) = DeTable::parse_recoverable(origin.text);
        for error in errors.iter().take(limits::CONFIG_PROBLEMS) {
            let span = error.span().unwrap_or(0..0);
            let stopped_at = origin.text.get(span.clone()).unwrap_or_default();
            let stopped_at = if origin.may_hold_secret(&span) { "" } else { stopped_at };
            problems.push(origin.at(span, "", advice::for_syntax(error.message(), stopped_at)));
        }
        Some(Tree { root, unfilled: Vec::new() })
    }

    /// Fills every `${NAME}` in; a value that cannot be filled in is reported and not read.
    pub(crate) fn expand(&mut self, origin: &Origin<'_>, env: Env<'_>, problems: &mut Vec<Problem>) {
        expand_table(self.root.get_mut(), &mut Vec::new(), origin, env, problems, &mut self.unfilled);
    }

    /// Reads the tree; every entry that does not fit is reported, and its default stands in.
    ///
    /// `None` when there are too many problems to go on.
    pub(crate) fn read<T: DeserializeOwned>(&self, origin: &Origin<'_>, problems: &mut Vec<Problem>) -> Option<T> {
        let mut rest = self.root.clone();
        for path in self.unfilled.iter().rev() {
            remove(rest.get_mut(), path);
        }
        while problems.len() < limits::CONFIG_PROBLEMS {
            let error = match T::deserialize(Deserializer::from(rest.clone())) {
                Ok(value) => return Some(value),
                Err(error) => error,
            };
            let found = error.span().and_then(|span| find(rest.get_ref(), &span));
            let Some((path, span)) = found else {
                problems.push(origin.whole(advice::for_value(error.message(), "")));
                return None;
            };
            let key = dotted(&path);
            problems.push(origin.at(span, &key, advice::for_value(error.message(), &key)));
            if !remove(rest.get_mut(), &path) {
                return None;
            }
        }
        None
    }

    /// Returns the places of a key and its value; list entries are named `[0]`, `[1]` …
    pub(crate) fn locate(&self, path: &[&str]) -> Option<(Range<usize>, Range<usize>)> {
        let (first, rest) = path.split_first()?;
        let (key, mut value) = self.root.get_ref().get_key_value(*first)?;
        let mut key_span = key.span();
        for step in rest {
            match value.get_ref() {
                DeValue::Table(table) => {
                    let (key, inner) = table.get_key_value(*step)?;
                    (key_span, value) = (key.span(), inner);
                }
                DeValue::Array(array) => {
                    let index = step.strip_prefix('[')?.strip_suffix(']')?;
                    value = array.get(index.parse::<usize>().ok()?)?;
                    key_span = value.span();
                }
                _ => return None,
            }
        }
        Some((key_span, value.span()))
    }
}

/// Finds where a text nests too deep, before anything recursive sees it: dots make levels in keys, brackets in values.
///
/// It does not know strings of several lines, and so may count too much there; 32 unpaired brackets in one are needed.
fn too_deep(text: &str) -> Option<usize> {
    let mut open: Vec<usize> = Vec::new();
    let mut line_start = 0;
    for line in text.split_inclusive('\n') {
        let (mut dots, mut quote, mut escaped) = (0, None, false);
        for (column, byte) in line.bytes().enumerate() {
            match (quote, byte) {
                _ if escaped => escaped = false,
                (Some(b'"'), b'\\') => escaped = true,
                (Some(mark), _) if byte == mark => quote = None,
                (Some(_), _) => {}
                (None, b'#') => break,
                (None, b'"' | b'\'') => quote = Some(byte),
                (None, b'[' | b'{') => {
                    open.push(dots + 1);
                    dots = 0;
                }
                (None, b']' | b'}') => {
                    open.pop();
                }
                (None, b'.') => dots += 1,
                (None, b',') => dots = 0,
                _ => {}
            }
            if matches!(byte, b'[' | b'{' | b'.') && open.iter().sum::<usize>() + dots > limits::CONFIG_DEPTH {
                return Some(line_start + column);
            }
        }
        line_start += line.len();
    }
    None
}

fn expand_table(
    table: &mut DeTable<'_>,
    path: &mut Vec<Step>,
    origin: &Origin<'_>,
    env: Env<'_>,
    problems: &mut Vec<Problem>,
    bad: &mut Vec<Vec<Step>>,
) {
    for (key, value) in table.iter_mut() {
        path.push(Step::Key(key.get_ref().to_string()));
        expand_value(value, path, origin, env, problems, bad);
        path.pop();
    }
}

fn expand_value(
    value: &mut Spanned<DeValue<'_>>,
    path: &mut Vec<Step>,
    origin: &Origin<'_>,
    env: Env<'_>,
    problems: &mut Vec<Problem>,
    bad: &mut Vec<Vec<Step>>,
) {
    let span = value.span();
    match value.get_mut() {
        DeValue::Table(table) => expand_table(table, path, origin, env, problems, bad),
        DeValue::Array(array) => {
            for (index, value) in array.iter_mut().enumerate() {
                path.push(Step::Index(index));
                expand_value(value, path, origin, env, problems, bad);
                path.pop();
            }
        }
        DeValue::String(text) => match expand(text, env) {
            Ok(Cow::Borrowed(_)) => {}
            Ok(Cow::Owned(filled)) => *text = Cow::Owned(filled),
            Err(references) => {
                bad.push(path.clone());
                for reference in references.into_iter().take(limits::CONFIG_PROBLEMS.saturating_sub(problems.len())) {
                    let place = place_within(origin.text, &span, &reference.written);
                    problems.push(origin.at(place, &dotted(path), reference.mistake));
                }
            }
        },
        DeValue::Integer(_) | DeValue::Float(_) | DeValue::Boolean(_) | DeValue::Datetime(_) => {}
    }
}

/// Narrows a value's span to the reference in it, when it stands there as it is.
fn place_within(text: &str, span: &Range<usize>, written: &str) -> Range<usize> {
    let at = text.get(span.clone()).and_then(|value| value.find(written));
    at.map_or(span.clone(), |at| span.start + at..span.start + at + written.len())
}

/// Finds the entry a span belongs to: the innermost one whose key or value is exactly there, or which has it inside.
fn find(root: &DeTable<'_>, span: &Range<usize>) -> Option<(Vec<Step>, Range<usize>)> {
    let mut best = None;
    find_in_table(root, span, &mut Vec::new(), &mut best);
    best.map(|(path, span, _)| (path, span))
}

/// An entry, its place, and whether it is exactly the one looked for.
type Found = Option<(Vec<Step>, Range<usize>, bool)>;

fn find_in_table(table: &DeTable<'_>, span: &Range<usize>, path: &mut Vec<Step>, best: &mut Found) {
    for (key, value) in table.iter() {
        path.push(Step::Key(key.get_ref().to_string()));
        if key.span() == *span {
            *best = Some((path.clone(), key.span(), true));
        }
        find_in_value(value, span, path, best);
        path.pop();
    }
}

fn find_in_value(value: &Spanned<DeValue<'_>>, span: &Range<usize>, path: &mut Vec<Step>, best: &mut Found) {
    let own = value.span();
    let inside = own.start <= span.start && span.end <= own.end;
    if own == *span {
        *best = Some((path.clone(), own, true));
    } else if inside && best.as_ref().is_none_or(|best| !best.2) {
        *best = Some((path.clone(), own, false));
    }
    match value.get_ref() {
        DeValue::Table(table) => find_in_table(table, span, path, best),
        DeValue::Array(array) => {
            for (index, value) in array.iter().enumerate() {
                path.push(Step::Index(index));
                find_in_value(value, span, path, best);
                path.pop();
            }
        }
        _ => {}
    }
}

/// Takes an entry out; `false` when it is not there.
fn remove(table: &mut DeTable<'_>, path: &[Step]) -> bool {
    match path {
        [Step::Key(last)] => table.remove(last.as_str()).is_some(),
        [Step::Key(key), rest @ ..] => match table.get_mut(key.as_str()) {
            Some(value) => remove_within(value.get_mut(), rest),
            None => false,
        },
        _ => false,
    }
}

fn remove_within(value: &mut DeValue<'_>, path: &[Step]) -> bool {
    match (value, path) {
        (DeValue::Table(table), path) => remove(table, path),
        (DeValue::Array(array), [Step::Index(index)]) if *index < array.len() => {
            let kept = array.iter().enumerate().filter(|(at, _)| at != index).map(|(_, value)| value.clone());
            *array = kept.collect::<DeArray<'_>>();
            true
        }
        (DeValue::Array(array), [Step::Index(index), rest @ ..]) => {
            array.get_mut(*index).is_some_and(|value| remove_within(value.get_mut(), rest))
        }
        _ => false,
    }
}

fn dotted(path: &[Step]) -> String {
    let keys = path.iter().filter_map(|step| match step {
        Step::Key(key) => Some(quoted(key)),
        Step::Index(_) => None,
    });
    keys.collect::<Vec<_>>().join(".")
}

/// Writes a key as TOML does: bare where it can be.
pub(crate) fn quoted(key: &str) -> String {
    let bare = !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    if bare { key.to_owned() } else { super::values::shown(key) }
}
