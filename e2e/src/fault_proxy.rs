//! A proxy in front of the API server that loses writes on demand: before they are forwarded, or
//! after they were committed, and that counts every write it sees.
//!
//! Plain HTTP in, the cluster's own TLS out. The caller's credentials pass through; the proxy adds
//! none when it runs in a pod. Answers are streamed, so watches work.

use std::{net::IpAddr, sync::Arc};

use anyhow::Context as _;
use clap::Args;
use http::HeaderValue;
use kube::Config;
use tokio::{net::TcpListener, sync::watch};

use crate::{fault_proxy::faults::Faults, serve};

mod control;
mod cut;
mod faults;
mod forward;
pub mod request;

pub use faults::{Arm, Armed, Cut, Fail, When, Write};

/// Forwards to the API server, with faults on demand.
#[derive(Clone, Debug, Args)]
pub struct FaultProxy {
    /// Port of what is forwarded.
    #[arg(long, default_value_t = 8001)]
    pub port: u16,
    /// Port on which faults are armed.
    #[arg(long, default_value_t = 8080)]
    pub control_port: u16,
    /// Address to listen on; in a pod, all of them.
    #[arg(long, default_value = "0.0.0.0")]
    pub address: IpAddr,
}

/// Runs until SIGTERM.
pub async fn run(args: FaultProxy) -> anyhow::Result<()> {
    let (listener, control) = (
        serve::listen(args.address, args.port).await?,
        serve::listen(args.address, args.control_port).await?,
    );
    let config = upstream().await?;
    tracing::info!(port = args.port, upstream = %config.cluster_url, "forwarding");
    run_on(config, listener, control, serve::ended()?).await
}

/// Runs until `end` is true.
pub async fn run_on(
    config: Config,
    listener: TcpListener,
    control: TcpListener,
    end: watch::Receiver<bool>,
) -> anyhow::Result<()> {
    let faults = Arc::new(Faults::default());
    let client = kube::Client::try_from(config).context("cannot make a client")?;
    let forward = forward::service(client, Arc::clone(&faults));
    let control_service = control::service(faults);
    tokio::join!(
        serve::serve(listener, end.clone(), forward),
        serve::serve(control, end, control_service)
    );
    Ok(())
}

/// The API server: of the cluster that the pod is in, or of KUBECONFIG with its credentials.
async fn upstream() -> anyhow::Result<Config> {
    let mut config = match Config::incluster() {
        Ok(mut config) => {
            // The caller's own token passes; the proxy's would hide who is asking.
            config.auth_info = kube::config::AuthInfo::default();
            config
        }
        Err(_) => Config::infer()
            .await
            .context("neither in a cluster nor with a KUBECONFIG")?,
    };
    config.headers.push((
        http::header::VIA,
        HeaderValue::from_static("1.1 fault-proxy"),
    ));
    Ok(unbuffered(config))
}

/// A configuration under which nothing is retried or ended but by the two sides themselves.
pub fn unbuffered(mut config: Config) -> Config {
    config.read_timeout = None;
    config.write_timeout = None;
    config.default_retry = false;
    config
}
