//! The request path: match, draw, forward, answer.

mod answer;
mod attempt;
mod guarded;
mod head;
mod refusal;
pub mod server;
mod tally;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use crds::contract::{Applied, Evidence};
use http::header::CONNECTION;
use http::{HeaderName, HeaderValue, Request, Response, Version};
use hyper::body::Incoming;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use crate::evidence::{self, Evidences};
use crate::forwarded::TrustedProxies;
use crate::lead::Sightings;
use crate::metrics::Metrics;
use crate::mirror::{Destination, Mirrors};
use crate::pick::{Draw, SplitKey};
use crate::pool::{Outgoing, Pool};
use crate::served::{self, Served};
use crate::table::objects::ObjectKey;
use crate::table::{Backend, Rule, Table};
use crate::trips::Trips;

pub use self::answer::AnswerBody;
use self::answer::Bound;
use self::attempt::{Course, Delivered};
use self::head::Target;
use self::refusal::Refusal;
use self::tally::Tally;

/// Header that says which revision answered.
pub const HEADER_REVISION: HeaderName = HeaderName::from_static("x-sluice-revision");

/// A copy that nobody waits for takes no longer, whatever the route allows.
const MIRROR_MAX: Duration = Duration::from_mins(1);

/// Everything that the request path needs.
#[derive(Debug)]
pub struct Proxy {
    /// What is served.
    pub served: ArcSwap<Served>,
    /// Connections to endpoints.
    pub pool: Arc<Pool>,
    /// What is counted.
    pub metrics: Metrics,
    /// Which canaries were taken out.
    pub trips: Trips,
    /// What requests tell of canaries.
    pub evidence: Evidences,
    /// Says that another table is served.
    pub published: watch::Sender<()>,
    split_key: SplitKey,
    trusted: TrustedProxies,
    mirrors: Mirrors,
    request_timeout: Duration,
    draining: AtomicBool,
}

/// Where a request came from.
#[derive(Clone, Copy, Debug)]
pub struct Origin {
    /// Port of the Gateway listener.
    pub port: u16,
    /// The client.
    pub client: SocketAddr,
}

impl Proxy {
    /// Serves nothing yet.
    pub fn new(split_key: SplitKey, request_timeout: Duration, connect_timeout: Duration) -> Self {
        let pool = Arc::new(Pool::new(connect_timeout, Instant::now()));
        let mut metrics = Metrics::new();
        metrics.watch_endpoints(Arc::clone(&pool));
        Self {
            served: ArcSwap::default(),
            pool,
            metrics,
            trips: Trips::default(),
            evidence: Evidences::new(Instant::now()),
            published: watch::Sender::default(),
            split_key,
            trusted: TrustedProxies::default(),
            mirrors: Mirrors::default(),
            request_timeout,
            draining: AtomicBool::new(false),
        }
    }

    /// Believes these proxies when they say who their clients are.
    #[must_use]
    pub fn trusting(mut self, proxies: TrustedProxies) -> Self {
        self.trusted = proxies;
        self
    }

    /// Serves a table from the next request on.
    pub fn publish(&self, table: Table) {
        self.trips.settle(&table.runs);
        let witnesses = self.evidence.adopt(&table, &self.trips, Instant::now());
        served::publish(table, witnesses, &self.served, &self.metrics, &self.pool);
        self.metrics.take_out(&self.evidence.tripped());
        self.published.send_replace(());
    }

    /// What the operator asks for.
    pub fn applied(&self) -> Applied {
        self.served.load().applied(&self.evidence.held())
    }

    /// Judges the canaries for as long as the process lives.
    pub async fn judge(&self) {
        let mut ticks = tokio::time::interval(evidence::LOOK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.evidence
                .look(&self.trips, &self.metrics, Instant::now());
        }
    }

    /// Asks clients, answer by answer, to connect elsewhere.
    pub fn start_draining(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Whether the process is on its way out.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Answers a request.
    pub async fn answer(&self, origin: Origin, request: Request<Incoming>) -> Response<AnswerBody> {
        let version = request.version();
        let mut tally = Tally::new(self.metrics.unrouted(), Instant::now());
        let served = self.served.load_full();
        let answered = self.forward(served, origin, request, &mut tally).await;
        let mut response = match answered {
            Ok((delivered, bound)) => answer::deliver(delivered, bound, tally),
            Err(refusal) => refusal.answer(tally),
        };
        if self.is_draining() && version < Version::HTTP_2 {
            response
                .headers_mut()
                .insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }

    async fn forward(
        &self,
        served: Arc<Served>,
        origin: Origin,
        request: Request<Incoming>,
        tally: &mut Tally,
    ) -> Result<(Delivered, Bound), Refusal> {
        if !served.is_known {
            return Err(Refusal::Starting);
        }
        let target = Target::of(&request)?;
        let rule = served.table.find(origin.port, &target.host, target.path());
        let rule = Arc::clone(rule.ok_or(Refusal::NoRoute)?);
        if let Some(meter) = served.route_meter(&rule.route.key) {
            meter.retries.pay_in();
            tally.routed(meter);
        }
        let user = self.user(&rule, origin, &request);
        let draw = user.unwrap_or_else(|| Draw(rand::random()));
        let arm = rule.arm(request.headers(), draw);
        let (drawn, is_testers) = arm.ok_or(Refusal::NoWeight)?;
        let witness = served.witness(&rule);
        let is_tripped = witness.is_some_and(|witness| witness.is_tripped());
        if is_testers {
            tally.testers();
        }
        let effective = rule.effective(drawn, is_tripped);
        let arm = rule.arms.get(effective).ok_or(Refusal::NoWeight)?;
        let fallback = rule.fallback(effective, is_tripped);
        if fallback.is_none() && arm.backend.endpoints().is_empty() && rule.is_going() {
            return Err(Refusal::NoRoute);
        }
        if arm.backend == Backend::Unresolved && fallback.is_none() {
            return Err(Refusal::NoBackend);
        }
        let host = target.host.clone();
        let request = head::outgoing(request, target, origin.client);
        let request = self.mirrored(&served, &rule, drawn, request);
        let bound = Bound::of(rule.request_timeout, self.request_timeout, tally.started());
        let deadline = bound.head_deadline(tally.started());
        let port = origin.port;
        let course = Course {
            proxy: self,
            served,
            rule,
            drawn,
            draw,
            user: user.map(|user| user.0),
            port,
            host,
        };
        let sent = Box::pin(course.run(request, tally));
        let delivered = match deadline {
            Some(deadline) => match tokio::time::timeout_at(deadline, sent).await {
                Ok(delivered) => delivered?,
                Err(_) => return Err(Refusal::TimedOut),
            },
            None => sent.await?,
        };
        Ok((delivered, bound))
    }

    /// The user's draw, which also stands for the user; none without a key.
    fn user(&self, rule: &Rule, origin: Origin, request: &Request<Incoming>) -> Option<Draw> {
        let sticky = rule.sticky.as_ref()?;
        let headers = request.headers();
        let client = || self.trusted.client(origin.client.ip(), headers);
        let user = sticky.key.read(headers, client)?;
        Some(self.split_key.draw(&sticky.run, &user))
    }

    /// Sends a copy of a request to the canary, where the route asks for it.
    fn mirrored(
        &self,
        served: &Served,
        rule: &Rule,
        drawn: usize,
        request: Request<Outgoing>,
    ) -> Request<Outgoing> {
        let out = served.witness(rule).map(|witness| witness.flag());
        if out.as_ref().is_some_and(|out| out.load(Ordering::Relaxed)) {
            return request;
        }
        let canary = rule.mirrored(drawn, request.method(), rand::random());
        let counted = canary.and_then(|canary| Some((canary, served.meter(canary.series)?)));
        let Some((canary, meter)) = counted else {
            return request;
        };
        let bound = rule.request_timeout.unwrap_or(self.request_timeout);
        let to = Destination {
            pool: Arc::clone(&self.pool),
            endpoints: canary.backend.endpoints().to_vec(),
            out,
            meter: Arc::clone(meter),
            bound: if bound.is_zero() {
                MIRROR_MAX
            } else {
                bound.min(MIRROR_MAX)
            },
        };
        self.mirrors.copy(request, to)
    }
}

impl Sightings for Proxy {
    fn snapshot(&self, after: &BTreeMap<ObjectKey, u64>) -> Vec<Evidence> {
        self.evidence.snapshot(after)
    }
}
