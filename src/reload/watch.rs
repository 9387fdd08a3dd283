//! Tells the reloader that something happened near the file: hints, of which any may be lost.

use std::ffi::OsString;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Instant;

use notify::event::{AccessKind, AccessMode, EventKind, ModifyKind, RenameMode};
use notify::{Event, RecommendedWatcher, RecursiveMode, Watcher};

use crate::limits;

/// Wakes the reloader. It holds one ring at most, however many events come; what was rung for is in the flags.
#[derive(Debug, Clone)]
pub(super) struct Bell {
    ring: SyncSender<()>,
    flags: Arc<Flags>,
}

#[derive(Debug, Default)]
struct Flags {
    /// Something was moved to the file's name, so that it was whole when it came.
    moved: AtomicBool,
    kicked: AtomicBool,
    stopped: AtomicBool,
}

impl Bell {
    pub(super) fn new() -> (Bell, Receiver<()>) {
        let (ring, wake) = sync_channel(1);
        (Bell { ring, flags: Arc::default() }, wake)
    }

    fn ring(&self) {
        // Full: a look is due already. Disconnected: the reloader has stopped.
        let _ = self.ring.try_send(());
    }

    pub(super) fn kick(&self) {
        self.flags.kicked.store(true, Ordering::SeqCst);
        self.ring();
    }

    pub(super) fn stop(&self) {
        self.flags.stopped.store(true, Ordering::SeqCst);
        self.ring();
    }

    pub(super) fn stopped(&self) -> bool {
        self.flags.stopped.load(Ordering::SeqCst)
    }

    pub(super) fn take_kicked(&self) -> bool {
        self.flags.kicked.swap(false, Ordering::SeqCst)
    }

    pub(super) fn take_moved(&self) -> bool {
        self.flags.moved.swap(false, Ordering::SeqCst)
    }
}

/// Watches the folders that the file can change in, and follows when they are replaced.
pub(super) struct Watch {
    path: PathBuf,
    bell: Bell,
    /// Dropping it ends its watches.
    watcher: Option<RecommendedWatcher>,
    folders: Vec<Folder>,
    failed: Option<Instant>,
}

/// A watched folder: the path, and what stood there when the watch began.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Folder {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl Watch {
    pub(super) fn new(path: PathBuf, bell: Bell) -> Watch {
        Watch { path, bell, watcher: None, folders: Vec::new(), failed: None }
    }

    /// Makes a watch that sees nothing, as on NFS or where the system's limits are used up.
    #[cfg(test)]
    pub(super) fn blind(path: PathBuf, bell: Bell) -> Watch {
        Watch { failed: Some(Instant::now()), ..Watch::new(path, bell) }
    }

    /// Watches the folders as they are now; a failure leaves looking by the clock.
    pub(super) fn renew(&mut self) {
        let (folders, names) = folders_of(&self.path);
        let waits = self.failed.is_some_and(|at| at.elapsed() < limits::CONFIG_REWATCH);
        if waits || (self.watcher.is_some() && folders == self.folders) {
            return;
        }
        match watch(&folders, names, self.bell.clone()) {
            Ok(watcher) => {
                self.watcher = Some(watcher);
                self.failed = None;
            }
            Err(error) => {
                if self.failed.is_none() {
                    tracing::warn!(%error, "watching the configuration's folder failed, its content is compared by the clock");
                }
                self.watcher = None;
                self.failed = Some(Instant::now());
            }
        }
        self.folders = folders;
    }
}

/// Finds the folders of the path itself, of every link it leads over, and of the file in the end; and the names there.
fn folders_of(path: &Path) -> (Vec<Folder>, Vec<OsString>) {
    let mut folders: Vec<Folder> = Vec::new();
    let mut names = Vec::new();
    let mut add = |path: &Path| {
        names.extend(path.file_name().map(OsString::from));
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        if let Ok(metadata) = std::fs::metadata(parent)
            && !folders.iter().any(|known| (known.device, known.inode) == (metadata.dev(), metadata.ino()))
        {
            folders.push(Folder { path: parent.to_path_buf(), device: metadata.dev(), inode: metadata.ino() });
        }
    };
    let mut hop = path.to_path_buf();
    for _ in 0..limits::CONFIG_LINKS {
        add(&hop);
        let Ok(target) = std::fs::read_link(&hop) else { break };
        // A relative target starts at the link's folder; an absolute one replaces the path.
        hop = hop.parent().unwrap_or(Path::new("")).join(target);
    }
    if let Ok(resolved) = path.canonicalize() {
        add(&resolved);
    }
    (folders, names)
}

fn watch(folders: &[Folder], names: Vec<OsString>, bell: Bell) -> notify::Result<RecommendedWatcher> {
    let on_event = move |event: notify::Result<Event>| {
        if let Ok(event) = &event {
            if is_read(event.kind) {
                return;
            }
            if is_move_to(event, &names) {
                bell.flags.moved.store(true, Ordering::SeqCst);
            }
        }
        bell.ring();
    };
    let mut watcher = RecommendedWatcher::new(on_event, notify::Config::default())?;
    for folder in folders {
        watcher.watch(&folder.path, RecursiveMode::NonRecursive)?;
    }
    Ok(watcher)
}

/// Says whether an event is somebody reading: the reloader itself reads, and would wake itself for ever.
fn is_read(kind: EventKind) -> bool {
    matches!(kind, EventKind::Access(access) if access != AccessKind::Close(AccessMode::Write))
}

fn is_move_to(event: &Event, names: &[OsString]) -> bool {
    let target = match event.kind {
        EventKind::Modify(ModifyKind::Name(RenameMode::To)) => event.paths.first(),
        EventKind::Modify(ModifyKind::Name(RenameMode::Both)) => event.paths.get(1),
        _ => None,
    };
    target.and_then(|path| path.file_name()).is_some_and(|name| names.iter().any(|known| known == name))
}
