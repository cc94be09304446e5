//! What the guardrails' judgements mean for a run.

use crds::{guardrail::OnFail, steps::OnInconclusive};
use jiff::{SignedDuration, Timestamp};
use verdict::Verdict;

use super::super::passed;
use crate::{
    guardrail::{Check, Guardrail, Judgement},
    observation::Observation,
    plan::{BlindPolicy, Plan},
    state::{Run, recorded, since_at},
    why::Why,
};

/// Counts failures and blind time. A failure counts once per window, whenever it is about this
/// revision and began in this run; consecutive counts would miss one that alternates.
pub(super) fn tally(run: &mut Run, plan: &Plan, seen: &Observation, now: Timestamp) {
    for guardrail in &plan.guardrails {
        let Some(judgement) = judgement(guardrail, run, seen) else {
            continue;
        };
        let (started, verdict) = (run.started_at, judgement.verdict);
        let tally = run.tallies.entry(guardrail.name.clone()).or_default();
        // A clock that went back makes no failure an old one, and hides none behind a later one.
        let in_run = judgement.window_start >= started || now < started;
        let counted = tally.failed_at.is_some_and(|at| match &guardrail.check {
            Check::Prometheus(check) => {
                let overlaps = judgement.at.saturating_add(check.window);
                judgement.window_start < at && overlaps.is_ok_and(|end| end > at)
            }
            // The evidence of the whole run fails once.
            Check::Router(_) => true,
        });
        if verdict == Verdict::Fail && in_run && !counted {
            tally.failures = tally.failures.saturating_add(1);
            tally.failed_at = Some(recorded(judgement.at));
        }
        tally.blind = match (verdict.is_blind(), tally.blind) {
            (false, _) => None,
            (true, Some((_, since))) => Some((verdict, since)),
            (true, None) => Some((verdict, recorded(now))),
        };
    }
}

/// Whether a guardrail's failures roll the run back.
pub(super) fn breached(run: &Run, guardrail: &Guardrail) -> bool {
    guardrail.on_fail == OnFail::Rollback && is_over_limit(run, guardrail)
}

fn is_over_limit(run: &Run, guardrail: &Guardrail) -> bool {
    let failures = run
        .tallies
        .get(&guardrail.name)
        .map_or(0, |tally| tally.failures);
    failures > guardrail.failure_limit()
}

/// What a run is judged with.
struct Look<'a> {
    run: &'a Run,
    plan: &'a Plan,
    seen: &'a Observation,
    now: Timestamp,
}

/// What keeps the step from passing: the gravest guardrail that does not pass.
pub(super) fn blocked(run: &Run, plan: &Plan, seen: &Observation, now: Timestamp) -> Option<Why> {
    let advance = plan.on_inconclusive == OnInconclusive::Advance && is_overdue(run, plan, now);
    deciding(run, plan)
        .map(|guardrail| (standing(run, guardrail, seen, now), guardrail))
        .filter(|(standing, _)| match standing {
            Standing::Pass => false,
            Standing::Verdict(Verdict::Inconclusive) => !advance,
            Standing::Verdict(_) | Standing::NotYet => true,
        })
        .max_by_key(|(standing, _)| standing.gravity())
        .map(|(standing, guardrail)| {
            why(
                standing,
                guardrail,
                &Look {
                    run,
                    plan,
                    seen,
                    now,
                },
            )
        })
}

/// The guardrails that decide in the present step. Where requests are only copied the routers have
/// nothing to judge, for no user gets those answers.
fn deciding<'a>(run: &'a Run, plan: &'a Plan) -> impl Iterator<Item = &'a Guardrail> {
    let is_copied = run.mirror(plan).is_some();
    plan.guardrails.iter().filter(move |guardrail| {
        !is_copied || guardrail.router().is_none() || is_over_limit(run, guardrail)
    })
}

/// What a guardrail says of the present step.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Standing {
    Pass,
    /// Its window does not lie within the step yet.
    NotYet,
    Verdict(Verdict),
}

impl Standing {
    fn gravity(self) -> (Verdict, bool) {
        match self {
            Self::Pass => (Verdict::Pass, false),
            Self::NotYet => (Verdict::Pass, true),
            Self::Verdict(verdict) => (verdict, true),
        }
    }
}

fn judgement<'a>(guardrail: &Guardrail, run: &Run, seen: &'a Observation) -> Option<&'a Judgement> {
    seen.judgements
        .iter()
        .find(|judged| judged.guardrail == guardrail.name && judged.revision == run.revision)
}

fn standing(run: &Run, guardrail: &Guardrail, seen: &Observation, now: Timestamp) -> Standing {
    if is_over_limit(run, guardrail) {
        return Standing::Verdict(Verdict::Fail);
    }
    let Some(judgement) = judgement(guardrail, run, seen) else {
        return Standing::NotYet;
    };
    match judgement.verdict {
        Verdict::Pass if is_fresh_pass(run, guardrail, judgement, now) => Standing::Pass,
        Verdict::Pass => Standing::NotYet,
        verdict @ (Verdict::Inconclusive | Verdict::NoData | Verdict::Error | Verdict::Fail) => {
            Standing::Verdict(verdict)
        }
    }
}

/// A pass counts only when its whole window lies within the step, while the weight was served, and
/// when it is not an old one kept over.
fn is_fresh_pass(run: &Run, guardrail: &Guardrail, pass: &Judgement, now: Timestamp) -> bool {
    let Some(applied_at) = run.hold().and_then(|held| held.applied_at) else {
        return false;
    };
    let Check::Prometheus(check) = &guardrail.check else {
        // It was concluded in this very look, from what was seen at this step's weight.
        return true;
    };
    let age = since_at(pass.at, now);
    let kept = check.interval.saturating_add(check.interval);
    pass.at <= now
        && pass.window_start >= applied_at
        && pass.at.duration_since(pass.window_start) >= check.whole_window()
        && age <= kept.max(SignedDuration::from_secs(5))
}

/// Whether the step's deadline has passed. It runs while the weight is served: a step that was
/// paused or had no pods could not decide itself.
pub(super) fn is_overdue(run: &Run, plan: &Plan, now: Timestamp) -> bool {
    run.hold()
        .is_some_and(|held| held.elapsed(now) >= plan.step_deadline)
}

/// Whether some guardrail is inconclusive and none says worse.
pub(super) fn is_undecided(run: &Run, plan: &Plan, seen: &Observation) -> bool {
    let verdicts = deciding(run, plan)
        .filter_map(|guardrail| judgement(guardrail, run, seen).map(|judgement| judgement.verdict));
    Verdict::worst(verdicts) == Verdict::Inconclusive
}

/// The policy for a guardrail that cannot see.
pub(super) fn blind_policy(guardrail: &Guardrail, verdict: Verdict) -> &BlindPolicy {
    match verdict {
        Verdict::Error => &guardrail.on_error,
        Verdict::NoData | Verdict::Pass | Verdict::Inconclusive | Verdict::Fail => {
            &guardrail.on_no_data
        }
    }
}

fn why(standing: Standing, guardrail: &Guardrail, look: &Look<'_>) -> Why {
    let Look {
        run,
        plan,
        seen,
        now,
    } = *look;
    let name = guardrail.name.clone();
    let blind_since = run
        .tallies
        .get(&name)
        .and_then(|tally| tally.blind)
        .map(|(_, since)| since);
    let overdue = |verdict| {
        blind_since.is_some_and(|since| passed(since, blind_policy(guardrail, verdict).after, now))
    };
    let problem = judgement(guardrail, run, seen).and_then(|seen| seen.problem.clone());
    match standing {
        Standing::Pass | Standing::NotYet | Standing::Verdict(Verdict::Pass) => {
            Why::WaitingForWindow { guardrail: name }
        }
        Standing::Verdict(Verdict::Inconclusive) => Why::Inconclusive {
            guardrail: name,
            problem: problem.unwrap_or_else(|| needs_samples(guardrail)),
            overdue: is_overdue(run, plan, now),
        },
        Standing::Verdict(Verdict::NoData) => Why::NoData {
            guardrail: name,
            problem: problem.unwrap_or_else(|| NO_DATA.to_owned()),
            overdue: overdue(Verdict::NoData),
        },
        Standing::Verdict(Verdict::Error) => Why::Error {
            guardrail: name,
            problem: problem.unwrap_or_else(|| "no answer".to_owned()),
            overdue: overdue(Verdict::Error),
        },
        Standing::Verdict(Verdict::Fail) => Why::FailureHeld {
            guardrail: name,
            overdue: is_over_limit(run, guardrail),
        },
    }
}

const NO_DATA: &str = "is there traffic, and does its query match it?";

fn needs_samples(guardrail: &Guardrail) -> String {
    let need = guardrail
        .prometheus()
        .map_or(0.0, |check| check.min_samples);
    format!("it needs {need} samples in its window")
}
