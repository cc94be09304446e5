//! Which listeners of which Gateways are ours to serve.

use std::sync::Arc;

use crds::gateway::{Gateway, Listener, RouteGroupKind};
use serde_json::Value;

use super::Settings;
use super::findings::{Finding, reason};
use super::objects::{ObjectKey, Objects};
use crate::matcher::HostPattern;

/// API group of Gateway API.
pub const GATEWAY_GROUP: &str = "gateway.networking.k8s.io";
/// The one kind of route that is served.
pub const HTTP_ROUTE: &str = "HTTPRoute";

/// Our Gateways.
#[derive(Debug)]
pub struct Gateways {
    /// Names of our classes, with their generation.
    pub classes: Vec<(String, i64)>,
    /// Each Gateway of them.
    pub gateways: Vec<OurGateway>,
}

/// A Gateway of one of our classes.
#[derive(Debug)]
pub struct OurGateway {
    /// Namespace and name.
    pub key: ObjectKey,
    /// The object.
    pub object: Arc<Gateway>,
    /// Its listeners, in order.
    pub listeners: Vec<OurListener>,
}

/// A listener of such a Gateway.
#[derive(Debug)]
pub struct OurListener {
    /// As it was written.
    pub wanted: Listener,
    /// Its port; 0 where what was written is no port.
    pub port: u16,
    /// Its hostname.
    pub host: HostPattern,
    /// Whether it serves `HTTPRoute`s.
    pub serves_http_routes: bool,
    /// `Accepted`, `ResolvedRefs`, `Conflicted`.
    pub findings: Vec<Finding>,
    /// How many routes are attached.
    pub attached: i32,
}

impl OurListener {
    /// Whether it serves anything.
    pub fn usable(&self) -> bool {
        let accepted = self
            .findings
            .iter()
            .any(|it| it.type_ == reason::ACCEPTED && it.status);
        accepted && self.serves_http_routes
    }
}

impl Gateways {
    /// Those of `objects` that are ours.
    pub fn of(objects: &Objects, settings: &Settings) -> Self {
        let classes: Vec<(String, i64)> = objects
            .classes
            .iter()
            .filter(|class| class.spec.controller_name == settings.controller_name)
            .map(|class| {
                let name = class.metadata.name.clone().unwrap_or_default();
                (name, class.metadata.generation.unwrap_or_default())
            })
            .collect();
        let ours = |gateway: &&Arc<Gateway>| {
            classes
                .iter()
                .any(|(name, _)| *name == gateway.spec.gateway_class_name)
        };
        let mut gateways: Vec<OurGateway> = objects
            .gateways
            .iter()
            .filter(ours)
            .map(|gateway| read(gateway, settings))
            .collect();
        gateways.sort_by(|one, two| one.key.cmp(&two.key));
        Self { classes, gateways }
    }

    /// One of our Gateways.
    pub fn get_mut(&mut self, key: &ObjectKey) -> Option<&mut OurGateway> {
        self.gateways.iter_mut().find(|gateway| gateway.key == *key)
    }

    /// All listeners that serve.
    pub fn usable(&self) -> impl Iterator<Item = &OurListener> {
        self.gateways
            .iter()
            .flat_map(|gateway| &gateway.listeners)
            .filter(|it| it.usable())
    }
}

fn read(gateway: &Arc<Gateway>, settings: &Settings) -> OurGateway {
    let all = &gateway.spec.listeners;
    let listeners = all
        .iter()
        .map(|listener| read_listener(listener, all, settings))
        .collect();
    OurGateway {
        key: ObjectKey::of(&gateway.metadata),
        object: Arc::clone(gateway),
        listeners,
    }
}

fn read_listener(listener: &Listener, all: &[Listener], settings: &Settings) -> OurListener {
    let (kinds_valid, serves_http_routes) = kinds(listener);
    let conflict = conflict(listener, all);
    let findings = vec![
        accepted(listener, conflict.as_ref(), settings),
        if kinds_valid {
            Finding::yes(
                reason::RESOLVED_REFS,
                reason::RESOLVED_REFS,
                "every reference was found",
            )
        } else {
            let message = "allowedRoutes.kinds names a kind that is not served; only HTTPRoute is";
            Finding::no(
                reason::RESOLVED_REFS,
                reason::INVALID_ROUTE_KINDS,
                message.to_owned(),
            )
        },
        match conflict {
            Some((why, message)) => Finding::yes(reason::CONFLICTED, why, &message),
            None => Finding::no(
                reason::CONFLICTED,
                reason::NO_CONFLICTS,
                "no conflicts".to_owned(),
            ),
        },
    ];
    OurListener {
        wanted: listener.clone(),
        port: u16::try_from(listener.port).unwrap_or_default(),
        host: HostPattern::parse(listener.hostname.as_deref()),
        serves_http_routes,
        findings,
        attached: 0,
    }
}

fn accepted(
    listener: &Listener,
    conflict: Option<&(&'static str, String)>,
    settings: &Settings,
) -> Finding {
    if listener.protocol != "HTTP" {
        let message = format!(
            "protocol {} is not supported; only HTTP is",
            listener.protocol
        );
        return Finding::no(reason::ACCEPTED, reason::UNSUPPORTED_PROTOCOL, message);
    }
    if !u16::try_from(listener.port).is_ok_and(|port| settings.ports.contains(&port)) {
        let ports: Vec<String> = settings.ports.iter().map(u16::to_string).collect();
        let message = format!(
            "port {} is not served; the router serves {}",
            listener.port,
            ports.join(", ")
        );
        return Finding::no(reason::ACCEPTED, reason::PORT_UNAVAILABLE, message);
    }
    if let Some((why, message)) = conflict {
        return Finding::no(reason::ACCEPTED, why, message.clone());
    }
    Finding::yes(reason::ACCEPTED, reason::ACCEPTED, "the listener is valid")
}

/// Reason and message where another listener of the Gateway stands in the way.
fn conflict(listener: &Listener, all: &[Listener]) -> Option<(&'static str, String)> {
    let host = HostPattern::parse(listener.hostname.as_deref());
    let others = all
        .iter()
        .filter(|other| other.name != listener.name && other.port == listener.port);
    for other in others {
        if other.protocol != listener.protocol {
            let message = format!(
                "listener {} speaks {} on the same port",
                other.name, other.protocol
            );
            return Some((reason::PROTOCOL_CONFLICT, message));
        }
        if HostPattern::parse(other.hostname.as_deref()) == host {
            let message = format!("listener {} has the same port and hostname", other.name);
            return Some((reason::HOSTNAME_CONFLICT, message));
        }
    }
    None
}

/// Whether all kinds that a listener names are served, and whether `HTTPRoute` is among them.
fn kinds(listener: &Listener) -> (bool, bool) {
    let named = listener
        .allowed_routes
        .as_ref()
        .and_then(|allowed| allowed.rest.get("kinds"));
    let named: Vec<RouteGroupKind> = named
        .and_then(|kinds| serde_json::from_value(Value::clone(kinds)).ok())
        .unwrap_or_default();
    let is_http_route = |kind: &RouteGroupKind| {
        kind.kind == HTTP_ROUTE
            && kind
                .group
                .as_deref()
                .is_none_or(|group| group == GATEWAY_GROUP)
    };
    let all = named.iter().all(is_http_route);
    (all, named.is_empty() || named.iter().any(is_http_route))
}
