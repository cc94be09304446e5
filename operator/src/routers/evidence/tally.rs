//! Bad answers of a run, each user counted once over all routers.

use std::collections::BTreeMap;

use jiff::Timestamp;
use rollout::{
    evidence::{FirstBad, GuardrailEvidence, recorded},
    guardrail::RouterTest,
    weight::Weight,
};
use verdict::{
    attribution::{Attribution, Track},
    lanes::{Checkpoint, Lanes},
    units::{BadEvent, FirstSeen},
};

use super::{Bad, Follow, Guardrail};

/// No run has so many processes of its restart lane; a status that says so is not followed.
const PROCESSES_MAX: u32 = 100_000;
const ASKING: &str = "the routers are still being asked what they saw before this operator led";

/// Everything that was bad in a run.
#[derive(Debug)]
pub(super) struct Tallies {
    /// Names of the guardrails, in the order in which routers number them.
    places: Vec<String>,
    of: BTreeMap<String, Tally>,
    /// Whether it is known that nothing is missing of what routers saw before this process led, or
    /// else the carry lanes are closed.
    is_settled: bool,
}

/// What it comes to.
#[derive(Debug, Default)]
pub(super) struct Tallied {
    pub(super) guardrails: BTreeMap<String, GuardrailEvidence>,
    /// Why something may be missing.
    pub(super) doubt: Option<String>,
}

/// Everything that was bad for one guardrail.
#[derive(Debug)]
struct Tally {
    /// The test whose lanes are kept; none: an objective has none.
    test: Option<Attribution>,
    /// None until something is bad.
    lanes: Option<Lanes>,
    /// Processes of the restart lane that an earlier leader may have used.
    used: u32,
    users: Users,
    first_bad: BTreeMap<u16, FirstBad>,
}

/// Users who had a bad answer. While the canary has no traffic or all of it, a user's first says
/// something else, and does not use the user up.
#[derive(Debug)]
struct Users {
    in_split: FirstSeen,
    at_zero: FirstSeen,
    at_full: FirstSeen,
}

impl Tallies {
    /// Of a run as it is recorded.
    pub(super) fn begin(follow: &Follow) -> Self {
        let mut tallies = Self {
            places: Vec::new(),
            of: BTreeMap::new(),
            // Before the canary has traffic nobody has seen anything.
            is_settled: follow.run.exposed_at.is_none(),
        };
        for (guardrail, check) in follow.plan.for_routers() {
            let name = guardrail.name.clone();
            let test = match check.test {
                RouterTest::Comparison { tolerance, .. } => Attribution::new(tolerance).ok(),
                RouterTest::Objective { .. } => None,
            };
            let recorded = recorded(&follow.run, &name);
            let used = recorded.map_or(0, |recorded| recorded.process.number.min(PROCESSES_MAX));
            tallies.places.push(name.clone());
            tallies.of.insert(name, Tally::new(test, used));
        }
        tallies
    }

    /// Counts a bad answer.
    pub(super) fn count(&mut self, bad: &Bad, now: Timestamp) {
        let name = match &bad.guardrail {
            Guardrail::Name(name) => Some(name),
            Guardrail::Place(place) => self.places.get(usize::from(*place)),
        };
        if let Some(tally) = name.and_then(|name| self.of.get_mut(name)) {
            tally.count(bad, seconds(now));
        }
    }

    /// Brings the restart lanes to this step and hour. Once every router has said all that it knows,
    /// holds that against what was recorded: where a router took along what it saw, its users may
    /// come again, and the carry lane is closed.
    pub(super) fn settle(
        &mut self,
        follow: &Follow,
        (step, is_whole): (u32, bool),
        now: Timestamp,
    ) {
        let now = seconds(now);
        for tally in self.of.values_mut() {
            tally.advance(step, now);
        }
        if self.is_settled || !is_whole {
            return;
        }
        self.is_settled = true;
        for (name, tally) in &mut self.of {
            if let Some(recorded) = recorded(&follow.run, name)
                && tally.lacks(&recorded)
            {
                tracing::info!(
                    run = follow.run.id,
                    guardrail = name,
                    "routers took along what they saw: evidence goes on from what was recorded"
                );
                tally.resume(&recorded, (step, now));
            }
        }
    }

    /// Users may have been seen of whom nothing is known.
    pub(super) fn close_carry(&mut self, now: Timestamp) {
        for tally in self.of.values_mut() {
            let lanes = tally.lanes.as_ref();
            if let Some(lanes) = lanes.filter(|lanes| lanes.carry().is_some()) {
                let (from, step) = (lanes.checkpoint(), lanes.process().step);
                tally.resume(&from, (step, seconds(now)));
            }
        }
    }

    pub(super) fn read(&self) -> Tallied {
        let read = |(name, tally): (&String, &Tally)| (name.clone(), tally.read());
        Tallied {
            guardrails: self.of.iter().map(read).collect(),
            doubt: (!self.is_settled).then(|| ASKING.to_owned()),
        }
    }
}

impl Tally {
    fn new(test: Option<Attribution>, used: u32) -> Self {
        let users = || FirstSeen::new(FirstSeen::CAPACITY);
        Self {
            test,
            lanes: None,
            used,
            users: Users {
                in_split: users(),
                at_zero: users(),
                at_full: users(),
            },
            first_bad: BTreeMap::new(),
        }
    }

    fn count(&mut self, bad: &Bad, now: u64) {
        self.count_in_lanes(bad, now);
        let weight = Weight::from_basis_points(bad.weight);
        let users = match weight {
            Weight::ZERO => &mut self.users.at_zero,
            Weight::FULL => &mut self.users.at_full,
            _ => &mut self.users.in_split,
        };
        if bad.user.is_some_and(|user| !users.first(user)) {
            return;
        }
        let first_bad = self
            .first_bad
            .entry(bad.weight)
            .or_insert_with(|| FirstBad {
                weight,
                ..FirstBad::default()
            });
        let count = match bad.track {
            Track::Canary => &mut first_bad.canary,
            Track::Stable => &mut first_bad.stable,
        };
        *count = count.saturating_add(bad.count);
    }

    fn count_in_lanes(&mut self, bad: &Bad, now: u64) {
        let Some(test) = self.test else { return };
        let earlier = self.used;
        let lanes = self
            .lanes
            .get_or_insert_with(|| begin(test, bad.step, earlier, now));
        if bad.step > lanes.process().step {
            lanes.advance(bad.step, now);
        }
        let weight = f64::from(bad.weight) / 10_000.0;
        let counted = match bad.user {
            None => lanes.observe_anonymous(bad.track, weight, bad.count),
            Some(user) => {
                let event = BadEvent {
                    user: Some(user),
                    track: bad.track,
                    weight,
                    at: now,
                };
                lanes.observe(&event).map(drop)
            }
        };
        if let Err(error) = counted {
            tracing::debug!(%error, "a router says what cannot be");
        }
    }

    fn advance(&mut self, step: u32, now: u64) {
        if let Some(lanes) = &mut self.lanes {
            // A router that is behind takes nobody back.
            lanes.advance(step.max(lanes.process().step), now);
        }
    }

    /// Whether less is there than was recorded, or the carry lane was closed before.
    fn lacks(&self, recorded: &Checkpoint) -> bool {
        let Some(then) = &recorded.carry else {
            return true;
        };
        let events = |canary: u64, stable: u64| canary.saturating_add(stable);
        let carry = self.lanes.as_ref().and_then(Lanes::carry);
        let here = carry.map_or(0, |carry| events(carry.canary(), carry.stable()));
        here < events(then.canary(), then.stable())
    }

    fn resume(&mut self, from: &Checkpoint, place: (u32, u64)) {
        if let Some(test) = self.test {
            self.lanes = Some(Lanes::resume(test, FirstSeen::CAPACITY, from, place));
        }
    }

    fn read(&self) -> GuardrailEvidence {
        GuardrailEvidence {
            lanes: self.lanes.as_ref().map(Lanes::checkpoint),
            first_bad: self.first_bad.values().copied().collect(),
        }
    }
}

/// Lanes that begin with a step, in a process of the restart lane that nobody has used.
fn begin(test: Attribution, step: u32, used: u32, now: u64) -> Lanes {
    let mut lanes = Lanes::begin(test, FirstSeen::CAPACITY, step, now);
    // Nothing is counted yet: to begin anew costs a number and nothing else.
    while lanes.process().number <= used || lanes.process().step != step {
        let is_there = lanes.process().step == step;
        let other = step.checked_add(1).unwrap_or_default();
        lanes.advance(if is_there { other } else { step }, now);
    }
    lanes
}

fn seconds(at: Timestamp) -> u64 {
    u64::try_from(at.as_second()).unwrap_or(0)
}
