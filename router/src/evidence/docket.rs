//! The test of one guardrail, by this router's own evidence.

use verdict::attribution::Track;
use verdict::lanes::{Lanes, PROCESS_SECONDS};
use verdict::slo::{self, Outcomes};
use verdict::units::{BadEvent, FirstSeen};

use super::guardrails::Check;

/// Users remembered by each lane of a comparison. Beyond, users are sampled.
const USERS_MAX: usize = 16 * 1024;

/// The test of one guardrail.
#[derive(Debug)]
pub(super) enum Docket {
    Comparison(Box<Comparison>),
    Objective(Objective),
}

/// A comparison with stable.
#[derive(Debug)]
pub(super) struct Comparison {
    lanes: Lanes,
    /// Users with a bad answer while the canary had no traffic or all of it. It says nothing here
    /// and does not use the user up; others may hold it against an objective.
    elsewhere: FirstSeen,
}

/// What a request says to a guardrail.
#[derive(Clone, Copy, Debug)]
pub(super) struct Said {
    pub(super) track: Track,
    pub(super) user: Option<u64>,
    /// The canary's weight, a share, when it was routed.
    pub(super) weight: f64,
    pub(super) bad: bool,
}

impl Docket {
    /// Of a run that is first seen in a step, at `now`, in seconds.
    pub(super) fn new(check: Check, step: u32, now: u64) -> Self {
        match check {
            Check::Comparison(test) => Self::Comparison(Box::new(Comparison {
                lanes: Lanes::begin(test, USERS_MAX, step, now),
                elsewhere: FirstSeen::new(USERS_MAX),
            })),
            Check::Objective(max) => Self::Objective(Objective::new(max, step, now)),
        }
    }

    /// Time passes: at every look, before what was said since.
    pub(super) fn advance(&mut self, step: u32, now: u64) {
        match self {
            Self::Comparison(comparison) => comparison.lanes.advance(step, now),
            Self::Objective(objective) => objective.advance(step, now),
        }
    }

    /// Takes one request in. True where it was a bad event that counted.
    pub(super) fn take(&mut self, said: Said, now: u64) -> bool {
        match self {
            Self::Comparison(comparison) if said.bad => comparison.take(said, now),
            Self::Comparison(_) => false,
            Self::Objective(objective) => match said.track {
                Track::Canary => objective.take(said.user, said.bad),
                Track::Stable => false,
            },
        }
    }

    /// The evidence against the canary.
    pub(super) fn ln_e(&self) -> f64 {
        match self {
            Self::Comparison(comparison) => comparison.lanes.ln_e(),
            Self::Objective(objective) => objective.ln_e(),
        }
    }

    /// The highest that it ever was: what is compared with the bound.
    pub(super) fn highest(&self) -> f64 {
        match self {
            Self::Comparison(comparison) => comparison.lanes.highest(),
            Self::Objective(objective) => objective.highest,
        }
    }
}

impl Comparison {
    fn take(&mut self, said: Said, now: u64) -> bool {
        if said.weight <= 0.0 || said.weight >= 1.0 {
            return said.user.is_none_or(|user| self.elsewhere.first(user));
        }
        let event = BadEvent {
            user: said.user,
            track: said.track,
            weight: said.weight,
            at: now,
        };
        // Weights are shares by construction.
        let counted = self.lanes.observe(&event).ok();
        counted.is_some_and(|counted| counted.carry || counted.restart)
    }
}

/// An objective on the canary alone: a user's first request in each step, and each hour within one,
/// counts. The j-th such window has the share `1/(j(j+1))` of what the user allows.
#[derive(Debug)]
pub(super) struct Objective {
    max: f64,
    outcomes: Outcomes,
    seen: FirstSeen,
    number: f64,
    step: u32,
    began: u64,
    highest: f64,
}

impl Objective {
    fn new(max: f64, step: u32, now: u64) -> Self {
        let mut objective = Self {
            max,
            outcomes: Outcomes::default(),
            seen: FirstSeen::new(FirstSeen::CAPACITY),
            number: 1.0,
            step,
            began: now,
            highest: f64::NEG_INFINITY,
        };
        objective.highest = objective.ln_e();
        objective
    }

    fn advance(&mut self, step: u32, now: u64) {
        if step == self.step && now.saturating_sub(self.began) < PROCESS_SECONDS {
            return;
        }
        self.step = step;
        self.began = now;
        if self.outcomes.total == 0 {
            // Nothing was tested, so nothing was spent.
            return;
        }
        self.number += 1.0;
        self.outcomes = Outcomes::default();
        self.seen.begin_again();
    }

    fn take(&mut self, user: Option<u64>, bad: bool) -> bool {
        if !user.is_none_or(|user| self.seen.first(user)) {
            return false;
        }
        self.outcomes = self.outcomes.merge(Outcomes {
            bad: u64::from(bad),
            total: 1,
        });
        if bad {
            // Only a bad one can raise it.
            self.highest = self.highest.max(self.ln_e());
        }
        bad
    }

    fn ln_e(&self) -> f64 {
        // The null rate was checked when the route was read.
        let ln_e = slo::ln_e(self.max, self.outcomes).unwrap_or(0.0);
        ln_e - self.number.ln() - (self.number + 1.0).ln()
    }
}
