//! From flags to a running operator, and back down.

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use kube::{Api, Client};
use tokio::{
    signal::unix::{SignalKind, signal},
    time::sleep,
};

use crate::{
    args::Config,
    client::{Clients, Leadership},
    controller,
    ctx::Ctx,
    defaults,
    health::Health,
    lease::Elector,
    memory::Memory,
    metrics::prometheus::Prometheus,
    routers::{Routers, Term},
    serve::Admin,
    telemetry::Telemetry,
    traffic::applied::Gateways,
};

/// API groups without which nothing works, and what brings them.
const NEEDED: [(&str, &str); 2] = [
    (
        "/apis/gateway.networking.k8s.io/v1/httproutes",
        "the Gateway API is not installed: install its standard channel, \
         https://gateway-api.sigs.k8s.io/guides/getting-started/",
    ),
    (
        "/apis/sluice.dev/v1alpha1/modeldeployments",
        "the CRDs of Sluice are not installed: they come with the chart (crds.install)",
    ),
];
const LOOK_AGAIN: Duration = Duration::from_secs(2);

/// Runs the operator until it is told to stop or loses the lease.
pub async fn run(config: Config) -> anyhow::Result<()> {
    // Which provider is there already does not matter, as long as there is one.
    rustls::crypto::ring::default_provider()
        .install_default()
        .ok();
    let telemetry = Arc::new(Telemetry::default());
    let health = Arc::new(Health::default());
    let admin = Admin {
        telemetry: Arc::clone(&telemetry),
        health: Arc::clone(&health),
    };
    admin.start(config.admin).await?;

    let mut stop = std::pin::pin!(stopped()?);
    let (ctx, clients, mut elector) = connect(config, &telemetry).await?;
    tokio::select! {
        () = &mut stop => return Ok(()),
        () = wait_for_apis(&clients.free, &health) => {}
    }
    tokio::select! {
        () = &mut stop => return Ok(()),
        () = elector.acquire() => telemetry.leading(true),
    }
    let term = elector.term();
    let lost = tokio::select! {
        () = &mut stop => None,
        lost = elector.keep() => Some(lost),
        () = work(ctx, clients.watch, term) => anyhow::bail!("all watches ended"),
    };
    telemetry.leading(false);
    match lost {
        None => elector.release().await,
        // Another process may be at work already: go at once.
        Some(lost) => return Err(lost.into()),
    }
    Ok(())
}

/// What the operator works with.
async fn connect(
    config: Config,
    telemetry: &Arc<Telemetry>,
) -> anyhow::Result<(Arc<Ctx>, Clients, Elector)> {
    let kubeconfig = kube::Config::infer()
        .await
        .context("no cluster: neither a kubeconfig nor a service account is there")?;
    let leadership = Arc::new(Leadership::default());
    let clients = Clients::new(&kubeconfig, telemetry, &leadership)
        .context("the client configuration cannot be used")?;
    let home = config.pod_namespace.clone();
    let home = home.unwrap_or_else(|| kubeconfig.default_namespace.clone());
    let elector = Elector::new(
        Api::namespaced(clients.free.clone(), &home),
        &config.lease_name,
        &config.pod_name,
        config.lease_duration,
        leadership,
    );
    let routers = Routers::new(
        config.router_service.clone(),
        config.router_token.clone(),
        Arc::clone(telemetry),
    )?;
    let ctx = Arc::new(Ctx {
        client: clients.fenced.clone(),
        memory: Memory::default(),
        telemetry: Arc::clone(telemetry),
        prometheus: Prometheus::new(config.metric_credentials_dir.clone())?,
        gateways: Gateways::default(),
        routers: Arc::new(routers),
        home,
        config,
    });
    Ok((ctx, clients, elector))
}

/// What a leader does.
async fn work(ctx: Arc<Ctx>, watch: Client, term: Term) {
    let defaults = async {
        if let Some(folder) = &ctx.config.defaults_dir {
            defaults::apply(&ctx.client, folder, &ctx.home).await;
        }
        // The defaults are one errand; leading goes on.
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = defaults => {}
        () = ctx.routers.lead(watch.clone(), term) => {}
        () = controller::run(Arc::clone(&ctx), watch) => {}
    }
}

/// Completes when the process is told to stop.
fn stopped() -> anyhow::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => tracing::info!("SIGTERM: stopping"),
            _ = interrupt.recv() => tracing::info!("SIGINT: stopping"),
        }
    })
}

/// Waits for the APIs that are needed, and says what is missing.
async fn wait_for_apis(client: &Client, health: &Health) {
    let mut said = None;
    loop {
        let missing = missing_api(client).await;
        health.set(missing.clone());
        let Some(missing) = missing else { return };
        if said.as_ref() != Some(&missing) {
            tracing::error!(reason = missing, "not ready");
            said = Some(missing);
        }
        sleep(LOOK_AGAIN).await;
    }
}

async fn missing_api(client: &Client) -> Option<String> {
    for (path, advice) in NEEDED {
        let (group_version, plural) = path.rsplit_once('/')?;
        let api = match http::Request::get(group_version).body(Vec::new()) {
            Ok(request) => client.request::<serde_json::Value>(request).await,
            Err(error) => return Some(error.to_string()),
        };
        let is_there = match api {
            Ok(list) => list
                .get("resources")
                .and_then(serde_json::Value::as_array)
                .is_some_and(|all| {
                    all.iter()
                        .any(|one| one.get("name") == Some(&plural.into()))
                }),
            Err(error) if crate::error::code(&error) == Some(404) => false,
            Err(error) => return Some(format!("cannot reach the API server: {error}")),
        };
        if !is_there {
            return Some(advice.to_owned());
        }
    }
    None
}
