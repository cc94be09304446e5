//! What the routers saw of runs, by process, and what that is together.
//!
//! Every process counts from when a run began there, so its latest word replaces the one before. The
//! words of processes that are gone stay as they were. Users' bad answers are taken in as they come,
//! in the order of steps, and each user is counted once whichever router saw it ([`tally`]).

mod tally;

use std::{collections::BTreeMap, mem};

use crds::contract::{ArmEvidence, Evidence, Segment, UserEvent};
use jiff::Timestamp;
use rollout::{
    evidence::{self, Look, Requests, RunEvidence, Stretch},
    plan::Plan,
    state::Run,
    weight::Weight,
};
use verdict::{Verdict, attribution::Track};

use self::tally::{Tallied, Tallies};
use crate::args::NamespacedName;

/// The most runs that are kept: one for each object, and those that nobody asks about.
const RUNS_MAX: usize = 10_000;
/// The most bad answers of a run that wait for somebody to ask about it. More cost power, not
/// validity.
const WAITING_MAX: usize = 1 << 18;

/// How a run is to be judged.
#[derive(Clone, Debug)]
pub struct Follow {
    /// The run, as it was recorded.
    pub run: Run,
    /// Its frozen plan.
    pub plan: Plan,
    /// How many routers there may be at most.
    pub routers: u32,
    /// Whether requests are split by user.
    pub by_user: bool,
}

/// All runs that routers speak of.
#[derive(Debug, Default)]
pub(super) struct Runs {
    routes: BTreeMap<NamespacedName, BTreeMap<String, OfRun>>,
    /// Whether each process that has greeted and is not gone has said all that it knew.
    processes: BTreeMap<String, bool>,
}

/// What is known of one run.
#[derive(Debug, Default)]
struct OfRun {
    revision: String,
    boots: BTreeMap<String, OfBoot>,
    /// Bad answers that were not counted yet.
    waiting: Vec<Bad>,
    /// What they came to, once somebody has asked about the run.
    tallies: Option<Tallies>,
    follow: Option<Follow>,
    /// What the guardrails said when its object was last looked at or woken.
    verdicts: Vec<Verdict>,
    has_news: bool,
}

/// What one process said last.
#[derive(Debug, Default)]
struct OfBoot {
    segments: Vec<Segment>,
    /// Number of the last bad answer that was taken in.
    last: u64,
    /// Bad requests without a user that were taken in.
    anonymous: BTreeMap<Anonymous, u64>,
}

/// Bad requests without a user of one kind. Steps are not told apart: a router that has to forget
/// them keeps what was seen at one weight together.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Anonymous {
    guardrail: String,
    weight: u16,
    track: Track,
}

/// Bad answers of one kind, to one user or to nobody known.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Bad {
    step: u32,
    /// Order within the process.
    seq: u64,
    weight: u16,
    guardrail: Guardrail,
    track: Track,
    user: Option<u64>,
    count: u64,
}

/// Which guardrail.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Guardrail {
    Name(String),
    /// Its place among those of the plan that routers judge.
    Place(u8),
}

impl Runs {
    /// A process is there.
    pub(super) fn greeted(&mut self, boot: &str) {
        self.processes.entry(boot.to_owned()).or_default();
    }

    /// A process has said all that it knew when it greeted. Whether that is news.
    pub(super) fn told_all(&mut self, boot: &str) -> bool {
        let is_news = self.processes.insert(boot.to_owned(), true) != Some(true);
        if is_news {
            let runs = self.routes.values_mut().flat_map(BTreeMap::values_mut);
            runs.for_each(|run| run.has_news = true);
        }
        is_news
    }

    /// A process is gone. What it saw and had no time to say are users who may be counted again.
    pub(super) fn gone(&mut self, boot: &str, now: Timestamp) {
        if self.processes.remove(boot) != Some(false) {
            return;
        }
        let runs = self.routes.values_mut().flat_map(BTreeMap::values_mut);
        for tallies in runs.filter_map(|run| run.tallies.as_mut()) {
            tallies.close_carry(now);
        }
    }

    /// Takes in what a process saw. Of a word that was heard before nothing is new.
    pub(super) fn hear(&mut self, boot: &str, evidence: Evidence) {
        let route = NamespacedName {
            namespace: evidence.namespace,
            name: evidence.route,
        };
        let runs = self.routes.get(&route);
        let is_known = runs.is_some_and(|runs| runs.contains_key(&evidence.run));
        if !is_known && self.routes.values().map(BTreeMap::len).sum::<usize>() >= RUNS_MAX {
            return;
        }
        let runs = self.routes.entry(route).or_default();
        let run = runs.entry(evidence.run).or_default();
        run.revision = evidence.revision;
        let of_boot = run.boots.entry(boot.to_owned()).or_default();
        for event in &evidence.events {
            let segment = evidence.segments.iter().find(|one| one.id == event.segment);
            // Whose stretch is forgotten says nothing.
            if let Some(segment) = segment.filter(|_| event.seq > of_boot.last)
                && run.waiting.len() < WAITING_MAX
            {
                run.waiting.push(Bad::of_user(event, segment));
            }
            of_boot.last = of_boot.last.max(event.seq);
        }
        if !evidence.events.is_empty() || of_boot.segments != evidence.segments {
            run.has_news = true;
        }
        of_boot.segments = evidence.segments;
    }

    /// What all routers together saw of a run, which is judged so from here on.
    pub(super) fn follow(
        &mut self,
        route: &NamespacedName,
        follow: Follow,
        (problem, now): (Option<String>, Timestamp),
    ) -> Option<RunEvidence> {
        let is_whole = self.is_whole(problem.as_ref());
        let id = follow.run.id.clone();
        let runs = self.routes.entry(route.clone()).or_default();
        let run = runs.entry(id.clone()).or_default();
        run.count(&follow, is_whole, now);
        let evidence = run.evidence(&id, problem);
        run.verdicts = verdicts(&follow, &evidence, now);
        run.follow = Some(follow);
        run.has_news = false;
        let is_told = !run.boots.is_empty() || evidence.problem.is_some();
        is_told.then_some(evidence)
    }

    /// Judges what is new, and gives the routes of runs for which it says something else.
    pub(super) fn judge(
        &mut self,
        problem: Option<&String>,
        now: Timestamp,
    ) -> Vec<NamespacedName> {
        let is_whole = self.is_whole(problem);
        let mut changed = Vec::new();
        for (route, runs) in &mut self.routes {
            for (id, run) in runs {
                let is_new = mem::take(&mut run.has_news);
                if is_new && run.says_otherwise(id, (problem, is_whole), now) {
                    changed.push(route.clone());
                }
            }
        }
        changed
    }

    /// Whether all that all processes knew when they greeted is here.
    fn is_whole(&self, problem: Option<&String>) -> bool {
        problem.is_none() && self.processes.values().all(|is_read| *is_read)
    }

    /// What a reader who lost a stream need not be told again: the last bad answer of each route, but
    /// of no more than so many.
    pub(super) fn known(&self, boot: &str, most: usize) -> Vec<(&NamespacedName, u64)> {
        let last = |runs: &BTreeMap<String, OfRun>| {
            let lasts = runs.values().filter_map(|run| run.boots.get(boot));
            lasts.map(|of_boot| of_boot.last).max()
        };
        let routes = self.routes.iter();
        let known = routes.filter_map(|(route, runs)| Some((route, last(runs)?)));
        known.take(most).collect()
    }

    /// Of a route nothing but this run is kept.
    pub(super) fn only(&mut self, route: &NamespacedName, run: Option<&str>) {
        let Some(runs) = self.routes.get_mut(route) else {
            return;
        };
        runs.retain(|id, _| run == Some(id));
        if runs.is_empty() {
            self.routes.remove(route);
        }
    }
}

impl OfRun {
    /// Counts what has come since the last time.
    fn count(&mut self, follow: &Follow, is_whole: bool, now: Timestamp) {
        let step = self.step();
        let mut new = mem::take(&mut self.waiting);
        for boot in self.boots.values_mut() {
            boot.take_anonymous(&mut new);
        }
        // Of a user whom several routers saw, what came in the earlier step is the first.
        new.sort();
        let tallies = self.tallies.get_or_insert_with(|| Tallies::begin(follow));
        for bad in &new {
            tallies.count(bad, now);
        }
        tallies.settle(follow, (step, is_whole), now);
    }

    /// The latest step that a router has come to.
    fn step(&self) -> u32 {
        let segments = self.boots.values().flat_map(|boot| &boot.segments);
        segments.map(|segment| segment.step).max().unwrap_or(0)
    }

    fn evidence(&self, id: &str, problem: Option<String>) -> RunEvidence {
        let mut stretches: BTreeMap<(u32, u16), Stretch> = BTreeMap::new();
        for segment in self.boots.values().flat_map(|boot| &boot.segments) {
            let weight = Weight::from_basis_points(segment.weight);
            let stretch = stretches.entry((segment.step, segment.weight));
            let stretch = stretch.or_insert_with(|| Stretch {
                step: segment.step,
                weight,
                ..Stretch::default()
            });
            add(&mut stretch.canary, &segment.canary);
            add(&mut stretch.stable, &segment.stable);
        }
        let Tallied { guardrails, doubt } =
            self.tallies.as_ref().map(Tallies::read).unwrap_or_default();
        RunEvidence {
            run: id.to_owned(),
            revision: self.revision.clone(),
            stretches: stretches.into_values().collect(),
            guardrails,
            problem: problem.or(doubt),
        }
    }

    fn says_otherwise(
        &mut self,
        id: &str,
        (problem, is_whole): (Option<&String>, bool),
        now: Timestamp,
    ) -> bool {
        let Some(follow) = self.follow.clone() else {
            return false;
        };
        self.count(&follow, is_whole, now);
        let evidence = self.evidence(id, problem.cloned());
        let verdicts = verdicts(&follow, &evidence, now);
        let differs = verdicts != self.verdicts;
        self.verdicts = verdicts;
        differs
    }
}

fn add(sum: &mut Requests, arm: &ArmEvidence) {
    sum.requests = sum.requests.saturating_add(arm.requests);
    sum.units = sum.units.saturating_add(arm.units);
    for (sums, counts) in [(&mut sum.bad, &arm.bad), (&mut sum.untold, &arm.untold)] {
        for (guardrail, count) in counts {
            let sum = sums.entry(guardrail.clone()).or_default();
            *sum = sum.saturating_add(*count);
        }
    }
}

fn verdicts(follow: &Follow, evidence: &RunEvidence, now: Timestamp) -> Vec<Verdict> {
    let look = Look {
        plan: &follow.plan,
        run: &follow.run,
        evidence: Some(evidence),
        routers: follow.routers,
        by_user: follow.by_user,
        now,
    };
    let judgements = evidence::judgements(&look).into_iter();
    judgements.map(|judgement| judgement.verdict).collect()
}

impl OfBoot {
    /// The bad requests without a user that were not taken in yet.
    fn take_anonymous(&mut self, into: &mut Vec<Bad>) {
        let mut counts: BTreeMap<Anonymous, u64> = BTreeMap::new();
        let mut steps: BTreeMap<u16, u32> = BTreeMap::new();
        for segment in &self.segments {
            // One step for both arms of a weight: they are looked at in the order of steps, and the
            // canary's without what stable had beside them would speak against it.
            let step = steps.entry(segment.weight).or_default();
            *step = segment.step.max(*step);
            for (track, arm) in [
                (Track::Canary, &segment.canary),
                (Track::Stable, &segment.stable),
            ] {
                for (guardrail, count) in &arm.bad_without_user {
                    let kind = Anonymous {
                        guardrail: guardrail.clone(),
                        weight: segment.weight,
                        track,
                    };
                    let sum = counts.entry(kind).or_default();
                    *sum = sum.saturating_add(*count);
                }
            }
        }
        for (kind, sum) in counts {
            let taken = self.anonymous.entry(kind.clone()).or_default();
            let count = sum.saturating_sub(*taken);
            if count > 0 {
                *taken = sum;
                into.push(Bad {
                    step: steps.get(&kind.weight).copied().unwrap_or_default(),
                    seq: u64::MAX,
                    weight: kind.weight,
                    guardrail: Guardrail::Name(kind.guardrail),
                    track: kind.track,
                    user: None,
                    count,
                });
            }
        }
    }
}

impl Bad {
    fn of_user(event: &UserEvent, segment: &Segment) -> Self {
        Self {
            step: segment.step,
            seq: event.seq,
            weight: segment.weight,
            guardrail: Guardrail::Place(event.guardrail),
            track: if event.canary {
                Track::Canary
            } else {
                Track::Stable
            },
            user: Some(event.user),
            count: 1,
        }
    }
}

#[cfg(test)]
mod tests;
