//! A client's socket with a bound on the time that a request head may take.
//!
//! hyper's own bound also runs while a connection lies idle between requests, and closing idle
//! connections after seconds would cost clients that keep them a request now and then. Here the
//! clock starts with the first byte of a head.

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
    bound: Duration,
    /// Running since the first byte of the head after this many others.
    clock: Option<(u64, Pin<Box<Sleep>>)>,
}

impl Guarded {
    pub(super) fn new(stream: TcpStream, heads: Arc<Heads>, bound: Duration) -> Self {
        Self {
            stream,
            heads,
            bound,
            clock: None,
        }
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
        if came && this.clock.is_none() && this.heads.busy.load(Ordering::Relaxed) == 0 {
            let read = this.heads.read.load(Ordering::Relaxed);
            this.clock = Some((read, Box::pin(tokio::time::sleep(this.bound))));
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
        Pin::new(&mut self.get_mut().stream).poll_write(cx, buf)
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
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
