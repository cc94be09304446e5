//! The demo: a good model is rolled out and promoted, a bad one is rolled back, under steady load.
//! Ends with one line of JSON that says what happened, and with an error unless all of it did.

use std::{
    io::{self, Write as _},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use clap::Args;
use crds::ModelDeployment;
use kube::api::DeleteParams;
use serde::Serialize;
use serde_json::json;

use crate::{
    chart,
    cluster::Cluster,
    demo::{lanes::Lanes, report::Report},
    load_pod::{LoadPod, Plan},
    model_deployment::{self as md, Watched},
    models, prometheus, router,
    timeline::{self, Printer},
};

mod lanes;
mod report;

/// Namespace of the demo.
const NAMESPACE: &str = "sluice-demo";
/// Requests in a second.
const RATE: f64 = 200.0;
const SERVING_WITHIN: Duration = Duration::from_mins(2);
const DECIDED_WITHIN: Duration = Duration::from_mins(10);
/// Users who ask. Each counts once for the routers' guardrails.
const USERS: u32 = 20_000;
/// Guardrails on Prometheus look back this far in the demo; a minute by default.
const WINDOW: &str = "30s";
/// As many as by default. With fewer, one bad answer in twenty would do.
const MIN_SAMPLES: u32 = 50;

/// Rolls out a good model and a bad one on the cluster of KUBECONFIG.
#[derive(Clone, Copy, Debug, Args)]
pub struct Demo {
    /// Take everything away again.
    #[arg(long)]
    pub down: bool,
}

/// Runs the demo, or takes it away.
pub async fn run(args: Demo) -> anyhow::Result<()> {
    let cluster = Cluster::connect().await?;
    if args.down {
        return down(&cluster).await;
    }
    install(&cluster).await?;
    let outcome = roll_out(&cluster).await?;
    next_commands()?;
    say(&serde_json::to_string(&outcome)?)?;
    outcome.check()
}

/// What happened.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Outcome {
    pub(crate) promoted: String,
    pub(crate) rolled_back: String,
    pub(crate) requests: u64,
    pub(crate) failed_on_stable: u64,
    pub(crate) failed_on_canary: u64,
    pub(crate) unattributed: u64,
    pub(crate) rollback_seconds: f64,
    pub(crate) pod_restarts: i32,
}

impl Outcome {
    /// Whether all of it happened.
    fn check(&self) -> anyhow::Result<()> {
        ensure!(self.promoted == "v2", "v2 was not promoted");
        ensure!(self.rolled_back == "v3", "v3 was not rolled back");
        ensure!(
            self.failed_on_stable == 0,
            "{} requests failed on the stable revision",
            self.failed_on_stable
        );
        ensure!(
            self.unattributed == 0,
            "{} answers name no revision, or there was none",
            self.unattributed
        );
        ensure!(
            self.failed_on_canary > 0,
            "the broken canary failed nobody: it had no traffic"
        );
        ensure!(
            self.pod_restarts == 0,
            "pods were restarted {} times",
            self.pod_restarts
        );
        Ok(())
    }
}

async fn install(cluster: &Cluster) -> anyhow::Result<()> {
    step("installing Prometheus", prometheus::install(cluster)).await?;
    let values = chart::values(cluster);
    step(
        "installing Sluice with helm",
        chart::install(cluster, &values),
    )
    .await?;
    cluster.namespace(NAMESPACE).await?;
    step("serving the models", models::serve(cluster, NAMESPACE)).await
}

async fn roll_out(cluster: &Cluster) -> anyhow::Result<Outcome> {
    let watched = Watched::new(cluster, NAMESPACE, md::NAME);
    start_over(&watched).await?;
    apply(cluster, "v1").await?;
    let v1 = step("v1: the first deployment", watched.promoted(SERVING_WITHIN)).await?;
    let before = router::counts(cluster, NAMESPACE).await?;
    let plan = Plan {
        users: USERS,
        ..Plan::digits(NAMESPACE, md::NAME).rate(RATE)
    };
    let what = format!(
        "sending {RATE} requests a second of {USERS} users to {}",
        plan.target
    );
    let load = step(&what, LoadPod::start(cluster, NAMESPACE, &plan)).await?;

    say("\nv2 is better: it should be promoted.")?;
    apply(cluster, "v2").await?;
    let v2 = followed(&watched, watched.promoted(DECIDED_WITHIN)).await?;
    ensure!(v2 != v1, "v2 has the revision of v1");

    say("\nv3 fails for a quarter of the images: the routers should take it back by themselves.")?;
    apply(cluster, "v3").await?;
    let rolled_back = followed(&watched, watched.rolled_back(DECIDED_WITHIN)).await?;
    let v3 = condemned(&rolled_back).context("no revision is condemned after the rollback")?;
    ensure!(
        md::stable(&rolled_back) == v2,
        "after the rollback {} is stable",
        md::stable(&rolled_back)
    );
    load.answered(400).await?;
    let first = load.stats().await?;

    say("\nv3 once more, now watched through Prometheus: the same rollback in the slower lane.")?;
    apply_watched_by_prometheus(cluster, "v3").await?;
    followed(&watched, watched.rolled_back(DECIDED_WITHIN)).await?;
    load.answered(400).await?;

    let stats = load.stop().await?;
    let counted = router::since(&router::counts(cluster, NAMESPACE).await?, &before);
    let names = [
        ("v1", v1.as_str()),
        ("v2", v2.as_str()),
        ("v3", v3.as_str()),
    ];
    let report = Report {
        names: &names,
        stats: &stats,
        counted: &counted,
    };
    say(&format!("\n{}", report.table()))?;
    report.compare()?;
    let lanes = Lanes::of(&load.log().await?, &v3, &first);
    say(&lanes.text())?;
    let v3 = stats.revisions.get(&v3).cloned().unwrap_or_default();
    Ok(Outcome {
        promoted: "v2".to_owned(),
        rolled_back: "v3".to_owned(),
        requests: stats.ended,
        failed_on_canary: v3.failed(),
        failed_on_stable: stats.failed() - v3.failed() - stats.failed_without_revision,
        unattributed: stats.unattributed + stats.unanswered,
        rollback_seconds: seconds(lanes.router_ms),
        pod_restarts: cluster.restarts(NAMESPACE).await?
            + cluster.restarts(chart::NAMESPACE).await?,
    })
}

/// A demo that ran before leaves its object: this one begins with a first deployment again.
async fn start_over(watched: &Watched) -> anyhow::Result<()> {
    if watched.api.get_opt(&watched.name).await?.is_some() {
        watched
            .api
            .delete(&watched.name, &DeleteParams::foreground())
            .await?;
        crate::wait::until(
            &watched.api,
            &watched.name,
            "the last demo's object to go",
            SERVING_WITHIN,
            |object| object.is_none(),
        )
        .await?;
    }
    Ok(())
}

async fn apply(cluster: &Cluster, version: &str) -> anyhow::Result<()> {
    say(&format!("applying examples/digits/{version}.yaml"))?;
    let object = md::digits(NAMESPACE, version)?;
    cluster.apply(NAMESPACE, &object).await.map(drop)
}

/// Applies it as another attempt, with guardrails that ask Prometheus.
async fn apply_watched_by_prometheus(cluster: &Cluster, version: &str) -> anyhow::Result<()> {
    let mut object = md::digits(NAMESPACE, version)?;
    md::set(
        &mut object,
        "/spec/guardrails",
        md::guardrails(WINDOW, MIN_SAMPLES),
    )?;
    let rollout = object.pointer_mut("/spec/rollout");
    rollout
        .and_then(serde_json::Value::as_object_mut)
        .context("the example has no rollout")?
        .insert("attempt".to_owned(), json!(2));
    say(&format!(
        "applying examples/digits/{version}.yaml with attempt 2 and guardrails on Prometheus over {WINDOW}"
    ))?;
    cluster.apply(NAMESPACE, &object).await.map(drop)
}

/// Prints decisions until `done` is.
async fn followed<T>(
    watched: &Watched,
    done: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<T> {
    let known = watched.get().await?;
    let printer = Printer::to_stdout().after(Some(&known));
    tokio::select! {
        biased;
        followed = timeline::follow(&watched.api, &watched.name, printer) => {
            followed?;
            bail!("the watch of {} ended", watched.name)
        }
        done = async {
            let done = done.await;
            // The other side of the select gets to print what the same change brought.
            tokio::time::sleep(Duration::from_millis(300)).await;
            done
        } => done,
    }
}

fn condemned(object: &ModelDeployment) -> Option<String> {
    Some(object.status.as_ref()?.condemned.last()?.revision.clone())
}

async fn down(cluster: &Cluster) -> anyhow::Result<()> {
    step(
        "removing the demo's namespace",
        cluster.delete_namespace(NAMESPACE),
    )
    .await?;
    step("removing Sluice", chart::uninstall()).await?;
    let rest = async {
        cluster.delete_namespace(chart::NAMESPACE).await?;
        cluster.delete_namespace(prometheus::NAMESPACE).await
    };
    step("removing Prometheus", rest).await
}

/// Says what is done, and how long it took if that was long.
async fn step<T>(what: &str, work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    say(&format!("{what} …"))?;
    let begun = Instant::now();
    let done = work.await.with_context(|| format!("{what} failed"))?;
    let took = begun.elapsed();
    if took > Duration::from_secs(2) {
        say(&format!("    done in {:.0} s", took.as_secs_f64()))?;
    }
    Ok(done)
}

fn next_commands() -> io::Result<()> {
    say(&format!(
        "\nAll of it goes on running. Try:\n\
         \x20   kubectl -n {NAMESPACE} get modeldeployments,pods,httproutes\n\
         \x20   kubectl -n {NAMESPACE} describe modeldeployment {name}\n\
         \x20   kubectl -n {NAMESPACE} apply -f examples/digits/v4.yaml    # right but slow\n\
         \x20   sluice-e2e timeline {NAMESPACE} {name}\n\
         \x20   make demo-down\n",
        name = md::NAME,
    ))
}

fn say(line: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}

fn seconds(milliseconds: u64) -> f64 {
    Duration::from_millis(milliseconds).as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome() -> Outcome {
        Outcome {
            promoted: "v2".to_owned(),
            rolled_back: "v3".to_owned(),
            requests: 1000,
            failed_on_canary: 3,
            ..Outcome::default()
        }
    }

    #[test]
    fn the_last_line_has_the_promised_members() {
        assert_eq!(
            serde_json::to_value(outcome()).unwrap(),
            json!({"promoted": "v2", "rolledBack": "v3", "requests": 1000, "failedOnStable": 0,
                "failedOnCanary": 3, "unattributed": 0, "rollbackSeconds": 0.0, "podRestarts": 0})
        );
    }

    #[test]
    fn anything_that_did_not_happen_is_an_error() {
        outcome().check().unwrap();
        Outcome {
            failed_on_canary: 0,
            ..outcome()
        }
        .check()
        .unwrap_err();
        Outcome {
            failed_on_stable: 1,
            ..outcome()
        }
        .check()
        .unwrap_err();
        Outcome {
            unattributed: 1,
            ..outcome()
        }
        .check()
        .unwrap_err();
        Outcome {
            pod_restarts: 1,
            ..outcome()
        }
        .check()
        .unwrap_err();
        Outcome {
            promoted: String::new(),
            ..outcome()
        }
        .check()
        .unwrap_err();
    }
}
