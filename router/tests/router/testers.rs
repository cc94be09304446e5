//! Who asks for the canary by name.

use http::{Method, Request};
use serde_json::json;

use crate::backend::{named, nobody};
use crate::objects::{edited, objects};
use crate::world::{Answered, Client, ClientBody, World, body, request};

/// A route whose testers say `x-try: next`, at this weight of the canary.
fn route(canary: u32) -> serde_json::Value {
    edited(100 - canary, canary, |split| {
        let by = json!({"type": "Header", "name": "x-try"});
        split["testers"] = json!({"by": by, "value": "next"});
    })
}

fn saying(word: &str) -> Request<ClientBody> {
    let mut request = request(Method::GET, Some("u1"), body(""));
    request.headers_mut().insert("x-try", word.parse().unwrap());
    request
}

async fn said(client: &mut Client, word: &str) -> Answered {
    client.send(saying(word)).await.unwrap()
}

#[tokio::test]
async fn testers_get_the_canary_whatever_its_weight_and_nobody_else_does() {
    let (stable, canary) = (named("stable").await, named("canary").await);
    let world = World::start(&objects(&[stable], &[canary], route(0))).await;
    let mut client = world.client().await;
    for _ in 0..20 {
        assert_eq!(said(&mut client, "next").await.revision(), "canary");
        assert_eq!(said(&mut client, "later").await.revision(), "stable");
        assert_eq!(client.get(Some("u1")).await.revision(), "stable");
    }
    // What they got is counted with the revision that gave it.
    world.counted("canary", 200, 20).await;
    world.counted("stable", 200, 40).await;
}

#[tokio::test]
async fn a_cookie_tells_testers_as_well() {
    let (stable, canary) = (named("stable").await, named("canary").await);
    let route = edited(100, 0, |split| {
        let by = json!({"type": "Cookie", "name": "try"});
        split["testers"] = json!({"by": by, "value": "next"});
    });
    let world = World::start(&objects(&[stable], &[canary], route)).await;
    let mut asking = request(Method::GET, None, body(""));
    let cookie = "a=b; try=next".parse().unwrap();
    asking.headers_mut().insert("cookie", cookie);
    let mut client = world.client().await;
    assert_eq!(client.send(asking).await.unwrap().revision(), "canary");
}

#[tokio::test]
async fn a_canary_that_is_gone_or_condemned_is_shown_to_nobody() {
    let (stable, canary) = (named("stable").await, named("canary").await);
    let mut condemned = route(5);
    let mark = json!({"revision": "canary", "run": "r1"}).to_string();
    condemned["metadata"]["annotations"]["sluice.dev/condemned"] = json!(mark);
    let off = edited(100, 0, |_| {});
    for (endpoints, route) in [
        (vec![], route(0)),
        (vec![nobody().await], route(0)),
        (vec![canary], condemned),
        (vec![canary], off),
    ] {
        let world = World::start(&objects(&[stable], &endpoints, route)).await;
        let mut client = world.client().await;
        for _ in 0..5 {
            assert_eq!(said(&mut client, "next").await.revision(), "stable");
        }
    }
}

#[tokio::test]
async fn a_canary_that_was_taken_out_is_shown_to_nobody_from_the_next_request_on() {
    let (stable, canary) = (named("stable").await, named("canary").await);
    let world = World::start(&objects(&[stable], &[canary], route(5))).await;
    let mut client = world.client().await;
    assert_eq!(said(&mut client, "next").await.revision(), "canary");
    world.take_out();
    for _ in 0..5 {
        assert_eq!(said(&mut client, "next").await.revision(), "stable");
    }
}

#[tokio::test]
async fn what_testers_get_is_no_evidence() {
    let (stable, canary) = (named("stable").await, named("canary").await);
    let route = edited(95, 5, |split| {
        let by = json!({"type": "Header", "name": "x-try"});
        split["testers"] = json!({"by": by, "value": "next"});
        split["judge"] = json!({"alpha": "0.001", "guardrails": [{
            "name": "errors", "event": {"type": "Error"}, "trips": true,
            "test": {"type": "Comparison", "tolerance": "1.25"},
        }]});
    });
    let world = World::start(&objects(&[stable], &[canary], route)).await;
    let mut client = world.client().await;
    for user in 0..40 {
        said(&mut client, "next").await;
        client.get(Some(&format!("user {user}"))).await;
    }
    let counted = || {
        let all = world
            .proxy
            .evidence
            .snapshot(&std::collections::BTreeMap::new());
        let segments = all.into_iter().flat_map(|one| one.segments);
        let requests = segments.map(|it| it.canary.requests + it.stable.requests);
        requests.sum::<u64>()
    };
    crate::world::until("all but the testers' are evidence", || counted() == 40).await;
    assert!(world.count("canary", 200) >= 40);
}
