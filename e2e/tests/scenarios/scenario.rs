//! What every test begins and ends with.

use std::{
    sync::{Arc, LazyLock, Mutex},
    time::Duration,
};

use crds::ModelDeployment;
use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, api::DeleteParams};
use serde_json::{Value, json};
use sluice_e2e::{
    chart,
    cluster::Cluster,
    load::stats::Stats,
    load_pod::{LoadPod, Plan},
    model_deployment::{self as md, Watched},
    models, prometheus, wait,
};
use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};

/// How long pods may take to come and serve.
pub(crate) const SERVING_WITHIN: Duration = Duration::from_secs(90);
/// How long a rollout with quick steps may take.
pub(crate) const DECIDED_WITHIN: Duration = Duration::from_mins(2);
/// How long nothing must happen before nothing counts as happening: several windows and intervals.
pub(crate) const STILL_FOR: Duration = Duration::from_secs(12);

/// There is one installation: tests that only use it run side by side, one that changes it or needs
/// the machine for itself runs alone.
static TURN: LazyLock<Arc<RwLock<()>>> = LazyLock::new(Arc::default);
/// The values of the installation that this process made.
static INSTALLED: Mutex<Option<Value>> = Mutex::new(None);

/// One test, in a namespace of its own.
pub(crate) struct Scenario {
    pub(crate) cluster: Cluster,
    pub(crate) namespace: String,
    pub(crate) watched: Watched,
    _turn: Turn,
}

/// A test's share of the installation.
#[expect(dead_code, reason = "held, not read")]
enum Turn {
    Shared(OwnedRwLockReadGuard<()>),
    Alone(OwnedRwLockWriteGuard<()>),
}

impl Scenario {
    /// With the chart as it is installed by default, beside other tests.
    pub(crate) async fn begin(name: &str) -> anyhow::Result<Self> {
        let cluster = Cluster::connect().await?;
        let turn = loop {
            let turn = Arc::clone(&TURN).read_owned().await;
            if is_installed(&chart::values(&cluster)) {
                break turn;
            }
            drop(turn);
            let alone = Arc::clone(&TURN).write_owned().await;
            install(&cluster, &chart::values(&cluster)).await?;
            drop(alone);
        };
        Self::new(cluster, name, Turn::Shared(turn)).await
    }

    /// The same, with no other test beside it: it may change what is installed.
    pub(crate) async fn alone(name: &str) -> anyhow::Result<Self> {
        let turn = Arc::clone(&TURN).write_owned().await;
        let cluster = Cluster::connect().await?;
        install(&cluster, &chart::values(&cluster)).await?;
        Self::new(cluster, name, Turn::Alone(turn)).await
    }

    async fn new(cluster: Cluster, name: &str, turn: Turn) -> anyhow::Result<Self> {
        let namespace = format!("e2e-{name}");
        let watched = Watched::new(&cluster, &namespace, md::NAME);
        cluster.fresh_namespace(&namespace).await?;
        Ok(Self {
            cluster,
            namespace,
            watched,
            _turn: turn,
        })
    }

    /// Brings the installation to these values; only for tests that run alone.
    pub(crate) async fn install(&self, values: &Value) -> anyhow::Result<()> {
        install(&self.cluster, values).await
    }

    /// The object of another name.
    pub(crate) fn watch(&mut self, name: &str) {
        self.watched = Watched::new(&self.cluster, &self.namespace, name);
    }

    pub(crate) async fn serve_models(&self) -> anyhow::Result<()> {
        models::serve(&self.cluster, &self.namespace).await
    }

    pub(crate) async fn apply(&self, object: &Value) -> anyhow::Result<()> {
        self.cluster.apply(&self.namespace, object).await.map(drop)
    }

    /// A first deployment that serves; gives its revision.
    pub(crate) async fn first(&self, object: &Value) -> anyhow::Result<String> {
        self.apply(object).await?;
        self.watched.promoted(SERVING_WITHIN).await
    }

    /// Steady load on the object.
    pub(crate) async fn load(&self) -> anyhow::Result<LoadPod> {
        let plan = Plan::digits(&self.namespace, &self.watched.name);
        LoadPod::start(&self.cluster, &self.namespace, &plan).await
    }

    /// The condition holds, and goes on holding.
    pub(crate) async fn stays(
        &self,
        what: &str,
        condition: impl Fn(&ModelDeployment) -> bool + Sync,
    ) -> anyhow::Result<()> {
        let broken = |object: Option<&ModelDeployment>| !object.is_some_and(&condition);
        let watched = &self.watched;
        match wait::until(&watched.api, &watched.name, what, STILL_FOR, broken).await {
            Err(_) => Ok(()),
            Ok(object) => {
                let status = object.and_then(|object| object.status);
                let status = serde_json::to_string_pretty(&status)?;
                anyhow::bail!("{what} did not last; the status became {status}")
            }
        }
    }

    /// Waits until the object waits at a step for this reason.
    pub(crate) async fn waits_for(
        &self,
        step: &str,
        reason: &str,
    ) -> anyhow::Result<ModelDeployment> {
        let what = format!("reason {reason} at step {step}");
        let waits = |object: &ModelDeployment| is_waiting(object, step, reason);
        self.watched.until(&what, DECIDED_WITHIN, waits).await
    }

    /// Makes every pod of a sim revision fail from here on; it must run with `--sim-control`.
    pub(crate) async fn turn_bad(&self, revision: &str) -> anyhow::Result<()> {
        let selector = format!("sluice.dev/revision={revision}");
        for pod in self.cluster.pods(&self.namespace, &selector).await? {
            let name = pod.metadata.name.unwrap_or_default();
            let address = format!("{}/{name}:8080/sim", self.namespace);
            self.cluster
                .pod_post(&address, &json!({"errorRate": 1.0}))
                .await?;
        }
        Ok(())
    }

    /// Takes the namespace away.
    pub(crate) async fn end(self) -> anyhow::Result<()> {
        let api: Api<Namespace> = Api::all(self.cluster.client.clone());
        api.delete(&self.namespace, &DeleteParams::default())
            .await?;
        Ok(())
    }
}

fn is_installed(values: &Value) -> bool {
    INSTALLED.lock().unwrap().as_ref() == Some(values)
}

/// Brings the installation to these values, unless it has them.
async fn install(cluster: &Cluster, values: &Value) -> anyhow::Result<()> {
    if is_installed(values) {
        return Ok(());
    }
    prometheus::install(cluster).await?;
    *INSTALLED.lock().unwrap() = None;
    chart::install(cluster, values).await?;
    *INSTALLED.lock().unwrap() = Some(values.clone());
    Ok(())
}

/// Whether the object waits at a step for this reason.
pub(crate) fn is_waiting(object: &ModelDeployment, step: &str, reason: &str) -> bool {
    let at = object
        .status
        .as_ref()
        .and_then(|status| status.step.as_deref());
    at == Some(step) && md::condition(object, "Ready").1 == reason
}

/// Nobody got anything but an answer with success, except from the revisions that are named.
pub(crate) fn assert_no_failures(stats: &Stats, except: &[&str]) {
    let fine = stats
        .revisions
        .iter()
        .all(|(revision, stats)| stats.failed() == 0 || except.contains(&revision.as_str()));
    assert!(
        fine && stats.failed_without_revision == 0
            && stats.unattributed == 0
            && stats.unanswered == 0,
        "requests failed: {stats:#?}"
    );
    assert_eq!(
        stats.skipped, 0,
        "the load driver could not keep up: {stats:#?}"
    );
}

/// The names of the decisions of the last run, oldest first.
pub(crate) fn last_run(object: &ModelDeployment) -> Vec<String> {
    let decisions = object.status.clone().unwrap_or_default().decisions;
    let run = decisions.iter().rev().find_map(|record| record.run.clone());
    let of_run = decisions.into_iter().filter(|record| record.run == run);
    of_run
        .map(|record| format!("{} {}", record.decision, record.weight.0))
        .collect()
}
