//! The error budget of a service-level objective: how fast it burns and what is left.

use crate::{
    domain::{Result, part, positive, require},
    slo::Outcomes,
};

/// What an alert asks of people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Urgency {
    /// Somebody, at once.
    Page,
    /// Somebody, in working hours.
    Ticket,
}

/// A burn rate that is too high when both windows show it: the long one that it matters, the short
/// one that it still goes on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Alert {
    /// The burn rate that both windows must exceed.
    pub burn: f64,
    /// The long window.
    pub long_seconds: f64,
    /// The short window.
    pub short_seconds: f64,
    /// What it asks for.
    pub urgency: Urgency,
}

/// The alerts of the Site Reliability Workbook for a budget of 30 days: they have spent 2, 5 and
/// 10 % of it when they fire.
pub const ALERTS: [Alert; 3] = [
    Alert {
        burn: 14.4,
        long_seconds: 3600.0,
        short_seconds: 300.0,
        urgency: Urgency::Page,
    },
    Alert {
        burn: 6.0,
        long_seconds: 21_600.0,
        short_seconds: 1800.0,
        urgency: Urgency::Page,
    },
    Alert {
        burn: 1.0,
        long_seconds: 259_200.0,
        short_seconds: 21_600.0,
        urgency: Urgency::Ticket,
    },
];

impl Alert {
    /// Whether it fires at the burn rates of its two windows.
    pub fn fires(&self, long_burn: f64, short_burn: f64) -> bool {
        long_burn > self.burn && short_burn > self.burn
    }

    /// The share of bad events at which it fires: `b·(1−SLO)`.
    pub fn threshold(&self, slo: f64) -> Result<f64> {
        Ok(self.burn * allowed(slo)?)
    }

    /// The time from the start of a fault with the given share of bad events until the long window
    /// shows it: `b·(1−SLO)·W/e`. Longer than the window means never.
    pub fn seconds_to_fire(&self, slo: f64, error_rate: f64) -> Result<f64> {
        let within = error_rate > 0.0 && error_rate <= 1.0;
        let error_rate = require("error_rate", error_rate, within, "above 0, up to 1")?;
        positive(
            "the time",
            self.threshold(slo)? * self.long_seconds / error_rate,
        )
    }
}

/// How fast the budget burns: `bad/total/(1−SLO)`; at 1 it lasts exactly its period. `None` without
/// events, which is no data and not a good sign.
pub fn burn(outcomes: Outcomes, slo: f64) -> Result<Option<f64>> {
    let (bad, total) = part("bad", outcomes.bad, outcomes.total)?;
    let allowed = allowed(slo)?;
    Ok((total > 0.0).then(|| bad / total / allowed))
}

/// The part of the budget that is left: `1 − bad/(total·(1−SLO))`, below 0 when it is overspent.
/// `None` without events.
pub fn left(outcomes: Outcomes, slo: f64) -> Result<Option<f64>> {
    Ok(burn(outcomes, slo)?.map(|burn| 1.0 - burn))
}

fn allowed(slo: f64) -> Result<f64> {
    let holds = (0.0..1.0).contains(&slo);
    Ok(1.0 - require("the objective", slo, holds, "from 0 to below 1")?)
}
