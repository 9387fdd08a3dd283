//! Where the access log goes: standard output, or a file that may be renamed under it.
//!
//! Before each write the file's name is looked at: when it leads elsewhere, or nowhere, it is opened anew. So `logrotate`
//! needs neither a signal nor `copytruncate`, and no line is written to a file that was moved away.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal, Stdout, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::telemetry::access_log::Format;

/// Where lines go.
#[derive(Debug)]
pub enum Outlet {
    /// Standard output.
    Stdout(Stdout),
    /// A file, appended to.
    File(Rotated),
}

/// A file by its name.
#[derive(Debug)]
pub struct Rotated {
    path: PathBuf,
    file: File,
    /// Device and inode of what is open.
    place: (u64, u64),
    /// It could not be opened anew, and that was said.
    is_stuck: bool,
}

impl Outlet {
    /// Takes standard output.
    pub fn stdout() -> Outlet {
        Outlet::Stdout(io::stdout())
    }

    /// Opens a file for appending, and makes it when it is not there: for the owner to write and the group to read, since
    /// its lines name users.
    ///
    /// # Errors
    /// Whatever the system says.
    pub fn file(path: &Path) -> io::Result<Outlet> {
        let (file, place) = open(path)?;
        Ok(Outlet::File(Rotated { path: path.to_owned(), file, place, is_stuck: false }))
    }

    /// Returns the format that suits it: pretty on a terminal, else JSON.
    pub fn format(&self) -> Format {
        match self {
            Outlet::Stdout(stdout) if stdout.is_terminal() => Format::Pretty,
            Outlet::Stdout(_) | Outlet::File(_) => Format::Json,
        }
    }

    /// Opens the file anew if its name leads elsewhere by now; where that fails, the open one goes on being written.
    pub(super) fn follow(&mut self) {
        let Outlet::File(rotated) = self else { return };
        if std::fs::metadata(&rotated.path).is_ok_and(|found| place(&found) == rotated.place) {
            return;
        }
        match open(&rotated.path) {
            Ok((file, place)) => {
                (rotated.file, rotated.place, rotated.is_stuck) = (file, place, false);
                tracing::info!(path = %rotated.path.display(), "access log opened anew");
            }
            Err(error) if !rotated.is_stuck => {
                rotated.is_stuck = true;
                let path = rotated.path.display();
                tracing::warn!(%error, %path, "the access log cannot be opened anew: the renamed file is written on");
            }
            Err(_) => {}
        }
    }
}

fn open(path: &Path) -> io::Result<(File, (u64, u64))> {
    let file = OpenOptions::new().append(true).create(true).mode(0o640).open(path)?;
    let place = place(&file.metadata()?);
    Ok((file, place))
}

fn place(metadata: &std::fs::Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

impl Write for Outlet {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Outlet::Stdout(stdout) => stdout.write(bytes),
            Outlet::File(rotated) => rotated.file.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Outlet::Stdout(stdout) => stdout.flush(),
            Outlet::File(_) => Ok(()),
        }
    }
}

impl fmt::Display for Outlet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outlet::Stdout(_) => f.write_str("stdout"),
            Outlet::File(rotated) => write!(f, "{}", rotated.path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_file_that_was_renamed_is_opened_anew() {
        let folder = tempfile::tempdir().unwrap();
        let (path, old) = (folder.path().join("access.log"), folder.path().join("access.log.1"));
        let mut outlet = Outlet::file(&path).unwrap();
        let mut say = |line: &[u8]| {
            outlet.follow();
            outlet.write_all(line).unwrap();
        };
        say(b"1\n");
        fs::rename(&path, &old).unwrap();
        say(b"2\n");
        // As logrotate's `create` does: the new file is there before anything is written to it.
        fs::rename(&path, &old).unwrap();
        fs::write(&path, "").unwrap();
        say(b"3\n");
        fs::remove_file(&path).unwrap();
        say(b"4\n");
        assert_eq!(fs::read_to_string(&old).unwrap(), "2\n");
        assert_eq!(fs::read_to_string(&path).unwrap(), "4\n");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o137, 0, "others may not read it");
    }

    #[test]
    fn where_nothing_can_be_opened_the_old_file_is_written_on() {
        let folder = tempfile::tempdir().unwrap();
        let (inside, moved) = (folder.path().join("logs"), folder.path().join("moved"));
        fs::create_dir(&inside).unwrap();
        let mut outlet = Outlet::file(&inside.join("access.log")).unwrap();
        fs::rename(&inside, &moved).unwrap();
        outlet.follow();
        outlet.write_all(b"1\n").unwrap();
        assert_eq!(fs::read_to_string(moved.join("access.log")).unwrap(), "1\n");
    }
}
