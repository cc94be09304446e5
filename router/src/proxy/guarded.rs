//! A client's socket with a bound on the time that a request head may take to come, and on the time
//! that nothing of an answer is taken.
//!
//! hyper's own bound also runs while a connection lies idle between requests, and closing idle
//! connections after seconds would cost clients that keep them a request now and then. Here the
//! clock starts with the first byte of a head. Over HTTP/2 what comes between requests is no head;
//! there pings tell whether the client lives.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;

/// What the service and the socket of one connection know of each other.
#[derive(Debug, Default)]
pub(super) struct Heads {
    read: AtomicU64,
    busy: AtomicUsize,
}

/// A request is in hand while this lives.
#[derive(Debug)]
pub(super) struct Busy(Arc<Heads>);

impl Heads {
    /// A head was read.
    pub(super) fn begin(self: &Arc<Self>) -> Busy {
        self.read.fetch_add(1, Ordering::Relaxed);
        self.busy.fetch_add(1, Ordering::Relaxed);
        Busy(Arc::clone(self))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.busy.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The socket.
#[derive(Debug)]
pub(super) struct Guarded {
    stream: TcpStream,
    heads: Arc<Heads>,
    bounds: Bounds,
    /// Running since the first byte of the head after this many others.
    clock: Option<(u64, Pin<Box<Sleep>>)>,
    /// Running since the client took nothing of what is to be written.
    stall: Option<Pin<Box<Sleep>>>,
}

/// How long a client may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// From a head's first byte to its last; none: what comes is not heads alone.
    pub(super) head: Option<Duration>,
    /// To take the next part of an answer.
    pub(super) write: Duration,
}

impl Guarded {
    pub(super) fn new(stream: TcpStream, heads: Arc<Heads>, bounds: Bounds) -> Self {
        Self {
            stream,
            heads,
            bounds,
            clock: None,
            stall: None,
        }
    }

    /// What became of a write; an error where the client has taken nothing for too long.
    fn taken(
        &mut self,
        cx: &mut Context<'_>,
        polled: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if polled.is_ready() {
            self.stall = None;
            return polled;
        }
        let bound = self.bounds.write;
        let stall = self
            .stall
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(bound)));
        stall
            .as_mut()
            .poll(cx)
            .map(|()| Err(io::ErrorKind::TimedOut.into()))
    }

    fn too_slow(&mut self, cx: &mut Context<'_>) -> bool {
        let read = self.heads.read.load(Ordering::Relaxed);
        let idle = self.heads.busy.load(Ordering::Relaxed) == 0;
        match &mut self.clock {
            Some((since, sleep)) if *since == read && idle => sleep.as_mut().poll(cx).is_ready(),
            Some(_) | None => {
                self.clock = None;
                false
            }
        }
    }
}

impl AsyncRead for Guarded {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        let polled = Pin::new(&mut this.stream).poll_read(cx, buf);
        if this.too_slow(cx) {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        let came = polled.is_ready() && buf.filled().len() > before;
        if came
            && let Some(bound) = this.bounds.head
            && this.clock.is_none()
            && this.heads.busy.load(Ordering::Relaxed) == 0
        {
            let read = this.heads.read.load(Ordering::Relaxed);
            this.clock = Some((read, Box::pin(tokio::time::sleep(bound))));
        }
        polled
    }
}

impl AsyncWrite for Guarded {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.stream).poll_write(cx, buf);
        this.taken(cx, polled)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.stream).poll_write_vectored(cx, bufs);
        this.taken(cx, polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
