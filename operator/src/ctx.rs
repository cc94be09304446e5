//! What every reconcile shares.

use std::{fmt, sync::Arc};

use k8s_openapi::NamespaceResourceScope;
use kube::{Api, Client, Resource};

use crate::{
    args::Config, memory::Memory, metrics::prometheus::Prometheus, routers::Routers,
    telemetry::Telemetry, traffic::applied::Gateways,
};

/// What every reconcile shares.
pub struct Ctx {
    /// The client; it writes only while this process leads.
    pub client: Client,
    /// The flags.
    pub config: Config,
    /// Namespace of the operator itself.
    pub home: String,
    /// What is remembered of each object.
    pub memory: Memory,
    /// Metrics of the operator itself.
    pub telemetry: Arc<Telemetry>,
    /// The metrics servers.
    pub prometheus: Prometheus,
    /// Whose Gateways they are.
    pub gateways: Gateways,
    /// The routers.
    pub routers: Arc<Routers>,
}

impl fmt::Debug for Ctx {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ctx")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

impl Ctx {
    /// The objects of a kind in a namespace.
    pub fn api<K>(&self, namespace: &str) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), namespace)
    }
}
