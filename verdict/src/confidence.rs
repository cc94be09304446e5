//! Ranges that hold at every look at once, so that a dashboard may show them while counting goes on.

use crate::{
    domain::{Result, chance, part, real, require},
    share::ln_beta,
    slo::Outcomes,
};

/// A range of rates.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Range {
    /// The least rate that is not excluded.
    pub lower: f64,
    /// The greatest rate that is not excluded.
    pub upper: f64,
}

/// Enough halvings for the last bit of a share.
const HALVINGS: u32 = 60;

/// The confidence sequence of a rate (beta-binomial mixture, Howard et al. 2021): with probability
/// `1−alpha` the rate lies within at every n ever. It is narrowest about `tightest_at` outcomes.
///
/// `{p : lnB(κp+k, κ(1−p)+n−k) − lnB(κp, κ(1−p)) − k·ln p − (n−k)·ln(1−p) < ln(1/α)}` for k bad of
/// n, with `κ = t/(2·ln 20 + ln(1+2·ln 20)) − 1`, which must be positive: t at least 8. No outcomes
/// exclude nothing.
pub fn rate(outcomes: Outcomes, alpha: f64, tightest_at: f64) -> Result<Range> {
    let alpha = chance("alpha", alpha)?;
    let (bad, total) = part("bad", outcomes.bad, outcomes.total)?;
    let twice = 2.0 * 20_f64.ln();
    let in_range = (8.0..=1e12).contains(&tightest_at) && total <= 1e12;
    let tightest_at = require("tightest_at", tightest_at, in_range, "8 to 10^12, as n")?;
    let mixture = Mixture {
        kappa: tightest_at / (twice + twice.ln_1p()) - 1.0,
        bad,
        good: total - bad,
    };
    let estimate = if total > 0.0 { bad / total } else { 0.5 };
    let excluded = |rate: f64| Ok(mixture.ln_e(rate)? >= -alpha.ln());
    Ok(Range {
        lower: if outcomes.bad == 0 {
            0.0
        } else {
            edge(estimate, 0.0, &excluded)?
        },
        upper: if outcomes.bad == outcomes.total {
            1.0
        } else {
            edge(estimate, 1.0, &excluded)?
        },
    })
}

struct Mixture {
    kappa: f64,
    bad: f64,
    good: f64,
}

impl Mixture {
    fn ln_e(&self, rate: f64) -> Result<f64> {
        let (a, b) = (self.kappa * rate, self.kappa * (1.0 - rate));
        let mixed = ln_beta(a + self.bad, b + self.good)? - ln_beta(a, b)?;
        Ok(mixed - self.bad * rate.ln() - self.good * (-rate).ln_1p())
    }
}

/// Where exclusion begins between `inside` and the end of the scale, by bisection. The ends
/// themselves are excluded and are never evaluated.
fn edge(inside: f64, end: f64, excluded: &impl Fn(f64) -> Result<bool>) -> Result<f64> {
    let (mut inside, mut outside) = (inside, end);
    for _ in 0..HALVINGS {
        let middle = f64::midpoint(inside, outside);
        if middle <= 0.0 || middle >= 1.0 {
            break;
        }
        if excluded(middle)? {
            outside = middle;
        } else {
            inside = middle;
        }
    }
    Ok(outside)
}

/// The half-width of a band about an empirical distribution function that holds everywhere and at
/// every n at once (Howard and Ramdas 2022): `0.85·√((ln(1+ln n) + 0.8·ln(1612/α))/n)`, at most 1,
/// which it is while nothing was counted.
pub fn distribution_band(count: u64, alpha: f64) -> Result<f64> {
    let alpha = chance("alpha", alpha)?;
    if count == 0 {
        return Ok(1.0);
    }
    let count = real(count);
    let squared = (count.ln().ln_1p() + 0.8 * (1612.0_f64.ln() - alpha.ln())) / count;
    Ok((0.85 * squared.sqrt()).min(1.0))
}
