//! Whose data plane carries a route, and whether one that is not ours serves it as it is.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use crds::{
    contract,
    gateway::{Gateway, GatewayClass, HttpRoute, ParentReference, RouteParentStatus},
};
use kube::{Api, Client};
use rollout::observation::Applied;
use tokio::time::Instant;

use crate::{args::NamespacedName, clock};

/// How long what a Gateway belongs to is taken for known.
const CLASS_KNOWN_FOR: Duration = Duration::from_secs(30);
/// How long another implementation gets to program what it has accepted.
pub const SETTLE: Duration = Duration::from_secs(10);

/// What is known of Gateways.
#[derive(Debug, Default)]
pub struct Gateways {
    classes: Mutex<BTreeMap<NamespacedName, (Instant, bool)>>,
}

impl Gateways {
    /// Whether one of a route's parents is a Gateway that our router serves.
    pub async fn are_any_ours(
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
            if self.is_ours(client, gateway).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn is_ours(&self, client: &Client, name: NamespacedName) -> Result<bool, kube::Error> {
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
