//! Counts a request once, when it is over, by the outcome of the first attempt that reached a pod.

use std::sync::Arc;
use std::time::Instant;

use crate::metrics::Meter;

/// The client went away before the end of the answer.
pub(super) const CLIENT_WENT_AWAY: u16 = 499;

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
    pub(super) fn reaching(&mut self, meter: &Arc<Meter>) -> bool {
        if self.first.is_some() {
            return false;
        }
        self.first = Some(First {
            meter: Arc::clone(meter),
            code: None,
        });
        true
    }

    /// That attempt reached no pod after all.
    pub(super) fn unreached(&mut self) {
        self.first = None;
    }

    /// The attempt in hand ended so. Only the first one's end counts.
    pub(super) fn ended(&mut self, code: u16) {
        match &mut self.first {
            Some(first) => {
                first.code.get_or_insert(code);
            }
            None => self.told = Some(code),
        }
    }
}

impl Drop for Tally {
    fn drop(&mut self) {
        let took = self.started.elapsed();
        match &self.first {
            Some(first) => first
                .meter
                .count(first.code.unwrap_or(CLIENT_WENT_AWAY), took),
            None => self
                .route
                .count(self.told.unwrap_or(CLIENT_WENT_AWAY), took),
        }
    }
}
