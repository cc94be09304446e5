//! The `sluice-router` program: reads its arguments and wires the parts together.

use std::collections::BTreeSet;
use std::io::IsTerminal as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser as _;
use kube::{Client, Config};
use sluice_router::admin::Admin;
use sluice_router::args::{Args, LeadAuth, LogFormat};
use sluice_router::drain;
use sluice_router::forwarded::TrustedProxies;
use sluice_router::lead::{Auth, Gate, Identity, Lead, TokenReviews};
use sluice_router::pick::SplitKey;
use sluice_router::proxy::Proxy;
use sluice_router::proxy::server::{Limits, Server};
use sluice_router::state_dir::StateDir;
use sluice_router::status::{Lease, Recorder, Stored, Writer};
use sluice_router::table::Settings;
use sluice_router::table::objects::ObjectKey;
use sluice_router::watch::Watches;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tracing::{info, warn};
use tracing_subscriber::EnvFilter;

/// Longer than a watch may be silent, shorter than the minute within which a dead one is noticed.
const API_READ_TIMEOUT: Duration = Duration::from_secs(55);

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    log(args.log_format);
    // Fails only where a provider is installed already, which serves as well.
    rustls::crypto::ring::default_provider()
        .install_default()
        .ok();

    let split_key = split_key(args.split_key_file.as_deref())?;
    let proxy = Proxy::new(split_key, args.request_timeout, args.connect_timeout);
    let trusted = TrustedProxies::new(args.trusted_proxies.clone());
    let proxy = Arc::new(proxy.trusting(trusted));
    let state_dir = state_dir(args.state_dir.as_deref())?;
    if let Some(state_dir) = &state_dir {
        state_dir.restore_trips(&proxy.trips);
    }
    let cluster = Cluster::connect(&args).await?;
    let admin = Arc::new(Admin {
        proxy: Arc::clone(&proxy),
        synced: AtomicBool::new(false),
        stale: AtomicBool::new(false),
        lead: lead(&args, &cluster, &proxy),
    });
    let admin_listener = TcpListener::bind(args.admin)
        .await
        .with_context(|| format!("binding the admin listener to {}", args.admin))?;
    tokio::spawn(Arc::clone(&admin).serve(admin_listener));

    let Configured {
        watching,
        lease,
        holding,
    } = configure(&args, cluster, state_dir, &admin);
    let server = Arc::new(Server::new(Arc::clone(&proxy), limits(&args)));
    let judging = Arc::clone(&proxy);
    let judging = tokio::spawn(async move { judging.judge().await });
    listen(&args, &server).await?;
    tokio::select! {
        ended = judging => ended.context("judging ended")?,
        ended = watching => ended.context("watching ended")?.context("watching ended")?,
        asked = drain::asked_to_leave() => asked.context("waiting for signals")?,
    }
    holding.abort();
    let released = tokio::spawn(async move { lease.release().await });
    drain::drain(&proxy, server, args.drain_delay, args.drain_timeout).await;
    released.abort();
    Ok(())
}

fn log(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    match format {
        LogFormat::Text => builder.init(),
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
}

fn split_key(file: Option<&Path>) -> anyhow::Result<SplitKey> {
    let secret = if let Some(file) = file {
        std::fs::read(file).with_context(|| format!("reading the split key {}", file.display()))?
    } else {
        warn!(
            "no --split-key-file: a random key is used; users may change sides when a router restarts, and replicas disagree"
        );
        rand::random::<[u8; 32]>().to_vec()
    };
    let secret = secret.trim_ascii();
    anyhow::ensure!(
        secret.len() >= 16,
        "the split key is shorter than 16 bytes; make it with a random generator"
    );
    SplitKey::new(secret).context("the split key cannot be used")
}

fn state_dir(folder: Option<&Path>) -> anyhow::Result<Option<StateDir>> {
    let open = |folder: &Path| {
        StateDir::open(folder).with_context(|| format!("opening --state-dir {}", folder.display()))
    };
    folder.map(open).transpose()
}

fn limits(args: &Args) -> Limits {
    Limits {
        header_read_timeout: args.header_read_timeout,
        idle_timeout: args.idle_timeout,
        header_bytes_max: args.max_header_bytes,
        connections_max: args.max_connections,
    }
}

async fn listen(args: &Args, server: &Arc<Server>) -> anyhow::Result<()> {
    for listen in &args.listen {
        let listener = TcpListener::bind(listen.bind)
            .await
            .with_context(|| format!("binding listener port {} to {}", listen.port, listen.bind))?;
        info!(port = listen.port, address = %listen.bind, "listening");
        let (server, port) = (Arc::clone(server), listen.port);
        tokio::spawn(async move { server.accept(port, listener).await });
    }
    Ok(())
}

/// What runs against the API server.
struct Configured {
    watching: JoinHandle<anyhow::Result<()>>,
    lease: Arc<Lease>,
    holding: JoinHandle<()>,
}

/// The API server, and who we are to it.
struct Cluster {
    client: Client,
    /// Namespace of this pod.
    namespace: String,
    /// Name of this pod.
    pod: String,
}

impl Cluster {
    /// Makes a client; nobody is connected to yet.
    async fn connect(args: &Args) -> anyhow::Result<Self> {
        let mut config = Config::infer().await.context("finding the API server")?;
        config.read_timeout = Some(API_READ_TIMEOUT);
        let client = Client::try_from(config).context("connecting to the API server")?;
        let namespace = args
            .pod_namespace
            .clone()
            .unwrap_or_else(|| client.default_namespace().to_owned());
        let pod = args
            .pod_name
            .clone()
            .unwrap_or_else(|| format!("sluice-router-{:08x}", rand::random::<u32>()));
        Ok(Self {
            client,
            namespace,
            pod,
        })
    }
}

/// What is between this router and the leader.
fn lead(args: &Args, cluster: &Cluster, proxy: &Arc<Proxy>) -> Lead {
    let auth = match args.lead_auth {
        LeadAuth::None => {
            warn!("--lead-auth=none: whoever reaches the admin listener may take canaries out");
            Auth::Open
        }
        LeadAuth::TokenReview => {
            let namespace = args.operator_namespace.as_ref();
            Auth::Reviewed(Gate::new(
                namespace.unwrap_or(&cluster.namespace),
                &args.operator_service_account,
                Box::new(TokenReviews(cluster.client.clone())),
            ))
        }
    };
    let lead = Lead::new(Arc::clone(proxy), Identity::new(cluster.pod.clone()), auth);
    let proxy: Arc<Proxy> = Arc::clone(proxy);
    lead.telling(proxy)
}

/// Starts to watch the API server and to write statuses.
fn configure(
    args: &Args,
    cluster: Cluster,
    state_dir: Option<StateDir>,
    admin: &Arc<Admin>,
) -> Configured {
    let Cluster {
        client,
        namespace,
        pod,
    } = cluster;
    let settings = Settings {
        controller_name: args.controller_name.clone(),
        ports: args.listen.iter().map(|listen| listen.port).collect(),
        service: args
            .service
            .as_deref()
            .map(|name| ObjectKey::new(&namespace, name)),
    };
    let lease = Arc::new(Lease::new(client.clone(), &namespace, pod));
    let held = Arc::clone(&lease);
    let holding = tokio::spawn(async move { held.run().await });
    let namespaces: BTreeSet<String> = args.watch_namespace.iter().cloned().collect();
    let watches = Watches::start(&client, &namespaces, &settings, &admin.proxy);
    let (reports, reported) = watch::channel(None);
    let recorder = Recorder {
        statuses: Stored(client.clone()),
        controller_name: args.controller_name.clone(),
        trips: admin.proxy.trips.subscribe(),
        reports: reported.clone(),
    };
    tokio::spawn(recorder.run());
    let writer = Writer {
        client,
        controller_name: args.controller_name.clone(),
        lease: Arc::clone(&lease),
        trips: admin.proxy.trips.subscribe(),
    };
    tokio::spawn(writer.run(reported));
    let kept = state_dir.as_ref().and_then(StateDir::restore_configuration);
    if let Some(state_dir) = state_dir {
        let trips = admin.proxy.trips.subscribe();
        tokio::spawn(state_dir.keep(trips, reports.subscribe()));
    }
    let watching = tokio::spawn(watches.serve(settings, Arc::clone(admin), reports, kept));
    Configured {
        watching,
        lease,
        holding,
    }
}
