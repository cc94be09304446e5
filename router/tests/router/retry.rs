//! What is sent again, and what is not.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::StatusCode;
use serde_json::json;
use tokio::sync::Semaphore;

use crate::backend::{OK, named, nobody, raw, read_request, write};
use crate::objects::{objects, plain_route};
use crate::world::World;

#[tokio::test]
async fn an_endpoint_that_refuses_costs_no_request() {
    let (good, gone) = (named("good").await, nobody().await);
    let world = World::start(&objects(&[gone, good], &[], plain_route())).await;
    let mut client = world.client().await;
    for _ in 0..50 {
        assert_eq!(client.post("body").await.body, "good");
    }
    world.counted("stable", 200, 50).await;
}

#[tokio::test]
async fn a_post_on_a_connection_that_was_closed_while_idle_is_sent_again_with_its_body() {
    let closed = Arc::new(Semaphore::new(0));
    let seen = Arc::new(AtomicUsize::new(0));
    let address = {
        let (closed, seen) = (Arc::clone(&closed), Arc::clone(&seen));
        raw(move |_, mut stream| {
            let (closed, seen) = (Arc::clone(&closed), Arc::clone(&seen));
            async move {
                assert!(read_request(&mut stream, 4).await);
                seen.fetch_add(1, Ordering::Relaxed);
                write(&mut stream, OK).await;
                drop(stream);
                closed.add_permits(1);
            }
        })
        .await
    };
    let world = World::start(&objects(&[address], &[], plain_route())).await;
    let mut client = world.client().await;
    for sent in 1..=100 {
        assert_eq!(client.post("body").await.status, StatusCode::OK);
        closed.acquire().await.unwrap().forget();
        assert_eq!(seen.load(Ordering::Relaxed), sent);
    }
    world.counted("stable", 200, 100).await;
}

/// The first connection takes a request and closes without an answer; later ones answer.
async fn world_that_loses_the_first(length: usize) -> (World, Arc<AtomicUsize>) {
    let seen = Arc::new(AtomicUsize::new(0));
    let counting = Arc::clone(&seen);
    let each = move |_, mut stream| {
        let seen = Arc::clone(&counting);
        async move {
            while read_request(&mut stream, length).await {
                if seen.fetch_add(1, Ordering::Relaxed) == 0 {
                    return;
                }
                write(&mut stream, OK).await;
            }
        }
    };
    let each = Arc::new(each);
    let (one, two) = (Arc::clone(&each), each);
    let endpoints = [
        raw(move |at, stream| one(at, stream)).await,
        raw(move |at, stream| two(at, stream)).await,
    ];
    (
        World::start(&objects(&endpoints, &[], plain_route())).await,
        seen,
    )
}

#[tokio::test]
async fn a_get_that_got_no_answer_is_sent_again_and_its_first_attempt_counts() {
    let (world, seen) = world_that_loses_the_first(0).await;
    assert_eq!(world.client().await.get(None).await.status, StatusCode::OK);
    assert_eq!(seen.load(Ordering::Relaxed), 2);
    world.counted("stable", 502, 1).await;
    assert_eq!(world.count("stable", 200), 0);
}

#[tokio::test]
async fn a_post_that_a_pod_may_have_worked_on_is_never_sent_again() {
    let (world, seen) = world_that_loses_the_first(4).await;
    assert_eq!(
        world.client().await.post("body").await.status,
        StatusCode::BAD_GATEWAY
    );
    assert_eq!(seen.load(Ordering::Relaxed), 1);
    world.counted("stable", 502, 1).await;
}

#[tokio::test]
async fn an_answer_that_takes_too_long_is_a_504_of_its_revision() {
    let address = raw(|_, mut stream| async move {
        read_request(&mut stream, 0).await;
        // Until the router lets go.
        read_request(&mut stream, 1).await;
    })
    .await;
    for timeouts in [
        json!({"request": "100ms"}),
        json!({"backendRequest": "100ms"}),
    ] {
        let mut route = plain_route();
        route["spec"]["rules"][0]["timeouts"] = timeouts;
        let world = World::start(&objects(&[address], &[], route)).await;
        assert_eq!(
            world.client().await.get(None).await.status,
            StatusCode::GATEWAY_TIMEOUT
        );
        world.counted("stable", 504, 1).await;
    }
}
