//! Sends a request to an endpoint, and to another one where that is safe.
//!
//! Safe is what no pod has begun to work on: a connection that could not be made, or one that took
//! nothing of the request. Beyond that a request is sent again only where its method allows it and
//! it has no body.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use http::{HeaderValue, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use tracing::debug;

use super::Proxy;
use super::refusal::Refusal;
use super::tally::Tally;
use crate::evidence::trial::Observation;
use crate::metrics::{Meter, Retry};
use crate::pick::{self, Draw, Standing};
use crate::pool::{Connection, Flight, Outgoing};
use crate::served::Served;
use crate::table::{Arm, Role, Rule};

/// Attempts at most: a first and two more.
const ATTEMPTS_MAX: usize = 3;

/// A response whose body is still to come.
#[derive(Debug)]
pub(super) struct Delivered {
    pub(super) response: Response<Incoming>,
    pub(super) connection: Connection,
    pub(super) flight: Flight,
    pub(super) revision: HeaderValue,
}

/// How one attempt ended.
enum Sent {
    Answered(Response<Incoming>, Connection),
    /// No pod saw any of it.
    Untouched(Request<Outgoing>),
    /// A pod may have begun to work on it.
    Lost {
        /// The connection had carried requests before.
        reused: bool,
    },
    /// The client broke off in the middle of its body.
    ClientBroke,
    /// The attempt took longer than the route allows.
    TooSlow,
}

/// The way of one request.
pub(super) struct Course<'proxy> {
    pub(super) proxy: &'proxy Proxy,
    pub(super) served: Arc<Served>,
    pub(super) rule: Arc<Rule>,
    /// The arm that was drawn.
    pub(super) drawn: usize,
    pub(super) draw: Draw,
    /// Who the user is, if the request has a key.
    pub(super) user: Option<u64>,
    pub(super) port: u16,
    pub(super) host: String,
}

/// Where an attempt goes.
struct Aim {
    meter: Option<Arc<Meter>>,
    role: Role,
    address: SocketAddr,
}

impl Course<'_> {
    /// Sends the request until it is answered or must not be sent again.
    pub(super) async fn run(
        mut self,
        mut request: Request<Outgoing>,
        tally: &mut Tally,
    ) -> Result<Delivered, Refusal> {
        let mut tried: Vec<SocketAddr> = Vec::new();
        let mut last = Refusal::NoEndpoint;
        // Where the attempt before was made.
        let mut from: Option<Arc<Meter>> = None;
        for attempt in 1..=ATTEMPTS_MAX {
            let Some((arm, address)) = self.choose(&tried, attempt == ATTEMPTS_MAX) else {
                return Err(last);
            };
            let meter = self.served.meter(arm.series).cloned();
            if from.is_some_and(|from| !self.may_retry(tally, &from)) {
                return Err(last);
            }
            let flight = self.proxy.pool.begin(address);
            let again = copy(&request);
            let aim = Aim {
                meter,
                role: arm.role,
                address,
            };
            let sent = self.send(&flight, request, &aim, tally).await;
            request = match sent {
                Sent::Answered(response, connection) => {
                    flight.answered();
                    let revision = arm.header.clone();
                    return Ok(Delivered {
                        response,
                        connection,
                        flight,
                        revision,
                    });
                }
                Sent::ClientBroke => return Err(Refusal::ClientBroke),
                Sent::TooSlow => return Err(Refusal::TimedOut),
                Sent::Untouched(request) => {
                    tried.push(address);
                    request
                }
                Sent::Lost { reused } => {
                    tally.ended(StatusCode::BAD_GATEWAY.as_u16());
                    if !reused {
                        // Of an old connection that was closed nothing follows for a new one.
                        flight.reset();
                        tried.push(address);
                    }
                    last = Refusal::Lost;
                    again.ok_or(Refusal::Lost)?
                }
            };
            from = aim.meter;
            self.look_again(&request);
        }
        Err(last)
    }

    /// Whether the request may be sent once more, after an attempt that was made there.
    fn may_retry(&self, tally: &Tally, from: &Meter) -> bool {
        let may = tally.route().retries.take(self.proxy.pool.clock());
        from.retried(if may { Retry::Sent } else { Retry::OverBudget });
        may
    }

    /// Takes up what is served by now: an endpoint that failed has often just been replaced.
    fn look_again(&mut self, request: &Request<Outgoing>) {
        let served = self.proxy.served.load_full();
        if Arc::ptr_eq(&served, &self.served) {
            return;
        }
        let path = request.uri().path();
        let rule = served.table.find(self.port, &self.host, path);
        if let Some(rule) = rule
            && let Some((drawn, _)) = rule.arm(request.headers(), self.draw)
        {
            self.rule = Arc::clone(rule);
            self.drawn = drawn;
            self.served = served;
        }
    }

    /// An endpoint that was not tried: of the arm that was drawn, of the one that answers for it,
    /// and only then one that is left out. A canary with more pods than there are attempts may have
    /// lost all of them: the last attempt is stable's.
    fn choose(&self, tried: &[SocketAddr], is_last: bool) -> Option<(&Arm, SocketAddr)> {
        let is_tripped = self.is_tripped();
        let drawn = self.rule.effective(self.drawn, is_tripped);
        let fallback = self.rule.fallback(drawn, is_tripped);
        let fallback = fallback.and_then(|arm| self.rule.arms.get(arm));
        let drawn = self.rule.arms.get(drawn)?;
        let arms = if is_last && drawn.role == Role::Canary {
            [fallback, Some(drawn)]
        } else {
            [Some(drawn), fallback]
        };
        let pool = &self.proxy.pool;
        let find = |standing: &dyn Fn(SocketAddr) -> Standing| {
            arms.into_iter().flatten().find_map(|arm| {
                let standing = |address| {
                    if tried.contains(&address) {
                        Standing::Tried
                    } else {
                        standing(address)
                    }
                };
                let random = Draw(rand::random());
                let chosen = pick::endpoint(arm.backend.endpoints(), random, standing);
                chosen.map(|address| (arm, address))
            })
        };
        find(&|address| pool.standing(address)).or_else(|| find(&|_| Standing::Usable(0)))
    }

    fn is_tripped(&self) -> bool {
        let witness = self.served.witness(&self.rule);
        witness.is_some_and(|witness| witness.is_tripped())
    }

    /// Makes the attempt evidence. One that answers for the other arm is none: it was not put there
    /// by the split, and evidence is about where bad events fall of those that were.
    fn observe(&self, aim: &Aim, started: Instant) -> Option<Observation> {
        let drawn = self.rule.effective(self.drawn, self.is_tripped());
        if self.rule.arms.get(drawn)?.role != aim.role {
            return None;
        }
        let witness = self.served.witness(&self.rule)?;
        witness.observe((aim.role, aim.address), self.user, started)
    }

    async fn send(
        &self,
        flight: &Flight,
        request: Request<Outgoing>,
        aim: &Aim,
        tally: &mut Tally,
    ) -> Sent {
        let upstream = flight.upstream();
        let mut request = request;
        if let Some(connection) = upstream.checkout() {
            // A pooled connection may have been closed a moment ago; a new one tells.
            match self.exchange(connection, request, aim, tally).await {
                Sent::Untouched(untouched) => request = untouched,
                settled @ (Sent::Answered(..)
                | Sent::Lost { .. }
                | Sent::ClientBroke
                | Sent::TooSlow) => {
                    return settled;
                }
            }
        }
        match self.proxy.pool.connect(flight).await {
            Ok(connection) => self.exchange(connection, request, aim, tally).await,
            Err(error) => {
                debug!(address = %upstream.address(), %error, "endpoint could not be reached");
                Sent::Untouched(request)
            }
        }
    }

    async fn exchange(
        &self,
        mut connection: Connection,
        request: Request<Outgoing>,
        aim: &Aim,
        tally: &mut Tally,
    ) -> Sent {
        let observe = |started| self.observe(aim, started);
        let first = match &aim.meter {
            Some(meter) => tally.reaching(meter, observe),
            None => false,
        };
        let sent = match self.rule.attempt_timeout.filter(|bound| !bound.is_zero()) {
            Some(bound) => match tokio::time::timeout(bound, connection.send(request)).await {
                Ok(sent) => sent,
                Err(_) => return Sent::TooSlow,
            },
            None => connection.send(request).await,
        };
        let settled = settle(sent, connection);
        if first && matches!(settled, Sent::Untouched(_)) {
            tally.unreached();
        }
        settled
    }
}

type Exchanged = Result<Response<Incoming>, TrySendError<Request<Outgoing>>>;

fn settle(exchanged: Exchanged, connection: Connection) -> Sent {
    let mut error = match exchanged {
        // Upgrades are never asked for.
        Ok(response) if response.status() == StatusCode::SWITCHING_PROTOCOLS => {
            return Sent::Lost { reused: false };
        }
        Ok(response) => return Sent::Answered(response, connection),
        Err(error) => error,
    };
    if let Some(request) = error.take_message() {
        return Sent::Untouched(request);
    }
    if error.error().is_user() {
        return Sent::ClientBroke;
    }
    debug!(error = %error.error(), reused = connection.reused, "endpoint gave no answer");
    Sent::Lost {
        reused: connection.reused,
    }
}

/// The same request once more, where sending it twice does no harm: idempotent by its method or by
/// the client's word, and without a body.
fn copy(request: &Request<Outgoing>) -> Option<Request<Outgoing>> {
    let harmless =
        request.method().is_idempotent() || request.headers().contains_key("idempotency-key");
    if !harmless || !matches!(request.body(), Outgoing::Empty) {
        return None;
    }
    let mut copy = Request::new(Outgoing::Empty);
    copy.method_mut().clone_from(request.method());
    copy.uri_mut().clone_from(request.uri());
    *copy.version_mut() = request.version();
    copy.headers_mut().clone_from(request.headers());
    Some(copy)
}
