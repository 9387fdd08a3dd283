//! Any text as `gateway.toml`: an answer, never a panic; and what is accepted has no key that is not known.

use std::path::Path;

use toml::{Table, Value};

use crate::config::{self, Source};
use crate::limits;

/// What variables hold that the file may refer to.
const SECRET: &str = "hush-hush-0123456789-hush";

fn load(bytes: &[u8]) -> Result<(), Vec<config::Problem>> {
    let env = |name: &str| match name {
        "LEGACY_URL" => Some("http://127.0.0.1:8000".to_owned()),
        "PORT" => Some("8080".to_owned()),
        "SECRET" => Some(SECRET.to_owned()),
        _ => None,
    };
    let source = Source { bytes, name: "gateway.toml", base_dir: Path::new("/etc/gateway") };
    config::load(&source, &env).map(drop)
}

pub(super) fn text(bytes: &[u8]) {
    let problems = load(bytes).err();
    if let Some(problems) = &problems {
        let lines = String::from_utf8_lossy(bytes).lines().count();
        assert!(!problems.is_empty());
        for problem in problems {
            assert!(problem.line <= lines + 1, "{problem:?}");
            let shown = problem.line();
            assert!(!shown.contains(char::is_control), "{shown:?}");
            assert!(shown.chars().count() <= 3 * limits::CONFIG_MESSAGE, "{shown:?}");
        }
        return;
    }
    let text = std::str::from_utf8(bytes).expect("what was accepted is text");
    let table: Table = text.parse().expect("what was accepted is TOML");
    let again = toml::to_string(&table).expect("what was read can be written");
    assert!(load(again.as_bytes()).is_ok(), "written anew it is another file:\n{again}");
    for at in 0..tables(&table) {
        let mut odd = table.clone();
        add_to(&mut odd, &mut at.clone());
        let odd = toml::to_string(&odd).expect("what was read can be written");
        assert!(load(odd.as_bytes()).is_err(), "an unknown key was taken:\n{odd}");
    }
}

/// Counts a table and those inside it.
fn tables(table: &Table) -> usize {
    1 + table.values().filter_map(Value::as_table).map(tables).sum::<usize>()
}

/// Puts a key that nobody knows into the table of that number; says whether it was there.
fn add_to(table: &mut Table, number: &mut usize) -> bool {
    if *number == 0 {
        table.insert("unheard_of".to_owned(), Value::Integer(1));
        return true;
    }
    *number -= 1;
    table.iter_mut().any(|(_, value)| value.as_table_mut().is_some_and(|inner| add_to(inner, number)))
}
