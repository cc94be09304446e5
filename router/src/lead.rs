//! The leader and this router, while both live: what was seen goes up as a stream of lines, trips of
//! other replicas and a heartbeat come down.
//!
//! Nothing here is needed to serve or to judge: a router that hears of no leader goes on by what the
//! API server says, and takes a bad canary out by itself.

mod auth;
mod heard;
mod stream;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt::{self, Debug};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use crds::contract::{Evidence, FromLeader, FromRouter, LedTrip, Trip};
use http::header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use http_body::Body;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited, StreamBody};
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio::time::Instant;
use tracing::{debug, info, warn};

use crate::proxy::Proxy;
use crate::table::objects::ObjectKey;

pub use self::auth::{Auth, Gate, Refused, Review, Reviewed, TokenReviews};
use self::heard::Heard;
use self::stream::Feed;

/// One leader, one that takes over from it, and one who looks.
const STREAMS_MAX: usize = 4;
/// Trips of ten thousand routes.
const BODY_BYTES_MAX: usize = 8 * 1024 * 1024;
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// Lines that wait for a reader; the socket holds more.
const LINES_WAITING: usize = 2;

/// The body of an answer of the admin listener.
pub type AdminBody = UnsyncBoxBody<Bytes, Infallible>;

/// What was seen in the runs that are served.
pub trait Sightings: Send + Sync + Debug {
    /// Of each run everything since it began, but of the events with a user only those after the
    /// number that is given for the route.
    fn snapshot(&self, after: &BTreeMap<ObjectKey, u64>) -> Vec<Evidence>;
}

#[derive(Debug)]
struct Nothing;

impl Sightings for Nothing {
    fn snapshot(&self, _: &BTreeMap<ObjectKey, u64>) -> Vec<Evidence> {
        Vec::new()
    }
}

/// Who this process is.
#[derive(Clone, Debug)]
pub struct Identity {
    /// A random name of this process.
    pub boot: String,
    /// Name of the pod.
    pub pod: String,
}

impl Identity {
    /// Of a process that just started.
    pub fn new(pod: String) -> Self {
        Self {
            boot: format!("{:016x}", rand::random::<u64>()),
            pod,
        }
    }

    fn hello(&self) -> FromRouter {
        FromRouter::Hello {
            boot: self.boot.clone(),
            pod: self.pod.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }
}

/// What is between this router and the leader.
pub struct Lead {
    proxy: Arc<Proxy>,
    identity: Identity,
    auth: Auth,
    sightings: Arc<dyn Sightings>,
    heard: Heard,
    streams: Arc<Semaphore>,
}

impl Debug for Lead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lead")
            .field("identity", &self.identity)
            .finish_non_exhaustive()
    }
}

impl Lead {
    /// No leader was heard of yet, and nothing is seen.
    pub fn new(proxy: Arc<Proxy>, identity: Identity, auth: Auth) -> Self {
        Self {
            proxy,
            identity,
            auth,
            sightings: Arc::new(Nothing),
            heard: Heard::new(Instant::now()),
            streams: Arc::new(Semaphore::new(STREAMS_MAX)),
        }
    }

    /// Tells the leader of these.
    #[must_use]
    pub fn telling(mut self, sightings: Arc<dyn Sightings>) -> Self {
        self.sightings = sightings;
        self
    }

    /// How long no leader was heard of: since the last word of one, or since the start.
    pub fn silence(&self) -> Duration {
        self.heard.silence(Instant::now())
    }

    /// Answers with a stream that lasts until the reader goes, or is too slow; then `hang_up` is
    /// notified, as a reader that takes nothing does not notice an end either.
    pub async fn stream(&self, asked: &Parts, hang_up: Arc<Notify>) -> Response<AdminBody> {
        if let Err(refused) = self.authorize(&asked.headers).await {
            return refused;
        }
        let Ok(permit) = Arc::clone(&self.streams).try_acquire_owned() else {
            let why = "there are as many streams as may be\n";
            return text(StatusCode::SERVICE_UNAVAILABLE, why);
        };
        let after = stream::after(asked.uri.query().unwrap_or_default(), &self.identity.boot);
        let (lines, mut waiting) = mpsc::channel::<Bytes>(LINES_WAITING);
        let feed = Feed::new(
            Arc::clone(&self.proxy),
            Arc::clone(&self.sightings),
            after,
            lines,
        );
        let hello = self.identity.hello();
        tokio::spawn(async move {
            if let Err(slow) = feed.run(hello).await {
                warn!(%slow, "stream to the leader was cut off");
                hang_up.notify_one();
            }
            drop(permit);
        });
        let frames = futures::stream::poll_fn(move |context| waiting.poll_recv(context));
        let frames = futures::StreamExt::map(frames, |line| Ok(http_body::Frame::data(line)));
        let mut response = Response::new(StreamBody::new(frames).boxed_unsync());
        let headers = response.headers_mut();
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("application/x-ndjson"),
        );
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response
    }

    /// Takes in what the leader says.
    pub async fn hear<B>(&self, asked: &Parts, body: B) -> Response<AdminBody>
    where
        B: Body<Data = Bytes> + Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        if let Err(refused) = self.authorize(&asked.headers).await {
            return refused;
        }
        let read = Limited::new(body, BODY_BYTES_MAX).collect();
        let body = match tokio::time::timeout(BODY_TIMEOUT, read).await {
            Ok(Ok(body)) => body.to_bytes(),
            Ok(Err(error)) if error.is::<LengthLimitError>() => {
                return text(StatusCode::PAYLOAD_TOO_LARGE, "that is too much at once\n");
            }
            Ok(Err(_)) => return text(StatusCode::BAD_REQUEST, "the body broke off\n"),
            Err(_) => return text(StatusCode::REQUEST_TIMEOUT, "the body took too long\n"),
        };
        let said: FromLeader = match serde_json::from_slice(&body) {
            Ok(said) => said,
            Err(error) => {
                debug!(%error, "what the leader says cannot be read");
                return text(StatusCode::BAD_REQUEST, "the body is not what was agreed\n");
            }
        };
        match self.heard.hear(&said.leader, said.epoch, Instant::now()) {
            Err(stale) => {
                warn!(leader = said.leader, epoch = said.epoch, %stale, "a leader was refused");
                let why = "a leader of a later term was heard\n";
                return text(StatusCode::CONFLICT, why);
            }
            Ok(true) => info!(leader = said.leader, epoch = said.epoch, "leader"),
            Ok(false) => {}
        }
        said.trips.into_iter().for_each(|led| self.trip(led));
        empty(StatusCode::NO_CONTENT)
    }

    fn trip(&self, led: LedTrip) {
        let key = ObjectKey {
            namespace: led.namespace,
            name: led.route,
        };
        let Trip {
            run,
            revision,
            guardrail,
            ..
        } = led.trip.clone();
        if self.proxy.trips.trip(&key, led.trip) {
            warn!(route = %key, run, revision, guardrail, "canary taken out: the leader says so");
        }
    }

    async fn authorize(&self, headers: &HeaderMap) -> Result<(), Response<AdminBody>> {
        let token = headers.get(AUTHORIZATION).and_then(bearer);
        self.auth.admit(token).await.map_err(|refused| {
            debug!(%refused, "a stream or a word of a leader was refused");
            match refused {
                Refused::Token => text(StatusCode::UNAUTHORIZED, "not the leader's token\n"),
                Refused::Unknown(_) => text(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "the API server cannot say whose token that is; try again\n",
                ),
            }
        })
    }
}

fn bearer(value: &HeaderValue) -> Option<&str> {
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    scheme
        .eq_ignore_ascii_case("bearer")
        .then(|| token.trim())
        .filter(|token| !token.is_empty())
}

fn text(status: StatusCode, text: &'static str) -> Response<AdminBody> {
    let mut response = Response::new(Full::new(Bytes::from_static(text.as_bytes())).boxed_unsync());
    *response.status_mut() = status;
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, plain);
    response
}

fn empty(status: StatusCode) -> Response<AdminBody> {
    let mut response = Response::new(Full::new(Bytes::new()).boxed_unsync());
    *response.status_mut() = status;
    response
}
