//! The load driver as a pod in the cluster, and what it has seen.

use std::time::Duration;

use anyhow::Context as _;
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, api::DeleteParams};
use serde_json::{Value, json};

use crate::{
    chart,
    cluster::Cluster,
    load::{
        log::Entry,
        stats::{RevisionStats, Stats},
    },
    wait,
};

const NAME: &str = "load";
const READY_WITHIN: Duration = Duration::from_mins(1);

/// What is sent.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Where to.
    pub target: String,
    /// Path of the requests.
    pub path: String,
    /// A JSON body; none: images of digits, whose answers are checked.
    pub body: Option<String>,
    /// Requests in a second.
    pub rate: f64,
    /// How many users ask.
    pub users: u32,
    /// Value of the header Host; none: the target's.
    pub host: Option<String>,
}

impl Plan {
    /// Images for the model deployment `name` in `namespace`.
    pub fn digits(namespace: &str, name: &str) -> Self {
        Self {
            target: format!("http://{name}.{namespace}"),
            path: format!("/v2/models/{name}/infer"),
            body: None,
            rate: 100.0,
            users: 1000,
            host: None,
        }
    }

    /// The same, by the router's own address: it stays when the model deployment goes.
    #[must_use]
    pub fn through_router(mut self) -> Self {
        let host = self.target.trim_start_matches("http://").to_owned();
        self.host = Some(host);
        self.target = format!("http://{}.{}", chart::ROUTER, chart::NAMESPACE);
        self
    }

    /// The same, to one router only, by its pod's address.
    #[must_use]
    pub fn through_router_pod(mut self, address: &str) -> Self {
        self = self.through_router();
        self.target = format!("http://{address}:8080");
        self
    }

    /// The same, so many in a second.
    #[must_use]
    pub fn rate(mut self, rate: f64) -> Self {
        self.rate = rate;
        self
    }
}

/// A running load driver.
#[derive(Clone, Debug)]
pub struct LoadPod {
    cluster: Cluster,
    namespace: String,
}

impl LoadPod {
    /// Starts to send, and returns when the first answers are there.
    pub async fn start(cluster: &Cluster, namespace: &str, plan: &Plan) -> anyhow::Result<Self> {
        let api: Api<Pod> = Api::namespaced(cluster.client.clone(), namespace);
        if api.get_opt(NAME).await?.is_some() {
            api.delete(NAME, &DeleteParams::default().grace_period(1))
                .await?;
            wait::until(
                &api,
                NAME,
                "the last load pod to be gone",
                READY_WITHIN,
                |pod| pod.is_none(),
            )
            .await?;
        }
        cluster.apply(namespace, &manifest(cluster, plan)).await?;
        wait::until(
            &api,
            NAME,
            "the load pod to be ready",
            READY_WITHIN,
            |pod| pod.is_some_and(is_ready),
        )
        .await?;
        let load = Self {
            cluster: cluster.clone(),
            namespace: namespace.to_owned(),
        };
        load.answered(1).await?;
        Ok(load)
    }

    /// Waits for so many more answers.
    pub async fn answered(&self, more: u64) -> anyhow::Result<()> {
        let begin = self.stats().await.map_or(0, |stats| stats.ended);
        let enough = || async {
            let stats = self.stats().await?;
            Ok((stats.ended >= begin + more).then_some(()))
        };
        wait::found(
            &format!("{more} more requests of the load driver"),
            READY_WITHIN,
            enough,
        )
        .await
    }

    /// Waits until a revision has answered so many requests.
    pub async fn answered_by(&self, revision: &str, count: u64) -> anyhow::Result<()> {
        let enough = || async {
            let stats = self.stats().await?;
            let answers = stats.revisions.get(revision);
            let total = answers.map_or(0, RevisionStats::total);
            Ok((total >= count).then_some(()))
        };
        let what = format!("{count} answers of revision {revision}");
        wait::found(&what, READY_WITHIN, enough).await
    }

    /// What the answers come to.
    pub async fn stats(&self) -> anyhow::Result<Stats> {
        let text = self.cluster.pod_get(&self.address("stats")).await?;
        serde_json::from_str(&text).context("the load driver's counts cannot be read")
    }

    /// Sends nothing more, waits for what is in flight, and gives the final counts.
    pub async fn stop(&self) -> anyhow::Result<Stats> {
        let text = self
            .cluster
            .pod_post(&self.address("stop"), &Value::Null)
            .await?;
        serde_json::from_str(&text).context("the load driver's counts cannot be read")
    }

    /// Sends so many in a second from here on.
    pub async fn set_rate(&self, rate: f64) -> anyhow::Result<()> {
        let body = json!({ "rate": rate });
        self.cluster
            .pod_post(&self.address("rate"), &body)
            .await
            .map(drop)
    }

    fn address(&self, path: &str) -> String {
        format!("{}/{NAME}:8080/{path}", self.namespace)
    }

    /// Every answer so far, page by page.
    pub async fn log(&self) -> anyhow::Result<Vec<Entry>> {
        let mut entries: Vec<Entry> = Vec::new();
        loop {
            let address = self.address(&format!("log?since={}", entries.len()));
            let page = self.cluster.pod_get(&address).await?;
            if page.is_empty() {
                return Ok(entries);
            }
            for line in page.lines() {
                entries.push(serde_json::from_str(line).context("a line of the load log")?);
            }
        }
    }
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_ref());
    conditions.is_some_and(|all| {
        all.iter()
            .any(|one| one.type_ == "Ready" && one.status == "True")
    })
}

fn manifest(cluster: &Cluster, plan: &Plan) -> Value {
    let mut args = vec![
        "load".to_owned(),
        format!("--target={}", plan.target),
        format!("--path={}", plan.path),
        format!("--rate={}", plan.rate),
        format!("--users={}", plan.users),
    ];
    args.extend(plan.host.as_ref().map(|host| format!("--host={host}")));
    args.extend(plan.body.as_ref().map(|body| format!("--body={body}")));
    pod(cluster, NAME, &args)
}

/// A pod of ours that listens on 8080 and says on `/healthz` that it is ready.
pub(crate) fn pod(cluster: &Cluster, name: &str, args: &[String]) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {
            "terminationGracePeriodSeconds": 15,
            "restartPolicy": "Never",
            "securityContext": {
                "runAsNonRoot": true, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [{
                "name": name, "image": cluster.image("sluice-e2e"), "imagePullPolicy": "IfNotPresent",
                "args": args,
                "ports": [{"containerPort": 8080}],
                "readinessProbe": {"httpGet": {"path": "/healthz", "port": 8080}, "periodSeconds": 1},
                "resources": {"requests": {"cpu": "20m", "memory": "32Mi"}},
                "securityContext": {
                    "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
                    "capabilities": {"drop": ["ALL"]},
                },
            }],
        },
    })
}
