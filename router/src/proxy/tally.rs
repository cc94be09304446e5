//! Counts a request once, when it is over, by the outcome of the first attempt that reached a pod.

use std::sync::Arc;
use std::time::{Duration, Instant};

pub(super) use crate::evidence::CLIENT_WENT_AWAY;
use crate::evidence::guardrails::Ended;
use crate::evidence::trial::Observation;
use crate::metrics::Meter;

/// Counts when it is dropped, so that a request that is cancelled anywhere is counted too.
#[derive(Debug)]
pub(super) struct Tally {
    started: Instant,
    /// Counts what reached no pod.
    route: Arc<Meter>,
    /// The first attempt that reached a pod.
    first: Option<First>,
    /// Whether it is a tester's: it counts as a request, and is no evidence.
    is_testers: bool,
    /// What the client was told, where no attempt reached a pod.
    told: Option<u16>,
}

#[derive(Debug)]
struct First {
    meter: Arc<Meter>,
    code: Option<u16>,
    /// None where it is no evidence.
    observation: Option<Observation>,
    /// When its body began, from the request's arrival.
    body_began: Option<Duration>,
    broken: bool,
}

impl First {
    /// Told once.
    fn observed(&mut self, code: u16, took: Duration) {
        if let Some(observation) = self.observation.take() {
            observation.end(&Ended {
                code,
                took,
                first_byte: self.body_began,
                broken: self.broken,
            });
        }
    }
}

impl Tally {
    /// Of a request that began now.
    pub(super) fn new(unrouted: Arc<Meter>, started: Instant) -> Self {
        Self {
            started,
            route: unrouted,
            first: None,
            is_testers: false,
            told: None,
        }
    }

    /// When the request began.
    pub(super) fn started(&self) -> Instant {
        self.started
    }

    /// A route took the request.
    pub(super) fn routed(&mut self, meter: &Arc<Meter>) {
        self.route = Arc::clone(meter);
    }

    /// The canary was asked for by a tester.
    pub(super) fn testers(&mut self) {
        self.is_testers = true;
    }

    /// The meter of its route.
    pub(super) fn route(&self) -> &Arc<Meter> {
        &self.route
    }

    /// An attempt is about to reach a pod. True where it is the first.
    pub(super) fn reaching(
        &mut self,
        meter: &Arc<Meter>,
        observe: impl FnOnce(Instant) -> Option<Observation>,
    ) -> bool {
        if self.first.is_some() {
            return false;
        }
        self.first = Some(First {
            meter: Arc::clone(meter),
            code: None,
            observation: if self.is_testers {
                None
            } else {
                observe(self.started)
            },
            body_began: None,
            broken: false,
        });
        true
    }

    /// That attempt reached no pod after all.
    pub(super) fn unreached(&mut self) {
        if let Some(observation) = self.first.take().and_then(|first| first.observation) {
            observation.cancel(self.started.elapsed());
        }
    }

    /// The attempt in hand ended so. Only the first one's end counts.
    pub(super) fn ended(&mut self, code: u16) {
        match &mut self.first {
            Some(first) if first.code.is_none() => {
                first.code = Some(code);
                first.observed(code, self.started.elapsed());
            }
            Some(_) => {}
            None => self.told = Some(code),
        }
    }

    /// The body of the answer in hand ended before it was complete.
    pub(super) fn broken_off(&mut self, code: u16) {
        if let Some(first) = &mut self.first {
            first.broken |= first.code.is_none();
        }
        self.ended(code);
    }

    /// A chunk of the body came.
    pub(super) fn chunk(&mut self) {
        let started = self.started;
        if let Some(first) = self.being_observed().filter(|it| it.body_began.is_none()) {
            first.body_began = Some(started.elapsed());
            if let Some(observation) = &first.observation {
                observation.first_byte();
            }
        }
    }

    /// Whether it matters how long the endpoint pauses.
    pub(super) fn judges_pauses(&self) -> bool {
        let observation = self.first.as_ref().and_then(|it| it.observation.as_ref());
        observation.is_some_and(Observation::judges_pauses)
    }

    /// The endpoint paused in the middle of the body.
    pub(super) fn paused(&mut self, pause: Duration) {
        let first = self.being_observed();
        if let Some(observation) = first.and_then(|first| first.observation.as_mut()) {
            observation.paused(pause);
        }
    }

    fn being_observed(&mut self) -> Option<&mut First> {
        self.first.as_mut().filter(|it| it.observation.is_some())
    }
}

impl Drop for Tally {
    fn drop(&mut self) {
        let took = self.started.elapsed();
        match &mut self.first {
            Some(first) => {
                let code = first.code.unwrap_or(CLIENT_WENT_AWAY);
                first.observed(code, took);
                first.meter.count(code, took);
            }
            None => self
                .route
                .count(self.told.unwrap_or(CLIENT_WENT_AWAY), took),
        }
    }
}
