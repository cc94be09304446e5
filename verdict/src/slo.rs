//! The canary against its own objective, without stable.
//!
//! The null is "the bad rate is at most p0". A latency objective is the same test: "p99 ≤ L" is
//! p0 = 0.01 on the events `latency > L`, and a request older than L is bad before it ends. The
//! unit is a user's first request in the window ([`crate::units::FirstSeen`]).

use serde::{Deserialize, Serialize};

use crate::{
    domain::{Result, chance, part},
    evidence::ln_mean_exp,
};

/// Multiples of p0, for objectives that fail rarely; used where they stay below [`RARE`].
const MULTIPLES: [f64; 6] = [1.5, 2.0, 3.0, 5.0, 10.0, 30.0];
const RARE: f64 = 0.25;
/// Rates that are bad whatever p0 is; used where they are above it.
const OFTEN: [f64; 3] = [0.3, 0.6, 0.9];

/// Bad ones of all. This is the whole state of the test; two of them add exactly.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcomes {
    /// Those that were bad.
    pub bad: u64,
    /// All of them.
    pub total: u64,
}

impl Outcomes {
    /// Both together: associative and commutative.
    #[must_use]
    pub fn merge(self, other: Self) -> Self {
        Self {
            bad: self.bad.saturating_add(other.bad),
            total: self.total.saturating_add(other.total),
        }
    }
}

/// `ln E` against "the bad rate is at most `p0`":
/// `lse_j[x·ln(p_j/p0) + (n−x)·ln((1−p_j)/(1−p0))] − ln G` for x bad of n.
///
/// The grid is `p0·{1.5,2,3,5,10,30}` where below 0.25, then those of {0.3, 0.6, 0.9} above p0; if
/// none is left, `(1+p0)/2`. Nothing counted gives exactly 0.
pub fn ln_e(p0: f64, outcomes: Outcomes) -> Result<f64> {
    let p0 = chance("p0", p0)?;
    let rare = MULTIPLES.map(|times| p0 * times);
    let rare = rare.into_iter().filter(|rate| *rate < RARE);
    let often = OFTEN.into_iter().filter(|rate| *rate > p0);
    let mut rates: Vec<f64> = rare.chain(often).collect();
    if rates.is_empty() {
        rates.push(f64::midpoint(1.0, p0));
    }
    ln_e_on_grid(p0, &rates, outcomes)
}

/// The formula of [`ln_e`] for a null rate and the rates of the alternatives.
pub(crate) fn ln_e_on_grid(null: f64, rates: &[f64], outcomes: Outcomes) -> Result<f64> {
    let (bad, total) = part("bad", outcomes.bad, outcomes.total)?;
    let good = total - bad;
    let sums = rates.iter().map(|rate| {
        let on_good = ((null - rate) / (1.0 - null)).ln_1p();
        weighed(bad, (rate / null).ln()) + weighed(good, on_good)
    });
    Ok(ln_mean_exp(&sums.collect::<Vec<_>>()))
}

/// Nothing weighs 0, even where a rate rounds to 0 or 1 and its logarithm is infinite.
fn weighed(count: f64, ln_ratio: f64) -> f64 {
    if count > 0.0 { count * ln_ratio } else { 0.0 }
}
