//! Situations at the edges: clocks, capacity, deadlines, and what a status can hold.

use crds::{
    ModelDeploymentStatus,
    guardrail::{BlindAction, OnFail},
    steps::OnInconclusive,
};
use jiff::SignedDuration;
use rollout::{
    action::Action,
    guardrail::{Check, PrometheusCheck},
    weight::Weight,
    why::Why,
};
use verdict::Verdict;

use super::{
    at,
    cluster::{Cluster, Ending},
    second, stable,
};

fn seconds(cluster: &mut Cluster, count: usize) {
    cluster.until(count, |_| false);
}

fn earned(cluster: &Cluster) -> Weight {
    let state = cluster.state().unwrap();
    state.run().map_or(Weight::ZERO, |run| run.earned)
}

pub(crate) fn prometheus(plan: &mut rollout::plan::Plan) -> &mut PrometheusCheck {
    match &mut plan.guardrails[0].check {
        Check::Prometheus(check) => check,
        Check::Router(_) => panic!("it is for routers"),
    }
}

/// A run of `b` under a plan that a test changes, at its first step.
fn run_with(change: impl FnOnce(&mut rollout::plan::Plan)) -> Cluster {
    let mut cluster = stable();
    change(&mut cluster.plan);
    cluster.spec = "b";
    assert!(cluster.until(20, |cluster| earned(cluster) > Weight::ZERO));
    cluster
}

#[test]
fn no_write_gives_hold_time_away() {
    let mut cluster = stable();
    cluster.pass(SignedDuration::from_millis(900));
    cluster.plan.steps[0].hold = SignedDuration::from_millis(9500);
    cluster.spec = "b";
    assert!(cluster.until(20, |cluster| cluster.weight("b") > Weight::ZERO));
    let served = cluster.now;
    assert!(cluster.until(60, |cluster| earned(cluster)
        > Weight::from_basis_points(100)));
    let held = cluster.now.duration_since(served) - SignedDuration::from_secs(1);
    assert!(held >= SignedDuration::from_millis(9500), "{held:?}");
}

#[test]
fn long_stretches_before_a_pause_fit_the_schema() {
    let mut cluster = run_with(|plan| plan.steps[0].hold = SignedDuration::from_hours(40));
    seconds(&mut cluster, 150);
    cluster.pass(SignedDuration::from_hours(30));
    cluster.paused = true;
    second(&mut cluster);
    let held = cluster.status.run.as_ref().unwrap().held.clone().unwrap();
    assert!(held.0.starts_with("30h2m"), "{held:?}");
    assert!(held.parse().unwrap() >= SignedDuration::from_hours(30));
}

#[test]
fn measured_numbers_fit_the_schema() {
    for value in [
        1e300,
        -1e300,
        1e15,
        f64::INFINITY,
        f64::NAN,
        1e-7,
        -1e-12,
        123_456.789,
    ] {
        let mut cluster = at(500);
        cluster.value = value;
        cluster.quality.insert("b", Verdict::Fail);
        assert!(
            cluster.until(10, |cluster| cluster.phase() == "RolledBack"),
            "{value}"
        );
    }
}

#[test]
fn pods_lost_when_the_bake_is_over_are_not_promoted() {
    let mut cluster = at(10_000);
    assert!(cluster.until(30, |cluster| cluster.phase() == "Baking"));
    seconds(&mut cluster, 10);
    assert_eq!(cluster.phase(), "Baking");
    cluster.broken.insert("b");
    cluster.pass(SignedDuration::from_secs(5));
    second(&mut cluster);
    assert_eq!(cluster.phase(), "Baking");
    assert_eq!(cluster.weight("a"), Weight::FULL);
}

#[test]
fn pods_of_stable_that_are_away_are_not_held_against_the_canary() {
    let mut cluster = stable();
    cluster.spec = "b";
    cluster.reconcile(Ending::Completes);
    cluster.broken.insert("a");
    cluster.pass(SignedDuration::from_secs(1));
    seconds(&mut cluster, 400);
    assert_eq!(cluster.phase(), "Progressing");
    assert!(cluster.status.condemned.is_empty());
    cluster.broken.clear();
    assert!(
        cluster.until(120, |cluster| cluster.status.stable_revision.as_deref()
            == Some("b"))
    );
}

#[test]
fn operator_that_was_away_while_the_pods_came_blames_nobody() {
    let mut cluster = stable();
    cluster.spec = "b";
    second(&mut cluster);
    cluster.pass(SignedDuration::from_hours(1));
    second(&mut cluster);
    assert_eq!(cluster.weight("b"), Weight::from_basis_points(100));
}

#[test]
fn pause_is_no_part_of_the_deadlines() {
    let mut cluster = run_with(|plan| {
        plan.step_deadline = SignedDuration::from_secs(60);
        plan.on_inconclusive = OnInconclusive::Rollback;
    });
    cluster.quality.insert("b", Verdict::Inconclusive);
    seconds(&mut cluster, 5);
    cluster.broken.insert("b");
    cluster.pass(SignedDuration::ZERO);
    second(&mut cluster);
    cluster.paused = true;
    seconds(&mut cluster, 1000);
    cluster.broken.clear();
    cluster.pass(SignedDuration::ZERO);
    cluster.paused = false;
    seconds(&mut cluster, 20);
    assert_eq!(cluster.phase(), "Progressing");
    assert!(cluster.until(60, |cluster| cluster.phase() == "RolledBack"));
    assert_eq!(cluster.status.history[0].reason, "StepDeadlineExceeded");
}

#[test]
fn undecided_step_does_at_its_deadline_what_the_plan_says() {
    for policy in [OnInconclusive::Hold, OnInconclusive::Advance] {
        let mut cluster = run_with(|plan| {
            plan.step_deadline = SignedDuration::from_secs(60);
            plan.on_inconclusive = policy;
        });
        cluster.quality.insert("b", Verdict::Inconclusive);
        seconds(&mut cluster, 50);
        assert_eq!(
            earned(&cluster),
            Weight::from_basis_points(100),
            "{policy:?}"
        );
        seconds(&mut cluster, 20);
        let advanced = earned(&cluster) > Weight::from_basis_points(100);
        assert_eq!(advanced, policy == OnInconclusive::Advance, "{policy:?}");
        // What is blind is not undecided.
        let before = earned(&cluster);
        cluster.quality.insert("b", Verdict::NoData);
        seconds(&mut cluster, 200);
        assert_eq!(earned(&cluster), before, "{policy:?}");
    }
}

#[test]
fn blind_guardrail_rolls_back_at_its_own_deadline_where_the_plan_says_so() {
    for (verdict, after) in [(Verdict::NoData, 40), (Verdict::Error, 80)] {
        let mut cluster = run_with(|plan| {
            let guardrail = &mut plan.guardrails[0];
            guardrail.on_no_data.action = BlindAction::Rollback;
            guardrail.on_no_data.after = SignedDuration::from_secs(40);
            guardrail.on_error.action = BlindAction::Rollback;
            guardrail.on_error.after = SignedDuration::from_secs(80);
        });
        cluster.quality.insert("b", verdict);
        seconds(&mut cluster, after - 3);
        assert_eq!(cluster.phase(), "Progressing", "{verdict:?}");
        assert!(
            cluster.until(10, |cluster| cluster.phase() == "RolledBack"),
            "{verdict:?}"
        );
        assert_eq!(cluster.status.history[0].reason, "GuardrailBlind");
    }
}

#[test]
fn failed_windows_are_borne_up_to_the_limit_and_overlapping_ones_count_once() {
    let mut cluster = run_with(|plan| prometheus(plan).failure_limit = 2);
    seconds(&mut cluster, 6);
    cluster.quality.insert("b", Verdict::Fail);
    // Windows of 5 s: the first at once, the second 5 s later, the third after 5 more.
    seconds(&mut cluster, 9);
    assert_eq!(cluster.phase(), "Progressing");
    assert_eq!(
        cluster.status.run.as_ref().unwrap().guardrails[0].failures,
        2
    );
    assert!(cluster.until(4, |cluster| cluster.phase() == "RollingBack"));
}

#[test]
fn guardrail_that_only_holds_never_rolls_back_and_another_still_does() {
    let mut cluster = run_with(|plan| plan.guardrails[0].on_fail = OnFail::Hold);
    cluster.quality.insert("b", Verdict::Fail);
    seconds(&mut cluster, 100);
    assert_eq!(earned(&cluster), Weight::from_basis_points(100));
    cluster.quality.clear();
    seconds(&mut cluster, 30);
    assert_eq!(earned(&cluster), Weight::from_basis_points(100));
    let mut cluster = run_with(|plan| {
        let mut holds = plan.guardrails[0].clone();
        holds.name = "another".to_owned();
        holds.on_fail = OnFail::Hold;
        plan.guardrails.insert(0, holds);
    });
    cluster.quality.insert("b", Verdict::Fail);
    assert!(cluster.until(5, |cluster| cluster.phase() == "RollingBack"));
}

#[test]
fn window_with_a_fraction_of_a_second_can_pass() {
    let mut cluster = run_with(|plan| prometheus(plan).window = SignedDuration::from_millis(2500));
    assert!(cluster.until(60, |cluster| earned(cluster)
        > Weight::from_basis_points(100)));
}

#[test]
fn clock_that_went_back_neither_widens_nor_hides_a_failure() {
    let mut cluster = at(500);
    seconds(&mut cluster, 8);
    cluster.now -= SignedDuration::from_secs(600);
    seconds(&mut cluster, 100);
    assert_eq!(earned(&cluster), Weight::from_basis_points(500));
    let decision = cluster.reconcile(Ending::Completes);
    assert!(
        matches!(decision.why, Why::WaitingForClock { .. }),
        "{:?}",
        decision.why
    );
    cluster.quality.insert("b", Verdict::Fail);
    second(&mut cluster);
    assert_eq!(cluster.weight("b"), Weight::ZERO);
}

#[test]
fn promotion_after_the_clock_went_back_marks_stable_once_and_for_all() {
    let mut cluster = stable();
    second(&mut cluster);
    cluster.now -= SignedDuration::from_hours(1);
    cluster.spec = "b";
    assert!(
        cluster.until(200, |cluster| cluster.status.stable_revision.as_deref()
            == Some("b"))
    );
    seconds(&mut cluster, 20);
    let writes = cluster.writes;
    seconds(&mut cluster, 20);
    assert_eq!(cluster.writes, writes);
    cluster.status = ModelDeploymentStatus::default();
    second(&mut cluster);
    assert_eq!(cluster.status.stable_revision.as_deref(), Some("b"));
    assert!(cluster.status.run.is_none());
}

#[test]
fn capacity_that_is_raised_in_a_run_takes_nothing_off_the_canary() {
    let mut cluster = at(2500);
    seconds(&mut cluster, 2);
    cluster.replicas = 8;
    cluster.reconcile(Ending::Completes);
    assert_eq!(cluster.tracks["b"].replicas, 2);
    assert_eq!(cluster.weight("b"), Weight::from_basis_points(2500));
    cluster.replicas = 1;
    second(&mut cluster);
    assert_eq!(cluster.tracks["a"].replicas, 4);
    assert!(cluster.until(120, |cluster| cluster.phase() == "Stable"));
}

#[test]
fn attempt_raised_before_the_breach_does_not_lift_it() {
    let mut cluster = at(500);
    cluster.attempt = 2;
    cluster.quality.insert("b", Verdict::Fail);
    assert!(cluster.until(10, |cluster| cluster.phase() == "RolledBack"));
    seconds(&mut cluster, 30);
    assert_eq!(cluster.status.history.len(), 1);
    assert_eq!(cluster.phase(), "RolledBack");
    assert_eq!(
        cluster
            .rule
            .as_ref()
            .unwrap()
            .mark
            .as_ref()
            .unwrap()
            .attempt,
        2
    );
}

#[test]
fn breach_that_could_not_be_recorded_is_remembered_by_the_mark() {
    let mut cluster = at(500);
    cluster.quality.insert("b", Verdict::Fail);
    cluster.reconcile(Ending::RecordRefused);
    assert_eq!(cluster.phase(), "Progressing");
    cluster.quality.clear();
    second(&mut cluster);
    assert_eq!(cluster.phase(), "RollingBack");
    assert_eq!(cluster.weight("b"), Weight::ZERO);
}

#[test]
fn status_lost_at_full_weight_does_not_move_users_to_pods_that_are_not_there() {
    let mut cluster = at(10_000);
    seconds(&mut cluster, 2);
    cluster.broken.insert("a");
    cluster.status = ModelDeploymentStatus::default();
    cluster.pass(SignedDuration::ZERO);
    seconds(&mut cluster, 5);
    assert_eq!(cluster.weight("b"), Weight::FULL);
    cluster.broken.clear();
    seconds(&mut cluster, 3);
    assert!(cluster.weight("b") < Weight::FULL);
}

#[test]
fn write_that_leaves_a_canary_its_weight_is_fenced() {
    let mut cluster = at(500);
    cluster.rule.as_mut().unwrap().split = None;
    let decision = cluster.reconcile(Ending::Completes);
    let route = decision.actions.iter().find_map(|action| {
        if let Action::ApplyRoute(route) = action {
            Some(route.widens)
        } else {
            None
        }
    });
    assert_eq!(route, Some(true));
}

#[test]
fn more_revisions_than_a_status_lists_drain_in_good_order() {
    let mut cluster = stable();
    cluster.plan.drain = SignedDuration::from_hours(1);
    for spec in ["b", "c", "d", "e", "f", "g", "h", "i", "j", "k"] {
        cluster.spec = spec;
        seconds(&mut cluster, 4);
    }
    cluster.spec = "a";
    seconds(&mut cluster, 5);
    assert_eq!(cluster.status.revisions.len(), 7);
    assert!(cluster.tracks.contains_key("k"));
}

#[test]
fn step_that_is_not_in_the_plan_earns_nothing() {
    let mut cluster = at(500);
    cluster.status.run.as_mut().unwrap().step_index = Some(7);
    seconds(&mut cluster, 60);
    assert_eq!(cluster.phase(), "Progressing");
    assert_eq!(earned(&cluster), Weight::from_basis_points(500));
}

#[test]
fn paused_object_begins_no_run() {
    let mut cluster = stable();
    cluster.paused = true;
    cluster.spec = "b";
    seconds(&mut cluster, 20);
    assert!(cluster.status.run.is_none());
}

#[test]
fn pause_at_the_last_moment_stops_the_progress_deadline() {
    let mut cluster = stable();
    cluster.spec = "b";
    cluster.broken.insert("b");
    seconds(&mut cluster, 5);
    cluster.pass(SignedDuration::from_hours(1));
    cluster.paused = true;
    seconds(&mut cluster, 5);
    assert_eq!(cluster.phase(), "Progressing");
    cluster.paused = false;
    seconds(&mut cluster, 200);
    assert_eq!(cluster.phase(), "Progressing");
    assert!(cluster.until(110, |cluster| cluster.phase() == "RolledBack"));
}

#[test]
fn pods_of_both_that_are_away_condemn_nobody() {
    let mut cluster = at(500);
    cluster.broken.insert("a");
    cluster.broken.insert("b");
    cluster.pass(SignedDuration::ZERO);
    seconds(&mut cluster, 400);
    assert_eq!(cluster.phase(), "Progressing");
    assert!(cluster.status.condemned.is_empty());
}

#[test]
fn mark_of_an_older_run_does_not_condemn_a_new_one() {
    let mut cluster = at(500);
    cluster.quality.insert("b", Verdict::Fail);
    assert!(cluster.until(10, |cluster| cluster.phase() == "RolledBack"));
    cluster.quality.clear();
    cluster.attempt = 2;
    cluster.reconcile(Ending::DiesAfter(1));
    assert!(cluster.rule.as_ref().unwrap().mark.is_some());
    seconds(&mut cluster, 3);
    assert_eq!(earned(&cluster), Weight::from_basis_points(100));
}

#[test]
fn run_without_traffic_can_end_while_stable_is_away() {
    let mut cluster = stable();
    cluster.spec = "b";
    cluster.reconcile(Ending::Completes);
    cluster.broken.insert("a");
    cluster.broken.insert("b");
    cluster.pass(SignedDuration::from_secs(1));
    cluster.spec = "a";
    assert!(cluster.until(5, |cluster| cluster.status.run.is_none()));
    assert_eq!(cluster.status.history[0].result, "Reverted");
}

#[test]
fn status_keeps_the_last_word_on_what_cannot_be_read() {
    let mut cluster = at(500);
    seconds(&mut cluster, 2);
    let before = cluster.status.clone();
    cluster.unreadable = true;
    let decision = cluster.reconcile(Ending::Completes);
    assert!(
        matches!(decision.why, Why::CannotSee { .. }),
        "{:?}",
        decision.why
    );
    let after = &cluster.status;
    assert_eq!(
        (&after.weight, &after.revisions),
        (&before.weight, &before.revisions)
    );
    assert_eq!(after.run, before.run);
    let available = |status: &ModelDeploymentStatus| {
        let mut conditions = status.conditions.iter();
        conditions.find(|said| said.type_ == "Available").cloned()
    };
    assert_eq!(available(after), available(&before));
}

#[test]
fn canary_does_not_go_on_while_there_is_nothing_to_fall_back_to() {
    let mut cluster = at(500);
    cluster.broken.insert("a");
    cluster.pass(SignedDuration::ZERO);
    seconds(&mut cluster, 60);
    assert_eq!(earned(&cluster), Weight::from_basis_points(500));
    cluster.broken.clear();
    assert!(cluster.until(120, |cluster| cluster.phase() == "Stable"));
}
