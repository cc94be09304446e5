//! What ends a run without promotion.

use crds::{contract::Mark, guardrail::BlindAction, steps::OnInconclusive};
use jiff::Timestamp;

use super::{
    super::passed,
    guardrails::{self, breached},
    is_waiting,
};
use crate::{
    observation::{Frozen, Observation},
    plan::Plan,
    state::{EndResult, Ending, Run, Stage},
    weight::Weight,
};

/// Whether there is something to fall back to: the stable revision has a ready pod, or the canary
/// has no traffic anyway. When the pods could not be counted the design stands in for it: stable
/// keeps its capacity until promotion.
pub(super) fn has_fallback(stable: &str, run: &Run, seen: &Observation) -> bool {
    !seen.problems.is_empty()
        || seen.ready(stable) > 0
        || (seen.route.rule.is_some() && seen.routed(&run.revision) == Weight::ZERO)
}

/// The first reason to end the run, gravest first.
pub(super) fn ending(
    run: &Run,
    plan: Option<&Plan>,
    stable: &str,
    seen: &Observation,
    now: Timestamp,
) -> Option<Ending> {
    marked(run, seen)
        .or_else(|| tripped(run, seen))
        .or_else(|| plan.and_then(|plan| failed(run, plan, seen)))
        .or_else(|| unwanted(run, stable, seen))
        .or_else(|| plan_lost(run, seen))
        .or_else(|| plan.and_then(|plan| late(run, plan, stable, seen, now)))
        .or_else(|| plan.and_then(|plan| blind(run, plan, now)))
}

fn rolled_back(reason: &str, message: String) -> Ending {
    Ending {
        result: EndResult::RolledBack,
        reason: reason.to_owned(),
        message,
    }
}

/// The mark of whoever saw a breach of this run before the status could be written.
fn mark<'a>(run: &Run, seen: &'a Observation) -> Option<&'a Mark> {
    let mark = seen.route.rule.as_ref()?.mark.as_ref()?;
    (mark.revision == run.revision && mark.run == run.id).then_some(mark)
}

fn marked(run: &Run, seen: &Observation) -> Option<Ending> {
    mark(run, seen).map(|_| {
        rolled_back(
            "Condemned",
            format!("the route marks {} as condemned", run.revision),
        )
    })
}

/// The attempt in which a breach was seen: a higher one lifts what it condemns.
pub(super) fn attempt(run: &Run, seen: &Observation) -> i64 {
    mark(run, seen).map_or(seen.wanted.attempt, |mark| mark.attempt)
}

/// Longest text of a router that is passed on: it is read back from a status that others may write.
const TRIP_TEXT_MAX: usize = 256;

/// A router took the canary's traffic off by itself. Whatever the guardrails say since then, they
/// say it of a canary that nobody reaches.
fn tripped(run: &Run, seen: &Observation) -> Option<Ending> {
    let trip = seen.route.tripped.as_ref()?;
    (trip.revision == run.revision && trip.run == run.id).then(|| {
        let text = format!(
            "guardrail {} failed: a router took the traffic off at evidence {} of {}: {}",
            trip.guardrail, trip.log_e.0, trip.bound.0, trip.message
        );
        rolled_back("Tripped", text.chars().take(TRIP_TEXT_MAX).collect())
    })
}

fn failed(run: &Run, plan: &Plan, seen: &Observation) -> Option<Ending> {
    let guardrail = plan
        .guardrails
        .iter()
        .find(|guardrail| breached(run, guardrail))?;
    let judgement = seen
        .judgements
        .iter()
        .find(|seen| seen.guardrail == guardrail.name && seen.revision == run.revision);
    let measured = judgement.and_then(|judgement| {
        let measured = judgement.value.zip(judgement.samples);
        judgement.summary.clone().or_else(|| {
            measured.map(|(value, samples)| {
                let allowed = guardrail.bounds_text();
                format!("{value:.4} over {samples:.0} samples, allowed {allowed}")
            })
        })
    });
    let measured = measured.map(|text| format!(": {text}")).unwrap_or_default();
    Some(rolled_back(
        "GuardrailFailed",
        format!("guardrail {} failed{measured}", guardrail.name),
    ))
}

fn unwanted(run: &Run, stable: &str, seen: &Observation) -> Option<Ending> {
    // An invalid edit says nothing about what is wanted instead.
    seen.wanted.plan.as_ref().ok()?;
    let wanted = &seen.wanted.revision;
    if *wanted == run.revision {
        None
    } else if wanted == stable {
        let message = format!("the spec is back at {stable}");
        Some(Ending {
            result: EndResult::Reverted,
            reason: "Reverted".to_owned(),
            message,
        })
    } else {
        let message = format!("the spec asks for {wanted}");
        Some(Ending {
            result: EndResult::Superseded,
            reason: "Superseded".to_owned(),
            message,
        })
    }
}

/// Without a plan nobody watches the canary; a run that has shown it to nobody saves it again.
fn plan_lost(run: &Run, seen: &Observation) -> Option<Ending> {
    let lost = seen.frozen == Frozen::Missing && run.stage != Stage::Starting;
    lost.then(|| Ending {
        result: EndResult::Abandoned,
        reason: "PlanMissing".to_owned(),
        message: format!("the plan {} of run {} is gone", run.plan, run.id),
    })
}

fn late(
    run: &Run,
    plan: &Plan,
    stable: &str,
    seen: &Observation,
    now: Timestamp,
) -> Option<Ending> {
    if seen.wanted.paused || seen.ready(stable) == 0 {
        return None;
    }
    // An operator that was away may find long ago what it still waited for.
    let waited = seen.problems.is_empty()
        && is_waiting(run, plan, stable, seen)
        && run
            .waiting_since
            .is_some_and(|since| passed(since, plan.progress_deadline, now));
    if waited {
        let trouble = seen
            .tracks
            .get(&run.revision)
            .and_then(|track| track.trouble.as_deref());
        let trouble = trouble
            .map(|trouble| format!(": {trouble}"))
            .unwrap_or_default();
        let message = format!(
            "pods or weight were not there within {:#}{trouble}",
            plan.progress_deadline
        );
        return Some(rolled_back("ProgressDeadlineExceeded", message));
    }
    let undecided = plan.on_inconclusive == OnInconclusive::Rollback
        && guardrails::is_overdue(run, plan, now)
        && guardrails::is_undecided(run, plan, seen);
    undecided.then(|| {
        rolled_back(
            "StepDeadlineExceeded",
            format!("undecided after {:#}", plan.step_deadline),
        )
    })
}

fn blind(run: &Run, plan: &Plan, now: Timestamp) -> Option<Ending> {
    plan.guardrails.iter().find_map(|guardrail| {
        let (verdict, since) = run.tallies.get(&guardrail.name)?.blind?;
        let policy = guardrails::blind_policy(guardrail, verdict);
        (policy.action == BlindAction::Rollback && passed(since, policy.after, now)).then(|| {
            let message = format!(
                "guardrail {} says {} for {:#}",
                guardrail.name,
                verdict.name(),
                policy.after
            );
            rolled_back("GuardrailBlind", message)
        })
    })
}
