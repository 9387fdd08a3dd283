//! How the process hands over to a new one, and takes over from an old one.

use std::future::pending;
use std::io;
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::task::{JoinHandle, spawn_blocking};

use crate::gateway::core::Gateway;
use crate::gateway::pass::chain;
use crate::server::sockets::Sockets;
use crate::server::upgrade::{Executable, Handed, Predecessor, Successor, TakeOverError, UpgradeError, prepare};
use crate::server::{listen, notify};

/// What a successor would be given, and how far it is.
#[derive(Debug)]
pub(super) struct HandOver {
    executable: Executable,
    sockets: Option<Kept>,
    kept_outside: bool,
    passed_on: Arc<AtomicBool>,
    preparing: Option<JoinHandle<Result<Successor, UpgradeError>>>,
    /// Open until this process ends: so the successor knows.
    line: Option<UnixStream>,
}

/// Second handles on the sockets. As long as they are there, a listener that a thread closes goes on listening.
#[derive(Debug)]
struct Kept {
    server: Vec<TcpListener>,
    admin: TcpListener,
}

/// Sockets as they are used: for operators, and for each thread.
type InUse = (TcpListener, Vec<Vec<TcpListener>>);

impl HandOver {
    /// Keeps handles on all sockets, and gives each of `threads` threads its own.
    pub(super) fn new(sockets: Sockets, passed_on: Arc<AtomicBool>, threads: usize) -> io::Result<(HandOver, InUse)> {
        let server: io::Result<_> = sockets.server.iter().map(TcpListener::try_clone).collect();
        let kept = Kept { server: server?, admin: sockets.admin.try_clone()? };
        let hand_over = HandOver {
            executable: Executable::of_this_process(),
            sockets: Some(kept),
            kept_outside: sockets.kept_outside,
            passed_on,
            preparing: None,
            line: None,
        };
        Ok((hand_over, (sockets.admin, listen::share(sockets.server, threads)?)))
    }

    /// Starts a new process that could take over; [`HandOver::prepared`] says what became of it.
    pub(super) fn begin(&mut self, gateway: &Gateway) {
        if self.preparing.is_some() {
            tracing::warn!("an upgrade is under way already");
            return;
        }
        match self.handed(gateway) {
            Ok(handed) => {
                tracing::info!("upgrade: a new process is started");
                let (executable, store_is_usable) = (self.executable.clone(), gateway.jobs.health().is_ok());
                self.preparing = Some(spawn_blocking(move || prepare(&executable, &handed, store_is_usable)));
            }
            Err(error) => tracing::error!(%error, "no upgrade"),
        }
    }

    fn handed(&self, gateway: &Gateway) -> io::Result<Handed> {
        let Some(Kept { server, admin }) = &self.sockets else { return Err(io::Error::other("going down")) };
        let server: io::Result<_> = server.iter().map(TcpListener::try_clone).collect();
        let (server, admin) = (server?, admin.try_clone()?);
        Ok(Handed { server, admin, kept_outside: self.kept_outside, lock: gateway.jobs.pass_on()? })
    }

    /// Waits for the new process to be ready, for ever if there is none, and lets it take over; says whether it has.
    pub(super) async fn prepared(&mut self, gateway: &Gateway) -> bool {
        let Some(preparing) = &mut self.preparing else { return pending().await };
        let prepared = preparing.await;
        self.preparing = None;
        match self.go(prepared.unwrap_or_else(|_| Err(UpgradeError::Pass(io::Error::other("cut off"))))).await {
            Ok(pid) => {
                tracing::info!(pid, "upgrade: the new process serves, this one drains");
                true
            }
            Err(error) => {
                gateway.jobs.alone();
                tracing::error!(error = chain(&error), "upgrade failed, this process serves on");
                false
            }
        }
    }

    async fn go(&mut self, prepared: Result<Successor, UpgradeError>) -> Result<u32, UpgradeError> {
        let successor = prepared?;
        let pid = successor.pid();
        // Before it accepts: should this one be told to stop right now, it leaves the sockets as they are.
        self.passed_on.store(true, Ordering::Release);
        let went = spawn_blocking(move || successor.go()).await;
        match went.unwrap_or_else(|_| Err(UpgradeError::NotServing(io::Error::other("cut off")))) {
            Ok(line) => {
                self.line = Some(line);
                notify::main_process(pid);
                Ok(pid)
            }
            Err(error) => {
                self.passed_on.store(self.kept_outside, Ordering::Release);
                Err(error)
            }
        }
    }

    /// Lets the kept sockets go, so that the threads' are the last of this process.
    pub(super) fn let_go(&mut self) {
        self.sockets = None;
    }
}

/// Waits to be told to serve in the other process's place.
pub(super) fn take_its_place(mut old: Predecessor, gateway: &Gateway) -> Result<Predecessor, TakeOverError> {
    old.wait_for_go(gateway.jobs.health().is_ok())?;
    Ok(old)
}

/// Tells the old process that this one serves, and takes note when that one has ended.
pub(super) fn serving(mut old: Predecessor, gateway: Arc<Gateway>) -> io::Result<()> {
    if let Err(error) = old.serving() {
        tracing::warn!(error = chain(&error), "the gateway that was taken over from has ended already");
    }
    let wait = move || {
        old.wait_for_end();
        gateway.jobs.alone();
        tracing::info!("upgrade: the old process has ended");
    };
    std::thread::Builder::new().name("predecessor".to_owned()).spawn(wait).map(|_| ())
}
