//! No revision is proven: the first one is brought up. There is no canary and nothing to fall back
//! to, so guardrails do not decide, and a newer spec replaces it.

use jiff::Timestamp;

use super::{Draft, NO_REPLICAS, Transition, drain};
use crate::{
    observation::Observation,
    state::{Phase, State},
    weight::Weight,
    why::Why,
};

pub(super) fn advance(
    state: State,
    revision: Option<String>,
    seen: &Observation,
    now: Timestamp,
) -> Transition {
    if let Some(problem) = seen.problems.first() {
        let problem = problem.clone();
        return Transition::stay(state, Why::CannotSee { problem });
    }
    if let Err(error) = &seen.wanted.plan {
        let why = Why::InvalidSpec(error.clone());
        return Transition::stay(state, why);
    }
    let wanted = seen.wanted.revision.clone();
    match revision {
        Some(revision) if revision == wanted => bring_up(state, &revision, seen),
        former => begin(state, former, wanted, seen, now),
    }
}

fn begin(
    mut state: State,
    former: Option<String>,
    wanted: String,
    seen: &Observation,
    now: Timestamp,
) -> Transition {
    if let Some(former) = former {
        drain(&mut state, &former, seen, now);
    }
    state.draining.remove(&wanted);
    let message =
        format!("{wanted} is the first revision: it serves as soon as its pods are ready");
    let record = Draft {
        decision: "FirstDeployment",
        run: None,
        revision: Some(wanted.clone()),
        weight: Weight::FULL,
        message: message.clone(),
    };
    state.phase = Phase::Pending {
        revision: Some(wanted),
    };
    let why = Why::Moved {
        message,
        weight: Weight::FULL,
    };
    Transition {
        next: state,
        why,
        record: Some(record),
    }
}

fn bring_up(mut state: State, revision: &str, seen: &Observation) -> Transition {
    let want = seen.wanted.replicas.max(1);
    let track = seen.tracks.get(revision);
    let ready = track.map_or(0, |track| track.ready);
    if ready < want {
        let trouble = if seen.wanted.replicas == 0 {
            Some(NO_REPLICAS.to_owned())
        } else {
            track.and_then(|track| track.trouble.clone())
        };
        return Transition::stay(
            state,
            Why::WaitingForReplicas {
                ready,
                want,
                trouble,
            },
        );
    }
    if !seen.route.applied.counts() || seen.routed(revision) != Weight::FULL {
        return Transition::stay(state, Why::WaitingForTraffic);
    }
    let record = Draft {
        decision: "FirstDeploymentServing",
        run: None,
        revision: Some(revision.to_owned()),
        weight: Weight::FULL,
        message: format!("{revision} serves all traffic"),
    };
    state.phase = Phase::Settled {
        stable: revision.to_owned(),
        rolled_back: false,
    };
    Transition {
        next: state,
        why: Why::Promoted,
        record: Some(record),
    }
}
