//! Parts of the end-to-end tests that run as programs.

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use clap::{Parser, Subcommand};
use sluice_e2e::{bench, demo, fault_proxy, files, load, targets, timeline};
use tracing_subscriber::EnvFilter;

/// The programs of the end-to-end tests and the demo.
#[derive(Debug, Parser)]
#[command(name = "sluice-e2e", version)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Load(load::Load),
    Files(files::Files),
    FaultProxy(fault_proxy::FaultProxy),
    PrometheusTargets(targets::Targets),
    Demo(demo::Demo),
    Bench(bench::Flags),
    BenchRouter(bench::router::Flags),
    BareProxy(bench::router::bare::BareProxy),
    Timeline(timeline::Timeline),
}

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nothing is left to do about a stderr that cannot be written.
            writeln!(io::stderr(), "error: {error:#}").unwrap_or_default();
            ExitCode::FAILURE
        }
    }
}

async fn run() -> anyhow::Result<()> {
    let args = Args::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .init();
    // Nobody else can have chosen one before.
    rustls::crypto::ring::default_provider()
        .install_default()
        .unwrap_or_default();
    match args.command {
        Command::Load(args) => load::run(args).await,
        Command::Files(args) => files::run(args).await,
        Command::FaultProxy(args) => fault_proxy::run(args).await,
        Command::PrometheusTargets(args) => targets::run(args).await,
        Command::Demo(args) => Box::pin(demo::run(args)).await,
        Command::Bench(args) => Box::pin(bench::run(args)).await,
        Command::BenchRouter(args) => bench::router::run(args).await,
        Command::BareProxy(args) => bench::router::bare::run(args).await,
        Command::Timeline(args) => timeline::run(args).await,
    }
}
