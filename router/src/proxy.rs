//! The request path: match, draw, forward, answer.

mod answer;
mod attempt;
mod guarded;
mod head;
mod refusal;
pub mod server;
mod tally;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use http::header::CONNECTION;
use http::{HeaderName, HeaderValue, Request, Response, Version};
use hyper::body::Incoming;
use tokio::sync::watch;

use crate::metrics::Metrics;
use crate::pick::{self, Draw, SplitKey};
use crate::pool::Pool;
use crate::served::{self, Served};
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

/// Everything that the request path needs.
#[derive(Debug)]
pub struct Proxy {
    /// What is served.
    pub served: ArcSwap<Served>,
    /// Connections to endpoints.
    pub pool: Pool,
    /// What is counted.
    pub metrics: Metrics,
    /// Which canaries were taken out.
    pub trips: Trips,
    /// Says that another table is served.
    pub published: watch::Sender<()>,
    split_key: SplitKey,
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
        Self {
            served: ArcSwap::default(),
            pool: Pool::new(connect_timeout, Instant::now()),
            metrics: Metrics::new(),
            trips: Trips::default(),
            published: watch::Sender::default(),
            split_key,
            request_timeout,
            draining: AtomicBool::new(false),
        }
    }

    /// Serves a table from the next request on.
    pub fn publish(&self, table: Table) {
        self.trips.settle(&table.runs);
        served::publish(table, &self.served, &self.metrics, &self.pool);
        self.published.send_replace(());
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
            tally.routed(meter);
        }
        let draw = self.draw(&rule, &request);
        let drawn = pick::arm(&rule.arms, draw).ok_or(Refusal::NoWeight)?;
        let arm = rule.arms.get(drawn).ok_or(Refusal::NoWeight)?;
        if arm.backend == Backend::Unresolved && rule.fallback(drawn).is_none() {
            return Err(Refusal::NoBackend);
        }
        let host = target.host.clone();
        let request = head::outgoing(request, target, origin.client);
        let bound = Bound::of(rule.request_timeout, self.request_timeout, tally.started());
        let deadline = bound.head_deadline(tally.started());
        let port = origin.port;
        let course = Course {
            proxy: self,
            served,
            rule,
            drawn,
            draw,
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

    fn draw(&self, rule: &Rule, request: &Request<Incoming>) -> Draw {
        let user = rule.sticky.as_ref().and_then(|sticky| {
            let user = sticky.key.read(request.headers())?;
            Some(self.split_key.draw(&sticky.run, user))
        });
        user.unwrap_or_else(|| Draw(rand::random()))
    }
}
