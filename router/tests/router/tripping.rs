//! Canaries that are taken out, and those that are not.

use http::StatusCode;
use serde_json::json;

use crate::backend::{named, nobody};
use crate::evidence::{bad, edited, errors, failing, judged, route_key};
use crate::objects::{objects, split_route};
use crate::world::{World, until};

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
    let number = |name: &str| world.metric(name).unwrap().parse::<f64>().unwrap();
    assert!(number("sluice_router_evidence{") >= number("sluice_router_evidence_bound{"));
    // What came after it stands apart, at weight 0.
    let evidence = world.evidence();
    let after = evidence.segments.iter().find(|it| it.weight == 0).unwrap();
    assert!(after.stable.requests >= 500, "{evidence:?}");
    assert_eq!(after.canary.requests, 0);
}

#[tokio::test]
async fn one_user_who_tries_a_thousand_times_trips_nothing() {
    let (stable, canary) = (named("stable").await, failing().await);
    let world = World::start(&objects(&[stable], &[canary], judged(1, 1, &[errors()]))).await;
    let mut client = world.client().await;
    let mut user = None;
    for number in 0..100 {
        let name = format!("user {number}");
        if client.get(Some(&name)).await.revision() == "canary" {
            user = Some(name);
            break;
        }
    }
    let user = user.unwrap();
    for _ in 0..1000 {
        let answered = client.get(Some(&user)).await;
        assert_eq!(answered.revision(), "canary");
        assert_eq!(answered.status.as_u16(), 500);
    }
    let judged = || world.evidence().last > 0 && bad(&world.segment().canary, "errors") == 1001;
    until("all of them", judged).await;
    assert_eq!(world.evidence().events.len(), 1);
    assert!(world.proxy.trips.get(&route_key()).is_none());
    assert_eq!(world.segment().canary.units, 1);
}

/// Sends until the canary is out.
async fn trip(world: &World) {
    let mut client = world.client().await;
    for _ in 0..2000 {
        client.get(None).await;
        if world.proxy.trips.get(&route_key()).is_some() {
            return;
        }
    }
    panic!("no trip");
}

#[tokio::test]
async fn a_trip_holds_for_its_run_whatever_the_weight_and_for_no_other() {
    let (stable, canary) = (named("stable").await, failing().await);
    let world = World::start(&objects(&[stable], &[canary], judged(1, 1, &[errors()]))).await;
    trip(&world).await;
    let mut client = world.client().await;
    world.publish(&objects(&[stable], &[canary], judged(0, 1, &[errors()])));
    for _ in 0..50 {
        assert_eq!(client.get(None).await.revision(), "stable");
    }
    // Stable's endpoints fail: a canary that was taken out does not answer for them.
    world.publish(&objects(
        &[nobody().await],
        &[canary],
        judged(1, 1, &[errors()]),
    ));
    for _ in 0..10 {
        let status = client.get(None).await.status;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    }
    // Without an endpoint of stable there is nothing to go back to.
    world.publish(&objects(&[], &[canary], judged(1, 1, &[errors()])));
    assert_eq!(client.get(None).await.revision(), "canary");
    let next = edited(0, 1, |split| split["run"] = json!("r2"));
    world.publish(&objects(&[stable], &[canary], next));
    assert_eq!(client.get(None).await.revision(), "canary");
}

#[tokio::test]
async fn a_trip_by_anothers_word_holds_too() {
    let (stable, canary) = (named("stable").await, named("canary").await);
    let world = World::start(&objects(&[stable], &[canary], split_route(0, 1))).await;
    let mut client = world.client().await;
    assert_eq!(client.get(None).await.revision(), "canary");
    let told = "run=r1 revision=canary guardrail=errors logE=9 bound=8: elsewhere";
    let trip = crds::contract::Trip::from_condition_message(told).unwrap();
    assert!(world.proxy.trips.trip(&route_key(), trip));
    assert_eq!(client.get(None).await.revision(), "stable");
    let labels =
        "sluice_router_weight{namespace=\"ml\",model_deployment=\"digits\",revision=\"canary\"";
    until("weight 0", || {
        world.metric(labels).as_deref() == Some("0.0")
    })
    .await;
}

#[tokio::test]
async fn nothing_is_taken_out_while_stable_has_no_endpoint() {
    let (stable, canary) = (named("stable").await, failing().await);
    // There is nothing to compare with.
    let mut objective = errors();
    objective["test"] = json!({"type": "Objective", "max": "0.1"});
    let route = || judged(1, 9, std::slice::from_ref(&objective));
    let world = World::start(&objects(&[], &[canary], route())).await;
    let mut client = world.client().await;
    // What answers for stable is no evidence; enough users drew the canary.
    for _ in 0..100 {
        let answered = client.get(None).await;
        assert_eq!(answered.revision(), "canary");
    }
    until("a verdict", || !world.proxy.evidence.held().is_empty()).await;
    let held = world.proxy.applied().routes[0].held.clone();
    assert_eq!(held.as_deref(), Some("errors"));
    assert!(world.proxy.trips.get(&route_key()).is_none());
    assert_eq!(client.get(None).await.revision(), "canary");
    world.publish(&objects(&[stable], &[canary], route()));
    until("a trip", || world.proxy.trips.get(&route_key()).is_some()).await;
    assert_eq!(client.get(None).await.revision(), "stable");
    assert!(world.proxy.evidence.held().is_empty());
}
