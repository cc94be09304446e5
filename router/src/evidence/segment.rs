//! What was counted while step and weight stayed as they were: atomics alone.

use std::collections::BTreeMap;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crds::contract::{self, ArmEvidence};
use verdict::attribution::Track;

use super::guardrails::{Bits, GUARDRAILS_MAX, Guardrails, places};
use super::in_flight::Origin;

/// A stretch of a run in which step and weight did not change.
#[derive(Debug)]
pub struct Segment {
    /// Number, counted from 1 in this process and run.
    pub id: u32,
    /// The step of the run.
    pub step: u32,
    /// The canary's weight in basis points.
    pub weight: u16,
    canary: Counts,
    stable: Counts,
}

/// The requests of one arm.
#[derive(Debug)]
struct Counts {
    requests: AtomicU64,
    bad: [AtomicU64; GUARDRAILS_MAX],
    bad_without_user: [AtomicU64; GUARDRAILS_MAX],
    /// Requests that tell a guardrail nothing.
    untold: [AtomicU64; GUARDRAILS_MAX],
    latency: Box<[AtomicU64]>,
}

/// [`contract::latency_edges`] in nanoseconds.
static EDGES: LazyLock<Vec<u64>> = LazyLock::new(|| {
    let edges = contract::latency_edges().into_iter();
    edges
        .map(|edge| nanos(Duration::from_secs_f64(edge)))
        .collect()
});

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

impl Segment {
    /// Nothing counted.
    pub fn new(id: u32, step: u32, weight: u16) -> Self {
        Self {
            id,
            step,
            weight,
            canary: Counts::new(),
            stable: Counts::new(),
        }
    }

    /// The weight as a share.
    pub fn share(&self) -> f64 {
        f64::from(self.weight) / 10_000.0
    }

    /// Whether both arms get requests.
    pub fn is_split(&self) -> bool {
        (1..10_000).contains(&self.weight)
    }

    /// A request ended.
    pub fn ended(&self, origin: &Origin, took: Duration) {
        let counts = self.counts(origin.track);
        counts.requests.fetch_add(1, Relaxed);
        if origin.counted != Bits::MAX {
            for at in places(!origin.counted) {
                if let Some(untold) = counts.untold.get(at) {
                    untold.fetch_add(1, Relaxed);
                }
            }
        }
        let took = nanos(took);
        let bucket = EDGES.partition_point(|edge| *edge < took);
        if let Some(bucket) = counts.latency.get(bucket) {
            bucket.fetch_add(1, Relaxed);
        }
    }

    /// A request was bad in these ways.
    pub fn bad(&self, track: Track, bits: Bits, has_user: bool) {
        let counts = self.counts(track);
        for at in places(bits) {
            for counters in [
                Some(&counts.bad),
                (!has_user).then_some(&counts.bad_without_user),
            ] {
                if let Some(counter) = counters.and_then(|counters| counters.get(at)) {
                    counter.fetch_add(1, Relaxed);
                }
            }
        }
    }

    /// Requests of an arm that ended.
    pub fn requests(&self, track: Track) -> u64 {
        self.counts(track).requests.load(Relaxed)
    }

    /// Requests of an arm that broke a guardrail.
    pub fn bad_requests(&self, track: Track, at: usize) -> u64 {
        let counter = self.counts(track).bad.get(at);
        counter.map_or(0, |counter| counter.load(Relaxed))
    }

    /// Whether nothing was ever counted.
    pub fn is_empty(&self) -> bool {
        self.canary.sum() + self.stable.sum() == 0
    }

    /// A number that rises whenever something is counted.
    pub fn sum(&self) -> u64 {
        self.canary.sum() + self.stable.sum()
    }

    /// Takes up what another segment counted, but for what is only worth something at its weight.
    pub fn absorb(&self, other: &Self) {
        let alike = self.weight == other.weight;
        self.canary.absorb(&other.canary, alike);
        self.stable.absorb(&other.stable, alike);
    }

    /// As the stream tells it.
    pub fn to_contract(&self, guardrails: &Guardrails, units: u64) -> contract::Segment {
        let arm = |counts: &Counts, units| counts.to_contract(guardrails, units);
        contract::Segment {
            id: self.id,
            step: self.step,
            weight: self.weight,
            canary: arm(&self.canary, units),
            stable: arm(&self.stable, 0),
        }
    }

    fn counts(&self, track: Track) -> &Counts {
        match track {
            Track::Canary => &self.canary,
            Track::Stable => &self.stable,
        }
    }
}

impl Counts {
    fn new() -> Self {
        Self {
            requests: AtomicU64::default(),
            bad: Default::default(),
            bad_without_user: Default::default(),
            untold: Default::default(),
            latency: (0..=EDGES.len()).map(|_| AtomicU64::default()).collect(),
        }
    }

    fn sum(&self) -> u64 {
        let bad: u64 = self.bad.iter().map(|count| count.load(Relaxed)).sum();
        self.requests.load(Relaxed) + bad
    }

    fn absorb(&self, other: &Self, alike: bool) {
        let pairs = std::iter::once((&self.requests, &other.requests))
            .chain(self.bad.iter().zip(&other.bad))
            .chain(self.untold.iter().zip(&other.untold))
            .chain(self.latency.iter().zip(&other.latency));
        let without_user = self.bad_without_user.iter().zip(&other.bad_without_user);
        for (into, from) in pairs.chain(without_user.filter(|_| alike)) {
            into.fetch_add(from.load(Relaxed), Relaxed);
        }
    }

    fn to_contract(&self, guardrails: &Guardrails, units: u64) -> ArmEvidence {
        let by_name = |counters: &[AtomicU64]| -> BTreeMap<String, u64> {
            let counts = guardrails.iter().zip(counters);
            counts
                .map(|(guardrail, count)| (guardrail.name.clone(), count.load(Relaxed)))
                .filter(|(_, count)| *count > 0)
                .collect()
        };
        ArmEvidence {
            requests: self.requests.load(Relaxed),
            units,
            bad: by_name(&self.bad),
            bad_without_user: by_name(&self.bad_without_user),
            untold: by_name(&self.untold),
            latency: self
                .latency
                .iter()
                .map(|count| count.load(Relaxed))
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_latency_at_an_edge_is_within_it() {
        let edges = contract::latency_edges();
        let at = |wanted: f64| {
            let segment = Segment::new(1, 1, 500);
            let origin = Origin {
                segment: 1,
                track: Track::Canary,
                user: None,
                counted: Bits::MAX,
            };
            segment.ended(&origin, Duration::from_secs_f64(wanted));
            let arm = segment.to_contract(&Guardrails::default(), 0).canary;
            assert_eq!(arm.latency.len(), edges.len() + 1);
            arm.latency.iter().position(|count| *count == 1).unwrap()
        };
        for edge in [0.0001, 0.25, 600.0] {
            let place = edges.iter().position(|it| it.total_cmp(&edge).is_eq());
            assert_eq!(Some(at(edge)), place, "{edge}");
            assert_eq!(at(edge + 1e-6), place.unwrap() + 1, "{edge}");
        }
    }
}
