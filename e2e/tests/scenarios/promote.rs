//! A good revision gets all traffic, step by step.

use std::collections::BTreeMap;

use sluice_e2e::{
    load::log::Entry,
    model_deployment::{digits, quick, sim},
};

use crate::scenario::{DECIDED_WITHIN, Scenario, assert_no_failures, last_run};

#[tokio::test(flavor = "multi_thread")]
async fn a_good_revision_is_promoted_step_by_step() -> anyhow::Result<()> {
    let scenario = Scenario::begin("promote").await?;
    let first = scenario.first(&quick(sim(&["alpha=1ms"]))).await?;
    let load = scenario.load().await?;
    scenario.apply(&quick(sim(&["alpha=2ms"]))).await?;
    let second = scenario.watched.promoted(DECIDED_WITHIN).await?;
    load.answered(100).await?;
    let stats = load.stop().await?;
    assert_no_failures(&stats, &[]);
    let steps = [
        "RunStarted 0%",
        "StepStarted 5%",
        "StepStarted 25%",
        "StepStarted 100%",
        "Promoted 100%",
    ];
    assert_eq!(last_run(&scenario.watched.get().await?), steps);
    assert!(
        stats.revisions[&first].total() > 0 && stats.revisions[&second].total() > 0,
        "{stats:#?}"
    );
    assert_eq!(scenario.cluster.restarts(&scenario.namespace).await?, 0);
    assert_eq!(
        moved_back(&load.log().await?, &first, &second),
        Vec::<u32>::new()
    );
    scenario.end().await
}

/// Users whom the stable revision answered well after the canary had: routers learn of a weight one
/// after the other, so requests within a second of each other prove nothing.
fn moved_back(log: &[Entry], stable: &str, canary: &str) -> Vec<u32> {
    let mut on_canary: BTreeMap<u32, u64> = BTreeMap::new();
    for entry in log
        .iter()
        .filter(|entry| entry.revision.as_deref() == Some(canary))
    {
        let first = on_canary.entry(entry.user).or_insert(entry.t);
        *first = entry.t.min(*first);
    }
    log.iter()
        .filter(|entry| entry.revision.as_deref() == Some(stable))
        .filter(|entry| {
            on_canary
                .get(&entry.user)
                .is_some_and(|since| entry.t > since + 1000)
        })
        .map(|entry| entry.user)
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_better_onnx_model_is_promoted() -> anyhow::Result<()> {
    let scenario = Scenario::begin("promote-onnx").await?;
    scenario.serve_models().await?;
    let first = scenario
        .first(&quick(digits(&scenario.namespace, "v1")?))
        .await?;
    let load = scenario.load().await?;
    scenario
        .apply(&quick(digits(&scenario.namespace, "v2")?))
        .await?;
    let second = scenario.watched.promoted(DECIDED_WITHIN).await?;
    load.answered(1000).await?;
    let stats = load.stop().await?;
    assert_no_failures(&stats, &[]);
    for revision in [&first, &second] {
        let right = stats.revisions[revision].accuracy_percent().unwrap_or(0.0);
        assert!(right > 85.0, "{revision} is right in {right} %: {stats:#?}");
    }
    scenario.end().await
}
