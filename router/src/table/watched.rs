//! The rules whose requests are evidence: those of a route in a run.

use std::net::SocketAddr;
use std::sync::Arc;

use crds::contract::Split;

use super::{Role, Route, Rule, Run, Table};
use crate::evidence::guardrails::{Guardrails, Refused};

/// A rule of a route in a run.
#[derive(Clone, Debug)]
pub struct Watched {
    /// The route.
    pub route: Arc<Route>,
    /// The run.
    pub run: Run,
    /// The step of the run.
    pub step: u32,
    /// The canary's weight in basis points of its own and stable's.
    pub weight: u16,
    /// What is judged.
    pub guardrails: Arc<Guardrails>,
    /// Stable, as [`super::Arm::revision`] names it.
    pub stable_revision: String,
    /// The canary's endpoints.
    pub canary: Vec<SocketAddr>,
    /// Stable's.
    pub stable: Vec<SocketAddr>,
}

/// What a route says of its run.
#[derive(Clone, Debug)]
pub(super) struct OnTrial {
    run: Run,
    step: u32,
    stable_revision: String,
    guardrails: Arc<Guardrails>,
}

impl OnTrial {
    /// None outside a run.
    pub(super) fn of(split: &Split) -> Result<Option<Self>, Refused> {
        let guardrails = match &split.judge {
            Some(judge) => Guardrails::parse(judge)?,
            None => Guardrails::default(),
        };
        let canary = split.canary.as_ref().filter(|_| !split.run.is_empty());
        Ok(canary.map(|canary| Self {
            run: Run {
                id: split.run.clone(),
                revision: canary.clone(),
            },
            step: split.step,
            stable_revision: split.stable.clone(),
            guardrails: Arc::new(guardrails),
        }))
    }

    /// Has a rule watched.
    pub(super) fn watch(&self, rule: &mut Rule, table: &mut Table) {
        let endpoints = |role| -> Vec<SocketAddr> {
            let arms = rule.arms.iter().filter(|arm| arm.role == role);
            arms.flat_map(|arm| arm.backend.endpoints())
                .copied()
                .collect()
        };
        let watched = Watched {
            route: Arc::clone(&rule.route),
            run: self.run.clone(),
            step: self.step,
            weight: weight(rule),
            guardrails: Arc::clone(&self.guardrails),
            stable_revision: self.stable_revision.clone(),
            canary: endpoints(Role::Canary),
            stable: endpoints(Role::Stable),
        };
        rule.watched = Some(table.watched.len());
        table.watched.push(watched);
    }
}

impl Watched {
    /// Whether there is something to go back to.
    pub fn stable_reachable(&self) -> bool {
        !self.stable.is_empty()
    }
}

fn weight(rule: &Rule) -> u16 {
    let of = |role| -> u64 {
        let arms = rule.arms.iter().filter(|arm| arm.role == role);
        arms.map(|arm| arm.weight).sum()
    };
    let (canary, stable) = (of(Role::Canary), of(Role::Stable));
    let share = (canary * 10_000).checked_div(canary + stable);
    share
        .and_then(|share| u16::try_from(share).ok())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::Arm;

    #[test]
    fn weights_become_basis_points() {
        for (canary, stable, points) in [
            (0, 0, 0),
            (0, 5, 0),
            (5, 0, 10_000),
            (1, 99, 100),
            (1, 9999, 1),
        ] {
            let mut rule = Rule::unserved("digits");
            let arm = |role, weight| Arm {
                role,
                ..Arm::named("a", weight)
            };
            rule.arms = vec![arm(Role::Canary, canary), arm(Role::Stable, stable)];
            assert_eq!(weight(&rule), points, "{canary}:{stable}");
        }
    }
}
