//! How much a canary must have been tried before a pass can mean anything.

use crate::{
    domain::{Result, chance, count_up, require},
    sample_size::{Comparison, Sides, canary_units},
};

/// Fewer expected bad events than this and a canary at the margin may well have shown none.
const BAD_EVENTS: f64 = 10.0;

/// The units that must have *completed on the canary in this step* before it may pass: enough to
/// see `margin` times the declared base rate `p_s` with `power` in a one-sided comparison at `alpha`
/// ([`crate::sample_size::canary_units`]), and enough that 10 bad events are expected then:
/// `max(n_min, ⌈10/(r_tol·p_s)⌉)`.
pub fn minimum(base_rate: f64, margin: f64, weight: f64, alpha: f64, power: f64) -> Result<u64> {
    let base_rate = chance("base_rate", base_rate)?;
    let margin = require("margin", margin, margin > 1.0, "above 1")?;
    let at_margin = chance("margin times base_rate", margin * base_rate)?;
    let comparison = Comparison::new(weight, alpha, Sides::One)?;
    let enough = canary_units(comparison, base_rate, at_margin, power)?;
    Ok(count_up(enough.max(BAD_EVENTS / at_margin)))
}

/// The units without one failure that show a bad rate below `rate` at `alpha`, looked at once:
/// `⌈ln(1/α)/−ln(1−p)⌉`.
pub fn without_failure(alpha: f64, rate: f64) -> Result<u64> {
    let alpha = chance("alpha", alpha)?;
    let rate = chance("rate", rate)?;
    Ok(count_up(alpha.ln() / (-rate).ln_1p()))
}
