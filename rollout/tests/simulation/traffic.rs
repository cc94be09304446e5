//! Users, and what routers count of their requests.

use std::collections::{BTreeMap, BTreeSet};

use rollout::{
    evidence::{FirstBad, GuardrailEvidence, RunEvidence, Stretch},
    guardrail::{RouterCheck, RouterTest},
    weight::Weight,
};
use verdict::{
    attribution::{Attribution, Track},
    lanes::Lanes,
    units::{BadEvent, FirstSeen},
};

use super::cluster::{Cluster, Revision};

/// Users who ask, and how their requests go.
#[derive(Debug)]
pub(crate) struct Traffic {
    /// How many there are; each comes again and again.
    pub(crate) users: u64,
    /// Requests a second.
    pub(crate) rate: u64,
    /// The chance of a bad request by revision and guardrail; 0 where nothing is said.
    pub(crate) bad: BTreeMap<(Revision, &'static str), f64>,
    /// One in so many users has bad requests only, whichever revision answers; 0: none.
    pub(crate) hopeless: u64,
    /// Whether the canary gets half of the requests that its weight gives it.
    pub(crate) is_lossy: bool,
    /// The guardrail that no request tells anything, as all endpoints are new.
    pub(crate) warming: Option<&'static str>,
    random: Random,
    run: String,
    counts: BTreeMap<(u32, Weight), Stretch>,
    met: BTreeSet<(u32, Weight, u64)>,
    tallies: BTreeMap<String, Tally>,
}

/// Where the run stands, by the route.
#[derive(Debug)]
struct Place {
    step: u32,
    weight: Weight,
    now: u64,
}

#[derive(Debug)]
struct Tally {
    lanes: Option<Lanes>,
    seen: BTreeSet<(bool, u64)>,
    first_bad: BTreeMap<Weight, FirstBad>,
}

/// `SplitMix64`.
#[derive(Clone, Copy, Debug)]
struct Random(u64);

fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

#[expect(clippy::cast_precision_loss, reason = "53 bits are kept")]
fn unit(bits: u64) -> f64 {
    (bits >> 11) as f64 / (1_u64 << 53) as f64
}

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }
}

impl Traffic {
    pub(crate) fn new(users: u64, rate: u64, seed: u64) -> Self {
        Self {
            users,
            rate,
            bad: BTreeMap::new(),
            hopeless: 0,
            is_lossy: false,
            warming: None,
            random: Random(seed),
            run: String::new(),
            counts: BTreeMap::new(),
            met: BTreeSet::new(),
            tallies: BTreeMap::new(),
        }
    }

    pub(crate) fn with_bad(
        mut self,
        revision: Revision,
        guardrail: &'static str,
        chance: f64,
    ) -> Self {
        self.bad.insert((revision, guardrail), chance);
        self
    }

    /// A second of requests through the routers, by the route as it is.
    pub(crate) fn second(&mut self, cluster: &mut Cluster) {
        let split = cluster.rule.as_ref().and_then(|rule| rule.split.clone());
        let Some((split, canary)) = split.and_then(|split| {
            let canary = split.canary.clone()?;
            Some((split, canary))
        }) else {
            return;
        };
        if self.run != split.run {
            self.run.clone_from(&split.run);
            self.counts.clear();
            self.met.clear();
            self.tallies.clear();
        }
        let place = Place {
            step: split.step,
            weight: cluster.weight(&canary),
            now: u64::try_from(cluster.now.as_second()).unwrap(),
        };
        for (guardrail, check) in cluster.plan.for_routers() {
            let tally = self.tallies.entry(guardrail.name.clone());
            let tally = tally.or_insert_with(|| Tally::begin(check, &place));
            if let Some(lanes) = &mut tally.lanes {
                lanes.advance(place.step, place.now);
            }
        }
        for _ in 0..self.rate {
            self.request(cluster.by_user, (&split.stable, &canary), &place);
        }
        cluster.evidence = Some(RunEvidence {
            run: split.run.clone(),
            revision: canary,
            stretches: self.counts.values().cloned().collect(),
            guardrails: self
                .tallies
                .iter()
                .map(|(name, tally)| (name.clone(), tally.evidence()))
                .collect(),
            problem: None,
        });
    }

    fn request(&mut self, by_user: bool, (stable, canary): (&str, &str), place: &Place) {
        let user = self.random.next() % self.users;
        let of_run = self
            .run
            .bytes()
            .fold(user, |hash, byte| mix(hash ^ u64::from(byte)));
        let draw = if by_user { of_run } else { self.random.next() };
        let share = place.share() * if self.is_lossy { 0.5 } else { 1.0 };
        let is_canary = unit(mix(draw)) < share;
        let (track, revision) = if is_canary {
            (Track::Canary, canary)
        } else {
            (Track::Stable, stable)
        };
        let stretch = self.counts.entry((place.step, place.weight));
        let stretch = stretch.or_insert_with(|| Stretch {
            step: place.step,
            weight: place.weight,
            ..Stretch::default()
        });
        let requests = match track {
            Track::Canary => &mut stretch.canary,
            Track::Stable => &mut stretch.stable,
        };
        requests.requests += 1;
        let is_new = !by_user || self.met.insert((place.step, place.weight, user));
        requests.units += u64::from(is_canary && is_new);
        let is_hopeless = self.hopeless > 0 && user.is_multiple_of(self.hopeless);
        for (name, tally) in &mut self.tallies {
            if self.warming == Some(name.as_str()) {
                *requests.untold.entry(name.clone()).or_default() += 1;
                continue;
            }
            let chances = self.bad.iter();
            let chance = chances
                .filter(|((of, guardrail), _)| *of == revision && guardrail == name)
                .map(|(_, chance)| *chance)
                .sum::<f64>();
            if is_hopeless || unit(self.random.next()) < chance {
                *requests.bad.entry(name.clone()).or_default() += 1;
                tally.count(by_user.then_some(user), track, place);
            }
        }
    }
}

impl Place {
    fn share(&self) -> f64 {
        f64::from(self.weight.basis_points()) / 10_000.0
    }
}

impl Tally {
    fn begin(check: &RouterCheck, place: &Place) -> Self {
        let lanes = match check.test {
            RouterTest::Comparison { tolerance, .. } => {
                let test = Attribution::new(tolerance).unwrap();
                Some(Lanes::begin(
                    test,
                    FirstSeen::CAPACITY,
                    place.step,
                    place.now,
                ))
            }
            RouterTest::Objective { .. } => None,
        };
        Self {
            lanes,
            seen: BTreeSet::new(),
            first_bad: BTreeMap::new(),
        }
    }

    fn count(&mut self, user: Option<u64>, track: Track, place: &Place) {
        if let Some(lanes) = &mut self.lanes {
            let event = BadEvent {
                user,
                track,
                weight: place.share(),
                at: place.now,
            };
            lanes.observe(&event).unwrap();
        }
        let is_split = place.weight > Weight::ZERO && place.weight < Weight::FULL;
        if user.is_some_and(|user| !self.seen.insert((is_split, user))) {
            return;
        }
        let first_bad = self
            .first_bad
            .entry(place.weight)
            .or_insert_with(|| FirstBad {
                weight: place.weight,
                ..FirstBad::default()
            });
        match track {
            Track::Canary => first_bad.canary += 1,
            Track::Stable => first_bad.stable += 1,
        }
    }

    fn evidence(&self) -> GuardrailEvidence {
        GuardrailEvidence {
            lanes: self.lanes.as_ref().map(Lanes::checkpoint),
            first_bad: self.first_bad.values().copied().collect(),
        }
    }
}
