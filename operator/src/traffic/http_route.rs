//! The `HTTPRoute` of a model: what is written, and what is read back.

use std::collections::BTreeMap;

use crds::{
    contract::{self, Mark, Split},
    gateway::{
        HttpBackendRef, HttpRoute, HttpRouteRule, HttpRouteSpec, HttpRouteTimeouts, ParentReference,
    },
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{
    ResourceExt as _,
    api::{ApiResource, DynamicObject},
};
use rollout::{
    action::Route,
    observation::{RouteShape, SeenRule},
};
use serde::Deserialize as _;
use serde_json::{Value, json};

use crate::owner::Owner;

const GATEWAY_GROUP: &str = "gateway.networking.k8s.io";
const GATEWAY_KIND: &str = "Gateway";

/// The kind, for reading routes exactly as the API server stores them.
pub fn resource() -> ApiResource {
    ApiResource::erase::<HttpRoute>(&())
}

/// The patch that writes a route. With the version of the route that it was decided from, it is
/// refused if the route has changed since.
pub fn manifest(
    owner: &Owner,
    route: &Route,
    version: Option<&str>,
) -> Result<HttpRoute, serde_json::Error> {
    let backends = match &route.canary {
        None => vec![backend(&route.stable, 1)],
        Some((canary, weight)) => {
            let (rest, own) = weight.whole_numbers();
            vec![backend(&route.stable, rest), backend(canary, own)]
        }
    };
    let timeouts = route
        .shape
        .request_timeout
        .clone()
        .map(|request| HttpRouteTimeouts {
            request: Some(request),
            backend_request: None,
        });
    let split = serde_json::to_string(&route.split)?;
    let mut annotations = BTreeMap::from([(contract::ANNOTATION_SPLIT.to_owned(), split)]);
    if let Some(mark) = &route.mark {
        annotations.insert(
            contract::ANNOTATION_MARK.to_owned(),
            serde_json::to_string(mark)?,
        );
    }
    Ok(HttpRoute {
        metadata: ObjectMeta {
            annotations: Some(annotations),
            resource_version: version.map(str::to_owned),
            ..owner.metadata(&owner.name, owner.labels())
        },
        spec: HttpRouteSpec {
            parent_refs: route.shape.parents.clone(),
            hostnames: route.shape.hostnames.clone(),
            rules: vec![HttpRouteRule {
                backend_refs: backends,
                timeouts,
                ..HttpRouteRule::default()
            }],
            ..HttpRouteSpec::default()
        },
        status: None,
    })
}

fn backend(service: &str, weight: i32) -> HttpBackendRef {
    HttpBackendRef {
        group: Some(String::new()),
        kind: Some("Service".to_owned()),
        name: service.to_owned(),
        port: Some(i32::from(contract::SERVICE_PORT)),
        weight: Some(weight),
        ..HttpBackendRef::default()
    }
}

/// What a route asks for. Weights are read only from a rule as Sluice writes it: anything else
/// counts as none, and so is written anew.
pub fn read(object: &DynamicObject, namespace: &str) -> SeenRule {
    let spec = object.data.get("spec").unwrap_or(&Value::Null);
    let spec = HttpRouteSpec::deserialize(spec).unwrap_or_default();
    let (split, mark) = (split(object), mark(object));
    let rule = match spec.rules.as_slice() {
        [rule] => Some(rule),
        _ => None,
    };
    let weights = rule.filter(|rule| is_plain(rule)).map(|rule| {
        rule.backend_refs
            .iter()
            .map(|backend| (backend.name.clone(), backend.weight.unwrap_or(1)))
            .collect()
    });
    let request_timeout = rule
        .and_then(|rule| rule.timeouts.as_ref())
        .and_then(|timeouts| timeouts.request.clone());
    let shape = RouteShape {
        parents: spec.parent_refs,
        hostnames: spec.hostnames,
        key: split.as_ref().and_then(|split| split.key.clone()),
        testers: split.as_ref().and_then(|split| split.testers.clone()),
        request_timeout,
    };
    SeenRule {
        weights: weights.unwrap_or_default(),
        split,
        mark,
        shape: normal(shape, namespace),
    }
}

/// Whether a rule is of the form that Sluice writes: one match of everything, plain backends.
fn is_plain(rule: &HttpRouteRule) -> bool {
    let matches_all = rule.matches.iter().all(|one| {
        one.rest.is_empty()
            && one
                .path
                .as_ref()
                .is_none_or(|path| path.value.as_deref().is_none_or(|value| value == "/"))
    });
    let plain_backends = rule
        .backend_refs
        .iter()
        .all(|backend| backend.namespace.is_none() && backend.rest.is_empty());
    matches_all && plain_backends && rule.rest.is_empty()
}

fn split(object: &DynamicObject) -> Option<Split> {
    serde_json::from_str(object.annotations().get(contract::ANNOTATION_SPLIT)?).ok()
}

fn mark(object: &DynamicObject) -> Option<Mark> {
    serde_json::from_str(object.annotations().get(contract::ANNOTATION_MARK)?).ok()
}

/// Digest of a route, as a router that serves it reports it: the rules in the form in which our types
/// write them, where an empty list that is stored is left out.
pub fn digest(object: &DynamicObject) -> String {
    let spec = object.data.get("spec").unwrap_or(&Value::Null);
    let rules = HttpRouteSpec::deserialize(spec).map(|spec| json!(spec.rules));
    let rules = rules.unwrap_or_default();
    let annotation = |name| object.annotations().get(name).map(String::as_str);
    contract::route_digest(
        &rules,
        annotation(contract::ANNOTATION_SPLIT),
        annotation(contract::ANNOTATION_MARK),
    )
}

/// A shape in the form in which two are compared: defaults that the API server fills in are left
/// out, the namespace is named, and order does not matter.
pub fn normal(mut shape: RouteShape, namespace: &str) -> RouteShape {
    for parent in &mut shape.parents {
        parent.group = parent.group.take().filter(|group| group != GATEWAY_GROUP);
        parent.kind = parent.kind.take().filter(|kind| kind != GATEWAY_KIND);
        parent.namespace.get_or_insert_with(|| namespace.to_owned());
    }
    shape.parents.sort_by(|a, b| order(a).cmp(&order(b)));
    shape.parents.dedup();
    shape.hostnames.sort();
    shape.hostnames.dedup();
    shape
}

fn order(parent: &ParentReference) -> impl Ord + '_ {
    (
        &parent.namespace,
        &parent.name,
        &parent.section_name,
        parent.port,
        &parent.group,
        &parent.kind,
    )
}

#[cfg(test)]
mod tests {
    use rollout::weight::Weight;

    use super::*;
    use crate::owner::tests::owner;

    fn route(canary: Option<u16>) -> Route {
        let canary = canary.map(|points| ("b".to_owned(), Weight::from_basis_points(points)));
        let split = Split {
            version: contract::SPLIT_VERSION,
            run: "r1".to_owned(),
            step: 1,
            model_deployment: "digits".to_owned(),
            stable: "a".to_owned(),
            canary: canary.as_ref().map(|(name, _)| name.clone()),
            key: Some(contract::KeySource::Header {
                name: "x-user".to_owned(),
            }),
            judge: None,
            testers: Some(contract::Testers {
                by: contract::KeySource::Cookie {
                    name: "tester".to_owned(),
                },
                value: "yes".to_owned(),
            }),
            mirror: None,
        };
        let parent = ParentReference {
            name: "sluice".to_owned(),
            ..ParentReference::default()
        };
        let shape = RouteShape {
            parents: vec![parent],
            hostnames: vec!["digits.ml".to_owned(), "b.example".to_owned()],
            key: split.key.clone(),
            testers: split.testers.clone(),
            request_timeout: Some("2s".to_owned()),
        };
        let mark = Some(Mark {
            revision: "x".to_owned(),
            run: "r0".to_owned(),
            attempt: 1,
        });
        let shape = normal(shape, "ml");
        Route {
            stable: "a".to_owned(),
            canary,
            split,
            mark,
            shape,
            widens: false,
        }
    }

    fn written(route: &Route) -> DynamicObject {
        let mut manifest = json!(manifest(&owner(), route, None).unwrap());
        assert!(manifest.get("status").is_none());
        // What the API server fills in.
        manifest["spec"]["parentRefs"][0]["group"] = json!(GATEWAY_GROUP);
        manifest["spec"]["parentRefs"][0]["kind"] = json!(GATEWAY_KIND);
        manifest["spec"]["rules"][0]["matches"] =
            json!([{"path": {"type": "PathPrefix", "value": "/"}}]);
        serde_json::from_value(manifest).unwrap()
    }

    #[test]
    fn what_is_written_is_read_back() {
        let route = route(Some(500));
        let rule = read(&written(&route), "ml");
        assert_eq!(rule.weight("b"), Weight::from_basis_points(500));
        assert_eq!(
            rule.weights,
            BTreeMap::from([("a".to_owned(), 19), ("b".to_owned(), 1)])
        );
        assert_eq!(rule.split, Some(route.split));
        assert_eq!(rule.mark, route.mark);
        assert_eq!(rule.shape, route.shape);
    }

    #[test]
    fn copies_are_written_with_the_split_and_leave_no_trace_without_it() {
        let mut route = route(Some(0));
        let copies = contract::Mirror {
            share: 1000,
            methods: contract::MirrorMethods::All,
        };
        route.split.mirror = Some(copies);
        let object = written(&route);
        let rule = read(&object, "ml");
        assert_eq!(rule.weight("b"), Weight::ZERO);
        assert_eq!(rule.split.and_then(|split| split.mirror), Some(copies));
        // The rules are plain: whoever does not know the split serves stable alone.
        assert_eq!(object.data["spec"]["rules"][0].get("filters"), None);
        let before = digest(&object);
        route.split.mirror = None;
        let object = written(&route);
        assert_ne!(digest(&object), before, "routers say when the copies end");
        assert!(!object.annotations()[contract::ANNOTATION_SPLIT].contains("mirror"));
    }

    #[test]
    fn the_digest_is_the_routers_whatever_is_stored() {
        for stored in [
            json!([{"backendRefs": [{"name": "a", "port": 80, "weight": 1}]}]),
            json!([{"matches": [], "filters": [], "timeouts": {}, "backendRefs": []}]),
            json!([{"name": "x", "timeouts": {"request": "1s", "later": "2s"}}]),
            json!([{"matches": [{"path": {"type": "PathPrefix", "value": "/"}, "headers": []}]}]),
            json!([]),
            Value::Null,
        ] {
            let mut object = written(&route(Some(500)));
            object.data["spec"]["rules"] = stored.clone();
            if stored.is_null() {
                object.data["spec"].as_object_mut().unwrap().remove("rules");
            }
            let parsed: HttpRoute = object.clone().try_parse().unwrap();
            let annotation = |name| object.annotations().get(name).map(String::as_str);
            let routers = contract::route_digest(
                &json!(parsed.spec.rules),
                annotation(contract::ANNOTATION_SPLIT),
                annotation(contract::ANNOTATION_MARK),
            );
            assert_eq!(digest(&object), routers, "{stored}");
        }
    }

    #[test]
    fn a_canary_without_traffic_is_listed_with_zero() {
        let rule = read(&written(&route(Some(0))), "ml");
        assert_eq!(
            rule.weights,
            BTreeMap::from([("a".to_owned(), 1), ("b".to_owned(), 0)])
        );
        let rule = read(&written(&route(None)), "ml");
        assert_eq!(rule.weights, BTreeMap::from([("a".to_owned(), 1)]));
    }

    #[test]
    fn a_route_that_somebody_changed_has_no_weights() {
        let mut object = written(&route(Some(500)));
        object.data["spec"]["rules"][0]["filters"] = json!([{"type": "RequestMirror"}]);
        assert!(read(&object, "ml").weights.is_empty());
        let mut object = written(&route(Some(500)));
        object.data["spec"]["rules"][0]["matches"][0]["path"]["value"] = json!("/v2");
        assert!(read(&object, "ml").weights.is_empty());
    }

    #[test]
    fn a_widening_write_names_the_version_it_was_decided_from() {
        let with = manifest(&owner(), &route(None), Some("17")).unwrap();
        assert_eq!(with.metadata.resource_version.as_deref(), Some("17"));
        let without = manifest(&owner(), &route(None), None).unwrap();
        assert_eq!(without.metadata.resource_version, None);
    }

    #[test]
    fn a_shape_in_normal_form_stays_so() {
        let shape = route(None).shape;
        assert_eq!(normal(shape.clone(), "ml"), shape);
        assert_eq!(shape.parents[0].namespace.as_deref(), Some("ml"));
        assert_eq!(shape.hostnames, ["b.example", "digits.ml"]);
    }
}
