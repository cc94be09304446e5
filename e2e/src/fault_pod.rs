//! The fault proxy as a pod between the operator and the API server.

use std::time::Duration;

use anyhow::{Context as _, bail};
use crds::contract;
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, api::DeleteParams};
use serde_json::{Value, json};

use crate::{
    chart,
    cluster::Cluster,
    fault_proxy::{Arm, Armed, Cut, Fail, Write},
    load_pod, wait,
};

const NAME: &str = "fault-proxy";
const KUBECONFIG: &str = "fault-proxy-kubeconfig";
/// How late a kubelet may tell a pod's address.
const FOUND_WITHIN: Duration = Duration::from_secs(15);
const READY_WITHIN: Duration = Duration::from_mins(1);

/// A running fault proxy, in the namespace of the chart.
#[derive(Clone, Debug)]
pub struct FaultPod {
    cluster: Cluster,
}

impl FaultPod {
    /// Starts it, with a Service before it and a kubeconfig that names it.
    pub async fn start(cluster: &Cluster) -> anyhow::Result<Self> {
        let namespace = chart::NAMESPACE;
        cluster.namespace(namespace).await?;
        let service = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": NAME},
            "spec": {"selector": {"app": NAME}, "ports": [{"port": 80, "targetPort": 8001}]},
        });
        let config = json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": KUBECONFIG},
            "data": {"kubeconfig": kubeconfig().to_string()},
        });
        cluster.apply(namespace, &service).await?;
        cluster.apply(namespace, &config).await?;
        cluster
            .apply(
                namespace,
                &load_pod::pod(cluster, NAME, &["fault-proxy".to_owned()]),
            )
            .await?;
        let started = Self {
            cluster: cluster.clone(),
        };
        wait::found("the fault proxy to answer", READY_WITHIN, || async {
            started.armed().await.map(Some)
        })
        .await?;
        Ok(started)
    }

    /// Chart values under which the operator talks to the API server through the proxy.
    pub fn values(mut values: Value) -> Value {
        let operator = json!({
            "extraEnv": [{"name": "KUBECONFIG", "value": "/etc/fault-proxy/kubeconfig"}],
            "extraVolumes": [{"name": "fault-proxy", "configMap": {"name": KUBECONFIG}}],
            "extraVolumeMounts": [
                {"name": "fault-proxy", "mountPath": "/etc/fault-proxy", "readOnly": true},
            ],
            "leaseDuration": "3s",
        });
        if let Some(object) = values.as_object_mut() {
            object.insert("operator".to_owned(), operator);
        }
        values
    }

    /// Chart values under which the operator and the routers talk to the API server through the proxy.
    pub fn values_of_all(values: Value) -> Value {
        let mut values = Self::values(values);
        let router = json!({
            "extraEnv": [{"name": "KUBECONFIG", "value": "/etc/fault-proxy/kubeconfig"}],
            "extraVolumes": [{"name": "fault-proxy", "configMap": {"name": KUBECONFIG}}],
            "extraVolumeMounts": [
                {"name": "fault-proxy", "mountPath": "/etc/fault-proxy", "readOnly": true},
            ],
        });
        if let Some(object) = values.as_object_mut() {
            object.insert("router".to_owned(), router);
        }
        values
    }

    /// Arms a fault.
    pub async fn arm(&self, arm: &Arm) -> anyhow::Result<()> {
        self.post("arm", &serde_json::to_value(arm)?).await
    }

    /// Answers with errors.
    pub async fn fail(&self, fail: &Fail) -> anyhow::Result<()> {
        self.post("fail", &serde_json::to_value(fail)?).await
    }

    /// Puts the API server out of reach of whoever asks through the proxy, or back in reach.
    pub async fn cut(&self, cut: bool) -> anyhow::Result<()> {
        self.post("cut", &serde_json::to_value(Cut { cut })?).await
    }

    /// Drops what is held.
    pub async fn release(&self) -> anyhow::Result<()> {
        self.post("release", &Value::Null).await
    }

    /// What became of the armed fault.
    pub async fn armed(&self) -> anyhow::Result<Armed> {
        let text = self.cluster.pod_get(&address("armed")).await?;
        serde_json::from_str(&text).context("the fault proxy's answer cannot be read")
    }

    /// Every write so far.
    pub async fn writes(&self) -> anyhow::Result<Vec<Write>> {
        let text = self.cluster.pod_get(&address("writes")).await?;
        serde_json::from_str(&text).context("the fault proxy's answer cannot be read")
    }

    /// Waits until the armed fault holds a write.
    pub async fn hit(&self, limit: Duration) -> anyhow::Result<Armed> {
        wait::found("the armed write to come", limit, || async {
            let armed = self.armed().await?;
            Ok(armed.hit.then_some(armed))
        })
        .await
    }

    /// Kills the pod whose write is held, at once, and drops the write's connection.
    pub async fn kill_held(&self, armed: &Armed) -> anyhow::Result<()> {
        let ip = armed.pod_ip.as_deref().context("no pod is held")?;
        let what = format!("the operator's pod with the address {ip}");
        let name = wait::found(&what, FOUND_WITHIN, || self.operator_pod(ip)).await?;
        let api: Api<Pod> = Api::namespaced(self.cluster.client.clone(), chart::NAMESPACE);
        // Grace 0 removes the object at once and kills the process with SIGKILL.
        api.delete(&name, &DeleteParams::default().grace_period(0))
            .await?;
        self.release().await
    }

    /// The operator's pod that has an address; a kubelet may tell the address late.
    async fn operator_pod(&self, ip: &str) -> anyhow::Result<Option<String>> {
        let selector = format!("app.kubernetes.io/name={}", contract::OPERATOR_APP);
        let pods = self.cluster.pods(chart::NAMESPACE, &selector).await?;
        let address = |pod: &Pod| pod.status.as_ref().and_then(|status| status.pod_ip.clone());
        if let Some(pod) = pods.iter().find(|pod| address(pod).as_deref() == Some(ip)) {
            return Ok(pod.metadata.name.clone());
        }
        let seen: Vec<_> = pods
            .iter()
            .map(|pod| (&pod.metadata.name, address(pod)))
            .collect();
        bail!("the operator's pods are {seen:?}")
    }

    /// Removes the proxy.
    pub async fn remove(&self) -> anyhow::Result<()> {
        let api: Api<Pod> = Api::namespaced(self.cluster.client.clone(), chart::NAMESPACE);
        api.delete(NAME, &DeleteParams::default().grace_period(1))
            .await?;
        wait::until(
            &api,
            NAME,
            "the fault proxy to be gone",
            READY_WITHIN,
            |pod| pod.is_none(),
        )
        .await?;
        Ok(())
    }

    async fn post(&self, path: &str, body: &Value) -> anyhow::Result<()> {
        self.cluster.pod_post(&address(path), body).await.map(drop)
    }
}

fn address(path: &str) -> String {
    format!("{}/{NAME}:8080/{path}", chart::NAMESPACE)
}

/// A kubeconfig with the operator's own token and the proxy as its server.
fn kubeconfig() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Config", "current-context": NAME,
        "clusters": [{"name": NAME, "cluster": {
            "server": format!("http://{NAME}.{}", chart::NAMESPACE),
            // Not for this server: a client in an image without certificates wants one to start.
            "certificate-authority": "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt",
        }}],
        "contexts": [{"name": NAME, "context": {"cluster": NAME, "user": "operator", "namespace": chart::NAMESPACE}}],
        "users": [{"name": "operator", "user": {
            "tokenFile": "/var/run/secrets/kubernetes.io/serviceaccount/token",
        }}],
    })
}
