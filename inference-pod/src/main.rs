//! The inference server inside the pods of a revision.
//!
//! It fetches one model artifact, checks its digest, loads and warms it up, and only then says that
//! it is ready. It knows nothing of Kubernetes, rollouts or other revisions: what it needs to know
//! comes as flags.

mod app;
mod args;
mod artifact;
mod drain;
mod engine;
mod metrics;
mod pool;
mod protocol;
mod ready;
mod start;
mod tensor;

use std::process::ExitCode;

use anyhow::anyhow;
use clap::Parser;
use tracing_subscriber::EnvFilter;

use crate::args::{Args, Config, LogFormat};

fn main() -> ExitCode {
    let args = Args::parse();
    init_logging(args.log_format);
    match serve(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "stopped");
            ExitCode::FAILURE
        }
    }
}

fn serve(args: Args) -> anyhow::Result<()> {
    let config = Config::try_from(args)?;
    rustls::crypto::ring::default_provider()
        .install_default()
        .map_err(|_| anyhow!("another TLS provider is installed already"))?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let outcome = runtime.block_on(drain::serve(config));
    // An inference that outlived the drain must not keep the process from ending.
    runtime.shutdown_background();
    outcome
}

fn init_logging(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    match format {
        LogFormat::Text => logs.init(),
        LogFormat::Json => logs.json().flatten_event(true).init(),
    }
}
