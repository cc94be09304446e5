//! The attribution test over a whole rollout, on users' first bad events, in two lanes.
//!
//! - **carry** remembers users for the whole run. Whatever users do, each is counted once, so at
//!   tolerance 1 it is exact. But a long rollout uses its users up: who has failed once can never
//!   again speak against the canary.
//! - **restart** is a sequence of tests that each begin with nothing: at every step and every hour
//!   within one. It stays awake.
//!
//! Each has half of α: with m guardrails, carry rejects at `ln E ≥ ln(2m/α)` and the j-th process
//! of restart at `ln E ≥ ln(2m·j(j+1)/α)`, as `Σ 1/(j(j+1)) = 1`. Both are one number here:
//! [`Lanes::ln_e`] is what the better lane leaves over after the cost of its lane and process, and
//! is compared with the ordinary bound ([`crate::alpha::bound`]).
//!
//! The sets of users are too large for a status, and are lost when their holder dies. A lane that
//! went on without its set would count users twice. So [`Lanes::resume`] closes the carry lane for
//! the rest of the run, and begins the next process of the restart lane.

use serde::{Deserialize, Serialize};

use crate::{
    alpha::anytime_p_value,
    attribution::{Attribution, AttributionEvidence, Track},
    domain::Result,
    evidence::EventWorth,
    units::{BadEvent, FirstSeen},
};

/// How long a process of the restart lane lasts within a step, in seconds.
pub const PROCESS_SECONDS: u64 = 3600;

/// Both lanes of one guardrail, with their users.
#[derive(Clone, Debug)]
pub struct Lanes {
    test: Attribution,
    carry: Option<Lane>,
    restart: Lane,
    process: Process,
    highest: f64,
    /// What an event is worth at the weight of the event before.
    worth: Option<EventWorth<8>>,
}

#[derive(Clone, Debug)]
struct Lane {
    evidence: AttributionEvidence,
    seen: FirstSeen,
}

/// Which test of the restart lane is running.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// j: 1 for the first of the run.
    pub number: u32,
    /// The step in which it began.
    pub step: u32,
    /// When it began, in the caller's seconds.
    pub began: u64,
}

/// What survives a crash: the likelihood sums, not the users. About 500 bytes of JSON.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// The carry lane; absent once it was closed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub carry: Option<AttributionEvidence>,
    /// The restart lane's process.
    pub restart: AttributionEvidence,
    /// Which process that is.
    pub process: Process,
    /// The highest that [`Lanes::ln_e`] ever was in this run.
    pub highest: f64,
}

/// Which lanes an event counted in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counted {
    /// It was the user's first of the run.
    pub carry: bool,
    /// It was the user's first of the process.
    pub restart: bool,
}

impl Lanes {
    /// The lanes of a run that begins with `step` at `now`, remembering up to `capacity` users each
    /// ([`FirstSeen::CAPACITY`]).
    pub fn begin(test: Attribution, capacity: usize, step: u32, now: u64) -> Self {
        let process = Process {
            number: 1,
            step,
            began: now,
        };
        let carry = Some(Lane::new(capacity));
        Self::of(test, carry, Lane::new(capacity), process)
    }

    /// The lanes of a run whose users were lost: without carry, and in the next process of restart.
    ///
    /// Record a checkpoint of the result before anything is counted: who resumes twice from one
    /// checkpoint uses one process number, and its share of α, twice. Hours that passed since the
    /// checkpoint are taken to have had a process each.
    pub fn resume(
        test: Attribution,
        capacity: usize,
        from: &Checkpoint,
        (step, now): (u32, u64),
    ) -> Self {
        let hours = now.saturating_sub(from.process.began) / PROCESS_SECONDS;
        let unrecorded = u32::try_from(hours).unwrap_or(u32::MAX);
        let entered = u32::from(step != from.process.step);
        let number = from.process.number.max(1).saturating_add(unrecorded);
        let process = Process {
            number: number.saturating_add(entered).saturating_add(1),
            step,
            began: now,
        };
        let mut lanes = Self::of(test, None, Lane::new(capacity), process);
        if from.highest.is_finite() {
            lanes.highest = lanes.highest.max(from.highest);
        }
        lanes
    }

    fn of(test: Attribution, carry: Option<Lane>, restart: Lane, process: Process) -> Self {
        let mut lanes = Self {
            test,
            carry,
            restart,
            process,
            highest: f64::NEG_INFINITY,
            worth: None,
        };
        lanes.highest = lanes.ln_e();
        lanes
    }

    /// Begins the next process of the restart lane if the step is another one or the hour is over.
    /// To be called at every look, and before the events of a new step. A clock that steps back
    /// begins nothing.
    pub fn advance(&mut self, step: u32, now: u64) {
        let hours = now.saturating_sub(self.process.began) / PROCESS_SECONDS;
        let began = if step != self.process.step {
            now
        } else if hours > 0 {
            // From the step's start, not from this look: so all replicas agree.
            self.process.began + hours * PROCESS_SECONDS
        } else {
            return;
        };
        self.restart.evidence = AttributionEvidence::default();
        self.restart.seen.begin_again();
        self.process = Process {
            number: self.process.number.saturating_add(1),
            step,
            began,
        };
    }

    /// Counts a bad event in each lane in which it is its user's first.
    ///
    /// While the canary has no traffic, or all of it, an event says nothing and its user is not
    /// used up. An event on a track without traffic is a routing fault
    /// ([`crate::evidence::Evidence::misrouted`]).
    pub fn observe(&mut self, event: &BadEvent) -> Result<Counted> {
        let worth = self.worth_at(event.weight)?;
        let carry = match &mut self.carry {
            Some(lane) => lane.count(event, &worth),
            None => false,
        };
        let restart = self.restart.count(event, &worth);
        // Only the canary's failures raise the evidence.
        if event.track == Track::Canary && (carry || restart) {
            self.highest = self.highest.max(self.ln_e());
        }
        Ok(Counted { carry, restart })
    }

    /// Counts so many bad events without a user, each its own unit, and looks once they are in.
    pub fn observe_anonymous(&mut self, track: Track, weight: f64, count: u64) -> Result<()> {
        let worth = self.worth_at(weight)?;
        let (canary, stable) = match track {
            Track::Canary => (count, 0),
            Track::Stable => (0, count),
        };
        if let Some(lane) = &mut self.carry {
            lane.evidence.add(&worth, canary, stable);
        }
        self.restart.evidence.add(&worth, canary, stable);
        self.highest = self.highest.max(self.ln_e());
        Ok(())
    }

    fn worth_at(&mut self, weight: f64) -> Result<EventWorth<8>> {
        match self.worth {
            Some(worth) if worth.weight.to_bits() == weight.to_bits() => Ok(worth),
            _ => Ok(*self.worth.insert(self.test.at(weight)?)),
        }
    }

    /// The evidence against the canary at this moment, after the cost of lanes and processes:
    /// `max(ln E_carry − ln 2, ln E_restart − ln(2j(j+1)))`.
    pub fn ln_e(&self) -> f64 {
        let restart = self.restart.evidence.ln_e() - process_cost(self.process.number);
        let carry = self.carry.as_ref().map(|lane| lane.evidence.ln_e());
        carry.map_or(restart, |carry| restart.max(carry - 2_f64.ln()))
    }

    /// The highest that [`Self::ln_e`] ever was: this is what is compared with a bound, so that a
    /// rejection between two looks is not forgotten.
    pub fn highest(&self) -> f64 {
        self.highest
    }

    /// Whether the canary is worse than tolerated, by a bound of [`crate::alpha`].
    pub fn rejects(&self, bound: f64) -> bool {
        self.highest >= bound
    }

    /// The anytime-valid p-value of both lanes together.
    pub fn p_value(&self) -> Result<f64> {
        anytime_p_value(self.highest)
    }

    /// The evidence of the carry lane; absent once it was closed.
    pub fn carry(&self) -> Option<&AttributionEvidence> {
        self.carry.as_ref().map(|lane| &lane.evidence)
    }

    /// The evidence of the running process of the restart lane.
    pub fn restart(&self) -> &AttributionEvidence {
        &self.restart.evidence
    }

    /// The running process of the restart lane.
    pub fn process(&self) -> Process {
        self.process
    }

    /// What to record, at every transition and after [`Self::resume`].
    pub fn checkpoint(&self) -> Checkpoint {
        Checkpoint {
            carry: self.carry().copied(),
            restart: self.restart.evidence,
            process: self.process,
            highest: self.highest,
        }
    }
}

impl Lane {
    fn new(capacity: usize) -> Self {
        Self {
            evidence: AttributionEvidence::default(),
            seen: FirstSeen::new(capacity),
        }
    }

    fn count(&mut self, event: &BadEvent, worth: &EventWorth<8>) -> bool {
        let (canary, stable) = match event.track {
            Track::Canary => (1, 0),
            Track::Stable => (0, 1),
        };
        if !worth.informs() {
            self.evidence.add(worth, canary, stable);
            return false;
        }
        let first = event.user.is_none_or(|user| self.seen.first(user));
        if first {
            self.evidence.add(worth, canary, stable);
        }
        first
    }
}

/// `ln(2j(j+1))`: what the j-th process pays for its lane and for the processes before it.
fn process_cost(number: u32) -> f64 {
    let number = f64::from(number.max(1));
    2_f64.ln() + number.ln() + (number + 1.0).ln()
}
