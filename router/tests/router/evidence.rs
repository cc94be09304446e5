//! What requests tell of a canary, and what follows from it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::time::Duration;

use crds::contract::{ArmEvidence, Evidence, Segment};
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use serde_json::{Value, json};
use sluice_router::table::objects::ObjectKey;
use tokio::sync::Semaphore;

use crate::backend::{OK, full, named, nobody, raw, read_request, serve, write};
use crate::objects::{objects, split_route};
use crate::world::{World, body, request, until};

pub fn route_key() -> ObjectKey {
    ObjectKey::new("ml", "digits")
}

/// A guardrail of the route's judge.
fn comparison(name: &str, event: &Value) -> Value {
    json!({
        "name": name, "event": event, "trips": true,
        "test": {"type": "Comparison", "tolerance": "1.25"},
    })
}

pub fn errors() -> Value {
    comparison("errors", &json!({"type": "Error"}))
}

/// The route of a run with these weights and guardrails.
pub fn judged(stable: u32, canary: u32, guardrails: &[Value]) -> Value {
    edited(stable, canary, |split| {
        split["judge"] = json!({"alpha": "0.001", "guardrails": guardrails});
    })
}

pub fn edited(stable: u32, canary: u32, edit: impl Fn(&mut Value)) -> Value {
    let mut route = split_route(stable, canary);
    let text = route["metadata"]["annotations"]["sluice.dev/split"].as_str();
    let mut split: Value = serde_json::from_str(text.unwrap()).unwrap();
    edit(&mut split);
    route["metadata"]["annotations"]["sluice.dev/split"] = json!(split.to_string());
    route
}

/// Answers with a code that may be changed.
pub async fn coded(code: &Arc<AtomicU16>) -> SocketAddr {
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

pub async fn failing() -> SocketAddr {
    coded(&Arc::new(AtomicU16::new(500))).await
}

impl World {
    pub fn evidence(&self) -> Evidence {
        let mut all = self.proxy.evidence.snapshot(&BTreeMap::new());
        assert_eq!(all.len(), 1);
        all.remove(0)
    }

    /// The only segment in which something was counted.
    pub fn segment(&self) -> Segment {
        let counted = |it: &Segment| it.canary.requests + it.stable.requests > 0;
        let all = self.evidence().segments.into_iter().filter(counted);
        let mut all: Vec<Segment> = all.collect();
        assert_eq!(all.len(), 1, "{all:?}");
        all.remove(0)
    }

    pub fn metric(&self, line: &str) -> Option<String> {
        let text = self.proxy.metrics.text().unwrap();
        let found = text.lines().find(|it| it.starts_with(line));
        found.map(|it| it.rsplit(' ').next().unwrap().to_owned())
    }
}

pub fn bad(arm: &ArmEvidence, guardrail: &str) -> u64 {
    arm.bad.get(guardrail).copied().unwrap_or_default()
}

/// Every third answer is a 500, every fifth of the others a 404.
async fn mixed() -> SocketAddr {
    let count = Arc::new(AtomicUsize::new(0));
    serve(move |_: Request<Incoming>| {
        let number = count.fetch_add(1, Ordering::Relaxed);
        async move {
            let mut answer = full("x");
            *answer.status_mut() = match number {
                number if number % 3 == 0 => StatusCode::INTERNAL_SERVER_ERROR,
                number if number % 5 == 0 => StatusCode::NOT_FOUND,
                _ => StatusCode::OK,
            };
            answer
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn evidence_counts_every_request_that_was_sent_once() {
    let (stable, canary) = (mixed().await, mixed().await);
    let mut watched = vec![
        errors(),
        comparison("client-errors", &json!({"type": "ClientError"})),
    ];
    // A trip would end the evidence.
    for guardrail in &mut watched {
        guardrail["trips"] = json!(false);
    }
    let world = World::start(&objects(&[stable], &[canary], judged(3, 1, &watched))).await;
    let world = Arc::new(world);
    let clients = (0..8).map(|client| {
        let world = Arc::clone(&world);
        tokio::spawn(async move {
            let mut seen: BTreeMap<(String, u16), u64> = BTreeMap::new();
            let mut connection = world.client().await;
            for number in 0..500 {
                // Half of them say who they are; a user comes ten times.
                let user = format!("{client}-{}", number / 20);
                let user = (number % 2 == 0).then_some(user.as_str());
                let answered = connection.get(user).await;
                let key = (answered.revision().to_owned(), answered.status.as_u16());
                *seen.entry(key).or_default() += 1;
            }
            seen
        })
    });
    let mut seen: BTreeMap<(String, u16), u64> = BTreeMap::new();
    for client in clients.collect::<Vec<_>>() {
        for (key, count) in client.await.unwrap() {
            *seen.entry(key).or_default() += count;
        }
    }
    let sent = |revision: &str, wanted: std::ops::Range<u16>| -> u64 {
        let of = seen
            .iter()
            .filter(|((by, code), _)| by == revision && wanted.contains(code));
        of.map(|(_, count)| count).sum()
    };
    let counted = || {
        let segment = world.segment();
        segment.canary.requests + segment.stable.requests
    };
    until("4000 requests", || counted() == 4000).await;
    let segment = world.segment();
    assert_eq!((segment.id, segment.step, segment.weight), (1, 1, 2500));
    for (arm, revision) in [(&segment.canary, "canary"), (&segment.stable, "stable")] {
        assert_eq!(arm.requests, sent(revision, 0..600), "{revision}");
        assert_eq!(bad(arm, "errors"), sent(revision, 500..600), "{revision}");
        assert_eq!(bad(arm, "client-errors"), sent(revision, 400..500));
        assert_eq!(arm.latency.iter().sum::<u64>(), arm.requests);
    }
    // Each event is one user's: 25 of each client, in one arm each.
    let events = world.evidence().events;
    let mut users: Vec<(u8, u64)> = events.iter().map(|it| (it.guardrail, it.user)).collect();
    users.sort_unstable();
    users.dedup();
    assert_eq!(users.len(), events.len());
    assert!(
        users.len() <= 2 * 8 * 25 && users.len() > 8 * 25,
        "{}",
        users.len()
    );
    // Without a key each is its own unit; with one, each user.
    let canary = &segment.canary;
    assert!(canary.units < canary.requests, "{canary:?}");
    assert!(canary.units >= canary.bad_without_user.values().sum::<u64>());
}

#[tokio::test]
async fn the_first_attempt_counts_and_not_who_answered_for_it() {
    let lost = raw(|_, mut stream| async move {
        read_request(&mut stream, 0).await;
    })
    .await;
    let stable = named("stable").await;
    let route = || judged(0, 1, &[errors()]);
    let world = World::start(&objects(&[stable], &[lost], route())).await;
    let answered = world.client().await.get(Some("u")).await;
    assert_eq!(answered.revision(), "stable");
    until("the canary's request", || {
        world.evidence().segments[0].canary.requests == 1
    })
    .await;
    let segment = world.segment();
    assert_eq!(bad(&segment.canary, "errors"), 1);
    assert_eq!(segment.stable.requests, 0);
    // Of a canary that nobody reached, and of stable that answered for it, nothing is learnt.
    let refusing = nobody().await;
    let world = World::start(&objects(&[stable], &[refusing], route())).await;
    assert_eq!(
        world.client().await.get(Some("u")).await.revision(),
        "stable"
    );
    let world2 = World::start(&objects(&[], &[], route())).await;
    let refused = world2.client().await.get(None).await;
    assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE);
    world.counted("stable", 200, 1).await;
    for world in [world, world2] {
        let evidence = world.evidence();
        let counted = |it: &Segment| it.canary.requests + it.stable.requests;
        assert_eq!(evidence.segments.iter().map(counted).sum::<u64>(), 0);
    }
}

/// Says what arrived, and answers once it is allowed to.
struct Patient {
    address: SocketAddr,
    arrived: Arc<Semaphore>,
    allowed: Arc<Semaphore>,
}

async fn patient() -> Patient {
    let (arrived, allowed) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let (arriving, allowing) = (Arc::clone(&arrived), Arc::clone(&allowed));
    let address = raw(move |_, mut stream| {
        let (arrived, allowed) = (Arc::clone(&arriving), Arc::clone(&allowing));
        async move {
            while read_request(&mut stream, 0).await {
                arrived.add_permits(1);
                allowed.acquire().await.unwrap().forget();
                write(&mut stream, OK).await;
            }
        }
    })
    .await;
    Patient {
        address,
        arrived,
        allowed,
    }
}

#[tokio::test]
async fn a_client_that_goes_away_early_tells_nothing() {
    let (stable, pod) = (named("stable").await, patient().await);
    let canary = pod.address;
    let guardrails = [
        errors(),
        comparison("slow", &json!({"type": "SlowerThan", "millis": 60_000})),
    ];
    let world = World::start(&objects(&[stable], &[canary], judged(0, 1, &guardrails))).await;
    let mut client = world.client().await;
    let waiting = tokio::spawn(async move { client.get(None).await.status });
    pod.arrived.acquire().await.unwrap().forget();
    waiting.abort();
    world.counted("canary", 499, 1).await;
    assert_eq!(world.evidence().segments[0].canary.requests, 0);
}

#[tokio::test]
async fn a_request_that_is_too_old_is_bad_before_it_ends_and_counted_once() {
    let (stable, pod) = (named("stable").await, patient().await);
    let canary = pod.address;
    let slow = comparison("slow", &json!({"type": "SlowerThan", "millis": 50}));
    let world = World::start(&objects(&[stable], &[canary], judged(1, 100_000, &[slow]))).await;
    let mut client = world.client().await;
    let waiting = tokio::spawn(async move { client.get(Some("u")).await.status });
    let canary = || world.evidence().segments[0].canary.clone();
    until("a bad request", || bad(&canary(), "slow") == 1).await;
    assert_eq!(canary().requests, 0);
    assert!(!waiting.is_finished());
    pod.allowed.add_permits(1);
    assert_eq!(waiting.await.unwrap(), StatusCode::OK);
    until("its end", || canary().requests == 1).await;
    assert_eq!(bad(&canary(), "slow"), 1);
    assert_eq!(world.evidence().events.len(), 1);
}

#[tokio::test]
async fn streams_are_judged_by_their_first_byte_their_pauses_and_their_end() {
    // Head; after 120 ms a chunk; after 120 ms another; then the end, or none.
    let streaming = |whole: bool| {
        raw(move |_, mut stream| async move {
            while read_request(&mut stream, 0).await {
                write(
                    &mut stream,
                    "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
                )
                .await;
                for _ in 0..2 {
                    tokio::time::sleep(Duration::from_millis(120)).await;
                    write(&mut stream, "2\r\nok\r\n").await;
                }
                if !whole {
                    return;
                }
                write(&mut stream, "0\r\n\r\n").await;
            }
        })
    };
    let guardrails: Vec<Value> = [
        json!({"type": "Error"}),
        json!({"type": "BrokenStream"}),
        json!({"type": "SlowFirstByte", "millis": 60}),
        json!({"type": "SlowFirstByte", "millis": 60_000}),
        json!({"type": "SlowChunk", "millis": 60}),
        json!({"type": "SlowChunk", "millis": 60_000}),
        json!({"type": "SlowerThan", "millis": 180}),
    ]
    .iter()
    .enumerate()
    .map(|(at, event)| comparison(&at.to_string(), event))
    .collect();
    for (whole, broken) in [
        (true, vec!["2", "4", "6"]),
        (false, vec!["0", "1", "2", "4", "6"]),
    ] {
        let (stable, canary) = (named("stable").await, streaming(whole).await);
        let world = World::start(&objects(&[stable], &[canary], judged(0, 1, &guardrails))).await;
        let mut client = world.client().await;
        let response = client.begin(request(Method::GET, None, body(""))).await;
        assert_eq!(response.unwrap().into_body().collect().await.is_ok(), whole);
        let canary = || world.evidence().segments[0].canary.clone();
        until("the request", || canary().requests == 1).await;
        let seen = canary().bad;
        assert_eq!(seen.keys().collect::<Vec<_>>(), broken, "{whole}");
        assert!(seen.values().all(|count| *count == 1), "{seen:?}");
    }
}

#[tokio::test]
async fn requests_of_a_fresh_endpoint_are_no_evidence_for_what_needs_warm_pods() {
    let (stable, canary) = (named("stable").await, failing().await);
    let mut warm = comparison("warm", &json!({"type": "Error"}));
    warm["warmUpMillis"] = json!(3_600_000);
    let world = World::start(&objects(
        &[stable],
        &[canary],
        judged(0, 1, &[errors(), warm]),
    ))
    .await;
    assert_eq!(world.client().await.get(None).await.status.as_u16(), 500);
    until("the request", || {
        world.evidence().segments[0].canary.requests == 1
    })
    .await;
    let canary = world.segment().canary;
    assert_eq!(canary.bad, BTreeMap::from([("errors".to_owned(), 1)]));
}

#[tokio::test]
async fn a_request_counts_in_the_segment_in_which_it_was_routed() {
    let (stable, pod) = (named("stable").await, patient().await);
    let canary = pod.address;
    let table = |weight: u32, step: u32| {
        let route = edited(100 - weight, weight, |split| {
            split["step"] = json!(step);
            split["judge"] = json!({"alpha": "0.001", "guardrails": [errors()]});
        });
        objects(&[stable], &[canary], route)
    };
    let world = World::start(&table(100, 1)).await;
    let mut early = world.client().await;
    let begun = tokio::spawn(async move { early.get(None).await.status });
    pod.arrived.acquire().await.unwrap().forget();
    for (weight, step) in [(50, 1), (50, 2), (0, 2)] {
        world.publish(&table(weight, step));
    }
    let mut client = world.client().await;
    assert_eq!(client.get(None).await.revision(), "stable");
    pod.allowed.add_permits(1);
    assert_eq!(begun.await.unwrap(), StatusCode::OK);
    let counted = |weight: u16| {
        let all = world.evidence().segments;
        let of = all
            .iter()
            .find(|it| it.weight == weight && it.canary.requests + it.stable.requests > 0);
        of.map(|it| (it.step, it.canary.requests, it.stable.requests))
    };
    until("both", || counted(10_000).is_some() && counted(0).is_some()).await;
    assert_eq!(counted(10_000), Some((1, 1, 0)));
    assert_eq!(counted(0), Some((2, 0, 1)));
}

#[tokio::test]
async fn a_judge_that_cannot_be_followed_makes_its_route_invalid() {
    let mut wrong = errors();
    wrong["test"]["tolerance"] = json!("0.5");
    let built = sluice_router::table::build(
        &objects(&[], &[], judged(1, 1, &[errors(), wrong])),
        &crate::world::settings(),
        &sluice_router::table::LastGood::new(),
    );
    assert!(built.table.routes.is_empty());
    let said = format!("{:?}", built.statuses.routes);
    let path = "metadata.annotations[sluice.dev/split]: judge.guardrails[1].test.tolerance: ";
    assert!(said.contains(path), "{said}");
}

#[tokio::test]
async fn what_testers_get_is_no_evidence() {
    let (stable, canary) = (named("stable").await, failing().await);
    let route = edited(1, 0, |split| {
        split["testers"] =
            json!({"by": {"type": "Header", "name": "x-user-id"}, "value": "tester"});
        split["judge"] = json!({"alpha": "0.001", "guardrails": [errors()]});
    });
    let world = World::start(&objects(&[stable], &[canary], route)).await;
    let mut client = world.client().await;
    assert_eq!(client.get(Some("tester")).await.revision(), "canary");
    world.counted("canary", 500, 1).await;
    assert_eq!(client.get(Some("user")).await.revision(), "stable");
    world.counted("stable", 200, 1).await;
    let segment = world.segment();
    assert_eq!((segment.canary.requests, segment.stable.requests), (0, 1));
}
