//! The routers. While this process leads it holds a stream to each of them, by which each says what
//! it serves, what it sees of canaries and which it took out; and it tells each of them every second
//! that it leads, and at once what the others took out.
//!
//! Nothing is decided here: what was heard becomes part of an observation, and a reason to look.

mod applied;
mod endpoints;
mod evidence;
mod heard;
mod lead;
mod lines;
mod stream;
mod wakes;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use crds::{ModelDeployment, contract::Trip};
use futures::{Stream, future};
use http::HeaderValue;
use jiff::Timestamp;
use kube::{Client, runtime::reflector::ObjectRef};
use rollout::evidence::RunEvidence;
use tokio::{
    sync::watch,
    task::{AbortHandle, JoinSet},
    time::{Instant, sleep},
};

use self::heard::Heard;
pub use self::{applied::Awaited, evidence::Follow, lead::Term};
use crate::{args::NamespacedName, clock, metrics::prometheus, telemetry::Telemetry};

/// How long one router may take to answer.
const ROUTER_TIMEOUT: Duration = Duration::from_secs(1);

/// How often things are said and tried.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Between two heartbeats.
    pub heartbeat: Duration,
    /// A router that says nothing for so long is dialled anew: it says something every second.
    pub silence: Duration,
    /// The pause after a first failure; it doubles with each.
    pub first_pause: Duration,
    /// The longest pause, and the one after a router said that it knows no stream.
    pub longest_pause: Duration,
    /// Between two looks at what evidence means.
    pub judging: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_secs(1),
            silence: Duration::from_secs(4),
            first_pause: Duration::from_millis(100),
            longest_pause: Duration::from_secs(5),
            judging: Duration::from_millis(50),
        }
    }
}

/// The routers behind a Service, and what was heard of them.
pub struct Routers {
    service: Option<NamespacedName>,
    token: Option<PathBuf>,
    pace: Pace,
    /// For answers that end.
    http: reqwest::Client,
    /// For the stream, which does not.
    streams: reqwest::Client,
    heard: Heard,
    telemetry: Arc<Telemetry>,
}

impl fmt::Debug for Routers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Routers")
            .field("service", &self.service)
            .finish_non_exhaustive()
    }
}

impl Routers {
    /// The routers behind a Service, which know us by the token in a file.
    pub fn new(
        service: Option<NamespacedName>,
        token: Option<PathBuf>,
        telemetry: Arc<Telemetry>,
    ) -> anyhow::Result<Self> {
        // Pods are asked by address, never through a proxy.
        let http = prometheus::http_client(|builder| builder.no_proxy().timeout(ROUTER_TIMEOUT))?;
        let streams =
            prometheus::http_client(|builder| builder.no_proxy().connect_timeout(ROUTER_TIMEOUT))?;
        Ok(Self {
            service,
            token,
            pace: Pace::default(),
            http,
            streams,
            heard: Heard::default(),
            telemetry,
        })
    }

    /// The same at another pace.
    #[must_use]
    pub fn paced(mut self, pace: Pace) -> Self {
        self.pace = pace;
        self
    }

    /// The objects of a namespace, or of all, that are to be looked at because of what a router said.
    pub fn wakes(
        &self,
        namespace: Option<&str>,
    ) -> impl Stream<Item = ObjectRef<ModelDeployment>> + Send + 'static {
        self.heard.wakes().subscribe(namespace)
    }

    /// What all routers together saw of a run, which is judged so from here on. Nothing else is kept
    /// of the route.
    pub fn follow(
        &self,
        route: &NamespacedName,
        follow: Follow,
        now: Timestamp,
    ) -> Option<RunEvidence> {
        self.heard.only(route, Some(&follow.run.id));
        self.heard.follow(route, follow, (self.silent_since(), now))
    }

    /// A route has no run: nothing is kept of any.
    pub fn at_rest(&self, route: &NamespacedName) {
        self.heard.only(route, None);
    }

    /// A route is no more: nothing is kept of it.
    pub fn forget(&self, route: &NamespacedName) {
        self.heard.only(route, None);
        self.heard.await_no_digest(route);
    }

    /// The trip of a run, if a router said that there is one.
    pub fn trip_of(&self, route: &NamespacedName, run: &str) -> Option<Trip> {
        self.heard.tripped(route, run)
    }

    /// A trip that was read where it is durable. The routers are told as if one of them had said it.
    pub fn tripped(&self, route: &NamespacedName, trip: Trip) {
        self.heard.trip(route, trip);
    }

    /// Leads the routers behind the Service until its future is dropped.
    pub async fn lead(self: &Arc<Self>, client: Client, term: Term) {
        let Some(service) = &self.service else {
            return future::pending().await;
        };
        let (tell, addresses) = watch::channel(BTreeSet::new());
        tokio::join!(
            endpoints::watch(client, service, &tell),
            self.lead_those(term, addresses)
        );
    }

    /// Leads the routers at these addresses until its future is dropped.
    pub async fn lead_those(
        self: &Arc<Self>,
        term: Term,
        addresses: watch::Receiver<BTreeSet<String>>,
    ) {
        tokio::join!(
            self.dial(Arc::new(term), addresses),
            self.judge_what_comes(),
            self.measure()
        );
    }

    async fn dial(
        self: &Arc<Self>,
        term: Arc<Term>,
        mut addresses: watch::Receiver<BTreeSet<String>>,
    ) {
        let mut tasks = JoinSet::new();
        let mut dialled: BTreeMap<String, AbortHandle> = BTreeMap::new();
        loop {
            let wanted = addresses.borrow_and_update().clone();
            dialled.retain(|address, task| {
                let stays = wanted.contains(address);
                if !stays {
                    task.abort();
                    self.heard.gone(address, clock::now());
                }
                stays
            });
            for address in wanted {
                dialled.entry(address.clone()).or_insert_with(|| {
                    self.heard.dialled(&address);
                    let (routers, term) = (Arc::clone(self), Arc::clone(&term));
                    tasks.spawn(async move {
                        let told = lead::tell(&routers, &address, &term);
                        tokio::join!(stream::follow(&routers, &address), told);
                    })
                });
            }
            // Those that were aborted; the others never end.
            while tasks.try_join_next().is_some() {}
            if addresses.changed().await.is_err() {
                return future::pending().await;
            }
        }
    }

    /// Looks at what new evidence means, not more often than need be, and wakes whom it concerns.
    async fn judge_what_comes(&self) {
        loop {
            self.heard.news().await;
            self.heard.judge((self.silent_since(), clock::now()));
            sleep(self.pace.judging).await;
        }
    }

    /// What was not heard since then is silent.
    fn silent_since(&self) -> Option<Instant> {
        clock::monotonic().checked_sub(self.pace.silence)
    }

    async fn measure(&self) {
        loop {
            let silence = self.heard.silence(clock::monotonic());
            self.telemetry
                .routers(silence.len(), silence.into_iter().max());
            sleep(self.pace.heartbeat).await;
        }
    }

    /// The header by which routers know us. The token is replaced while we run, so it is read anew.
    async fn bearer(&self) -> Result<Option<HeaderValue>, String> {
        let Some(file) = &self.token else {
            return Ok(None);
        };
        let token = tokio::fs::read_to_string(file).await.map_err(|error| {
            format!(
                "the token {} (--router-token) cannot be read: {error}",
                file.display()
            )
        })?;
        let mut value = HeaderValue::try_from(format!("Bearer {}", token.trim()))
            .map_err(|_| format!("the token {} is no header value", file.display()))?;
        value.set_sensitive(true);
        Ok(Some(value))
    }
}

#[cfg(test)]
mod tests;
