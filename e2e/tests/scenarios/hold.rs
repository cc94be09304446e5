//! What cannot be seen neither advances nor rolls back.

use crds::ModelDeployment;
use k8s_openapi::api::{
    apps::v1::ReplicaSet,
    core::v1::{Pod, ResourceQuota},
};
use kube::{
    Api,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use serde_json::{Value, json};
use sluice_e2e::{
    load::stats::{RevisionStats, Stats},
    model_deployment::{self as md, quick, set, sim},
    prometheus, wait,
};

use crate::scenario::{
    DECIDED_WITHIN, SERVING_WITHIN, Scenario, assert_no_failures, is_waiting, last_run,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_metric_that_is_missing_holds_the_step() -> anyhow::Result<()> {
    let scenario = Scenario::begin("metric-missing").await?;
    let blind = |args: &[&str]| {
        let mut object = quick(sim(args));
        let query = json!("sum(increase(no_such_metric_total{$(selector)}[$(window)]))");
        set(
            &mut object,
            "/spec/guardrails/0/check/prometheus/value",
            query.clone(),
        )
        .unwrap();
        set(
            &mut object,
            "/spec/guardrails/0/check/prometheus/samples",
            query,
        )
        .unwrap();
        object
    };
    scenario.first(&blind(&["alpha=1ms"])).await?;
    let load = scenario.load().await?;
    scenario.apply(&blind(&["alpha=2ms"])).await?;
    let held = scenario.waits_for("1/3", "NoData").await?;
    assert_eq!(md::condition(&held, "GuardrailsHealthy").0, "False");
    scenario
        .stays("the hold", |object| is_waiting(object, "1/3", "NoData"))
        .await?;
    assert_no_failures(&load.stop().await?, &[]);
    scenario.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn without_traffic_the_step_is_held_until_there_is_some() -> anyhow::Result<()> {
    let scenario = Scenario::begin("no-traffic").await?;
    scenario.first(&quick(sim(&["alpha=1ms"]))).await?;
    scenario.apply(&quick(sim(&["alpha=2ms"]))).await?;
    scenario.waits_for("1/3", "NoData").await?;
    scenario
        .stays("the hold", |object| is_waiting(object, "1/3", "NoData"))
        .await?;
    let load = scenario.load().await?;
    scenario.watched.promoted(DECIDED_WITHIN).await?;
    assert_no_failures(&load.stop().await?, &[]);
    scenario.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn without_prometheus_the_step_is_held_until_it_is_back() -> anyhow::Result<()> {
    let scenario = Scenario::alone("no-prometheus").await?;
    scenario.first(&quick(sim(&["alpha=1ms"]))).await?;
    let load = scenario.load().await?;
    scenario.apply(&quick(sim(&["alpha=2ms"]))).await?;
    scenario.watched.at_step(1, DECIDED_WITHIN).await?;
    prometheus::scale(&scenario.cluster, 0).await?;
    let held = scenario
        .watched
        .until("reason GuardrailError", DECIDED_WITHIN, |object| {
            md::condition(object, "Ready").1 == "GuardrailError"
        })
        .await;
    let step = held
        .as_ref()
        .ok()
        .and_then(|object| object.status.clone()?.step);
    let stayed = scenario
        .stays("the hold", |object| {
            let at = object
                .status
                .as_ref()
                .and_then(|status| status.step.clone());
            at == step && md::condition(object, "Ready").1 == "GuardrailError"
        })
        .await;
    // Other tests need it again, whatever became of this one.
    prometheus::scale(&scenario.cluster, 1).await?;
    held?;
    stayed?;
    scenario.watched.promoted(DECIDED_WITHIN).await?;
    assert_no_failures(&load.stop().await?, &[]);
    scenario.end().await
}

/// A rollout that stays at a quarter for so long.
fn lasting(args: &[&str], hold: &str) -> Value {
    let mut object = quick(sim(args));
    set(
        &mut object,
        "/spec/rollout/canary/steps/1/hold",
        json!(hold),
    )
    .unwrap();
    object
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canary_that_loses_its_pods_gets_nothing_until_they_are_back() -> anyhow::Result<()> {
    let scenario = Scenario::begin("pods-vanish").await?;
    scenario.first(&lasting(&["alpha=1ms"], "20s")).await?;
    let load = scenario.load().await?;
    scenario.apply(&lasting(&["alpha=2ms"], "20s")).await?;
    let canary = md::canary(&scenario.watched.at_step(2, DECIDED_WITHIN).await?);

    take_pods(&scenario, &canary).await?;
    let held = scenario
        .watched
        .until("weight 0% at step 2", DECIDED_WITHIN, |object| {
            is_waiting(object, "2/3", "WaitingForReplicas") && weight(object) == "0%"
        })
        .await?;
    assert_eq!(
        held.status.unwrap().run.unwrap().earned_weight,
        "25%".into()
    );
    scenario
        .stays("the hold", |object| {
            is_waiting(object, "2/3", "WaitingForReplicas")
        })
        .await?;
    give_pods(&scenario, &canary).await?;
    scenario.watched.promoted(DECIDED_WITHIN).await?;
    assert_eq!(last_run(&scenario.watched.get().await?), WHOLE_RUN);
    assert_no_failures(&load.stop().await?, &[]);
    scenario.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_pod_of_stable_nothing_is_decided_until_there_is_one() -> anyhow::Result<()> {
    let scenario = Scenario::begin("stable-vanishes").await?;
    // Shorter than what is waited for below: it is not the clock that holds the step.
    let lasts = "15s";
    let stable = scenario.first(&lasting(&["alpha=1ms"], lasts)).await?;
    let load = scenario.load().await?;
    scenario.apply(&lasting(&["alpha=2ms"], lasts)).await?;
    let canary = md::canary(&scenario.watched.at_step(2, DECIDED_WITHIN).await?);

    take_pods(&scenario, &stable).await?;
    let held = scenario.waits_for("2/3", "StableUnhealthy").await?;
    assert_eq!(md::condition(&held, "Available"), ("True", "CanaryServing"));
    // What was sent to a pod of stable before it left is answered by now.
    load.answered(300).await?;
    let before = load.stats().await?;
    scenario
        .stays("the hold", |object| {
            is_waiting(object, "2/3", "StableUnhealthy") && weight(object) == "25%"
        })
        .await?;
    let after = load.stats().await?;
    let answers = |stats: &Stats, revision: &str| {
        let of = stats.revisions.get(revision);
        of.map_or(0, RevisionStats::total)
    };
    assert_eq!(answers(&before, &stable), answers(&after, &stable));
    assert!(
        answers(&after, &canary) > answers(&before, &canary),
        "the canary answers nobody: {after:#?}"
    );

    give_pods(&scenario, &stable).await?;
    scenario.watched.promoted(DECIDED_WITHIN).await?;
    assert_eq!(last_run(&scenario.watched.get().await?), WHOLE_RUN);
    assert_no_failures(&load.stop().await?, &[]);
    scenario.end().await
}

/// What is decided in a run that nothing ends.
const WHOLE_RUN: [&str; 5] = [
    "RunStarted 0%",
    "StepStarted 5%",
    "StepStarted 25%",
    "StepStarted 100%",
    "Promoted 100%",
];

fn weight(object: &ModelDeployment) -> String {
    let weight = object
        .status
        .as_ref()
        .and_then(|status| status.weight.clone());
    weight.map(|weight| weight.0).unwrap_or_default()
}

const QUOTA: &str = "none";

/// Takes all pods of a revision away for good: no pod may be made while the quota is used up.
async fn take_pods(scenario: &Scenario, revision: &str) -> anyhow::Result<()> {
    let quota = json!({
        "apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": QUOTA},
        "spec": {"hard": {"pods": "0"}},
    });
    scenario.apply(&quota).await?;
    // Until the quota's own controller has seen it, it forbids nothing.
    wait::until(
        &quotas(scenario),
        QUOTA,
        "the quota",
        SERVING_WITHIN,
        |quota| {
            let status = quota.and_then(|quota| quota.status.as_ref());
            status.is_some_and(|status| status.hard.is_some())
        },
    )
    .await?;
    let client = scenario.cluster.client.clone();
    let pods: Api<Pod> = Api::namespaced(client, &scenario.namespace);
    pods.delete_collection(&DeleteParams::default().grace_period(5), &of(revision))
        .await?;
    Ok(())
}

/// Lets them come back.
async fn give_pods(scenario: &Scenario, revision: &str) -> anyhow::Result<()> {
    quotas(scenario)
        .delete(QUOTA, &DeleteParams::default())
        .await?;
    touch(scenario, &of(revision)).await
}

fn quotas(scenario: &Scenario) -> Api<ResourceQuota> {
    Api::namespaced(scenario.cluster.client.clone(), &scenario.namespace)
}

fn of(revision: &str) -> ListParams {
    ListParams::default().labels(&format!("sluice.dev/revision={revision}"))
}

/// Makes the controller of `ReplicaSet`s look again: after refused pods it waits for minutes.
async fn touch(scenario: &Scenario, list: &ListParams) -> anyhow::Result<()> {
    let client = scenario.cluster.client.clone();
    let api: Api<ReplicaSet> = Api::namespaced(client, &scenario.namespace);
    for set in api.list(list).await? {
        let name = set.metadata.name.unwrap_or_default();
        let patch = json!({"metadata": {"annotations": {"sluice.dev/e2e": "look again"}}});
        api.patch(&name, &PatchParams::default(), &Patch::Merge(patch))
            .await?;
    }
    Ok(())
}
