//! Evidence *for* a canary: that it is not much worse. Promotion needs it, and the absence of
//! evidence against the canary is not it.
//!
//! Never without [`crate::exposure`] and [`crate::share`]: a canary that receives nothing has no bad
//! events either.

use crate::{
    attribution::event_worth,
    domain::{Result, chance, require},
    evidence::{EventWorth, Evidence},
    slo::{Outcomes, ln_e_on_grid},
};

/// The alternatives, as parts of the null's ratio or rate.
const DIVISORS: [f64; 6] = [1.25, 1.5, 2.0, 3.0, 5.0, 10.0];

/// What the test of non-inferiority has counted: six sums that add.
pub type NonInferiorityEvidence = Evidence<6>;

/// The test of "the canary's bad rate is at least `margin` times that of stable". To reject it is
/// to have shown that the canary is good enough: pass at `ln E ≥ ln(1/α_p)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NonInferiority {
    margin: f64,
}

impl NonInferiority {
    /// `margin` is `r_tol`. It must be above the `tolerance` of the test that rolls back, or a canary
    /// could be shown to be good enough and too bad.
    pub fn new(margin: f64, tolerance: f64) -> Result<Self> {
        let tolerance = require("tolerance", tolerance, tolerance >= 1.0, "at least 1")?;
        let holds = margin > tolerance && margin <= 1e6;
        let margin = require(
            "margin",
            margin,
            holds,
            "above the tolerance, up to 1000000",
        )?;
        Ok(Self { margin })
    }

    /// What an event is worth that was routed while the canary had `weight`: the formula of
    /// [`crate::attribution::Attribution::at`] with `r_tol` in the place of r0 and the grid
    /// `r_tol/{1.25, 1.5, 2, 3, 5, 10}`.
    pub fn at(&self, weight: f64) -> Result<EventWorth<6>> {
        event_worth(self.margin, DIVISORS.map(f64::recip), weight)
    }

    /// The evidence of whole segments: `(weight, bad events of the canary, of stable)` each.
    pub fn evidence(&self, segments: &[(f64, u64, u64)]) -> Result<NonInferiorityEvidence> {
        let mut evidence = Evidence::default();
        for &(weight, canary, stable) in segments {
            evidence.add(&self.at(weight)?, canary, stable);
        }
        Ok(evidence)
    }
}

/// `ln E` against "the canary's bad rate is at least `rate`" (`p_tol`), for when nothing fails
/// anywhere and a ratio means nothing: the formula of [`crate::slo::ln_e`] with the grid
/// `p_tol/{1.25, 1.5, 2, 3, 5, 10}`.
pub fn absolute_ln_e(rate: f64, outcomes: Outcomes) -> Result<f64> {
    let rate = chance("rate", rate)?;
    ln_e_on_grid(rate, &DIVISORS.map(|divisor| rate / divisor), outcomes)
}
