//! Listeners: accept, tell HTTP/1 from HTTP/2, serve, drain.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tracing::{debug, info, warn};

use super::guarded::{Bounds, Guarded, Heads};
use super::{Origin, Proxy};

/// Bounds on what clients may do.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// From a head's first byte to its last.
    pub header_read_timeout: Duration,
    /// Between two requests of a connection, and between two parts of an answer that a client takes.
    pub idle_timeout: Duration,
    /// Size of a head.
    pub header_bytes_max: u32,
    /// Connections at one time, over all listeners.
    pub connections_max: u32,
}

/// Requests that one HTTP/2 connection may have open: enough for a gateway in front of this one.
const STREAMS_MAX: u32 = 256;
/// What waits in each of them for a client that does not take it.
const STREAM_SEND_BYTES_MAX: usize = 64 * 1024;
/// A pause after the machine ran out of file descriptors; accepting at once would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// The first bytes of HTTP/2 with prior knowledge. HTTP/1 has no method that begins so.
const PREFACE: &[u8] = b"PRI ";

/// All listeners of a process.
#[derive(Debug)]
pub struct Server {
    proxy: Arc<Proxy>,
    limits: Limits,
    connections: Arc<Semaphore>,
    stop: watch::Sender<bool>,
    graceful: GracefulShutdown,
}

impl Server {
    /// No listeners yet.
    pub fn new(proxy: Arc<Proxy>, limits: Limits) -> Self {
        let most = usize::try_from(limits.connections_max).unwrap_or(usize::MAX);
        Self {
            proxy,
            limits,
            connections: Arc::new(Semaphore::new(most.min(Semaphore::MAX_PERMITS))),
            stop: watch::Sender::new(false),
            graceful: GracefulShutdown::new(),
        }
    }

    /// Accepts until [`Server::drain`] is called; `port` is the Gateway listener's.
    pub async fn accept(&self, port: u16, listener: TcpListener) {
        let mut stop = self.stop.subscribe();
        loop {
            let connections = Arc::clone(&self.connections);
            let next = async { (connections.acquire_owned().await, listener.accept().await) };
            let (permit, accepted) = tokio::select! {
                next = next => next,
                stopped = stop.wait_for(|stop| *stop) => {
                    drop(stopped);
                    return;
                }
            };
            match accepted {
                Ok((stream, client)) => {
                    let serving = self.serve(port, stream, client);
                    tokio::spawn(async move {
                        serving.await;
                        drop(permit);
                    });
                }
                Err(error) => {
                    warn!(port, %error, "accepting a connection failed");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn serve(
        &self,
        port: u16,
        stream: TcpStream,
        client: SocketAddr,
    ) -> impl Future<Output = ()> + Send + use<> {
        let proxy = Arc::clone(&self.proxy);
        let (limits, watcher) = (self.limits, self.graceful.watcher());
        let mut stop = self.stop.subscribe();
        async move {
            if let Err(error) = stream.set_nodelay(true) {
                debug!(%client, %error, "client left at once");
                return;
            }
            let is_http2 = tokio::select! {
                told = tell(&stream, &limits) => told,
                // Nothing was asked yet; nobody waits for an answer.
                stopped = stop.wait_for(|stop| *stop) => {
                    drop(stopped);
                    return;
                }
            };
            let Some(is_http2) = is_http2 else { return };
            let heads = Arc::new(Heads::default());
            let bounds = Bounds {
                head: (!is_http2).then_some(limits.header_read_timeout),
                write: limits.idle_timeout,
            };
            let io = Guarded::new(stream, Arc::clone(&heads), bounds);
            let service = service_fn(move |request| {
                let (proxy, busy) = (Arc::clone(&proxy), heads.begin());
                async move {
                    let mut response = proxy.answer(Origin { port, client }, request).await;
                    response.body_mut().busy = Some(busy);
                    Ok::<_, Infallible>(response)
                }
            });
            let io = TokioIo::new(io);
            let ended = if is_http2 {
                let serving = http2_builder(&limits).serve_connection(io, service);
                watcher.watch(serving).await
            } else {
                let serving = http1_builder(&limits).serve_connection(io, service);
                watcher.watch(serving).await
            };
            if let Err(error) = ended {
                debug!(%client, %error, "connection of a client ended");
            }
        }
    }

    /// Stops accepting, lets requests in flight end, and gives up on them after `timeout`. True if
    /// all ended.
    pub async fn drain(self: Arc<Self>, timeout: Duration) -> bool {
        self.stop.send_replace(true);
        let deadline = tokio::time::Instant::now() + timeout;
        let mut server = self;
        // The accept loops and opening connections still hold a share for a moment.
        let graceful = loop {
            match Arc::try_unwrap(server) {
                Ok(server) => break server.graceful,
                Err(shared) if tokio::time::Instant::now() < deadline => server = shared,
                Err(_) => return false,
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        };
        info!(
            connections = graceful.count(),
            "waiting for requests in flight"
        );
        tokio::time::timeout_at(deadline, graceful.shutdown())
            .await
            .is_ok()
    }
}

fn http1_builder(limits: &Limits) -> http1::Builder {
    let mut builder = http1::Builder::new();
    let bytes = usize::try_from(limits.header_bytes_max).unwrap_or(usize::MAX);
    builder
        .timer(TokioTimer::new())
        // Of the whole wait for a request; the head's own clock is in `Guarded`.
        .header_read_timeout(limits.idle_timeout)
        .max_header_size(bytes)
        .max_buf_size(bytes.max(64 * 1024));
    builder
}

fn http2_builder(limits: &Limits) -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(limits.header_bytes_max)
        .max_send_buf_size(STREAM_SEND_BYTES_MAX)
        .keep_alive_interval(limits.idle_timeout)
        .keep_alive_timeout(limits.header_read_timeout);
    builder
}

/// Whether the client speaks HTTP/2; none if it says nothing.
async fn tell(stream: &TcpStream, limits: &Limits) -> Option<bool> {
    let mut first = [0_u8; PREFACE.len()];
    let idle = tokio::time::Instant::now() + limits.idle_timeout;
    let mut deadline = idle;
    loop {
        let count = tokio::time::timeout_at(deadline, stream.peek(&mut first))
            .await
            .ok()?
            .ok()?;
        let came = first.get(..count).filter(|came| !came.is_empty())?;
        if !PREFACE.starts_with(came) {
            return Some(false);
        }
        if came == PREFACE {
            return Some(true);
        }
        if deadline == idle {
            deadline = tokio::time::Instant::now() + limits.header_read_timeout;
        }
        if tokio::time::Instant::now() >= deadline {
            return None;
        }
        // The socket stays readable with what was seen: wait for more of it.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
