//! A Prometheus for the demo and the tests.

use std::{fmt::Write as _, time::Duration};

use anyhow::Context as _;
use serde_json::{Value, json};

use crate::{cluster::Cluster, wait};

/// Its namespace.
pub const NAMESPACE: &str = "sluice-monitoring";
/// Its address in the cluster.
pub const URL: &str = "http://prometheus.sluice-monitoring:9090";

const NAME: &str = "prometheus";
const MANIFEST: &str = include_str!("../manifests/prometheus.yaml");
const READY_WITHIN: Duration = Duration::from_secs(90);

/// Installs it and waits until it is ready.
pub async fn install(cluster: &Cluster) -> anyhow::Result<()> {
    cluster.namespace(NAMESPACE).await?;
    let manifest = MANIFEST
        .replace(
            "image: IMAGE",
            &format!("image: {}", cluster.image("sluice-prometheus")),
        )
        .replace(
            "image: E2E",
            &format!("image: {}", cluster.image("sluice-e2e")),
        );
    cluster.apply_yaml(NAMESPACE, &manifest).await?;
    wait::rolled_out(&cluster.client, NAMESPACE, NAME, READY_WITHIN).await
}

/// How many pods it is to have: none is an outage.
pub async fn scale(cluster: &Cluster, replicas: u32) -> anyhow::Result<()> {
    let api: kube::Api<k8s_openapi::api::apps::v1::Deployment> =
        kube::Api::namespaced(cluster.client.clone(), NAMESPACE);
    let patch = kube::api::Patch::Merge(json!({"spec": {"replicas": replicas}}));
    api.patch(NAME, &kube::api::PatchParams::default(), &patch)
        .await?;
    wait::rolled_out(&cluster.client, NAMESPACE, NAME, READY_WITHIN).await
}

/// The value of a query, if it gives exactly one series.
pub async fn value(cluster: &Cluster, query: &str) -> anyhow::Result<Option<f64>> {
    let pods = cluster.pods(NAMESPACE, "app=prometheus").await?;
    let pod = pods.first().and_then(|pod| pod.metadata.name.as_deref());
    let pod = pod.context("Prometheus has no pod")?;
    let query = percent_encoded(query);
    let address = format!("{NAMESPACE}/{pod}:9090/api/v1/query?query={query}");
    let answer = cluster.pod_get(&address).await?;
    let answer: Value = serde_json::from_str(&answer)?;
    let result = answer.pointer("/data/result").and_then(Value::as_array);
    Ok(match result.map(Vec::as_slice) {
        Some([one]) => one
            .pointer("/value/1")
            .and_then(Value::as_str)
            .and_then(|text| text.parse().ok()),
        _ => None,
    })
}

fn percent_encoded(text: &str) -> String {
    text.bytes().fold(String::new(), |mut encoded, byte| {
        // Writing to a String cannot fail.
        write!(encoded, "%{byte:02X}").unwrap_or_default();
        encoded
    })
}
