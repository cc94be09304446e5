//! One run on one route: what its requests hold on to, and what the judge makes of them.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_queue::ArrayQueue;
use verdict::attribution::Track;

use super::guardrails::{Bits, Ended, Guardrails};
use super::in_flight::{InFlight, Origin, Place};
use super::ledger::Ledger;
use super::segment::Segment;
use crate::table::objects::ObjectKey;
use crate::table::{Role, Run, Watched};

/// Outcomes between two looks of the judge; a megabyte and a half.
const INBOX_MAX: usize = 32 * 1024;

/// What requests tell the judge, in the order in which they ended. Its clock is the judge's.
#[derive(Debug)]
pub struct Inbox {
    queue: ArrayQueue<Outcome>,
    epoch: Instant,
}

/// What a request tells.
#[derive(Debug)]
pub struct Outcome {
    witness: Arc<Witness>,
    is_resting: bool,
    pub(super) track: Track,
    pub(super) user: Option<u64>,
    /// The guardrails that it tells of.
    pub(super) judged: Bits,
    /// Those that it broke.
    pub(super) bad: Bits,
    /// Whether it is over.
    pub(super) is_over: bool,
}

impl Inbox {
    /// Nothing told.
    pub fn new(epoch: Instant) -> Self {
        Self {
            queue: ArrayQueue::new(INBOX_MAX),
            epoch,
        }
    }

    /// The judge's time.
    pub fn at(&self, instant: Instant) -> Duration {
        instant.saturating_duration_since(self.epoch)
    }

    /// What was told since the last look; what is told meanwhile is for the next.
    pub fn take(&self) -> impl Iterator<Item = Outcome> + '_ {
        (0..INBOX_MAX).map_while(|_| self.queue.pop())
    }
}

/// One run on one route.
#[derive(Debug)]
pub struct Trial {
    /// The route.
    pub route: ObjectKey,
    /// Name of its `ModelDeployment`, or empty.
    pub model_deployment: String,
    /// The run.
    pub run: Run,
    /// Stable.
    pub stable: String,
    /// What is judged.
    pub guardrails: Guardrails,
    /// Set when the canary was taken out, by whomever.
    pub tripped: Arc<AtomicBool>,
    /// Whether stable has an endpoint to go to.
    pub stable_reachable: AtomicBool,
    pub(super) in_flight: Option<InFlight>,
    inbox: Arc<Inbox>,
    /// Outcomes that found no room.
    pub(super) lost: AtomicU64,
    ledger: Mutex<Ledger>,
}

impl Trial {
    /// Of a run that begins here.
    pub fn new(watched: &Watched, tripped: Arc<AtomicBool>, inbox: Arc<Inbox>) -> Self {
        let guardrails = Guardrails::clone(&watched.guardrails);
        Self {
            route: watched.route.key.clone(),
            model_deployment: watched.route.model_deployment.clone(),
            run: watched.run.clone(),
            stable: watched.stable_revision.clone(),
            tripped,
            stable_reachable: AtomicBool::new(false),
            in_flight: guardrails.judge_in_flight().then(InFlight::default),
            guardrails,
            inbox,
            lost: AtomicU64::default(),
            ledger: Mutex::default(),
        }
    }

    /// What the judge has.
    pub(super) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the canary was taken out.
    pub fn is_tripped(&self) -> bool {
        self.tripped.load(Ordering::Relaxed)
    }
}

/// What the requests of one rule hold while one table is served.
#[derive(Debug)]
pub struct Witness {
    pub(super) trial: Arc<Trial>,
    pub(super) segment: Arc<Segment>,
    /// In force from a trip on: the canary has no weight.
    pub(super) resting: Arc<Segment>,
    /// Whether this rule has an endpoint of stable.
    pub(super) stable_reachable: bool,
    pub(super) ages: Ages,
}

/// Since when endpoints are known.
#[derive(Clone, Debug)]
pub(super) struct Ages {
    pub(super) appeared: Arc<HashMap<SocketAddr, Instant>>,
    /// Since when both arms are what they are, but for a tenth of either; none: one has no endpoint.
    pub(super) settled: Option<Instant>,
    /// From then on all endpoints are warm for every guardrail: nothing has to be looked up.
    pub(super) warm_from: Instant,
}

impl Ages {
    /// The guardrails for which a request counts. A comparison asks more than a warm endpoint: where
    /// one arm's requests are left out, the other's bad events alone would speak against either.
    fn counted(
        &self,
        (address, now): (SocketAddr, Instant),
        guardrails: &Guardrails,
        is_split: bool,
    ) -> Bits {
        if now >= self.warm_from && (self.settled.is_some() || !is_split) {
            return Bits::MAX;
        }
        let age = |since| now.saturating_duration_since(since);
        let own = age(self.appeared.get(&address).copied().unwrap_or(now));
        let beside = match self.settled {
            _ if !is_split => Some(own),
            settled => settled.map(|settled| own.min(age(settled))),
        };
        guardrails.counted(own, beside)
    }
}

impl Witness {
    /// Whether the canary was taken out, and there is something to answer for it: nothing shifts
    /// onto nothing.
    pub fn is_tripped(&self) -> bool {
        self.stable_reachable && self.trial.is_tripped()
    }

    /// Set once the canary was taken out.
    pub fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.trial.tripped)
    }

    /// A request is about to reach an endpoint of an arm.
    pub fn observe(
        self: &Arc<Self>,
        (role, address): (Role, SocketAddr),
        user: Option<u64>,
        started: Instant,
    ) -> Option<Observation> {
        let track = match role {
            Role::Canary => Track::Canary,
            Role::Stable => Track::Stable,
            Role::Plain => return None,
        };
        let is_resting = self.is_tripped();
        let guardrails = &self.trial.guardrails;
        let segment = self.in_force(is_resting);
        let counted = self
            .ages
            .counted((address, started), guardrails, segment.is_split());
        let origin = Origin {
            segment: segment.id,
            track,
            user,
            counted,
        };
        let place = self
            .trial
            .in_flight
            .as_ref()
            .and_then(|slots| slots.begin(self.trial.inbox.at(started), origin));
        Some(Observation {
            witness: Arc::clone(self),
            is_resting,
            origin,
            place,
            marked: 0,
        })
    }

    fn in_force(&self, is_resting: bool) -> &Arc<Segment> {
        if is_resting {
            &self.resting
        } else {
            &self.segment
        }
    }
}

/// A request whose first attempt is at a pod.
#[derive(Debug)]
pub struct Observation {
    witness: Arc<Witness>,
    is_resting: bool,
    origin: Origin,
    place: Option<Place>,
    /// What was told already, where there was no slot to note it.
    marked: Bits,
}

impl Observation {
    /// The first chunk of the answer's body came.
    pub fn first_byte(&self) {
        if let (Some(slots), Some(place)) = (&self.witness.trial.in_flight, self.place) {
            slots.first_byte(place);
        }
    }

    /// Whether it matters how long the endpoint pauses.
    pub fn judges_pauses(&self) -> bool {
        self.witness.trial.guardrails.judge_pauses()
    }

    /// The endpoint paused in the middle of the body. Told at once: a stream may have no end.
    pub fn paused(&mut self, pause: Duration) {
        let broken = self.witness.trial.guardrails.broken_by_pause(pause);
        if broken == 0 {
            return;
        }
        let fresh = match (&self.witness.trial.in_flight, self.place) {
            (Some(slots), Some(place)) => slots.mark(place, broken),
            _ => broken & !self.marked,
        };
        self.marked |= broken;
        let bad = fresh & self.origin.counted;
        if bad != 0 {
            self.segment().bad(self.origin.track, bad, self.has_user());
            self.tell(bad, bad, false);
        }
    }

    /// The attempt reached no pod after all. What was held against it meanwhile stays.
    pub fn cancel(mut self, took: Duration) {
        if self.release() != 0 {
            self.segment().ended(&self.origin, took);
        }
    }

    /// The attempt ended.
    pub fn end(mut self, ended: &Ended) {
        let told = self.release();
        let guardrails = &self.witness.trial.guardrails;
        let mut judged = self.origin.counted & !told;
        let mut broken = guardrails.broken(ended);
        if ended.code == super::CLIENT_WENT_AWAY {
            // Who gives up after a bound was passed has seen that it was; who goes away earlier
            // tells nothing.
            broken = guardrails.broken_by_age(ended.took, ended.first_byte.is_some());
            if broken | told == 0 {
                return;
            }
            judged &= broken;
        }
        let bad = broken & judged;
        let segment = self.segment();
        segment.ended(&self.origin, ended.took);
        segment.bad(self.origin.track, bad, self.has_user());
        if bad != 0 || self.origin.track == Track::Canary {
            self.tell(judged, bad, true);
        }
    }

    fn release(&mut self) -> Bits {
        let noted = match (&self.witness.trial.in_flight, self.place.take()) {
            (Some(slots), Some(place)) => slots.end(place),
            _ => 0,
        };
        noted | self.marked
    }

    fn segment(&self) -> &Segment {
        self.witness.in_force(self.is_resting)
    }

    fn has_user(&self) -> bool {
        self.origin.user.is_some()
    }

    fn tell(&self, judged: Bits, bad: Bits, is_over: bool) {
        let outcome = Outcome {
            witness: Arc::clone(&self.witness),
            is_resting: self.is_resting,
            track: self.origin.track,
            user: self.origin.user,
            judged,
            bad,
            is_over,
        };
        let trial = &self.witness.trial;
        if trial.inbox.queue.push(outcome).is_err() {
            trial.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Observation {
    fn drop(&mut self) {
        // However a request is dropped, its slot is free again.
        self.release();
    }
}

impl Outcome {
    /// The run that it tells of.
    pub(super) fn trial(&self) -> &Arc<Trial> {
        &self.witness.trial
    }

    /// The segment in which it was routed.
    pub(super) fn segment(&self) -> &Segment {
        self.witness.in_force(self.is_resting)
    }
}
