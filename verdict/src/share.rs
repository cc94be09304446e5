//! Whether the canary gets the share of traffic that it was given.
//!
//! A share that is off means that requests are lost, routed past the split, or counted wrongly, and
//! then no comparison of the tracks can be trusted, least of all a promotion. The units are users
//! (or requests without a key) as they were *routed*, whatever became of them.

use statrs::function::beta::checked_ln_beta;

use crate::domain::{Result, chance, positive, real, require};

/// How firmly the prior of [`ln_e`] believes in the weight: as if it had seen this many units.
const PRIOR: f64 = 1000.0;

/// Beyond it the rounding of the logarithms of gamma would itself be evidence.
const UNITS_MAX: f64 = 1e12;

/// `ln E` against "each unit goes to the canary with chance `weight`", for `canary` and `stable`
/// units: [`martingale`] with `(a, b) = 1000·(w, 1−w)`. It may be looked at any time; alarm at
/// `ln 1000`. Segments of different weight are separate, and their `ln E` add.
pub fn ln_e(weight: f64, canary: u64, stable: u64) -> Result<f64> {
    let weight = chance("weight", weight)?;
    let prior = (PRIOR * weight, PRIOR * (1.0 - weight));
    martingale(prior, weight, canary, stable)
}

/// The martingale of Lindon and Malek (2022), with a Beta(a, b) prior on the true share:
/// `lnB(a+c, b+s) − lnB(a, b) − c·ln w − s·ln(1−w)`.
pub fn martingale((a, b): (f64, f64), weight: f64, canary: u64, stable: u64) -> Result<f64> {
    let (a, b) = (positive("a", a)?, positive("b", b)?);
    let weight = chance("weight", weight)?;
    let (canary, stable) = (real(canary), real(stable));
    let units = a + b + canary + stable;
    require(
        "the number of units",
        units,
        units <= UNITS_MAX,
        "at most 10^12",
    )?;
    Ok(ln_beta(a + canary, b + stable)?
        - ln_beta(a, b)?
        - canary * weight.ln()
        - stable * (-weight).ln_1p())
}

/// `ln B(a, b)`.
pub(crate) fn ln_beta(a: f64, b: f64) -> Result<f64> {
    let value = checked_ln_beta(a, b).unwrap_or(f64::NAN);
    require("ln B", value, true, "finite")
}
