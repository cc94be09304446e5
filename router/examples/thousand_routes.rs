//! How long a router with a thousand routes takes from an object that changed to requests that see
//! it: `cargo run --release -p sluice-router --example thousand_routes`.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    clippy::as_conversions,
    reason = "a measurement that cannot go on should say where"
)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use sluice_router::pick::SplitKey;
use sluice_router::proxy::Proxy;
use sluice_router::table::objects::Objects;
use sluice_router::table::{self, LastGood, Settings};

const ROUTES: usize = 1000;
const ROUNDS: usize = 200;
const PODS: usize = 3;

fn object<T: DeserializeOwned>(value: Value) -> Arc<T> {
    Arc::new(serde_json::from_value(value).unwrap())
}

fn route(n: usize, weight: usize) -> Value {
    let (stable, canary) = (format!("model-{n}-1-a"), format!("model-{n}-1-b"));
    let judge = json!({"alpha": "0.0008", "guardrails": [
        {"name": "errors", "event": {"type": "Error"}, "test": {"type": "Comparison", "tolerance": "1.25"}, "trips": true},
        {"name": "slow-answers", "event": {"type": "SlowerThan", "millis": 250},
            "test": {"type": "Comparison", "tolerance": "1.25"}, "trips": true, "warmUpMillis": 30000},
    ]});
    let split = json!({
        "version": 1, "run": format!("r{n}"), "step": 1, "modelDeployment": format!("model-{n}"), "stable": stable,
        "canary": canary, "key": {"type": "Header", "name": "x-user-id"}, "judge": judge,
    });
    json!({
        "metadata": {
            "name": format!("model-{n}"), "namespace": format!("team-{}", n % 20), "uid": format!("u{n}"), "generation": 1,
            "resourceVersion": format!("{n}-{weight}"), "creationTimestamp": "2026-01-01T00:00:00Z",
            "annotations": {"sluice.dev/split": split.to_string()},
        },
        "spec": {
            "parentRefs": [{"name": "gw", "namespace": "infra"}],
            "hostnames": [format!("model-{n}.team"), format!("model-{n}.team.svc"), format!("model-{n}.team.svc.cluster.local")],
            "rules": [{"backendRefs": [
                {"name": stable, "port": 80, "weight": 100 - weight}, {"name": canary, "port": 80, "weight": weight},
            ]}],
        },
    })
}

fn world() -> Objects {
    let mut objects = Objects {
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
    };
    for n in 0..ROUTES {
        objects.routes.push(object(route(n, 1)));
        for (at, role) in ["a", "b"].iter().enumerate() {
            let (name, namespace) = (format!("model-{n}-1-{role}"), format!("team-{}", n % 20));
            objects.services.push(object(json!({
                "metadata": {"name": name, "namespace": namespace},
                "spec": {"ports": [{"name": "http", "port": 80}]},
            })));
            let address = |pod: usize| format!("10.{}.{}.{}", at * 8 + pod, n / 250, n % 250);
            let endpoints: Vec<Value> = (0..PODS)
                .map(|pod| json!({"addresses": [address(pod)]}))
                .collect();
            objects.slices.push(object(json!({
                "metadata": {"name": format!("{name}-x"), "namespace": namespace, "labels": {"kubernetes.io/service-name": name}},
                "addressType": "IPv4",
                "ports": [{"name": "http", "port": 8080}],
                "endpoints": endpoints,
            })));
        }
    }
    objects
}

fn figures(what: &str, mut times: Vec<Duration>) {
    times.sort();
    let at = |share: usize| times[(times.len() - 1) * share / 100].as_secs_f64() * 1e3;
    println!(
        "{what}: median {:.2} ms, p99 {:.2} ms, max {:.2} ms",
        at(50),
        at(99),
        at(100)
    );
}

fn main() {
    let settings = Settings {
        controller_name: "sluice.dev/router".to_owned(),
        ports: [80].into(),
        service: None,
    };
    let key = SplitKey::new(b"a key for measuring").unwrap();
    let proxy = Proxy::new(key, Duration::from_mins(1), Duration::from_millis(500));
    let mut objects = world();
    let mut last_good = LastGood::new();
    let (mut builds, mut publishes) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let n = round * 7 % ROUTES;
        objects.routes[n] = object(route(n, 2 + round % 98));
        let began = Instant::now();
        let built = table::build(&objects, &settings, &last_good);
        builds.push(began.elapsed());
        assert_eq!(built.table.routes.len(), ROUTES);
        last_good = built.last_good;
        let began = Instant::now();
        proxy.publish(built.table);
        publishes.push(began.elapsed());
    }
    println!(
        "{ROUTES} routes in a run, {} services, {PODS} endpoints each",
        2 * ROUTES
    );
    println!(
        "first: build {:?}, publish {:?}",
        builds.remove(0),
        publishes.remove(0)
    );
    figures("build", builds);
    figures("publish", publishes);
}
