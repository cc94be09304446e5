//! What is said of objects, and that it is what is served.

use std::sync::Arc;

use crds::contract::route_digest;
use serde_json::{Value, json};
use sluice_router::table::objects::{ObjectKey, Objects};
use sluice_router::table::{self, Built, LastGood};

use crate::objects::{add_service, gateway, object, plain_route, route, split_route};
use crate::world::settings;

fn build(objects: &Objects) -> Built {
    table::build(objects, &settings(), &LastGood::new())
}

fn with(routes: &[Value]) -> Objects {
    let mut objects = gateway();
    add_service(&mut objects, "stable", &["10.0.0.1:80".parse().unwrap()]);
    add_service(&mut objects, "canary", &[]);
    objects.routes = routes.iter().map(|route| object(route.clone())).collect();
    objects
}

/// `type=status reason` of the conditions at a route's only parent.
fn said(built: &Built, namespace: &str, name: &str) -> Vec<String> {
    let found = &built.statuses.routes[&ObjectKey::new(namespace, name)];
    assert_eq!(found.parents.len(), 1);
    found.parents[0]
        .1
        .iter()
        .map(|it| format!("{}={} {}", it.type_, it.status, it.reason))
        .collect()
}

fn served(built: &Built) -> Vec<String> {
    built
        .table
        .routes
        .iter()
        .map(|route| route.key.to_string())
        .collect()
}

#[test]
fn a_valid_route_is_accepted_served_and_digested() {
    let wanted = split_route(3, 1);
    let built = build(&with(std::slice::from_ref(&wanted)));
    assert_eq!(
        said(&built, "ml", "digits"),
        ["Accepted=true Accepted", "ResolvedRefs=true ResolvedRefs"]
    );
    let split = wanted["metadata"]["annotations"]["sluice.dev/split"].as_str();
    let digest = route_digest(&wanted["spec"]["rules"], split, None);
    assert_eq!(built.table.routes[0].digest, digest);
    let gateway = &built.statuses.gateways[&ObjectKey::new("infra", "gw")];
    assert_eq!(gateway.listeners[0].attached_routes, 1);
    let weights: Vec<(&str, f64)> = built
        .table
        .series
        .iter()
        .map(|it| (it.revision.as_str(), it.weight))
        .collect();
    assert_eq!(weights, [("canary", 0.25), ("stable", 0.75)]);
}

#[test]
fn what_is_not_supported_is_refused_by_name_and_not_served() {
    let rows: &[(&str, Value, &str)] = &[
        (
            "/spec/rules/0/filters",
            json!([{"type": "RequestMirror"}]),
            "spec.rules[0].filters",
        ),
        (
            "/spec/rules/0/matches",
            json!([{"headers": [{"name": "a", "value": "b"}]}]),
            "spec.rules[0].matches[0].headers",
        ),
        (
            "/spec/rules/0/matches",
            json!([{}, {"method": "GET"}]),
            "spec.rules[0].matches[1].method",
        ),
        (
            "/spec/rules/0/matches",
            json!([{"queryParams": [{"name": "a", "value": "b"}]}]),
            "spec.rules[0].matches[0].queryParams",
        ),
        (
            "/spec/rules/0/matches",
            json!([{"path": {"type": "RegularExpression", "value": "/a"}}]),
            "spec.rules[0].matches[0].path",
        ),
        (
            "/spec/rules/0/backendRefs/0/filters",
            json!([{"type": "X"}]),
            "spec.rules[0].backendRefs[0].filters",
        ),
        (
            "/spec/rules/0/timeouts",
            json!({"request": "soon"}),
            "spec.rules[0].timeouts.request",
        ),
        (
            "/metadata/annotations/sluice.dev~1split",
            json!("{"),
            "metadata.annotations[sluice.dev/split]",
        ),
        (
            "/metadata/annotations/sluice.dev~1split",
            json!("{\"version\":2,\"modelDeployment\":\"d\",\"stable\":\"s\"}"),
            "version 2",
        ),
    ];
    for (at, value, expected) in rows {
        let mut wanted = plain_route();
        let (parent, field) = at.rsplit_once('/').unwrap();
        wanted.pointer_mut(parent).unwrap()[field.replace("~1", "/")] = value.clone();
        let built = build(&with(&[wanted]));
        assert_eq!(
            said(&built, "ml", "digits")[0],
            "Accepted=false UnsupportedValue",
            "{at}"
        );
        let message =
            &built.statuses.routes[&ObjectKey::new("ml", "digits")].parents[0].1[0].message;
        assert!(message.contains(expected), "{message}");
        assert!(served(&built).is_empty());
    }
}

#[test]
fn an_invalid_edit_leaves_the_last_valid_route_in_force_and_heeds_its_mark() {
    let first = build(&with(&[split_route(1, 1)]));
    let mut edited = split_route(0, 1);
    edited["metadata"]["generation"] = json!(2);
    edited["spec"]["rules"][0]["filters"] = json!([{"type": "RequestMirror"}]);
    edited["metadata"]["annotations"]["sluice.dev/condemned"] =
        json!(json!({"revision": "canary", "run": "r1"}).to_string());
    let second = table::build(&with(&[edited.clone()]), &settings(), &first.last_good);
    assert_eq!(
        said(&second, "ml", "digits")[0],
        "Accepted=false UnsupportedValue"
    );
    assert_eq!(second.table.routes[0].generation, 1);
    let weights: Vec<f64> = second.table.series.iter().map(|it| it.weight).collect();
    assert_eq!(weights, [0.0, 1.0], "the canary is condemned");
    let digest = route_digest(
        &split_route(1, 1)["spec"]["rules"],
        edited["metadata"]["annotations"]["sluice.dev/split"].as_str(),
        edited["metadata"]["annotations"]["sluice.dev/condemned"].as_str(),
    );
    assert_eq!(second.table.routes[0].digest, digest);
    // Another object of the same name has no past.
    edited["metadata"]["uid"] = json!("new");
    assert!(
        served(&table::build(
            &with(&[edited]),
            &settings(),
            &second.last_good
        ))
        .is_empty()
    );
}

#[test]
fn references_that_lead_nowhere_say_why() {
    let rows = [
        (json!({"name": "none", "port": 80}), "BackendNotFound"),
        (json!({"name": "stable", "port": 81}), "BackendNotFound"),
        (
            json!({"name": "stable", "port": 80, "kind": "Pod"}),
            "InvalidKind",
        ),
        (
            json!({"name": "stable", "port": 80, "namespace": "other"}),
            "RefNotPermitted",
        ),
    ];
    for (backend, reason) in rows {
        let mut wanted = plain_route();
        wanted["spec"]["rules"][0]["backendRefs"] = json!([backend]);
        let built = build(&with(&[wanted]));
        assert_eq!(
            said(&built, "ml", "digits"),
            [
                "Accepted=true Accepted".to_owned(),
                format!("ResolvedRefs=false {reason}")
            ]
        );
    }
}

#[test]
fn parents_that_do_not_take_a_route_say_why() {
    let listener = |objects: &mut Objects, patch: &Value| {
        let mut gateway = serde_json::to_value(&*objects.gateways[0]).unwrap();
        let fields = patch.as_object().unwrap().clone();
        gateway["spec"]["listeners"][0]
            .as_object_mut()
            .unwrap()
            .extend(fields);
        objects.gateways = vec![object(gateway)];
    };
    let named = json!({"name": "gw", "namespace": "infra", "sectionName": "other"});
    let same = json!({"allowedRoutes": {"namespaces": {"from": "Same"}}});
    let selector = json!({"allowedRoutes": {"namespaces": {"from": "Selector", "selector": {"matchLabels": {"team": "ml"}}}}});
    let rows = [
        (Some(named), json!({}), "Accepted=false NoMatchingParent"),
        (None, same, "Accepted=false NotAllowedByListeners"),
        (
            None,
            json!({"hostname": "*.other.com"}),
            "Accepted=false NoMatchingListenerHostname",
        ),
        (
            None,
            json!({"hostname": "*.example.com"}),
            "Accepted=true Accepted",
        ),
        (
            None,
            selector.clone(),
            "Accepted=false NotAllowedByListeners",
        ),
        (None, json!({"port": 81}), "Accepted=false NoMatchingParent"),
    ];
    for (parent, patch, expected) in rows {
        let mut wanted = plain_route();
        if let Some(parent) = parent {
            wanted["spec"]["parentRefs"] = json!([parent]);
        }
        let mut objects = with(&[wanted]);
        listener(&mut objects, &patch);
        let built = build(&objects);
        assert_eq!(said(&built, "ml", "digits")[0], expected, "{patch}");
        assert_eq!(served(&built).is_empty(), expected.contains("false"));
    }
    let mut objects = with(&[plain_route()]);
    listener(&mut objects, &selector);
    objects.namespaces.push(object(
        json!({"metadata": {"name": "ml", "labels": {"team": "ml"}}}),
    ));
    assert_eq!(served(&build(&objects)), ["ml/digits"]);
}

#[test]
fn listeners_that_cannot_be_served_say_why() {
    let mut objects = gateway();
    objects.gateways = vec![object(json!({
        "metadata": {"name": "gw", "namespace": "infra", "generation": 7},
        "spec": {"gatewayClassName": "sluice", "listeners": [
            {"name": "good", "port": 80, "protocol": "HTTP", "hostname": "a.b"},
            {"name": "port", "port": 81, "protocol": "HTTP"},
            {"name": "tls", "port": 443, "protocol": "HTTPS"},
            {"name": "twin", "port": 80, "protocol": "HTTP", "hostname": "c.d"},
            {"name": "twin-too", "port": 80, "protocol": "HTTP", "hostname": "c.d"},
            {"name": "kinds", "port": 80, "protocol": "HTTP", "hostname": "e.f", "allowedRoutes": {"kinds": [{"kind": "TCPRoute"}]}},
        ]},
    }))];
    let built = build(&objects);
    let found = &built.statuses.gateways[&ObjectKey::new("infra", "gw")];
    let said: Vec<String> = found
        .listeners
        .iter()
        .map(|it| {
            let accepted = it
                .conditions
                .iter()
                .find(|it| it.type_ == "Accepted")
                .unwrap();
            let refs = it
                .conditions
                .iter()
                .find(|it| it.type_ == "ResolvedRefs")
                .unwrap();
            format!(
                "{} {} {} {}",
                it.name,
                accepted.reason,
                refs.reason,
                it.supported_kinds.len()
            )
        })
        .collect();
    assert_eq!(
        said,
        [
            "good Accepted ResolvedRefs 1",
            "port PortUnavailable ResolvedRefs 1",
            "tls UnsupportedProtocol ResolvedRefs 0",
            "twin HostnameConflict ResolvedRefs 1",
            "twin-too HostnameConflict ResolvedRefs 1",
            "kinds Accepted InvalidRouteKinds 0",
        ]
    );
    assert_eq!(found.generation, 7);
    assert!(found.conditions.iter().all(|it| it.status));
}

#[test]
fn of_two_namespaces_with_one_hostname_the_older_route_wins() {
    let spec = plain_route()["spec"].clone();
    let older = route("b", "ml", &spec);
    let mut younger = route("a", "aa", &spec);
    younger["metadata"]["creationTimestamp"] = json!("2026-02-01T00:00:00Z");
    let built = build(&with(&[younger.clone(), older]));
    assert_eq!(
        said(&built, "aa", "a")[0],
        "Accepted=false HostnameConflict"
    );
    assert_eq!(served(&built), ["ml/b"]);
    // A path below it would take part of its requests; the wider path takes only what is left.
    let mut below = younger.clone();
    below["spec"]["rules"][0]["matches"] = json!([{"path": {"value": "/a"}}]);
    let built = build(&with(&[below, route("b", "ml", &spec)]));
    assert_eq!(
        said(&built, "aa", "a")[0],
        "Accepted=false HostnameConflict"
    );
    assert_eq!(served(&built), ["ml/b"]);
    let mut narrow = route("b", "ml", &spec);
    narrow["spec"]["rules"][0]["matches"] = json!([{"path": {"value": "/a"}}]);
    assert_eq!(served(&build(&with(&[younger, narrow]))), ["ml/b", "aa/a"]);
    // The same namespace never clashes with itself.
    let twins = with(&[route("a", "ml", &spec), route("b", "ml", &spec)]);
    assert_eq!(served(&build(&twins)), ["ml/a", "ml/b"]);
}

#[test]
fn only_ready_endpoints_are_used_by_the_name_of_their_port() {
    let mut objects = with(&[plain_route()]);
    objects.slices = vec![object(json!({
        "metadata": {"name": "s", "namespace": "ml", "labels": {"kubernetes.io/service-name": "stable"}},
        "addressType": "IPv4",
        "ports": [{"name": "grpc", "port": 1}, {"name": "http", "port": 8080}],
        "endpoints": [
            {"addresses": ["10.0.0.1"]},
            {"addresses": ["10.0.0.2"], "conditions": {"ready": false}},
            {"addresses": ["10.0.0.3"], "conditions": {"ready": true, "terminating": true}},
            {"addresses": ["10.0.0.4"], "conditions": {"ready": true, "terminating": false}},
        ],
    }))];
    let found: Vec<String> = build(&objects)
        .table
        .endpoints
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(found, ["10.0.0.1:8080", "10.0.0.4:8080"]);
}

#[test]
fn what_is_not_ours_is_left_alone() {
    let mut objects = with(&[plain_route()]);
    let mut class = serde_json::to_value(&*objects.classes[0]).unwrap();
    class["spec"]["controllerName"] = json!("example.com/other");
    objects.classes = vec![object(class)];
    let built = build(&objects);
    assert!(built.statuses.classes.is_empty() && built.statuses.gateways.is_empty());
    assert!(built.statuses.routes.is_empty() && built.table.routes.is_empty());
    let good = built.last_good[&ObjectKey::new("ml", "digits")]
        .good
        .as_ref();
    assert!(good.is_some_and(|good| Arc::ptr_eq(good, &objects.routes[0])));
}

#[test]
fn what_was_read_of_a_route_holds_while_the_route_is_the_same_and_no_longer() {
    let key = ObjectKey::new("ml", "digits");
    let mut objects = with(&[split_route(3, 1)]);
    let first = build(&objects);
    let again = table::build(&objects, &settings(), &first.last_good);
    assert!(Arc::ptr_eq(&again.last_good[&key], &first.last_good[&key]));
    // What is not of the route is read anew.
    objects.services.clear();
    let without = table::build(&objects, &settings(), &again.last_good);
    assert_eq!(
        said(&without, "ml", "digits")[1],
        "ResolvedRefs=false BackendNotFound"
    );
    let mut marked = split_route(3, 1);
    let mark = json!({"revision": "canary", "run": "r1"}).to_string();
    marked["metadata"]["annotations"]["sluice.dev/condemned"] = json!(mark);
    let objects = with(&[marked]);
    let marked = table::build(&objects, &settings(), &again.last_good);
    assert_ne!(marked.table.routes[0].digest, first.table.routes[0].digest);
    assert_eq!(marked.table.series[0].weight.to_string(), "0");
}

#[test]
fn a_split_with_a_name_that_would_fill_every_scrape_is_refused() {
    for field in ["modelDeployment", "run"] {
        let mut route = split_route(1, 1);
        let annotation = &mut route["metadata"]["annotations"]["sluice.dev/split"];
        let mut split: Value = serde_json::from_str(annotation.as_str().unwrap()).unwrap();
        split[field] = json!("x".repeat(100_000));
        *annotation = json!(split.to_string());
        assert_eq!(served(&build(&with(&[route]))), [""; 0], "{field}");
    }
}
