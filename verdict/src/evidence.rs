//! Evidence of a sequential test against a grid of alternatives, on the logarithmic scale.
//!
//! `L_j` is the log-likelihood ratio of alternative j to the null. The `L_j` add over events, over
//! segments of constant weight and over whoever counted disjoint events; they are mixed only when
//! they are read: `ln E = ln(mean of exp L_j)`. Mixing per segment would forget which alternative
//! the earlier segments spoke for.

use serde::{Deserialize, Serialize};

use crate::domain::real;

/// No sum is let beyond this: what is finite stays finite, and so no reading is ever NaN.
const LIMIT: f64 = 1e300;

/// Sums of log-likelihood ratios against `G` alternatives, and the events they rest on.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Stored", into = "Stored")]
pub struct Evidence<const G: usize> {
    sums: [f64; G],
    canary: u64,
    stable: u64,
    misrouted: u64,
}

/// What one event is worth against each alternative, by the track that it happened on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EventWorth<const G: usize> {
    pub(crate) canary: [f64; G],
    pub(crate) stable: [f64; G],
    /// The weight under which the events were routed.
    pub(crate) weight: f64,
}

impl<const G: usize> EventWorth<G> {
    /// Whether both tracks have traffic, so that an event says something.
    pub fn informs(&self) -> bool {
        self.weight > 0.0 && self.weight < 1.0
    }
}

impl<const G: usize> Default for Evidence<G> {
    fn default() -> Self {
        Self {
            sums: [0.0; G],
            canary: 0,
            stable: 0,
            misrouted: 0,
        }
    }
}

impl<const G: usize> Evidence<G> {
    /// Counts bad events of either track that were routed under one weight:
    /// `L_j += canary·ln(θ_j/θ_0) + stable·ln((1−θ_j)/(1−θ_0))`.
    ///
    /// An event that the weight made impossible (on the canary at 0, on stable at 1) is a fault of
    /// routing, not of the canary: it is kept apart, as [`Self::misrouted`].
    pub fn add(&mut self, worth: &EventWorth<G>, canary: u64, stable: u64) {
        let (canary, stable, misrouted) = if worth.weight <= 0.0 {
            (0, stable, canary)
        } else if worth.weight >= 1.0 {
            (canary, 0, stable)
        } else {
            (canary, stable, 0)
        };
        let ratios = worth.canary.iter().zip(&worth.stable);
        for (sum, (on_canary, on_stable)) in self.sums.iter_mut().zip(ratios) {
            *sum = limited(*sum + real(canary) * on_canary + real(stable) * on_stable);
        }
        self.canary = self.canary.saturating_add(canary);
        self.stable = self.stable.saturating_add(stable);
        self.misrouted = self.misrouted.saturating_add(misrouted);
    }

    /// Both together: the sums add. Commutative, and associative up to the rounding of a sum.
    ///
    /// The two must be of the same test and must not have counted a user twice; see
    /// [`crate::units::first_bad`].
    #[must_use]
    pub fn merge(mut self, other: &Self) -> Self {
        for (sum, more) in self.sums.iter_mut().zip(&other.sums) {
            *sum = limited(*sum + more);
        }
        self.canary = self.canary.saturating_add(other.canary);
        self.stable = self.stable.saturating_add(other.stable);
        self.misrouted = self.misrouted.saturating_add(other.misrouted);
        self
    }

    /// `ln E = lse(L) − ln G`, which under the null exceeds `ln x` at any look ever with
    /// probability at most `1/x` (Ville). Exactly 0 while there are no events.
    pub fn ln_e(&self) -> f64 {
        ln_mean_exp(&self.sums)
    }

    /// The bad events of the canary that were counted.
    pub fn canary(&self) -> u64 {
        self.canary
    }

    /// The bad events of stable that were counted.
    pub fn stable(&self) -> u64 {
        self.stable
    }

    /// Events on a track that had no traffic by its weight: a routing fault to report. They are in
    /// no sum.
    pub fn misrouted(&self) -> u64 {
        self.misrouted
    }
}

fn limited(sum: f64) -> f64 {
    sum.clamp(-LIMIT, LIMIT)
}

/// `ln((Σ exp x_i) / G)`, shifted by the largest, so that nothing overflows and equal values give
/// that value exactly. Values are held within ±[`LIMIT`]; of none, 0.
pub(crate) fn ln_mean_exp(values: &[f64]) -> f64 {
    let values = || values.iter().copied().map(limited);
    let Some(largest) = values().reduce(f64::max) else {
        return 0.0;
    };
    let (sum, count) = values().fold((0.0, 0.0), |(sum, count), value| {
        (sum + (value - largest).exp(), count + 1.0)
    });
    largest + (sum / count).ln()
}

/// The form in a status: short names, as it is there once per guardrail.
#[derive(Clone, Serialize, Deserialize)]
struct Stored {
    l: Vec<f64>,
    c: u64,
    s: u64,
    #[serde(default, skip_serializing_if = "none")]
    m: u64,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
fn none(count: &u64) -> bool {
    *count == 0
}

impl<const G: usize> From<Evidence<G>> for Stored {
    fn from(evidence: Evidence<G>) -> Self {
        Self {
            l: evidence.sums.to_vec(),
            c: evidence.canary,
            s: evidence.stable,
            m: evidence.misrouted,
        }
    }
}

impl<const G: usize> TryFrom<Stored> for Evidence<G> {
    type Error = String;

    fn try_from(stored: Stored) -> Result<Self, String> {
        let sums: [f64; G] = stored.l.try_into().map_err(|sums: Vec<f64>| {
            format!(
                "evidence has {} likelihood sums: it must have {G}",
                sums.len()
            )
        })?;
        if let Some(sum) = sums.iter().find(|sum| !sum.is_finite()) {
            return Err(format!("a likelihood sum is {sum}: it must be finite"));
        }
        Ok(Self {
            sums: sums.map(limited),
            canary: stored.c,
            stable: stored.s,
            misrouted: stored.m,
        })
    }
}
