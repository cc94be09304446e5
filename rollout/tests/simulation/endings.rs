//! How a run ends that is not promoted, and what is kept meanwhile.

use rollout::weight::Weight;
use verdict::Verdict;

use super::{
    at,
    cluster::{Cluster, Ending},
    second,
};

fn breached() -> Cluster {
    let mut cluster = at(500);
    cluster.quality.insert("b", Verdict::Fail);
    cluster.reconcile(Ending::Completes);
    cluster
}

#[test]
fn run_ends_only_when_the_data_plane_serves_it() {
    let mut cluster = breached();
    for _ in 0..5 {
        cluster.reconcile(Ending::Completes);
        assert_eq!(cluster.phase(), "RollingBack");
    }
    second(&mut cluster);
    second(&mut cluster);
    assert_eq!(cluster.phase(), "RolledBack");
}

#[test]
fn route_that_is_gone_is_written_before_a_run_ends() {
    let mut cluster = breached();
    cluster.applied = true;
    cluster.rule = None;
    cluster.reconcile(Ending::Completes);
    assert_eq!(cluster.phase(), "RollingBack");
    assert!(cluster.rule.is_some());
}

#[test]
fn spec_that_is_back_at_the_end_leaves_no_latch() {
    let mut cluster = breached();
    cluster.spec = "a";
    assert!(cluster.until(5, |cluster| cluster.status.run.is_none()));
    assert_eq!(cluster.phase(), "Stable");
    assert!(cluster.status.condemned.is_empty());
    assert_eq!(cluster.rule.as_ref().unwrap().mark, None);
}

#[test]
fn first_revision_that_answers_stays_until_the_newer_one_does() {
    let mut cluster = Cluster::new("a");
    second(&mut cluster);
    cluster.broken.insert("b");
    cluster.spec = "b";
    for _ in 0..60 {
        second(&mut cluster);
        assert_eq!(cluster.weight("a"), Weight::FULL);
    }
    assert!(cluster.status.revisions.iter().any(|seen| seen.name == "a"));
    cluster.broken.clear();
    assert!(cluster.until(10, |cluster| cluster.phase() == "Stable"));
    assert_eq!(cluster.weight("b"), Weight::FULL);
}
