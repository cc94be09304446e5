//! Copies of requests that only show how the canary bears them.

use std::net::SocketAddr;
use std::time::Duration;

use http::{Method, Request, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::backend::{full, named, raw, read_request, serve};
use crate::objects::{edited, objects};
use crate::world::{World, body, request, until};

/// A route that mirrors a share of requests to a canary without weight.
fn route(share: u16, methods: &str) -> Value {
    edited(100, 0, |split| {
        split["mirror"] = json!({"share": share, "methods": methods});
    })
}

/// What a pod was asked: method, whether it is a copy, body.
type Asked = (Method, Option<String>, String);

async fn telling(name: &'static str, code: u16) -> (SocketAddr, mpsc::UnboundedReceiver<Asked>) {
    let (told, heard) = mpsc::unbounded_channel();
    let address = serve(move |request: Request<Incoming>| {
        let told = told.clone();
        async move {
            let (parts, body) = request.into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            let mark = parts.headers.get("x-sluice-mirror");
            let mark = mark.map(|mark| mark.to_str().unwrap().to_owned());
            let body = String::from_utf8(body.to_vec()).unwrap();
            told.send((parts.method, mark, body)).unwrap();
            let mut answer = full(name);
            *answer.status_mut() = StatusCode::from_u16(code).unwrap();
            answer
        }
    })
    .await;
    (address, heard)
}

impl World {
    fn mirrored(&self, outcome: &str) -> u64 {
        let labels =
            "namespace=\"ml\",model_deployment=\"digits\",revision=\"canary\",route=\"digits\"";
        let series = format!("sluice_router_mirrored_total{{{labels},outcome=\"{outcome}\"}} ");
        let text = self.proxy.metrics.text().unwrap();
        let count = text.lines().find_map(|line| line.strip_prefix(&series));
        count.map_or(0, |count| count.parse().unwrap())
    }

    async fn all_mirrored(&self, outcome: &str, want: u64) {
        until(&format!("{want} copies {outcome}"), || {
            self.mirrored(outcome) == want
        })
        .await;
    }

    /// Whether the canary's requests count nothing.
    fn canary_counts_nothing(&self) -> bool {
        [200, 500, 502, 503, 504]
            .iter()
            .all(|code| self.count("canary", *code) == 0)
    }
}

#[tokio::test]
async fn the_canary_gets_copies_and_the_user_stables_answer() {
    let ((stable, mut to_stable), (canary, mut to_canary)) =
        (telling("stable", 200).await, telling("canary", 500).await);
    let world = World::start(&objects(&[stable], &[canary], route(10_000, "Safe"))).await;
    let mut client = world.client().await;
    for _ in 0..10 {
        let mut request = request(Method::GET, Some("u1"), body(""));
        let mark = "true".parse().unwrap();
        request.headers_mut().insert("x-sluice-mirror", mark);
        let answered = client.send(request).await.unwrap();
        assert_eq!(
            (answered.status, answered.revision()),
            (StatusCode::OK, "stable")
        );
        let (method, mark, _) = to_stable.recv().await.unwrap();
        assert_eq!(
            (method, mark),
            (Method::GET, None),
            "only we say that it is a copy"
        );
        let (method, mark, _) = to_canary.recv().await.unwrap();
        assert_eq!((method, mark.as_deref()), (Method::GET, Some("true")));
    }
    world.all_mirrored("failed", 10).await;
    world.counted("stable", 200, 10).await;
    assert!(world.canary_counts_nothing());
    // What is not safe is sent once.
    assert_eq!(client.post("body").await.body, "stable");
    assert_eq!(world.mirrored("failed"), 10);
    to_canary.try_recv().unwrap_err();
}

#[tokio::test]
async fn bodies_are_copied_where_all_methods_are() {
    let ((stable, mut to_stable), (canary, mut to_canary)) =
        (telling("stable", 200).await, telling("canary", 200).await);
    let world = World::start(&objects(&[stable], &[canary], route(10_000, "All"))).await;
    let mut client = world.client().await;
    for size in [1, 1000, 300_000, 1024 * 1024] {
        let text = "x".repeat(size);
        assert_eq!(client.post(&text).await.status, StatusCode::OK);
        assert_eq!(to_stable.recv().await.unwrap().2, text);
        assert_eq!(to_canary.recv().await.unwrap().2, text);
    }
    world.all_mirrored("answered", 4).await;
    // One that is too large is passed on and not kept.
    let text = "x".repeat(1024 * 1024 + 1);
    assert_eq!(client.post(&text).await.status, StatusCode::OK);
    assert_eq!(to_stable.recv().await.unwrap().2.len(), text.len());
    world.all_mirrored("too_large", 1).await;
    to_canary.try_recv().unwrap_err();
    assert!(world.canary_counts_nothing());
}

#[tokio::test]
async fn a_share_of_the_requests_is_copied() {
    let (stable, canary) = (named("stable").await, named("canary").await);
    let world = World::start(&objects(&[stable], &[canary], route(1000, "Safe"))).await;
    let mut client = world.client().await;
    for _ in 0..1000 {
        client.get(None).await;
    }
    world.counted("stable", 200, 1000).await;
    until("copies are over", || {
        let before = world.mirrored("answered");
        // Six standard deviations around a hundred.
        (44..=156).contains(&before)
    })
    .await;
}

#[tokio::test]
async fn a_canary_that_never_answers_delays_nobody_and_is_sent_no_more_than_there_is_room_for() {
    let stable = named("stable").await;
    let stuck = raw(|_, mut stream| async move {
        read_request(&mut stream, 0).await;
        // Until the router lets go.
        read_request(&mut stream, 1).await;
    })
    .await;
    let world = World::start(&objects(&[stable], &[stuck], route(10_000, "Safe"))).await;
    let mut client = world.client().await;
    let all = async {
        for _ in 0..400 {
            assert_eq!(client.get(None).await.revision(), "stable");
        }
    };
    // The canary alone would take longer than the test.
    tokio::time::timeout(Duration::from_secs(20), all)
        .await
        .expect("no delay");
    world.all_mirrored("busy", 400 - 256).await;
    world.counted("stable", 200, 400).await;
    assert!(world.canary_counts_nothing());
}

#[tokio::test]
async fn a_canary_that_was_taken_out_gets_no_copies_from_the_next_request_on() {
    let (stable, (canary, mut to_canary)) = (named("stable").await, telling("canary", 200).await);
    let world = World::start(&objects(&[stable], &[canary], route(10_000, "All"))).await;
    let mut client = world.client().await;
    client.get(None).await;
    to_canary.recv().await.unwrap();
    world.take_out();
    for _ in 0..10 {
        client.get(None).await;
    }
    world.all_mirrored("answered", 1).await;
    to_canary.try_recv().unwrap_err();
}

#[tokio::test]
async fn a_condemned_canary_gets_no_copies() {
    let (stable, (canary, mut to_canary)) = (named("stable").await, telling("canary", 200).await);
    let mut condemned = route(10_000, "All");
    let mark = json!({"revision": "canary", "run": "r1"}).to_string();
    condemned["metadata"]["annotations"]["sluice.dev/condemned"] = json!(mark);
    let world = World::start(&objects(&[stable], &[canary], condemned)).await;
    let mut client = world.client().await;
    for _ in 0..10 {
        client.get(None).await;
    }
    to_canary.try_recv().unwrap_err();
    // The same without the mark, so that this test can fail.
    world.publish(&objects(&[stable], &[canary], route(10_000, "All")));
    client.get(None).await;
    to_canary.recv().await.unwrap();
}
