//! A WebSocket between client and backend, once both have agreed to it: bytes both ways, in next to no memory.
//!
//! An idle tunnel holds no buffer: every read goes into one buffer of its thread, and only what a slow reader
//! leaves over is kept. When the gateway stops, both sides get a Close 1001 between two frames.

use std::cell::RefCell;
use std::collections::hash_map::RandomState;
use std::future::Future;
use std::hash::BuildHasher;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use hyper::upgrade::{Parts, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

use crate::http::frames::{FrameTracker, GOING_AWAY, going_away_masked};
use crate::http::inbound::Inbound;
use crate::http::socket::Socket;
use crate::limits;

thread_local! {
    static SCRATCH: RefCell<Box<[MaybeUninit<u8>; 64 * 1024]>> = RefCell::new(Box::new([MaybeUninit::uninit(); 64 * 1024]));
}

/// Wakes all tunnels of a thread when the gateway stops.
#[derive(Debug, Default)]
pub struct Tunnels {
    state: RefCell<TunnelsState>,
}

#[derive(Debug, Default)]
struct TunnelsState {
    closing: bool,
    wakers: Vec<Option<Waker>>,
    free: Vec<usize>,
}

impl Tunnels {
    /// Tells every tunnel to send Close 1001 and end.
    pub fn close_all(&self) {
        let wakers: Vec<Waker> = {
            let mut state = self.state.borrow_mut();
            state.closing = true;
            state.wakers.iter().flatten().cloned().collect()
        };
        wakers.into_iter().for_each(Waker::wake);
    }

    fn join(&self) -> usize {
        let mut state = self.state.borrow_mut();
        if let Some(seat) = state.free.pop() {
            return seat;
        }
        state.wakers.push(None);
        state.wakers.len() - 1
    }

    /// Keeps the seat's waker up to date and says whether the gateway is stopping.
    fn attend(&self, seat: usize, waker: &Waker) -> bool {
        let mut state = self.state.borrow_mut();
        match &state.wakers[seat] {
            Some(known) if known.will_wake(waker) => {}
            _ => state.wakers[seat] = Some(waker.clone()),
        }
        state.closing
    }

    fn leave(&self, seat: usize) {
        let mut state = self.state.borrow_mut();
        state.wakers[seat] = None;
        state.free.push(seat);
    }
}

/// One direction: what is read here goes there.
#[derive(Debug, Default)]
struct Direction {
    frames: FrameTracker,
    /// What the receiving side has not taken yet.
    rest: Option<Box<Bytes>>,
    stage: Stage,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Stage {
    #[default]
    Open,
    /// Our Close frame is written or in `rest`, or the receiving side is gone: what still comes is thrown away.
    Closed,
    /// The sending side is done; the receiving side is to be told.
    Ending,
    Ended,
}

/// How one direction failed.
#[derive(Debug)]
enum Broke {
    /// The sending side is gone.
    Read(io::Error),
    /// The receiving side takes no more; what it said before may still be on its way to the other.
    Write(io::Error),
}

/// A running tunnel; it ends when both directions have ended, or a moment after one has.
#[derive(Debug)]
pub struct Tunnel {
    client: Socket,
    backend: Socket,
    upstream: Direction,
    downstream: Direction,
    tunnels: Rc<Tunnels>,
    seat: usize,
    failed: Option<io::Error>,
    closing: Option<Pin<Box<Sleep>>>,
}

impl Tunnel {
    /// Joins two upgraded connections; `None` if one of them is not ours (which would be a bug).
    pub fn join(client: Upgraded, backend: Upgraded, tunnels: Rc<Tunnels>) -> Option<Tunnel> {
        let client: Parts<TokioIo<Inbound>> = client.downcast().ok()?;
        let backend: Parts<TokioIo<Socket>> = backend.downcast().ok()?;
        let seat = tunnels.join();
        let (socket, held) = client.io.into_inner().into_parts();
        let early = if held.is_empty() { client.read_buf } else { [client.read_buf, held].concat().into() };
        Some(Tunnel {
            client: socket,
            backend: backend.io.into_inner(),
            upstream: Direction::starting_with(early),
            downstream: Direction::starting_with(backend.read_buf),
            tunnels,
            seat,
            failed: None,
            closing: None,
        })
    }

    /// Asks both directions for a Close between two frames, where one is possible now.
    fn say_going_away(&mut self) {
        if self.downstream.may_close() {
            self.downstream.close_with(Bytes::from_static(&GOING_AWAY));
        }
        if self.upstream.may_close() {
            // Unpredictable enough for a mask: two bytes of payload that everybody knows.
            let mask = (RandomState::new().hash_one(self.seat) as u32).to_be_bytes();
            self.upstream.close_with(Bytes::copy_from_slice(&going_away_masked(mask)));
        }
    }
}

impl Direction {
    fn starting_with(read: Bytes) -> Direction {
        let mut direction = Direction::default();
        direction.frames.follow(&read);
        direction.rest = (!read.is_empty()).then(|| Box::new(read));
        direction
    }

    fn may_close(&self) -> bool {
        self.stage == Stage::Open && self.rest.is_none() && self.frames.at_boundary()
    }

    fn close_with(&mut self, frame: Bytes) {
        self.rest = Some(Box::new(frame));
        self.stage = Stage::Closed;
    }

    /// Throws away what comes from now on, so that the sender is read until it closes.
    fn discard(&mut self) {
        self.rest = None;
        if self.stage != Stage::Ended {
            self.stage = Stage::Closed;
        }
    }

    /// Relays for as long as there is something; when the gateway is `closing`, only to the end of a frame.
    fn poll(
        &mut self,
        from: &mut Socket,
        to: &mut Socket,
        closing: bool,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Broke>> {
        loop {
            if closing && self.may_close() {
                return Poll::Pending;
            }
            if let Some(rest) = &mut self.rest {
                while !rest.is_empty() {
                    match ready!(Pin::new(&mut *to).poll_write(cx, rest)) {
                        Ok(0) => return Poll::Ready(Err(Broke::Write(io::ErrorKind::WriteZero.into()))),
                        Ok(sent) => drop(rest.split_to(sent)),
                        Err(error) => return Poll::Ready(Err(Broke::Write(error))),
                    }
                }
                self.rest = None;
                if self.stage == Stage::Closed {
                    // Our Close is the last word: the peer sees it, then the end.
                    ready!(Pin::new(&mut *to).poll_shutdown(cx)).map_err(Broke::Write)?;
                }
            }
            match self.stage {
                Stage::Ended => return Poll::Ready(Ok(())),
                Stage::Ending => {
                    // A side that is gone already need not be told.
                    let _ = ready!(Pin::new(&mut *to).poll_shutdown(cx));
                    self.stage = Stage::Ended;
                }
                Stage::Open | Stage::Closed => {
                    if ready!(self.poll_relay(from, to, cx))? == 0 {
                        self.stage = if self.stage == Stage::Closed { Stage::Ended } else { Stage::Ending };
                    }
                }
            }
        }
    }

    /// Reads once and hands on; returns the bytes read, 0 at the end.
    fn poll_relay(&mut self, from: &mut Socket, to: &mut Socket, cx: &mut Context<'_>) -> Poll<Result<usize, Broke>> {
        SCRATCH.with_borrow_mut(|scratch| {
            let mut buf = ReadBuf::uninit(&mut scratch[..]);
            match Pin::new(&mut *from).poll_read(cx, &mut buf) {
                Poll::Pending => {
                    if self.stage == Stage::Open {
                        ready!(Pin::new(&mut *to).poll_flush(cx)).map_err(Broke::Write)?;
                    }
                    return Poll::Pending;
                }
                Poll::Ready(read) => read.map_err(Broke::Read)?,
            }
            let read = buf.filled();
            if self.stage == Stage::Closed {
                return Poll::Ready(Ok(read.len()));
            }
            self.frames.follow(read);
            let mut sent = 0;
            while sent < read.len() {
                match Pin::new(&mut *to).poll_write(cx, &read[sent..]) {
                    Poll::Ready(Ok(0)) => return Poll::Ready(Err(Broke::Write(io::ErrorKind::WriteZero.into()))),
                    Poll::Ready(written) => sent += written.map_err(Broke::Write)?,
                    Poll::Pending => {
                        self.rest = Some(Box::new(Bytes::copy_from_slice(&read[sent..])));
                        break;
                    }
                }
            }
            Poll::Ready(Ok(read.len()))
        })
    }
}

impl Future for Tunnel {
    type Output = io::Result<()>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let closing = this.tunnels.attend(this.seat, cx.waker());
        loop {
            if closing {
                this.say_going_away();
            }
            let upstream = this.upstream.poll(&mut this.client, &mut this.backend, closing, cx);
            if let Poll::Ready(Err(broke)) = upstream {
                note(broke, &mut this.upstream, &mut this.downstream, &mut this.failed);
                continue;
            }
            let downstream = this.downstream.poll(&mut this.backend, &mut this.client, closing, cx);
            if let Poll::Ready(Err(broke)) = downstream {
                note(broke, &mut this.downstream, &mut this.upstream, &mut this.failed);
                continue;
            }
            if upstream.is_ready() && downstream.is_ready() {
                return Poll::Ready(this.failed.take().map_or(Ok(()), Err));
            }
            // A frame may just have ended: then a Close fits now.
            if !(closing && (this.upstream.may_close() || this.downstream.may_close())) {
                break;
            }
        }
        if this.upstream.stage == Stage::Open && this.downstream.stage == Stage::Open {
            return Poll::Pending;
        }
        // One side is done: the other gets a moment to say goodbye, then the tunnel is cut.
        let linger = this.closing.get_or_insert_with(|| Box::pin(sleep(limits::LINGER)));
        ready!(linger.as_mut().poll(cx));
        Poll::Ready(this.failed.take().map_or(Ok(()), Err))
    }
}

/// Ends what cannot go on when one direction has failed: the last message of a side that closed is not lost because
/// the other side was talking.
fn note(broke: Broke, direction: &mut Direction, reverse: &mut Direction, failed: &mut Option<io::Error>) {
    let error = match broke {
        Broke::Read(error) => {
            direction.stage = if direction.stage == Stage::Closed { Stage::Ended } else { Stage::Ending };
            reverse.discard();
            error
        }
        Broke::Write(error) => {
            direction.discard();
            error
        }
    };
    failed.get_or_insert(error);
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        self.tunnels.leave(self.seat);
    }
}
