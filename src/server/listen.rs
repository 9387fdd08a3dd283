//! Listening sockets: bound here or passed in, one per thread where the kernel can spread connections.

use std::io;
use std::net::{SocketAddr, TcpListener};

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

/// Lets no new handshake begin on a listener, while those under way are completed: without it, a connection that
/// comes between the last `accept` and the `close` would be reset. A client that is kept waiting sends its SYN again
/// and is refused then. Where the kernel has no such filter the listener stays as it was.
pub fn begin_no_more(listener: &tokio::net::TcpListener) {
    // Load byte 13 of the TCP header, the flags; with SYN (2) drop the packet, else keep it whole.
    #[cfg(target_os = "linux")]
    let _ = socket2::SockRef::from(listener).attach_filter(&[
        socket2::SockFilter::new(0x30, 0, 0, 13),
        socket2::SockFilter::new(0x45, 0, 1, 0x02),
        socket2::SockFilter::new(0x06, 0, 0, 0),
        socket2::SockFilter::new(0x06, 0, 0, u32::MAX),
    ]);
    #[cfg(not(target_os = "linux"))]
    let _ = listener;
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
}
