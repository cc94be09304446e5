//! `sluice-operator`: see the library of this package.

use clap::Parser as _;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let config = operator::args::Args::parse().resolve()?;
    operator::telemetry::init_logs(config.log_format);
    operator::run::run(config).await
}
