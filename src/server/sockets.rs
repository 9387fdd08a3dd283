//! Which sockets the process listens on: those that were passed in by whoever starts it, else its own.
//!
//! Sockets come from systemd (sd_listen_fds(3)) or from the gateway that is taken over from. What was passed in wins
//! over the file's address: somebody else has bound it, and people wait in its queue.

use std::io;
use std::net::{SocketAddr, TcpListener};

use listenfd::ListenFd;

use super::listen;
use crate::limits;
use crate::routing::table::Fixed;

/// The name (`FileDescriptorName=`) by which the admin port's socket is known.
const ADMIN: &str = "admin";

/// Why the process has no socket to listen on.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// It could not be bound.
    #[error("cannot listen on {address} ({key})")]
    Bind {
        /// Where.
        address: SocketAddr,
        /// The key of the file that says so.
        key: &'static str,
        /// What the kernel says.
        #[source]
        source: io::Error,
    },
    /// What was passed in is no listening TCP socket.
    #[error("socket {number} of those passed in by LISTEN_FDS cannot be used")]
    Passed {
        /// Which, from 0.
        number: usize,
        /// What is wrong with it.
        #[source]
        source: io::Error,
    },
    /// Anybody could reach the admin port, for which the file asks no token.
    #[error(
        "the admin socket that was passed in is on {0}, which is not loopback as admin.listen says: set both alike, and a token"
    )]
    AdminExposed(SocketAddr),
    /// More were passed in than anybody needs.
    #[error("{0} sockets were passed in, more than {max}", max = limits::PASSED_SOCKETS)]
    TooMany(usize),
}

/// Sockets that were passed in; none is the common case.
#[derive(Debug, Default)]
pub struct Passed {
    /// For clients.
    pub server: Vec<TcpListener>,
    /// For operators.
    pub admin: Option<TcpListener>,
    /// Whether whoever passed those for clients in keeps them, and will pass them to the next process.
    pub kept_outside: bool,
}

/// What the process listens on.
#[derive(Debug)]
pub struct Sockets {
    /// For clients, one or more.
    pub server: Vec<TcpListener>,
    /// For operators.
    pub admin: TcpListener,
    /// Whether those for clients outlive the process: then whoever is queued there is for the next one.
    pub kept_outside: bool,
}

impl Passed {
    /// Takes what systemd has passed in: the socket named `admin`, or on the admin port of the file, is for operators,
    /// all others are for clients.
    ///
    /// # Errors
    /// [`SocketError::Passed`], [`SocketError::TooMany`].
    pub fn from_environment(fixed: &Fixed) -> Result<Passed, SocketError> {
        let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
        let mut names = names.split(':');
        let mut fds = ListenFd::from_env();
        if fds.len() > limits::PASSED_SOCKETS {
            return Err(SocketError::TooMany(fds.len()));
        }
        let mut passed = Passed { kept_outside: fds.len() > 0, ..Passed::default() };
        for number in 0..fds.len() {
            let unusable = |source| SocketError::Passed { number, source };
            let named_admin = names.next() == Some(ADMIN);
            let Some(listener) = fds.take_tcp_listener(number).map_err(unusable)? else { continue };
            // The kernel says so itself: a socket that does not listen accepts nothing.
            let listens = socket2::SockRef::from(&listener).is_listener().map_err(unusable)?;
            if !listens {
                return Err(unusable(io::Error::other("it does not listen")));
            }
            listener.set_nonblocking(true).map_err(unusable)?;
            let port = listener.local_addr().map_err(unusable)?.port();
            if named_admin || port == fixed.admin_listen.port() {
                passed.admin = Some(listener);
            } else {
                passed.server.push(listener);
            }
        }
        Ok(passed)
    }
}

/// Binds what was not passed in.
///
/// # Errors
/// [`SocketError::Bind`].
pub fn open(fixed: &Fixed, passed: Passed) -> Result<Sockets, SocketError> {
    let bind_error = |address, key| move |source| SocketError::Bind { address, key, source };
    let is_passed = !passed.server.is_empty();
    let server = match is_passed {
        true => passed.server,
        false => listen::bind(fixed.listen, fixed.threads).map_err(bind_error(fixed.listen, "server.listen"))?,
    };
    let admin_error = bind_error(fixed.admin_listen, "admin.listen");
    let admin = match passed.admin {
        Some(admin) => {
            let address = admin.local_addr().map_err(admin_error)?;
            if fixed.admin_listen.ip().is_loopback() && !address.ip().is_loopback() {
                return Err(SocketError::AdminExposed(address));
            }
            note_difference(&admin, fixed.admin_listen, "admin.listen");
            admin
        }
        None => TcpListener::bind(fixed.admin_listen)
            .and_then(|admin| admin.set_nonblocking(true).map(|()| admin))
            .map_err(admin_error)?,
    };
    if is_passed {
        server.iter().for_each(|listener| note_difference(listener, fixed.listen, "server.listen"));
    }
    Ok(Sockets { server, admin, kept_outside: passed.kept_outside })
}

fn note_difference(listener: &TcpListener, configured: SocketAddr, key: &'static str) {
    let Ok(address) = listener.local_addr() else { return };
    // `ListenStream=8080` is all addresses of both families, as `0.0.0.0` means to be.
    let same_ip =
        address.ip() == configured.ip() || (address.ip().is_unspecified() && configured.ip().is_unspecified());
    let differs = !same_ip || (configured.port() != 0 && address.port() != configured.port());
    if differs {
        tracing::warn!(%address, %configured, key, "the socket that was passed in is listened on, not the file's address");
    }
}
