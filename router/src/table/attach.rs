//! Which routes attach to which listeners.

use std::collections::BTreeMap;

use crds::gateway::{HttpRoute, ParentReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::core::{Selector, SelectorExt as _};

use super::findings::{Finding, reason};
use super::listener::{GATEWAY_GROUP, Gateways, OurGateway, OurListener};
use super::objects::{Index, ObjectKey};
use super::route::{self, Candidate};
use crate::matcher::{HostPattern, PathMatch};

/// Where a rule is served.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Listener port.
    pub port: u16,
    /// Listener hostname.
    pub listener: HostPattern,
    /// Hostname of listener and route.
    pub host: HostPattern,
}

/// What became of a route at its parents.
#[derive(Debug, Default)]
pub struct Attached {
    /// Where to serve it.
    pub places: Vec<Place>,
    /// What to say at each parent of ours.
    pub parents: Vec<(ParentReference, Finding)>,
}

/// Who has which hostname and paths, by namespace: first come, first served.
#[derive(Debug, Default)]
pub struct Claims(BTreeMap<(u16, HostPattern), Vec<Claim>>);

#[derive(Debug)]
struct Claim {
    path: PathMatch,
    owner: ObjectKey,
}

impl Claims {
    /// The route of another namespace that has a path already. One that would only take part of an
    /// older route's requests would take them all the same.
    fn owner(&self, place: &Place, path: &PathMatch, namespace: &str) -> Option<&ObjectKey> {
        let claimed = self.0.get(&(place.port, place.host.clone()))?;
        claimed
            .iter()
            .find(|claim| claim.owner.namespace != namespace && claim.path.covers(path))
            .map(|claim| &claim.owner)
    }
}

/// Attaches a route to the listeners that admit it.
pub fn attach(
    candidate: &Candidate,
    gateways: &mut Gateways,
    index: &Index,
    claims: &mut Claims,
) -> Attached {
    let mut attached = Attached::default();
    let route = candidate.serving();
    for parent in &candidate.newest.spec.parent_refs {
        let Some(gateway) = gateway_of(parent, &candidate.newest, gateways) else {
            continue;
        };
        let finding = match places(parent, route, gateway, index) {
            Err(refusal) => refusal,
            Ok(found) => match claim(candidate, &found, claims) {
                Err(refusal) => refusal,
                Ok(()) => accept(candidate, gateway, found, &mut attached),
            },
        };
        attached.parents.push((parent.clone(), finding));
    }
    attached.places.sort();
    attached.places.dedup();
    attached
}

fn gateway_of<'gateways>(
    parent: &ParentReference,
    route: &HttpRoute,
    gateways: &'gateways mut Gateways,
) -> Option<&'gateways mut OurGateway> {
    let group = parent.group.as_deref().unwrap_or(GATEWAY_GROUP);
    let kind = parent.kind.as_deref().unwrap_or("Gateway");
    if group != GATEWAY_GROUP || kind != "Gateway" {
        return None;
    }
    let own = route.metadata.namespace.as_deref().unwrap_or_default();
    let key = ObjectKey::new(parent.namespace.as_deref().unwrap_or(own), &parent.name);
    gateways.get_mut(&key)
}

/// The places at one parent, each with the name of its listener.
fn places(
    parent: &ParentReference,
    route: &HttpRoute,
    gateway: &OurGateway,
    index: &Index,
) -> Result<Vec<(String, Place)>, Finding> {
    let refuse = |why, message: &str| Err(Finding::no(reason::ACCEPTED, why, message.to_owned()));
    let mut listeners: Vec<&OurListener> = gateway
        .listeners
        .iter()
        .filter(|it| {
            parent
                .section_name
                .as_ref()
                .is_none_or(|name| *name == it.wanted.name)
        })
        .filter(|it| parent.port.is_none_or(|port| port == it.wanted.port))
        .collect();
    if listeners.is_empty() {
        return refuse(
            reason::NO_MATCHING_PARENT,
            "the Gateway has no listener of that name and port",
        );
    }
    listeners.retain(|listener| admits(listener, gateway, route, index));
    if listeners.is_empty() {
        return refuse(
            reason::NOT_ALLOWED_BY_LISTENERS,
            "no listener's allowedRoutes admit the route",
        );
    }
    listeners.retain(|listener| listener.usable());
    if listeners.is_empty() {
        return refuse(
            reason::NO_MATCHING_PARENT,
            "no listener that admits the route is served; see the Gateway's status",
        );
    }
    let hosts = hosts(route);
    let found: Vec<(String, Place)> = listeners
        .iter()
        .flat_map(|listener| {
            hosts.iter().filter_map(|host| {
                let host = listener.host.intersect(host)?;
                let place = Place {
                    port: listener.port,
                    listener: listener.host.clone(),
                    host,
                };
                Some((listener.wanted.name.clone(), place))
            })
        })
        .collect();
    if found.is_empty() {
        return refuse(
            reason::NO_MATCHING_LISTENER_HOSTNAME,
            "no hostname of the route is among the listeners'",
        );
    }
    Ok(found)
}

fn hosts(route: &HttpRoute) -> Vec<HostPattern> {
    if route.spec.hostnames.is_empty() {
        return vec![HostPattern::Any];
    }
    route
        .spec
        .hostnames
        .iter()
        .map(|host| HostPattern::parse(Some(host)))
        .collect()
}

fn admits(listener: &OurListener, gateway: &OurGateway, route: &HttpRoute, index: &Index) -> bool {
    if !listener.serves_http_routes {
        return false;
    }
    let namespace = route.metadata.namespace.as_deref().unwrap_or_default();
    let allowed = listener.wanted.allowed_routes.as_ref();
    let namespaces = allowed.and_then(|allowed| allowed.namespaces.as_ref());
    match namespaces
        .and_then(|namespaces| namespaces.from.as_deref())
        .unwrap_or("Same")
    {
        "All" => true,
        "Same" => namespace == gateway.key.namespace,
        "Selector" => namespaces
            .and_then(|namespaces| namespaces.selector.clone())
            .is_some_and(|selector| selects(selector, namespace, index)),
        _ => false,
    }
}

fn selects(selector: LabelSelector, namespace: &str, index: &Index) -> bool {
    let (Ok(selector), Some(labels)) = (
        Selector::try_from(selector),
        index.namespace_labels(namespace),
    ) else {
        return false;
    };
    selector.matches(labels)
}

/// Takes all hostnames and paths of a route at one parent, or none of them.
fn claim(
    candidate: &Candidate,
    places: &[(String, Place)],
    claims: &mut Claims,
) -> Result<(), Finding> {
    if !candidate.servable() {
        return Ok(());
    }
    let own = ObjectKey::of(&candidate.newest.metadata);
    let paths = route::paths(candidate.serving());
    for (_, place) in places {
        for path in &paths {
            if let Some(owner) = claims.owner(place, path, &own.namespace) {
                let message =
                    format!("route {owner}, which is older, has the same hostname and path");
                return Err(Finding::no(
                    reason::ACCEPTED,
                    reason::HOSTNAME_CONFLICT,
                    message,
                ));
            }
        }
    }
    for (_, place) in places {
        let claimed = claims
            .0
            .entry((place.port, place.host.clone()))
            .or_default();
        claimed.extend(paths.iter().map(|path| Claim {
            path: path.clone(),
            owner: own.clone(),
        }));
    }
    Ok(())
}

fn accept(
    candidate: &Candidate,
    gateway: &mut OurGateway,
    found: Vec<(String, Place)>,
    attached: &mut Attached,
) -> Finding {
    if candidate.servable() {
        for listener in &mut gateway.listeners {
            if found.iter().any(|(name, _)| *name == listener.wanted.name) {
                listener.attached += 1;
            }
        }
        attached
            .places
            .extend(found.into_iter().map(|(_, place)| place));
    }
    match (&candidate.refusal, candidate.servable()) {
        (None, _) => Finding::yes(reason::ACCEPTED, reason::ACCEPTED, "the route is served"),
        (Some(refusal), false) => {
            let message = format!("{refusal}; the route is not served");
            Finding::no(reason::ACCEPTED, reason::UNSUPPORTED_VALUE, message)
        }
        (Some(refusal), true) => {
            let generation = candidate.serving().metadata.generation.unwrap_or_default();
            let message =
                format!("{refusal}; generation {generation}, the last valid one, stays in force");
            Finding::no(reason::ACCEPTED, reason::UNSUPPORTED_VALUE, message)
        }
    }
}
