//! Installs and removes the Helm chart.

use std::{env, path::PathBuf, process::Stdio, time::Duration};

use anyhow::{Context as _, bail};
use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt as _, process::Command};

use crate::{cluster::Cluster, prometheus, wait};

/// Name of the release.
pub const RELEASE: &str = "sluice";
/// Namespace of the release.
pub const NAMESPACE: &str = "sluice-system";
/// Deployment of the operator.
pub const OPERATOR: &str = "sluice-operator";
/// Deployment of the router.
pub const ROUTER: &str = "sluice-router";

const READY_WITHIN: Duration = Duration::from_mins(2);

/// Values of an installation with our images and our Prometheus.
pub fn values(cluster: &Cluster) -> Value {
    json!({
        "image": {"registry": cluster.image_prefix(), "tag": cluster.image_tag()},
        "metricSource": {"url": prometheus::URL},
        "logLevel": "info",
    })
}

/// Installs the chart, or brings what is installed to these values, and waits for its pods.
pub async fn install(cluster: &Cluster, values: &Value) -> anyhow::Result<()> {
    let chart = root().join("charts/sluice");
    let chart = chart.to_string_lossy();
    let flags = [
        "upgrade",
        RELEASE,
        &chart,
        "--install",
        "--namespace",
        NAMESPACE,
        "--create-namespace",
        "--values",
        "-",
    ];
    helm(&flags, &serde_json::to_string(values)?).await?;
    for name in [OPERATOR, ROUTER] {
        wait::rolled_out(&cluster.client, NAMESPACE, name, READY_WITHIN).await?;
    }
    Ok(())
}

/// Removes the release; its CRDs, and so the users' objects, stay.
pub async fn uninstall() -> anyhow::Result<()> {
    let flags = [
        "uninstall",
        RELEASE,
        "--namespace",
        NAMESPACE,
        "--ignore-not-found",
        "--wait",
    ];
    helm(&flags, "").await.map(drop)
}

async fn helm(flags: &[&str], input: &str) -> anyhow::Result<String> {
    let program = env::var("HELM").unwrap_or_else(|_| "helm".to_owned());
    let mut child = Command::new(&program)
        .args(flags)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| {
            format!("cannot run {program}; set HELM, or `eval \"$(e2e/cluster/cluster env)\"`")
        })?;
    let mut stdin = child.stdin.take().context("helm has no stdin")?;
    stdin.write_all(input.as_bytes()).await?;
    drop(stdin);
    let output = child.wait_with_output().await?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{program} {} failed: {}", flags.join(" "), said.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The checkout: where the chart and the examples are.
pub fn root() -> PathBuf {
    match env::var_os("SLUICE_ROOT") {
        Some(root) => root.into(),
        None => PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/..")),
    }
}
