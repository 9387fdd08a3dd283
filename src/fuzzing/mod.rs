//! What must hold for any input at all: the bodies of the fuzz targets in `fuzz/`, and the test that runs their corpora.
//!
//! It is compiled for fuzzing and for tests alone. A target takes bytes and panics where a promise is broken; each looks
//! at its subject from outside, with a second, plainer reading of the same rule beside it wherever there is one.

mod config;
mod exports;
mod json;
mod records;
mod requests;
mod tokens;

/// A target: its name in `fuzz/`, and what it does with some bytes.
pub type Target = (&'static str, fn(&[u8]));

/// Every target, by name.
pub const TARGETS: [Target; 10] = [
    ("answer", exports::answer),
    ("config", config::text),
    ("headers", requests::headers),
    ("redis_record", records::of_redis),
    ("route", requests::route),
    ("screen", requests::screen),
    ("sqlite_record", records::of_sqlite),
    ("token", tokens::token),
    ("token_keys", tokens::keys),
    ("translate", exports::translate),
];

/// Runs one target.
///
/// # Panics
/// When a promise is broken, and for a name that no target has.
pub fn run(name: &str, bytes: &[u8]) {
    let target = TARGETS.iter().find(|(known, _)| *known == name);
    target.expect("a target of that name").1(bytes);
}

/// Takes the first byte off, as a choice.
fn choice(bytes: &[u8]) -> (u8, &[u8]) {
    bytes.split_first().map_or((0, bytes), |(first, rest)| (*first, rest))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};

    use super::TARGETS;

    fn folder() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
    }

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        let mut names: Vec<_> = entries.map(|it| it.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn what_fuzzing_has_found_so_far_holds() {
        for (name, target) in TARGETS {
            let corpus = folder().join("corpus").join(name);
            let files = names(&corpus);
            assert!(files.len() >= 10, "{name}: {} files", files.len());
            for file in files {
                let bytes = fs::read(corpus.join(&file)).unwrap();
                let ran = std::panic::catch_unwind(|| target(&bytes));
                assert!(ran.is_ok(), "fuzz/corpus/{name}/{file}: {:?}", String::from_utf8_lossy(&bytes));
            }
        }
    }

    #[test]
    fn every_target_can_be_fuzzed() {
        let known: Vec<_> = TARGETS.iter().map(|(name, _)| name.to_string()).collect();
        assert!(known.is_sorted());
        let manifest = fs::read_to_string(folder().join("Cargo.toml")).unwrap();
        let files: Vec<_> = known.iter().map(|name| format!("{name}.rs")).collect();
        assert_eq!(names(&folder().join("fuzz_targets")), files);
        for name in &known {
            let text = fs::read_to_string(folder().join(format!("fuzz_targets/{name}.rs"))).unwrap();
            assert!(text.contains(&format!("run(\"{name}\", data)")), "{name}");
            assert!(manifest.contains(&format!("path = \"fuzz_targets/{name}.rs\"")), "{name}");
        }
    }
}
