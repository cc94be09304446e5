//! How long until a bad canary is seen: for `plan`, before anything runs.
//!
//! A step whose traffic cannot reach the estimate before its deadline is refused at admission.

use crate::{
    attribution::{Attribution, theta},
    domain::{Result, chance, positive, share},
    evidence::EventWorth,
    non_inferiority::NonInferiority,
};

/// The traffic that evidence is gathered from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Traffic {
    /// Units per second over both tracks, after deduplication: users, not requests.
    pub units_per_second: f64,
    /// The canary's weight, a share.
    pub weight: f64,
    /// The bad rate of the canary.
    pub canary_rate: f64,
    /// The bad rate of stable.
    pub stable_rate: f64,
}

/// An amount of evidence and how long it takes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Wait {
    /// Bad events of both tracks.
    pub events: f64,
    /// The time in which so many are expected.
    pub seconds: f64,
}

/// Bad events as they will come.
struct Flow {
    /// λ, per second.
    rate: f64,
    /// θ*, the canary's part of them.
    canary: f64,
    weight: f64,
}

impl Flow {
    /// `None` when there will be none, or when they cannot tell the tracks apart.
    fn of(traffic: Traffic) -> Result<Option<Self>> {
        let units = positive("units_per_second", traffic.units_per_second)?;
        let weight = share("weight", traffic.weight)?;
        let canary_rate = share("canary_rate", traffic.canary_rate)?;
        let stable_rate = share("stable_rate", traffic.stable_rate)?;
        let (of_canary, of_stable) = (weight * canary_rate, (1.0 - weight) * stable_rate);
        let rate = units * (of_canary + of_stable);
        let canary = of_canary / (of_canary + of_stable);
        let tells = rate > 0.0 && rate.is_finite() && weight > 0.0 && weight < 1.0;
        Ok(tells.then_some(Self {
            rate,
            canary,
            weight,
        }))
    }

    fn wait(&self, events: f64) -> Option<Wait> {
        let seconds = events / self.rate;
        let wait = Wait { events, seconds };
        (events.is_finite() && seconds.is_finite()).then_some(wait)
    }

    /// What an event is worth on average against the alternative that gains most.
    fn gain<const G: usize>(&self, worth: &EventWorth<G>) -> f64 {
        let of_each = worth.canary.iter().zip(&worth.stable);
        let gains =
            of_each.map(|(canary, stable)| self.canary * canary + (1.0 - self.canary) * stable);
        gains.fold(f64::NEG_INFINITY, f64::max)
    }
}

/// The least expected number of events, and the time for them, after which *any* test of them can
/// have rejected (Wald): `bound/kl(θ*, θ(r0,w))`. `None`: never, as the canary is not worse than
/// `tolerance` or there is nothing to compare.
///
/// `bound` is what `ln E` must reach ([`crate::alpha::bound`]; plus ln 2 for the carry lane).
pub fn lower_bound(traffic: Traffic, tolerance: f64, bound: f64) -> Result<Option<Wait>> {
    let bound = positive("bound", bound)?;
    Attribution::new(tolerance)?;
    let Some(flow) = Flow::of(traffic)? else {
        return Ok(None);
    };
    let under_null = theta(tolerance, flow.weight);
    // Rates that are equal on paper may differ in the last bit.
    if flow.canary <= under_null * (1.0 + 1e-12) {
        return Ok(None);
    }
    Ok(flow.wait(bound / relative_entropy(flow.canary, under_null)))
}

/// When the attribution test is expected to reject: after `(bound + ln 8)/D` events, with
/// `D = max_j θ*·ln(θ_j/θ_0) + (1−θ*)·ln((1−θ_j)/(1−θ_0))`. `None`: never, as `D ≤ 0`.
pub fn estimate(traffic: Traffic, tolerance: f64, bound: f64) -> Result<Option<Wait>> {
    let bound = positive("bound", bound)?;
    let test = Attribution::new(tolerance)?;
    let Some(flow) = Flow::of(traffic)? else {
        return Ok(None);
    };
    Ok(after(&flow, &test.at(flow.weight)?, bound))
}

/// When non-inferiority is expected to be shown: after `(bound + ln 6)/D` events, with
/// `bound = ln(1/α_p)`. `None`: never, as the canary is at the margin or beyond.
pub fn estimate_to_pass(
    traffic: Traffic,
    test: NonInferiority,
    bound: f64,
) -> Result<Option<Wait>> {
    let bound = positive("bound", bound)?;
    let Some(flow) = Flow::of(traffic)? else {
        return Ok(None);
    };
    Ok(after(&flow, &test.at(flow.weight)?, bound))
}

fn after<const G: usize>(flow: &Flow, worth: &EventWorth<G>, bound: f64) -> Option<Wait> {
    let gain = flow.gain(worth);
    let alternatives: f64 = worth.canary.iter().map(|_| 1.0).sum();
    (gain > 0.0)
        .then(|| flow.wait((bound + alternatives.ln()) / gain))
        .flatten()
}

/// The least expected number of canary requests after which any test of the objective "at most
/// `objective` are bad" can have rejected, when `rate` of them are: `bound/kl(p1, p0)` (Wald).
/// `None`: never, as the objective is met.
pub fn slo_lower_bound(rate: f64, objective: f64, bound: f64) -> Result<Option<f64>> {
    let rate = share("rate", rate)?;
    let objective = chance("objective", objective)?;
    let bound = positive("bound", bound)?;
    if rate <= objective {
        return Ok(None);
    }
    let requests = bound / relative_entropy(rate, objective);
    Ok(requests.is_finite().then_some(requests))
}

/// `kl(p, q) = p·ln(p/q) + (1−p)·ln((1−p)/(1−q))`, with `0·ln 0 = 0`; never below 0.
fn relative_entropy(p: f64, q: f64) -> f64 {
    let of_p = if p > 0.0 { p * (p / q).ln() } else { 0.0 };
    let of_rest = if p < 1.0 {
        (1.0 - p) * ((q - p) / (1.0 - q)).ln_1p()
    } else {
        0.0
    };
    (of_p + of_rest).max(0.0)
}
