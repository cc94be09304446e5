//! Whose are the bad events? The test that takes traffic off a canary.
//!
//! When the canary's bad rate is r times that of stable and w is the canary's weight, a bad event
//! is the canary's with chance `θ(r,w) = w·r/(w·r+1−w)`, whatever the base rate is and however it
//! drifts: only bad events enter. The null is `r ≤ r0`. The alternatives are multiples of r0, with
//! equal prior, so that neither a small nor a large fault has to be named beforehand.
//!
//! Events must be attributed like fresh flips of a coin with bias w. A user's retries are not: see
//! [`crate::lanes`].

use serde::{Deserialize, Serialize};

use crate::{
    domain::{Result, require, share},
    evidence::{EventWorth, Evidence},
};

/// The alternatives, as multiples of the null's ratio.
pub(crate) const GRID: [f64; 8] = [1.25, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 100.0];

/// Beyond it a tolerance says nothing, and products could overflow.
const TOLERANCE_MAX: f64 = 1e6;

/// The role of a revision in a rollout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Track {
    /// What is to be replaced.
    Stable,
    /// What is on trial.
    Canary,
}

/// What the attribution test has counted: eight sums that add.
pub type AttributionEvidence = Evidence<8>;

/// The test of "the canary's bad rate is at most `tolerance` times that of stable".
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Attribution {
    tolerance: f64,
}

impl Attribution {
    /// `tolerance` is r0, at least 1: with 1.25 the canary may be a quarter worse before it counts
    /// as worse.
    pub fn new(tolerance: f64) -> Result<Self> {
        let holds = (1.0..=TOLERANCE_MAX).contains(&tolerance);
        let tolerance = require("tolerance", tolerance, holds, "from 1 to 1000000")?;
        Ok(Self { tolerance })
    }

    /// What an event is worth that was *routed* while the canary had `weight` (a share):
    /// `ln(θ(r_j,w)/θ(r0,w))` on the canary and `ln((1−θ(r_j,w))/(1−θ(r0,w)))` on stable, with
    /// `r_j = r0·{1.25, 1.5, 2, 3, 5, 10, 30, 100}`. At weight 0 or 1 nothing is learnt.
    pub fn at(&self, weight: f64) -> Result<EventWorth<8>> {
        event_worth(self.tolerance, GRID, weight)
    }

    /// The evidence of whole segments: `(weight, bad events of the canary, of stable)` each.
    pub fn evidence(&self, segments: &[(f64, u64, u64)]) -> Result<AttributionEvidence> {
        let mut evidence = Evidence::default();
        for &(weight, canary, stable) in segments {
            evidence.add(&self.at(weight)?, canary, stable);
        }
        Ok(evidence)
    }
}

/// `θ(r,w) = w·r/(w·r+1−w)`, the chance that a bad event is the canary's when its bad rate is `ratio`
/// times that of stable.
pub fn theta(ratio: f64, weight: f64) -> f64 {
    weight * ratio / (weight * ratio + 1.0 - weight)
}

/// The worth of an event against alternatives that are `grid` times the ratio of the null.
///
/// `ln((1−θ_j)/(1−θ_0)) = ln((w·r0+1−w)/(w·r_j+1−w))` and `ln(θ_j/θ_0)` is that plus `ln(r_j/r0)`:
/// nothing is divided by a weight that may be 0.
pub(crate) fn event_worth<const G: usize>(
    null: f64,
    grid: [f64; G],
    weight: f64,
) -> Result<EventWorth<G>> {
    let weight = share("weight", weight)?;
    if weight <= 0.0 || weight >= 1.0 {
        return Ok(EventWorth {
            canary: [0.0; G],
            stable: [0.0; G],
            weight,
        });
    }
    let under_null = 1.0 + weight * (null - 1.0);
    let stable = grid.map(|times| -(weight * null * (times - 1.0) / under_null).ln_1p());
    let mut canary = grid.map(f64::ln);
    for (on_canary, on_stable) in canary.iter_mut().zip(&stable) {
        *on_canary += on_stable;
    }
    Ok(EventWorth {
        canary,
        stable,
        weight,
    })
}
