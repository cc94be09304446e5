//! What the operator and its node say of the operator: its metrics, its memory, its processor time.

use anyhow::{Context as _, bail, ensure};
use crds::contract;
use k8s_openapi::api::core::v1::Pod;

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
    let uri = format!("/api/v1/nodes/{node}/proxy/metrics/cadvisor");
    let request = http::Request::get(&uri).body(Vec::new())?;
    let text = Box::pin(bench.cluster.client.request_text(request))
        .await
        .with_context(|| format!("cannot read {uri}"))?;
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    of_pod(&text, name).with_context(|| format!("{uri} tells no figures of {name}"))
}

/// The figures of a pod as a whole: nodes differ in how they name its containers.
fn of_pod(text: &str, name: &str) -> Option<Usage> {
    let of_it = format!("pod=\"{name}\"");
    let sample = |metric: &str| {
        let line = text.lines().find(|line| {
            line.starts_with(metric) && line.contains("{container=\"\",") && line.contains(&of_it)
        });
        let mut numbers = line?.rsplit_once('}')?.1.split_whitespace();
        let value: f64 = numbers.next()?.parse().ok()?;
        let milliseconds: f64 = numbers.next()?.parse().ok()?;
        Some((value, milliseconds / 1000.0))
    };
    let (rss, _) = sample("container_memory_rss{")?;
    let (cpu_seconds, at) = sample("container_cpu_usage_seconds_total{")?;
    Some(Usage {
        rss: Some(rss).filter(|rss| *rss > 0.0)?,
        cpu_seconds,
        at,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let text = "\
container_cpu_usage_seconds_total{container=\"\",cpu=\"total\",pod=\"operator-1\"} 2.5 1700000010500
container_cpu_usage_seconds_total{container=\"operator\",cpu=\"total\",pod=\"operator-1\"} 2.4 1700000010400
container_memory_rss{container=\"\",pod=\"other\"} 7 1700000010500
container_memory_rss{container=\"\",pod=\"operator-1\"} 2e+07 1700000010500
";
        let expected = Usage {
            rss: 2e7,
            cpu_seconds: 2.5,
            at: 1_700_000_010.5,
        };
        assert_eq!(of_pod(text, "operator-1"), Some(expected));
        assert_eq!(of_pod(text, "other"), None);
        assert_eq!(of_pod(text, "operator"), None);
    }
}
