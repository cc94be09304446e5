//! A run: a revision is tried, step by step. What ends it is looked at first, then what holds it,
//! and only when neither speaks does it go on.

mod endings;
mod guardrails;

use crds::contract::MirrorMethods;
use jiff::{SignedDuration, Timestamp};

use super::{Draft, Transition, condemn, drain, remember_run};
use crate::{
    observation::{Frozen, Observation},
    plan::{Plan, Step},
    state::{EndResult, Ending, Hold, Phase, Run, Stage, State, recorded},
    weight::Weight,
    why::Why,
};

/// A run under way, with the state that it is part of.
pub(super) struct Trial {
    pub(super) state: State,
    pub(super) stable: String,
    pub(super) run: Run,
}

impl Trial {
    /// Nothing changes but clocks and tallies.
    fn keep(self, why: Why) -> Transition {
        let Self {
            mut state,
            stable,
            run,
        } = self;
        state.phase = Phase::Running { stable, run };
        Transition::stay(state, why)
    }
}

pub(super) fn advance(mut trial: Trial, seen: &Observation, now: Timestamp) -> Transition {
    let plan = match &seen.frozen {
        Frozen::Plan(plan) => Some(plan),
        Frozen::NoRun | Frozen::Missing | Frozen::Unreadable(_) => None,
    };
    if let Some(plan) = plan {
        guardrails::tally(&mut trial.run, plan, seen, now);
    }
    if let Some(ending) = endings::ending(&trial.run, plan, &trial.stable, seen, now) {
        if endings::has_fallback(&trial.stable, &trial.run, seen) {
            let attempt = endings::attempt(&trial.run, seen);
            return begin_ending(trial, ending, attempt);
        }
        return trial.keep(Why::StableUnhealthy);
    }
    if let Some(problem) = seen.problems.first() {
        let problem = problem.clone();
        return trial.keep(Why::CannotSee { problem });
    }
    if seen.wanted.paused {
        if let Some(held) = trial.run.hold_mut() {
            held.stop(now);
        }
        trial.run.waiting_since = None;
        return trial.keep(Why::Paused);
    }
    match (plan, &trial.run.stage) {
        (None, _) => {
            let why = no_plan(seen);
            trial.keep(why)
        }
        (Some(plan), Stage::Starting) => start(trial, plan, seen, now),
        (Some(plan), Stage::Step { .. } | Stage::Bake { .. }) => {
            hold_or_go_on(trial, plan, seen, now)
        }
    }
}

fn no_plan(seen: &Observation) -> Why {
    let problem = match &seen.frozen {
        Frozen::Unreadable(problem) => problem.clone(),
        Frozen::Plan(_) | Frozen::NoRun | Frozen::Missing => {
            if let Err(error) = &seen.wanted.plan {
                return Why::InvalidSpec(error.clone());
            }
            "it is being saved".to_owned()
        }
    };
    Why::PlanUnreadable { problem }
}

fn begin_ending(trial: Trial, ending: Ending, attempt: i64) -> Transition {
    let Trial {
        mut state,
        stable,
        mut run,
    } = trial;
    if ending.result == EndResult::RolledBack {
        condemn(&mut state, &run, attempt, &ending.reason);
    }
    run.earned = Weight::ZERO;
    let record = Draft {
        decision: "RollingBack",
        run: Some(run.id.clone()),
        revision: Some(run.revision.clone()),
        weight: Weight::ZERO,
        message: ending.message.clone(),
    };
    let why = Why::Ending(ending.clone());
    state.phase = Phase::Ending {
        stable,
        run,
        ending,
    };
    Transition {
        next: state,
        why,
        record: Some(record),
    }
}

/// Before the first step: the canary's pods must be ready, and the route in place at weight 0.
fn start(mut trial: Trial, plan: &Plan, seen: &Observation, now: Timestamp) -> Transition {
    if plan.steps.is_empty() {
        let problem = "it has no steps".to_owned();
        return trial.keep(Why::PlanUnreadable { problem });
    }
    let want = pods(&trial.run, plan, seen);
    let ready = seen.ready(&trial.run.revision);
    if seen.ready(&trial.stable) == 0 {
        // Not the canary's fault: its deadline does not run.
        trial.run.waiting_since = None;
        return trial.keep(Why::StableUnhealthy);
    }
    trial.run.waiting_since.get_or_insert_with(|| recorded(now));
    if ready < want {
        let why = waiting_for_pods(&trial.run, ready, want, seen);
        return trial.keep(why);
    }
    if !is_served(&trial.run, plan, seen) {
        return trial.keep(Why::WaitingForTraffic);
    }
    if let Some(until) = clock_went_back(&trial.run, now) {
        return trial.keep(Why::WaitingForClock { until });
    }
    trial.run.exposed_at = Some(recorded(now));
    enter_step(trial, plan, 0, now)
}

/// At a step or in the bake: is the whole weight served, has it lasted, do all guardrails pass?
fn hold_or_go_on(mut trial: Trial, plan: &Plan, seen: &Observation, now: Timestamp) -> Transition {
    if let Some(why) = not_applied((&mut trial.run, &trial.stable), plan, seen, now) {
        return trial.keep(why);
    }
    if seen.ready(&trial.stable) == 0 {
        return trial.keep(Why::StableUnhealthy);
    }
    if let Some(until) = clock_went_back(&trial.run, now) {
        return trial.keep(Why::WaitingForClock { until });
    }
    if let Some(problem) = contradiction(&trial.run, plan) {
        return trial.keep(Why::PlanUnreadable { problem });
    }
    if let Some(why) = guardrails::blocked(&trial.run, plan, seen, now) {
        return trial.keep(why);
    }
    if let Some(why) = lasting(&trial.run, plan, now) {
        return trial.keep(why);
    }
    match &trial.run.stage {
        Stage::Step { index, .. } if index + 1 < plan.steps.len() => {
            let next = index + 1;
            enter_step(trial, plan, next, now)
        }
        Stage::Step { .. } if !plan.bake.is_zero() => enter_bake(trial, plan, now),
        Stage::Starting | Stage::Step { .. } | Stage::Bake { .. } => promote(trial, seen, now),
    }
}

/// Keeps the step's clock: it runs while the whole weight is served, or all copies are made.
fn not_applied(
    (run, stable): (&mut Run, &str),
    plan: &Plan,
    seen: &Observation,
    now: Timestamp,
) -> Option<Why> {
    if is_carried(run, plan, stable, seen) && is_served(run, plan, seen) {
        run.waiting_since = None;
        if let Some(held) = run.hold_mut() {
            held.start(now);
        }
        return None;
    }
    run.waiting_since.get_or_insert_with(|| recorded(now));
    if let Some(held) = run.hold_mut() {
        held.stop(now);
    }
    let (ready, want) = (seen.ready(&run.revision), pods(run, plan, seen));
    Some(if is_carried(run, plan, stable, seen) {
        Why::WaitingForTraffic
    } else {
        waiting_for_pods(run, ready, want, seen)
    })
}

/// Pods that the canary needs for what it is to bear.
fn pods(run: &Run, plan: &Plan, seen: &Observation) -> u32 {
    run.load(plan).replicas(capacity(run, seen))
}

/// Whether the canary's ready pods carry what it has earned, or the copies of its step.
fn is_carried(run: &Run, plan: &Plan, stable: &str, seen: &Observation) -> bool {
    ready_share(run, stable, seen) >= run.load(plan)
}

/// Whether the data plane is known to serve what the canary has earned, and the copies of its step.
fn is_served(run: &Run, plan: &Plan, seen: &Observation) -> bool {
    let listed = seen
        .route
        .rule
        .as_ref()
        .is_some_and(|rule| rule.weights.contains_key(&run.revision));
    listed
        && seen.routed(&run.revision) == run.earned
        && seen.mirrored() == run.mirror(plan)
        && seen.route.applied.counts()
}

/// Whether the run still waits for pods or for its weight, by what is seen now.
fn is_waiting(run: &Run, plan: &Plan, stable: &str, seen: &Observation) -> bool {
    let short = match &run.stage {
        Stage::Starting => {
            plan.steps.is_empty() || seen.ready(&run.revision) < pods(run, plan, seen)
        }
        Stage::Step { .. } | Stage::Bake { .. } => !is_carried(run, plan, stable, seen),
    };
    short || !is_served(run, plan, seen)
}

/// How far a recorded time may be ahead of the clock: it was rounded up.
const ROUNDED: SignedDuration = SignedDuration::from_secs(1);

/// The latest recorded time, if the clock went back behind it: until then no time can be told, and
/// nothing widens.
fn clock_went_back(run: &Run, now: Timestamp) -> Option<Timestamp> {
    let held = run.hold();
    let times = [
        Some(run.started_at),
        run.exposed_at,
        held.map(|held| held.entered_at),
        held.and_then(|held| held.applied_at),
    ];
    let latest = times.into_iter().flatten().max()?;
    (latest.duration_since(now) > ROUNDED).then_some(latest)
}

/// What is wrong when status and plan do not belong together: nothing is earned by such a step.
fn contradiction(run: &Run, plan: &Plan) -> Option<String> {
    let weight = match &run.stage {
        Stage::Starting => return None,
        Stage::Step { index, .. } => plan.step(*index).map(|step| step.weight),
        Stage::Bake { .. } => Some(Weight::FULL),
    };
    (weight != Some(run.earned)).then(|| {
        format!(
            "status.run.earnedWeight {} is not the weight of its step in the plan {}",
            run.earned, run.plan
        )
    })
}

fn waiting_for_pods(run: &Run, ready: u32, want: u32, seen: &Observation) -> Why {
    let trouble = seen
        .tracks
        .get(&run.revision)
        .and_then(|track| track.trouble.clone());
    Why::WaitingForReplicas {
        ready,
        want,
        trouble,
    }
}

/// Whether the step or the bake must last on.
fn lasting(run: &Run, plan: &Plan, now: Timestamp) -> Option<Why> {
    let (held, long, what) = match &run.stage {
        Stage::Starting => return None,
        Stage::Step { index, held } => {
            let step = plan.step(*index)?;
            let copies = step.mirror.map_or(String::new(), |_| {
                format!(", which copies {} of the requests,", step.load())
            });
            let what = format!("step {} of {}{copies}", index + 1, plan.steps.len());
            (held, step.hold, what)
        }
        Stage::Bake { held } => (held, plan.bake, "the bake".to_owned()),
    };
    let left = long
        .checked_sub(held.elapsed(now))
        .filter(SignedDuration::is_positive)?;
    // From the recorded time, not from now: the text must not change from look to look.
    let since = held.applied_at.unwrap_or(now);
    let until = since
        .checked_add(long.saturating_sub(held.before))
        .or_else(|_| now.checked_add(left))
        .unwrap_or(now);
    Some(Why::WaitingForHold { what, until })
}

fn enter_step(trial: Trial, plan: &Plan, index: usize, now: Timestamp) -> Transition {
    let Some(step) = plan.step(index) else {
        let problem = format!("it has no step {}", index + 1);
        return trial.keep(Why::PlanUnreadable { problem });
    };
    let Trial {
        mut state,
        stable,
        mut run,
    } = trial;
    run.earned = step.weight;
    run.stage = Stage::Step {
        index,
        held: Hold::entered(now),
    };
    entered(&mut run, now);
    let message = format!(
        "step {} of {}: {}",
        index + 1,
        plan.steps.len(),
        given(step, plan)
    );
    let record = Draft {
        decision: "StepStarted",
        run: Some(run.id.clone()),
        revision: Some(run.revision.clone()),
        weight: step.weight,
        message: message.clone(),
    };
    state.phase = Phase::Running { stable, run };
    let why = Why::Moved {
        message,
        weight: step.weight,
    };
    Transition {
        next: state,
        why,
        record: Some(record),
    }
}

/// What the canary gets in a step, for people.
fn given(step: &Step, plan: &Plan) -> String {
    let Some(mirror) = step.mirror else {
        return format!("{} of the traffic", step.weight);
    };
    let methods = match mirror.methods {
        MirrorMethods::Safe => " by GET, HEAD and OPTIONS",
        MirrorMethods::All => "",
    };
    let undecided = if plan.for_routers().next().is_some() {
        "; guardrails that the routers judge decide nothing in it"
    } else {
        ""
    };
    format!(
        "copies of {} of the requests{methods}, and no traffic{undecided}",
        step.load()
    )
}

fn enter_bake(trial: Trial, plan: &Plan, now: Timestamp) -> Transition {
    let Trial {
        mut state,
        stable,
        mut run,
    } = trial;
    run.stage = Stage::Bake {
        held: Hold::entered(now),
    };
    entered(&mut run, now);
    let message = format!(
        "all steps passed: {} bakes for {:#}",
        run.revision, plan.bake
    );
    let record = Draft {
        decision: "BakeStarted",
        run: Some(run.id.clone()),
        revision: Some(run.revision.clone()),
        weight: run.earned,
        message: message.clone(),
    };
    let why = Why::Moved {
        message,
        weight: run.earned,
    };
    state.phase = Phase::Running { stable, run };
    Transition {
        next: state,
        why,
        record: Some(record),
    }
}

/// What is counted per step begins anew.
fn entered(run: &mut Run, now: Timestamp) {
    let now = recorded(now);
    run.waiting_since = Some(now);
    for tally in run.tallies.values_mut() {
        tally.blind = tally.blind.map(|(verdict, _)| (verdict, now));
    }
}

/// Promotion is a change of roles: no pod restarts, nothing is copied.
fn promote(trial: Trial, seen: &Observation, now: Timestamp) -> Transition {
    let Trial {
        mut state,
        stable,
        run,
    } = trial;
    remember_run(&mut state, &run, "Promoted", "Promoted", now);
    drain(&mut state, &stable, seen, now);
    let record = Draft {
        decision: "Promoted",
        run: Some(run.id.clone()),
        revision: Some(run.revision.clone()),
        weight: Weight::FULL,
        message: format!("{} is stable; {stable} is retired", run.revision),
    };
    state.phase = Phase::Settled {
        stable: run.revision.clone(),
        rolled_back: false,
    };
    Transition {
        next: state,
        why: Why::Promoted,
        record: Some(record),
    }
}

/// The most that the canary's ready pods may carry. Capacity that was raised in the run counts once
/// its pods are ready: until then the traffic is what fewer pods have served.
pub(crate) fn ready_share(run: &Run, stable: &str, seen: &Observation) -> Weight {
    let raised = seen.wanted.replicas.min(seen.ready(stable));
    let capacity = run.stable_replicas.max(raised);
    Weight::ready_share(seen.ready(&run.revision), capacity)
}

/// Pods that the whole traffic is meant for.
pub(crate) fn capacity(run: &Run, seen: &Observation) -> u32 {
    run.stable_replicas.max(seen.wanted.replicas)
}
