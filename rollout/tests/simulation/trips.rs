//! A router took the canary out by itself.

use crds::ModelDeploymentStatus;
use jiff::SignedDuration;
use rollout::weight::Weight;
use verdict::Verdict;

use super::{
    at,
    cluster::{Cluster, Ending, trip_of},
    second, stable,
};

fn is_rolled_back(cluster: &Cluster) -> bool {
    cluster.phase() == "RolledBack"
}

#[test]
fn trip_rolls_the_run_back_at_once_and_for_good() {
    let mut cluster = at(500);
    cluster.trip();
    cluster.reconcile(Ending::Completes);
    assert_eq!(cluster.phase(), "RollingBack");
    assert_eq!(cluster.weight("b"), Weight::ZERO);
    let mark = cluster.rule.as_ref().unwrap().mark.as_ref().unwrap();
    assert_eq!((mark.revision.as_str(), mark.run.as_str()), ("b", "r1"));
    cluster.pass(SignedDuration::from_secs(1));
    // The router forgets it with the run.
    assert!(cluster.until(5, is_rolled_back));
    cluster.tripped = None;
    for _ in 0..100 {
        second(&mut cluster);
        assert_eq!(cluster.weight("b"), Weight::ZERO);
    }
    let ended = &cluster.status.history[0];
    assert_eq!(
        (ended.result.as_str(), ended.reason.as_str()),
        ("RolledBack", "Tripped")
    );
    let record = cluster.status.decisions.iter();
    let record = record
        .rev()
        .find(|made| made.decision == "RollingBack")
        .unwrap();
    for part in ["guardrail errors", "9.77 of 7.78", "3 of 41 requests"] {
        assert!(record.message.contains(part), "{}", record.message);
    }
}

#[test]
fn trip_counts_whatever_the_guardrails_say_and_whoever_paused() {
    for verdict in [Verdict::Pass, Verdict::NoData, Verdict::Error] {
        let mut cluster = at(2500);
        cluster.quality.insert("b", verdict);
        cluster.paused = true;
        cluster.spec_is_valid = false;
        cluster.unreadable = true;
        cluster.trip();
        second(&mut cluster);
        assert_eq!(cluster.weight("b"), Weight::ZERO, "{verdict:?}");
    }
}

#[test]
fn trip_outlives_a_crash_at_any_write_and_a_refused_record() {
    for ending in [
        Ending::DiesAfter(0),
        Ending::DiesAfter(1),
        Ending::DiesAfter(2),
        Ending::RecordRefused,
        Ending::Conflict,
    ] {
        let mut cluster = at(500);
        cluster.trip();
        cluster.reconcile(ending);
        assert!(cluster.weight("b") <= Weight::from_basis_points(500));
        if ending == Ending::RecordRefused {
            assert_eq!(cluster.weight("b"), Weight::ZERO);
        }
        cluster.reconcile(Ending::Completes);
        assert_eq!(cluster.weight("b"), Weight::ZERO, "{ending:?}");
        assert!(cluster.until(5, is_rolled_back), "{ending:?}");
    }
}

#[test]
fn trip_of_another_run_or_revision_changes_nothing() {
    for trip in [
        trip_of("r7", "b"),
        trip_of("r1", "c"),
        trip_of("", ""),
        trip_of("r1", "a"),
    ] {
        let mut cluster = at(500);
        cluster.tripped = Some(trip.clone());
        let promoted = |cluster: &Cluster| cluster.status.stable_revision.as_deref() == Some("b");
        assert!(cluster.until(120, promoted), "{trip:?}");
    }
}

#[test]
fn old_trip_does_not_end_the_run_of_a_raised_attempt() {
    let mut cluster = at(500);
    cluster.trip();
    assert!(cluster.until(5, is_rolled_back));
    cluster.attempt = 2;
    assert!(
        cluster.until(120, |cluster| cluster.status.stable_revision.as_deref()
            == Some("b"))
    );
    assert_eq!(cluster.status.history.len(), 2);
}

#[test]
fn trip_outlives_a_lost_status() {
    let mut cluster = at(500);
    cluster.trip();
    cluster.status = ModelDeploymentStatus::default();
    for _ in 0..60 {
        second(&mut cluster);
        assert_eq!(cluster.weight("b"), Weight::ZERO);
    }
    assert!(is_rolled_back(&cluster));
}

#[test]
fn old_trip_condemns_nobody_when_the_status_is_lost() {
    let mut cluster = at(500);
    cluster.tripped = Some(trip_of("r0", "b"));
    cluster.status = ModelDeploymentStatus::default();
    assert!(
        cluster.until(120, |cluster| cluster.status.stable_revision.as_deref()
            == Some("b"))
    );
}

#[test]
fn nothing_shifts_onto_a_stable_revision_without_pods() {
    let mut cluster = at(2500);
    cluster.broken.insert("a");
    cluster.trip();
    cluster.pass(SignedDuration::ZERO);
    for _ in 0..10 {
        let decision = cluster.reconcile(Ending::Completes);
        assert_eq!(decision.why.reason(), "StableUnhealthy");
        assert_eq!(cluster.weight("b"), Weight::from_basis_points(2500));
        cluster.pass(SignedDuration::from_secs(1));
    }
    cluster.broken.clear();
    assert!(cluster.until(10, is_rolled_back));
}

#[test]
fn long_text_of_a_router_does_not_fill_the_status() {
    let mut cluster = at(500);
    cluster.trip();
    cluster.tripped.as_mut().unwrap().message = "x".repeat(100_000);
    second(&mut cluster);
    let text = serde_json::to_string(&cluster.status).unwrap();
    assert!(text.len() < 10_000, "{}", text.len());
}

#[test]
fn trip_without_a_run_is_nobodys() {
    let mut cluster = stable();
    cluster.until(2, |_| false);
    cluster.tripped = Some(trip_of("", "a"));
    let writes = cluster.writes;
    cluster.until(5, |_| false);
    assert_eq!((cluster.phase(), cluster.writes), ("Stable", writes));
}
