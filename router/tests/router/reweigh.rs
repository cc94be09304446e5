//! Weights that change several times a second while users are served.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::SinkExt as _;
use futures::channel::mpsc;
use http::{Method, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Incoming;
use serde_json::json;
use sluice_router::proxy::HEADER_REVISION;
use sluice_router::table::objects::Objects;

use crate::backend::serve;
use crate::evidence::{bad, errors};
use crate::objects::{edited, objects};
use crate::world::{World, body, request, until};

/// Clients that send one small request after another, each on one connection.
const CLIENTS: u64 = 4;
/// Clients whose bodies go on from one table to the next.
const STREAMS: u64 = 2;
/// Requests between two changes at least, so that there is load however busy the machine is.
const BETWEEN: u64 = 10;
/// Requests of each client after the last change, each of another user.
const AFTER: u64 = 250;
/// The weight in the end, in percent.
const LAST: u32 = 25;
/// Segments of a run that are told of at most.
const SEGMENTS_MAX: usize = 64;

/// Answers with success, by revision.
type Seen = BTreeMap<String, u64>;

/// Sends back what it gets, as it gets it.
async fn echo() -> SocketAddr {
    serve(|request: Request<Incoming>| async move { Response::new(request.into_body().boxed()) })
        .await
}

fn of(seen: &Seen, revision: &str) -> u64 {
    seen.get(revision).copied().unwrap_or_default()
}

fn add(all: &mut Seen, more: Seen) {
    for (revision, count) in more {
        *all.entry(revision).or_default() += count;
    }
}

#[derive(Clone)]
struct Load {
    world: Arc<World>,
    /// Set once the last weight is served.
    settled: Arc<AtomicBool>,
    answers: Arc<AtomicU64>,
}

impl Load {
    fn is_settled(&self) -> bool {
        self.settled.load(Ordering::Acquire)
    }

    fn saw(&self, seen: &mut Seen, revision: &str) {
        *seen.entry(revision.to_owned()).or_default() += 1;
        self.answers.fetch_add(1, Ordering::Relaxed);
    }

    /// What was seen while weights changed, and after that.
    async fn ask(self, number: u64) -> (Seen, Seen) {
        let mut client = self.world.client().await;
        let (mut during, mut after) = (Seen::new(), Seen::new());
        let (mut count, mut left) = (0_u64, AFTER);
        while left > 0 {
            let is_settled = self.is_settled();
            let text = if is_settled {
                format!("user {number}-{left}")
            } else {
                format!("client {number}, request {count}")
            };
            count += 1;
            // Half of them say who they are while weights change, and all of them after that.
            let has_key = is_settled || count % 2 == 0;
            let user = has_key.then_some(text.as_str());
            let sent = request(Method::POST, user, body(&text));
            let answered = client.send(sent).await.unwrap();
            assert_eq!(answered.status, StatusCode::OK);
            assert_eq!(answered.body, text.as_bytes());
            left -= u64::from(is_settled);
            let seen = if is_settled { &mut after } else { &mut during };
            self.saw(seen, answered.revision());
        }
        (during, after)
    }

    /// Streams whose chunks are sent under one table after another.
    async fn stream(self) -> Seen {
        let mut client = self.world.client().await;
        let mut published = self.world.proxy.published.subscribe();
        let mut seen = Seen::new();
        while !self.is_settled() {
            let (mut chunks, source) = mpsc::channel::<Result<Frame<Bytes>, Infallible>>(1);
            let source = StreamBody::new(source).map_err(|never| match never {});
            let sent = request(Method::POST, None, source.boxed());
            let mut response = client.begin(sent).await.unwrap();
            assert_eq!(response.status(), StatusCode::OK);
            for number in 0..3 {
                let text = Bytes::from(format!("chunk {number}"));
                chunks.send(Ok(Frame::data(text.clone()))).await.unwrap();
                let frame = response.frame().await.unwrap().unwrap();
                assert_eq!(frame.into_data().unwrap(), text);
                if !self.is_settled() {
                    published.changed().await.unwrap();
                }
            }
            drop(chunks);
            assert!(response.frame().await.is_none());
            let revision = response.headers()[HEADER_REVISION].to_str().unwrap();
            self.saw(&mut seen, revision);
        }
        seen
    }

    /// Gives every weight its turn, and then the last.
    async fn change(&self, every: Duration, changes: u32, table: impl Fn(u32, u32) -> Objects) {
        let mut ticks = tokio::time::interval(every);
        for change in 1..=changes {
            ticks.tick().await;
            let enough = self.answers.load(Ordering::Relaxed) + BETWEEN;
            let weight = if change == changes {
                LAST
            } else {
                change * 37 % 101
            };
            self.world.publish(&table(weight, 1 + change / 10));
            until("requests between changes", || {
                self.answers.load(Ordering::Relaxed) >= enough
            })
            .await;
        }
        self.settled.store(true, Ordering::Release);
        // The same once more: streams wait for it.
        self.world.publish(&table(LAST, 1 + changes / 10));
    }
}

/// The users that ask are the same each time, and so is the key: what is found here never changes.
fn assert_follows_the_last_weight(after: &Seen) {
    let canary = u32::try_from(of(after, "canary")).unwrap();
    let all = u32::try_from(CLIENTS * AFTER).unwrap();
    assert_eq!(after.values().sum::<u64>(), CLIENTS * AFTER);
    let share = f64::from(LAST) / 100.0;
    let expected = f64::from(all) * share;
    let chi = (f64::from(canary) - expected).powi(2) / (expected * (1.0 - share));
    // One degree of freedom, at one in a thousand.
    assert!(
        chi < 10.83,
        "{canary} of {all} after the last change, χ² {chi}"
    );
}

async fn assert_counted(world: &World, seen: &Seen) {
    let total = |evidence: &crds::contract::Evidence| {
        let arms = |it: &crds::contract::Segment| it.canary.requests + it.stable.requests;
        evidence.segments.iter().map(arms).sum::<u64>()
    };
    let sent: u64 = seen.values().sum();
    until("all requests to be evidence", || {
        total(&world.evidence()) >= sent
    })
    .await;
    let evidence = world.evidence();
    let arm = |of: fn(&crds::contract::Segment) -> &crds::contract::ArmEvidence| {
        let arms = evidence.segments.iter().map(of);
        arms.fold((0, 0, 0), |(requests, latency, errors), arm| {
            (
                requests + arm.requests,
                latency + arm.latency.iter().sum::<u64>(),
                errors + bad(arm, "errors"),
            )
        })
    };
    let (to_canary, to_stable) = (of(seen, "canary"), of(seen, "stable"));
    assert_eq!(arm(|it| &it.canary), (to_canary, to_canary, 0));
    assert_eq!(arm(|it| &it.stable), (to_stable, to_stable, 0));
    assert_eq!(evidence.dropped, 0);
    world.counted("canary", 200, to_canary).await;
    world.counted("stable", 200, to_stable).await;
}

/// Changes the weight `changes` times; gives how many segments the run has in the end.
async fn reweigh(every: Duration, changes: u32) -> usize {
    let (stable, canary) = (echo().await, echo().await);
    let table = |weight: u32, step: u32| {
        let route = edited(100 - weight, weight, |split| {
            split["step"] = json!(step);
            split["judge"] = json!({"alpha": "0.001", "guardrails": [errors()]});
        });
        objects(&[stable], &[canary], route)
    };
    let load = Load {
        world: Arc::new(World::start(&table(0, 1)).await),
        settled: Arc::default(),
        answers: Arc::default(),
    };
    let asking: Vec<_> = (0..CLIENTS)
        .map(|number| tokio::spawn(load.clone().ask(number)))
        .collect();
    let streaming: Vec<_> = (0..STREAMS)
        .map(|_| tokio::spawn(load.clone().stream()))
        .collect();
    load.change(every, changes, table).await;

    let (mut all, mut after) = (Seen::new(), Seen::new());
    for client in asking {
        let (during, then) = client.await.unwrap();
        add(&mut all, during);
        add(&mut all, then.clone());
        add(&mut after, then);
    }
    for client in streaming {
        let streams = client.await.unwrap();
        assert!(
            streams.values().sum::<u64>() > 0,
            "no stream came to its end"
        );
        add(&mut all, streams);
    }
    assert_follows_the_last_weight(&after);
    assert_counted(&load.world, &all).await;
    let segments = load.world.evidence().segments;
    let last = segments.iter().max_by_key(|it| it.id).unwrap();
    assert_eq!(u32::from(last.weight), LAST * 100);
    assert!(last.canary.requests >= of(&after, "canary"));
    segments.len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_changes_a_second_cost_no_request_and_no_evidence() {
    let segments = reweigh(Duration::from_millis(100), 10).await;
    assert!(segments >= 8, "{segments} segments of 10 weights");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_changes_a_second_cost_no_request_and_no_evidence() {
    let segments = reweigh(Duration::from_millis(10), 80).await;
    // More weights than are kept: those that were merged are still counted above.
    assert!(segments <= SEGMENTS_MAX, "{segments} segments");
    assert!(segments > SEGMENTS_MAX / 2, "{segments} segments");
}
