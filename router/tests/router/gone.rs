//! All pods of one revision are gone at once.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};

use crds::contract::ArmEvidence;
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, JoinSet};

use crate::backend::{full, named};
use crate::evidence::{bad, coded, errors, judged, route_key};
use crate::objects::{objects, split_route};
use crate::persist::{admin, applied};
use crate::world::{Client, World, body, request, until};

/// More than one request tries.
const PODS: usize = 4;
const USERS: u64 = 100;

/// A pod that can be gone, with its listener and all its connections.
struct Pod {
    address: SocketAddr,
    kill: oneshot::Sender<()>,
    gone: JoinHandle<()>,
}

impl Pod {
    async fn start(name: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (kill, mut killed) = oneshot::channel();
        let gone = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                tokio::select! {
                    accepted = listener.accept() => {
                        connections.spawn(serve(name, accepted.unwrap().0));
                    }
                    _ = &mut killed => break,
                }
            }
            drop(listener);
            connections.shutdown().await;
        });
        Self {
            address,
            kill,
            gone,
        }
    }

    async fn kill(self) {
        self.kill.send(()).unwrap();
        self.gone.await.unwrap();
    }
}

async fn serve(name: &'static str, stream: TcpStream) {
    stream.set_nodelay(true).unwrap();
    let service = service_fn(move |request: Request<Incoming>| async move {
        request.into_body().collect().await.ok();
        Ok::<_, Infallible>(full(name))
    });
    let serving = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    serving.await.ok();
}

async fn pods(name: &'static str) -> Vec<Pod> {
    let mut pods = Vec::new();
    for _ in 0..PODS {
        pods.push(Pod::start(name).await);
    }
    pods
}

fn addresses(pods: &[Pod]) -> Vec<SocketAddr> {
    pods.iter().map(|pod| pod.address).collect()
}

/// Sends one request of each user, every other one with a body that can be sent only once; gives
/// the users whom the canary answered.
async fn ask_all(client: &mut Client) -> BTreeSet<u64> {
    let mut canaries = BTreeSet::new();
    for user in 0..USERS {
        let (method, text) = if user % 2 == 0 {
            (Method::GET, "")
        } else {
            (Method::POST, "text")
        };
        let name = format!("user {user}");
        let sent = request(method, Some(&name), body(text));
        let answered = client.send(sent).await.unwrap();
        assert_eq!(answered.status, StatusCode::OK, "user {user}");
        assert_eq!(answered.body, answered.revision().as_bytes());
        if answered.revision() == "canary" {
            canaries.insert(user);
        }
    }
    canaries
}

/// What was seen of the canary and of stable.
fn seen(world: &World) -> (ArmEvidence, ArmEvidence) {
    let segment = world.segment();
    (segment.canary, segment.stable)
}

#[tokio::test]
async fn stable_answers_for_a_canary_without_pods_until_they_are_back() {
    let stable = named("stable").await;
    let before = pods("canary").await;
    let table = |canary: &[SocketAddr]| objects(&[stable], canary, judged(75, 25, &[errors()]));
    let world = World::start(&table(&addresses(&before))).await;
    let mut client = world.client().await;
    let users = ask_all(&mut client).await;
    assert!(users.len() > 10 && users.len() < 40, "{users:?}");
    let canary_sees = u64::try_from(users.len()).unwrap();
    let stable_sees = USERS - canary_sees;

    for pod in before {
        pod.kill().await;
    }
    // Still in the table, and then no more.
    for round in 1..=2 {
        assert_eq!(ask_all(&mut client).await, BTreeSet::new());
        let counted = || seen(&world).1.requests == stable_sees * (round + 1);
        until("stable's own users", counted).await;
        let (canary, _) = seen(&world);
        assert_eq!(canary.requests, canary_sees, "nobody reached the canary");
        assert_eq!(bad(&canary, "errors"), 0);
        world.publish(&table(&[]));
    }
    assert_eq!(ask_all(&mut client).await, BTreeSet::new());

    let after = pods("canary").await;
    world.publish(&table(&addresses(&after)));
    assert_eq!(ask_all(&mut client).await, users);
    until("the canary's users", || {
        seen(&world).0.requests == canary_sees * 2
    })
    .await;
    assert_eq!(bad(&seen(&world).0, "errors"), 0);
    assert_eq!(world.evidence().last, 0);
    assert!(world.proxy.trips.get(&route_key()).is_none());
    let answers = world.count("canary", 200) + world.count("stable", 200);
    assert_eq!(answers, 5 * USERS);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_that_are_gone_in_the_middle_of_requests_cost_no_get() {
    let stable = named("stable").await;
    let canaries = pods("canary").await;
    let listed = addresses(&canaries);
    let world = Arc::new(World::start(&objects(&[stable], &listed, split_route(75, 25))).await);
    let answers = Arc::new(AtomicU64::new(0));
    let asked = 400;
    let clients = (0..4).map(|_| {
        let (world, answers) = (Arc::clone(&world), Arc::clone(&answers));
        tokio::spawn(async move {
            let mut client = world.client().await;
            let mut seen: BTreeMap<String, u64> = BTreeMap::new();
            for _ in 0..asked {
                let answered = client.get(None).await;
                assert_eq!(answered.status, StatusCode::OK);
                *seen.entry(answered.revision().to_owned()).or_default() += 1;
                answers.fetch_add(1, Ordering::Relaxed);
            }
            seen
        })
    });
    let clients: Vec<_> = clients.collect();
    until("load", || answers.load(Ordering::Relaxed) >= asked).await;
    for pod in canaries {
        pod.kill().await;
    }
    let killed = answers.load(Ordering::Relaxed);
    assert!(killed < 4 * asked, "the pods went after the load");
    for client in clients {
        let seen = client.await.unwrap();
        assert_eq!(seen.values().sum::<u64>(), asked);
    }
}

#[tokio::test]
async fn a_breach_waits_for_stable_to_have_an_endpoint() {
    let stable = named("stable").await;
    let code = Arc::new(AtomicU16::new(200));
    let canary = coded(&code).await;
    // Where stable has no endpoint there is nothing to compare with, but there is what was promised.
    let mut objective = errors();
    objective["test"] = json!({"type": "Objective", "max": "0.1"});
    let guardrails = [objective];
    let table = |stable: &[SocketAddr], weight: u32| {
        let route = judged(100 - weight, weight, &guardrails);
        objects(stable, &[canary], route)
    };
    let world = World::start(&table(&[stable], 25)).await;
    let admin = admin(&world.proxy);
    let mut client = world.client().await;
    world.publish(&table(&[], 25));
    for _ in 0..50 {
        let answered = client.get(None).await;
        assert_eq!(
            answered.revision(),
            "canary",
            "it has weight: it answers for stable"
        );
        assert_eq!(answered.status, StatusCode::OK);
    }
    assert_eq!(applied(&admin).await.routes[0].held, None);

    code.store(500, Ordering::Relaxed);
    for _ in 0..400 {
        assert_eq!(client.get(None).await.revision(), "canary");
    }
    until("a verdict", || !world.proxy.evidence.held().is_empty()).await;
    let held = applied(&admin).await.routes[0].held.clone();
    assert_eq!(held.as_deref(), Some("errors"));
    assert!(world.proxy.trips.get(&route_key()).is_none());
    let trips = || world.metric("sluice_router_trips_total{");
    assert_eq!(trips().as_deref(), Some("0"));
    let weight =
        "sluice_router_weight{namespace=\"ml\",model_deployment=\"digits\",revision=\"canary\"";
    assert_eq!(world.metric(weight).as_deref(), Some("0.25"));
    // The evidence is there for everybody to see.
    let number = |name: &str| world.metric(name).unwrap().parse::<f64>().unwrap();
    until("the evidence among the metrics", || {
        number("sluice_router_evidence{") >= number("sluice_router_evidence_bound{")
    })
    .await;
    // Without weight the canary gets nobody, not even now.
    world.publish(&table(&[], 0));
    for _ in 0..5 {
        let status = client.get(None).await.status;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    }
    assert!(world.proxy.trips.get(&route_key()).is_none());

    world.publish(&table(&[stable], 25));
    until("a trip", || world.proxy.trips.get(&route_key()).is_some()).await;
    for _ in 0..50 {
        assert_eq!(client.get(None).await.revision(), "stable");
    }
    assert_eq!(applied(&admin).await.routes[0].held, None);
    assert_eq!(world.metric(weight).as_deref(), Some("0.0"));
    assert_eq!(trips().as_deref(), Some("1"));
}

#[tokio::test]
async fn a_model_whose_services_go_before_its_route_is_not_found() {
    let left = |services: &[&str]| {
        let mut objects = objects(&[], &[], split_route(3, 1));
        objects.services.retain(|service| {
            let name = service.metadata.name.as_deref().unwrap_or_default();
            services.contains(&name)
        });
        objects
    };
    let world = World::start(&left(&["stable", "canary"])).await;
    let mut client = world.client().await;
    for (services, code) in [
        (&["stable", "canary"][..], StatusCode::SERVICE_UNAVAILABLE),
        (&["canary"], StatusCode::NOT_FOUND),
        (&[], StatusCode::NOT_FOUND),
    ] {
        world.publish(&left(services));
        for user in 0..50 {
            let answered = client.get(Some(&user.to_string())).await;
            assert_eq!(answered.status, code, "left: {services:?}");
        }
    }
}
