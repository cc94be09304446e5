//! How the cluster should look in a state, and what must change for it: what differs, not what
//! happened, so that a replay is harmless.

use std::collections::BTreeMap;

use crds::contract::{Judge, Mark, Mirror, SPLIT_VERSION, Split};
use jiff::{SignedDuration, Timestamp};

use crate::{
    action::{Action, Route},
    guardrail::router,
    observation::{Frozen, Observation, RouteShape, SeenAddress, SeenRule},
    plan::Plan,
    state::{EndResult, Phase, Run, Stage, State, recorded},
    transition::{capacity, ready_share},
    weight::Weight,
};

/// Saved plans that are kept for whoever looks back.
const PLANS_KEPT: usize = 3;
/// Saved revisions that are kept.
const REVISIONS_KEPT: usize = 10;

/// How the cluster should look.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Desired {
    /// Pods by revision.
    tracks: BTreeMap<String, u32>,
    /// The route; none: it is left alone.
    route: Option<Route>,
    /// The plan to save.
    plan: Option<(String, Plan)>,
}

/// How the cluster should look in `next`.
pub(crate) fn desired(next: &State, seen: &Observation) -> Desired {
    let replicas = seen.wanted.replicas;
    let mut desired = Desired::default();
    match &next.phase {
        Phase::Unknown { .. } | Phase::Pending { revision: None } => return desired,
        Phase::Pending {
            revision: Some(revision),
        } => {
            desired.tracks.insert(revision.clone(), replicas);
            desired.route = lone_route(next, seen, revision);
        }
        Phase::Settled { stable, .. } => {
            desired.tracks.insert(stable.clone(), replicas);
            desired.route = lone_route(next, seen, stable);
        }
        Phase::Running { stable, run } => {
            let capacity = capacity(run, seen);
            desired.tracks.insert(stable.clone(), capacity);
            desired
                .tracks
                .insert(run.revision.clone(), canary_replicas(run, seen, capacity));
            let ready = ready_share(run, stable, seen);
            let canary = Canary {
                run,
                weight: run.earned.min(ready),
                mirror: mirror(run, ready, seen),
            };
            desired.route = Some(route(next, seen, stable, Some(canary)));
            desired.plan = plan_to_save(run, seen);
        }
        Phase::Ending { stable, run, .. } => {
            desired.tracks.insert(stable.clone(), capacity(run, seen));
            let canary = Canary {
                run,
                weight: Weight::ZERO,
                mirror: None,
            };
            desired.route = Some(route(next, seen, stable, Some(canary)));
            keep_as_is(&mut desired.tracks, &run.revision, seen);
        }
    }
    for revision in next.draining.keys() {
        keep_as_is(&mut desired.tracks, revision, seen);
    }
    desired
}

/// All traffic for one revision; none while it has no ready pod and another one answers, as when a
/// first revision is replaced before it was proven, or a status was lost at full weight.
fn lone_route(next: &State, seen: &Observation, revision: &str) -> Option<Route> {
    let another_answers = || {
        let rule = seen.route.rule.as_ref()?;
        rule.weights.keys().find(|name| {
            *name != revision && seen.ready(name) > 0 && rule.weight(name) > Weight::ZERO
        })
    };
    let marked = mark(next).is_some();
    if seen.ready(revision) == 0 && !marked && another_answers().is_some() {
        return None;
    }
    Some(route(next, seen, revision, None))
}

/// A revision that finishes what it has is not scaled.
fn keep_as_is(tracks: &mut BTreeMap<String, u32>, revision: &str, seen: &Observation) {
    if let Some(track) = seen.tracks.get(revision) {
        tracks.entry(revision.to_owned()).or_insert(track.replicas);
    }
}

fn canary_replicas(run: &Run, seen: &Observation, capacity: u32) -> u32 {
    let plan = match (&seen.frozen, &seen.wanted.plan) {
        (Frozen::Plan(plan), _) => Some(plan),
        (Frozen::NoRun | Frozen::Missing, Ok(plan)) if run.stage == Stage::Starting => Some(plan),
        _ => None,
    };
    if let Some(plan) = plan {
        return run.load(plan).replicas(capacity);
    }
    // How much is copied is not known: the pods for that stay.
    let is_copied = run.earned == Weight::ZERO && run.stage != Stage::Starting;
    let track = seen.tracks.get(&run.revision).filter(|_| is_copied);
    let kept = track.map_or(0, |track| track.replicas);
    run.earned.replicas(capacity).max(kept)
}

/// The plan of a run that has shown its canary to nobody yet.
fn plan_to_save(run: &Run, seen: &Observation) -> Option<(String, Plan)> {
    let unsaved = match seen.frozen {
        Frozen::NoRun | Frozen::Missing => true,
        Frozen::Plan(_) | Frozen::Unreadable(_) => false,
    };
    let wanted = run.stage == Stage::Starting && seen.wanted.revision == run.revision;
    let plan = seen
        .wanted
        .plan
        .as_ref()
        .ok()
        .filter(|_| unsaved && wanted)?;
    Some((run.plan.clone(), plan.clone()))
}

/// A canary and what reaches it.
struct Canary<'a> {
    run: &'a Run,
    weight: Weight,
    mirror: Option<Mirror>,
}

impl Canary<'_> {
    /// Whether it gets as much as it has, or more.
    fn widens(&self, seen: &Observation) -> bool {
        let copied = seen.mirrored().map_or(0, |mirror| mirror.share);
        (self.weight > Weight::ZERO && self.weight >= seen.routed(&self.run.revision))
            || self.mirror.is_some_and(|mirror| mirror.share >= copied)
    }
}

/// What is copied to the canary: no more than its ready pods carry, and nothing beside traffic.
/// Without its plan a run goes on with what it has.
fn mirror(run: &Run, ready: Weight, seen: &Observation) -> Option<Mirror> {
    let mirror = match &seen.frozen {
        Frozen::Plan(plan) => run.mirror(plan),
        Frozen::NoRun | Frozen::Missing | Frozen::Unreadable(_) => {
            let split = seen.route.rule.as_ref()?.split.as_ref()?;
            let is_present = split.run == run.id && split.step == router::step_number(&run.stage);
            split.mirror.filter(|_| is_present)
        }
    }?;
    let share = mirror.share.min(ready.basis_points());
    (share > 0 && run.earned == Weight::ZERO).then_some(Mirror { share, ..mirror })
}

fn route(next: &State, seen: &Observation, stable: &str, canary: Option<Canary<'_>>) -> Route {
    let run = canary.as_ref().map(|canary| canary.run);
    let step = run.map_or(0, |run| router::step_number(&run.stage));
    let widens = canary.as_ref().is_some_and(|canary| canary.widens(seen));
    let mut shape = shape(seen);
    // Testers leave in the patch that takes the canary's traffic off, and a route at rest says nothing
    // of a run.
    let runs = matches!(next.phase, Phase::Running { .. });
    shape.testers = shape.testers.filter(|_| runs && run.is_some());
    Route {
        stable: stable.to_owned(),
        canary: canary
            .as_ref()
            .map(|canary| (canary.run.revision.clone(), canary.weight)),
        split: Split {
            version: SPLIT_VERSION,
            run: run.map(|run| run.id.clone()).unwrap_or_default(),
            step,
            model_deployment: seen.name.clone(),
            stable: stable.to_owned(),
            canary: run.map(|run| run.revision.clone()),
            key: shape.key.clone(),
            judge: canary
                .as_ref()
                .and_then(|canary| judge(canary.run, canary.weight, seen)),
            testers: shape.testers.clone(),
            mirror: canary.and_then(|canary| canary.mirror),
        },
        mark: mark(next),
        shape,
        widens,
    }
}

/// What the routers judge in a run. Without its plan they go on with what they have.
fn judge(run: &Run, weight: Weight, seen: &Observation) -> Option<Judge> {
    let known = match (&seen.frozen, &seen.wanted.plan) {
        (Frozen::Plan(plan), _) => Some(plan),
        (_, Ok(plan)) if run.stage == Stage::Starting => Some(plan),
        _ => None,
    };
    if let Some(plan) = known {
        return router::judge(plan, run, weight, seen.wanted.routers);
    }
    let split = seen.route.rule.as_ref()?.split.as_ref()?;
    split.judge.clone().filter(|_| split.run == run.id)
}

/// The latch stays on the route for as long as the revision is condemned.
fn mark(next: &State) -> Option<Mark> {
    let latched = match &next.phase {
        Phase::Ending { ending, .. } => ending.result == EndResult::RolledBack,
        Phase::Settled { rolled_back, .. } => *rolled_back,
        Phase::Pending { .. } | Phase::Running { .. } | Phase::Unknown { .. } => false,
    };
    let condemned = next.condemned.last().filter(|_| latched)?;
    Some(Mark {
        revision: condemned.revision.clone(),
        run: condemned.run.clone(),
        attempt: condemned.attempt,
    })
}

/// An invalid edit changes nothing about how the model is reached.
fn shape(seen: &Observation) -> RouteShape {
    match (&seen.wanted.plan, &seen.route.rule) {
        (Err(_), Some(rule)) => rule.shape.clone(),
        (Ok(_), _) | (Err(_), None) => seen.wanted.route.clone(),
    }
}

/// What must change. Traffic is taken off first, and put on last.
pub(crate) fn diff(
    desired: &Desired,
    next: &State,
    seen: &Observation,
    now: Timestamp,
) -> Vec<Action> {
    let route = desired
        .route
        .clone()
        .filter(|route| differs(route, seen.route.rule.as_ref()));
    if !seen.problems.is_empty() {
        // What could not be seen cannot be compared. Only a run that ends goes on: taking traffic
        // off needs nothing but the write.
        let ending = matches!(next.phase, Phase::Ending { .. });
        return route
            .filter(|_| ending)
            .map(Action::ApplyRoute)
            .into_iter()
            .collect();
    }
    let (widening, narrowing): (Vec<_>, Vec<_>) = route
        .into_iter()
        .partition(|route| route.widens || route.canary.is_none());
    let mut actions: Vec<Action> = narrowing.into_iter().map(Action::ApplyRoute).collect();
    save(desired, seen, &mut actions);
    ensure_tracks(desired, seen, &mut actions);
    if seen.address == SeenAddress::Missing && desired.route.is_some() {
        actions.push(Action::EnsureAddress);
    }
    actions.extend(widening.into_iter().map(Action::ApplyRoute));
    mark_stable(next, seen, now, &mut actions);
    remove(desired, next, seen, &mut actions);
    actions
}

fn differs(route: &Route, rule: Option<&SeenRule>) -> bool {
    let Some(rule) = rule else { return true };
    let mut weights = BTreeMap::new();
    match &route.canary {
        None => {
            weights.insert(route.stable.clone(), 1);
        }
        Some((canary, weight)) => {
            let (rest, own) = weight.whole_numbers();
            weights.insert(route.stable.clone(), rest);
            weights.insert(canary.clone(), own);
        }
    }
    rule.weights != weights
        || rule.split.as_ref() != Some(&route.split)
        || rule.mark != route.mark
        || rule.shape != route.shape
}

fn save(desired: &Desired, seen: &Observation, actions: &mut Vec<Action>) {
    let revision = &seen.wanted.revision;
    if desired.tracks.contains_key(revision) && !seen.revisions.contains_key(revision) {
        actions.push(Action::SaveRevision {
            revision: revision.clone(),
        });
    }
    if let Some((name, plan)) = &desired.plan {
        actions.push(Action::SavePlan {
            name: name.clone(),
            plan: plan.clone(),
        });
    }
}

fn ensure_tracks(desired: &Desired, seen: &Observation, actions: &mut Vec<Action>) {
    for (revision, replicas) in &desired.tracks {
        let track = seen.tracks.get(revision);
        if track.is_none_or(|track| !track.complete || track.replicas != *replicas) {
            actions.push(Action::EnsureTrack {
                revision: revision.clone(),
                replicas: *replicas,
            });
        }
    }
}

/// The mark on the stable revision is what a lost status is recovered from: the latest counts.
fn mark_stable(next: &State, seen: &Observation, now: Timestamp, actions: &mut Vec<Action>) {
    let Some(stable) = next.stable() else { return };
    let latest = seen
        .revisions
        .iter()
        .filter_map(|(name, revision)| Some((revision.stable_since?, name)))
        .max();
    let is_saved = seen.revisions.contains_key(stable) || seen.wanted.revision == stable;
    if is_saved && latest.is_none_or(|(_, name)| name != stable) {
        // Later than every other mark, whatever the clock says: the marks hold whole seconds.
        let after = latest.and_then(|(at, _)| at.checked_add(SignedDuration::from_secs(1)).ok());
        actions.push(Action::MarkStable {
            revision: stable.to_owned(),
            since: recorded(after.map_or(now, |after| after.max(now))),
        });
    }
}

fn remove(desired: &Desired, next: &State, seen: &Observation, actions: &mut Vec<Action>) {
    if matches!(
        next.phase,
        Phase::Unknown { .. } | Phase::Pending { revision: None }
    ) {
        return;
    }
    // Whoever still gets traffic keeps its pods until the data plane serves a route without it.
    let safe = seen.route.rule.is_some() && seen.route.applied.counts();
    for revision in seen
        .tracks
        .keys()
        .filter(|name| !desired.tracks.contains_key(*name))
    {
        if safe && !seen.reaches(revision) {
            actions.push(Action::RemoveTrack {
                revision: revision.clone(),
            });
        }
    }
    let run_plan = next.run().map(|run| run.plan.as_str());
    let mut plans: Vec<&String> = seen.plans.iter().collect();
    plans.sort_by_key(|name| std::cmp::Reverse(plan_number(name)));
    let old_plans = plans
        .into_iter()
        .skip(PLANS_KEPT)
        .filter(|name| Some(name.as_str()) != run_plan);
    let mut revisions: Vec<_> = seen.revisions.iter().collect();
    revisions.sort_by_key(|(_, revision)| std::cmp::Reverse(revision.number));
    let old_revisions = revisions
        .into_iter()
        .skip(REVISIONS_KEPT)
        .map(|(name, _)| name)
        .filter(|name| {
            !desired.tracks.contains_key(*name)
                && !seen.tracks.contains_key(*name)
                && **name != seen.wanted.revision
                && !next
                    .condemned
                    .iter()
                    .any(|condemned| condemned.revision == **name)
        });
    actions.extend(
        old_plans
            .chain(old_revisions)
            .map(|name| Action::Forget { name: name.clone() }),
    );
}

fn plan_number(name: &str) -> u64 {
    let number = name
        .rsplit('-')
        .next()
        .and_then(|run| run.strip_prefix('r'));
    number.and_then(|number| number.parse().ok()).unwrap_or(0)
}
