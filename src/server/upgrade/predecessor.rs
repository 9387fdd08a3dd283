//! The new process's side of an upgrade: it takes everything over, and hears when the old one has ended.

use std::fs::File;
use std::io::{self, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use super::{ADMIN, DEGRADED, END, GO, LOCK, MARK, READY, SERVER, SERVER_KEPT, SERVING};
use crate::limits;
use crate::server::sockets::Passed;

/// Why nothing could be taken over.
#[derive(Debug, thiserror::Error)]
pub enum TakeOverError {
    /// The mark is set, but there is no gateway at the other end.
    #[error("{MARK} is set, but standard input is not a gateway to take over from")]
    Nobody(#[source] io::Error),
    /// The old process ended, changed its mind or said something else.
    #[error("the gateway that was to be replaced serves on, or has ended")]
    Refused(#[source] io::Error),
}

/// The process that is taken over from.
#[derive(Debug)]
pub struct Predecessor {
    line: UnixStream,
}

impl Predecessor {
    /// Takes over what the process that started this one hands over; `None` when it was started by nobody of the kind.
    ///
    /// # Errors
    /// [`TakeOverError::Nobody`].
    pub fn meet() -> Result<Option<(Predecessor, Passed, Option<File>)>, TakeOverError> {
        if std::env::var_os(MARK).is_none() {
            return Ok(None);
        }
        let line = io::stdin().as_fd().try_clone_to_owned().map_err(TakeOverError::Nobody)?;
        let line = UnixStream::from(line);
        line.set_read_timeout(Some(limits::TAKE_OVER_STEP)).map_err(TakeOverError::Nobody)?;
        let (passed, lock) = receive(&line).map_err(TakeOverError::Nobody)?;
        Ok(Some((Predecessor { line }, passed, lock)))
    }

    /// Says that this process could serve, and waits to be told to.
    ///
    /// # Errors
    /// [`TakeOverError::Refused`]: this process is to end.
    pub fn wait_for_go(&mut self, store_is_usable: bool) -> Result<(), TakeOverError> {
        self.say(if store_is_usable { READY } else { DEGRADED })?;
        self.line.write_all(&std::process::id().to_be_bytes()).map_err(TakeOverError::Refused)?;
        let mut word = [0];
        self.line.read_exact(&mut word).map_err(TakeOverError::Refused)?;
        match word[0] {
            GO => Ok(()),
            _ => Err(TakeOverError::Refused(io::Error::from(io::ErrorKind::InvalidData))),
        }
    }

    /// Says that this process serves.
    ///
    /// # Errors
    /// [`TakeOverError::Refused`]: the old process has ended meanwhile.
    pub fn serving(&mut self) -> Result<(), TakeOverError> {
        self.say(SERVING)
    }

    /// Waits until the old process has ended, however it does.
    pub fn wait_for_end(mut self) {
        // The old one says nothing more: whatever ends the read is its end.
        let _ = self.line.set_read_timeout(None);
        let _ = self.line.read(&mut [0]);
    }

    fn say(&mut self, word: u8) -> Result<(), TakeOverError> {
        self.line.write_all(&[word]).map_err(TakeOverError::Refused)
    }
}

fn receive(line: &UnixStream) -> io::Result<(Passed, Option<File>)> {
    let (mut passed, mut lock) = (Passed::default(), None);
    let invalid = || io::Error::from(io::ErrorKind::InvalidData);
    loop {
        match receive_one(line)? {
            (word @ (SERVER | SERVER_KEPT), Some(socket)) if passed.server.len() < limits::PASSED_SOCKETS => {
                passed.kept_outside |= word == SERVER_KEPT;
                passed.server.push(TcpListener::from(socket));
            }
            (ADMIN, Some(socket)) => passed.admin = Some(TcpListener::from(socket)),
            (LOCK, Some(file)) => lock = Some(File::from(file)),
            (END, None) if !passed.server.is_empty() => return Ok((passed, lock)),
            _ => return Err(invalid()),
        }
    }
}

/// Receives one byte, and the descriptor that comes with it.
fn receive_one(line: &UnixStream) -> io::Result<(u8, Option<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut word = [0];
    let received = recvmsg(line, &mut [IoSliceMut::new(&mut word)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    if received.bytes == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let descriptor = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    Ok((word[0], descriptor))
}
