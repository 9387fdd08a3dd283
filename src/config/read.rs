//! Reads the file from the disk: the only I/O that a configuration needs.

use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::env::Env;
use super::problem::{Mistake, Origin, Problem, Warning};
use super::{Contents, Source, attach, load};
use crate::limits;
use crate::routing::table::RoutingTable;

/// Reads the file's bytes and what the system knows of exactly these.
///
/// # Errors
/// Whatever the system says; also for what is not a plain file and for more than [`limits::CONFIG_FILE`] bytes.
pub fn read(path: &Path) -> io::Result<(Vec<u8>, Metadata)> {
    // Opening a pipe would wait for its writer.
    if !std::fs::metadata(path)?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a plain file"));
    }
    let file = File::open(path)?;
    let metadata = file.metadata()?;
    let mut bytes = Vec::new();
    file.take(limits::CONFIG_FILE + 1).read_to_end(&mut bytes)?;
    Ok((bytes, metadata))
}

/// Returns the folder that relative paths in the file start at, as an absolute path; symbolic links are kept.
///
/// # Errors
/// When the path is empty or the working directory is gone.
pub fn base_dir(path: &Path) -> io::Result<PathBuf> {
    let absolute = std::path::absolute(path)?;
    Ok(absolute.parent().unwrap_or(Path::new("/")).to_path_buf())
}

/// Reads and compiles the file at `path`, with the files that it names.
///
/// # Errors
/// All problems that the file has, or the one that kept it from being read.
pub fn load_file(path: &Path, env: Env<'_>) -> Result<(RoutingTable, Vec<Warning>), Vec<Problem>> {
    let name = path.display().to_string();
    let unreadable = |error: io::Error| vec![unreadable(&name, &error)];
    let base_dir = base_dir(path).map_err(unreadable)?;
    let (bytes, _) = read(path).map_err(unreadable)?;
    let (mut table, warnings) = load(&Source { bytes: &bytes, name: &name, base_dir: &base_dir }, env)?;
    let contents = Contents::read(&table);
    attach(&mut table, &contents, None, &name)?;
    Ok((table, warnings))
}

/// Describes a file that cannot be read.
pub fn unreadable(name: &str, error: &io::Error) -> Problem {
    let advice = match error.kind() {
        io::ErrorKind::NotFound => "name the file with --config FILE, or EXPORT_GATEWAY_CONFIG",
        io::ErrorKind::PermissionDenied => "let the gateway's user read it, and enter its folders",
        _ => "",
    };
    let reason = error.to_string();
    let reason = reason.split(" (os error").next().unwrap_or_default().to_lowercase();
    Origin { file: name, text: "" }.whole(Mistake::new(format!("cannot be read: {reason}"), advice))
}
