//! Connections to endpoints, kept across tables.
//!
//! A pooled connection can die while it lies idle. Each is looked at before it is used, and what
//! the connection did not take is handed back, so that a request is never lost to a pod that went
//! away politely.

mod ejection;

use std::collections::{BTreeSet, HashMap};
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use thiserror::Error;
use tokio::net::TcpStream;
use tracing::debug;

use self::ejection::{Ejection, Left};
use crate::mirror::Tee;
use crate::pick::Standing;

/// Servers commonly close idle connections after a minute or more, some after 15 seconds.
const IDLE_MAX: Duration = Duration::from_secs(10);
/// Idle connections kept for one endpoint.
const IDLE_COUNT_MAX: usize = 256;
/// An endpoint's response head may not grow without bound.
const RESPONSE_HEAD_BYTES_MAX: usize = 128 * 1024;
/// How long a connection may take to get over a request that was answered early.
const SETTLE: Duration = Duration::from_secs(5);

/// Body of a request on its way to an endpoint.
#[derive(Debug)]
pub enum Outgoing {
    /// There is none: the request can be sent again.
    Empty,
    /// It comes from the client, once.
    Streamed(Incoming),
    /// It comes from the client, and is copied for the canary on the way.
    Copied(Box<Tee>),
    /// All of it is here.
    Full(Option<Bytes>),
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match self.get_mut() {
            Self::Empty => std::task::Poll::Ready(None),
            Self::Streamed(body) => std::pin::Pin::new(body).poll_frame(cx),
            Self::Copied(tee) => std::pin::Pin::new(tee).poll_frame(cx),
            Self::Full(body) => std::task::Poll::Ready(body.take().map(|all| Ok(Frame::data(all)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Streamed(body) => body.is_end_stream(),
            Self::Copied(tee) => tee.is_end_stream(),
            Self::Full(body) => body.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Streamed(body) => body.size_hint(),
            Self::Copied(tee) => tee.size_hint(),
            Self::Full(body) => {
                let length = body.as_ref().map_or(0, Bytes::len);
                SizeHint::with_exact(u64::try_from(length).unwrap_or(u64::MAX))
            }
        }
    }
}

/// No connection could be made.
#[derive(Debug, Error)]
pub enum ConnectError {
    /// It took too long.
    #[error("connecting took longer than {0:?}")]
    TooSlow(Duration),
    /// It was refused.
    #[error("connecting failed")]
    Io(#[from] std::io::Error),
    /// The first exchange failed.
    #[error("the connection was closed at once")]
    Http(#[from] hyper::Error),
}

/// All connections.
#[derive(Debug)]
pub struct Pool {
    upstreams: RwLock<HashMap<SocketAddr, Arc<Upstream>>>,
    connect_timeout: Duration,
    started: Instant,
}

/// One endpoint.
#[derive(Debug)]
pub struct Upstream {
    address: SocketAddr,
    idle: Mutex<Vec<Idle>>,
    in_flight: AtomicUsize,
    ejection: Ejection,
    /// When the pool's clock began.
    started: Instant,
    /// Whether the endpoint is still in the table.
    listed: AtomicBool,
}

#[derive(Debug)]
struct Idle {
    connection: Connection,
    since: Instant,
}

/// One connection, in use.
#[derive(Debug)]
pub struct Connection {
    sender: SendRequest<Outgoing>,
    /// The same socket, to see whether the other side closed it.
    probe: std::net::TcpStream,
    /// Whether it has carried a request before.
    pub reused: bool,
}

impl Connection {
    /// Whether it can carry a request as far as this machine knows.
    fn fresh(&self, since: Instant) -> bool {
        if since.elapsed() > IDLE_MAX || !self.sender.is_ready() {
            return false;
        }
        // Anything but "nothing to read" on an idle connection means that it is over.
        let mut byte = [0];
        matches!(self.probe.peek(&mut byte), Err(error) if error.kind() == ErrorKind::WouldBlock)
    }

    /// Sends a request. The error holds the request where the connection took none of it.
    pub async fn send(
        &mut self,
        request: Request<Outgoing>,
    ) -> Result<Response<Incoming>, TrySendError<Request<Outgoing>>> {
        self.sender.try_send_request(request).await
    }
}

/// Counts a request as in flight at an endpoint while it lives.
#[derive(Debug)]
pub struct Flight {
    upstream: Arc<Upstream>,
    /// Whether it is the request that brings the endpoint back.
    probe: AtomicBool,
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.upstream.in_flight.fetch_sub(1, Ordering::Relaxed);
        self.probed();
    }
}

impl Flight {
    /// The endpoint.
    pub fn upstream(&self) -> &Arc<Upstream> {
        &self.upstream
    }

    /// The endpoint took a new connection.
    fn connected(&self) {
        let probe = self.probe.load(Ordering::Relaxed);
        if self.upstream.ejection.connected(probe) {
            self.probed();
        }
    }

    /// The endpoint refused a connection.
    fn refused(&self) {
        let ejection = &self.upstream.ejection;
        ejection.refused(self.upstream.clock(), rand::random());
        self.probed();
    }

    /// The endpoint answered.
    pub fn answered(&self) {
        let probe = self.probe.load(Ordering::Relaxed);
        self.upstream.ejection.answered(probe);
        self.probed();
    }

    /// The endpoint gave no answer, or broke it off.
    pub fn reset(&self) {
        let ejection = &self.upstream.ejection;
        ejection.reset(self.upstream.clock(), rand::random());
        self.probed();
    }

    fn probed(&self) {
        if self.probe.swap(false, Ordering::Relaxed) {
            self.upstream.ejection.probed();
        }
    }
}

impl Pool {
    /// No connections yet.
    pub fn new(connect_timeout: Duration, now: Instant) -> Self {
        Self {
            upstreams: RwLock::default(),
            connect_timeout,
            started: now,
        }
    }

    /// An endpoint.
    pub fn upstream(&self, address: SocketAddr) -> Arc<Upstream> {
        let known = self
            .upstreams
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(upstream) = known.get(&address) {
            return Arc::clone(upstream);
        }
        drop(known);
        let mut known = self
            .upstreams
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        Arc::clone(
            known
                .entry(address)
                .or_insert_with(|| Arc::new(Upstream::new(address, self.started))),
        )
    }

    /// Forgets the endpoints that are not listed, and closes their idle connections.
    pub fn retain(&self, listed: &BTreeSet<SocketAddr>) {
        let mut known = self
            .upstreams
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        known.retain(|address, upstream| {
            let keep = listed.contains(address);
            if !keep {
                upstream.listed.store(false, Ordering::Relaxed);
                upstream
                    .idle
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .clear();
            }
            keep
        });
    }

    /// Closes connections that were idle for too long.
    pub fn sweep(&self) {
        let known = self
            .upstreams
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        for upstream in known.values() {
            let mut idle = upstream.idle.lock().unwrap_or_else(PoisonError::into_inner);
            idle.retain(|idle| idle.since.elapsed() <= IDLE_MAX);
        }
    }

    /// Milliseconds since the pool was made.
    pub fn clock(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Whether an endpoint may be used.
    pub fn standing(&self, address: SocketAddr) -> Standing {
        let upstream = self.upstream(address);
        let load = upstream.in_flight.load(Ordering::Relaxed);
        match upstream.ejection.left(upstream.clock()) {
            Left::In => Standing::Usable(load),
            Left::Refusing => Standing::Refusing,
            Left::Resetting { until } => Standing::Resetting { load, until },
        }
    }

    /// Whether an endpoint failed and has not proven itself since.
    pub fn is_ejected(&self, address: SocketAddr) -> bool {
        let known = self
            .upstreams
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        known
            .get(&address)
            .is_some_and(|upstream| upstream.ejection.has_strikes())
    }

    /// Starts a request at an endpoint.
    pub fn begin(&self, address: SocketAddr) -> Flight {
        let upstream = self.upstream(address);
        upstream.in_flight.fetch_add(1, Ordering::Relaxed);
        let probe = AtomicBool::new(upstream.ejection.begin(upstream.clock()));
        Flight { upstream, probe }
    }

    /// Connects anew; an endpoint that cannot be connected to is left out for a while.
    pub async fn connect(&self, flight: &Flight) -> Result<Connection, ConnectError> {
        let connecting =
            tokio::time::timeout(self.connect_timeout, connect(flight.upstream.address));
        let connected = match connecting.await {
            Ok(connected) => connected,
            Err(_) => Err(ConnectError::TooSlow(self.connect_timeout)),
        };
        match &connected {
            Ok(_) => flight.connected(),
            Err(_) => flight.refused(),
        }
        connected
    }
}

async fn connect(address: SocketAddr) -> Result<Connection, ConnectError> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let probe = std::net::TcpStream::from(stream.as_fd().try_clone_to_owned()?);
    let (sender, connection) = http1::Builder::new()
        .max_header_size(RESPONSE_HEAD_BYTES_MAX)
        .handshake(TokioIo::new(stream))
        .await?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            debug!(%address, %error, "connection to an endpoint ended");
        }
    });
    Ok(Connection {
        sender,
        probe,
        reused: false,
    })
}

impl Upstream {
    fn new(address: SocketAddr, started: Instant) -> Self {
        Self {
            address,
            idle: Mutex::default(),
            in_flight: AtomicUsize::new(0),
            ejection: Ejection::default(),
            started,
            listed: AtomicBool::new(true),
        }
    }

    fn clock(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Where it is.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// An idle connection that is still good.
    pub fn checkout(&self) -> Option<Connection> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(Idle {
            mut connection,
            since,
        }) = idle.pop()
        {
            if connection.fresh(since) {
                connection.reused = true;
                return Some(connection);
            }
        }
        None
    }

    /// Takes a connection back once it is over its request.
    pub fn give_back(self: &Arc<Self>, mut connection: Connection) {
        if connection.sender.is_ready() {
            self.store(connection);
        } else if !connection.sender.is_closed() {
            let upstream = Arc::clone(self);
            tokio::spawn(async move {
                let settled = tokio::time::timeout(SETTLE, connection.sender.ready()).await;
                if matches!(settled, Ok(Ok(()))) {
                    upstream.store(connection);
                }
            });
        }
    }

    fn store(&self, connection: Connection) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < IDLE_COUNT_MAX && self.listed.load(Ordering::Relaxed) {
            idle.push(Idle {
                connection,
                since: Instant::now(),
            });
        }
    }
}
