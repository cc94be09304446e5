//! The chance of a wrong rollback that the user allows, shared over everything that may cause one.
//!
//! A test rejects when its `ln E` reaches its bound at any look. Sharing costs the logarithm of the
//! number of sharers and needs no independence (union bound over Ville's inequality).

use crate::domain::{DomainError, Result, chance, require, some};

/// The bound on `ln E` of each of `guardrails` that share `alpha` equally, watched by the leader and
/// by `replicas` routers that may also trip alone, each by its own counts:
/// `ln(m·(R+1)/α)`. With 0 replicas it is `ln(m/α)`.
pub fn bound(alpha: f64, guardrails: u32, replicas: u32) -> Result<f64> {
    let alpha = chance("alpha", alpha)?;
    let guardrails = some("guardrails", u64::from(guardrails))?;
    let watchers = f64::from(replicas) + 1.0;
    Ok(guardrails.ln() + watchers.ln() - alpha.ln())
}

/// The bound on `ln E` of a guardrail with a share of its own: `ln(1/α_i)`.
pub fn bound_of_share(share: f64) -> Result<f64> {
    Ok(-chance("share", share)?.ln())
}

/// The bounds of guardrails that split `alpha` in given `shares`: `ln(1/α_i)` each. The shares must
/// not sum to more than `alpha`.
pub fn bounds_of_shares(alpha: f64, shares: &[f64]) -> Result<Vec<f64>> {
    let alpha = chance("alpha", alpha)?;
    let bounds = shares.iter().map(|share| bound_of_share(*share));
    let bounds = bounds.collect::<Result<Vec<_>>>()?;
    // Ten shares of a tenth sum to a little more than one in binary.
    let sum: f64 = shares.iter().sum();
    let holds = sum <= alpha * (1.0 + 1e-12);
    require("the sum of the shares", sum, holds, "at most alpha")?;
    Ok(bounds)
}

/// The anytime-valid p-value of the highest `ln E` so far: `min(1, exp(−max ln E))`. It may be read
/// at every look, and stopping when it is small does not inflate it.
pub fn anytime_p_value(highest_ln_e: f64) -> Result<f64> {
    let highest = require("the highest ln E", highest_ln_e, true, "finite")?;
    Ok((-highest).exp().min(1.0))
}

/// e-BH (Wang and Ramdas 2022): which of K tests to reject so that, of those rejected, at most a
/// share `alpha` is wrong on average, whatever their dependence. For dashboards over many
/// rollouts, not for rolling back.
///
/// Rejects the k largest, for the largest k with `E_(k) ≥ K/(α·k)`. Returns their positions,
/// strongest first.
pub fn e_bh(alpha: f64, ln_e: &[f64]) -> Result<Vec<usize>> {
    let alpha = chance("alpha", alpha)?;
    let tests = ln_e.iter().enumerate().map(|(at, value)| {
        let value = require("ln E", *value, true, "finite")?;
        Ok::<_, DomainError>((at, value))
    });
    let mut tests = tests.collect::<Result<Vec<_>>>()?;
    tests.sort_by(|left, right| right.1.total_cmp(&left.1));
    let count: f64 = tests.iter().map(|_| 1.0).sum();
    let mut rank = 0.0_f64;
    let mut rejected = 0;
    for (before, (_, value)) in tests.iter().enumerate() {
        rank += 1.0;
        // Exponents that are equal on paper may differ in the last bit: give the tie to the test.
        if *value >= count.ln() - alpha.ln() - rank.ln() - 1e-12 {
            rejected = before + 1;
        }
    }
    tests.truncate(rejected);
    Ok(tests.into_iter().map(|(at, _)| at).collect())
}
