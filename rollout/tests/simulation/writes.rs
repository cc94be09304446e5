//! What is left alone.

use crds::contract::{KeySource, Testers};
use jiff::SignedDuration;
use rollout::{action::Action, decide, plan::SpecError};

use super::{
    at,
    cluster::{Cluster, Ending},
    stable,
};

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
fn testers_stand_on_the_route_while_a_run_goes_on_alone() {
    let testers = Testers {
        by: KeySource::Cookie {
            name: "try".to_owned(),
        },
        value: "next".to_owned(),
    };
    let writes = |cluster: &Cluster| {
        let mut seen = cluster.observe();
        seen.wanted.route.testers = Some(testers.clone());
        let decided = decide(cluster.state().as_ref(), &seen, cluster.now);
        let routes = decided.actions.into_iter().filter_map(|action| {
            if let Action::ApplyRoute(route) = action {
                Some(route.split.testers)
            } else {
                None
            }
        });
        routes.collect::<Vec<_>>()
    };
    let mut rest = stable();
    rest.until(2, |_| false);
    assert_eq!(writes(&rest), []);
    let mut cluster = at(500);
    assert_eq!(writes(&cluster), [Some(testers.clone())]);
    cluster.spec = "a";
    assert_eq!(writes(&cluster), [None], "they leave with the traffic");
}

#[test]
fn plan_without_an_interval_makes_no_busy_loop() {
    let mut cluster = stable();
    super::edges::prometheus(&mut cluster.plan).interval = SignedDuration::ZERO;
    cluster.spec = "b";
    assert!(cluster.until(120, |cluster| cluster.phase() == "Stable"));
}

#[test]
fn first_revision_without_pods_is_not_proven() {
    let mut cluster = Cluster::new("a");
    cluster.broken.insert("a");
    assert!(!cluster.until(30, |cluster| cluster.phase() == "Stable"));
}
