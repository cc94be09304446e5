//! What is said in statuses, before anyone knows what is in them already.

use std::collections::BTreeMap;

use crds::gateway::{GatewayAddress, HttpRoute, ParentReference, RouteGroupKind};

use super::Settings;
use super::attach::Attached;
use super::listener::{GATEWAY_GROUP, Gateways, HTTP_ROUTE, OurGateway, OurListener};
use super::objects::{Index, ObjectKey};

/// Condition types and reasons of Gateway API, and ours.
pub mod reason {
    /// Type and reason.
    pub const ACCEPTED: &str = "Accepted";
    /// Type and reason.
    pub const PROGRAMMED: &str = "Programmed";
    /// Type and reason.
    pub const RESOLVED_REFS: &str = "ResolvedRefs";
    /// Type.
    pub const CONFLICTED: &str = "Conflicted";
    /// Of `Conflicted`.
    pub const NO_CONFLICTS: &str = "NoConflicts";
    /// Of `Conflicted`, and of a route whose hostname and path another namespace has.
    pub const HOSTNAME_CONFLICT: &str = "HostnameConflict";
    /// Of `Conflicted`.
    pub const PROTOCOL_CONFLICT: &str = "ProtocolConflict";
    /// Of a listener.
    pub const PORT_UNAVAILABLE: &str = "PortUnavailable";
    /// Of a listener, or of a backend.
    pub const UNSUPPORTED_PROTOCOL: &str = "UnsupportedProtocol";
    /// Of a listener.
    pub const INVALID_ROUTE_KINDS: &str = "InvalidRouteKinds";
    /// Of a Gateway.
    pub const LISTENERS_NOT_VALID: &str = "ListenersNotValid";
    /// Of a Gateway or listener that is not programmed.
    pub const INVALID: &str = "Invalid";
    /// Of a Gateway.
    pub const ADDRESS_NOT_ASSIGNED: &str = "AddressNotAssigned";
    /// Of a route.
    pub const NO_MATCHING_PARENT: &str = "NoMatchingParent";
    /// Of a route.
    pub const NOT_ALLOWED_BY_LISTENERS: &str = "NotAllowedByListeners";
    /// Of a route.
    pub const NO_MATCHING_LISTENER_HOSTNAME: &str = "NoMatchingListenerHostname";
    /// Of a route.
    pub const UNSUPPORTED_VALUE: &str = "UnsupportedValue";
    /// Of a backend.
    pub const BACKEND_NOT_FOUND: &str = "BackendNotFound";
    /// Of a backend.
    pub const INVALID_KIND: &str = "InvalidKind";
    /// Of a backend.
    pub const REF_NOT_PERMITTED: &str = "RefNotPermitted";
}

/// A condition without its times.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Type.
    pub type_: &'static str,
    /// Whether it holds.
    pub status: bool,
    /// Why, in one word.
    pub reason: &'static str,
    /// Why, for people.
    pub message: String,
}

impl Finding {
    /// A condition that holds.
    pub fn yes(type_: &'static str, reason: &'static str, message: &str) -> Self {
        Self {
            type_,
            status: true,
            reason,
            message: message.to_owned(),
        }
    }

    /// A condition that does not hold.
    pub fn no(type_: &'static str, reason: &'static str, message: String) -> Self {
        Self {
            type_,
            status: false,
            reason,
            message,
        }
    }
}

/// All that is said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Statuses {
    /// Of our classes, by name.
    pub classes: BTreeMap<String, ClassFindings>,
    /// Of our Gateways.
    pub gateways: BTreeMap<ObjectKey, GatewayFindings>,
    /// Of routes with a parent of ours, or with something of ours left in their status.
    pub routes: BTreeMap<ObjectKey, RouteFindings>,
}

/// Of a class.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClassFindings {
    /// Generation that was seen.
    pub generation: i64,
    /// `Accepted`.
    pub conditions: Vec<Finding>,
}

/// Of a Gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewayFindings {
    /// Generation that was seen.
    pub generation: i64,
    /// Where it can be reached.
    pub addresses: Vec<GatewayAddress>,
    /// `Accepted`, `Programmed`.
    pub conditions: Vec<Finding>,
    /// One for each listener.
    pub listeners: Vec<ListenerFindings>,
}

/// Of a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerFindings {
    /// Its name.
    pub name: String,
    /// Route kinds that it serves.
    pub supported_kinds: Vec<RouteGroupKind>,
    /// How many routes are attached.
    pub attached_routes: i32,
    /// `Accepted`, `Programmed`, `ResolvedRefs`, `Conflicted`.
    pub conditions: Vec<Finding>,
}

/// Of a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteFindings {
    /// Generation that was seen.
    pub generation: i64,
    /// At each parent of ours: `Accepted`, `ResolvedRefs`.
    pub parents: Vec<(ParentReference, Vec<Finding>)>,
}

impl RouteFindings {
    /// What to say of a route; none for one that never concerned us.
    pub fn new(route: &HttpRoute, attached: Attached, references: &Finding) -> Option<Self> {
        let stale = route
            .status
            .as_ref()
            .is_some_and(|status| !status.parents.is_empty());
        if attached.parents.is_empty() && !stale {
            return None;
        }
        let parents = attached.parents.into_iter();
        Some(Self {
            generation: route.metadata.generation.unwrap_or_default(),
            parents: parents
                .map(|(parent, accepted)| (parent, vec![accepted, references.clone()]))
                .collect(),
        })
    }
}

/// Says what is to be said of classes and Gateways.
pub fn describe(statuses: &mut Statuses, gateways: &Gateways, settings: &Settings, index: &Index) {
    for (name, generation) in &gateways.classes {
        let accepted = Finding::yes(
            reason::ACCEPTED,
            reason::ACCEPTED,
            "served by sluice-router",
        );
        let findings = ClassFindings {
            generation: *generation,
            conditions: vec![accepted],
        };
        statuses.classes.insert(name.clone(), findings);
    }
    let addresses = addresses(settings, index);
    for gateway in &gateways.gateways {
        let findings = describe_gateway(gateway, addresses.as_deref());
        statuses.gateways.insert(gateway.key.clone(), findings);
    }
}

/// Addresses of our Service; none where no Service was named.
fn addresses(settings: &Settings, index: &Index) -> Option<Vec<GatewayAddress>> {
    let service = index.service(settings.service.as_ref()?);
    let address = |type_: &str, value: String| GatewayAddress {
        type_: Some(type_.to_owned()),
        value,
    };
    let ingress = service.and_then(|service| {
        service
            .status
            .as_ref()?
            .load_balancer
            .as_ref()?
            .ingress
            .as_ref()
    });
    let mut found: Vec<GatewayAddress> = ingress
        .into_iter()
        .flatten()
        .filter_map(|ingress| match (&ingress.ip, &ingress.hostname) {
            (Some(ip), _) => Some(address("IPAddress", ip.clone())),
            (None, Some(hostname)) => Some(address("Hostname", hostname.clone())),
            (None, None) => None,
        })
        .collect();
    if found.is_empty() {
        let spec = service.and_then(|service| service.spec.as_ref());
        let cluster_ip = spec.and_then(|spec| spec.cluster_ip.clone());
        let cluster_ip = cluster_ip.filter(|ip| !ip.is_empty() && ip != "None");
        found.extend(cluster_ip.map(|ip| address("IPAddress", ip)));
    }
    Some(found)
}

fn describe_gateway(gateway: &OurGateway, addresses: Option<&[GatewayAddress]>) -> GatewayFindings {
    let usable = gateway
        .listeners
        .iter()
        .filter(|listener| listener.usable())
        .count();
    let all = usable == gateway.listeners.len();
    let accepted = match (usable, all) {
        (0, _) => Finding::no(
            reason::ACCEPTED,
            reason::LISTENERS_NOT_VALID,
            "no listener can be served; see each listener's conditions".to_owned(),
        ),
        (_, false) => Finding::yes(
            reason::ACCEPTED,
            reason::LISTENERS_NOT_VALID,
            "some listeners cannot be served; see each listener's conditions",
        ),
        (_, true) => Finding::yes(reason::ACCEPTED, reason::ACCEPTED, "the Gateway is valid"),
    };
    let programmed = if usable == 0 {
        Finding::no(
            reason::PROGRAMMED,
            reason::INVALID,
            "no listener can be served".to_owned(),
        )
    } else if addresses.is_some_and(<[GatewayAddress]>::is_empty) {
        let message = "the router's Service has no address yet".to_owned();
        Finding::no(reason::PROGRAMMED, reason::ADDRESS_NOT_ASSIGNED, message)
    } else {
        Finding::yes(
            reason::PROGRAMMED,
            reason::PROGRAMMED,
            "the Gateway is served",
        )
    };
    GatewayFindings {
        generation: gateway.object.metadata.generation.unwrap_or_default(),
        addresses: addresses.unwrap_or_default().to_vec(),
        conditions: vec![accepted, programmed],
        listeners: gateway.listeners.iter().map(describe_listener).collect(),
    }
}

fn describe_listener(listener: &OurListener) -> ListenerFindings {
    let programmed = if listener.usable() {
        Finding::yes(
            reason::PROGRAMMED,
            reason::PROGRAMMED,
            "the listener is served",
        )
    } else {
        let message = "the listener is not served".to_owned();
        Finding::no(reason::PROGRAMMED, reason::INVALID, message)
    };
    let http_route = RouteGroupKind {
        group: Some(GATEWAY_GROUP.to_owned()),
        kind: HTTP_ROUTE.to_owned(),
    };
    let serves = listener.serves_http_routes && listener.wanted.protocol == "HTTP";
    ListenerFindings {
        name: listener.wanted.name.clone(),
        supported_kinds: serves.then_some(http_route).into_iter().collect(),
        attached_routes: listener.attached,
        conditions: listener
            .findings
            .iter()
            .cloned()
            .chain([programmed])
            .collect(),
    }
}
