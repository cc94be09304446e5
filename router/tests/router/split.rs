//! The split as clients see it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http::StatusCode;
use serde_json::json;

use crate::backend::{named, nobody};
use crate::objects::{objects, split_route};
use crate::world::World;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn weight_changes_under_load_drop_nothing() {
    let (stable, canary) = (named("stable").await, named("canary").await);
    let world = Arc::new(World::start(&objects(&[stable], &[canary], split_route(100, 0))).await);
    let done = Arc::new(AtomicBool::new(false));
    let swapping = {
        let (world, done) = (Arc::clone(&world), Arc::clone(&done));
        tokio::spawn(async move {
            let mut swaps = 0_u32;
            while !done.load(Ordering::Relaxed) {
                swaps += 1;
                let weight = swaps * 7 % 101;
                world.publish(&objects(
                    &[stable],
                    &[canary],
                    split_route(100 - weight, weight),
                ));
                tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            }
            swaps
        })
    };
    let clients = (0..8).map(|_| {
        let world = Arc::clone(&world);
        tokio::spawn(async move {
            let mut client = world.client().await;
            for number in 0..500 {
                let answered = client.post(&format!("body {number}")).await;
                assert_eq!(answered.status, StatusCode::OK);
                assert_eq!(answered.body, answered.revision().as_bytes());
            }
        })
    });
    for client in clients.collect::<Vec<_>>() {
        client.await.unwrap();
    }
    done.store(true, Ordering::Relaxed);
    assert!(
        swapping.await.unwrap() > 20,
        "the weight must have changed while requests ran"
    );
    let (to_stable, to_canary) = (world.count("stable", 200), world.count("canary", 200));
    assert_eq!(to_stable + to_canary, 4000);
    assert!(to_stable > 0 && to_canary > 0);
}

#[tokio::test]
async fn raising_the_weight_keeps_every_canary_user_and_weight_zero_none() {
    let (stable, canary) = (named("stable").await, named("canary").await);
    let world = World::start(&objects(&[stable], &[canary], split_route(1, 0))).await;
    let mut client = world.client().await;
    let mut before: BTreeSet<usize> = BTreeSet::new();
    for (low, high) in [(1, 0), (95, 5), (3, 1), (1, 1), (0, 1)] {
        world.publish(&objects(&[stable], &[canary], split_route(low, high)));
        let mut now = BTreeSet::new();
        for user in 0..300 {
            let answered = client.get(Some(&format!("user {user}"))).await;
            if answered.revision() == "canary" {
                now.insert(user);
            }
        }
        assert!(now.is_superset(&before), "at {low}:{high}");
        assert_eq!(now.len() == 300, low == 0);
        assert_eq!(now.is_empty(), high == 0);
        before = now;
    }
}

#[tokio::test]
async fn a_mark_takes_the_canary_out_whatever_its_weight() {
    let (stable, canary) = (named("stable").await, named("canary").await);
    let world = World::start(&objects(&[stable], &[canary], split_route(0, 100))).await;
    let mut client = world.client().await;
    assert_eq!(client.get(None).await.revision(), "canary");
    for (mark, expected) in [
        (
            json!({"revision": "canary", "run": "r0"}).to_string(),
            "canary",
        ),
        (
            json!({"revision": "other", "run": "r1"}).to_string(),
            "canary",
        ),
        (
            json!({"revision": "canary", "run": "r1"}).to_string(),
            "stable",
        ),
        ("unreadable".to_owned(), "stable"),
    ] {
        let mut route = split_route(0, 100);
        route["metadata"]["annotations"]["sluice.dev/condemned"] = json!(mark);
        world.publish(&objects(&[stable], &[canary], route));
        for user in 0..20 {
            let answered = client.get(Some(&user.to_string())).await;
            assert_eq!(
                (answered.revision(), answered.status),
                (expected, StatusCode::OK),
                "{mark}"
            );
        }
    }
}

#[tokio::test]
async fn requests_fail_over_between_the_two_sides() {
    let (stable, canary) = (named("stable").await, named("canary").await);
    let gone = nobody().await;
    // Without endpoints, and with endpoints that refuse.
    for lost in [vec![], vec![gone]] {
        let world = World::start(&objects(&[stable], &lost, split_route(0, 100))).await;
        assert_eq!(world.client().await.get(None).await.revision(), "stable");
        assert_eq!(
            (world.count("stable", 200), world.count("canary", 200)),
            (1, 0)
        );

        world.publish(&objects(&lost, &[canary], split_route(50, 50)));
        for _ in 0..20 {
            assert_eq!(world.client().await.get(None).await.revision(), "canary");
        }
        // A canary without weight gets nothing, not even then.
        world.publish(&objects(&lost, &[canary], split_route(100, 0)));
        let answered = world.client().await.get(None).await;
        assert_eq!(answered.status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(
            (world.count("stable", 503), world.count("canary", 503)),
            (0, 0)
        );
        world.counted("", 503, 1).await;
    }
}
