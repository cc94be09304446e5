//! Reading and writing the status of one route, as a port: what the recorder of trips needs of the
//! API server.

use std::fmt::{self, Debug};
use std::future::Future;

use crds::gateway::{HttpRoute, RouteParentStatus};
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::json;

use crate::table::objects::ObjectKey;

/// Where the status of routes lies.
pub trait RouteStatuses: Send + Sync {
    /// The route as it is; none: there is none.
    fn read(
        &self,
        route: &ObjectKey,
    ) -> impl Future<Output = kube::Result<Option<HttpRoute>>> + Send;

    /// Replaces `status.parents`, if the route is still of this version.
    fn write(
        &self,
        route: &ObjectKey,
        version: Option<String>,
        parents: Vec<RouteParentStatus>,
    ) -> impl Future<Output = kube::Result<()>> + Send;
}

/// The API server's.
#[derive(Clone)]
pub struct Stored(pub Client);

impl Debug for Stored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Stored")
    }
}

impl Stored {
    fn api(&self, route: &ObjectKey) -> Api<HttpRoute> {
        Api::namespaced(self.0.clone(), &route.namespace)
    }
}

impl RouteStatuses for Stored {
    async fn read(&self, route: &ObjectKey) -> kube::Result<Option<HttpRoute>> {
        self.api(route).get_opt(&route.name).await
    }

    async fn write(
        &self,
        route: &ObjectKey,
        version: Option<String>,
        parents: Vec<RouteParentStatus>,
    ) -> kube::Result<()> {
        let patch = json!({
            "metadata": { "resourceVersion": version },
            "status": { "parents": parents },
        });
        let params = PatchParams::default();
        self.api(route)
            .patch_status(&route.name, &params, &Patch::Merge(&patch))
            .await
            .map(drop)
    }
}
