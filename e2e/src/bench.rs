//! The benchmarks: one JSON object per line on stdout, progress on stderr. What could not be measured
//! has no line, and the program then ends with an error.

use std::{
    fs,
    io::{self, Write as _},
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context as _, bail};
use clap::{Args, ValueEnum};

use crate::{
    bench::{line::Line, operator::Idle},
    chart,
    cluster::Cluster,
    prometheus,
};

mod failing;
mod figures;
mod fleet;
mod floor;
mod images;
mod lanes;
mod line;
mod operator;
mod plot;
mod rollback;
pub mod router;

/// Measures on the cluster of KUBECONFIG and prints one JSON object per line.
#[derive(Clone, Debug, Args)]
pub struct Flags {
    /// What to measure; none: all of it.
    #[arg(long, value_delimiter = ',')]
    only: Vec<Part>,
    /// Rollbacks of each kind of canary.
    #[arg(long, default_value_t = 20)]
    trials: usize,
    /// Rollbacks in each lane and cell of the comparison of lanes.
    #[arg(long, default_value_t = 30)]
    lane_trials: usize,
    /// Model deployments at rest.
    #[arg(long, default_value_t = 1000)]
    objects: usize,
    /// How long the operator is watched at rest, in seconds.
    #[arg(long, default_value_t = 600)]
    idle: u64,
    /// Restarts of the operator.
    #[arg(long, default_value_t = 5)]
    restarts: usize,
    /// Folder for plots; none: no plots.
    #[arg(long)]
    plots: Option<PathBuf>,
}

/// A part of the benchmarks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    Rollback,
    Lanes,
    Operator,
    Images,
}

/// What every part works with.
#[derive(Debug)]
pub(crate) struct Bench<'a> {
    pub(crate) cluster: &'a Cluster,
    plots: Option<PathBuf>,
}

impl Bench<'_> {
    /// A plot of delays, where plots are wanted.
    pub(crate) fn plot(&self, name: &str, measured: &[f64], floor: &[f64]) -> anyhow::Result<()> {
        let Some(folder) = &self.plots else {
            return Ok(());
        };
        fs::create_dir_all(folder)?;
        let path = folder.join(format!("rollback-{name}.svg"));
        let title = format!(
            "Rollback of a {name} canary: share of {} trials within a time",
            measured.len()
        );
        fs::write(&path, plot::svg(&title, measured, floor))
            .with_context(|| format!("cannot write {}", path.display()))
    }
}

/// One line of the result.
pub(crate) fn print(line: &Line) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{}", serde_json::to_string(line)?)?;
    out.flush().context("cannot write to stdout")
}

/// Progress.
pub(crate) fn say(what: &str) {
    // Nothing is left to do about a stderr that cannot be written.
    writeln!(io::stderr(), "{what}").unwrap_or_default();
}

/// Runs the benchmarks.
pub async fn run(flags: Flags) -> anyhow::Result<()> {
    if flags.trials == 0
        || flags.lane_trials == 0
        || flags.objects == 0
        || flags.idle == 0
        || flags.restarts == 0
    {
        bail!("--trials, --lane-trials, --objects, --idle and --restarts must be at least 1");
    }
    let cluster = Cluster::connect().await?;
    let bench = Bench {
        cluster: &cluster,
        plots: flags.plots,
    };
    say("installing Prometheus and Sluice");
    prometheus::install(&cluster).await?;
    chart::install(&cluster, &chart::values(&cluster)).await?;
    let wanted = |part| flags.only.is_empty() || flags.only.contains(&part);
    let mut failed = Vec::new();
    let mut note = |part: &str, done: anyhow::Result<()>| {
        if let Err(error) = done {
            say(&format!("{part}: {error:#}"));
            failed.push(part.to_owned());
        }
    };
    if wanted(Part::Images) {
        note("images", images::run());
    }
    if wanted(Part::Rollback) {
        note(
            "rollback",
            Box::pin(rollback::run(&bench, flags.trials)).await,
        );
    }
    if wanted(Part::Lanes) {
        note(
            "lanes",
            Box::pin(lanes::run(&bench, flags.lane_trials)).await,
        );
    }
    if wanted(Part::Operator) {
        let idle = Idle {
            objects: flags.objects,
            watched_for: Duration::from_secs(flags.idle),
            restarts: flags.restarts,
        };
        note("operator", Box::pin(operator::run(&bench, &idle)).await);
    }
    if failed.is_empty() {
        return Ok(());
    }
    bail!("not everything could be measured: {}", failed.join(", "))
}
