//! Where the routers are.

use std::{collections::BTreeSet, net::IpAddr};

use crds::contract;
use futures::{StreamExt as _, future};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointSlice};
use kube::{
    Api, Client,
    runtime::{WatchStreamExt as _, reflector, watcher},
};
use tokio::sync::watch;

use crate::args::NamespacedName;

/// Name of the router Service's port for its admin listener.
const ADMIN_PORT: &str = "admin";
const LABEL_SERVICE_NAME: &str = "kubernetes.io/service-name";
/// How long the API server lets the watch live: a dead connection is noticed five seconds later.
const WATCH_SECONDS: u32 = 50;

/// Tells the addresses of all routers that may be serving, whenever they change.
pub(super) async fn watch(
    client: Client,
    service: &NamespacedName,
    tell: &watch::Sender<BTreeSet<String>>,
) {
    let slices: Api<EndpointSlice> = Api::namespaced(client, &service.namespace);
    let config = watcher::Config::default()
        .labels(&selector(service))
        .timeout(WATCH_SECONDS);
    let (known, writer) = reflector::store();
    watcher(slices, config)
        .default_backoff()
        .reflect(writer)
        .for_each(|event| {
            if let Err(error) = event {
                tracing::debug!(%error, "the watch of the routers' endpoints broke");
            }
            let slices = known.state();
            let serving = addresses(slices.iter().map(AsRef::as_ref), is_serving);
            tell.send_if_modified(|told| {
                let differs = *told != serving;
                *told = serving;
                differs
            });
            future::ready(())
        })
        .await;
}

/// Selector of the slices of a Service.
pub(super) fn selector(service: &NamespacedName) -> String {
    format!("{LABEL_SERVICE_NAME}={}", service.name)
}

/// Admin addresses of the ready routers in a Service's slices.
pub(super) fn ready(slices: &[EndpointSlice]) -> BTreeSet<String> {
    addresses(slices.iter(), |conditions| {
        conditions.is_none_or(|conditions| conditions.ready.unwrap_or(true))
    })
}

/// Whether a router may have requests: one that drains has, and what it sees of them counts.
fn is_serving(conditions: Option<&EndpointConditions>) -> bool {
    conditions.is_none_or(|conditions| conditions.serving.or(conditions.ready).unwrap_or(true))
}

fn addresses<'a>(
    slices: impl Iterator<Item = &'a EndpointSlice> + 'a,
    is_meant: impl Fn(Option<&EndpointConditions>) -> bool,
) -> BTreeSet<String> {
    let mut addresses = BTreeSet::new();
    for slice in slices {
        let ports = slice.ports.iter().flatten();
        let port = ports
            .filter(|port| port.name.as_deref() == Some(ADMIN_PORT))
            .find_map(|port| port.port)
            .unwrap_or_else(|| i32::from(contract::ROUTER_ADMIN_PORT));
        let meant = |endpoint: &&Endpoint| is_meant(endpoint.conditions.as_ref());
        for address in slice
            .endpoints
            .iter()
            .filter(meant)
            .filter_map(|one| one.addresses.first())
        {
            let is_v6 = address
                .parse::<IpAddr>()
                .is_ok_and(|address| address.is_ipv6());
            addresses.insert(if is_v6 {
                format!("[{address}]:{port}")
            } else {
                format!("{address}:{port}")
            });
        }
    }
    addresses
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_ready_routers_are_asked_each_once_and_those_that_drain_are_heard() {
        let slices: Vec<EndpointSlice> = serde_json::from_value(json!([
            {"metadata": {}, "addressType": "IPv4", "ports": [{"name": "admin", "port": 9191}],
             "endpoints": [
                {"addresses": ["10.0.0.1"], "conditions": {"ready": true}},
                {"addresses": ["10.0.0.2"], "conditions": {"ready": false, "serving": true}},
                {"addresses": ["10.0.0.3"]},
                {"addresses": ["10.0.0.4"], "conditions": {"ready": false}},
             ]},
            {"metadata": {}, "addressType": "IPv6", "ports": [{"name": "http", "port": 8080}],
             "endpoints": [{"addresses": ["fd00::1"]}]},
            {"metadata": {}, "addressType": "IPv4", "ports": [{"name": "admin", "port": 9191}],
             "endpoints": [{"addresses": ["10.0.0.1"], "conditions": {"ready": true}}]},
        ]))
        .unwrap();
        let set = |addresses: &[&str]| addresses.iter().map(|one| (*one).to_owned()).collect();
        let expected: BTreeSet<String> = set(&["10.0.0.1:9191", "10.0.0.3:9191", "[fd00::1]:9090"]);
        assert_eq!(ready(&slices), expected);
        let drains: BTreeSet<String> = set(&["10.0.0.2:9191"]);
        let serving = addresses(slices.iter(), is_serving);
        assert_eq!(serving, expected.union(&drains).cloned().collect());
    }
}
