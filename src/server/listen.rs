//! Listening sockets: bound here or passed in, one per thread where the kernel can spread connections.

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::task::Poll;

use socket2::{Domain, Protocol, Socket, Type};

/// Connections that the kernel queues per listener while a thread is busy.
const BACKLOG: i32 = 1024;

/// Binds one listener per thread on the same address; port 0 is chosen once.
///
/// A socket without `SO_REUSEPORT` is bound first: it fails when another process listens there already, which
/// `SO_REUSEPORT` alone would let pass.
///
/// # Errors
/// What the kernel says: the port is taken, the address is not ours, no right to bind.
pub fn bind(address: SocketAddr, threads: usize) -> io::Result<Vec<TcpListener>> {
    let probe = socket(address)?;
    probe.bind(&address.into())?;
    let address = match address.port() {
        0 => probe.local_addr()?.as_socket().unwrap_or(address),
        _ => address,
    };
    drop(probe);
    (0..threads)
        .map(|_| {
            let socket = socket(address)?;
            socket.set_reuse_port(true)?;
            socket.bind(&address.into())?;
            socket.listen(BACKLOG)?;
            Ok(socket.into())
        })
        .collect()
}

/// Gives each of `threads` threads listeners to accept from, so that every listener has a thread and every thread a
/// listener: of sockets that were passed in there may be more, or fewer.
///
/// # Errors
/// No descriptor is free.
pub fn share(listeners: Vec<TcpListener>, threads: usize) -> io::Result<Vec<Vec<TcpListener>>> {
    let mut shares: Vec<Vec<TcpListener>> = (0..threads).map(|_| Vec::new()).collect();
    for thread in listeners.len()..threads {
        shares[thread].push(listeners[thread % listeners.len()].try_clone()?);
    }
    for (number, listener) in listeners.into_iter().enumerate() {
        shares[number % threads].push(listener);
    }
    Ok(shares)
}

/// The listeners of one thread.
#[derive(Debug)]
pub struct Listeners {
    all: Vec<tokio::net::TcpListener>,
    /// The one that is asked first, so that none has to wait for ever.
    first: Cell<usize>,
}

impl Listeners {
    /// Takes non-blocking listeners; to be called on the thread's runtime.
    ///
    /// # Errors
    /// The runtime cannot watch a socket.
    pub fn new(listeners: Vec<TcpListener>) -> io::Result<Listeners> {
        let all: io::Result<_> = listeners.into_iter().map(tokio::net::TcpListener::from_std).collect();
        Ok(Listeners { all: all?, first: Cell::new(0) })
    }

    /// Accepts the next connection of any of them; one task at a time.
    ///
    /// # Errors
    /// What the kernel says: most likely that no descriptor is free.
    pub async fn accept(&self) -> io::Result<(tokio::net::TcpStream, SocketAddr)> {
        poll_fn(|cx| {
            let (count, first) = (self.all.len(), self.first.get());
            for at in (0..count).map(|offset| (first + offset) % count) {
                if let Poll::Ready(accepted) = self.all[at].poll_accept(cx) {
                    self.first.set((at + 1) % count);
                    return Poll::Ready(accepted);
                }
            }
            Poll::Pending
        })
        .await
    }

    /// Lets no new handshake begin, while those under way are completed: without it, a connection that comes between the
    /// last `accept` and the `close` would be reset. A client that is kept waiting sends its SYN again and is refused
    /// then. Where the kernel has no such filter the listeners stay as they were.
    ///
    /// Not for sockets that another process goes on accepting from: the filter is the socket's, not the process's.
    pub fn begin_no_more(&self) {
        // Load byte 13 of the TCP header, the flags; with SYN (2) drop the packet, else keep it whole.
        #[cfg(target_os = "linux")]
        for listener in &self.all {
            let _ = socket2::SockRef::from(listener).attach_filter(&[
                socket2::SockFilter::new(0x30, 0, 0, 13),
                socket2::SockFilter::new(0x45, 0, 1, 0x02),
                socket2::SockFilter::new(0x06, 0, 0, 0),
                socket2::SockFilter::new(0x06, 0, 0, u32::MAX),
            ]);
        }
    }
}

fn socket(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_refused() {
        let address: SocketAddr = "127.0.0.1:0".parse().expect("an address");
        let first = bind(address, 2).expect("a free port");
        let taken = first[0].local_addr().expect("an address");
        assert_eq!(taken, first[1].local_addr().expect("an address"));
        assert_eq!(bind(taken, 1).expect_err("taken").kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn every_listener_has_a_thread_and_every_thread_a_listener() {
        for (passed, threads) in [(1, 1), (1, 3), (3, 1), (3, 2), (2, 5), (4, 4)] {
            let listeners: Vec<_> =
                (0..passed).map(|_| TcpListener::bind("127.0.0.1:0").expect("a free port")).collect();
            let mut given: Vec<_> = listeners.iter().map(|it| it.local_addr().expect("an address")).collect();
            let shares = share(listeners, threads).expect("descriptors");
            assert_eq!(shares.len(), threads);
            assert!(shares.iter().all(|share| !share.is_empty()), "{passed} for {threads}");
            let mut served: Vec<_> = shares.iter().flatten().map(|it| it.local_addr().expect("an address")).collect();
            assert_eq!(served.len(), passed.max(threads), "{passed} for {threads}");
            served.sort_unstable();
            served.dedup();
            given.sort_unstable();
            assert_eq!(served, given, "{passed} for {threads}");
        }
    }
}
