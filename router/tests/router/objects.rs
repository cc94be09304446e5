//! Objects as the API server would give them.

use std::net::SocketAddr;
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use sluice_router::table::objects::Objects;

pub const HOST: &str = "digits.example.com";

pub fn object<T: DeserializeOwned>(value: Value) -> Arc<T> {
    Arc::new(serde_json::from_value(value).expect("object"))
}

/// A class and a Gateway with one listener that admits all namespaces.
pub fn gateway() -> Objects {
    Objects {
        classes: vec![object(json!({
            "metadata": {"name": "sluice", "generation": 1}, "spec": {"controllerName": "sluice.dev/router"},
        }))],
        gateways: vec![object(json!({
            "metadata": {"name": "gw", "namespace": "infra", "generation": 1},
            "spec": {"gatewayClassName": "sluice", "listeners": [
                {"name": "http", "port": 80, "protocol": "HTTP", "allowedRoutes": {"namespaces": {"from": "All"}}},
            ]},
        }))],
        ..Objects::default()
    }
}

pub fn add_service(objects: &mut Objects, name: &str, endpoints: &[SocketAddr]) {
    objects.services.push(object(json!({
        "metadata": {"name": name, "namespace": "ml"},
        "spec": {"ports": [{"name": "http", "port": 80}]},
    })));
    for (at, endpoint) in endpoints.iter().enumerate() {
        objects.slices.push(object(json!({
            "metadata": {"name": format!("{name}-{at}"), "namespace": "ml", "labels": {"kubernetes.io/service-name": name}},
            "addressType": "IPv4",
            "ports": [{"name": "http", "port": endpoint.port()}],
            "endpoints": [{"addresses": [endpoint.ip().to_string()]}],
        })));
    }
}

pub fn route(name: &str, namespace: &str, spec: &Value) -> Value {
    json!({
        "metadata": {
            "name": name, "namespace": namespace, "uid": format!("{namespace}/{name}"), "generation": 1,
            "creationTimestamp": "2026-01-01T00:00:00Z", "annotations": {},
        },
        "spec": spec,
    })
}

/// A route over the Services `stable` and `canary` with these weights, split by `x-user-id`.
pub fn split_route(stable: u32, canary: u32) -> Value {
    let mut route = route(
        "digits",
        "ml",
        &json!({
            "parentRefs": [{"name": "gw", "namespace": "infra"}],
            "hostnames": [HOST],
            "rules": [{"backendRefs": [
                {"name": "stable", "port": 80, "weight": stable}, {"name": "canary", "port": 80, "weight": canary},
            ]}],
        }),
    );
    let split = json!({
        "version": 1, "run": "r1", "step": 1, "modelDeployment": "digits", "stable": "stable",
        "canary": "canary", "key": {"type": "Header", "name": "x-user-id"},
    });
    route["metadata"]["annotations"]["sluice.dev/split"] = json!(split.to_string());
    route
}

/// The same with another split.
pub fn edited(stable: u32, canary: u32, edit: impl Fn(&mut Value)) -> Value {
    let mut route = split_route(stable, canary);
    let text = route["metadata"]["annotations"]["sluice.dev/split"].as_str();
    let mut split: Value = serde_json::from_str(text.unwrap()).unwrap();
    edit(&mut split);
    route["metadata"]["annotations"]["sluice.dev/split"] = json!(split.to_string());
    route
}

/// A route to the Service `stable` alone.
pub fn plain_route() -> Value {
    route(
        "digits",
        "ml",
        &json!({
            "parentRefs": [{"name": "gw", "namespace": "infra"}],
            "hostnames": [HOST],
            "rules": [{"backendRefs": [{"name": "stable", "port": 80}]}],
        }),
    )
}

/// Gateway, `stable` and `canary`, and one route.
pub fn objects(stable: &[SocketAddr], canary: &[SocketAddr], route: Value) -> Objects {
    let mut objects = gateway();
    add_service(&mut objects, "stable", stable);
    add_service(&mut objects, "canary", canary);
    objects.routes.push(object(route));
    objects
}
