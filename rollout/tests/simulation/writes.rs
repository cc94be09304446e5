//! What is left alone.

use crds::contract::KeySource;
use jiff::SignedDuration;
use rollout::{action::Action, decide, plan::SpecError};

use super::{at, cluster::Ending, stable};

#[test]
fn pods_stay_until_the_data_plane_serves_a_route_without_them() {
    let mut cluster = at(500);
    cluster.spec = "a";
    assert!(cluster.until(5, |cluster| cluster.status.run.is_none()));
    cluster.pass(SignedDuration::from_secs(60));
    cluster.applied = false;
    cluster.reconcile(Ending::Completes);
    assert!(cluster.tracks.contains_key("b"));
    cluster.until(2, |_| false);
    assert!(!cluster.tracks.contains_key("b"));
}

#[test]
fn revision_that_is_not_saved_is_not_marked() {
    let mut cluster = at(500);
    cluster.revisions.remove("a");
    let actions = cluster.reconcile(Ending::Completes).actions;
    assert!(
        !actions
            .iter()
            .any(|action| matches!(action, Action::MarkStable { .. }))
    );
}

#[test]
fn invalid_edit_changes_nothing_about_how_the_model_is_reached() {
    let mut cluster = stable();
    cluster.until(2, |_| false);
    let mut seen = cluster.observe();
    seen.wanted.route.hostnames = vec!["other.example".to_owned()];
    seen.wanted.route.key = Some(KeySource::Header {
        name: "user".to_owned(),
    });
    let state = cluster.state();
    let valid = decide(state.as_ref(), &seen, cluster.now);
    assert_eq!(valid.actions.len(), 1);
    seen.wanted.plan = Err(SpecError::at("spec.guardrails[0]", "no such MetricSource"));
    let invalid = decide(state.as_ref(), &seen, cluster.now);
    assert_eq!(invalid.actions, []);
}

#[test]
fn plan_without_an_interval_makes_no_busy_loop() {
    let mut cluster = stable();
    cluster.plan.guardrails[0].interval = SignedDuration::ZERO;
    cluster.spec = "b";
    assert!(cluster.until(120, |cluster| cluster.phase() == "Stable"));
}

#[test]
fn first_revision_without_pods_is_not_proven() {
    let mut cluster = super::Cluster::new("a");
    cluster.broken.insert("a");
    assert!(!cluster.until(30, |cluster| cluster.phase() == "Stable"));
}
