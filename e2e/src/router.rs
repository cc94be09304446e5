//! What the routers have counted.

use std::collections::BTreeMap;

use crds::contract;
use k8s_openapi::api::core::v1::Pod;

use crate::{chart, cluster::Cluster};

/// Answers of one namespace by revision and status code.
pub type Counts = BTreeMap<(String, u16), u64>;

/// Answers that all routers together have counted in a namespace.
pub async fn counts(cluster: &Cluster, namespace: &str) -> anyhow::Result<Counts> {
    let selector = format!("app.kubernetes.io/name={}", contract::ROUTER_APP);
    let mut counts = Counts::new();
    let pods = cluster.pods(chart::NAMESPACE, &selector).await?;
    // What a router that goes has counted goes with it, and would be missing from a difference.
    let staying = |pod: &Pod| pod.metadata.deletion_timestamp.is_none();
    for pod in pods.into_iter().filter(staying) {
        let name = pod.metadata.name.unwrap_or_default();
        let port = contract::ROUTER_ADMIN_PORT;
        let address = format!(
            "{}/{name}:{port}{}",
            chart::NAMESPACE,
            contract::PATH_METRICS
        );
        let text = cluster.pod_get(&address).await?;
        add(&mut counts, &text, namespace);
    }
    counts.retain(|_, count| *count > 0);
    Ok(counts)
}

/// What came on top of an earlier count.
pub fn since(now: &Counts, before: &Counts) -> Counts {
    let more = now.iter().map(|(key, count)| {
        (
            key.clone(),
            count.saturating_sub(before.get(key).copied().unwrap_or(0)),
        )
    });
    more.filter(|(_, count)| *count > 0).collect()
}

fn add(counts: &mut Counts, text: &str, namespace: &str) {
    for line in text
        .lines()
        .filter(|line| line.starts_with(contract::METRIC_ROUTER_REQUESTS))
    {
        let Some((series, value)) = line.rsplit_once(' ') else {
            continue;
        };
        if label(series, contract::METRIC_LABEL_NAMESPACE) != Some(namespace) {
            continue;
        }
        let revision = label(series, contract::METRIC_LABEL_REVISION).unwrap_or_default();
        let code = label(series, "code")
            .and_then(|code| code.parse().ok())
            .unwrap_or(0);
        let value: u64 = value.parse().unwrap_or(0);
        *counts.entry((revision.to_owned(), code)).or_default() += value;
    }
}

/// The value of a label; values of ours hold no quotes.
fn label<'a>(series: &'a str, name: &str) -> Option<&'a str> {
    let labels = series.split_once('{')?.1.strip_suffix('}')?;
    let value = labels
        .split(',')
        .filter_map(|pair| pair.split_once('='))
        .find_map(|(key, value)| (key == name).then_some(value))?;
    Some(value.trim_matches('"'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_series_of_a_namespace_are_added_up() {
        let text = "\
# TYPE sluice_router_requests counter
sluice_router_requests_total{namespace=\"a\",model_deployment=\"m\",revision=\"m-1\",route=\"m\",code=\"200\"} 5
sluice_router_requests_total{namespace=\"a\",model_deployment=\"m\",revision=\"m-1\",route=\"m\",code=\"500\"} 2
sluice_router_requests_total{namespace=\"b\",model_deployment=\"m\",revision=\"m-1\",route=\"m\",code=\"200\"} 7
";
        let mut counts = Counts::new();
        add(&mut counts, text, "a");
        add(&mut counts, text, "a");
        assert_eq!(counts[&("m-1".to_owned(), 200)], 10);
        assert_eq!(counts[&("m-1".to_owned(), 500)], 4);
        assert_eq!(counts.len(), 2);
        let mut before = Counts::new();
        add(&mut before, text, "a");
        assert_eq!(since(&counts, &before)[&("m-1".to_owned(), 200)], 5);
        assert!(since(&counts, &counts).is_empty());
    }
}
