//! Whether the data plane serves a route as it is.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use crds::{
    contract,
    gateway::{Gateway, GatewayClass, HttpRoute, ParentReference, RouteParentStatus},
};
use futures::future;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::{Api, Client, api::ListParams};
use rollout::observation::Applied;
use tokio::time::Instant;

use crate::{args::NamespacedName, clock};

/// How long what a Gateway belongs to is taken for known.
const CLASS_KNOWN_FOR: Duration = Duration::from_secs(30);
/// How long one router may take to answer.
const ROUTER_TIMEOUT: Duration = Duration::from_secs(1);
/// How long another implementation gets to program what it has accepted.
pub const SETTLE: Duration = Duration::from_secs(10);
/// Name of the router Service's port for its admin listener.
const ADMIN_PORT: &str = "admin";
const LABEL_SERVICE_NAME: &str = "kubernetes.io/service-name";
const LARGEST_ANSWER: usize = 8 << 20;

/// The routers, and what is known of Gateways.
#[derive(Debug)]
pub struct Routers {
    service: Option<NamespacedName>,
    http: reqwest::Client,
    classes: Mutex<BTreeMap<NamespacedName, (Instant, bool)>>,
}

impl Routers {
    /// The routers behind a Service.
    pub fn new(service: Option<NamespacedName>) -> anyhow::Result<Self> {
        let http = crate::metrics::prometheus::http_client(|builder| {
            // Pods are asked by address, never through a proxy.
            builder.no_proxy().timeout(ROUTER_TIMEOUT)
        })?;
        Ok(Self {
            service,
            http,
            classes: Mutex::default(),
        })
    }

    /// Whether one of a route's parents is a Gateway that our router serves.
    pub async fn serve_any(
        &self,
        client: &Client,
        parents: &[ParentReference],
        home: &str,
    ) -> Result<bool, kube::Error> {
        for parent in parents {
            if parent.kind.as_deref().is_some_and(|kind| kind != "Gateway") {
                continue;
            }
            let namespace = parent.namespace.clone().unwrap_or_else(|| home.to_owned());
            let gateway = NamespacedName {
                namespace,
                name: parent.name.clone(),
            };
            if self.serve(client, gateway).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn serve(&self, client: &Client, name: NamespacedName) -> Result<bool, kube::Error> {
        let now = clock::monotonic();
        let known = self.classes().get(&name).copied();
        if let Some((at, is_ours)) = known
            && now.saturating_duration_since(at) < CLASS_KNOWN_FOR
        {
            return Ok(is_ours);
        }
        let gateways: Api<Gateway> = Api::namespaced(client.clone(), &name.namespace);
        let gateway = gateways.get(&name.name).await?;
        let classes: Api<GatewayClass> = Api::all(client.clone());
        let class = classes.get(&gateway.spec.gateway_class_name).await?;
        let is_ours = class.spec.controller_name == contract::GATEWAY_CONTROLLER;
        self.classes().insert(name, (now, is_ours));
        Ok(is_ours)
    }

    fn classes(&self) -> std::sync::MutexGuard<'_, BTreeMap<NamespacedName, (Instant, bool)>> {
        self.classes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether every ready router serves a route in the form of this digest.
    pub async fn all_serve(
        &self,
        client: &Client,
        namespace: &str,
        name: &str,
        digest: &str,
    ) -> Result<bool, String> {
        let addresses = self
            .admin_addresses(client)
            .await
            .map_err(|error| error.to_string())?;
        let served = future::join_all(addresses.iter().map(|address| async move {
            let applied = self.ask(address).await?;
            Ok::<bool, String>(applied.routes.iter().any(|route| {
                route.namespace == namespace && route.name == name && route.digest == digest
            }))
        }))
        .await;
        // Nobody to ask is nobody who serves.
        let mut all = !served.is_empty();
        for one in served {
            all &= one?;
        }
        Ok(all)
    }

    async fn ask(&self, address: &str) -> Result<contract::Applied, String> {
        let url = format!("http://{address}{}", contract::PATH_APPLIED);
        let failed = |error: reqwest::Error| {
            // The message of the cause says more than reqwest's own.
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            format!(
                "router {address} does not say what it serves: {}",
                cause.unwrap_or_else(|| error.to_string())
            )
        };
        let response = self.http.get(&url).send().await.map_err(failed)?;
        let response = response.error_for_status().map_err(failed)?;
        let body = crate::metrics::prometheus::capped(response, LARGEST_ANSWER).await?;
        serde_json::from_slice(&body)
            .map_err(|error| format!("router {address} does not say what it serves: {error}"))
    }

    /// Addresses of the admin listeners of every ready router.
    async fn admin_addresses(&self, client: &Client) -> Result<Vec<String>, kube::Error> {
        let Some(service) = &self.service else {
            return Ok(Vec::new());
        };
        let slices: Api<EndpointSlice> = Api::namespaced(client.clone(), &service.namespace);
        let selector =
            ListParams::default().labels(&format!("{LABEL_SERVICE_NAME}={}", service.name));
        Ok(addresses(&slices.list(&selector).await?.items))
    }
}

/// Admin addresses in a Service's slices, each once.
fn addresses(slices: &[EndpointSlice]) -> Vec<String> {
    let mut addresses: Vec<String> = Vec::new();
    for slice in slices {
        let ports = slice.ports.iter().flatten();
        let port = ports
            .filter(|port| port.name.as_deref() == Some(ADMIN_PORT))
            .find_map(|port| port.port)
            .unwrap_or_else(|| i32::from(contract::ROUTER_ADMIN_PORT));
        let is_ready = |endpoint: &&k8s_openapi::api::discovery::v1::Endpoint| {
            let conditions = endpoint.conditions.as_ref();
            conditions
                .and_then(|conditions| conditions.ready)
                .unwrap_or(true)
        };
        for address in slice
            .endpoints
            .iter()
            .filter(is_ready)
            .filter_map(|one| one.addresses.first())
        {
            let is_v6 = address
                .parse::<IpAddr>()
                .is_ok_and(|address| address.is_ipv6());
            addresses.push(if is_v6 {
                format!("[{address}]:{port}")
            } else {
                format!("{address}:{port}")
            });
        }
    }
    addresses.sort();
    addresses.dedup();
    addresses
}

/// Whether every parent of a route has accepted it as it is.
pub fn is_accepted(route: &HttpRoute) -> bool {
    let generation = route.metadata.generation;
    let parents = route
        .status
        .as_ref()
        .map(|status| status.parents.as_slice())
        .unwrap_or_default();
    let is_true = |parent: &RouteParentStatus, type_: &str| {
        parent.conditions.iter().any(|condition| {
            condition.type_ == type_
                && condition.status == "True"
                && condition.observed_generation == generation
        })
    };
    let accepts =
        |parent: &RouteParentStatus| is_true(parent, "Accepted") && is_true(parent, "ResolvedRefs");
    let wanted = &route.spec.parent_refs;
    !parents.is_empty()
        && parents.iter().all(accepts)
        && wanted.iter().all(|wanted| {
            parents.iter().any(|parent| {
                parent.parent_ref.name == wanted.name
                    && parent.parent_ref.section_name == wanted.section_name
            })
        })
}

/// What it means that another implementation accepts a generation since some time.
pub fn settled(since: Instant, now: Instant) -> Applied {
    if now.saturating_duration_since(since) >= SETTLE {
        Applied::Unverified
    } else {
        Applied::No
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_ready_routers_are_asked_each_once() {
        let slices: Vec<EndpointSlice> = serde_json::from_value(json!([
            {"metadata": {}, "addressType": "IPv4", "ports": [{"name": "admin", "port": 9191}],
             "endpoints": [
                {"addresses": ["10.0.0.1"], "conditions": {"ready": true}},
                {"addresses": ["10.0.0.2"], "conditions": {"ready": false}},
                {"addresses": ["10.0.0.3"]},
             ]},
            {"metadata": {}, "addressType": "IPv6", "ports": [{"name": "http", "port": 8080}],
             "endpoints": [{"addresses": ["fd00::1"]}]},
            {"metadata": {}, "addressType": "IPv4", "ports": [{"name": "admin", "port": 9191}],
             "endpoints": [{"addresses": ["10.0.0.1"], "conditions": {"ready": true}}]},
        ]))
        .unwrap();
        let expected = ["10.0.0.1:9191", "10.0.0.3:9191", "[fd00::1]:9090"];
        assert_eq!(addresses(&slices), expected);
    }

    fn route(observed: i64, resolved: &str) -> HttpRoute {
        serde_json::from_value(json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
            "metadata": {"name": "digits", "generation": 3},
            "spec": {"parentRefs": [{"name": "other"}]},
            "status": {"parents": [{
                "parentRef": {"name": "other"}, "controllerName": "x/y",
                "conditions": [
                    {"type": "Accepted", "status": "True", "observedGeneration": observed,
                     "reason": "", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"},
                    {"type": "ResolvedRefs", "status": resolved, "observedGeneration": observed,
                     "reason": "", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"},
                ],
            }]},
        }))
        .unwrap()
    }

    #[test]
    fn acceptance_is_of_this_generation_and_of_every_parent() {
        assert!(is_accepted(&route(3, "True")));
        assert!(!is_accepted(&route(2, "True")));
        assert!(!is_accepted(&route(3, "False")));
        let mut second = route(3, "True");
        second.spec.parent_refs.push(ParentReference {
            name: "b".to_owned(),
            ..Default::default()
        });
        assert!(!is_accepted(&second));
        assert!(!is_accepted(&HttpRoute {
            status: None,
            ..route(3, "True")
        }));
    }

    #[tokio::test]
    async fn acceptance_counts_once_it_has_settled() {
        let since = clock::monotonic();
        assert_eq!(settled(since, since + Duration::from_secs(9)), Applied::No);
        assert_eq!(settled(since, since + SETTLE), Applied::Unverified);
    }
}
