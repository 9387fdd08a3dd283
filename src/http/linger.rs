//! The end of a client's connection: what it still sends is read for a moment, so that the kernel does not answer with
//! a reset that takes our last answer away (RFC 9112, 9.6). Bounded in time and bytes.

use std::cell::Cell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

use crate::http::socket::Socket;
use crate::limits;

/// How much longer a closed connection is read.
#[derive(Debug)]
pub struct Linger {
    deadline: Pin<Box<Sleep>>,
    bytes_left: usize,
}

impl Linger {
    /// Shuts a socket down, once, then reads and forgets what still comes.
    pub fn poll(linger: &mut Option<Linger>, socket: &mut Socket, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if linger.is_none() {
            ready!(Pin::new(&mut *socket).poll_shutdown(cx))?;
        }
        let linger = linger.get_or_insert_with(|| Linger {
            deadline: Box::pin(sleep_until(Instant::now() + limits::LINGER)),
            bytes_left: limits::LINGER_BYTES,
        });
        let mut scrap = [std::mem::MaybeUninit::uninit(); 4096];
        while linger.bytes_left > 0 {
            let mut buf = ReadBuf::uninit(&mut scrap);
            match Pin::new(&mut *socket).poll_read(cx, &mut buf) {
                Poll::Ready(Ok(())) if !buf.filled().is_empty() => {
                    linger.bytes_left = linger.bytes_left.saturating_sub(buf.filled().len());
                }
                Poll::Ready(_) => return Poll::Ready(Ok(())),
                Poll::Pending => return linger.deadline.as_mut().poll(cx).map(Ok),
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// A client's socket that lingers when it is shut down and notes when bytes moved, and is else as it is.
#[derive(Debug)]
pub struct Lingering {
    socket: Socket,
    linger: Option<Linger>,
    moved: Rc<Cell<Instant>>,
}

impl Lingering {
    /// Wraps a client's socket; `moved` is when it last sent or took a byte.
    pub fn new(socket: Socket, moved: Rc<Cell<Instant>>) -> Lingering {
        Lingering { socket, linger: None, moved }
    }

    fn note_write(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(1..)) = written {
            self.moved.set(Instant::now());
        }
        written
    }
}

impl AsyncRead for Lingering {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.socket).poll_read(cx, buf))?;
        if buf.filled().len() > before {
            self.moved.set(Instant::now());
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Lingering {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write(cx, buf);
        self.note_write(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write_vectored(cx, bufs);
        self.note_write(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Lingering { socket, linger, .. } = &mut *self;
        Linger::poll(linger, socket, cx)
    }
}
