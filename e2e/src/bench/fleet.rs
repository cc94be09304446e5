//! Many model deployments on a real API server, their pods on a node that is not there: kwok says in
//! its kubelet's place that they run.

use std::{
    env, fs,
    path::PathBuf,
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use crds::ModelDeployment;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use kube::{
    Api,
    api::{DeleteParams, ListParams},
};
use serde_json::{Value, json};
use tokio::process::{Child, Command};

use crate::{
    bench::{self, Bench},
    chart, model_deployment as md, wait,
};

const NAMESPACE: &str = "bench-fleet";
const NODE: &str = "bench-kwok";
/// Taint and label that keep other pods off that node, and ours on it.
const MARK: &str = "bench.sluice.dev/fake";
/// Model deployments that are applied at one time.
const CONCURRENCY: usize = 8;
/// How long a thousand of everything may take to go.
const GONE_WITHIN: Duration = Duration::from_mins(15);
const LOOK_EVERY: Duration = Duration::from_secs(3);

/// A node that is not there, and model deployments at rest on it. [`Fleet::end`] takes them away.
#[derive(Debug)]
pub(crate) struct Fleet {
    kwok: Child,
}

impl Fleet {
    /// The node that is not there, and an empty namespace.
    pub(crate) async fn begin(bench: &Bench<'_>) -> anyhow::Result<Self> {
        let kwok = start_kwok().await?;
        bench.cluster.apply("", &node()).await?;
        // What an interrupted run left goes only now that somebody plays its kubelet.
        clear(bench).await?;
        bench.cluster.namespace(NAMESPACE).await?;
        Ok(Self { kwok })
    }

    /// Makes so many model deployments and waits until each serves.
    pub(crate) async fn fill(&mut self, bench: &Bench<'_>, objects: usize) -> anyhow::Result<()> {
        let begun = Instant::now();
        stream::iter(0..objects)
            .map(|number| async move {
                bench
                    .cluster
                    .apply(NAMESPACE, &idle(number))
                    .await
                    .map(drop)
            })
            .buffer_unordered(CONCURRENCY)
            .try_collect::<()>()
            .await?;
        bench::say(&format!(
            "{objects} model deployments applied after {:.0} s",
            begun.elapsed().as_secs_f64()
        ));
        // Pods come slowly on a small machine that runs all of Kubernetes as well.
        let limit = Duration::from_mins(2)
            + Duration::from_millis(300).saturating_mul(u32::try_from(objects)?);
        self.at_rest(bench, objects, limit).await?;
        bench::say(&format!(
            "{objects} model deployments serve after {:.0} s",
            begun.elapsed().as_secs_f64()
        ));
        Ok(())
    }

    async fn at_rest(
        &mut self,
        bench: &Bench<'_>,
        objects: usize,
        limit: Duration,
    ) -> anyhow::Result<()> {
        let api: Api<ModelDeployment> = Api::namespaced(bench.cluster.client.clone(), NAMESPACE);
        let begun = Instant::now();
        let mut last = 0;
        loop {
            if let Some(status) = self.kwok.try_wait()? {
                bail!("kwok ended: {status}; its log is {}", log_file().display());
            }
            // Whatever version is at hand.
            let all = api.list(&ListParams::default().match_any()).await?;
            let serving = all.iter().filter(|object| md::is_promoted(object)).count();
            if serving == objects {
                return Ok(());
            }
            ensure!(
                begun.elapsed() < limit,
                "{serving} of {objects} model deployments serve after {limit:?}"
            );
            if serving != last {
                bench::say(&format!("    {serving} of {objects} serve"));
                last = serving;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Takes everything away.
    pub(crate) async fn end(mut self, bench: &Bench<'_>) -> anyhow::Result<()> {
        bench::say("removing the model deployments");
        let cleared = clear(bench).await;
        let nodes: Api<Node> = Api::all(bench.cluster.client.clone());
        nodes.delete(NODE, &DeleteParams::default()).await?;
        self.kwok.kill().await.context("cannot end kwok")?;
        cleared
    }
}

/// Takes the namespace away. Objects go before it does: a namespace that ends refuses what the
/// operator still makes.
async fn clear(bench: &Bench<'_>) -> anyhow::Result<()> {
    let client = &bench.cluster.client;
    let namespaces: Api<Namespace> = Api::all(client.clone());
    if namespaces.get_opt(NAMESPACE).await?.is_none() {
        return Ok(());
    }
    let objects: Api<ModelDeployment> = Api::namespaced(client.clone(), NAMESPACE);
    // A thousand may take longer than a connection lasts: what is left goes with the next call.
    let (how, all) = (DeleteParams::background(), ListParams::default());
    let deleted = wait::found(
        "the model deployments to be deleted",
        GONE_WITHIN,
        || async { Ok(objects.delete_collection(&how, &all).await.map(Some)?) },
    );
    deleted.await?;
    let pods: Api<Pod> = Api::namespaced(client.clone(), NAMESPACE);
    let one = ListParams::default().limit(1);
    let gone = wait::found("the model deployments' pods to go", GONE_WITHIN, || async {
        let left = objects.list_metadata(&one).await?.items.len()
            + pods.list_metadata(&one).await?.items.len();
        Ok((left == 0).then_some(()))
    });
    gone.await?;
    namespaces
        .delete(NAMESPACE, &DeleteParams::default())
        .await?;
    let what = format!("namespace {NAMESPACE} to be gone");
    let gone = |namespace: Option<&Namespace>| namespace.is_none();
    wait::until(&namespaces, NAMESPACE, &what, GONE_WITHIN, gone)
        .await
        .map(drop)
}

async fn start_kwok() -> anyhow::Result<Child> {
    let script = chart::root().join("e2e/cluster/kwok");
    let built = Command::new(&script)
        .stderr(Stdio::inherit())
        .output()
        .await
        .with_context(|| format!("cannot run {}", script.display()))?;
    ensure!(built.status.success(), "{} failed", script.display());
    let folder = String::from_utf8(built.stdout)?.trim().to_owned();
    let program = format!("{folder}/kwok");
    let kubeconfig = env::var("KUBECONFIG").context("KUBECONFIG is not set")?;
    let log = fs::File::create(log_file()).context("cannot write kwok's log")?;
    Command::new(&program)
        .arg(format!("--kubeconfig={kubeconfig}"))
        .arg(format!("--config={folder}/stages.yaml"))
        .arg("--manage-all-nodes=false")
        .arg("--manage-nodes-with-annotation-selector=kwok.x-k8s.io/node=fake")
        .arg("--node-lease-duration-seconds=40")
        // Addresses that nothing on a usual machine has: nobody is to answer on them.
        .arg("--cidr=198.18.0.1/16")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("cannot run {program}"))
}

fn log_file() -> PathBuf {
    env::temp_dir().join("sluice-bench-kwok.log")
}

fn node() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {
            "name": NODE, "labels": {MARK: "true"}, "annotations": {"kwok.x-k8s.io/node": "fake"},
        },
        "spec": {"taints": [{"key": MARK, "effect": "NoSchedule"}]},
    })
}

/// One that gets no traffic, on the node that is not there.
fn idle(number: usize) -> Value {
    let mut object = md::sim(&["alpha=1ms"]);
    let spec = json!({
        "nodeSelector": {MARK: "true"},
        "tolerations": [{"key": MARK, "operator": "Exists", "effect": "NoSchedule"}],
    });
    for (pointer, value) in [
        ("/metadata/name", json!(format!("idle-{number:05}"))),
        ("/spec/replicas", json!(1)),
    ] {
        if let Some(place) = object.pointer_mut(pointer) {
            *place = value;
        }
    }
    if let Some(runtime) = object
        .pointer_mut("/spec/runtime")
        .and_then(Value::as_object_mut)
    {
        runtime.insert("template".to_owned(), json!({ "spec": spec }));
    }
    object
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_a_name_of_its_own_and_one_pod_on_the_fake_node() {
        let object: ModelDeployment = serde_json::from_value(idle(7)).unwrap();
        assert_eq!(object.metadata.name.as_deref(), Some("idle-00007"));
        let object = serde_json::to_value(object).unwrap();
        assert_eq!(object["spec"]["replicas"], 1);
        let pod = &object["spec"]["runtime"]["template"]["spec"];
        assert_eq!(pod["nodeSelector"], node()["metadata"]["labels"]);
        assert_eq!(
            pod["tolerations"][0]["key"],
            node()["spec"]["taints"][0]["key"]
        );
    }
}
