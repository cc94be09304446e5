//! From a backend reference to ready endpoints.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use crds::gateway::{HttpBackendRef, HttpRoute};
use k8s_openapi::api::core::v1::{Service, ServicePort};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};

use super::Backend;
use super::findings::{Finding, reason};
use super::objects::{Index, ObjectKey};

/// Why a reference leads nowhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unresolved {
    reason: &'static str,
    message: String,
}

/// `ResolvedRefs` of a route: the first reference that leads nowhere, in order.
pub fn check(route: &HttpRoute, index: &Index) -> Finding {
    let namespace = route.metadata.namespace.as_deref().unwrap_or_default();
    for (at, rule) in route.spec.rules.iter().enumerate() {
        for (to, backend) in rule.backend_refs.iter().enumerate() {
            if let Err(why) = find(backend, namespace, index) {
                let message = format!("spec.rules[{at}].backendRefs[{to}]: {}", why.message);
                return Finding::no(reason::RESOLVED_REFS, why.reason, message);
            }
        }
    }
    Finding::yes(
        reason::RESOLVED_REFS,
        reason::RESOLVED_REFS,
        "every backend was found",
    )
}

/// The ready endpoints of a reference.
pub fn resolve(backend: &HttpBackendRef, namespace: &str, index: &Index) -> Backend {
    match find(backend, namespace, index) {
        Ok((key, service, port)) => Backend::Endpoints(endpoints(&key, service, port, index)),
        Err(_) => Backend::Unresolved,
    }
}

fn find<'index>(
    backend: &HttpBackendRef,
    namespace: &str,
    index: &'index Index,
) -> Result<(ObjectKey, &'index Service, &'index ServicePort), Unresolved> {
    let refuse = |reason, message| Err(Unresolved { reason, message });
    let group = backend.group.as_deref().unwrap_or_default();
    let kind = backend.kind.as_deref().unwrap_or("Service");
    if !group.is_empty() || kind != "Service" {
        let message = format!("{group}/{kind} is no kind of backend that is served; use a Service");
        return refuse(reason::INVALID_KIND, message);
    }
    let target = backend.namespace.as_deref().unwrap_or(namespace);
    if target != namespace {
        let message = format!(
            "namespace {target} is not the route's own, and ReferenceGrants are not supported"
        );
        return refuse(reason::REF_NOT_PERMITTED, message);
    }
    let key = ObjectKey::new(target, &backend.name);
    let Some(service) = index.service(&key) else {
        return refuse(
            reason::BACKEND_NOT_FOUND,
            format!("Service {key} does not exist"),
        );
    };
    let Some(number) = backend.port else {
        return refuse(
            reason::BACKEND_NOT_FOUND,
            format!("port of Service {key} is missing"),
        );
    };
    let ports = service.spec.as_ref().and_then(|spec| spec.ports.as_ref());
    let Some(port) = ports.into_iter().flatten().find(|port| port.port == number) else {
        return refuse(
            reason::BACKEND_NOT_FOUND,
            format!("Service {key} has no port {number}"),
        );
    };
    match port.app_protocol.as_deref() {
        None | Some("http" | "kubernetes.io/http") => Ok((key, service, port)),
        Some(other) => {
            let message =
                format!("port {number} of Service {key} speaks {other}, which is not supported");
            refuse(reason::UNSUPPORTED_PROTOCOL, message)
        }
    }
}

fn endpoints(
    key: &ObjectKey,
    service: &Service,
    port: &ServicePort,
    index: &Index,
) -> Vec<SocketAddr> {
    let families = service
        .spec
        .as_ref()
        .and_then(|spec| spec.ip_families.as_ref());
    let first = families
        .and_then(|families| families.first())
        .map(String::as_str);
    let of = |family: &str| -> BTreeSet<SocketAddr> {
        let slices = index
            .slices(key)
            .filter(|slice| slice.address_type == family);
        slices.flat_map(|slice| ready(slice, port)).collect()
    };
    // A dual-stack Service has every pod in both families; one of them is enough.
    let found = of(first.unwrap_or("IPv4"));
    let found = if found.is_empty() {
        of("IPv4").into_iter().chain(of("IPv6")).collect()
    } else {
        found
    };
    found.into_iter().collect()
}

fn ready(slice: &EndpointSlice, port: &ServicePort) -> Vec<SocketAddr> {
    let name = port.name.as_deref().unwrap_or_default();
    let number = slice
        .ports
        .iter()
        .flatten()
        .find(|port| port.name.as_deref().unwrap_or_default() == name)
        .and_then(|port| u16::try_from(port.port?).ok());
    let Some(number) = number else {
        return Vec::new();
    };
    slice
        .endpoints
        .iter()
        .filter(|endpoint| is_ready(endpoint))
        // All addresses of an endpoint are the same pod; the first stands for it.
        .filter_map(|endpoint| endpoint.addresses.first()?.parse::<IpAddr>().ok())
        .map(|address| SocketAddr::new(address, number))
        .collect()
}

fn is_ready(endpoint: &Endpoint) -> bool {
    endpoint.conditions.as_ref().is_none_or(|conditions| {
        conditions.ready != Some(false) && conditions.terminating != Some(true)
    })
}
