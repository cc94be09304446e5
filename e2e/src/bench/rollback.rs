//! How long users are still sent to a canary that has turned bad, with the rule in a Prometheus.

use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use serde_json::{Value, json};

use crate::{
    bench::{
        self, Bench,
        failing::{self, Exposure},
        floor::Lane,
        line::{Line, float, percentile, rounded},
    },
    load::stats::success,
    load_pod::{LoadPod, Plan},
    model_deployment::{self as md, Watched},
};

const NAMESPACE: &str = "bench-rollback";
/// Requests in a second.
const RATE: u32 = 200;
const SERVING_WITHIN: Duration = Duration::from_mins(2);
const DECIDED_WITHIN: Duration = Duration::from_mins(1);
/// How far the guardrails look back.
const WINDOW_SECONDS: u32 = 5;
/// Answers after the rollback, so that a late request to the canary would be seen.
const AFTERWARDS: u64 = 200;

/// What the installation's Prometheus and the guardrails of this benchmark make possible.
const LANE: Lane = Lane {
    scrape: 1.0,
    window: 5.0,
    check: 1.0,
    limit: 0.05,
    before: 0.0,
    after: 1.0,
    propagation: 0.2,
};

/// Which revision a trial tries.
#[derive(Clone, Copy, Debug)]
enum Canary {
    /// One that nobody has seen: its series of failed answers begins with its first failure.
    New,
    /// One that was rolled back and is tried again: that series is there.
    Retried,
}

impl Canary {
    fn name(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Retried => "retried",
        }
    }
}

/// Measures both cells; a cell that could not be measured has no line.
pub(crate) async fn run(bench: &Bench<'_>, trials: usize) -> anyhow::Result<()> {
    bench.cluster.fresh_namespace(NAMESPACE).await?;
    let watched = Watched::new(bench.cluster, NAMESPACE, md::NAME);
    bench.cluster.apply(NAMESPACE, &deployment()?).await?;
    watched.promoted(SERVING_WITHIN).await?;
    let plan = Plan::digits(NAMESPACE, md::NAME).rate(f64::from(RATE));
    let load = LoadPod::start(bench.cluster, NAMESPACE, &plan).await?;
    let trial = Trial {
        bench,
        watched: &watched,
        load: &load,
    };
    for canary in [Canary::New, Canary::Retried] {
        let (kept, discarded) = trial.repeat(canary, trials).await?;
        report(bench, canary, &kept, discarded)?;
    }
    bench.cluster.delete_namespace(NAMESPACE).await
}

/// A stable revision, and half the traffic for whatever comes after it.
fn deployment() -> anyhow::Result<Value> {
    let mut object = md::sim(&["alpha=1ms"]);
    let spec = object.get_mut("spec").and_then(Value::as_object_mut);
    let spec = spec.context("the model deployment has no spec")?;
    let steps = json!([{"weight": "50%", "hold": "1h"}, {"weight": "100%"}]);
    spec.insert(
        "rollout".to_owned(),
        json!({"type": "Canary", "canary": {"steps": steps}}),
    );
    spec.insert(
        "guardrails".to_owned(),
        md::guardrails(&format!("{WINDOW_SECONDS}s"), 10),
    );
    Ok(object)
}

struct Trial<'a> {
    bench: &'a Bench<'a>,
    watched: &'a Watched,
    load: &'a LoadPod,
}

impl Trial<'_> {
    /// Trials one after another; gives what was measured, and how many came to nothing.
    async fn repeat(
        &self,
        canary: Canary,
        trials: usize,
    ) -> anyhow::Result<(Vec<Exposure>, usize)> {
        let mut kept = Vec::new();
        for number in 1..=trials {
            let trial = self.once(canary, number).await;
            let name = canary.name();
            match trial {
                Ok(exposure) => {
                    let Exposure { seconds, bad } = exposure;
                    bench::say(&format!(
                        "{name} canary {number}/{trials}: {seconds:.2} s, {bad} bad answers"
                    ));
                    kept.push(exposure);
                }
                Err(error) => {
                    bench::say(&format!(
                        "{name} canary {number}/{trials} is discarded: {error:#}"
                    ));
                    self.settle().await?;
                }
            }
        }
        let discarded = trials - kept.len();
        ensure!(
            discarded <= trials / 4 && !kept.is_empty(),
            "{discarded} of {trials} trials with a {} canary came to nothing",
            canary.name()
        );
        Ok((kept, discarded))
    }

    async fn once(&self, canary: Canary, number: usize) -> anyhow::Result<Exposure> {
        let first = self.load.stats().await?.ended;
        self.watched
            .patch(&self.next(canary, number).await?)
            .await?;
        let running = self.watched.at_step(1, SERVING_WITHIN).await?;
        let revision = md::canary(&running);
        failing::lasts_a_window(self.watched, &revision, WINDOW_SECONDS).await?;
        self.set_error_rate(&revision, 1.0).await?;
        self.watched.rolled_back(DECIDED_WITHIN).await?;
        self.load.answered(AFTERWARDS).await?;
        let entries = failing::entries(self.bench.cluster, NAMESPACE, first).await?;
        let elsewhere = entries
            .iter()
            .filter(|entry| !success(entry.code) && entry.revision.as_ref() != Some(&revision));
        let elsewhere = elsewhere.count();
        ensure!(
            elsewhere == 0,
            "{elsewhere} requests failed that the canary did not answer"
        );
        Exposure::of(&entries, &revision, 0).context("the canary failed nobody")
    }

    /// What begins the next run.
    async fn next(&self, canary: Canary, number: usize) -> anyhow::Result<Value> {
        match canary {
            Canary::New => {
                let seed = format!("seed={number}");
                let args = json!(["alpha=1ms", "--sim-control", seed]);
                Ok(json!({"spec": {"runtime": {"args": args}}}))
            }
            Canary::Retried => {
                let object = self.watched.get().await?;
                let condemned = object.status.as_ref().map(|status| &status.condemned);
                let last = condemned.and_then(|condemned| condemned.last());
                let last = last.context("there is no condemned revision to try again")?;
                self.set_error_rate(&last.revision, 0.0).await?;
                Ok(json!({"spec": {"rollout": {"attempt": last.attempt + 1}}}))
            }
        }
    }

    async fn set_error_rate(&self, revision: &str, rate: f64) -> anyhow::Result<()> {
        failing::set_error_rate(self.bench.cluster, NAMESPACE, revision, rate).await
    }

    /// After a discarded trial: back to where the next may begin.
    async fn settle(&self) -> anyhow::Result<()> {
        let object = self.watched.get().await?;
        if md::phase(&object) == "Progressing" {
            self.set_error_rate(&md::canary(&object), 1.0).await?;
        }
        self.watched.rolled_back(SERVING_WITHIN).await.map(drop)
    }
}

fn report(
    bench: &Bench<'_>,
    canary: Canary,
    kept: &[Exposure],
    discarded: usize,
) -> anyhow::Result<()> {
    let name = format!("rollback.prometheus_lane.{}", canary.name());
    let seconds: Vec<f64> = kept.iter().map(|exposure| exposure.seconds).collect();
    let bad: Vec<f64> = kept.iter().map(|exposure| float(exposure.bad)).collect();
    let floor = LANE.delays();
    let (Some(median), Some(tail)) = (percentile(&floor, 50), percentile(&floor, 95)) else {
        bail!("the floor has no values");
    };
    let line = Line::of(&name, "s", &seconds).context("nothing was measured")?;
    let mut sorted = seconds.clone();
    sorted.sort_by(f64::total_cmp);
    let mut line = line
        .against("prometheus-floor", median)
        .at_most(1.25 * median + 0.25, "value<=1.25*peer_value+0.25")
        .with("p95", percentile(&sorted, 95).map(rounded))
        .with("peer_p95", rounded(tail))
        .with(
            "trials",
            sorted.iter().copied().map(rounded).collect::<Vec<f64>>(),
        )
        .with("scrape_s", LANE.scrape)
        .with("window_s", LANE.window)
        .with("interval_s", LANE.check)
        .with("limit", LANE.limit)
        .with("rps", RATE)
        .with("weight", 0.5);
    line.discarded = discarded;
    bench::print(&line)?;
    // Half of the traffic, all of it bad, for as long as the floor lasts.
    let served_by_floor = median * f64::from(RATE) * 0.5;
    let line = Line::of(&format!("{name}.bad_requests"), "requests", &bad);
    let mut line = line
        .context("nothing was measured")?
        .against("prometheus-floor", served_by_floor);
    line.discarded = discarded;
    bench::print(&line)?;
    bench.plot(canary.name(), &seconds, &floor)
}
