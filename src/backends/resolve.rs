//! The addresses of backends' names: looked up on threads of their own, one look-up of a name at a time.
//!
//! The system's resolver is asked, since it alone knows hosts files, search domains and name service modules as the
//! machine's owner set them up. It does not say how long an answer holds; so a name in use is asked for again every
//! [`limits::DNS_FRESH`], and the resolver's own cache sees to the record's TTL. While look-ups fail the last good
//! addresses stay.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::timeout;

use crate::limits;

/// All names in use, and the threads that look them up.
#[derive(Debug)]
pub struct Resolver {
    names: Mutex<HashMap<Box<str>, Arc<Name>>>,
    asks: SyncSender<Arc<Name>>,
}

/// One name with what is known of it.
pub struct Name {
    host: Box<str>,
    known: watch::Sender<Known>,
    asks: SyncSender<Arc<Name>>,
}

#[derive(Debug, Default)]
struct Known {
    /// The last good addresses, port 0, in the resolver's order.
    addresses: Arc<[SocketAddr]>,
    /// How often they have become others.
    changes: u64,
    /// The last answer's time, good or not.
    answered: Option<Instant>,
    /// The last answer's failure.
    failure: Option<Arc<io::Error>>,
    /// When the look-up that is under way was asked for.
    asked: Option<Instant>,
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Name").field("host", &self.host).finish_non_exhaustive()
    }
}

impl Resolver {
    /// Starts the threads that ask the system; they end with the value.
    ///
    /// # Panics
    /// When the system gives no thread: start-up only.
    pub fn start() -> Resolver {
        Resolver::asking(|host| (host, 0).to_socket_addrs().map(Iterator::collect))
    }

    fn asking(look_up: impl Fn(&str) -> io::Result<Vec<SocketAddr>> + Clone + Send + 'static) -> Resolver {
        let (asks, queue) = mpsc::sync_channel::<Arc<Name>>(limits::DNS_QUEUE);
        let queue = Arc::new(Mutex::new(queue));
        for _ in 0..limits::DNS_THREADS {
            let (queue, look_up) = (Arc::clone(&queue), look_up.clone());
            let run = move || {
                while let Some(name) = next(&queue) {
                    name.tell(look_up(&name.host));
                }
            };
            std::thread::Builder::new().name("resolve".to_owned()).spawn(run).expect("a thread at start-up");
        }
        Resolver { names: Mutex::default(), asks }
    }

    /// Returns a host's name, to be asked for its addresses; `None` for an address.
    pub fn name(&self, host: &str) -> Option<Arc<Name>> {
        if host.parse::<IpAddr>().is_ok() {
            return None;
        }
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(name) = names.get(host) {
            return Some(Arc::clone(name));
        }
        // Names that the file had before: nobody holds them any more.
        names.retain(|_, name| Arc::strong_count(name) > 1);
        let name = Arc::new(Name { host: host.into(), known: watch::Sender::default(), asks: self.asks.clone() });
        names.insert(host.into(), Arc::clone(&name));
        Some(name)
    }
}

fn next(queue: &Mutex<Receiver<Arc<Name>>>) -> Option<Arc<Name>> {
    queue.lock().unwrap_or_else(PoisonError::into_inner).recv().ok()
}

impl Name {
    /// Returns the addresses: those that are known if they are fresh, else it waits; with last good ones just for
    /// [`limits::DNS_PATIENCE`], without any as long as the caller does.
    ///
    /// # Errors
    /// The resolver's, when there never was an address.
    pub async fn resolve(self: &Arc<Name>, now: Instant) -> io::Result<Arc<[SocketAddr]>> {
        let mut answers = self.known.subscribe();
        self.touch(now);
        let patience = self.known.borrow().patience(now);
        if !patience.is_zero() {
            // Late, the last good ones have to do.
            let _ = timeout(patience, answers.changed()).await;
        }
        self.known.borrow().result()
    }

    /// Notes that the name is in use: asks for it in the background if what is known is not fresh.
    pub fn touch(self: &Arc<Name>, now: Instant) {
        if !self.known.borrow().is_due(now) {
            return;
        }
        let mut is_due = false;
        self.known.send_if_modified(|known| {
            // Another thread may have been quicker.
            is_due = known.is_due(now);
            if is_due {
                known.asked = Some(now);
            }
            false // Nothing that anybody waits for.
        });
        if is_due && self.asks.try_send(Arc::clone(self)).is_err() {
            self.tell(Err(io::Error::other("too many look-ups are under way")));
        }
    }

    /// Returns a number that changes with the set of addresses.
    pub fn changes(&self) -> u64 {
        self.known.borrow().changes
    }

    /// Says whether the name has this address, as far as is known.
    pub fn has(&self, address: IpAddr) -> bool {
        self.known.borrow().addresses.iter().any(|known| known.ip() == address)
    }

    fn tell(&self, answer: io::Result<Vec<SocketAddr>>) {
        let host = &*self.host;
        self.known.send_modify(|known| {
            known.asked = None;
            known.answered = Some(Instant::now());
            let found = match answer {
                Ok(found) if found.is_empty() => Err(io::Error::new(io::ErrorKind::NotFound, "name has no address")),
                answer => answer,
            };
            match found {
                Ok(found) => {
                    if !same_set(&found, &known.addresses) {
                        if known.changes > 0 {
                            tracing::info!(host, addresses = ?ips(&found), "name has other addresses");
                        }
                        known.changes += 1;
                    }
                    known.addresses = found.into();
                    known.failure = None;
                }
                Err(error) => {
                    if known.failure.is_none() && !known.addresses.is_empty() {
                        let addresses = ips(&known.addresses);
                        tracing::warn!(host, %error, ?addresses, "name not resolved, its last addresses stay");
                    }
                    known.failure = Some(Arc::new(error));
                }
            }
        });
    }
}

impl Known {
    fn is_fresh(&self, now: Instant) -> bool {
        self.answered.is_some_and(|at| now.saturating_duration_since(at) < limits::DNS_FRESH)
    }

    fn is_due(&self, now: Instant) -> bool {
        self.asked.is_none() && !self.is_fresh(now)
    }

    /// How long a look-up may be waited for. One that hangs makes just those wait who came at its beginning.
    fn patience(&self, now: Instant) -> Duration {
        match self.asked {
            None => Duration::ZERO,
            Some(_) if self.addresses.is_empty() => Duration::MAX,
            Some(asked) => limits::DNS_PATIENCE.saturating_sub(now.saturating_duration_since(asked)),
        }
    }

    fn result(&self) -> io::Result<Arc<[SocketAddr]>> {
        match &self.failure {
            _ if !self.addresses.is_empty() => Ok(Arc::clone(&self.addresses)),
            Some(failure) => Err(io::Error::new(failure.kind(), Arc::clone(failure))),
            None => Err(io::ErrorKind::TimedOut.into()),
        }
    }
}

fn ips(addresses: &[SocketAddr]) -> Vec<IpAddr> {
    addresses.iter().map(SocketAddr::ip).collect()
}

/// Resolvers turn the order round: that is no change.
fn same_set(some: &[SocketAddr], others: &[SocketAddr]) -> bool {
    some.iter().all(|it| others.contains(it)) && others.iter().all(|it| some.contains(it))
}

#[cfg(test)]
mod tests;
