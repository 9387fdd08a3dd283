//! What can be wrong with a configuration file, and how it is shown.

use std::fmt;
use std::ops::Range;

use crate::limits;

/// One thing that is wrong with the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The file, as it was named on the command line.
    pub file: String,
    /// Line, from 1; 0 when the problem has no place in the file.
    pub line: usize,
    /// Column in characters, from 1; 0 when the problem has no place in the file.
    pub column: usize,
    /// Dotted path of the key; empty when the problem is the file's.
    pub key: String,
    /// What is wrong, as one sentence without a full stop.
    pub message: String,
    /// What to do about it.
    pub advice: Option<String>,
    /// The line of the file; `None` when there is none or it may hold a secret.
    pub excerpt: Option<Excerpt>,
}

/// The part of a line that a problem is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Excerpt {
    /// The line, cut to what can be shown, free of control characters.
    pub text: String,
    /// Characters before the part.
    pub start: usize,
    /// Characters of the part, at least 1.
    pub width: usize,
}

/// Something that is allowed, but probably not meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// Dotted path of the key; empty when the warning is the file's.
    pub key: String,
    /// What may surprise, and what to do about it.
    pub message: String,
}

/// A problem without a place: what is wrong with a value, and what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}\n{advice}")]
pub(crate) struct Mistake {
    pub(crate) message: String,
    pub(crate) advice: String,
}

impl Mistake {
    pub(crate) fn new(message: impl Into<String>, advice: impl Into<String>) -> Mistake {
        Mistake { message: message.into(), advice: advice.into() }
    }

    /// Names a value that stands without quotes in the file without them, too.
    pub(crate) fn unquoted(self, value: &str) -> Mistake {
        match self.message.strip_prefix(&format!("{value:?}")) {
            Some(rest) => Mistake { message: format!("{value}{rest}"), ..self },
            None => self,
        }
    }
}

/// The text that problems point into.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Origin<'a> {
    pub(crate) file: &'a str,
    pub(crate) text: &'a str,
}

impl Origin<'_> {
    /// Makes a problem of the whole file.
    pub(crate) fn whole(&self, mistake: Mistake) -> Problem {
        self.nowhere("", mistake)
    }

    /// Makes a problem of a key that is not in the file.
    pub(crate) fn nowhere(&self, key: &str, mistake: Mistake) -> Problem {
        Problem {
            file: self.file.to_owned(),
            line: 0,
            column: 0,
            key: key.to_owned(),
            message: plain(mistake.message),
            advice: Some(plain(mistake.advice)).filter(|advice| !advice.is_empty()),
            excerpt: None,
        }
    }

    /// Says whether the line of a span may hold a secret.
    pub(crate) fn may_hold_secret(&self, span: &Range<usize>) -> bool {
        may_hold_secret(Place::of(self.text, span.clone()).line_text)
    }

    /// Makes a problem of a span of bytes.
    pub(crate) fn at(&self, span: Range<usize>, key: &str, mistake: Mistake) -> Problem {
        let place = Place::of(self.text, span);
        let secret = is_secret(key) || key == "jobs.store" || may_hold_secret(place.line_text);
        Problem {
            line: place.line,
            column: place.start + 1,
            excerpt: (!secret).then(|| place.excerpt()),
            ..self.nowhere(key, mistake)
        }
    }
}

/// Makes a sentence fit for a terminal and a log, whatever of the file it repeats.
fn plain(text: String) -> String {
    if text.len() <= limits::CONFIG_MESSAGE && !text.contains(char::is_control) {
        return text;
    }
    let shown = text.chars().take(limits::CONFIG_MESSAGE);
    shown.map(|c| if c.is_control() { '\u{fffd}' } else { c }).chain(['…']).collect()
}

/// Says whether the value of a key must not be shown.
pub(crate) fn is_secret(key: &str) -> bool {
    key.ends_with("token") || key.starts_with("backends.workers.credential")
}

/// Says whether a line of the file may hold a secret, whatever is wrong with it.
pub(crate) fn may_hold_secret(line: &str) -> bool {
    const WORDS: [&str; 7] = ["token", "secret", "bearer", "hmac", "credential", "password", "@"];
    WORDS.iter().any(|word| line.contains(word))
}

/// A span as line, characters before it and characters of it.
struct Place<'a> {
    line: usize,
    line_text: &'a str,
    start: usize,
    width: usize,
}

impl<'a> Place<'a> {
    fn of(text: &'a str, span: Range<usize>) -> Place<'a> {
        let start = floor(text, span.start);
        let end = floor(text, span.end).max(start);
        let line_start = text[..start].rfind('\n').map_or(0, |at| at + 1);
        let line_end = text[start..].find('\n').map_or(text.len(), |at| start + at);
        let line_text = text[line_start..line_end].trim_end_matches('\r');
        Place {
            line: text[..line_start].bytes().filter(|byte| *byte == b'\n').count() + 1,
            line_text,
            start: text[line_start..start].chars().count(),
            width: text[start..end.min(line_end)].trim_end().chars().count().max(1),
        }
    }

    /// Cuts a long line so that the span is in sight.
    fn excerpt(&self) -> Excerpt {
        let skip = if self.start + self.width <= limits::CONFIG_EXCERPT { 0 } else { self.start.saturating_sub(20) };
        let text: String = self.line_text.chars().skip(skip).take(limits::CONFIG_EXCERPT).map(shown).collect();
        let start = self.start - skip;
        let width = self.width.min(limits::CONFIG_EXCERPT.saturating_sub(start)).max(1);
        Excerpt { text, start, width }
    }
}

/// Returns the largest character boundary that is not above `at`.
fn floor(text: &str, at: usize) -> usize {
    (0..=at.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0)
}

fn shown(c: char) -> char {
    match c {
        '\t' => ' ',
        c if c.is_control() => '\u{fffd}',
        c => c,
    }
}

impl fmt::Display for Problem {
    /// Writes `gateway.toml:31: exports.overlay.percent: 250 is not between 0 and 100`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file)?;
        if self.line > 0 {
            write!(f, ":{}", self.line)?;
        }
        if !self.key.is_empty() {
            write!(f, ": {}", self.key)?;
        }
        write!(f, ": {}", self.message)
    }
}

impl std::error::Error for Problem {}

impl Problem {
    /// Returns the problem with its line, a caret under the place, and the advice.
    pub fn long(&self) -> String {
        let mut text = format!("{self}\n");
        let gutter = self.line.to_string().len();
        if let Some(excerpt) = &self.excerpt {
            let (before, carets) = (" ".repeat(excerpt.start), "^".repeat(excerpt.width));
            text += &format!("  {:gutter$} |\n", "");
            text += &format!("  {} | {}\n", self.line, excerpt.text);
            text += &format!("  {:gutter$} | {before}{carets}\n", "");
        }
        if let Some(advice) = &self.advice {
            text += &format!("  {:gutter$} = help: {advice}\n", "");
        }
        text
    }

    /// Returns the problem and its advice in one line, for a log.
    pub fn line(&self) -> String {
        match &self.advice {
            Some(advice) => format!("{self} ({advice})"),
            None => self.to_string(),
        }
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.key.is_empty() { f.write_str(&self.message) } else { write!(f, "{}: {}", self.key, self.message) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_shows_its_place() {
        let text = "[rollout]\nsalt = \"\u{e9}\"  \npercent = 250\n";
        let at = text.find("250").expect("it is there");
        let origin = Origin { file: "gateway.toml", text };
        let problem =
            origin.at(at..at + 3, "rollout.percent", Mistake::new("250 is not between 0 and 100", "write 25"));
        assert_eq!(problem.to_string(), "gateway.toml:3: rollout.percent: 250 is not between 0 and 100");
        let long = "gateway.toml:3: rollout.percent: 250 is not between 0 and 100\n    |\n  3 | percent = 250\n    |           ^^^\n    = help: write 25\n";
        assert_eq!(problem.long(), long);
    }

    #[test]
    fn any_span_of_any_text_can_be_shown() {
        let text = format!("a = \"\u{1f980}\"\r\n\tb = {}\x1b[2J\n", "x".repeat(5_000));
        for start in 0..text.len() + 2 {
            for end in [start, start + 1, start + 9, text.len() + 7] {
                let problem = Origin { file: "f", text: &text }.at(start..end, "k", Mistake::new("m", "a"));
                let excerpt = problem.excerpt.as_ref().expect("no secret in it");
                assert!(excerpt.text.chars().count() <= limits::CONFIG_EXCERPT);
                assert!(!problem.long().replace('\n', "").contains(char::is_control));
            }
        }
    }

    #[test]
    fn a_sentence_is_plain_and_bounded_whatever_it_repeats() {
        let origin = Origin { file: "f", text: "" };
        let long = format!("\x1b[2J{} is too large", "9".repeat(100_000));
        let problem = origin.whole(Mistake::new(long.clone(), long));
        assert!(!problem.line().contains(char::is_control));
        assert!(problem.line().chars().count() < 3 * limits::CONFIG_MESSAGE);
    }

    #[test]
    fn lines_that_may_hold_a_secret_are_not_shown() {
        let text = "token = \"hunter2hunter2\" x\nurl = \"http://me:pw@host\"\n";
        let origin = Origin { file: "f", text };
        for at in [3, 30] {
            assert!(!origin.at(at..at + 2, "k", Mistake::new("m", "a")).long().contains("hunter2"));
            assert!(!origin.at(at..at + 2, "k", Mistake::new("m", "a")).long().contains("pw"));
        }
    }
}
