//! What was heard of the routers, by all of their streams together.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use crds::contract::{AppliedRoute, FromRouter, LedTrip, Trip};
use jiff::Timestamp;
use rollout::evidence::RunEvidence;
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};

use super::{
    applied::Awaited,
    evidence::{Follow, Runs},
    wakes::Wakes,
};
use crate::args::NamespacedName;

/// The most trips that are kept: one for each route that has a run, and then some.
const TRIPS_MAX: usize = 10_000;
/// Longer than a router takes to say everything once.
const FIRST_ROUND: Duration = Duration::from_secs(1);
/// The most routes of which a router is told what is known.
const KNOWN_MAX: usize = 100;

/// What was heard.
#[derive(Debug)]
pub(super) struct Heard {
    inner: Mutex<Inner>,
    wakes: Wakes,
    /// All trips that hold, for those who tell the routers.
    trips: watch::Sender<Arc<Vec<LedTrip>>>,
    /// There is evidence that was not looked at.
    news: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    /// The routers that are there, by address.
    routers: BTreeMap<String, Router>,
    /// How many streams there were.
    opened: u64,
    runs: Runs,
    trips: BTreeMap<(NamespacedName, String), Trip>,
    /// Digests that somebody waits for.
    awaited: BTreeMap<NamespacedName, String>,
}

/// A router that is there.
#[derive(Debug, Default)]
struct Router {
    /// The stream that counts: the latest that was greeted over.
    stream: u64,
    /// The process that greeted last.
    boot: Option<String>,
    is_open: bool,
    /// When it greeted over that stream.
    greeted_at: Option<Instant>,
    /// Digests by route, once the stream has said them.
    applied: Option<BTreeMap<NamespacedName, String>>,
    /// When it last said something, over whichever stream.
    heard_at: Option<Instant>,
    /// Why there is no stream.
    why: Option<String>,
}

impl Default for Heard {
    fn default() -> Self {
        Self {
            inner: Mutex::default(),
            wakes: Wakes::default(),
            trips: watch::Sender::new(Arc::default()),
            news: Notify::new(),
        }
    }
}

impl Heard {
    pub(super) fn wakes(&self) -> &Wakes {
        &self.wakes
    }

    /// All trips that hold.
    pub(super) fn trips(&self) -> watch::Receiver<Arc<Vec<LedTrip>>> {
        self.trips.subscribe()
    }

    /// A stream is about to be read. What is heard over it counts until it is dropped.
    pub(super) fn connect(&self, address: &str) -> Connection<'_> {
        let mut inner = self.inner();
        inner.opened += 1;
        Connection {
            heard: self,
            address: address.to_owned(),
            stream: inner.opened,
            is_greeted: false,
        }
    }

    /// The query by which a router need not say again what is known of its process; empty: of none.
    pub(super) fn known(&self, address: &str) -> String {
        let inner = self.inner();
        let router = inner.routers.get(address);
        let Some(boot) = router.and_then(|router| router.boot.as_deref()) else {
            return String::new();
        };
        let known = inner.runs.known(boot, KNOWN_MAX);
        let known = known.iter().map(|(route, last)| {
            let NamespacedName { namespace, name } = route;
            format!("&after={namespace}/{name}/{last}")
        });
        let query = format!("?boot={boot}{}", known.collect::<String>());
        // It is made of what a router said: names of objects need no escapes, and nothing else goes.
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"?&=/-.".contains(&byte);
        if query.bytes().all(is_plain) {
            query
        } else {
            String::new()
        }
    }

    /// A router is not there any more.
    pub(super) fn gone(&self, address: &str, now: Timestamp) {
        let mut inner = self.inner();
        let router = inner.routers.remove(address);
        if let Some(boot) = router.and_then(|router| router.boot) {
            inner.runs.gone(&boot, now);
        }
    }

    /// Waits until there is evidence that was not looked at.
    pub(super) async fn news(&self) {
        self.news.notified().await;
    }

    /// Looks at what is new, and wakes the objects for which it changes a verdict.
    pub(super) fn judge(&self, (since, now): (Option<Instant>, Timestamp)) {
        let mut inner = self.inner();
        let problem = inner.silent(since);
        let changed = inner.runs.judge(problem.as_ref(), now);
        drop(inner);
        for route in changed {
            self.wakes.wake(&route);
        }
    }

    /// What all routers together saw of a run, which is judged so from here on.
    pub(super) fn follow(
        &self,
        route: &NamespacedName,
        follow: Follow,
        (since, now): (Option<Instant>, Timestamp),
    ) -> Option<RunEvidence> {
        let mut inner = self.inner();
        let problem = inner.silent(since);
        inner.runs.follow(route, follow, (problem, now))
    }

    /// A router is to be heard.
    pub(super) fn dialled(&self, address: &str) {
        let routers = &mut self.inner().routers;
        routers.entry(address.to_owned()).or_default();
    }

    /// A route's run, if any, is this one: of others nothing need be kept.
    pub(super) fn only(&self, route: &NamespacedName, run: Option<&str>) {
        let mut inner = self.inner();
        inner.runs.only(route, run);
        let before = inner.trips.len();
        let trips = &mut inner.trips;
        trips.retain(|(of, trip), _| of != route || run == Some(trip));
        if trips.len() != before {
            self.tell(&inner);
        }
    }

    /// The trip of a run.
    pub(super) fn tripped(&self, route: &NamespacedName, run: &str) -> Option<Trip> {
        let key = (route.clone(), run.to_owned());
        self.inner().trips.get(&key).cloned()
    }

    /// A canary was taken out somewhere. The first word of it stands, and is passed on.
    pub(super) fn trip(&self, route: &NamespacedName, trip: Trip) {
        let mut inner = self.inner();
        let key = (route.clone(), trip.run.clone());
        if inner.trips.contains_key(&key) || inner.trips.len() >= TRIPS_MAX {
            return;
        }
        tracing::warn!(
            namespace = route.namespace,
            route = route.name,
            run = trip.run,
            revision = trip.revision,
            guardrail = trip.guardrail,
            why = trip.message,
            "a canary was taken out by a router"
        );
        inner.trips.insert(key, trip);
        self.tell(&inner);
        drop(inner);
        self.wakes.wake(route);
    }

    fn tell(&self, inner: &Inner) {
        let trips = inner.trips.iter().map(|((route, _), trip)| LedTrip {
            namespace: route.namespace.clone(),
            route: route.name.clone(),
            trip: trip.clone(),
        });
        self.trips.send_replace(Arc::new(trips.collect()));
    }

    /// Somebody waits for a route to be served in this form.
    pub(super) fn await_digest(&self, awaited: &Awaited) {
        let (route, digest) = (awaited.route.clone(), awaited.digest.clone());
        self.inner().awaited.insert(route, digest);
    }

    /// Nobody waits for it any more.
    pub(super) fn await_no_digest(&self, route: &NamespacedName) {
        self.inner().awaited.remove(route);
    }

    /// Whether a router serves a route in this form, by what its stream said, if that lives.
    pub(super) fn serves(
        &self,
        address: &str,
        awaited: &Awaited,
        since: Option<Instant>,
    ) -> Option<bool> {
        let inner = self.inner();
        let router = inner.routers.get(address)?;
        let applied = router.applied.as_ref()?;
        let is_fresh = router.is_open && router.is_heard_since(since);
        is_fresh.then(|| applied.get(&awaited.route) == Some(&awaited.digest))
    }

    /// For how long each router that has a stream has said nothing.
    pub(super) fn silence(&self, now: Instant) -> Vec<Duration> {
        let inner = self.inner();
        let open = inner.routers.values().filter(|router| router.is_open);
        let heard = open.filter_map(|router| router.heard_at);
        heard.map(|at| now.saturating_duration_since(at)).collect()
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Router {
    fn is_heard_since(&self, since: Option<Instant>) -> bool {
        self.heard_at
            .is_some_and(|at| since.is_none_or(|since| at >= since))
    }
}

impl Inner {
    /// The first router that was not heard for a while, or never: what it sees is missing.
    fn silent(&self, since: Option<Instant>) -> Option<String> {
        if self.routers.is_empty() {
            return Some("no router was found".to_owned());
        }
        let mut routers = self.routers.iter();
        let (address, router) = routers.find(|(_, router)| !router.is_heard_since(since))?;
        let why = router.why.as_deref().unwrap_or("it was not heard yet");
        Some(format!("router {address} does not say what it sees: {why}"))
    }

    /// The routes whose awaited form all routers with a stream serve; they are awaited no longer.
    fn arrived(&mut self) -> Vec<NamespacedName> {
        let routers = &self.routers;
        let mut arrived = Vec::new();
        self.awaited.retain(|route, digest| {
            let mut applied = routers
                .values()
                .filter_map(|router| router.applied.as_ref());
            let all = applied.all(|applied| applied.get(route) == Some(digest));
            if all {
                arrived.push(route.clone());
            }
            !all
        });
        arrived
    }
}

/// One stream, while it is read.
#[derive(Debug)]
pub(super) struct Connection<'a> {
    heard: &'a Heard,
    address: String,
    stream: u64,
    is_greeted: bool,
}

impl Connection<'_> {
    /// Whether the router has said who it is.
    pub(super) fn is_greeted(&self) -> bool {
        self.is_greeted
    }

    /// Why it ends.
    pub(super) fn ended(&self, why: &str) {
        let mut inner = self.heard.inner();
        if let Some(router) = inner.routers.get_mut(&self.address) {
            router.why = Some(why.to_owned());
        }
    }

    /// Takes in a line. Nothing before the greeting counts: it would be of nobody.
    pub(super) fn hear(&mut self, said: FromRouter, at: Instant, now: Timestamp) {
        if let FromRouter::Hello { boot, pod, version } = &said {
            tracing::info!(
                router = self.address,
                pod,
                version,
                "a router's stream is open"
            );
            self.is_greeted = true;
            self.greet(boot, (at, now));
        }
        let mut inner = self.heard.inner();
        let Some((router, boot)) = self.router(&mut inner) else {
            return;
        };
        router.heard_at = Some(at);
        // Everything is said within the first round; a stream that has much to say need not say that
        // it lives.
        let is_later = at.saturating_duration_since(router.greeted_at.unwrap_or(at)) >= FIRST_ROUND;
        if (is_later || said == FromRouter::Alive) && inner.runs.told_all(&boot) {
            self.heard.news.notify_one();
        }
        match said {
            FromRouter::Hello { .. } | FromRouter::Alive => {}
            FromRouter::Applied { routes } => {
                drop(inner);
                self.applied(routes);
            }
            FromRouter::Evidence(evidence) => {
                inner.runs.hear(&boot, *evidence);
                self.heard.news.notify_one();
            }
            FromRouter::Tripped {
                namespace,
                route: name,
                trip,
            } => {
                drop(inner);
                self.heard.trip(&NamespacedName { namespace, name }, trip);
            }
        }
    }

    fn applied(&self, routes: Vec<AppliedRoute>) {
        let mut inner = self.heard.inner();
        if let Some((router, _)) = self.router(&mut inner) {
            router.applied = Some(digests(routes));
        }
        let arrived = inner.arrived();
        drop(inner);
        for route in arrived {
            self.heard.wakes.wake(&route);
        }
    }

    /// The router that this stream is of, and its process, if the stream counts.
    fn router<'inner>(&self, inner: &'inner mut Inner) -> Option<(&'inner mut Router, String)> {
        let router = inner.routers.get_mut(&self.address)?;
        let boot = router.boot.clone()?;
        (router.stream == self.stream).then_some((router, boot))
    }

    fn greet(&self, boot: &str, (at, now): (Instant, Timestamp)) {
        let mut inner = self.heard.inner();
        let Some(router) = inner.routers.get_mut(&self.address) else {
            return;
        };
        router.stream = self.stream;
        router.is_open = true;
        router.greeted_at = Some(at);
        router.applied = None;
        let before = router.boot.replace(boot.to_owned());
        if let Some(before) = before.filter(|before| before != boot) {
            inner.runs.gone(&before, now);
        }
        inner.runs.greeted(boot);
    }
}

impl Drop for Connection<'_> {
    fn drop(&mut self) {
        let mut inner = self.heard.inner();
        if let Some((router, _)) = self.router(&mut inner) {
            router.is_open = false;
            router.applied = None;
        }
    }
}

fn digests(routes: Vec<AppliedRoute>) -> BTreeMap<NamespacedName, String> {
    let digests = routes.into_iter().map(|route| {
        let name = NamespacedName {
            namespace: route.namespace,
            name: route.name,
        };
        (name, route.digest)
    });
    digests.collect()
}
