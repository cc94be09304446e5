//! Watches objects and builds a new table whenever one changes.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Debug};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crds::gateway::HttpRoute;
use futures::future::try_join_all;
use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::{Namespace, Service};
use k8s_openapi::{ClusterResourceScope, NamespaceResourceScope};
use kube::runtime::reflector::{self, Store};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client, Resource, ResourceExt as _};
use serde::de::DeserializeOwned;
use tokio::sync::{Notify, watch};
use tracing::{debug, info, warn};

use crate::admin::Admin;
use crate::proxy::Proxy;
use crate::state_dir::Kept;
use crate::status;
use crate::table::findings::Statuses;
use crate::table::objects::{ObjectKey, Objects};
use crate::table::{self, LastGood, Run, Settings};

/// The server ends a watch after this; a connection that is dead without saying so is noticed 5 s
/// later, so within a minute.
const WATCH_SECONDS: u32 = 45;
/// Between two tables, so that a storm of changes costs bounded work.
const BUILD_INTERVAL: Duration = Duration::from_millis(10);
/// Between two looks at what has become old: connections, metrics.
const SWEEP_INTERVAL: Duration = Duration::from_secs(10);

/// How long a start waits for the API server before it serves what was kept: a canary may have been
/// condemned since.
const PATIENCE: Duration = Duration::from_secs(2);

/// What was built, and from what.
#[derive(Debug)]
pub struct Report {
    /// What is to be said.
    pub statuses: Statuses,
    /// The objects as they were.
    pub objects: Objects,
    /// The run that each route names.
    pub runs: BTreeMap<ObjectKey, Option<Run>>,
    /// The routes as they were when last valid.
    pub last_good: Arc<LastGood>,
}

/// One kind of object, in one or several namespaces.
struct Kind<K: Resource<DynamicType = ()> + Clone + 'static>(Vec<Store<K>>);

impl<K> Kind<K>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    fn start(apis: Vec<Api<K>>, changed: &Arc<Notify>) -> Self {
        Self::heeding(apis, changed, |_| {})
    }

    /// `heed` sees each object when it arrives, before anyone else does.
    fn heeding(
        apis: Vec<Api<K>>,
        changed: &Arc<Notify>,
        heed: impl Fn(&K) + Clone + Send + 'static,
    ) -> Self {
        Self(
            apis.into_iter()
                .map(|api| start(api, Arc::clone(changed), heed.clone()))
                .collect(),
        )
    }

    async fn synced(&self) -> Result<(), reflector::store::WriterDropped> {
        try_join_all(self.0.iter().map(Store::wait_until_ready))
            .await
            .map(drop)
    }

    fn all(&self) -> Vec<Arc<K>> {
        self.0.iter().flat_map(Store::state).collect()
    }
}

fn start<K>(api: Api<K>, changed: Arc<Notify>, heed: impl Fn(&K) + Send + 'static) -> Store<K>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    let (store, writer) = reflector::store();
    let config = watcher::Config::default().timeout(WATCH_SECONDS);
    let events = watcher(api, config)
        .default_backoff()
        // Half of an object's size, and nothing that is read here.
        .modify(|object| object.managed_fields_mut().clear())
        .inspect_ok(move |event| match event {
            watcher::Event::Apply(object) | watcher::Event::InitApply(object) => heed(object),
            watcher::Event::Delete(_) | watcher::Event::Init | watcher::Event::InitDone => {}
        });
    let mut events = Box::pin(reflector::reflector(writer, events));
    tokio::spawn(async move {
        while let Some(event) = events.next().await {
            match event {
                Ok(_) => changed.notify_one(),
                Err(error) => warn!(kind = %K::kind(&()), %error, "watching failed; trying again"),
            }
        }
    });
    store
}

fn namespaced<K>(client: &Client, namespaces: &BTreeSet<String>) -> Vec<Api<K>>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    if namespaces.is_empty() {
        return vec![Api::all(client.clone())];
    }
    namespaces
        .iter()
        .map(|namespace| Api::namespaced(client.clone(), namespace))
        .collect()
}

fn cluster<K>(client: &Client) -> Vec<Api<K>>
where
    K: Resource<DynamicType = (), Scope = ClusterResourceScope>,
{
    vec![Api::all(client.clone())]
}

/// All watches.
pub struct Watches {
    changed: Arc<Notify>,
    classes: Kind<crds::gateway::GatewayClass>,
    gateways: Kind<crds::gateway::Gateway>,
    routes: Kind<HttpRoute>,
    services: Kind<Service>,
    slices: Kind<k8s_openapi::api::discovery::v1::EndpointSlice>,
    namespaces: Kind<Namespace>,
}

impl Debug for Watches {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watches").finish_non_exhaustive()
    }
}

impl Watches {
    /// Starts to watch; `namespaces` of none means all. A trip in a route's status takes its canary
    /// out as soon as it arrives.
    pub fn start(
        client: &Client,
        namespaces: &BTreeSet<String>,
        settings: &Settings,
        proxy: &Arc<Proxy>,
    ) -> Self {
        let changed = Arc::new(Notify::new());
        // The Service whose address is reported may lie elsewhere.
        let own = settings
            .service
            .as_ref()
            .map(|service| service.namespace.clone());
        let mut service_namespaces = namespaces.clone();
        if !namespaces.is_empty() {
            service_namespaces.extend(own);
        }
        // Who may not see all namespaces may not see their labels either.
        let labelled = if namespaces.is_empty() {
            cluster(client)
        } else {
            Vec::new()
        };
        let (proxy, controller) = (Arc::clone(proxy), settings.controller_name.clone());
        let heed = move |route: &HttpRoute| status::heed(&proxy.trips, route, &controller);
        Self {
            classes: Kind::start(cluster(client), &changed),
            gateways: Kind::start(namespaced(client, namespaces), &changed),
            routes: Kind::heeding(namespaced(client, namespaces), &changed, heed),
            services: Kind::start(namespaced(client, &service_namespaces), &changed),
            slices: Kind::start(namespaced(client, namespaces), &changed),
            namespaces: Kind::start(labelled, &changed),
            changed,
        }
    }

    async fn synced(&self) -> Result<(), reflector::store::WriterDropped> {
        self.classes.synced().await?;
        self.gateways.synced().await?;
        self.routes.synced().await?;
        self.services.synced().await?;
        self.slices.synced().await?;
        self.namespaces.synced().await
    }

    fn objects(&self) -> Objects {
        Objects {
            classes: self.classes.all(),
            gateways: self.gateways.all(),
            routes: self.routes.all(),
            services: self.services.all(),
            slices: self.slices.all(),
            namespaces: self.namespaces.all(),
        }
    }

    /// Serves what is seen, for as long as the process lives; until then, what was kept.
    pub async fn serve(
        self,
        settings: Settings,
        admin: Arc<Admin>,
        reports: watch::Sender<Option<Arc<Report>>>,
        kept: Option<Kept>,
    ) -> anyhow::Result<()> {
        let mut last_good = self.first(&settings, &admin, kept).await?;
        let mut sweep = tokio::time::interval(SWEEP_INTERVAL);
        loop {
            let objects = self.objects();
            let built = table::build(&objects, &settings, &last_good);
            last_good = Arc::new(built.last_good);
            debug!(
                routes = built.table.routes.len(),
                endpoints = built.table.endpoints.len(),
                "table built"
            );
            let runs = built.table.runs.clone();
            admin.proxy.publish(built.table);
            admin.stale.store(false, Ordering::Release);
            admin.synced.store(true, Ordering::Release);
            reports.send_replace(Some(Arc::new(Report {
                statuses: built.statuses,
                objects,
                runs,
                last_good: Arc::clone(&last_good),
            })));
            tokio::time::sleep(BUILD_INTERVAL).await;
            self.wait(&mut sweep, &admin).await;
        }
    }

    /// Waits until everything is seen. Where that takes too long, what was kept is served meanwhile;
    /// gives the routes that are to be bridged.
    async fn first(
        &self,
        settings: &Settings,
        admin: &Admin,
        kept: Option<Kept>,
    ) -> anyhow::Result<Arc<LastGood>> {
        let synced = pin!(self.synced());
        let Some(kept) = kept else {
            synced.await?;
            return Ok(Arc::default());
        };
        let mut synced = synced;
        if let Ok(synced) = tokio::time::timeout(PATIENCE, &mut synced).await {
            synced?;
            return Ok(Arc::new(kept.last_good));
        }
        let last_good = admin.serve_kept(&kept, settings);
        synced.await?;
        info!("the API server is heard: what was kept is replaced");
        Ok(Arc::new(last_good))
    }

    async fn wait(&self, sweep: &mut tokio::time::Interval, admin: &Admin) {
        tokio::select! {
            () = self.changed.notified() => {}
            _ = sweep.tick() => admin.proxy.pool.sweep(),
        }
    }
}
