//! From the text of `gateway.toml` to a routing table, or to everything that is wrong with it.
//!
//! ```text
//! text → tree (spans) → ${NAME} filled in → structs of the file → checked → RoutingTable
//! ```
//! Loading is pure: the environment is a function, the folder is given, no clock is read. What needs the disk is in
//! `read.rs`, `attached.rs` and `environment.rs`.

mod advice;
mod attached;
mod certificates;
mod check;
mod credential;
mod env;
mod environment;
mod file;
mod input_key;
mod problem;
mod read;
mod store;
mod texts;
mod tls;
mod tree;
mod url;
mod users;
mod values;

use std::path::Path;

use sha2::{Digest, Sha256};

pub use attached::{Contents, attach};
pub use certificates::{client_configs, system_roots};
pub use env::Env;
pub use environment::{environment_warnings, mount_warning};
pub use problem::{Excerpt, Problem, Warning};
pub use read::{base_dir, load_file, read, unreadable};

use crate::limits;
use crate::routing::table::{RoutingTable, StoreLocation};
use check::{Checker, check};
use problem::{Mistake, Origin};
use tree::Tree;

/// A configuration file as it was read.
#[derive(Debug, Clone, Copy)]
pub struct Source<'a> {
    /// The file's bytes.
    pub bytes: &'a [u8],
    /// The file's name, as problems show it.
    pub name: &'a str,
    /// Absolute folder that relative paths start at.
    pub base_dir: &'a Path,
}

/// Compiles a configuration file.
///
/// # Errors
/// Every problem that was found, in the order of their lines, at most [`limits::CONFIG_PROBLEMS`].
pub fn load(source: &Source<'_>, env: Env<'_>) -> Result<(RoutingTable, Vec<Warning>), Vec<Problem>> {
    let text = text_of(source).map_err(|problem| vec![*problem])?;
    let origin = Origin { file: source.name, text };
    let mut problems = Vec::new();
    let Some(mut tree) = Tree::parse(&origin, &mut problems) else { return Err(problems) };
    let broken: Vec<usize> = problems.iter().map(|problem| problem.line).collect();
    tree.expand(&origin, env, &mut problems);
    let file: Option<file::File> = tree.read(&origin, &mut problems);
    if !broken.is_empty() {
        return Err(sorted(without_echoes(problems, &broken)));
    }
    let Some(file) = file else { return Err(sorted(problems)) };
    let mut checker = Checker { origin, tree: &tree, base_dir: source.base_dir, problems, warnings: Vec::new() };
    let table = check(&mut checker, &file, hash(source.bytes), has_end_marker(text));
    match table {
        Some(table) if checker.problems.is_empty() => Ok((table, checker.warnings)),
        _ => Err(sorted(checker.problems)),
    }
}

/// Reads a job store as `jobs.store` names one; the path of a file starts at the working folder.
///
/// # Errors
/// What is wrong with it, as the end of a sentence that holds nothing secret.
pub fn parse_store(text: &str) -> Result<StoreLocation, String> {
    use values::Value;
    match store::Store::parse(text).map_err(|mistake| mistake.to_string())? {
        store::Store::File(path) => Ok(StoreLocation::File(std::path::absolute(&path).unwrap_or_else(|_| path.into()))),
        store::Store::Redis(location) => Ok(StoreLocation::Redis { location: *location, wait_replicas: 0 }),
    }
}

/// Says whether the last line that is not empty is `# END`.
///
/// Where the serving file has it, a text without it is an incomplete one.
pub fn has_end_marker(text: &str) -> bool {
    text.trim_end().lines().next_back().is_some_and(|line| line.trim_end() == "# END")
}

/// Says what makes a text incomplete: it is empty, or it lacks the last line that the serving file has.
pub fn incomplete(name: &str, bytes: &[u8], serving_has_end_marker: bool) -> Option<Problem> {
    let origin = Origin { file: name, text: "" };
    if bytes.trim_ascii().is_empty() {
        return Some(origin.whole(Mistake::new("is empty", "is something still writing it?")));
    }
    let cut = bytes.len() as u64 > limits::CONFIG_FILE;
    if serving_has_end_marker && !cut && !has_end_marker(&String::from_utf8_lossy(bytes)) {
        let advice = "add the line # END; to do without it for good, restart with the file as it is";
        return Some(origin.whole(Mistake::new("does not end with # END as the serving one does", advice)));
    }
    None
}

/// Returns the first 12 hex digits of the SHA-256 of a file's bytes, by which a configuration is known.
pub fn hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().take(6).map(|byte| format!("{byte:02x}")).collect()
}

fn text_of<'a>(source: &Source<'a>) -> Result<&'a str, Box<Problem>> {
    let whole =
        |message: String, advice: &str| Origin { file: source.name, text: "" }.whole(Mistake::new(message, advice));
    if source.bytes.len() as u64 > limits::CONFIG_FILE {
        let message = format!("is larger than {} KiB", limits::CONFIG_FILE / 1024);
        return Err(Box::new(whole(message, "is this the right file?")));
    }
    let text = std::str::from_utf8(source.bytes).map_err(|error| {
        let line = source.bytes[..error.valid_up_to()].iter().filter(|byte| **byte == b'\n').count() + 1;
        let problem = whole("is not UTF-8 text".to_owned(), "save the file as UTF-8");
        Box::new(Problem { line, ..problem })
    })?;
    if text.trim().is_empty() {
        return Err(Box::new(whole("is empty".to_owned(), "is something still writing it?")));
    }
    Ok(text)
}

/// Keeps one problem per line where the syntax is broken: what the parser guessed there would only distract.
fn without_echoes(problems: Vec<Problem>, broken: &[usize]) -> Vec<Problem> {
    let syntax = broken.len();
    let mut lines = std::collections::BTreeSet::new();
    let kept = problems.into_iter().enumerate().filter(|(index, problem)| {
        if *index < syntax { lines.insert(problem.line) } else { !broken.contains(&problem.line) }
    });
    kept.map(|(_, problem)| problem).collect()
}

fn sorted(mut problems: Vec<Problem>) -> Vec<Problem> {
    // What has no line stands last: it is about what is not there.
    problems.sort_by_key(|problem| (problem.line == 0, problem.line, problem.column));
    problems.truncate(limits::CONFIG_PROBLEMS);
    problems
}

#[cfg(test)]
mod tests;
