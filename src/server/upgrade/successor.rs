//! The old process's side of an upgrade: it starts the new one, hands everything over and waits until that one serves.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::net::TcpListener;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

use super::{ADMIN, DEGRADED, END, GO, GO_BETWEEN, LOCK, MARK, READY, SERVER, SERVER_KEPT, SERVING, SUCCESSOR};
use crate::limits;

/// Why nobody took over; the process that was to be replaced serves on.
#[derive(Debug, thiserror::Error)]
pub enum UpgradeError {
    /// The new process could not be started.
    #[error("{} cannot be started", .path.display())]
    Start {
        /// The executable.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The sockets could not be passed on.
    #[error("the listening sockets could not be passed on")]
    Pass(#[source] io::Error),
    /// The new process ended, or said nothing in time; its own log says why.
    #[error("the new process did not get ready, see what it says above")]
    NotReady(#[source] io::Error),
    /// The new process cannot use the store, which this one can.
    #[error("the new process cannot use the job store, although this one can")]
    StoreUnusable,
    /// The new process was told to serve and did not.
    #[error("the new process did not serve")]
    NotServing(#[source] io::Error),
}

/// What a new process is started from: as this one was. The name is looked up anew, so that it may lead to a new file.
#[derive(Debug, Clone)]
pub struct Executable {
    path: PathBuf,
    arguments: Vec<OsString>,
}

impl Executable {
    /// Returns how this process was started.
    pub fn of_this_process() -> Executable {
        let mut arguments = std::env::args_os();
        let path = arguments.next().unwrap_or_default().into();
        Executable { path, arguments: arguments.collect() }
    }

    fn command(&self, mark: &str) -> Command {
        let mut command = Command::new(&self.path);
        command.args(&self.arguments).env(MARK, mark);
        command
    }
}

/// What is handed over.
#[derive(Debug)]
pub struct Handed {
    /// The sockets for clients.
    pub server: Vec<TcpListener>,
    /// The socket for operators.
    pub admin: TcpListener,
    /// Whether systemd keeps those for clients.
    pub kept_outside: bool,
    /// The lock beside the store, where there is one.
    pub lock: Option<File>,
}

/// A new process that could serve, and waits to be told so. Dropped before that, it ends: its line is cut.
#[derive(Debug)]
pub struct Successor {
    line: UnixStream,
    pid: u32,
}

/// Starts a new process, hands everything over and waits until it could serve; blocks for up to
/// [`limits::TAKE_OVER_PREPARE`].
///
/// # Errors
/// [`UpgradeError`]: there is no new process then.
pub fn prepare(executable: &Executable, handed: &Handed, store_is_usable: bool) -> Result<Successor, UpgradeError> {
    let (line, theirs) = UnixStream::pair().map_err(UpgradeError::Pass)?;
    let start = |source| UpgradeError::Start { path: executable.path.clone(), source };
    // A service manager waits for its own children only: the new process is to be one, so the go-between ends at once.
    let mut between = executable
        .command(GO_BETWEEN)
        // Of this process alone: its sockets, and that it is the one who feeds the watchdog.
        .env_remove("LISTEN_FDS")
        .env_remove("LISTEN_PID")
        .env_remove("LISTEN_FDNAMES")
        .env_remove("WATCHDOG_PID")
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .spawn()
        .map_err(start)?;
    let status = between.wait().map_err(start)?;
    if !status.success() {
        return Err(start(io::Error::other(status.to_string())));
    }
    let mut successor = Successor { line, pid: 0 };
    successor.pass(handed).map_err(UpgradeError::Pass)?;
    let word = successor.hear(limits::TAKE_OVER_PREPARE).map_err(UpgradeError::NotReady)?;
    successor.pid = successor.hear_pid().map_err(UpgradeError::NotReady)?;
    match word {
        READY => Ok(successor),
        DEGRADED if !store_is_usable => Ok(successor),
        DEGRADED => Err(UpgradeError::StoreUnusable),
        other => Err(UpgradeError::NotReady(unexpected(other))),
    }
}

/// Starts the process that is to take over, and leaves it to whoever adopts it; `None` in all other processes.
pub fn go_between() -> Option<ExitCode> {
    if std::env::var_os(MARK)? != GO_BETWEEN {
        return None;
    }
    let started = Executable::of_this_process().command(SUCCESSOR).spawn();
    Some(if started.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

impl Successor {
    /// Returns the process id.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Lets it serve, and waits until it does; blocks for up to [`limits::TAKE_OVER_STEP`]. The line that is returned is
    /// to be kept until this process ends: its end is how the new one knows.
    ///
    /// # Errors
    /// [`UpgradeError::NotServing`]: there is no new process then.
    pub fn go(mut self) -> Result<UnixStream, UpgradeError> {
        let told = self.line.write_all(&[GO]).and_then(|()| self.hear(limits::TAKE_OVER_STEP));
        match told.map_err(UpgradeError::NotServing)? {
            SERVING => Ok(self.line),
            other => Err(UpgradeError::NotServing(unexpected(other))),
        }
    }

    fn pass(&self, handed: &Handed) -> io::Result<()> {
        // A new process that does not read must not hold this one up for ever.
        self.line.set_write_timeout(Some(limits::TAKE_OVER_STEP))?;
        for listener in &handed.server {
            self.send(if handed.kept_outside { SERVER_KEPT } else { SERVER }, Some(listener.as_fd()))?;
        }
        self.send(ADMIN, Some(handed.admin.as_fd()))?;
        if let Some(lock) = &handed.lock {
            self.send(LOCK, Some(lock.as_fd()))?;
        }
        self.send(END, None)
    }

    fn send(&self, word: u8, descriptor: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let descriptors: Vec<_> = descriptor.into_iter().collect();
        if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&descriptors)) {
            return Err(io::Error::other("one descriptor does not fit into the room for one"));
        }
        sendmsg(&self.line, &[IoSlice::new(&[word])], &mut control, SendFlags::NOSIGNAL)?;
        Ok(())
    }

    fn hear(&mut self, patience: Duration) -> io::Result<u8> {
        self.line.set_read_timeout(Some(patience))?;
        let mut word = [0];
        self.line.read_exact(&mut word)?;
        Ok(word[0])
    }

    fn hear_pid(&mut self) -> io::Result<u32> {
        self.line.set_read_timeout(Some(limits::TAKE_OVER_STEP))?;
        let mut pid = [0; 4];
        self.line.read_exact(&mut pid)?;
        Ok(u32::from_be_bytes(pid))
    }
}

fn unexpected(word: u8) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("it said {:?}", char::from(word)))
}
