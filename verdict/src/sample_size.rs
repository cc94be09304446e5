//! How many units a comparison of two bad rates needs, looked at once at the end.
//!
//! Plans are judged by it beforehand; running rollouts are judged by the sequential tests. With
//! fewer than 5 expected bad events on the canary the approximation fails: use
//! [`crate::exposure::without_failure`].

use statrs::function::erf::{erfc, erfc_inv};

use crate::domain::{Result, chance, positive, require, share};

/// Whether a difference in either direction counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sides {
    /// Only one in the direction that is looked for.
    One,
    /// Either.
    Two,
}

/// How two tracks are compared.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Comparison {
    /// Units of stable per unit of the canary: κ.
    kappa: f64,
    /// The quantile that the difference must exceed.
    critical: f64,
}

impl Comparison {
    /// A comparison while the canary has `weight`, which errs with probability `alpha` when there
    /// is no difference.
    pub fn new(weight: f64, alpha: f64, sides: Sides) -> Result<Self> {
        let weight = chance("weight", weight)?;
        let kappa = (1.0 - weight) / weight;
        let kappa = require("stable's share per canary's", kappa, kappa > 0.0, "above 0")?;
        let alpha = chance("alpha", alpha)?;
        let tail = match sides {
            Sides::One => alpha,
            Sides::Two => alpha / 2.0,
        };
        let critical = upper_quantile(tail);
        require(
            "alpha",
            alpha,
            critical.is_finite(),
            "above the least of numbers",
        )?;
        Ok(Self { kappa, critical })
    }

    /// `√((1+1/κ)·p̄·(1−p̄))`, the spread when both rates are the pooled one.
    fn pooled_spread(self, stable: f64, canary: f64) -> f64 {
        let pooled = (canary + self.kappa * stable) / (1.0 + self.kappa);
        // The mean of two equal rates may round to just above 1.
        ((1.0 + self.kappa.recip()) * pooled * (1.0 - pooled))
            .max(0.0)
            .sqrt()
    }

    /// `√(p_c(1−p_c) + p_s(1−p_s)/κ)`, the spread when the rates are what they are.
    fn own_spread(self, stable: f64, canary: f64) -> f64 {
        (canary * (1.0 - canary) + stable * (1.0 - stable) / self.kappa).sqrt()
    }
}

/// The units on the canary with which rates of `stable` and `canary` are told apart with
/// probability `power` (pooled z, Fleiss; as in R's `power.prop.test`):
/// `[z_{1−α/2}·√((1+1/κ)p̄(1−p̄)) + z_{1−β}·√(p_c(1−p_c)+p_s(1−p_s)/κ)]²/d²`.
///
/// In total that is `n_c/w`. Print it rounded up. Infinite for equal rates.
pub fn canary_units(comparison: Comparison, stable: f64, canary: f64, power: f64) -> Result<f64> {
    let (stable, canary) = (share("stable", stable)?, share("canary", canary)?);
    let power = chance("power", power)?;
    let difference = (canary - stable).abs();
    if difference <= 0.0 {
        return Ok(f64::INFINITY);
    }
    let spread = comparison.critical * comparison.pooled_spread(stable, canary)
        + upper_quantile(1.0 - power) * comparison.own_spread(stable, canary);
    // A power below alpha needs no unit.
    Ok((spread.max(0.0) / difference).powi(2))
}

/// The probability of telling the rates apart with `units` on the canary:
/// `Φ((d√n_c − z_{1−α/2}√((1+1/κ)p̄(1−p̄))) / √(p_c(1−p_c)+p_s(1−p_s)/κ))`.
pub fn power(comparison: Comparison, stable: f64, canary: f64, units: f64) -> Result<f64> {
    let (stable, canary) = (share("stable", stable)?, share("canary", canary)?);
    let units = positive("units", units)?;
    let excess = (canary - stable).abs() * units.sqrt()
        - comparison.critical * comparison.pooled_spread(stable, canary);
    let spread = comparison.own_spread(stable, canary);
    Ok(if spread > 0.0 {
        normal_below(excess / spread)
    } else if excess > 0.0 {
        1.0
    } else {
        0.0
    })
}

/// The least `p_c − p_s` above 0 that `units` on the canary show with probability `power`, by
/// bisection of [`power`] over `p_c` in `(p_s, 1]`; `None` if they do not even show certain failure.
pub fn minimum_detectable(
    comparison: Comparison,
    stable: f64,
    units: f64,
    power: f64,
) -> Result<Option<f64>> {
    let stable = share("stable", stable)?;
    let target = chance("power", power)?;
    let shown = |canary: f64| Ok(self::power(comparison, stable, canary, units)? >= target);
    if !shown(1.0)? {
        return Ok(None);
    }
    let (mut hidden, mut visible) = (stable, 1.0);
    for _ in 0..60 {
        let middle = f64::midpoint(hidden, visible);
        if shown(middle)? {
            visible = middle;
        } else {
            hidden = middle;
        }
    }
    Ok(Some(visible - stable))
}

/// The effect size of two rates on the arcsine scale (Cohen's h): `2·asin√p_c − 2·asin√p_s`.
pub fn effect(stable: f64, canary: f64) -> Result<f64> {
    let (stable, canary) = (share("stable", stable)?, share("canary", canary)?);
    Ok(2.0 * canary.sqrt().asin() - 2.0 * stable.sqrt().asin())
}

/// The units on the canary that show an [`effect`] with probability `power`:
/// `(z_{1−α/2}+z_{1−β})²·(1+1/κ)/h²`, by the near tail alone. Infinite without an effect.
pub fn canary_units_for_effect(comparison: Comparison, effect: f64, power: f64) -> Result<f64> {
    let effect = require("effect", effect, true, "finite")?.abs();
    let power = chance("power", power)?;
    let quantiles = (comparison.critical + upper_quantile(1.0 - power)).max(0.0);
    Ok(if effect > 0.0 {
        (quantiles / effect).powi(2) * (1.0 + comparison.kappa.recip())
    } else {
        f64::INFINITY
    })
}

/// The probability of showing an [`effect`] with `units` on the canary, by the near tail alone:
/// `Φ(h·√(n_c/(1+1/κ)) − z_{1−α/2})`.
pub fn power_for_effect(comparison: Comparison, effect: f64, units: f64) -> Result<f64> {
    let effect = require("effect", effect, true, "finite")?.abs();
    let units = positive("units", units)?;
    let pairs = units / (1.0 + comparison.kappa.recip());
    Ok(normal_below(effect * pairs.sqrt() - comparison.critical))
}

/// `Φ(x)`.
fn normal_below(x: f64) -> f64 {
    0.5 * erfc(-x * std::f64::consts::FRAC_1_SQRT_2)
}

/// The value that a standard normal exceeds with probability `tail`.
fn upper_quantile(tail: f64) -> f64 {
    std::f64::consts::SQRT_2 * erfc_inv(2.0 * tail)
}
