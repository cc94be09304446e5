//! Which judgements count.

use jiff::SignedDuration;
use rollout::decide;
use verdict::Verdict;

use super::{at, cluster::Cluster};

/// Whether a look moves the run, when a judgement says so of a window that began and ended so many
/// seconds ago. The step is held, and served for 14 s at least.
fn moves(cluster: &Cluster, verdict: Verdict, began: i64, ended: i64) -> bool {
    let mut seen = cluster.observe();
    let judgement = &mut seen.judgements[0];
    judgement.verdict = verdict;
    judgement.window_start = cluster.now - SignedDuration::from_secs(began);
    judgement.at = cluster.now - SignedDuration::from_secs(ended);
    decide(cluster.state().as_ref(), &seen, cluster.now).is_transition
}

fn held() -> Cluster {
    let mut cluster = at(500);
    cluster.quality.insert("b", Verdict::Inconclusive);
    cluster.until(16, |_| false);
    cluster
}

#[test]
fn pass_counts_when_its_whole_window_lies_in_the_step_and_is_fresh() {
    let cluster = held();
    assert!(moves(&cluster, Verdict::Pass, 5, 0));
    assert!(moves(&cluster, Verdict::Pass, 9, 4));
    assert!(!moves(&cluster, Verdict::Pass, 4, 0), "a short window");
    assert!(!moves(&cluster, Verdict::Pass, 13, 8), "an old one");
    assert!(
        !moves(&cluster, Verdict::Pass, 18, 0),
        "from the step before"
    );
    assert!(!moves(&cluster, Verdict::Pass, 5, -1), "from the future");
}

#[test]
fn failure_counts_when_its_window_began_in_this_run() {
    let cluster = held();
    assert!(moves(&cluster, Verdict::Fail, 20, 15));
    assert!(!moves(&cluster, Verdict::Fail, 300, 295), "an older run's");
}
