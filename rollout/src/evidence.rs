//! What the routers saw of a run, merged over all of them, and what it says.
//!
//! The operator collects: it adds up the requests that each router counted, and counts a user's
//! first bad answer once, whichever router saw it ([`verdict::lanes`]). Everything that is concluded
//! from that is here.

mod judge;
mod recorded;

use std::collections::BTreeMap;

use verdict::lanes::Checkpoint;

pub(crate) use self::{judge::with_judgements, recorded::record};
pub use self::{
    judge::{Look, judgements},
    recorded::recorded,
};
use crate::weight::Weight;

/// What the routers saw of a run since it began, each user counted once over all routers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RunEvidence {
    /// The run.
    pub run: String,
    /// The canary.
    pub revision: String,
    /// Requests, by stretches of one step and weight: one entry for each pair of them.
    pub stretches: Vec<Stretch>,
    /// What was bad, by the guardrail's name.
    pub guardrails: BTreeMap<String, GuardrailEvidence>,
    /// Why something is missing, for people, such as a router that does not answer. It blocks a pass
    /// and hides no failure.
    pub problem: Option<String>,
}

/// The requests of one step and weight, added up over the routers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stretch {
    /// The step as it was in [`crds::contract::Split::step`].
    pub step: u32,
    /// The canary's weight.
    pub weight: Weight,
    /// The canary's.
    pub canary: Requests,
    /// The stable revision's.
    pub stable: Requests,
}

/// The requests of one revision.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Requests {
    /// Requests that ended.
    pub requests: u64,
    /// Users among them, and requests without a user key; counted for the canary only.
    pub units: u64,
    /// Bad requests, by the guardrail's name, however often a user had one.
    pub bad: BTreeMap<String, u64>,
    /// Requests that tell a guardrail nothing, by its name, as an endpoint was still warming up.
    pub untold: BTreeMap<String, u64>,
}

/// Bad answers for one guardrail, one a user.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GuardrailEvidence {
    /// The lanes of a comparison, which count events at the weight that they were routed by; none
    /// while nothing was bad.
    pub lanes: Option<Checkpoint>,
    /// Users whose first bad answer of the run was on the canary or on stable, and bad requests
    /// without a user key, by the weight that they were routed by. At weight 0 and at full weight,
    /// where the lanes learn nothing, a user's first is that of the weight.
    pub first_bad: Vec<FirstBad>,
}

/// First bad answers at one weight.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FirstBad {
    /// The canary's weight.
    pub weight: Weight,
    /// Those on the canary.
    pub canary: u64,
    /// Those on stable.
    pub stable: u64,
}

impl RunEvidence {
    /// All stretches of some kind together.
    fn sum(&self, of: impl Fn(&Stretch) -> bool) -> (Requests, Requests) {
        let mut sums = (Requests::default(), Requests::default());
        for stretch in self.stretches.iter().filter(|stretch| of(stretch)) {
            sums.0.add(&stretch.canary);
            sums.1.add(&stretch.stable);
        }
        sums
    }
}

impl Requests {
    fn add(&mut self, more: &Self) {
        self.requests = self.requests.saturating_add(more.requests);
        self.units = self.units.saturating_add(more.units);
        for (sums, counts) in [(&mut self.bad, &more.bad), (&mut self.untold, &more.untold)] {
            for (guardrail, count) in counts {
                let sum = sums.entry(guardrail.clone()).or_default();
                *sum = sum.saturating_add(*count);
            }
        }
    }

    /// Those that tell a guardrail something.
    fn judged(&self, guardrail: &str) -> u64 {
        let untold = self.untold.get(guardrail).copied().unwrap_or_default();
        self.requests.saturating_sub(untold)
    }

    /// Bad ones for a guardrail, never more than there are.
    fn bad(&self, guardrail: &str) -> u64 {
        let bad = self.bad.get(guardrail).copied().unwrap_or_default();
        bad.min(self.judged(guardrail))
    }

    /// The share of bad ones, where there are any requests.
    fn bad_share(&self, guardrail: &str) -> Option<f64> {
        let judged = self.judged(guardrail);
        (judged > 0).then(|| real(self.bad(guardrail)) / real(judged))
    }
}

/// A count as a number.
#[expect(
    clippy::as_conversions,
    clippy::cast_precision_loss,
    reason = "above 2^53 the rounding is below one part in 10^15"
)]
fn real(count: u64) -> f64 {
    count as f64
}
