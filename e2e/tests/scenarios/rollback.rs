//! A bad revision loses its traffic, and nobody but its own users notices.

use sluice_e2e::{
    load::stats::{RevisionStats, Stats},
    load_pod::{LoadPod, Plan},
    model_deployment::{self as md, digits, fastapi, quick},
};

use crate::scenario::{DECIDED_WITHIN, SERVING_WITHIN, Scenario, assert_no_failures};

/// Longest time that users may still be sent to a canary after its first failed answer: its window,
/// a scrape, a query and a route.
const EXPOSED_MS_MAX: u64 = 20_000;
/// Bound of the guardrail on slow answers.
const SLOW_MS: u64 = 250;

/// Waits for the rollback; gives the condemned revision and what users saw.
async fn rolled_back(
    scenario: &Scenario,
    load: &LoadPod,
    stable: &str,
) -> anyhow::Result<(String, Stats)> {
    let object = scenario.watched.rolled_back(DECIDED_WITHIN).await?;
    // Requests that were in flight when the route changed are answered first.
    load.answered(300).await?;
    let since = load.stats().await?;
    load.answered(300).await?;
    let stats = load.stop().await?;
    assert_eq!(md::stable(&object), stable);
    assert_eq!(md::condition(&object, "Ready").0, "False");
    let condemned = object
        .status
        .unwrap_or_default()
        .condemned
        .last()
        .unwrap()
        .revision
        .clone();
    let total = |stats: &Stats| {
        stats
            .revisions
            .get(&condemned)
            .map_or(0, RevisionStats::total)
    };
    assert_eq!(
        total(&since),
        total(&stats),
        "{condemned} got traffic after its rollback"
    );
    Ok((condemned, stats))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_fails_is_rolled_back() -> anyhow::Result<()> {
    let scenario = Scenario::begin("rollback-errors").await?;
    scenario.serve_models().await?;
    let stable = scenario
        .first(&quick(digits(&scenario.namespace, "v1")?))
        .await?;
    let load = scenario.load().await?;
    scenario
        .apply(&quick(digits(&scenario.namespace, "v3")?))
        .await?;
    let (condemned, stats) = rolled_back(&scenario, &load, &stable).await?;
    assert_no_failures(&stats, &[&condemned]);
    let canary = &stats.revisions[&condemned];
    assert!(canary.failed() > 0, "{stats:#?}");
    let exposed = canary.exposed_after_failure_ms().unwrap();
    assert!(
        exposed < EXPOSED_MS_MAX,
        "users were exposed for {exposed} ms after the first failure"
    );
    scenario.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_is_slow_is_rolled_back() -> anyhow::Result<()> {
    let scenario = Scenario::alone("rollback-slow").await?;
    scenario.serve_models().await?;
    let stable = scenario
        .first(&quick(digits(&scenario.namespace, "v1")?))
        .await?;
    // v4 takes a third of a second of processor time for an answer: so many that one core has it.
    let plan = Plan::digits(&scenario.namespace, &scenario.watched.name).rate(40.0);
    let load = LoadPod::start(&scenario.cluster, &scenario.namespace, &plan).await?;
    let mut slow = quick(digits(&scenario.namespace, "v4")?);
    slow["spec"]["guardrails"] = md::guardrails("10s", 10);
    scenario.apply(&slow).await?;
    let (condemned, stats) = rolled_back(&scenario, &load, &stable).await?;
    assert_no_failures(&stats, &[]);
    let canary = &stats.revisions[&condemned];
    assert!(canary.slowest_ms > SLOW_MS, "{stats:#?}");
    assert_eq!(canary.failed(), 0, "it is slow, not wrong: {stats:#?}");
    scenario.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_of_ones_own_is_promoted_and_rolled_back() -> anyhow::Result<()> {
    let mut scenario = Scenario::begin("custom").await?;
    scenario.watch("houses");
    scenario
        .apply(&quick(fastapi(&scenario.cluster, "v1")?))
        .await?;
    let first = scenario.watched.promoted(SERVING_WITHIN).await?;
    let plan = Plan {
        path: "/predict".to_owned(),
        body: Some(r#"{"square_metres": 80, "rooms": 3}"#.to_owned()),
        ..Plan::digits(&scenario.namespace, "houses").rate(50.0)
    };
    let load = LoadPod::start(&scenario.cluster, &scenario.namespace, &plan).await?;
    scenario
        .apply(&quick(fastapi(&scenario.cluster, "v2")?))
        .await?;
    let second = scenario.watched.promoted(DECIDED_WITHIN).await?;
    assert_ne!(first, second);
    scenario
        .apply(&quick(fastapi(&scenario.cluster, "v3")?))
        .await?;
    let (condemned, stats) = rolled_back(&scenario, &load, &second).await?;
    assert_no_failures(&stats, &[&condemned]);
    scenario.end().await
}
