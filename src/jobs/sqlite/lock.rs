//! The lock beside the store: one gateway has it, a second one that is started by mistake is refused.
//!
//! A gateway that takes over from another is given the open file itself, and with it the same lock: nobody else can get
//! in between, and it stays held when the first one ends.

use std::fs::{self, File, TryLockError};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::writer::{beside, file_cause};
use crate::jobs::store::Cause;

/// Makes the store's folder and takes the lock beside the store.
pub(super) fn take(store: &Path) -> Result<File, Cause> {
    if let Some(folder) = store.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        fs::create_dir_all(folder).map_err(|source| file_cause(folder, source))?;
    }
    let path = beside(store, ".lock");
    // Appending keeps a lock file that somebody else made, whatever is in it.
    let file = File::options().create(true).append(true).open(&path).map_err(|source| file_cause(&path, source))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Cause::Locked(path)),
        Err(TryLockError::Error(source)) => Err(file_cause(&path, source)),
    }
}

/// Says whether a lock that was passed on is the one beside this store.
pub(super) fn belongs_to(lock: &File, store: &Path) -> bool {
    let identity = |file: fs::Metadata| (file.dev(), file.ino());
    match (lock.metadata(), fs::metadata(beside(store, ".lock"))) {
        (Ok(passed), Ok(own)) => identity(passed) == identity(own),
        _ => false,
    }
}
