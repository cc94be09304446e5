//! Steps that copy requests to a canary without traffic.

use crds::contract::MirrorMethods;
use jiff::SignedDuration;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use rollout::{guardrail::Guardrail, state::State, weight::Weight};
use verdict::Verdict;

use super::{
    cluster::{Cluster, Ending, copies},
    second, stable,
    traffic::Traffic,
};

/// A run of `b` that begins with copies of 10 % and then of half of the requests, in its first step.
fn copied() -> Cluster {
    let mut cluster = stable();
    let steps = [copies(1000, 10), copies(5000, 10)];
    cluster.plan.steps.splice(0..0, steps);
    cluster.spec = "b";
    assert!(
        cluster.until(10, |cluster| cluster.copied() == 1000),
        "{:?}",
        cluster.status
    );
    cluster
}

fn condition<'a>(cluster: &'a Cluster, type_: &str) -> &'a Condition {
    let mut conditions = cluster.status.conditions.iter();
    conditions.find(|it| it.type_ == type_).unwrap()
}

fn step(cluster: &Cluster) -> &str {
    cluster.status.step.as_deref().unwrap_or("")
}

fn is_at_rest(cluster: &Cluster) -> bool {
    cluster.status.run.is_none() && cluster.split().is_some_and(|split| split.run.is_empty())
}

#[test]
fn copies_rise_without_traffic_and_leave_in_the_write_that_brings_the_first_traffic() {
    let mut cluster = copied();
    let split = cluster.split().unwrap();
    assert_eq!(split.mirror.unwrap().methods, MirrorMethods::All);
    assert_eq!((split.step, split.canary.as_deref()), (1, Some("b")));
    let mut given = vec![];
    for _ in 0..120 {
        second(&mut cluster);
        let now = (cluster.copied(), cluster.weight("b").basis_points());
        if given.last() != Some(&now) {
            given.push(now);
        }
    }
    // One pod of four carries a quarter, until the second one is ready.
    assert_eq!(given[..3], [(1000, 0), (2500, 0), (5000, 0)]);
    let traffic = [(0, 100), (0, 500), (0, 2500), (0, 10_000)];
    assert_eq!(given[3..], traffic);
    assert_eq!(cluster.status.stable_revision.as_deref(), Some("b"));
}

#[test]
fn canary_has_pods_for_what_is_copied() {
    let mut cluster = copied();
    assert_eq!(cluster.tracks["b"].replicas, 1);
    assert!(cluster.until(20, |cluster| cluster.copied() == 5000));
    assert_eq!(cluster.tracks["b"].replicas, 2);
    assert_eq!(cluster.tracks["a"].replicas, 4);
}

#[test]
fn status_says_that_nobody_gets_the_canary_and_why_routers_do_not_decide() {
    let mut cluster = stable();
    cluster.plan.guardrails = Guardrail::defaults();
    cluster.plan.steps.insert(0, copies(1000, 10));
    cluster.spec = "b";
    assert!(cluster.until(10, |cluster| cluster.copied() == 1000));
    second(&mut cluster);
    second(&mut cluster);
    let (weight, ready) = (&cluster.status.weight, condition(&cluster, "Ready"));
    assert_eq!(
        (step(&cluster), weight.as_ref().unwrap().0.as_str()),
        ("1/5", "0%")
    );
    assert_eq!(ready.reason, "WaitingForHold");
    assert!(
        ready.message.contains("copies 10% of the requests"),
        "{}",
        ready.message
    );
    let healthy = condition(&cluster, "GuardrailsHealthy");
    assert_eq!(
        (healthy.status.as_str(), healthy.reason.as_str()),
        ("True", "Mirroring")
    );
    let entered = cluster.status.decisions.last().unwrap();
    assert_eq!(
        (entered.decision.as_str(), entered.weight.0.as_str()),
        ("StepStarted", "0%")
    );
    assert!(
        entered.message.contains("decide nothing"),
        "{}",
        entered.message
    );
    // The next step is entered all the same, and its record says what they said.
    assert!(cluster.until(20, |cluster| step(cluster) == "2/5"));
    let said = &cluster.status.decisions.last().unwrap().guardrails;
    assert_eq!(said.len(), 3);
    for said in said {
        assert_eq!(said.verdict, "Inconclusive");
        assert!(said.summary.as_ref().unwrap().contains("only copied"));
    }
}

#[test]
fn traffic_after_copies_is_judged_by_the_routers_again() {
    let mut cluster = stable();
    cluster.plan.guardrails = Guardrail::defaults();
    cluster.plan.steps.insert(0, copies(1000, 10));
    cluster.spec = "b";
    let mut traffic = Traffic::new(5000, 500, 7).with_bad("b", "errors", 0.5);
    let mut most = 0;
    for _ in 0..120 {
        second(&mut cluster);
        traffic.second(&mut cluster);
        most = most.max(cluster.weight("b").basis_points());
    }
    assert_eq!(cluster.phase(), "RolledBack");
    assert_eq!(most, 100);
}

#[test]
fn routers_that_are_silent_or_undecided_too_long_neither_hold_nor_end_a_step_that_copies() {
    let mut cluster = stable();
    cluster.plan.guardrails = Guardrail::defaults();
    cluster.plan.on_inconclusive = crds::steps::OnInconclusive::Rollback;
    cluster.plan.step_deadline = SignedDuration::from_secs(5);
    cluster.plan.steps.insert(0, copies(1000, 20));
    cluster.spec = "b";
    assert!(cluster.until(60, |cluster| step(cluster) == "2/5"));
}

#[test]
fn guardrails_on_metrics_run_while_requests_are_copied() {
    for paused in [false, true] {
        let mut cluster = copied();
        cluster.paused = paused;
        second(&mut cluster);
        assert_eq!(cluster.copied(), 1000, "a pause keeps the copies");
        cluster.quality.insert("b", Verdict::Fail);
        cluster.reconcile(Ending::Completes);
        assert_eq!((cluster.phase(), cluster.copied()), ("RollingBack", 0));
        assert!(cluster.split().unwrap().mirror.is_none());
        cluster.pass(SignedDuration::from_secs(1));
        assert!(cluster.until(5, |cluster| cluster.phase() == "RolledBack"));
        assert_eq!(cluster.status.condemned[0].reason, "GuardrailFailed");
        cluster.paused = false;
        cluster.quality.clear();
        for _ in 0..60 {
            second(&mut cluster);
            assert_eq!(cluster.copied(), 0);
        }
    }
}

#[test]
fn guardrails_on_metrics_that_see_nothing_hold_a_step_that_copies() {
    let mut cluster = copied();
    cluster.quality.insert("b", Verdict::NoData);
    for _ in 0..60 {
        second(&mut cluster);
        assert_eq!((step(&cluster), cluster.copied()), ("1/6", 1000));
    }
    assert_eq!(condition(&cluster, "Ready").reason, "NoData");
}

#[test]
fn every_end_of_a_run_ends_the_copies_in_its_first_write() {
    type End = fn(&mut Cluster);
    let ends: [(&str, End); 4] = [
        ("Reverted", |cluster| cluster.spec = "a"),
        ("Superseded", |cluster| cluster.spec = "c"),
        ("RolledBack", Cluster::trip),
        ("Abandoned", |cluster| cluster.plans.clear()),
    ];
    for (result, end) in ends {
        let mut cluster = copied();
        end(&mut cluster);
        cluster.reconcile(Ending::Completes);
        assert_eq!(cluster.copied(), 0, "{result}");
        cluster.pass(SignedDuration::from_secs(1));
        assert!(cluster.until(5, |cluster| !cluster.status.history.is_empty()));
        assert_eq!(cluster.status.history[0].result, result);
    }
}

#[test]
fn run_ends_only_when_the_copies_are_known_to_have_ended() {
    let mut cluster = copied();
    cluster.spec = "a";
    // The record alone is written.
    cluster.reconcile(Ending::DiesAfter(1));
    assert_eq!((cluster.phase(), cluster.copied()), ("RollingBack", 1000));
    cluster.reconcile(Ending::Completes);
    assert_eq!((cluster.phase(), cluster.copied()), ("RollingBack", 0));
    assert!(cluster.until(5, is_at_rest));
}

#[test]
fn stable_without_pods_does_not_keep_a_bad_canary_in_copies() {
    let mut cluster = copied();
    cluster.broken.insert("a");
    cluster.pass(SignedDuration::ZERO);
    cluster.quality.insert("b", Verdict::Fail);
    cluster.reconcile(Ending::Completes);
    assert_eq!((cluster.phase(), cluster.copied()), ("RollingBack", 0));
}

#[test]
fn step_lasts_from_when_the_copies_are_made() {
    let mut cluster = copied();
    let recorded = |cluster: &Cluster| {
        let state = cluster.state().unwrap();
        state.run().and_then(|run| run.hold()?.applied_at)
    };
    // The next step was recorded, but each time the operator dies before it writes the route.
    while step(&cluster) == "1/6" {
        cluster.reconcile(Ending::DiesAfter(1));
        cluster.pass(SignedDuration::from_secs(1));
    }
    assert_eq!(
        cluster.copied(),
        1000,
        "the route is the one of the step before"
    );
    cluster.reconcile(Ending::DiesAfter(1));
    assert_eq!(recorded(&cluster), None);
    assert!(cluster.until(5, |cluster| recorded(cluster).is_some()));
    assert_eq!(cluster.copied(), 5000);
}

#[test]
fn refused_record_begins_no_copies() {
    let mut cluster = stable();
    cluster.plan.steps.insert(0, copies(1000, 10));
    cluster.spec = "b";
    for _ in 0..10 {
        let state = cluster.state();
        let is_ready = state.as_ref().and_then(State::run).is_some();
        let ending = if is_ready {
            Ending::RecordRefused
        } else {
            Ending::Completes
        };
        cluster.reconcile(ending);
        cluster.pass(SignedDuration::from_secs(1));
        assert_eq!(cluster.copied(), 0);
    }
}

#[test]
fn pods_that_never_come_or_go_again_end_the_run_at_the_progress_deadline() {
    let mut never = stable();
    never.plan.steps.insert(0, copies(1000, 10));
    never.spec = "b";
    never.broken.insert("b");
    let mut gone = copied();
    gone.broken.insert("b");
    gone.pass(SignedDuration::ZERO);
    for mut cluster in [never, gone] {
        second(&mut cluster);
        second(&mut cluster);
        assert_eq!(
            cluster.copied(),
            0,
            "nothing is sent to pods that are not there"
        );
        assert!(!cluster.until(280, |cluster| cluster.phase() == "RolledBack"));
        assert!(cluster.until(30, |cluster| cluster.phase() == "RolledBack"));
        assert_eq!(cluster.status.history[0].reason, "ProgressDeadlineExceeded");
    }
}

#[test]
fn pods_that_come_back_get_their_copies_again() {
    let mut cluster = copied();
    cluster.broken.insert("b");
    cluster.pass(SignedDuration::ZERO);
    second(&mut cluster);
    assert_eq!(cluster.copied(), 0);
    cluster.broken.clear();
    assert!(cluster.until(5, |cluster| cluster.copied() == 1000));
    assert!(cluster.until(180, |cluster| cluster.phase() == "Stable"));
    assert_eq!(cluster.weight("b"), Weight::FULL);
}

#[test]
fn plan_that_cannot_be_read_keeps_copies_and_pods_as_they_are() {
    let mut cluster = copied();
    assert!(cluster.until(20, |cluster| cluster.copied() == 5000));
    second(&mut cluster);
    second(&mut cluster);
    let mut seen = cluster.observe();
    seen.frozen = rollout::observation::Frozen::Unreadable("it is no JSON".to_owned());
    let decided = rollout::decide(cluster.state().as_ref(), &seen, cluster.now);
    assert_eq!(decided.actions, []);
}

#[test]
fn lost_status_leaves_no_copies() {
    let mut cluster = copied();
    cluster.status = crds::ModelDeploymentStatus::default();
    cluster.reconcile(Ending::Completes);
    assert_eq!(cluster.copied(), 0);
}
