//! When to look again, even if nothing happens.

use jiff::{SignedDuration, Timestamp};

use crate::{
    guardrail::Guardrail,
    observation::{Applied, Frozen, Observation},
    plan::Plan,
    state::{Phase, Run, Stage, State},
};

/// While something is on its way that no watch tells of, such as a router's report.
const POLL: SignedDuration = SignedDuration::from_millis(200);
/// While routers say by themselves when it is there: a guard against a word that got lost.
const AWAITED: SignedDuration = SignedDuration::from_secs(1);
/// While a run waits for what watches tell of.
const RUN: SignedDuration = SignedDuration::from_secs(5);
/// At rest: a guard against an event that never came.
const REST: SignedDuration = SignedDuration::from_mins(5);

/// No wait is shorter: whatever a stored plan says, the loop must not be a busy one.
const SHORTEST: SignedDuration = SignedDuration::from_millis(20);

pub(crate) fn wake_after(
    next: &State,
    seen: &Observation,
    is_transition: bool,
    now: Timestamp,
) -> SignedDuration {
    if is_transition {
        // One transition at a time: another may be due at once.
        return POLL;
    }
    let present = match &next.phase {
        Phase::Unknown { .. } => REST,
        Phase::Pending { .. } | Phase::Settled { .. } if !seen.problems.is_empty() => RUN,
        Phase::Pending { revision } => match revision {
            Some(revision) if seen.ready(revision) >= seen.wanted.replicas.max(1) => {
                on_its_way(&seen.route.applied)
            }
            Some(_) => RUN,
            None => REST,
        },
        Phase::Settled { .. } if seen.route.rule.is_some() && !seen.route.applied.counts() => RUN,
        Phase::Settled { .. } => REST,
        Phase::Ending { .. } => on_its_way(&seen.route.applied),
        Phase::Running { run, .. } => running(run, seen, now),
    };
    let drained = next
        .draining
        .values()
        .map(|until| until.duration_since(now).max(POLL));
    drained.chain([present]).min().unwrap_or(REST).max(SHORTEST)
}

fn on_its_way(applied: &Applied) -> SignedDuration {
    match applied {
        Applied::Awaited => AWAITED,
        Applied::Yes | Applied::Unverified | Applied::No => POLL,
    }
}

fn running(run: &Run, seen: &Observation, now: Timestamp) -> SignedDuration {
    if run.waiting_since.is_some() {
        return on_its_way(&seen.route.applied);
    }
    let Frozen::Plan(plan) = &seen.frozen else {
        return POLL;
    };
    let left = left_to_hold(run, plan, now).unwrap_or(RUN);
    let asked = plan.guardrails.iter().filter_map(Guardrail::prometheus);
    let intervals = asked.map(|check| check.interval);
    intervals.chain([left, RUN]).min().unwrap_or(RUN)
}

fn left_to_hold(run: &Run, plan: &Plan, now: Timestamp) -> Option<SignedDuration> {
    let long = match &run.stage {
        Stage::Starting => return None,
        Stage::Step { index, .. } => plan.step(*index)?.hold,
        Stage::Bake { .. } => plan.bake,
    };
    let left = long.checked_sub(run.hold()?.elapsed(now))?;
    left.is_positive().then_some(left)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_will_be_told_is_not_asked_for_in_a_hurry_and_all_else_is() {
        assert_eq!(on_its_way(&Applied::No), POLL);
        assert_eq!(on_its_way(&Applied::Yes), POLL);
        assert_eq!(on_its_way(&Applied::Awaited), AWAITED);
    }
}
