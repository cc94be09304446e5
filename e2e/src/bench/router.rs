//! The router beside its peers, on loopback: proxies on one core with one thread each, load and
//! backend on another. Needs no cluster; the programs of the peers must be installed.
//!
//! Tails of latency are those of a machine whose two cores do everything; processor time for a
//! request is the figure that carries over.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process as this,
    thread::{self, available_parallelism},
};

use anyhow::{Context as _, bail, ensure};
use clap::Args;
use tokio::{net::TcpListener, sync::watch};

use crate::bench::{
    self,
    router::{
        api::Objects,
        cases::{Case, Figures},
        chart::Groups,
        counters::Ledger,
        exchange::Clock,
        measure::Bench,
        targets::{PROXIES, Places, Target},
    },
};

mod api;
mod backend;
pub mod bare;
mod cases;
mod chart;
mod counters;
mod exchange;
mod load;
mod measure;
mod memory;
mod ports;
mod process;
mod report;
mod targets;
mod wire;

/// The core of load and backend, and that of the proxies.
const CORES: [usize; 2] = [0, 1];

/// Measures the router and its peers and prints one JSON object per line.
#[derive(Clone, Debug, Args)]
pub struct Flags {
    /// Cases to measure, such as c64,stream,s200, and idle; none: all of them.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Two minutes in place of twenty: few and short repetitions, for a first look.
    #[arg(long)]
    quick: bool,
    /// Connections that lie idle; none: 10 000, or 2000 of a quick look.
    #[arg(long)]
    idle: Option<u32>,
    /// Folder with the configurations.
    #[arg(long, default_value = "e2e/bench")]
    configurations: PathBuf,
    /// The router; none: the one beside this program.
    #[arg(long, env = "SLUICE_ROUTER")]
    router: Option<PathBuf>,
    /// Envoy; none: the one in PATH, if there is one.
    #[arg(long, env = "SLUICE_ENVOY")]
    envoy: Option<PathBuf>,
    /// Folder for a plot; none: no plot.
    #[arg(long)]
    plots: Option<PathBuf>,
}

/// Measures, on one thread: several would move between cores.
pub async fn run(flags: Flags) -> anyhow::Result<()> {
    let measuring = thread::spawn(move || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("no runtime")?
            .block_on(measure(flags))
    });
    let ended = tokio::task::spawn_blocking(move || measuring.join()).await?;
    ended.unwrap_or_else(|_| bail!("measuring panicked"))
}

async fn measure(flags: Flags) -> anyhow::Result<()> {
    let known = Case::names();
    let unknown = |name: &&String| *name != "idle" && !known.contains(&name.as_str());
    if let Some(name) = flags.only.iter().find(unknown) {
        bail!(
            "there is no case {name}; there are idle, {}",
            known.join(", ")
        );
    }
    ensure!(
        available_parallelism().is_ok_and(|cores| cores.get() >= CORES.len()),
        "proxy and load need a core each, and this machine has one"
    );
    let scratch = env::temp_dir().join(format!("sluice-bench-{}", this::id()));
    fs::create_dir_all(&scratch).with_context(|| format!("cannot make {}", scratch.display()))?;
    let measured = measure_in(&flags, &scratch).await;
    // What programs logged is wanted only where something failed.
    if measured.is_ok() {
        fs::remove_dir_all(&scratch).unwrap_or_default();
    } else {
        bench::say(&format!("logs are in {}", scratch.display()));
    }
    measured
}

async fn measure_in(flags: &Flags, scratch: &Path) -> anyhow::Result<()> {
    let [own, core] = CORES;
    process::pin_this(own).await?;
    let clock = Clock::start();
    let (_end, ending) = watch::channel(false);
    for (port, arm) in [
        (ports::STABLE, wire::ARM_STABLE),
        (ports::CANARY, wire::ARM_CANARY),
    ] {
        tokio::spawn(backend::serve(listen(port).await?, arm, clock));
    }
    let objects = Objects::read(&flags.configurations.join("objects.yaml"))?;
    tokio::spawn(objects.serve(listen(ports::API).await?, ending));
    let places = Places {
        configurations: flags.configurations.clone(),
        scratch: scratch.to_owned(),
        router: flags.router.clone(),
        envoy: flags.envoy.clone(),
        core,
    };
    let mut targets = vec![Target::direct()];
    for who in PROXIES {
        targets.extend(Target::start(who, &places).await?);
    }
    counters::ready().await?;
    let mut bench = Bench {
        targets,
        ledger: Ledger::default(),
        clock,
        quick: flags.quick,
    };
    figures(&mut bench, flags).await
}

async fn listen(port: u16) -> anyhow::Result<TcpListener> {
    let address = ports::loopback(port);
    TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen on {address}; is it taken?"))
}

async fn figures(bench: &mut Bench, flags: &Flags) -> anyhow::Result<()> {
    // First, while every program is fresh: memory that load left behind would hide what is added.
    if flags.only.is_empty() || flags.only.iter().any(|name| name == "idle") {
        let connections = if flags.quick { 2_000 } else { 10_000 };
        memory::idle(bench, flags.idle.unwrap_or(connections)).await?;
    }
    let mut groups = Groups::new();
    for case in Case::wanted(&flags.only, flags.quick) {
        bench::say(&format!("==> {}", case.name));
        let rows = bench.case(&case).await?;
        report::print(&case, &rows, &bench.targets)?;
        if case.figures == Figures::Answers && case.name.starts_with('c') {
            groups.push((case.name.to_owned(), report::cpu(&rows, &bench.targets)));
        }
    }
    memory::after(bench)?;
    plot(flags, &groups)
}

fn plot(flags: &Flags, groups: &Groups) -> anyhow::Result<()> {
    let Some(folder) = flags.plots.as_ref().filter(|_| !groups.is_empty()) else {
        return Ok(());
    };
    fs::create_dir_all(folder)?;
    let path = folder.join("router-cpu.svg");
    let title = "Processor time for one request by connections (100 bytes, 95/5 split)";
    fs::write(&path, chart::svg(title, "µs", groups))
        .with_context(|| format!("cannot write {}", path.display()))
}
