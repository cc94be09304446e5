//! The state machine: from where the rollout stands and what is seen, to where it stands next. At
//! most one transition at a time.

mod pending;
mod running;
mod settled;
mod timing;

use crds::status::{DecisionRecord, Measured, RunRecord};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

pub(crate) use self::{
    running::{capacity, ready_share},
    settled::recover,
    timing::wake_after,
};
use crate::{
    observation::{Frozen, Observation},
    state::{Condemned, EndResult, Ending, Phase, Run, State, recorded, since_at},
    weight::Weight,
    why::Why,
};

/// How many decisions and runs a status remembers.
const REMEMBERED: usize = 10;
/// How many revisions drain at a time: a status lists eight, and two of them serve.
const DRAINING_MAX: usize = 6;

/// What is in the way of an object that is scaled to zero.
const NO_REPLICAS: &str = "spec.replicas is 0";

/// Where the rollout stands next, and why.
pub(crate) struct Transition {
    pub(crate) next: State,
    pub(crate) why: Why,
    /// What to tell about it, when more than a timer changed.
    pub(crate) record: Option<Draft>,
}

/// A decision record without its number, time and measurements.
pub(crate) struct Draft {
    decision: &'static str,
    run: Option<String>,
    revision: Option<String>,
    weight: Weight,
    message: String,
}

impl Transition {
    fn stay(next: State, why: Why) -> Self {
        Self {
            next,
            why,
            record: None,
        }
    }
}

/// The only function that changes the phase.
pub(crate) fn advance(state: &State, seen: &Observation, now: Timestamp) -> Transition {
    let mut state = state.clone();
    if seen.problems.is_empty() {
        state.draining.retain(|revision, until| {
            // A revision that requests still reach is not done, whatever the clock says.
            *until > now || seen.reaches(revision)
        });
    }
    match state.phase.clone() {
        Phase::Unknown { problem } => Transition::stay(state, Why::Unreadable { problem }),
        Phase::Pending { revision } => pending::advance(state, revision, seen, now),
        Phase::Settled { stable, .. } => settled::advance(state, &stable, seen, now),
        Phase::Running { stable, run } => {
            running::advance(running::Trial { state, stable, run }, seen, now)
        }
        Phase::Ending {
            stable,
            run,
            ending,
        } => end(running::Trial { state, stable, run }, ending, seen, now),
    }
}

/// Traffic is being taken off the canary: done when the data plane serves it.
fn end(trial: running::Trial, ending: Ending, seen: &Observation, now: Timestamp) -> Transition {
    let running::Trial {
        mut state,
        stable,
        run,
    } = trial;
    let off = seen.problems.is_empty()
        && !seen.reaches(&run.revision)
        && seen.route.rule.is_some()
        && seen.route.applied.counts();
    if !off {
        return Transition::stay(state, Why::Ending(ending));
    }
    let record = Draft {
        decision: match ending.result {
            EndResult::RolledBack => "RolledBack",
            EndResult::Superseded => "Superseded",
            EndResult::Reverted => "Reverted",
            EndResult::Abandoned => "Abandoned",
        },
        run: Some(run.id.clone()),
        revision: Some(run.revision.clone()),
        weight: Weight::ZERO,
        message: format!("no traffic goes to {}: {}", run.revision, ending.message),
    };
    remember_run(&mut state, &run, ending.result.name(), &ending.reason, now);
    drain(&mut state, &run.revision, seen, now);
    let is_back = seen.wanted.revision == stable;
    if is_back {
        // Another spec came between: what was condemned may be tried again.
        state.condemned.clear();
    }
    let rolled_back = ending.result == EndResult::RolledBack && !is_back;
    state.phase = Phase::Settled {
        stable,
        rolled_back,
    };
    let why = if rolled_back {
        Why::RolledBack {
            reason: ending.reason,
        }
    } else {
        Why::Moved {
            message: record.message.clone(),
            weight: Weight::ZERO,
        }
    };
    Transition {
        next: state,
        why,
        record: Some(record),
    }
}

/// Keeps the pods of a revision that lost its traffic for as long as a request may take.
fn drain(state: &mut State, revision: &str, seen: &Observation, now: Timestamp) {
    let drain = match (&seen.frozen, &seen.wanted.plan) {
        (Frozen::Plan(plan), _) => plan.drain,
        (_, Ok(plan)) => plan.drain,
        (_, Err(_)) => crate::plan::DEFAULT_REQUEST_TIMEOUT,
    };
    let until = recorded(now.checked_add(drain).unwrap_or(now));
    state.draining.insert(revision.to_owned(), until);
    while state.draining.len() > DRAINING_MAX {
        let soonest = state.draining.iter().min_by_key(|(_, until)| **until);
        let Some(soonest) = soonest.map(|(name, _)| name.clone()) else {
            break;
        };
        state.draining.remove(&soonest);
    }
}

/// An attempt that was raised before the breach was seen does not lift what the breach condemns.
fn condemn(state: &mut State, run: &Run, attempt: i64, reason: &str) {
    state
        .condemned
        .retain(|condemned| condemned.revision != run.revision);
    state.condemned.push(Condemned {
        revision: run.revision.clone(),
        run: run.id.clone(),
        attempt: run.attempt.max(attempt),
        reason: reason.to_owned(),
    });
    trim(&mut state.condemned);
}

fn remember_run(state: &mut State, run: &Run, result: &str, reason: &str, now: Timestamp) {
    state.history.push(RunRecord {
        run: run.id.clone(),
        revision: run.revision.clone(),
        result: result.to_owned(),
        reason: reason.to_owned(),
        started_at: Some(Time(run.started_at)),
        ended_at: Some(Time(recorded(now))),
    });
    trim(&mut state.history);
}

fn trim<T>(list: &mut Vec<T>) {
    let surplus = list.len().saturating_sub(REMEMBERED);
    list.drain(..surplus);
}

/// The state with the record of this transition, numbered after the last.
pub(crate) fn with_record(
    mut state: State,
    draft: Option<Draft>,
    seen: &Observation,
    now: Timestamp,
) -> State {
    let Some(draft) = draft else { return state };
    let id = state
        .decisions
        .last()
        .map_or(1, |last| last.id.saturating_add(1));
    // What a run ends as was decided before: by then there is nothing left to measure.
    let is_end = EndResult::from_name(draft.decision).is_some();
    let judged = seen.judgements.iter().filter(|judgement| {
        let revision = draft.revision.as_ref();
        !is_end && revision.is_some_and(|revision| *revision == judgement.revision)
    });
    let bounds = |name: &str| match &seen.frozen {
        Frozen::Plan(plan) => plan
            .guardrails
            .iter()
            .find(|guardrail| guardrail.name == name)
            .map(crate::guardrail::Guardrail::bounds_text),
        Frozen::NoRun | Frozen::Missing | Frozen::Unreadable(_) => None,
    };
    let guardrails: Vec<Measured> = judged
        .map(|judgement| Measured {
            name: judgement.guardrail.clone(),
            verdict: judgement.verdict.name().to_owned(),
            value: judgement.value.and_then(number),
            samples: judgement.samples.and_then(number),
            threshold: bounds(&judgement.guardrail),
            log_e: judgement.log_e.and_then(number),
            bound: judgement.bound.and_then(number),
            summary: judgement.summary.clone(),
        })
        .collect();
    let record = DecisionRecord {
        id,
        at: Some(Time(recorded(now))),
        run: draft.run,
        revision: draft.revision,
        decision: draft.decision.to_owned(),
        weight: draft.weight.into(),
        message: draft.message,
        guardrails,
    };
    state.decisions.push(record);
    trim(&mut state.decisions);
    state
}

/// A number as a status holds it: text of at most 15 digits and 9 decimals. One that is larger is
/// cut off: a refused status would lose the whole decision.
pub(crate) fn number(value: f64) -> Option<crds::quantity::Number> {
    const MOST: f64 = 999_999_999_999_999.0;
    if !value.is_finite() {
        return None;
    }
    let value = value.clamp(-MOST, MOST);
    let text = if value.abs() < 0.001 {
        format!("{value:.9}")
    } else if value.abs() < 1e9 {
        format!("{value:.4}")
    } else {
        format!("{value:.0}")
    };
    let text = if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.')
    } else {
        &text
    };
    let text = if text == "-0" { "0" } else { text };
    Some(crds::quantity::Number(text.to_owned()))
}

/// Whether `limit` has passed since `since`.
fn passed(since: Timestamp, limit: SignedDuration, now: Timestamp) -> bool {
    since_at(since, now) >= limit
}
