//! What the operator and its node say of the operator: its metrics, its memory, its processor time.

use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use crds::contract;
use k8s_openapi::api::core::v1::Pod;
use serde_json::Value;

use crate::{bench::Bench, chart};

/// Sums of the operator's counters since it started.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Counters {
    /// Looks at an object, whatever came of them.
    pub(crate) reconciles: f64,
    /// Requests that change something, but for the lease.
    pub(crate) writes: f64,
}

impl Counters {
    /// Reads them from metrics in the text form.
    fn read(text: &str) -> Self {
        let sum = |name: &str, counts: fn(&str) -> bool| {
            text.lines()
                .filter(|line| line.starts_with(name) && counts(line))
                .filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok())
                .sum()
        };
        Self {
            reconciles: sum("sluice_operator_reconciles_total{", |_| true),
            writes: sum("sluice_operator_api_writes_total{", |line| {
                !line.contains("kind=\"leases\"")
            }),
        }
    }
}

/// What the kubelet measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Usage {
    /// Memory that is the process's own, in bytes.
    pub(crate) rss: f64,
    /// Processor time since the start, in seconds.
    pub(crate) cpu_seconds: f64,
    /// When it was measured, in seconds since the epoch.
    pub(crate) at: f64,
}

/// The one operator pod that runs.
pub(crate) async fn pod(bench: &Bench<'_>) -> anyhow::Result<Pod> {
    let selector = format!("app.kubernetes.io/name={}", contract::OPERATOR_APP);
    let pods = bench.cluster.pods(chart::NAMESPACE, &selector).await?;
    let mut living = pods
        .into_iter()
        .filter(|pod| pod.metadata.deletion_timestamp.is_none());
    match (living.next(), living.next()) {
        (Some(pod), None) => Ok(pod),
        (None, _) => bail!("the operator has no pod"),
        (Some(_), Some(_)) => bail!("the operator has several pods"),
    }
}

/// The counters of an operator's pod.
pub(crate) async fn counters(bench: &Bench<'_>, pod: &str) -> anyhow::Result<Counters> {
    let (port, path) = (contract::OPERATOR_ADMIN_PORT, contract::PATH_METRICS);
    let address = format!("{}/{pod}:{port}{path}", chart::NAMESPACE);
    let text = bench.cluster.pod_get(&address).await?;
    ensure!(
        text.contains("sluice_operator_leader"),
        "{address} does not answer with the operator's metrics"
    );
    Ok(Counters::read(&text))
}

/// What the kubelet of its node measures of a pod.
pub(crate) async fn usage(bench: &Bench<'_>, pod: &Pod) -> anyhow::Result<Usage> {
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
    let node = node.context("the operator's pod has no node")?;
    let uri = format!("/api/v1/nodes/{node}/proxy/stats/summary");
    let request = http::Request::get(&uri).body(Vec::new())?;
    let summary: Value = Box::pin(bench.cluster.client.request(request))
        .await
        .with_context(|| format!("cannot read {uri}"))?;
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    of_pod(&summary, name).with_context(|| format!("{uri} tells no figures of {name}"))
}

fn of_pod(summary: &Value, name: &str) -> Option<Usage> {
    let pods = summary.get("pods")?.as_array()?;
    let pod = pods.iter().find(|pod| pod["podRef"]["name"] == name)?;
    let container = pod.get("containers")?.get(0)?;
    let number = |pointer: &str| container.pointer(pointer).and_then(Value::as_f64);
    let at: jiff::Timestamp = container.pointer("/cpu/time")?.as_str()?.parse().ok()?;
    let at = Duration::try_from(at.duration_since(jiff::Timestamp::UNIX_EPOCH)).ok()?;
    Some(Usage {
        rss: number("/memory/rssBytes").filter(|rss| *rss > 0.0)?,
        cpu_seconds: number("/cpu/usageCoreNanoSeconds")? / 1e9,
        at: at.as_secs_f64(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn leases_are_no_writes() {
        let text = "\
# TYPE sluice_operator_reconciles counter
sluice_operator_reconciles_total{result=\"ok\"} 7
sluice_operator_reconciles_total{result=\"conflict\"} 2
sluice_operator_api_writes_total{kind=\"leases\",verb=\"update\"} 50
sluice_operator_api_writes_total{kind=\"modeldeployments/status\",verb=\"patch\"} 3
";
        let expected = Counters {
            reconciles: 9.0,
            writes: 3.0,
        };
        assert_eq!(Counters::read(text), expected);
    }

    #[test]
    fn the_pods_own_figures_are_found() {
        let container = json!({
            "cpu": {"time": "2026-01-01T00:00:10Z", "usageCoreNanoSeconds": 2_500_000_000_u64},
            "memory": {"rssBytes": 20_000_000, "workingSetBytes": 30_000_000},
        });
        let summary = json!({"pods": [
            {"podRef": {"name": "other"}},
            {"podRef": {"name": "operator"}, "containers": [container]},
        ]});
        let usage = of_pod(&summary, "operator").unwrap();
        assert!((usage.cpu_seconds - 2.5).abs() < 1e-9);
        assert!((usage.rss - 2e7).abs() < 1.0);
        assert_eq!(of_pod(&summary, "other"), None);
        assert_eq!(of_pod(&summary, "nobody"), None);
    }
}
