//! The status that tells a decision: fields for the next decision, and conditions for people.

use crds::{
    ModelDeploymentStatus, contract::LABEL_REVISION, names::condition, quantity::Percent,
    status::RevisionStatus,
};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use crate::{
    Decision,
    observation::{Applied, Frozen, Observation},
    state::{
        Phase, Stage, State,
        wire::{self, TRACK_DRAINING, phase},
    },
    weight::Weight,
    why::Why,
};

/// The status after a decision. `previous` is the status before it: what did not change keeps its
/// times, so that deciding the same again gives the same status.
pub fn status(
    previous: &ModelDeploymentStatus,
    decision: &Decision,
    seen: &Observation,
    now: Timestamp,
) -> ModelDeploymentStatus {
    let blind = matches!(decision.why, Why::CannotSee { .. });
    let unreadable = matches!(decision.next.phase, Phase::Unknown { .. });
    let mut status = if unreadable || (blind && previous.phase.is_none()) {
        // What cannot be understood is not overwritten; what was never decided is not invented.
        previous.clone()
    } else {
        fields(previous, &decision.next, seen)
    };
    status.observed_generation = Some(seen.wanted.generation);
    status.paused = seen.wanted.paused;
    status.conditions = conditions(previous, decision, seen, now);
    status
}

fn fields(
    previous: &ModelDeploymentStatus,
    next: &State,
    seen: &Observation,
) -> ModelDeploymentStatus {
    let run = next.run();
    let canary = match &next.phase {
        Phase::Pending { revision } => revision.clone(),
        Phase::Settled { .. }
        | Phase::Running { .. }
        | Phase::Ending { .. }
        | Phase::Unknown { .. } => run.map(|run| run.revision.clone()),
    };
    let ending = match &next.phase {
        Phase::Ending { ending, .. } => Some(ending),
        Phase::Pending { .. }
        | Phase::Settled { .. }
        | Phase::Running { .. }
        | Phase::Unknown { .. } => None,
    };
    let revisions = revisions(previous, next, seen);
    let leading = leading(next, &revisions);
    ModelDeploymentStatus {
        observed_generation: None,
        phase: Some(phase_name(next).to_owned()),
        paused: false,
        step: step(next, seen),
        weight: run.map(|run| applied_weight(previous, next, run, seen)),
        stable_revision: next.stable().map(str::to_owned),
        canary_revision: canary,
        replicas: leading.map(|revision| revision.replicas),
        selector: leading.map(|revision| format!("{LABEL_REVISION}={}", revision.name)),
        revisions,
        run: run.map(|run| wire::write_run(run, ending)),
        runs: i64::try_from(next.runs).ok(),
        decisions: next.decisions.clone(),
        history: next.history.clone(),
        condemned: next.condemned.iter().map(wire::write_condemned).collect(),
        conditions: Vec::new(),
    }
}

fn phase_name(next: &State) -> &'static str {
    match &next.phase {
        Phase::Pending { .. } => phase::PENDING,
        Phase::Settled {
            rolled_back: false, ..
        } => phase::STABLE,
        Phase::Settled {
            rolled_back: true, ..
        } => phase::ROLLED_BACK,
        Phase::Running { run, .. } => match run.stage {
            Stage::Bake { .. } => phase::BAKING,
            Stage::Starting | Stage::Step { .. } => phase::PROGRESSING,
        },
        Phase::Ending { .. } => phase::ROLLING_BACK,
        Phase::Unknown { .. } => phase::UNKNOWN,
    }
}

fn step(next: &State, seen: &Observation) -> Option<String> {
    let run = next.run()?;
    let steps = match (&seen.frozen, &seen.wanted.plan) {
        (Frozen::Plan(plan), _) => plan.steps.len(),
        (Frozen::NoRun | Frozen::Missing, Ok(plan)) => plan.steps.len(),
        _ => return None,
    };
    let at = match &run.stage {
        Stage::Starting => 0,
        Stage::Step { index, .. } => index + 1,
        Stage::Bake { .. } => steps,
    };
    Some(format!("{at}/{steps}"))
}

/// What the canary is to get now: what it earned, as far as its pods carry it.
fn share(next: &State, run: &crate::state::Run, seen: &Observation) -> Weight {
    if matches!(next.phase, Phase::Ending { .. }) {
        return Weight::ZERO;
    }
    let share = next.stable().map_or(Weight::ZERO, |stable| {
        crate::transition::ready_share(run, stable, seen)
    });
    run.earned.min(share)
}

/// The same, or the last word on it while the pods cannot be counted.
fn applied_weight(
    previous: &ModelDeploymentStatus,
    next: &State,
    run: &crate::state::Run,
    seen: &Observation,
) -> Percent {
    let running = matches!(next.phase, Phase::Running { .. });
    let before = previous.weight.clone();
    before
        .filter(|_| running && !seen.problems.is_empty())
        .unwrap_or_else(|| share(next, run, seen).into())
}

fn revisions(
    previous: &ModelDeploymentStatus,
    next: &State,
    seen: &Observation,
) -> Vec<RevisionStatus> {
    let entry = |name: &str, track: &str, weight: Weight, until: Option<Timestamp>| {
        let pods = seen.tracks.get(name);
        let before = previous.revisions.iter().find(|before| before.name == name);
        if let Some(before) = before.filter(|_| !seen.problems.is_empty()) {
            // What could not be counted is not none: the last count stands.
            let ending = matches!(next.phase, Phase::Ending { .. });
            return RevisionStatus {
                track: track.to_owned(),
                weight: if ending {
                    weight.into()
                } else {
                    before.weight.clone()
                },
                drain_until: until.map(Time),
                ..before.clone()
            };
        }
        let count = |pods: Option<u32>| pods.and_then(|n| i32::try_from(n).ok()).unwrap_or(0);
        RevisionStatus {
            name: name.to_owned(),
            track: track.to_owned(),
            weight: weight.into(),
            replicas: count(pods.map(|pods| pods.replicas)),
            ready_replicas: count(pods.map(|pods| pods.ready)),
            drain_until: until.map(Time),
        }
    };
    let mut revisions = Vec::new();
    match &next.phase {
        Phase::Pending {
            revision: Some(revision),
        } => {
            revisions.push(entry(revision, "Stable", Weight::FULL, None));
        }
        Phase::Settled { stable, .. } => {
            revisions.push(entry(stable, "Stable", Weight::FULL, None));
        }
        Phase::Running { stable, run } | Phase::Ending { stable, run, .. } => {
            let weight = share(next, run, seen);
            revisions.push(entry(stable, "Stable", weight.rest(), None));
            revisions.push(entry(&run.revision, "Canary", weight, None));
        }
        Phase::Pending { revision: None } | Phase::Unknown { .. } => {}
    }
    for (revision, until) in &next.draining {
        if !revisions.iter().any(|listed| listed.name == *revision) {
            revisions.push(entry(revision, TRACK_DRAINING, Weight::ZERO, Some(*until)));
        }
    }
    revisions
}

/// The revision with the most traffic: what an autoscaler should look at.
fn leading<'a>(next: &State, revisions: &'a [RevisionStatus]) -> Option<&'a RevisionStatus> {
    let more = |revision: &RevisionStatus| {
        let points = Percent::basis_points(&revision.weight).unwrap_or(0);
        // Of two with half each, the stable one.
        (points, next.stable() == Some(revision.name.as_str()))
    };
    revisions.iter().max_by_key(|revision| more(revision))
}

struct Said<'a> {
    type_: &'static str,
    status: &'static str,
    reason: &'a str,
    message: String,
}

fn conditions(
    previous: &ModelDeploymentStatus,
    decision: &Decision,
    seen: &Observation,
    now: Timestamp,
) -> Vec<Condition> {
    let why = &decision.why;
    let said = [
        accepted(seen),
        available(seen, &decision.next),
        ready(decision, seen),
        reconciling(decision),
        stalled(why),
        progressing(decision),
        guardrails_healthy(&decision.next, seen),
        traffic_applied(seen),
    ];
    let blind = !seen.problems.is_empty();
    said.into_iter()
        .map(|said| {
            let before = previous
                .conditions
                .iter()
                .find(|condition| condition.type_ == said.type_);
            if let Some(before) = before.filter(|_| blind && is_about_the_cluster(said.type_)) {
                return before.clone();
            }
            let since = before
                .filter(|before| before.status == said.status)
                .map_or(Time(now), |before| before.last_transition_time.clone());
            Condition {
                type_: said.type_.to_owned(),
                status: said.status.to_owned(),
                reason: said.reason.to_owned(),
                message: said.message,
                observed_generation: Some(seen.wanted.generation),
                last_transition_time: since,
            }
        })
        .collect()
}

/// Whether a condition tells what was read from the cluster: when that failed, the last word stands.
fn is_about_the_cluster(type_: &str) -> bool {
    [
        condition::AVAILABLE,
        condition::TRAFFIC_APPLIED,
        condition::GUARDRAILS_HEALTHY,
    ]
    .contains(&type_)
}

fn truth(value: bool) -> &'static str {
    if value { "True" } else { "False" }
}

fn accepted(seen: &Observation) -> Said<'static> {
    let (status, reason, message) = match &seen.wanted.plan {
        Ok(_) => ("True", "Valid", "the spec can be carried out".to_owned()),
        Err(error) => ("False", "InvalidSpec", error.to_string()),
    };
    Said {
        type_: condition::ACCEPTED,
        status,
        reason,
        message,
    }
}

fn available(seen: &Observation, next: &State) -> Said<'static> {
    let serving = match &next.phase {
        Phase::Pending { revision } => revision.as_deref(),
        Phase::Settled { .. }
        | Phase::Running { .. }
        | Phase::Ending { .. }
        | Phase::Unknown { .. } => next.stable(),
    };
    let ready = serving.map_or(0, |revision| seen.ready(revision));
    let canary = next.run().map_or(0, |run| seen.ready(&run.revision));
    let (reason, message) = if ready > 0 {
        (
            "Serving",
            format!("{ready} of {} pods are ready", seen.wanted.replicas),
        )
    } else if canary > 0 {
        ("CanaryServing", "only the canary has ready pods".to_owned())
    } else {
        ("NoReadyPods", "no pod is ready".to_owned())
    };
    let status = truth(ready + canary > 0);
    Said {
        type_: condition::AVAILABLE,
        status,
        reason,
        message,
    }
}

fn ready<'a>(decision: &'a Decision, seen: &Observation) -> Said<'a> {
    let why = &decision.why;
    let promoted = matches!(&decision.next.phase, Phase::Settled { stable, .. }
        if *stable == seen.wanted.revision && matches!(why, Why::Promoted));
    Said {
        type_: condition::READY,
        status: truth(promoted),
        reason: why.reason(),
        message: why.message(),
    }
}

fn reconciling(decision: &Decision) -> Said<'_> {
    let why = &decision.why;
    let at_rest = matches!(why, Why::Promoted) || why.is_stalled();
    let (reason, message) = if at_rest {
        ("AtRest", "there is nothing to do".to_owned())
    } else {
        (why.reason(), why.message())
    };
    Said {
        type_: condition::RECONCILING,
        status: truth(!at_rest),
        reason,
        message,
    }
}

fn stalled(why: &Why) -> Said<'_> {
    let stalled = why.is_stalled();
    let (reason, message) = if stalled {
        (why.reason(), why.message())
    } else {
        ("NotStalled", "no person is needed".to_owned())
    };
    Said {
        type_: condition::STALLED,
        status: truth(stalled),
        reason,
        message,
    }
}

/// About pods and weight being on their way, as in a Deployment; a hold is not in their way.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "only these reasons are about being on the way"
)]
fn progressing(decision: &Decision) -> Said<'_> {
    let why = &decision.why;
    let (status, reason, message) = match why {
        Why::RolledBack { reason } if reason == "ProgressDeadlineExceeded" => {
            ("False", reason.as_str(), why.message())
        }
        Why::WaitingForReplicas { .. } | Why::WaitingForTraffic | Why::StableUnhealthy => {
            ("True", why.reason(), why.message())
        }
        _ => (
            "True",
            "Complete",
            "pods and weight are where they should be".to_owned(),
        ),
    };
    Said {
        type_: condition::PROGRESSING,
        status,
        reason,
        message,
    }
}

fn guardrails_healthy(next: &State, seen: &Observation) -> Said<'static> {
    let unguarded = match (&seen.frozen, &seen.wanted.plan) {
        (Frozen::Plan(plan), _) => plan.is_unguarded(),
        (_, Ok(plan)) => plan.is_unguarded(),
        (_, Err(_)) => false,
    };
    let blind: Vec<&str> = next
        .run()
        .map(|run| {
            run.tallies
                .iter()
                .filter(|(_, tally)| tally.blind.is_some())
                .map(|(name, _)| name)
        })
        .into_iter()
        .flatten()
        .map(String::as_str)
        .collect();
    let (status, reason, message) = if !blind.is_empty() {
        (
            "False",
            "Blind",
            format!("these guardrails see nothing: {}", blind.join(", ")),
        )
    } else if unguarded {
        (
            "True",
            "Unguarded",
            "no guardrail watches this object".to_owned(),
        )
    } else if is_copied_unjudged(next, seen) {
        (
            "True",
            "Mirroring",
            "requests are only copied to the canary: guardrails that the routers judge decide \
             nothing in this step, as no user gets those answers"
                .to_owned(),
        )
    } else if next.run().is_some() {
        (
            "True",
            "Watching",
            "the guardrails see what they need".to_owned(),
        )
    } else {
        ("True", "NoRun", "no run is under way".to_owned())
    };
    Said {
        type_: condition::GUARDRAILS_HEALTHY,
        status,
        reason,
        message,
    }
}

/// Whether the canary gets copies alone, of which some guardrails see nothing.
fn is_copied_unjudged(next: &State, seen: &Observation) -> bool {
    let (Phase::Running { run, .. }, Frozen::Plan(plan)) = (&next.phase, &seen.frozen) else {
        return false;
    };
    run.mirror(plan).is_some() && plan.for_routers().next().is_some()
}

fn traffic_applied(seen: &Observation) -> Said<'static> {
    let (status, reason, message) = match (&seen.route.rule, &seen.route.applied) {
        (None, _) => ("False", "NoRoute", "the route is not written yet"),
        (Some(_), Applied::Yes) => ("True", "Applied", "every ready router serves the weights"),
        (Some(_), Applied::Unverified) => (
            "True",
            "Unverified",
            "the data plane accepted the weights; it cannot report more",
        ),
        (Some(_), Applied::Awaited | Applied::No) => (
            "False",
            "NotApplied",
            "not every router is known to serve the weights",
        ),
    };
    Said {
        type_: condition::TRAFFIC_APPLIED,
        status,
        reason,
        message: message.to_owned(),
    }
}
