//! A load driver that runs as a pod: sends requests at a steady rate, checks every answer and keeps
//! it, and tells what it has over HTTP.
//!
//! Open loop: a slow server does not slow the sender down, up to a bound on requests in flight;
//! what that bound keeps from being sent is counted.

use std::{net::IpAddr, path::PathBuf, sync::Arc, time::Duration};

use anyhow::Context as _;
use clap::Args;
use tokio::net::TcpListener;

use crate::{
    load::{driver::Driver, log::Log, sample::Samples},
    serve,
};

mod control;
mod driver;
pub mod log;
mod sample;
pub mod stats;

/// Sends requests at a steady rate and keeps every answer.
#[derive(Clone, Debug, Args)]
pub struct Load {
    /// Where to send, such as `http://digits.sluice-demo`.
    #[arg(long)]
    pub target: String,
    /// Path of the requests.
    #[arg(long, default_value = "/v2/models/digits/infer")]
    pub path: String,
    /// Requests in a second.
    #[arg(long, default_value_t = 100.0)]
    pub rate: f64,
    /// How many users ask.
    #[arg(long, default_value_t = 1000)]
    pub users: u32,
    /// Header that names the user.
    #[arg(long, default_value = "x-user-id")]
    pub user_header: String,
    /// Value of the header Host; none: the target's.
    #[arg(long)]
    pub host: Option<String>,
    /// Images and labels, as a file or an http address; none: the held-out digits. With --body-file
    /// they are not used.
    #[arg(long)]
    pub samples: Option<String>,
    /// A JSON body for every request, in place of images: only the status is checked.
    #[arg(long)]
    pub body_file: Option<PathBuf>,
    /// The same, given here.
    #[arg(long, conflicts_with = "body_file")]
    pub body: Option<String>,
    /// Share of the requests that open a connection of their own, 0 to 1.
    #[arg(long, default_value_t = 0.05)]
    pub fresh: f64,
    /// Most requests in flight.
    #[arg(long, default_value_t = 1000)]
    pub in_flight: usize,
    /// How long a request may take, in milliseconds.
    #[arg(long, default_value_t = 10_000)]
    pub timeout_ms: u64,
    /// Most answers that are kept one by one; all are counted.
    #[arg(long, default_value_t = 5_000_000)]
    pub log_limit: usize,
    /// Port of the control listener.
    #[arg(long, default_value_t = 8080)]
    pub port: u16,
    /// Address to listen on; in a pod, all of them.
    #[arg(long, default_value = "0.0.0.0")]
    pub address: IpAddr,
}

/// Sends until SIGTERM.
pub async fn run(args: Load) -> anyhow::Result<()> {
    let listener = serve::listen(args.address, args.port).await?;
    run_on(args, listener, serve::ended()?).await
}

/// Sends until `end` is true, with its control on `listener`.
pub async fn run_on(
    args: Load,
    listener: TcpListener,
    mut end: tokio::sync::watch::Receiver<bool>,
) -> anyhow::Result<()> {
    let samples = Samples::read(&args).await?;
    let log = Arc::new(Log::new(args.log_limit));
    let driver = Arc::new(Driver::new(&args, samples, Arc::clone(&log))?);
    tracing::info!(
        target = args.target,
        rate = args.rate,
        users = args.users,
        "sending"
    );
    let sender = tokio::spawn(Arc::clone(&driver).send_all());
    let service = control::service(Arc::clone(&driver), log);
    let server = tokio::spawn(serve::serve(listener, end.clone(), service));
    end.wait_for(|ended| *ended)
        .await
        .context("nothing can end the load driver")?;
    driver.stop(Duration::from_millis(args.timeout_ms)).await;
    sender.abort();
    server.await.context("the control listener failed")
}
