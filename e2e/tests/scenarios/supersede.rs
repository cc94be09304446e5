//! What people do to a run: other specs, broken specs, lost statuses, deletion.

use std::time::Duration;

use k8s_openapi::api::{
    apps::v1::{ControllerRevision, Deployment},
    core::v1::Service,
};
use kube::{
    Api,
    api::{DeleteParams, ListParams, PostParams},
};
use serde_json::{Value, json};
use sluice_e2e::{
    load_pod::{LoadPod, Plan},
    model_deployment::{self as md, quick, set, sim},
    wait,
};

use crate::scenario::{DECIDED_WITHIN, Scenario, assert_no_failures};

/// A quick rollout that stays long at its first two steps.
fn lasting(args: &[&str]) -> Value {
    let mut object = quick(sim(args));
    for step in 0..2 {
        let hold = if step == 0 { "10s" } else { "30s" };
        set(
            &mut object,
            &format!("/spec/rollout/canary/steps/{step}/hold"),
            json!(hold),
        )
        .unwrap();
    }
    object
}

#[tokio::test(flavor = "multi_thread")]
async fn another_revision_mid_run_goes_back_to_stable_first() -> anyhow::Result<()> {
    let scenario = Scenario::begin("supersede").await?;
    let first = scenario.first(&lasting(&["alpha=1ms"])).await?;
    let load = scenario.load().await?;
    scenario.apply(&lasting(&["alpha=2ms"])).await?;
    let second = md::canary(&scenario.watched.at_step(1, DECIDED_WITHIN).await?);
    load.answered_by(&second, 1).await?;
    scenario.apply(&quick(sim(&["alpha=3ms"]))).await?;
    let third = scenario
        .watched
        .until("the run of the third revision", DECIDED_WITHIN, |object| {
            !md::canary(object).is_empty() && md::canary(object) != second
        })
        .await?;
    assert_eq!(md::stable(&third), first);
    let said = third.status.clone().unwrap();
    assert_eq!(said.history.last().unwrap().result, "Superseded");
    assert!(
        said.condemned.is_empty(),
        "a superseded revision is not condemned: {said:#?}"
    );
    let decisions = md::decisions(&third);
    let at = |name: &str| decisions.iter().rposition(|decision| *decision == name);
    assert!(at("Superseded") < at("RunStarted"), "{decisions:?}");
    let promoted = scenario.watched.promoted(DECIDED_WITHIN).await?;
    let stats = load.stop().await?;
    assert_no_failures(&stats, &[]);
    let [second, third] = [&second, &promoted].map(|revision| &stats.revisions[revision]);
    assert!(
        second.last_ms < third.first_ms,
        "the second had traffic after the third: {stats:#?}"
    );
    scenario.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_spec_mid_run_does_not_switch_the_guardrails_off() -> anyhow::Result<()> {
    let scenario = Scenario::begin("broken-spec").await?;
    let stable = scenario.first(&lasting(&["alpha=1ms"])).await?;
    let load = scenario.load().await?;
    scenario
        .apply(&lasting(&["alpha=1ms", "--sim-control"]))
        .await?;
    let canary = md::canary(&scenario.watched.at_step(2, DECIDED_WITHIN).await?);
    let mut broken = lasting(&["alpha=1ms", "--sim-control"]);
    let source = json!({"name": "nowhere"});
    broken["spec"]["guardrails"][0]["check"]["prometheus"]["sourceRef"] = source;
    scenario.apply(&broken).await?;
    let refused = scenario
        .watched
        .until("Accepted=False", DECIDED_WITHIN, |object| {
            md::is_current(object) && md::condition(object, "Accepted").0 == "False"
        })
        .await?;
    let text = serde_json::to_string(&refused.status)?;
    assert!(
        text.contains("spec.guardrails[0].check.prometheus.sourceRef"),
        "{text}"
    );

    scenario.turn_bad(&canary).await?;
    let object = scenario
        .watched
        .until("the canary's end", DECIDED_WITHIN, |object| {
            object
                .status
                .as_ref()
                .is_some_and(|status| !status.condemned.is_empty() && status.run.is_none())
        })
        .await?;
    assert_eq!(md::stable(&object), stable);
    assert_no_failures(&load.stop().await?, &[&canary]);
    scenario.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn without_its_status_the_stable_revision_keeps_serving() -> anyhow::Result<()> {
    let scenario = Scenario::begin("status-lost").await?;
    let stable = scenario.first(&lasting(&["alpha=1ms"])).await?;
    let load = scenario.load().await?;
    scenario.apply(&lasting(&["alpha=2ms"])).await?;
    let running = scenario.watched.at_step(2, DECIDED_WITHIN).await?;
    let canary = md::canary(&running);
    wait::found("the status to be replaced", DECIDED_WITHIN, || async {
        // The operator may have written in between: read again.
        let mut object = scenario.watched.get().await?;
        object.status = Some(crds::ModelDeploymentStatus::default());
        let params = PostParams::default();
        scenario
            .watched
            .api
            .replace_status(md::NAME, &params, &object)
            .await?;
        Ok(Some(()))
    })
    .await?;
    let again = scenario
        .watched
        .until("a new run of the canary", DECIDED_WITHIN, |object| {
            md::canary(object) == canary && md::stable(object) == stable
        })
        .await?;
    assert_eq!(
        md::stable(&again),
        stable,
        "an unproven revision became stable"
    );
    assert_eq!(scenario.watched.promoted(DECIDED_WITHIN).await?, canary);
    assert_no_failures(&load.stop().await?, &[]);
    scenario.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn deletion_mid_run_leaves_nothing_and_fails_nobody() -> anyhow::Result<()> {
    let scenario = Scenario::begin("delete").await?;
    scenario.first(&lasting(&["alpha=1ms"])).await?;
    let plan = Plan::digits(&scenario.namespace, md::NAME).through_router();
    let load = LoadPod::start(&scenario.cluster, &scenario.namespace, &plan).await?;
    scenario.apply(&lasting(&["alpha=2ms"])).await?;
    scenario.watched.at_step(2, DECIDED_WITHIN).await?;
    scenario
        .watched
        .api
        .delete(md::NAME, &DeleteParams::default())
        .await?;
    wait::found(
        "everything of it to be gone",
        Duration::from_mins(1),
        || async {
            let left = left(&scenario).await?;
            anyhow::ensure!(left.is_empty(), "still there: {left:?}");
            Ok(Some(()))
        },
    )
    .await?;
    load.answered(100).await?;
    let stats = load.stop().await?;
    let codes: Vec<u16> = stats.unattributed_codes.keys().copied().collect();
    assert_eq!(
        codes,
        [404],
        "after the deletion there is no such address: {stats:#?}"
    );
    assert!(
        stats.revisions.values().all(|stats| stats.failed() == 0),
        "{stats:#?}"
    );
    assert_eq!(stats.unanswered, 0, "{stats:#?}");
    scenario.end().await
}

/// What there is of a model deployment in the namespace.
async fn left(scenario: &Scenario) -> anyhow::Result<Vec<String>> {
    let client = scenario.cluster.client.clone();
    let namespace = &scenario.namespace;
    let of_it = ListParams::default().labels(&format!("sluice.dev/model-deployment={}", md::NAME));
    let mut names = Vec::new();
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), namespace);
    names.extend(
        deployments
            .list(&of_it)
            .await?
            .into_iter()
            .filter_map(|o| o.metadata.name),
    );
    let services: Api<Service> = Api::namespaced(client.clone(), namespace);
    names.extend(
        services
            .list(&of_it)
            .await?
            .into_iter()
            .filter_map(|o| o.metadata.name),
    );
    let revisions: Api<ControllerRevision> = Api::namespaced(client, namespace);
    names.extend(
        revisions
            .list(&of_it)
            .await?
            .into_iter()
            .filter_map(|o| o.metadata.name),
    );
    let routes = scenario
        .cluster
        .dynamic("gateway.networking.k8s.io/v1", "HTTPRoute", namespace);
    let routes = routes.list(&ListParams::default()).await?;
    names.extend(routes.into_iter().filter_map(|o| o.metadata.name));
    let pods = scenario
        .cluster
        .pods(
            namespace,
            &format!("sluice.dev/model-deployment={}", md::NAME),
        )
        .await?;
    names.extend(pods.into_iter().filter_map(|o| o.metadata.name));
    Ok(names)
}
