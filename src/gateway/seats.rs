//! Places for client connections: how many there are in all, and how many one address may take.
//!
//! Both are counted over all threads. An IPv6 client counts by its /64: whoever has one address there has them all.

use std::collections::HashMap;
use std::collections::hash_map::{Entry, RandomState};
use std::hash::BuildHasher;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use crate::gateway::core::Gateway;
use crate::limits;

/// Locks over which addresses are spread, so that threads that accept rarely wait for each other.
const SHARDS: usize = 16;

/// The places that are taken.
#[derive(Debug, Default)]
pub struct Seats {
    taken: AtomicUsize,
    /// Requests that share a connection of HTTP/2, the first of each not counted: they take places of connections.
    shared: AtomicUsize,
    /// As many as there are descriptors for; 0: it was not asked.
    most: AtomicUsize,
    hasher: RandomState,
    by_address: [Mutex<HashMap<Neighbourhood, usize>>; SHARDS],
}

/// Addresses that count as one client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Neighbourhood {
    V4(u32),
    /// The upper half of an address: what a provider hands out at the least.
    V6(u64),
}

impl Neighbourhood {
    fn of(address: IpAddr) -> Neighbourhood {
        match address.to_canonical() {
            IpAddr::V4(address) => Neighbourhood::V4(address.to_bits()),
            IpAddr::V6(address) => Neighbourhood::V6((address.to_bits() >> 64) as u64),
        }
    }
}

impl Seats {
    /// Says how many connections there are descriptors for, whatever the file allows.
    pub fn bound_by_descriptors(&self, most: usize) {
        self.most.store(most.max(1), Ordering::Relaxed);
    }

    fn bound(&self, limit: usize) -> usize {
        match self.most.load(Ordering::Relaxed) {
            0 => limit,
            most => limit.min(most),
        }
    }

    fn shard(&self, who: &Neighbourhood) -> &Mutex<HashMap<Neighbourhood, usize>> {
        &self.by_address[self.hasher.hash_one(who) as usize % SHARDS]
    }

    /// Counts one more of this address; returns how many it has now.
    fn add(&self, who: Neighbourhood) -> usize {
        let mut counts = self.shard(&who).lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(who).or_default();
        *count += 1;
        *count
    }

    fn remove(&self, who: Neighbourhood) {
        let mut counts = self.shard(&who).lock().unwrap_or_else(PoisonError::into_inner);
        if let Entry::Occupied(mut entry) = counts.entry(who) {
            *entry.get_mut() -= 1;
            if *entry.get() == 0 {
                entry.remove();
            }
        }
    }
}

/// A place of one connection, given back when it ends.
#[derive(Debug)]
pub struct Seat {
    gateway: Arc<Gateway>,
    who: Option<Neighbourhood>,
}

impl Seat {
    /// Takes a place; `None` when `limit` connections are open, or as many as there are descriptors for.
    pub fn take(gateway: &Arc<Gateway>, limit: usize) -> Option<Seat> {
        let seats = &gateway.seats;
        let taken = seats.taken.fetch_add(1, Ordering::Relaxed) + seats.shared.load(Ordering::Relaxed);
        gateway.metrics.connections_open.inc();
        let seat = Seat { gateway: gateway.clone(), who: None };
        (taken < seats.bound(limit)).then_some(seat)
    }

    /// Says whose place it is; false when that client has more than `limit` then. Counted without a limit, too: a
    /// reload may set one.
    pub fn name(&mut self, address: IpAddr, limit: Option<usize>) -> bool {
        let who = Neighbourhood::of(address);
        self.who = Some(who);
        let count = self.gateway.seats.add(who);
        limit.is_none_or(|limit| count <= limit)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if let Some(who) = self.who {
            self.gateway.seats.remove(who);
        }
        self.gateway.seats.taken.fetch_sub(1, Ordering::Relaxed);
        self.gateway.metrics.connections_open.dec();
    }
}

/// A place under `limits.connections` for a further request on a connection of HTTP/2: every request may need a
/// connection to a backend.
#[derive(Debug)]
pub struct SharedSeat(Arc<Gateway>);

impl SharedSeat {
    /// Takes a place; `None` when connections and such requests fill the `limit`.
    pub fn take(gateway: &Arc<Gateway>, limit: usize) -> Option<SharedSeat> {
        let seats = &gateway.seats;
        let taken = seats.shared.fetch_add(1, Ordering::Relaxed) + seats.taken.load(Ordering::Relaxed);
        let seat = SharedSeat(gateway.clone());
        (taken < seats.bound(limit)).then_some(seat)
    }
}

impl Drop for SharedSeat {
    fn drop(&mut self) {
        self.0.seats.shared.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Why a connection is not served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unseated {
    /// `limits.connections` are open.
    Full,
    /// Its address has `limits.connections_per_address`.
    Address,
    /// It should have begun with a PROXY header of a trusted proxy.
    ProxyHeader,
}

impl Unseated {
    /// Returns the word in logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Unseated::Full => "connections",
            Unseated::Address => "connections_per_address",
            Unseated::ProxyHeader => "proxy_protocol",
        }
    }
}

/// Counts connections that are not served, and tells the log of them now and then: a flood must not become one of lines.
#[derive(Debug)]
pub struct Turned {
    began: Instant,
    kinds: [Told; 3],
    failures: Told,
}

#[derive(Debug, Default)]
struct Told {
    untold: AtomicU64,
    /// Milliseconds since `began` at which the log may be told again.
    next: AtomicU64,
}

impl Default for Turned {
    fn default() -> Turned {
        Turned { began: Instant::now(), kinds: Default::default(), failures: Told::default() }
    }
}

impl Turned {
    /// Counts one; every [`limits::REFUSED_TOLD`] the log is told how many there were, and of the last one's address.
    pub fn note(&self, gateway: &Gateway, why: Unseated, client: IpAddr) {
        gateway.metrics.connections_refused.with_label_values(&[why.as_str()]).inc();
        if let Some(refused) = self.tell(&self.kinds[why as usize]) {
            tracing::warn!(reason = why.as_str(), refused, %client, "connections are refused");
        }
    }

    /// Counts an accept that failed, and tells the log as seldom: it is tried again many times a second.
    pub fn note_failure(&self, error: &std::io::Error) {
        if let Some(times) = self.tell(&self.failures) {
            tracing::warn!(%error, times, "connections cannot be accepted");
        }
    }

    /// Counts one; returns how many there were if the log is to be told.
    fn tell(&self, told: &Told) -> Option<u64> {
        told.untold.fetch_add(1, Ordering::Relaxed);
        let now = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let next = told.next.load(Ordering::Relaxed);
        let later = now.saturating_add(limits::REFUSED_TOLD.as_millis() as u64);
        let is_time =
            now >= next && told.next.compare_exchange(next, later, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        is_time.then(|| told.untold.swap(0, Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(seats: &Seats) -> usize {
        seats.by_address.iter().map(|shard| shard.lock().unwrap().len()).sum()
    }

    #[test]
    fn an_address_is_counted_up_and_down_and_forgotten() {
        let seats = Seats::default();
        let who = |text: &str| Neighbourhood::of(text.parse().unwrap());
        assert_eq!([seats.add(who("10.0.0.1")), seats.add(who("10.0.0.2")), seats.add(who("10.0.0.1"))], [1, 1, 2]);
        seats.remove(who("10.0.0.1"));
        assert_eq!(seats.add(who("::ffff:10.0.0.1")), 2, "IPv4 that comes as IPv6 is the same client");
        for _ in 0..2 {
            seats.remove(who("10.0.0.1"));
        }
        assert_eq!(counts(&seats), 1);
        seats.remove(who("10.0.0.2"));
        assert_eq!(counts(&seats), 0);
    }

    #[test]
    fn ipv6_counts_by_its_network() {
        let who = |text: &str| Neighbourhood::of(text.parse().unwrap());
        assert_eq!(who("2001:db8:1:2::1"), who("2001:db8:1:2:ffff:ffff:ffff:ffff"));
        assert_ne!(who("2001:db8:1:2::1"), who("2001:db8:1:3::1"));
    }
}
