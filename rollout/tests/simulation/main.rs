//! Whole rollouts in a cluster of values: situations by name, and histories drawn at random in which
//! the properties of the design must hold after every reconcile.
#![allow(
    clippy::tests_outside_test_module,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "integration tests"
)]
#![allow(clippy::as_conversions, reason = "counts of a test are small")]
#![allow(missing_docs, reason = "names of tests are claims")]

mod cluster;
mod edges;
mod endings;
mod histories;
mod judgements;
mod mirror;
mod routers;
mod traffic;
mod trips;
mod writes;

use cluster::{Cluster, Ending};
use crds::ModelDeploymentStatus;
use jiff::SignedDuration;
use rollout::weight::Weight;
use verdict::Verdict;

fn stable() -> Cluster {
    let mut cluster = Cluster::new("a");
    assert!(
        cluster.until(20, |cluster| cluster.phase() == "Stable"),
        "{:?}",
        cluster.status
    );
    cluster
}

fn at(points: u16) -> Cluster {
    let mut cluster = stable();
    cluster.spec = "b";
    let weight = Weight::from_basis_points(points);
    assert!(
        cluster.until(120, |cluster| cluster.weight("b") == weight),
        "{:?}",
        cluster.status
    );
    cluster
}

fn second(cluster: &mut Cluster) {
    cluster.reconcile(Ending::Completes);
    cluster.pass(SignedDuration::from_secs(1));
}

#[test]
fn first_revision_serves_without_a_canary_and_is_marked() {
    let mut cluster = stable();
    second(&mut cluster);
    assert_eq!(cluster.weight("a"), Weight::FULL);
    assert!(cluster.revisions["a"].stable_since.is_some());
    assert!(cluster.status.run.is_none());
}

#[test]
fn healthy_canary_passes_every_step_in_order_and_is_promoted() {
    let mut cluster = stable();
    cluster.spec = "b";
    let mut weights = vec![];
    for _ in 0..120 {
        second(&mut cluster);
        let weight = cluster.weight("b").basis_points();
        if weights.last() != Some(&weight) {
            weights.push(weight);
        }
    }
    assert_eq!(weights, [0, 100, 500, 2500, 10_000]);
    assert_eq!(cluster.phase(), "Stable");
    assert_eq!(cluster.status.stable_revision.as_deref(), Some("b"));
    assert_eq!(cluster.tracks.keys().collect::<Vec<_>>(), ["b"]);
    assert_eq!(cluster.status.history[0].result, "Promoted");
}

#[test]
fn nothing_is_written_at_rest() {
    let mut cluster = at(10_000);
    assert!(cluster.until(60, |cluster| cluster.phase() == "Stable"
        && cluster.tracks.len() == 1));
    second(&mut cluster);
    let writes = cluster.writes;
    for _ in 0..20 {
        second(&mut cluster);
    }
    assert_eq!(cluster.writes, writes);
}

#[test]
fn failing_canary_loses_all_traffic_and_stays_out() {
    let mut cluster = at(500);
    cluster.quality.insert("b", Verdict::Fail);
    assert!(
        cluster.until(10, |cluster| cluster.phase() == "RolledBack"),
        "{:?}",
        cluster.status
    );
    cluster.quality.clear();
    for _ in 0..100 {
        second(&mut cluster);
        assert_eq!(cluster.weight("b"), Weight::ZERO);
    }
    assert!(!cluster.tracks.contains_key("b"));
    assert_eq!(cluster.phase(), "RolledBack");
}

#[test]
fn failure_in_the_bake_gives_all_traffic_back_in_one_patch() {
    let mut cluster = at(10_000);
    assert!(cluster.until(30, |cluster| cluster.phase() == "Baking"));
    assert_eq!(cluster.tracks["a"].replicas, 4);
    cluster.quality.insert("b", Verdict::Fail);
    second(&mut cluster);
    assert_eq!(cluster.weight("a"), Weight::FULL);
}

#[test]
fn raised_attempt_tries_a_condemned_revision_again() {
    let mut cluster = at(500);
    cluster.quality.insert("b", Verdict::Fail);
    assert!(cluster.until(10, |cluster| cluster.phase() == "RolledBack"));
    cluster.quality.clear();
    cluster.attempt = 2;
    assert!(
        cluster.until(120, |cluster| cluster.status.stable_revision.as_deref()
            == Some("b"))
    );
}

#[test]
fn condemned_revision_may_come_again_after_another_spec() {
    let mut cluster = at(500);
    cluster.quality.insert("b", Verdict::Fail);
    assert!(cluster.until(10, |cluster| cluster.phase() == "RolledBack"));
    cluster.quality.clear();
    cluster.spec = "a";
    assert!(cluster.until(5, |cluster| cluster.phase() == "Stable"));
    cluster.spec = "b";
    assert!(
        cluster.until(120, |cluster| cluster.status.stable_revision.as_deref()
            == Some("b"))
    );
}

#[test]
fn blind_guardrails_neither_pass_nor_fail() {
    for verdict in [Verdict::NoData, Verdict::Error, Verdict::Inconclusive] {
        let mut cluster = at(500);
        cluster.quality.insert("b", verdict);
        for _ in 0..100 {
            second(&mut cluster);
            assert_eq!(
                cluster.weight("b"),
                Weight::from_basis_points(500),
                "{verdict:?}"
            );
        }
        cluster.quality.clear();
        assert!(
            cluster.until(120, |cluster| cluster.phase() == "Stable"),
            "{verdict:?}"
        );
    }
}

#[test]
fn lost_canary_pods_take_the_weight_to_0_and_it_resumes_when_they_are_back() {
    let mut cluster = at(2500);
    cluster.broken.insert("b");
    cluster.pass(SignedDuration::ZERO);
    second(&mut cluster);
    assert_eq!(cluster.weight("b"), Weight::ZERO);
    assert_eq!(cluster.phase(), "Progressing");
    cluster.broken.clear();
    assert!(cluster.until(10, |cluster| cluster.weight("b")
        == Weight::from_basis_points(2500)));
    assert!(cluster.until(120, |cluster| cluster.phase() == "Stable"));
}

#[test]
fn pods_that_never_come_end_the_run_at_the_progress_deadline() {
    let mut cluster = stable();
    cluster.spec = "b";
    cluster.broken.insert("b");
    assert!(!cluster.until(290, |cluster| cluster.phase() == "RolledBack"));
    assert!(cluster.until(30, |cluster| cluster.phase() == "RolledBack"));
    assert_eq!(cluster.status.history[0].reason, "ProgressDeadlineExceeded");
}

#[test]
fn newer_spec_takes_the_half_done_canary_to_0_first_and_starts_from_stable() {
    let mut cluster = at(500);
    cluster.spec = "c";
    cluster.reconcile(Ending::Completes);
    assert_eq!(cluster.phase(), "RollingBack");
    assert_eq!(cluster.weight("b"), Weight::ZERO);
    assert!(!cluster.tracks.contains_key("c"));
    assert!(
        cluster.until(120, |cluster| cluster.status.stable_revision.as_deref()
            == Some("c"))
    );
    let results: Vec<_> = cluster
        .status
        .history
        .iter()
        .map(|run| (run.revision.as_str(), run.result.as_str()))
        .collect();
    assert_eq!(results, [("b", "Superseded"), ("c", "Promoted")]);
}

#[test]
fn spec_back_at_stable_ends_the_run_without_blame() {
    let mut cluster = at(2500);
    cluster.spec = "a";
    assert!(cluster.until(5, |cluster| cluster.phase() == "Stable"));
    assert_eq!(cluster.weight("a"), Weight::FULL);
    assert!(cluster.status.condemned.is_empty());
}

#[test]
fn invalid_edit_does_not_switch_off_the_guardrails() {
    let mut cluster = at(500);
    cluster.spec_is_valid = false;
    cluster.spec = "c";
    second(&mut cluster);
    assert_eq!(cluster.weight("b"), Weight::from_basis_points(500));
    cluster.quality.insert("b", Verdict::Fail);
    second(&mut cluster);
    assert_eq!(cluster.weight("b"), Weight::ZERO);
}

#[test]
fn pause_stops_the_steps_but_not_the_guardrails() {
    let mut cluster = at(500);
    cluster.paused = true;
    for _ in 0..60 {
        second(&mut cluster);
        assert_eq!(cluster.weight("b"), Weight::from_basis_points(500));
    }
    cluster.quality.insert("b", Verdict::Fail);
    second(&mut cluster);
    assert_eq!(cluster.weight("b"), Weight::ZERO);
}

#[test]
fn unhealthy_stable_is_not_rolled_back_onto() {
    let mut cluster = at(2500);
    cluster.broken.insert("a");
    cluster.quality.insert("b", Verdict::Fail);
    cluster.pass(SignedDuration::ZERO);
    for _ in 0..10 {
        second(&mut cluster);
        assert_eq!(cluster.weight("b"), Weight::from_basis_points(2500));
    }
    cluster.broken.clear();
    assert!(cluster.until(10, |cluster| cluster.phase() == "RolledBack"));
}

#[test]
fn lost_status_leaves_everything_to_the_proven_revision() {
    let mut cluster = at(2500);
    cluster.status = ModelDeploymentStatus::default();
    cluster.reconcile(Ending::Completes);
    assert_eq!(cluster.weight("a"), Weight::FULL);
    assert_eq!(cluster.status.run.as_ref().unwrap().id, "r2");
    assert!(
        cluster.until(120, |cluster| cluster.status.stable_revision.as_deref()
            == Some("b"))
    );
}

#[test]
fn lost_status_does_not_forget_a_condemned_revision() {
    let mut cluster = at(500);
    cluster.quality.insert("b", Verdict::Fail);
    assert!(cluster.until(10, |cluster| cluster.phase() == "RolledBack"));
    cluster.status = ModelDeploymentStatus::default();
    cluster.quality.clear();
    for _ in 0..60 {
        second(&mut cluster);
        assert_eq!(cluster.weight("b"), Weight::ZERO);
    }
    assert_eq!(cluster.phase(), "RolledBack");
}

#[test]
fn lost_plan_ends_a_run_that_nobody_can_watch() {
    let mut cluster = at(500);
    cluster.plans.clear();
    second(&mut cluster);
    assert_eq!(cluster.weight("b"), Weight::ZERO);
}

#[test]
fn cluster_that_cannot_be_read_holds_but_a_breach_still_acts() {
    let mut cluster = at(500);
    cluster.unreadable = true;
    second(&mut cluster);
    assert_eq!(cluster.weight("b"), Weight::from_basis_points(500));
    cluster.quality.insert("b", Verdict::Fail);
    second(&mut cluster);
    assert_eq!(cluster.weight("b"), Weight::ZERO);
}

#[test]
fn unreadable_cluster_at_first_sight_decides_nothing() {
    let mut cluster = Cluster::new("a");
    cluster.unreadable = true;
    let decision = cluster.reconcile(Ending::Completes);
    assert!(decision.actions.is_empty());
    assert_eq!(cluster.status.phase, None);
}

#[test]
fn unreadable_status_touches_nothing_and_is_kept() {
    let mut cluster = at(500);
    cluster.status.phase = Some("FromTheFuture".to_owned());
    let decision = cluster.reconcile(Ending::Completes);
    assert!(decision.actions.is_empty());
    assert_eq!(cluster.status.phase.as_deref(), Some("FromTheFuture"));
}

#[test]
fn clock_that_goes_back_widens_nothing() {
    let mut cluster = at(500);
    cluster.now -= SignedDuration::from_hours(1);
    for _ in 0..60 {
        second(&mut cluster);
        assert!(cluster.weight("b") <= Weight::from_basis_points(500));
    }
}
