//! One type for every connection, plain or TLS, towards clients and towards backends.

use std::cell::RefCell;
use std::io::{self, ErrorKind, IoSlice};
use std::net::{IpAddr, Shutdown};
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use socket2::TcpKeepalive;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsStream;

/// Writes up to this many bytes are gathered and sent by one `send`: cheaper than `writev` for a head and a short body.
const GATHERED: usize = 4096;

/// A silent peer is asked after a minute, four times: a WebSocket whose client lost its network ends within two.
const KEEPALIVE: TcpKeepalive =
    TcpKeepalive::new().with_time(Duration::from_secs(60)).with_interval(Duration::from_secs(15)).with_retries(4);

thread_local! {
    static GATHER: RefCell<[u8; GATHERED]> = const { RefCell::new([0; GATHERED]) };
}

/// A TCP stream that a pool can look at while a connection task owns it.
#[derive(Debug)]
pub struct Tcp(Arc<TcpStream>);

/// Sees whether a peer has closed a connection, without keeping it open.
#[derive(Debug, Clone)]
pub struct Peek(Weak<TcpStream>);

impl Peek {
    /// Asks the kernel, not a cached readiness, whether the connection is open and silent.
    ///
    /// Bytes that nobody asked for count as closed: such a connection must not carry a request.
    pub fn is_quiet(&self) -> bool {
        let Some(stream) = self.0.upgrade() else { return false };
        let mut byte = [std::mem::MaybeUninit::uninit(); 1];
        let seen = socket2::SockRef::from(&*stream).peek(&mut byte);
        matches!(seen, Err(error) if error.kind() == ErrorKind::WouldBlock)
    }
}

impl Peek {
    /// Returns the peer's address; `None` for a connection that is gone.
    pub fn peer(&self) -> Option<IpAddr> {
        Some(self.0.upgrade()?.peer_addr().ok()?.ip())
    }

    /// Makes the end of the connection a reset: its peer must not take what it got for the whole.
    pub fn reset_on_close(&self) {
        if let Some(stream) = self.0.upgrade() {
            // It fails only on a connection that is gone already.
            let _ = socket2::SockRef::from(&*stream).set_linger(Some(std::time::Duration::ZERO));
        }
    }
}

impl Tcp {
    /// Takes a connected stream; small writes go out at once, and a peer that has vanished is noticed.
    pub fn new(stream: TcpStream) -> Tcp {
        // It fails only on a connection that is gone already, which the first read will tell.
        let _ = stream.set_nodelay(true);
        let _ = socket2::SockRef::from(&stream).set_tcp_keepalive(&KEEPALIVE);
        Tcp(Arc::new(stream))
    }

    /// Returns a look at this connection that does not keep it open.
    pub fn peek_handle(&self) -> Peek {
        Peek(Arc::downgrade(&self.0))
    }

    /// Forgets a readiness that a short read or write has used up, as tokio's own read path does.
    ///
    /// Sound with edge-triggered events: the driver runs on this thread, so no event can be lost in between.
    fn clear(&self, interest: Interest) {
        let _ = self.0.try_io(interest, || Err::<(), _>(ErrorKind::WouldBlock.into()));
    }

    fn poll_write_with(
        &self,
        cx: &mut Context<'_>,
        len: usize,
        write: impl Fn() -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.0.poll_write_ready(cx))?;
            match write() {
                Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
                Ok(sent) => {
                    if sent > 0 && sent < len {
                        self.clear(Interest::WRITABLE);
                    }
                    return Poll::Ready(Ok(sent));
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncRead for Tcp {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.0.poll_read_ready(cx))?;
            let room = buf.remaining();
            match self.0.try_read_buf(buf) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
                Ok(read) => {
                    if read > 0 && read < room {
                        self.clear(Interest::READABLE);
                    }
                    return Poll::Ready(Ok(()));
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncWrite for Tcp {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_with(cx, buf.len(), || self.0.try_write(buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let len: usize = bufs.iter().map(|buf| buf.len()).sum();
        if let [only] = bufs {
            return self.poll_write_with(cx, len, || self.0.try_write(only));
        }
        if len > GATHERED {
            return self.poll_write_with(cx, len, || self.0.try_write_vectored(bufs));
        }
        GATHER.with_borrow_mut(|gathered| {
            let mut end = 0;
            for buf in bufs {
                gathered[end..end + buf.len()].copy_from_slice(buf);
                end += buf.len();
            }
            self.poll_write_with(cx, len, || self.0.try_write(&gathered[..end]))
        })
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        match socket2::SockRef::from(&*self.0).shutdown(Shutdown::Write) {
            Err(error) if error.kind() != ErrorKind::NotConnected => Poll::Ready(Err(error)),
            _ => Poll::Ready(Ok(())),
        }
    }
}

/// A connection, plain or TLS.
#[derive(Debug)]
pub enum Socket {
    /// Plain TCP.
    Plain(Tcp),
    /// TLS over TCP, either end of it.
    Tls(Box<TlsStream<Tcp>>),
}

impl Socket {
    /// Returns `http` or `https`: what a URL for it begins with.
    pub fn scheme(&self) -> &'static str {
        match self {
            Socket::Plain(_) => "http",
            Socket::Tls(_) => "https",
        }
    }

    /// Says whether the TLS handshake came to HTTP/2 (RFC 9113, 3.2).
    pub fn is_http2(&self) -> bool {
        match self {
            Socket::Plain(_) => false,
            Socket::Tls(tls) => tls.get_ref().1.alpn_protocol() == Some(b"h2"),
        }
    }

    /// Returns a look at the connection below.
    pub fn peek_handle(&self) -> Peek {
        match self {
            Socket::Plain(tcp) => tcp.peek_handle(),
            Socket::Tls(tls) => tls.get_ref().0.peek_handle(),
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Socket::Plain(tcp) => Pin::new(tcp).poll_read(cx, buf),
            Socket::Tls(tls) => Pin::new(tls).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Socket::Plain(tcp) => Pin::new(tcp).poll_write(cx, buf),
            Socket::Tls(tls) => Pin::new(tls).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Socket::Plain(tcp) => Pin::new(tcp).poll_write_vectored(cx, bufs),
            Socket::Tls(tls) => Pin::new(tls).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Socket::Plain(tcp) => tcp.is_write_vectored(),
            Socket::Tls(tls) => tls.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Socket::Plain(tcp) => Pin::new(tcp).poll_flush(cx),
            Socket::Tls(tls) => Pin::new(tls).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Socket::Plain(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Socket::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
        }
    }
}
