//! One proven revision serves. A run begins here, and a lost status is recovered to here.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::{Draft, NO_REPLICAS, Transition};
use crate::{
    observation::Observation,
    state::{Condemned, Phase, Run, Stage, State, recorded},
    weight::Weight,
    why::Why,
};

/// The state of an object without a status: new, or its status was lost. The mark on its revision
/// says which one is proven, so that what is not never gets all traffic.
pub(crate) fn recover(seen: &Observation) -> State {
    let proven = seen
        .revisions
        .iter()
        .filter_map(|(name, revision)| Some((revision.stable_since?, name)))
        .max();
    let Some((_, stable)) = proven else {
        return State::default();
    };
    let rule = seen.route.rule.as_ref();
    let mark = rule.and_then(|rule| rule.mark.as_ref());
    let split_run = rule
        .and_then(|rule| rule.split.as_ref())
        .map(|split| split.run.as_str());
    // The mark on the route outlives the status: a condemned revision stays condemned. So does the
    // word of a router, while the route is still that of its run.
    let marked = mark.map(|mark| (&mark.revision, &mark.run, mark.attempt));
    let tripped = seen.route.tripped.as_ref();
    let tripped = tripped.filter(|trip| split_run == Some(trip.run.as_str()));
    let tripped = tripped.map(|trip| (&trip.revision, &trip.run, seen.wanted.attempt));
    let condemned = tripped.or(marked).filter(|(revision, _, attempt)| {
        **revision == seen.wanted.revision && seen.wanted.attempt <= *attempt
    });
    let plan_runs = seen.plans.iter().filter_map(|plan| plan.rsplit('-').next());
    let runs = plan_runs
        .chain(split_run)
        .chain(mark.map(|mark| mark.run.as_str()));
    State {
        phase: Phase::Settled {
            stable: stable.clone(),
            rolled_back: condemned.is_some(),
        },
        runs: runs.filter_map(run_number).max().unwrap_or(0),
        condemned: condemned
            .map(|(revision, run, attempt)| Condemned {
                revision: revision.clone(),
                run: run.clone(),
                attempt,
                reason: "RolledBackBefore".to_owned(),
            })
            .into_iter()
            .collect(),
        ..State::default()
    }
}

fn run_number(id: &str) -> Option<u64> {
    id.strip_prefix('r')?.parse::<u32>().ok().map(u64::from)
}

pub(super) fn advance(
    mut state: State,
    stable: &str,
    seen: &Observation,
    now: Timestamp,
) -> Transition {
    if let Some(problem) = seen.problems.first() {
        let problem = problem.clone();
        return Transition::stay(state, Why::CannotSee { problem });
    }
    let wanted = &seen.wanted;
    if wanted.revision == stable {
        // Another spec came between: what was condemned may be tried again.
        state.condemned.clear();
        state.phase = Phase::Settled {
            stable: stable.to_owned(),
            rolled_back: false,
        };
        if let Err(error) = &wanted.plan {
            return Transition::stay(state, Why::InvalidSpec(error.clone()));
        }
        return Transition::stay(state, serving(stable, seen));
    }
    if let Err(error) = &wanted.plan {
        let why = Why::InvalidSpec(error.clone());
        return Transition::stay(state, why);
    }
    if let Some(condemned) = state.condemned(&wanted.revision, wanted.attempt) {
        let reason = condemned.reason.clone();
        state.phase = Phase::Settled {
            stable: stable.to_owned(),
            rolled_back: true,
        };
        return Transition::stay(state, Why::RolledBack { reason });
    }
    if wanted.paused {
        return Transition::stay(state, Why::Paused);
    }
    if wanted.replicas == 0 {
        // Of no pods nothing can be tried, and nobody is to blame for it.
        let (ready, trouble) = (seen.ready(stable), Some(NO_REPLICAS.to_owned()));
        let why = Why::WaitingForReplicas {
            ready,
            want: 1,
            trouble,
        };
        return Transition::stay(state, why);
    }
    if seen.ready(stable) == 0 {
        return Transition::stay(state, Why::StableUnhealthy);
    }
    begin(state, stable, seen, now)
}

fn serving(stable: &str, seen: &Observation) -> Why {
    let (ready, want) = (seen.ready(stable), seen.wanted.replicas);
    let trouble = seen
        .tracks
        .get(stable)
        .and_then(|track| track.trouble.clone());
    if ready == 0 && want > 0 {
        Why::WaitingForReplicas {
            ready,
            want,
            trouble,
        }
    } else {
        Why::Promoted
    }
}

fn begin(mut state: State, stable: &str, seen: &Observation, now: Timestamp) -> Transition {
    let revision = seen.wanted.revision.clone();
    state.runs = state.runs.saturating_add(1);
    let id = format!("r{}", state.runs);
    state.condemned.clear();
    state.draining.remove(&revision);
    let message = format!("run {id} tries {revision} against {stable}");
    let record = Draft {
        decision: "RunStarted",
        run: Some(id.clone()),
        revision: Some(revision.clone()),
        weight: Weight::ZERO,
        message: message.clone(),
    };
    let run = Run {
        plan: format!("{}-plan-{id}", seen.name),
        id,
        revision,
        started_at: recorded(now),
        attempt: seen.wanted.attempt,
        stable_replicas: seen
            .tracks
            .get(stable)
            .map_or(seen.wanted.replicas, |track| track.replicas.max(1)),
        exposed_at: None,
        stage: Stage::Starting,
        earned: Weight::ZERO,
        waiting_since: Some(recorded(now)),
        tallies: BTreeMap::new(),
    };
    state.phase = Phase::Running {
        stable: stable.to_owned(),
        run,
    };
    let why = Why::Moved {
        message,
        weight: Weight::ZERO,
    };
    Transition {
        next: state,
        why,
        record: Some(record),
    }
}
