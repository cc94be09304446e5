//! Where a rollout stands: the meaning of a status.
//!
//! The wire form, [`crds::ModelDeploymentStatus`], is flat, as schemas like it; here it is an enum,
//! so that what cannot be together cannot be written down. Both directions are in [`wire`].

use std::collections::BTreeMap;

use crds::{
    contract::Mirror,
    status::{DecisionRecord, EvidenceStatus, RunRecord},
};
use jiff::{SignedDuration, Timestamp};

use crate::{plan::Plan, weight::Weight};

pub mod wire;

/// Everything that was decided so far.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct State {
    /// Where the rollout stands.
    pub phase: Phase,
    /// How many runs there have been.
    pub runs: u64,
    /// Revisions without traffic whose pods may finish what they have, and until when.
    pub draining: BTreeMap<String, Timestamp>,
    /// Revisions that must get no traffic.
    pub condemned: Vec<Condemned>,
    /// The latest runs that ended, newest last.
    pub history: Vec<RunRecord>,
    /// The latest transitions, newest last.
    pub decisions: Vec<DecisionRecord>,
}

/// Where the rollout stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// No revision is proven: the first one is on its way.
    Pending {
        /// The revision that is on its way.
        revision: Option<String>,
    },
    /// One revision serves, and it is the one that is wanted, or the wanted one cannot be tried.
    Settled {
        /// The proven revision.
        stable: String,
        /// Whether the last run was rolled back and its revision is still what the spec asks for.
        rolled_back: bool,
    },
    /// A revision is being tried.
    Running {
        /// The proven revision.
        stable: String,
        /// The run.
        run: Run,
    },
    /// A run ends without promotion: traffic is being taken off the canary.
    Ending {
        /// The proven revision.
        stable: String,
        /// The run.
        run: Run,
        /// How and why.
        ending: Ending,
    },
    /// The status cannot be read, or objects and status contradict each other: nothing is touched.
    Unknown {
        /// What is wrong.
        problem: String,
    },
}

impl Default for Phase {
    fn default() -> Self {
        Self::Pending { revision: None }
    }
}

/// A run: one attempt to roll out one revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// Id, unique in the object.
    pub id: String,
    /// The canary.
    pub revision: String,
    /// Name of the frozen plan.
    pub plan: String,
    /// When it began.
    pub started_at: Timestamp,
    /// The attempt that it began with.
    pub attempt: i64,
    /// Pods of the stable revision when it began.
    pub stable_replicas: u32,
    /// When the canary first got traffic, or copies of it.
    pub exposed_at: Option<Timestamp>,
    /// How far it is.
    pub stage: Stage,
    /// The weight that the canary has earned.
    pub earned: Weight,
    /// Since when it waits for pods or for a weight to be applied.
    pub waiting_since: Option<Timestamp>,
    /// What each guardrail has come to.
    pub tallies: BTreeMap<String, Tally>,
}

/// How far a run is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The canary has no traffic; its pods are on their way.
    Starting,
    /// At a step of the plan.
    Step {
        /// Index of the step, from 0.
        index: usize,
        /// Its clock.
        held: Hold,
    },
    /// Past the last step, before promotion.
    Bake {
        /// Its clock.
        held: Hold,
    },
}

/// The clock of a step or of the bake. It runs while the whole weight is applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hold {
    /// When the step was entered.
    pub entered_at: Timestamp,
    /// Since when the weight is applied without a break; none while it is not.
    pub applied_at: Option<Timestamp>,
    /// What was held before that.
    pub before: SignedDuration,
}

impl Hold {
    /// A clock that has not begun to run.
    pub fn entered(at: Timestamp) -> Self {
        Self {
            entered_at: recorded(at),
            applied_at: None,
            before: SignedDuration::ZERO,
        }
    }

    /// How long the weight has been applied in all. A clock that went back adds nothing.
    pub fn elapsed(&self, now: Timestamp) -> SignedDuration {
        let running = self
            .applied_at
            .map_or(SignedDuration::ZERO, |since| since_at(since, now));
        self.before.saturating_add(running)
    }

    /// Starts the clock, if it stands.
    pub fn start(&mut self, now: Timestamp) {
        self.applied_at.get_or_insert_with(|| recorded(now));
    }

    /// Stops the clock and keeps what it has, in whole milliseconds: a status keeps no more.
    pub fn stop(&mut self, now: Timestamp) {
        let millis = i64::try_from(self.elapsed(now).as_millis()).unwrap_or(i64::MAX);
        self.before = SignedDuration::from_millis(millis);
        self.applied_at = None;
    }
}

/// The first whole second that is not before `at`. A status keeps whole seconds: a clock that is
/// recorded must start no earlier than it did, or every write would give time away.
pub fn recorded(at: Timestamp) -> Timestamp {
    let whole = Timestamp::from_second(at.as_second()).unwrap_or(at);
    if whole < at {
        whole
            .checked_add(SignedDuration::from_secs(1))
            .unwrap_or(whole)
    } else {
        whole
    }
}

/// Time from `since` to `now`, never negative: a clock that went back shortens no wait.
pub fn since_at(since: Timestamp, now: Timestamp) -> SignedDuration {
    now.duration_since(since).max(SignedDuration::ZERO)
}

/// What one guardrail has come to in a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Failed windows that do not overlap.
    pub failures: u32,
    /// End of the last one that was counted.
    pub failed_at: Option<Timestamp>,
    /// Which verdict blinds it, and since when.
    pub blind: Option<(verdict::Verdict, Timestamp)>,
    /// What the routers had seen at the latest transition, where they judge.
    pub evidence: Option<EvidenceStatus>,
}

/// A revision that must get no traffic, until `attempt` is raised or another spec came between.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condemned {
    /// The revision.
    pub revision: String,
    /// The run in which it was condemned.
    pub run: String,
    /// The attempt then.
    pub attempt: i64,
    /// Why, as a condition's reason.
    pub reason: String,
}

/// How a run that is not promoted ends, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ending {
    /// What becomes of it.
    pub result: EndResult,
    /// Why, as a condition's reason.
    pub reason: String,
    /// Why, for people.
    pub message: String,
}

/// What becomes of a run that is not promoted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndResult {
    /// The revision is condemned.
    RolledBack,
    /// Another revision is wanted.
    Superseded,
    /// The stable revision is wanted again.
    Reverted,
    /// The run cannot go on and may begin anew.
    Abandoned,
}

impl EndResult {
    /// The name in the status.
    pub fn name(self) -> &'static str {
        match self {
            Self::RolledBack => "RolledBack",
            Self::Superseded => "Superseded",
            Self::Reverted => "Reverted",
            Self::Abandoned => "Abandoned",
        }
    }

    /// The result of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        [
            Self::RolledBack,
            Self::Superseded,
            Self::Reverted,
            Self::Abandoned,
        ]
        .into_iter()
        .find(|result| result.name() == name)
    }
}

impl State {
    /// The proven revision.
    pub fn stable(&self) -> Option<&str> {
        match &self.phase {
            Phase::Settled { stable, .. }
            | Phase::Running { stable, .. }
            | Phase::Ending { stable, .. } => Some(stable),
            Phase::Pending { .. } | Phase::Unknown { .. } => None,
        }
    }

    /// The run that is under way, ending or not.
    pub fn run(&self) -> Option<&Run> {
        match &self.phase {
            Phase::Running { run, .. } | Phase::Ending { run, .. } => Some(run),
            Phase::Pending { .. } | Phase::Settled { .. } | Phase::Unknown { .. } => None,
        }
    }

    /// Why a revision must get no traffic, if so, given the spec's attempt.
    pub fn condemned(&self, revision: &str, attempt: i64) -> Option<&Condemned> {
        self.condemned
            .iter()
            .find(|condemned| condemned.revision == revision && attempt <= condemned.attempt)
    }
}

impl Run {
    /// The requests that are copied to the canary in the present step.
    pub fn mirror(&self, plan: &Plan) -> Option<Mirror> {
        match &self.stage {
            Stage::Step { index, .. } => plan.step(*index)?.mirror,
            Stage::Starting | Stage::Bake { .. } => None,
        }
    }

    /// The share of the requests that the canary's pods must bear, for users or as copies: before the
    /// first step, what they must bear in it.
    pub fn load(&self, plan: &Plan) -> Weight {
        let step = match &self.stage {
            Stage::Starting => plan.step(0),
            Stage::Step { index, .. } => plan.step(*index).filter(|step| step.mirror.is_some()),
            Stage::Bake { .. } => None,
        };
        step.map_or(self.earned, |step| step.load().max(self.earned))
    }

    /// The clock of the present step or bake.
    pub fn hold(&self) -> Option<&Hold> {
        match &self.stage {
            Stage::Starting => None,
            Stage::Step { held, .. } | Stage::Bake { held } => Some(held),
        }
    }

    /// The clock of the present step or bake, to change it.
    pub fn hold_mut(&mut self) -> Option<&mut Hold> {
        match &mut self.stage {
            Stage::Starting => None,
            Stage::Step { held, .. } | Stage::Bake { held } => Some(held),
        }
    }
}
