//! What requests tell of a canary, and what follows from it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use crds::contract::{ArmEvidence, Evidence, Segment};
use http::{Request, StatusCode};
use hyper::body::Incoming;
use serde_json::{Value, json};
use sluice_router::table::objects::ObjectKey;

use crate::backend::{full, named, nobody, raw, read_request, serve, write};
use crate::objects::{objects, split_route};
use crate::world::{World, until};

fn route_key() -> ObjectKey {
    ObjectKey::new("ml", "digits")
}

/// A guardrail of the route's judge.
fn comparison(name: &str, event: &Value) -> Value {
    json!({
        "name": name, "event": event, "trips": true,
        "test": {"type": "Comparison", "tolerance": "1.25"},
    })
}

fn errors() -> Value {
    comparison("errors", &json!({"type": "Error"}))
}

/// The route of a run with these weights and guardrails.
fn judged(stable: u32, canary: u32, guardrails: &[Value]) -> Value {
    edited(stable, canary, |split| {
        split["judge"] = json!({"alpha": "0.001", "guardrails": guardrails});
    })
}

fn edited(stable: u32, canary: u32, edit: impl Fn(&mut Value)) -> Value {
    let mut route = split_route(stable, canary);
    let text = route["metadata"]["annotations"]["sluice.dev/split"].as_str();
    let mut split: Value = serde_json::from_str(text.unwrap()).unwrap();
    edit(&mut split);
    route["metadata"]["annotations"]["sluice.dev/split"] = json!(split.to_string());
    route
}

/// Answers with a code that may be changed.
async fn coded(code: &Arc<AtomicU16>) -> SocketAddr {
    let code = Arc::clone(code);
    serve(move |_: Request<Incoming>| {
        let code = Arc::clone(&code);
        async move {
            let mut answer = full("x");
            *answer.status_mut() = StatusCode::from_u16(code.load(Ordering::Relaxed)).unwrap();
            answer
        }
    })
    .await
}

async fn failing() -> SocketAddr {
    coded(&Arc::new(AtomicU16::new(500))).await
}

impl World {
    fn evidence(&self) -> Evidence {
        let mut all = self.proxy.evidence.snapshot(&BTreeMap::new());
        assert_eq!(all.len(), 1);
        all.remove(0)
    }

    /// The only segment in which something was counted.
    fn segment(&self) -> Segment {
        let counted = |it: &Segment| it.canary.requests + it.stable.requests > 0;
        let all = self.evidence().segments.into_iter().filter(counted);
        let mut all: Vec<Segment> = all.collect();
        assert_eq!(all.len(), 1, "{all:?}");
        all.remove(0)
    }

    fn metric(&self, line: &str) -> Option<String> {
        let text = self.proxy.metrics.text().unwrap();
        let found = text.lines().find(|it| it.starts_with(line));
        found.map(|it| it.rsplit(' ').next().unwrap().to_owned())
    }
}

fn bad(arm: &ArmEvidence, guardrail: &str) -> u64 {
    arm.bad.get(guardrail).copied().unwrap_or_default()
}

#[tokio::test]
async fn a_canary_that_only_fails_is_out_after_a_few_of_its_requests() {
    let (stable, canary) = (named("stable").await, failing().await);
    let world = World::start(&objects(&[stable], &[canary], judged(95, 5, &[errors()]))).await;
    let mut client = world.client().await;
    let (mut sent, mut bad) = (0, 0);
    while world.proxy.trips.get(&route_key()).is_none() {
        sent += 1;
        assert!(sent < 5000, "no trip after {bad} bad answers");
        bad += u32::from(client.get(None).await.status != StatusCode::OK);
    }
    // Four bad ones are enough; what comes until the next look is a matter of speed.
    assert!(bad >= 4, "{bad}");
    for _ in 0..500 {
        assert_eq!(client.get(None).await.revision(), "stable");
    }
    let trip = world.proxy.trips.get(&route_key()).unwrap();
    assert_eq!(
        (trip.run.as_str(), trip.revision.as_str()),
        ("r1", "canary")
    );
    assert_eq!(trip.guardrail, "errors");
    assert!(trip.log_e.parse().unwrap() >= trip.bound.parse().unwrap());
    let weight = |revision| {
        let labels = format!(
            "sluice_router_weight{{namespace=\"ml\",model_deployment=\"digits\",revision=\"{revision}\""
        );
        world.metric(&labels)
    };
    assert_eq!(weight("canary").as_deref(), Some("0.0"));
    assert_eq!(weight("stable").as_deref(), Some("1.0"));
    assert_eq!(
        world.metric("sluice_router_trips_total{").as_deref(),
        Some("1")
    );
    // What came after it stands apart, at weight 0.
    let evidence = world.evidence();
    let after = evidence.segments.iter().find(|it| it.weight == 0).unwrap();
    assert!(after.stable.requests >= 500, "{evidence:?}");
    assert_eq!(after.canary.requests, 0);
}
