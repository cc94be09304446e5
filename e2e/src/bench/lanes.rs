//! How long users are still sent to a canary that has turned bad: judged by the routers, beside the
//! same canary watched through a Prometheus, trial by trial in turn.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};

use crate::{
    bench::{
        self, Bench,
        failing::{self, Exposure},
        line::{Line, float, percentile, rounded},
    },
    load_pod::{LoadPod, Plan},
    model_deployment::{self as md, Watched},
};

const NAMESPACE: &str = "bench-lanes";
/// Requests in a second.
const RATE: u32 = 400;
const USERS: u32 = 100_000;
/// Share of failures of every revision before anything turns bad.
const BEFORE: f64 = 0.01;
const SERVING_WITHIN: Duration = Duration::from_mins(2);
const DECIDED_WITHIN: Duration = Duration::from_mins(3);
/// How far the guardrail on Prometheus looks back.
const WINDOW_SECONDS: u32 = 10;
/// Answers after the rollback, so that a late request to the canary would be seen.
const AFTERWARDS: u64 = 400;
/// Share of failures that a canary turns to.
const CELLS: [f64; 2] = [1.0, 0.05];

/// Who judges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lane {
    Router,
    Prometheus,
}

impl Lane {
    /// The guardrail on errors.
    fn guardrails(self) -> Value {
        match self {
            Self::Router => md::router_guardrails(10),
            Self::Prometheus => {
                let mut guardrails = md::guardrails(&format!("{WINDOW_SECONDS}s"), 50);
                if let Some(list) = guardrails.as_array_mut() {
                    list.truncate(1);
                }
                if let Some(max) = guardrails.pointer_mut("/0/check/threshold/max") {
                    *max = json!("0.03");
                }
                guardrails
            }
        }
    }
}

/// Measures each cell; a cell that could not be measured has no line.
pub(crate) async fn run(bench: &Bench<'_>, trials: usize) -> anyhow::Result<()> {
    bench.cluster.fresh_namespace(NAMESPACE).await?;
    let watched = Watched::new(bench.cluster, NAMESPACE, md::NAME);
    bench.cluster.apply(NAMESPACE, &deployment()?).await?;
    let stable = watched.promoted(SERVING_WITHIN).await?;
    failing::set_error_rate(bench.cluster, NAMESPACE, &stable, BEFORE).await?;
    let plan = Plan {
        users: USERS,
        ..Plan::digits(NAMESPACE, md::NAME).rate(f64::from(RATE))
    };
    let load = LoadPod::start(bench.cluster, NAMESPACE, &plan).await?;
    let mut trial = Trial {
        bench,
        watched: &watched,
        load: &load,
        number: 0,
    };
    for after in CELLS {
        let measured = trial.repeat(after, trials).await?;
        report(bench, after, &measured)?;
    }
    bench.cluster.delete_namespace(NAMESPACE).await
}

/// A stable revision that fails for some, and a twentieth of the traffic for what comes after it.
fn deployment() -> anyhow::Result<Value> {
    // Pods that fail from the start might fail to warm up.
    let mut object = md::sim(&["alpha=1ms", "--sim-control"]);
    let spec = object.get_mut("spec").and_then(Value::as_object_mut);
    let spec = spec.context("the model deployment has no spec")?;
    let steps = json!([{"weight": "5%", "hold": "1h"}, {"weight": "100%"}]);
    spec.insert(
        "rollout".to_owned(),
        json!({"type": "Canary", "canary": {"steps": steps}}),
    );
    spec.insert("guardrails".to_owned(), Lane::Router.guardrails());
    Ok(object)
}

struct Trial<'a> {
    bench: &'a Bench<'a>,
    watched: &'a Watched,
    load: &'a LoadPod,
    number: usize,
}

/// What both lanes came to in one cell.
#[derive(Debug, Default)]
struct Measured {
    router: Vec<Exposure>,
    prometheus: Vec<Exposure>,
    discarded: usize,
}

impl Trial<'_> {
    /// Trials of both lanes in turn.
    async fn repeat(&mut self, after: f64, trials: usize) -> anyhow::Result<Measured> {
        let mut measured = Measured::default();
        for number in 1..=trials {
            for lane in [Lane::Router, Lane::Prometheus] {
                let what = format!("{lane:?} lane, {after} of answers bad, {number}/{trials}");
                match self.once(lane, after).await {
                    Ok(exposure) => {
                        let Exposure { seconds, bad } = exposure;
                        bench::say(&format!("{what}: {seconds:.2} s, {bad} bad answers"));
                        match lane {
                            Lane::Router => measured.router.push(exposure),
                            Lane::Prometheus => measured.prometheus.push(exposure),
                        }
                    }
                    Err(error) => {
                        bench::say(&format!("{what} is discarded: {error:#}"));
                        measured.discarded += 1;
                        self.settle().await?;
                    }
                }
            }
        }
        ensure!(
            measured.discarded <= trials / 2
                && !measured.router.is_empty()
                && !measured.prometheus.is_empty(),
            "{} of {} trials came to nothing",
            measured.discarded,
            2 * trials
        );
        Ok(measured)
    }

    async fn once(&mut self, lane: Lane, after: f64) -> anyhow::Result<Exposure> {
        self.number += 1;
        let first = self.load.stats().await?.ended;
        let args = json!([
            "alpha=1ms",
            "--sim-control",
            format!("seed={}", self.number)
        ]);
        self.watched
            .patch(&json!({"spec": {"runtime": {"args": args}, "guardrails": lane.guardrails()}}))
            .await?;
        let running = self.watched.at_step(1, SERVING_WITHIN).await?;
        let revision = md::canary(&running);
        failing::set_error_rate(self.bench.cluster, NAMESPACE, &revision, BEFORE).await?;
        failing::lasts_a_window(self.watched, &revision, WINDOW_SECONDS).await?;
        let turned = epoch_ms();
        failing::set_error_rate(self.bench.cluster, NAMESPACE, &revision, after).await?;
        self.watched.rolled_back(DECIDED_WITHIN).await?;
        self.load.answered(AFTERWARDS).await?;
        let entries = failing::entries(self.bench.cluster, NAMESPACE, first).await?;
        Exposure::of(&entries, &revision, turned).context("the canary failed nobody")
    }

    /// After a discarded trial: back to where the next may begin.
    async fn settle(&self) -> anyhow::Result<()> {
        let object = self.watched.get().await?;
        if md::phase(&object) == "Progressing" {
            let revision = md::canary(&object);
            failing::set_error_rate(self.bench.cluster, NAMESPACE, &revision, 1.0).await?;
            self.watched.rolled_back(SERVING_WITHIN).await?;
        }
        Ok(())
    }
}

/// The load's clock: it runs on the same machine.
fn epoch_ms() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn report(bench: &Bench<'_>, after: f64, measured: &Measured) -> anyhow::Result<()> {
    let name = format!("rollback.router_lane.w5.e{}", rounded(after * 100.0));
    let seconds = |trials: &[Exposure]| -> Vec<f64> {
        let mut seconds: Vec<f64> = trials.iter().map(|one| one.seconds).collect();
        seconds.sort_by(f64::total_cmp);
        seconds
    };
    let bad = |trials: &[Exposure]| -> Vec<f64> {
        let mut bad: Vec<f64> = trials.iter().map(|one| float(one.bad)).collect();
        bad.sort_by(f64::total_cmp);
        bad
    };
    let (router, prometheus) = (seconds(&measured.router), seconds(&measured.prometheus));
    let median = percentile(&prometheus, 50).context("nothing was measured")?;
    let tail = |sorted: &[f64]| percentile(sorted, 99).map(rounded);
    let mut line = Line::of(&name, "s", &router)
        .context("nothing was measured")?
        .against("prometheus-lane", median)
        .with("p99", tail(&router))
        .with("peer_p99", tail(&prometheus))
        .with(
            "trials",
            router.iter().copied().map(rounded).collect::<Vec<f64>>(),
        )
        .with(
            "peer_trials",
            prometheus
                .iter()
                .copied()
                .map(rounded)
                .collect::<Vec<f64>>(),
        )
        .with("rps", RATE)
        .with("weight", 0.05)
        .with("before", BEFORE)
        .with("after", after);
    if after >= 0.5 {
        line = line.at_most(1.0, "value<=1");
    }
    line.discarded = measured.discarded;
    bench::print(&line)?;
    let (router_bad, prometheus_bad) = (bad(&measured.router), bad(&measured.prometheus));
    let median = percentile(&prometheus_bad, 50).context("nothing was measured")?;
    let mut line = Line::of(&format!("{name}.bad_requests"), "requests", &router_bad)
        .context("nothing was measured")?
        .against("prometheus-lane", median);
    line.discarded = measured.discarded;
    bench::print(&line)?;
    bench.plot(
        &format!("lanes-e{}", rounded(after * 100.0)),
        &router,
        &prometheus,
    )
}
