//! Guardrails that the routers judge, with users who ask.

use crds::{contract::Test, guardrail::OnFail};
use jiff::SignedDuration;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use rollout::{
    guardrail::{Guardrail, RouterTest},
    weight::Weight,
};
use verdict::Verdict;

use super::{
    cluster::{Cluster, Ending, Revision},
    stable,
    traffic::Traffic,
};

/// A run of `b` is about to begin, watched by the default guardrails, in steps of seconds.
fn watched() -> Cluster {
    let mut cluster = stable();
    cluster.plan.guardrails = Guardrail::defaults();
    for step in &mut cluster.plan.steps {
        step.hold = SignedDuration::from_secs(3);
    }
    cluster.plan.bake = SignedDuration::from_secs(3);
    cluster.routers = 2;
    cluster.spec = "b";
    cluster
}

/// Reconciles and serves requests until `done`; gives the seconds that it took.
fn serve(
    cluster: &mut Cluster,
    traffic: &mut Traffic,
    seconds: usize,
    done: impl Fn(&Cluster) -> bool,
) -> Option<usize> {
    for second in 0..seconds {
        if done(cluster) {
            return Some(second);
        }
        cluster.reconcile(Ending::Completes);
        cluster.pass(SignedDuration::from_secs(1));
        traffic.second(cluster);
    }
    done(cluster).then_some(seconds)
}

fn is_promoted(cluster: &Cluster) -> bool {
    cluster.status.stable_revision.as_deref() == Some("b") && cluster.phase() == "Stable"
}

fn is_rolled_back(cluster: &Cluster) -> bool {
    cluster.phase() == "RolledBack"
}

fn ready(cluster: &Cluster) -> &Condition {
    let conditions = cluster.status.conditions.iter();
    conditions
        .into_iter()
        .find(|it| it.type_ == "Ready")
        .unwrap()
}

fn bad(revision: Revision, chance: f64) -> Traffic {
    Traffic::new(5000, 500, 7).with_bad(revision, "errors", chance)
}

#[test]
fn healthy_canary_of_few_users_is_promoted() {
    // Of a few users none may be among the first hundredth or twentieth: so many steps are left out.
    for (users, rate, left_out, limit) in [
        (200, 40, 1, 240),
        (200, 200, 1, 90),
        (20, 40, 2, 240),
        (100_000, 40, 0, 900),
    ] {
        for seed in 0..5 {
            let mut cluster = watched();
            cluster.plan.steps.drain(..left_out);
            let mut traffic = Traffic::new(users, rate, seed);
            let took = serve(&mut cluster, &mut traffic, limit, is_promoted);
            assert!(
                took.is_some(),
                "{users} users, seed {seed}: {:?}",
                cluster.status.conditions
            );
        }
    }
}

#[test]
fn healthy_canary_at_one_percent_is_promoted_where_it_has_users() {
    let mut cluster = watched();
    let mut traffic = Traffic::new(1000, 100, 3);
    assert!(serve(&mut cluster, &mut traffic, 240, is_promoted).is_some());
}

#[test]
fn canary_that_nobody_reaches_is_not_promoted() {
    let mut cluster = watched();
    let mut traffic = Traffic::new(1, 40, 2);
    assert!(serve(&mut cluster, &mut traffic, 300, is_promoted).is_none());
    assert_eq!(cluster.phase(), "Progressing");
    let ready = ready(&cluster);
    assert_eq!(ready.reason, "NoData");
}

#[test]
fn no_step_passes_on_requests_that_told_its_guardrail_nothing() {
    let mut cluster = watched();
    let mut traffic = bad("b", 0.0).with_bad("b", "slow-answers", 1.0);
    traffic.warming = Some("slow-answers");
    serve(&mut cluster, &mut traffic, 60, is_promoted);
    let weight = cluster.weight("b");
    assert_eq!(weight, Weight::from_basis_points(100), "{weight}");
    assert!(ready(&cluster).message.contains("warm up"));
    // Then it is seen for what it is.
    traffic.warming = None;
    assert!(serve(&mut cluster, &mut traffic, 60, is_rolled_back).is_some());
}

#[test]
fn canary_that_only_fails_is_not_promoted_where_all_traffic_is_its_first_step() {
    let mut cluster = watched();
    cluster.plan.steps.drain(..cluster.plan.steps.len() - 1);
    assert_eq!(cluster.plan.steps[0].weight, Weight::FULL);
    // So few requests that next to nothing is known of stable.
    let mut traffic = Traffic::new(5000, 2, 7).with_bad("b", "errors", 1.0);
    let took = serve(&mut cluster, &mut traffic, 120, is_rolled_back);
    assert!(took.is_some(), "{}", cluster.phase());
    let mut cluster = watched();
    cluster.plan.steps.drain(..cluster.plan.steps.len() - 1);
    let mut traffic = Traffic::new(5000, 2, 7)
        .with_bad("b", "errors", 0.1)
        .with_bad("b", "slow-answers", 1.0);
    assert!(serve(&mut cluster, &mut traffic, 120, is_promoted).is_some());
}

#[test]
fn canary_that_is_as_bad_as_stable_is_promoted() {
    for (chance, hopeless) in [(0.01, 0), (0.2, 0), (1.0, 0), (0.0, 20), (0.01, 200)] {
        for seed in 0..3 {
            let mut cluster = watched();
            let mut traffic = Traffic::new(5000, 500, seed)
                .with_bad("a", "errors", chance)
                .with_bad("b", "errors", chance)
                .with_bad("a", "slow-answers", 1.0)
                .with_bad("b", "slow-answers", 1.0);
            traffic.hopeless = hopeless;
            let took = serve(&mut cluster, &mut traffic, 600, is_promoted);
            assert!(took.is_some(), "{chance} {hopeless}: {:#?}", cluster.status);
        }
    }
}

#[test]
fn step_goes_on_until_the_canary_was_tried() {
    let mut cluster = watched();
    cluster.plan.steps.remove(0);
    // One request a second on the canary, of another user each.
    let mut traffic = Traffic::new(100_000, 20, 4);
    let exposed = |cluster: &Cluster| cluster.weight("b") > Weight::ZERO;
    assert!(serve(&mut cluster, &mut traffic, 60, exposed).is_some());
    let gone_on = |cluster: &Cluster| cluster.weight("b") > Weight::from_basis_points(500);
    assert_eq!(serve(&mut cluster, &mut traffic, 30, gone_on), None);
    let ready = ready(&cluster);
    assert_eq!(ready.reason, "Inconclusive");
    assert!(
        ready.message.contains("needs 50 users"),
        "{}",
        ready.message
    );
    assert!(serve(&mut cluster, &mut traffic, 60, gone_on).is_some());
}

#[test]
fn bad_canary_loses_its_traffic_and_the_record_says_why() {
    let mut cluster = watched();
    let mut traffic = bad("b", 0.5).with_bad("a", "errors", 0.01);
    assert!(serve(&mut cluster, &mut traffic, 60, is_rolled_back).is_some());
    let made = cluster.status.decisions.iter().rev();
    let record = made
        .clone()
        .find(|made| made.decision == "RollingBack")
        .unwrap();
    for part in [
        "guardrail errors failed: ",
        " users on the canary, ",
        " % on stable, evidence ",
    ] {
        let part = part.trim_start_matches(' ');
        assert!(
            record.message.contains(part.trim_end_matches(' ')),
            "{}",
            record.message
        );
    }
    let measured = record
        .guardrails
        .iter()
        .find(|one| one.name == "errors")
        .unwrap();
    let number =
        |number: &Option<crds::quantity::Number>| number.as_ref().unwrap().parse().unwrap();
    assert_eq!(measured.verdict, "Fail");
    assert!(number(&measured.log_e) >= number(&measured.bound));
    // 0.01 for 3 guardrails, judged by 2 routers and the leader.
    assert!((number(&measured.bound) - 900_f64.ln()).abs() < 1e-3);
    assert_eq!(measured.threshold.as_deref(), Some("<= 1.25 x stable"));
    assert!(made.clone().any(|made| made.decision == "StepStarted"));
}

#[test]
fn canary_that_turns_bad_with_all_traffic_is_rolled_back() {
    let mut cluster = watched();
    cluster.plan.bake = SignedDuration::from_secs(60);
    let mut traffic = bad("a", 0.02).with_bad("b", "errors", 0.02);
    let full = |cluster: &Cluster| cluster.phase() == "Baking";
    assert!(serve(&mut cluster, &mut traffic, 600, full).is_some());
    traffic.bad.insert(("b", "errors"), 0.3);
    assert!(serve(&mut cluster, &mut traffic, 20, is_rolled_back).is_some());
    assert_eq!(cluster.status.history[0].reason, "GuardrailFailed");
}

#[test]
fn hold_keeps_the_weight_of_a_bad_canary() {
    let mut cluster = watched();
    cluster.plan.guardrails[0].on_fail = OnFail::Hold;
    let mut traffic = bad("b", 0.5);
    assert!(serve(&mut cluster, &mut traffic, 120, is_rolled_back).is_none());
    assert_eq!(cluster.weight("b"), Weight::from_basis_points(100));
    let ready = ready(&cluster);
    assert_eq!(ready.reason, "GuardrailFailed");
    let split = cluster.rule.as_ref().unwrap().split.as_ref().unwrap();
    let trips = split.judge.as_ref().unwrap().guardrails.iter();
    assert_eq!(
        trips.map(|judged| judged.trips).collect::<Vec<_>>(),
        [false, true, true]
    );
}

#[test]
fn all_traffic_needs_proof_that_the_canary_is_hardly_worse() {
    let mut cluster = watched();
    // 1.2 times as bad is borne by the test, and within 2 times; 1.9 times takes long to tell.
    let mut traffic = bad("a", 0.05).with_bad("b", "errors", 0.095);
    cluster.plan.false_rollback_probability = 1e-9;
    let before_all = |cluster: &Cluster| cluster.weight("b") == Weight::from_basis_points(2500);
    assert!(serve(&mut cluster, &mut traffic, 200, before_all).is_some());
    let gone_on = |cluster: &Cluster| cluster.weight("b") != Weight::from_basis_points(2500);
    assert_eq!(serve(&mut cluster, &mut traffic, 15, gone_on), None);
    let ready = ready(&cluster);
    assert_eq!(ready.reason, "Inconclusive");
    assert!(
        ready.message.contains("less than 2 times as bad"),
        "{}",
        ready.message
    );
}

#[test]
fn requests_that_never_reach_the_canary_block_a_pass() {
    let mut cluster = watched();
    cluster.by_user = false;
    let mut traffic = Traffic::new(5000, 500, 1);
    traffic.is_lossy = true;
    cluster.plan.steps.drain(..2);
    assert!(serve(&mut cluster, &mut traffic, 120, is_promoted).is_none());
    let ready = ready(&cluster);
    assert!(
        ready.message.contains("share of the requests"),
        "{}",
        ready.message
    );
    traffic.is_lossy = false;
    let mut cluster = watched();
    cluster.by_user = false;
    assert!(serve(&mut cluster, &mut traffic, 240, is_promoted).is_some());
}

#[test]
fn routers_of_others_see_nothing() {
    let mut cluster = watched();
    cluster.routers = 0;
    let mut traffic = Traffic::new(5000, 500, 1);
    assert!(serve(&mut cluster, &mut traffic, 120, is_promoted).is_none());
    let split = cluster.rule.as_ref().unwrap().split.clone().unwrap();
    assert_eq!(split.judge, None);
    let ready = ready(&cluster);
    assert!(
        ready.message.contains("no router of Sluice"),
        "{}",
        ready.message
    );
}

#[test]
fn missing_routers_and_evidence_of_others_pass_nothing() {
    let mut cluster = watched();
    let mut traffic = Traffic::new(5000, 500, 1);
    let first = |cluster: &Cluster| cluster.weight("b") > Weight::ZERO;
    assert!(serve(&mut cluster, &mut traffic, 60, first).is_some());
    let mut spoilt = cluster.clone();
    for second in 0..60 {
        spoilt.reconcile(Ending::Completes);
        spoilt.pass(SignedDuration::from_secs(1));
        traffic.second(&mut spoilt);
        let evidence = spoilt.evidence.as_mut().unwrap();
        match second % 3 {
            0 => evidence.run = "r9".to_owned(),
            1 => evidence.revision = "c".to_owned(),
            _ => evidence.problem = Some("router 10.0.0.1 does not answer".to_owned()),
        }
        assert_eq!(spoilt.weight("b"), Weight::from_basis_points(100));
    }
}

#[test]
fn routers_get_what_they_judge_with_the_run_and_lose_it_after() {
    let mut cluster = watched();
    let judge = |cluster: &Cluster| {
        let split = cluster.rule.as_ref().unwrap().split.clone().unwrap();
        (split.step, split.judge)
    };
    assert_eq!(judge(&cluster), (0, None));
    let mut traffic = Traffic::new(5000, 500, 1);
    let mut steps = vec![];
    for _ in 0..200 {
        cluster.reconcile(Ending::Completes);
        cluster.pass(SignedDuration::from_secs(1));
        traffic.second(&mut cluster);
        if is_promoted(&cluster) {
            break;
        }
        let (step, judge) = judge(&cluster);
        let judge = judge.unwrap();
        let alpha = judge.alpha.parse().unwrap();
        assert!((alpha - 0.01 / 9.0).abs() < 1e-12, "{alpha}");
        let names: Vec<_> = judge.guardrails.iter().map(|it| it.name.as_str()).collect();
        assert_eq!(names, ["errors", "slow-answers", "broken-streams"]);
        assert_eq!(judge.guardrails[1].warm_up_millis, 30_000);
        let is_compared = matches!(judge.guardrails[0].test, Test::Comparison { .. });
        assert_eq!(
            is_compared,
            cluster.weight("b") < Weight::FULL,
            "step {step}"
        );
        if steps.last() != Some(&step) {
            steps.push(step);
        }
    }
    assert_eq!(steps, [0, 1, 2, 3, 4, u32::MAX]);
    assert_eq!(judge(&cluster), (0, None));
}

#[test]
fn objective_is_judged_of_the_canary_alone() {
    let objective = |cluster: &mut Cluster| {
        cluster.plan.guardrails.truncate(1);
        let guardrail = &mut cluster.plan.guardrails[0];
        let rollout::guardrail::Check::Router(check) = &mut guardrail.check else {
            panic!("it is for routers");
        };
        check.test = RouterTest::Objective { max: 0.05 };
    };
    let mut cluster = watched();
    objective(&mut cluster);
    let mut traffic = bad("b", 0.3).with_bad("a", "errors", 0.3);
    assert!(serve(&mut cluster, &mut traffic, 120, is_rolled_back).is_some());
    let mut cluster = watched();
    objective(&mut cluster);
    let mut traffic = bad("b", 0.01);
    assert!(serve(&mut cluster, &mut traffic, 120, is_promoted).is_some());
}

#[test]
fn evidence_is_written_down_at_transitions_only() {
    let mut cluster = watched();
    cluster.plan.steps[1].hold = SignedDuration::from_mins(10);
    let mut traffic = bad("a", 0.01).with_bad("b", "errors", 0.01);
    let second_step = |cluster: &Cluster| cluster.weight("b") == Weight::from_basis_points(500);
    assert!(serve(&mut cluster, &mut traffic, 120, second_step).is_some());
    let errors = |cluster: &Cluster| {
        let run = cluster.status.run.clone().unwrap();
        let errors = run.guardrails.into_iter().find(|it| it.name == "errors");
        errors.unwrap().evidence.unwrap()
    };
    let recorded = errors(&cluster);
    assert_eq!(
        (recorded.verdict.as_str(), recorded.limit.as_ref()),
        ("Pass", None)
    );
    assert!(recorded.canary_units >= 10);
    let state = cluster.state().unwrap();
    let lanes = rollout::evidence::recorded(state.run().unwrap(), "errors").unwrap();
    assert!(lanes.carry.unwrap().stable() > 0);
    // Time for the reasons to settle, and then nothing is written though requests go on.
    serve(&mut cluster, &mut traffic, 20, |_| false);
    let writes = cluster.writes;
    serve(&mut cluster, &mut traffic, 60, |_| false);
    assert_eq!(cluster.writes, writes);
    assert_eq!(errors(&cluster), recorded);
}

#[test]
fn runs_of_canaries_that_are_no_worse_are_hardly_ever_rolled_back() {
    let mut wrong = 0;
    for seed in 0..100 {
        let mut cluster = watched();
        // Ten times what is usual, so that a test of a hundred runs can tell.
        cluster.plan.false_rollback_probability = 0.1;
        let mut traffic = Traffic::new(300, 200, seed)
            .with_bad("a", "errors", 0.02)
            .with_bad("b", "errors", 0.02);
        traffic.hopeless = 40;
        serve(&mut cluster, &mut traffic, 60, |cluster| {
            is_promoted(cluster) || is_rolled_back(cluster)
        });
        wrong += usize::from(is_rolled_back(&cluster));
    }
    assert!(wrong <= 10, "{wrong} of 100");
}

#[test]
fn evidence_that_is_no_number_passes_nothing_and_fails_nothing() {
    for value in [f64::NAN, f64::NEG_INFINITY] {
        let mut cluster = watched();
        let mut traffic = bad("a", 0.01);
        let second_step = |cluster: &Cluster| cluster.weight("b") > Weight::from_basis_points(100);
        let seen = |cluster: &Cluster| {
            let evidence = cluster.evidence.as_ref();
            evidence.is_some_and(|it| it.guardrails["errors"].first_bad.len() > 1)
        };
        assert!(serve(&mut cluster, &mut traffic, 60, seen).is_some());
        for _ in 0..60 {
            let evidence = cluster.evidence.as_mut().unwrap();
            let errors = evidence.guardrails.get_mut("errors").unwrap();
            errors.lanes.as_mut().unwrap().highest = value;
            cluster.reconcile(Ending::Completes);
            cluster.pass(SignedDuration::from_secs(1));
            traffic.second(&mut cluster);
        }
        assert!(!second_step(&cluster), "{value}");
        assert_eq!(ready(&cluster).reason, "GuardrailError", "{value}");
    }
}

#[test]
fn silent_routers_are_an_error_and_no_blame() {
    let mut cluster = watched();
    cluster.until(60, |_| false);
    assert_eq!(cluster.weight("b"), Weight::from_basis_points(100));
    assert_eq!(ready(&cluster).reason, "GuardrailError");
}

/// The store takes no more than so much of one object with ease.
const STATUS_MAX: usize = 64 * 1024;

#[test]
fn status_of_the_largest_plan_is_not_too_large() {
    let mut cluster = watched();
    let name = |kind: &str, number: usize| format!("{kind}-{number}-{}", "x".repeat(50));
    let routers = Guardrail::defaults().swap_remove(0);
    let prometheus = super::cluster::plan().guardrails.swap_remove(0);
    cluster.plan.guardrails = (0..8)
        .flat_map(|number| {
            let (mut one, mut other) = (routers.clone(), prometheus.clone());
            one.name = name("routers", number);
            other.name = name("prometheus", number);
            [one, other]
        })
        .collect();
    // As many transitions as are remembered.
    cluster.plan.steps = (1..=12)
        .map(|number| rollout::plan::Step {
            weight: Weight::from_basis_points(if number == 12 { 10_000 } else { number * 100 }),
            mirror: None,
            hold: SignedDuration::from_secs(1),
        })
        .collect();
    let mut traffic = bad("a", 0.01).with_bad("b", "errors", 0.01);
    let largest = std::cell::Cell::new(0_usize);
    serve(&mut cluster, &mut traffic, 400, |cluster| {
        largest.set(
            largest
                .get()
                .max(serde_json::to_vec(&cluster.status).unwrap().len()),
        );
        is_promoted(cluster)
    });
    assert!(is_promoted(&cluster));
    let largest = largest.get();
    assert!((STATUS_MAX / 4..STATUS_MAX).contains(&largest), "{largest}");
}

#[test]
fn worst_guardrail_decides_whoever_judges_it() {
    let mut cluster = watched();
    let prometheus = super::cluster::plan().guardrails.swap_remove(0);
    cluster.plan.guardrails.push(Guardrail {
        name: "conversion".to_owned(),
        ..prometheus
    });
    cluster.quality.insert("b", Verdict::Inconclusive);
    let mut traffic = Traffic::new(5000, 500, 1);
    assert!(serve(&mut cluster, &mut traffic, 60, is_promoted).is_none());
    assert_eq!(cluster.weight("b"), Weight::from_basis_points(100));
    cluster.quality.clear();
    assert!(serve(&mut cluster, &mut traffic, 240, is_promoted).is_some());
}
