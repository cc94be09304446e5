//! What the trials of a rollback share: pods that are made to fail, and the log of the load.

use anyhow::{Context as _, ensure};
use crds::contract;
use serde_json::json;

use crate::{cluster::Cluster, load::log::Entry};

/// Makes a revision's pods fail for a share of their requests.
pub(super) async fn set_error_rate(
    cluster: &Cluster,
    namespace: &str,
    revision: &str,
    rate: f64,
) -> anyhow::Result<()> {
    let selector = format!("{}={revision}", contract::LABEL_REVISION);
    let pods = cluster.pods(namespace, &selector).await?;
    let body = json!({ "errorRate": rate });
    let living = pods
        .into_iter()
        .filter(|pod| pod.metadata.deletion_timestamp.is_none());
    let set = living.map(|pod| {
        let name = pod.metadata.name.unwrap_or_default();
        let address = format!("{namespace}/{name}:{}/sim", contract::POD_PORT);
        let body = &body;
        async move { cluster.pod_post(&address, body).await }
    });
    let set = futures::future::try_join_all(set).await?;
    ensure!(
        !set.is_empty() || rate == 0.0,
        "{revision} has no pods that could fail"
    );
    Ok(())
}

/// The answers of the load in a namespace, from a number on.
pub(super) async fn entries(
    cluster: &Cluster,
    namespace: &str,
    first: u64,
) -> anyhow::Result<Vec<Entry>> {
    let mut entries = Vec::new();
    let mut since = first;
    loop {
        let address = format!("{namespace}/load:{}/log?since={since}", contract::POD_PORT);
        let page = cluster.pod_get(&address).await?;
        if page.is_empty() {
            return Ok(entries);
        }
        for line in page.lines() {
            entries.push(serde_json::from_str(line).context("a line of the load log")?);
            since += 1;
        }
    }
}
