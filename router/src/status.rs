//! Writes what was found into statuses: only where it differs, and only by one replica; a trip by
//! every replica that knows of one.

mod lease;
mod merge;
mod routes;
mod tripped;

use std::fmt::{self, Debug};
use std::sync::Arc;
use std::time::Duration;

use crds::gateway::{Gateway, GatewayClass, HttpRoute};
use jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::watch;
use tracing::{debug, info, warn};

use crate::table::objects::ObjectKey;
use crate::trips::Standing;
use crate::watch::Report;

use self::merge::Named;

pub use self::lease::Lease;
pub use self::routes::{RouteStatuses, Stored};
pub use self::tripped::{Recorder, heed, told};

/// After a refused write, and after the Lease changed hands.
const RETRY_INTERVAL: Duration = Duration::from_secs(5);

/// Writes statuses.
pub struct Writer {
    /// Where to.
    pub client: Client,
    /// Under which name.
    pub controller_name: String,
    /// Whether it is this replica's turn.
    pub lease: Arc<Lease>,
    /// The trips that hold, which are said with the rest.
    pub trips: watch::Receiver<Arc<Standing>>,
}

impl Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer")
            .field("controller_name", &self.controller_name)
            .finish_non_exhaustive()
    }
}

/// One status that differs from what was found.
struct Change<K> {
    api: Api<K>,
    key: ObjectKey,
    resource_version: Option<String>,
    status: Value,
}

impl Writer {
    /// Writes for as long as the process lives.
    pub async fn run(self, mut reports: watch::Receiver<Option<Arc<Report>>>) {
        loop {
            let waited = tokio::time::timeout(RETRY_INTERVAL, reports.changed()).await;
            if matches!(waited, Ok(Err(_))) {
                return;
            }
            let report = reports.borrow_and_update().clone();
            if let Some(report) = report {
                self.write(&report, Timestamp::now()).await;
            }
        }
    }

    async fn write(&self, report: &Report, now: Timestamp) {
        for change in self.classes(report, now) {
            self.apply(change).await;
        }
        for change in self.gateways(report, now) {
            self.apply(change).await;
        }
        for change in self.routes(report, now) {
            self.apply(change).await;
        }
    }

    fn classes(&self, report: &Report, now: Timestamp) -> Vec<Change<GatewayClass>> {
        let change = |class: &Arc<GatewayClass>| {
            let name = class.metadata.name.as_deref()?;
            let found = report.statuses.classes.get(name)?;
            let before = class.status.clone().unwrap_or_default();
            let after =
                merge::conditions(&before.conditions, &found.conditions, found.generation, now);
            (after != before.conditions).then(|| Change {
                api: Api::all(self.client.clone()),
                key: ObjectKey::new("", name),
                resource_version: class.metadata.resource_version.clone(),
                status: json!({ "conditions": after }),
            })
        };
        report.objects.classes.iter().filter_map(change).collect()
    }

    fn gateways(&self, report: &Report, now: Timestamp) -> Vec<Change<Gateway>> {
        let change = |gateway: &Arc<Gateway>| {
            let key = ObjectKey::of(&gateway.metadata);
            let found = report.statuses.gateways.get(&key)?;
            let before = gateway.status.clone().unwrap_or_default();
            let after = merge::gateway(&before, found, now);
            (after != before).then(|| Change {
                api: Api::namespaced(self.client.clone(), &key.namespace),
                key,
                resource_version: gateway.metadata.resource_version.clone(),
                // Written out, so that a list that became empty is emptied.
                status: json!({
                    "addresses": after.addresses,
                    "conditions": after.conditions,
                    "listeners": after.listeners,
                }),
            })
        };
        report.objects.gateways.iter().filter_map(change).collect()
    }

    fn routes(&self, report: &Report, now: Timestamp) -> Vec<Change<HttpRoute>> {
        let standing = Arc::clone(&self.trips.borrow());
        let change = |route: &Arc<HttpRoute>| {
            let key = ObjectKey::of(&route.metadata);
            let found = report.statuses.routes.get(&key)?;
            let before = route.status.clone().unwrap_or_default();
            let run = report.runs.get(&key).and_then(Option::as_ref);
            let named = Named::new(run, standing.get(&key));
            let after = merge::parents(&before.parents, found, &named, &self.controller_name, now);
            (after != before.parents).then(|| Change {
                api: Api::namespaced(self.client.clone(), &key.namespace),
                key,
                resource_version: route.metadata.resource_version.clone(),
                status: json!({ "parents": after }),
            })
        };
        report.objects.routes.iter().filter_map(change).collect()
    }

    /// Writes one status, on the object as it was when the status was found.
    async fn apply<K>(&self, change: Change<K>)
    where
        K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Serialize,
    {
        if !self.lease.held() {
            return;
        }
        let kind = K::kind(&());
        let patch = json!({
            "metadata": { "resourceVersion": change.resource_version },
            "status": change.status,
        });
        let params = PatchParams::default();
        let written = change
            .api
            .patch_status(&change.key.name, &params, &Patch::Merge(&patch))
            .await;
        note(&kind, &change.key, written.err());
    }
}

fn note(kind: &str, key: &ObjectKey, refused: Option<kube::Error>) {
    match refused {
        None => info!(kind, %key, "status written"),
        Some(kube::Error::Api(answer)) if matches!(answer.code, 404 | 409) => {
            debug!(kind, %key, "object changed meanwhile; looking again");
        }
        Some(error) => warn!(kind, %key, %error, "status could not be written"),
    }
}
