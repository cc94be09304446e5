//! The objects that the table is built from.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use crds::gateway::{Gateway, GatewayClass, HttpRoute};
use k8s_openapi::api::core::v1::{Namespace, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

/// Namespace and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey {
    /// Namespace, empty for what has none.
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl ObjectKey {
    /// From its parts.
    pub fn new(namespace: &str, name: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        }
    }

    /// Of an object.
    pub fn of(meta: &ObjectMeta) -> Self {
        Self {
            namespace: meta.namespace.clone().unwrap_or_default(),
            name: meta.name.clone().unwrap_or_default(),
        }
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Everything that is watched.
#[derive(Clone, Debug, Default)]
pub struct Objects {
    /// All classes, ours and others'.
    pub classes: Vec<Arc<GatewayClass>>,
    /// All Gateways.
    pub gateways: Vec<Arc<Gateway>>,
    /// All routes.
    pub routes: Vec<Arc<HttpRoute>>,
    /// All Services.
    pub services: Vec<Arc<Service>>,
    /// All `EndpointSlices`.
    pub slices: Vec<Arc<EndpointSlice>>,
    /// All Namespaces, where they may be read.
    pub namespaces: Vec<Arc<Namespace>>,
}

impl Objects {
    /// The routes in order of precedence: oldest first, then by namespace and name.
    pub fn routes_by_age(&self) -> Vec<Arc<HttpRoute>> {
        let mut routes = self.routes.clone();
        routes.sort_by_cached_key(|route| {
            let created = route
                .metadata
                .creation_timestamp
                .as_ref()
                .map(|time| time.0);
            // An object that was never stored has no time; it is the youngest.
            (created.is_none(), created, ObjectKey::of(&route.metadata))
        });
        routes
    }
}

/// Objects by what leads to them.
#[derive(Debug)]
pub struct Index {
    services: BTreeMap<ObjectKey, Arc<Service>>,
    slices: BTreeMap<ObjectKey, Vec<Arc<EndpointSlice>>>,
    namespaces: BTreeMap<String, Arc<Namespace>>,
}

const LABEL_SERVICE_NAME: &str = "kubernetes.io/service-name";

impl Index {
    /// Of all objects.
    pub fn new(objects: &Objects) -> Self {
        let mut slices: BTreeMap<ObjectKey, Vec<Arc<EndpointSlice>>> = BTreeMap::new();
        for slice in &objects.slices {
            let labels = slice.metadata.labels.as_ref();
            if let Some(service) = labels.and_then(|labels| labels.get(LABEL_SERVICE_NAME)) {
                let namespace = slice.metadata.namespace.as_deref().unwrap_or_default();
                slices
                    .entry(ObjectKey::new(namespace, service))
                    .or_default()
                    .push(Arc::clone(slice));
            }
        }
        let services = objects.services.iter();
        let namespaces = objects.namespaces.iter();
        Self {
            services: services
                .map(|it| (ObjectKey::of(&it.metadata), Arc::clone(it)))
                .collect(),
            slices,
            namespaces: namespaces
                .map(|it| (it.metadata.name.clone().unwrap_or_default(), Arc::clone(it)))
                .collect(),
        }
    }

    /// A Service.
    pub fn service(&self, key: &ObjectKey) -> Option<&Service> {
        self.services.get(key).map(Arc::as_ref)
    }

    /// The `EndpointSlices` of a Service.
    pub fn slices(&self, service: &ObjectKey) -> impl Iterator<Item = &EndpointSlice> {
        self.slices
            .get(service)
            .into_iter()
            .flatten()
            .map(Arc::as_ref)
    }

    /// A namespace's labels.
    pub fn namespace_labels(&self, name: &str) -> Option<&BTreeMap<String, String>> {
        self.namespaces.get(name)?.metadata.labels.as_ref()
    }
}
