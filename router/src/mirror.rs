//! Requests that are also sent to the canary, only to see how it bears them.
//!
//! All of it is off the user's path: a copy is sent by a task of its own, its answer is dropped, and
//! where there is no room for one more, there is none. A body is copied while it goes to the stable
//! revision, and the copy is sent when all of it was there.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use crds::contract;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri, Version};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::metrics::Meter;
use crate::pick::{self, Draw};
use crate::pool::{Connection, Flight, Outgoing, Pool};

/// Copies under way at one time: more would only queue in front of a canary that is too slow.
const COPIES_MAX: usize = 256;
/// Bytes of their bodies together.
const BYTES_MAX: usize = 32 * 1024 * 1024;
/// Bytes of one body: a prompt of a few hundred kilobytes fits.
const BODY_BYTES_MAX: usize = 1024 * 1024;
/// Tells a pod that nobody waits for its answer.
pub const HEADER_MIRROR: HeaderName = HeaderName::from_static(contract::HEADER_MIRROR);

/// What became of a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The canary answered.
    Answered,
    /// It answered with a 5xx, or broke its answer off.
    Failed,
    /// None of its endpoints could be reached.
    Unreached,
    /// It took too long.
    Late,
    /// Not sent: there was no room for one more.
    Busy,
    /// Not sent: its body is too large to be kept.
    TooLarge,
    /// Not sent: the client broke off, or its request was refused before its body was read.
    Broken,
}

impl Outcome {
    /// Value of the metric's label.
    pub fn label(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Failed => "failed",
            Self::Unreached => "unreached",
            Self::Late => "late",
            Self::Busy => "busy",
            Self::TooLarge => "too_large",
            Self::Broken => "broken",
        }
    }
}

/// Room for copies.
#[derive(Debug)]
pub struct Mirrors {
    copies: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
}

impl Default for Mirrors {
    fn default() -> Self {
        Self {
            copies: Arc::new(Semaphore::new(COPIES_MAX)),
            bytes: Arc::new(Semaphore::new(BYTES_MAX)),
        }
    }
}

/// Where copies of a request go.
#[derive(Debug)]
pub struct Destination {
    /// Connections.
    pub pool: Arc<Pool>,
    /// Ready endpoints of the canary.
    pub endpoints: Vec<SocketAddr>,
    /// Set once the canary was taken out; nothing is sent then.
    pub out: Option<Arc<AtomicBool>>,
    /// Where the copy is counted.
    pub meter: Arc<Meter>,
    /// How long the answer may take.
    pub bound: Duration,
}

/// A copy that is to be sent.
#[derive(Debug)]
struct Duplicate {
    to: Destination,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    /// Its place among all.
    place: OwnedSemaphorePermit,
}

impl Mirrors {
    /// Sends a copy of a request to the canary: at once where it has no body, else when all of its
    /// body went to where it is going now.
    pub fn copy(&self, request: Request<Outgoing>, to: Destination) -> Request<Outgoing> {
        let Ok(place) = Arc::clone(&self.copies).try_acquire_owned() else {
            to.meter.mirrored(Outcome::Busy);
            return request;
        };
        let length = request.body().size_hint().lower();
        if usize::try_from(length).map_or(true, |length| length > BODY_BYTES_MAX) {
            to.meter.mirrored(Outcome::TooLarge);
            return request;
        }
        let mut headers = request.headers().clone();
        headers.insert(HEADER_MIRROR, HeaderValue::from_static("true"));
        let copy = Duplicate {
            to,
            method: request.method().clone(),
            uri: request.uri().clone(),
            headers,
            place,
        };
        let (parts, body) = request.into_parts();
        let body = match body {
            Outgoing::Streamed(body) => {
                let bytes = Arc::clone(&self.bytes);
                Outgoing::Copied(Box::new(Tee::new(body, copy, bytes)))
            }
            other @ (Outgoing::Empty | Outgoing::Copied(_) | Outgoing::Full(_)) => {
                copy.start(Bytes::new(), None);
                other
            }
        };
        Request::from_parts(parts, body)
    }
}

impl Duplicate {
    /// Sends it, with all of its body, which holds its bytes.
    fn start(self, body: Bytes, held: Option<OwnedSemaphorePermit>) {
        tokio::spawn(async move {
            let Self {
                to,
                method,
                uri,
                headers,
                place,
            } = self;
            let mut request = Request::new(if body.is_empty() {
                Outgoing::Empty
            } else {
                Outgoing::Full(Some(body))
            });
            *request.method_mut() = method;
            *request.uri_mut() = uri;
            *request.version_mut() = Version::HTTP_11;
            *request.headers_mut() = headers;
            let sent = tokio::time::timeout(to.bound, to.send(request));
            let outcome = sent.await.unwrap_or(Outcome::Late);
            to.meter.mirrored(outcome);
            drop((held, place));
        });
    }
}

impl Destination {
    async fn send(&self, request: Request<Outgoing>) -> Outcome {
        let is_out = |flag: &Arc<AtomicBool>| flag.load(Ordering::Acquire);
        if self.out.as_ref().is_some_and(is_out) {
            return Outcome::Unreached;
        }
        let standing = |address| self.pool.standing(address);
        let chosen = pick::endpoint(&self.endpoints, Draw(rand::random()), standing);
        let Some(address) = chosen else {
            return Outcome::Unreached;
        };
        let flight = self.pool.begin(address);
        let mut request = request;
        if let Some(connection) = flight.upstream().checkout() {
            // A pooled connection may have been closed a moment ago; a new one tells.
            match exchange(connection, &flight, request).await {
                Ok(outcome) => return outcome,
                Err(untouched) => request = untouched,
            }
        }
        let Ok(connection) = self.pool.connect(&flight).await else {
            return Outcome::Unreached;
        };
        match exchange(connection, &flight, request).await {
            Ok(outcome) => outcome,
            Err(_) => Outcome::Unreached,
        }
    }
}

/// Sends a copy and reads its answer to the end. The error is the copy, where the connection took
/// nothing of it.
async fn exchange(
    mut connection: Connection,
    flight: &Flight,
    request: Request<Outgoing>,
) -> Result<Outcome, Request<Outgoing>> {
    let response = match connection.send(request).await {
        Ok(response) => response,
        Err(mut error) => return error.take_message().map_or(Ok(Outcome::Failed), Err),
    };
    flight.answered();
    let failed =
        response.status().is_server_error() || response.status() == StatusCode::SWITCHING_PROTOCOLS;
    let mut body = response.into_body();
    while let Some(frame) = body.frame().await {
        if frame.is_err() {
            return Ok(Outcome::Failed);
        }
    }
    flight.upstream().give_back(connection);
    Ok(if failed {
        Outcome::Failed
    } else {
        Outcome::Answered
    })
}

/// A body on its way to the stable revision, of which a copy is kept.
#[derive(Debug)]
pub struct Tee {
    body: Incoming,
    copying: Option<Copying>,
}

#[derive(Debug)]
struct Copying {
    copy: Duplicate,
    kept: BytesMut,
    bytes: Arc<Semaphore>,
    held: Option<OwnedSemaphorePermit>,
}

impl Tee {
    fn new(body: Incoming, copy: Duplicate, bytes: Arc<Semaphore>) -> Self {
        let copying = Copying {
            copy,
            kept: BytesMut::new(),
            bytes,
            held: None,
        };
        Self {
            body,
            copying: Some(copying),
        }
    }

    fn keep(&mut self, data: &Bytes) {
        let Some(copying) = &mut self.copying else {
            return;
        };
        if let Err(why) = copying.keep(data) {
            self.give_up(why);
        }
    }

    fn give_up(&mut self, why: Outcome) {
        if let Some(copying) = self.copying.take() {
            copying.copy.to.meter.mirrored(why);
        }
    }

    fn finish(&mut self) {
        if let Some(copying) = self.copying.take() {
            copying.copy.start(copying.kept.freeze(), copying.held);
        }
    }
}

impl Copying {
    /// Bytes are copied, for a piece of a buffer keeps all of the buffer.
    fn keep(&mut self, data: &Bytes) -> Result<(), Outcome> {
        if self.kept.len() + data.len() > BODY_BYTES_MAX {
            return Err(Outcome::TooLarge);
        }
        let count = u32::try_from(data.len()).map_err(|_| Outcome::TooLarge)?;
        let room = Arc::clone(&self.bytes).try_acquire_many_owned(count);
        let room = room.map_err(|_| Outcome::Busy)?;
        match &mut self.held {
            Some(held) => held.merge(room),
            None => self.held = Some(room),
        }
        self.kept.extend_from_slice(data);
        Ok(())
    }
}

impl Drop for Tee {
    fn drop(&mut self) {
        self.give_up(Outcome::Broken);
    }
}

impl Body for Tee {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = self.get_mut();
        let polled = ready!(Pin::new(&mut this.body).poll_frame(cx));
        match &polled {
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    this.keep(data);
                }
                // Whoever knows the length never asks for the end.
                if this.body.is_end_stream() {
                    this.finish();
                }
            }
            Some(Err(_)) => this.give_up(Outcome::Broken),
            None => this.finish(),
        }
        Poll::Ready(polled)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
