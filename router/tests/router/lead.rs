//! The leader's side of the admin listener: the stream up, trips and heartbeats down.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use crds::contract::{
    Evidence, FromLeader, FromRouter, LedTrip, ROUTER_AUDIENCE, Segment, UserEvent,
};
use futures::future::BoxFuture;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use sluice_router::admin::Admin;
use sluice_router::lead::{Auth, Gate, Identity, Lead, Review, Reviewed, Sightings};
use sluice_router::table::objects::ObjectKey;
use tokio::net::{TcpListener, TcpStream};

use crate::objects::{objects, split_route};
use crate::trips::{digits, trip};
use crate::world::World;

/// Knows one token.
struct Tokens;

impl Review for Tokens {
    fn review(&self, token: String) -> BoxFuture<'static, Result<Option<Reviewed>, String>> {
        let reviewed = (token == "operator").then(|| Reviewed {
            user: "system:serviceaccount:sluice-system:sluice-operator".to_owned(),
            audiences: vec![ROUTER_AUDIENCE.to_owned()],
        });
        Box::pin(std::future::ready(Ok(reviewed)))
    }
}

#[derive(Debug, Default)]
struct Seen {
    evidence: Mutex<Vec<Evidence>>,
    asked: Mutex<Vec<BTreeMap<ObjectKey, u64>>>,
}

impl Sightings for Seen {
    fn snapshot(&self, after: &BTreeMap<ObjectKey, u64>) -> Vec<Evidence> {
        self.asked.lock().unwrap().push(after.clone());
        let known = after.get(&digits()).copied().unwrap_or_default();
        let mut evidence = self.evidence.lock().unwrap().clone();
        for of_run in &mut evidence {
            of_run.events.retain(|event| event.seq > known);
        }
        evidence
    }
}

struct Led {
    world: World,
    seen: Arc<Seen>,
    address: SocketAddr,
}

impl Led {
    async fn start() -> Self {
        let world = World::start(&objects(&[], &[], split_route(3, 1))).await;
        let seen = Arc::new(Seen::default());
        let gate = Gate::new("sluice-system", "sluice-operator", Box::new(Tokens));
        let identity = Identity {
            boot: "b1".to_owned(),
            pod: "router-0".to_owned(),
        };
        let lead = Lead::new(Arc::clone(&world.proxy), identity, Auth::Reviewed(gate));
        let sightings: Arc<Seen> = Arc::clone(&seen);
        let admin = Arc::new(Admin {
            proxy: Arc::clone(&world.proxy),
            synced: AtomicBool::new(true),
            stale: AtomicBool::new(false),
            lead: lead.telling(sightings),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(admin.serve(listener));
        Self {
            world,
            seen,
            address,
        }
    }

    async fn ask(&self, method: Method, path: &str, body: Vec<u8>) -> Response<Incoming> {
        self.ask_as(Some("operator"), method, path, body).await
    }

    async fn ask_as(
        &self,
        token: Option<&str>,
        method: Method,
        path: &str,
        body: Vec<u8>,
    ) -> Response<Incoming> {
        let stream = TcpStream::connect(self.address).await.unwrap();
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "x");
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let request = request.body(Full::new(Bytes::from(body))).unwrap();
        sender.send_request(request).await.unwrap()
    }

    async fn stream(&self, query: &str) -> Lines {
        let response = self
            .ask(Method::GET, &format!("/v1/stream{query}"), Vec::new())
            .await;
        assert_eq!(response.status(), StatusCode::OK);
        Lines {
            body: response.into_body(),
            rest: Vec::new(),
        }
    }

    async fn tell(&self, said: &FromLeader) -> StatusCode {
        let body = serde_json::to_vec(said).unwrap();
        self.ask(Method::POST, "/v1/lead", body).await.status()
    }

    fn flag(&self) -> Arc<AtomicBool> {
        self.world.proxy.trips.flag(&digits(), "r1", "canary")
    }
}

/// The lines of a stream.
struct Lines {
    body: Incoming,
    rest: Vec<u8>,
}

impl Lines {
    async fn next(&mut self) -> FromRouter {
        loop {
            if let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=end).collect();
                return serde_json::from_slice(&line).unwrap();
            }
            let frame = tokio::time::timeout(Duration::from_secs(10), self.body.frame());
            let frame = frame.await.expect("a line in time");
            let frame = frame.expect("the stream ended").unwrap();
            self.rest.extend_from_slice(&frame.into_data().unwrap());
        }
    }

    /// The next line that this takes something of.
    async fn find<T>(&mut self, take: impl Fn(FromRouter) -> Option<T>) -> T {
        loop {
            if let Some(found) = take(self.next().await) {
                return found;
            }
        }
    }

    async fn evidence(&mut self) -> Evidence {
        self.find(|line| {
            let FromRouter::Evidence(evidence) = line else {
                return None;
            };
            Some(*evidence)
        })
        .await
    }
}

fn applied(line: FromRouter) -> Option<Vec<String>> {
    let FromRouter::Applied { routes } = line else {
        return None;
    };
    Some(routes.into_iter().map(|it| it.digest).collect())
}

fn evidence(requests: u64, events: u64) -> Evidence {
    let mut segment = Segment {
        id: 1,
        ..Segment::default()
    };
    segment.canary.requests = requests;
    let event = |seq| UserEvent {
        seq,
        segment: 1,
        guardrail: 0,
        canary: true,
        user: seq,
    };
    Evidence {
        namespace: "ml".to_owned(),
        route: "digits".to_owned(),
        run: "r1".to_owned(),
        revision: "canary".to_owned(),
        segments: vec![segment],
        events: (1..=events).map(event).collect(),
        last: events,
        dropped: 0,
    }
}

fn seqs(evidence: &Evidence) -> Vec<u64> {
    evidence.events.iter().map(|event| event.seq).collect()
}

fn from_leader(epoch: i64, run: &str) -> FromLeader {
    FromLeader {
        leader: format!("operator-{epoch}"),
        epoch,
        trips: vec![LedTrip {
            namespace: "ml".to_owned(),
            route: "digits".to_owned(),
            trip: trip(run),
        }],
    }
}

#[tokio::test]
async fn nobody_but_the_operator_is_heard_or_told_and_the_rest_stays_open() {
    let led = Led::start().await;
    let said = serde_json::to_vec(&from_leader(1, "r1")).unwrap();
    for token in [None, Some("somebody"), Some("")] {
        for (method, path) in [(Method::GET, "/v1/stream"), (Method::POST, "/v1/lead")] {
            let answer = led.ask_as(token, method, path, said.clone()).await;
            assert_eq!(
                answer.status(),
                StatusCode::UNAUTHORIZED,
                "{token:?} {path}"
            );
        }
    }
    assert!(!led.flag().load(Ordering::Acquire));
    for path in ["/applied", "/metrics", "/healthz", "/readyz"] {
        let answer = led.ask_as(None, Method::GET, path, Vec::new()).await;
        assert_eq!(answer.status(), StatusCode::OK, "{path}");
    }
}

#[tokio::test]
async fn a_stream_greets_tells_how_things_are_and_then_what_changes() {
    let led = Led::start().await;
    led.seen.evidence.lock().unwrap().push(evidence(5, 0));
    led.world.proxy.trips.trip(&digits(), trip("r1"));
    let mut lines = led.stream("").await;
    let FromRouter::Hello { boot, pod, version } = lines.next().await else {
        panic!("no greeting");
    };
    assert_eq!((boot.as_str(), pod.as_str()), ("b1", "router-0"));
    assert!(!version.is_empty());
    let told = lines.next().await;
    let tripped = FromRouter::Tripped {
        namespace: "ml".to_owned(),
        route: "digits".to_owned(),
        trip: trip("r1"),
    };
    assert_eq!(told, tripped);
    let first = lines.find(applied).await;
    assert_eq!(lines.evidence().await, evidence(5, 0));

    let mut edited = split_route(1, 1);
    let split = edited["metadata"]["annotations"]["sluice.dev/split"].as_str();
    let next = split.unwrap().replace("\"r1\"", "\"r2\"");
    edited["metadata"]["annotations"]["sluice.dev/split"] = next.into();
    led.world.publish(&objects(&[], &[], edited));
    let second = lines.find(applied).await;
    assert_ne!(first, second);
    assert_eq!(second.len(), 1);

    // A trip is told at once, not when evidence is due.
    led.world.proxy.trips.trip(&digits(), trip("r2"));
    let began = Instant::now();
    let told = lines.find(|line| {
        let FromRouter::Tripped { trip, .. } = line else {
            return None;
        };
        Some(trip)
    });
    assert_eq!(told.await, trip("r2"));
    assert!(
        began.elapsed() < Duration::from_millis(150),
        "{:?}",
        began.elapsed()
    );
}

#[tokio::test]
async fn evidence_is_told_when_it_changed_and_each_event_once() {
    let led = Led::start().await;
    led.seen.evidence.lock().unwrap().push(evidence(5, 2));
    let mut lines = led.stream("").await;
    assert_eq!(seqs(&lines.evidence().await), [1, 2]);
    // Nothing is new for a second: then the stream says that it lives, and no evidence before.
    let is_alive = |line: FromRouter| {
        let is_alive = line == FromRouter::Alive;
        applied(line).is_none().then_some(is_alive)
    };
    assert!(lines.find(is_alive).await);
    *led.seen.evidence.lock().unwrap() = vec![evidence(9, 3)];
    let more = lines.evidence().await;
    assert_eq!((seqs(&more), more.last), (vec![3], 3));
    assert_eq!(more.segments[0].canary.requests, 9);
}

#[tokio::test]
async fn a_reader_goes_on_where_it_was_unless_the_process_is_another() {
    let led = Led::start().await;
    led.seen.evidence.lock().unwrap().push(evidence(5, 4));
    let mut lines = led.stream("?boot=b1&after=ml/digits/3").await;
    assert_eq!(seqs(&lines.evidence().await), [4]);
    let mut lines = led.stream("?boot=b0&after=ml/digits/3").await;
    assert_eq!(seqs(&lines.evidence().await), [1, 2, 3, 4]);
    assert!(
        led.seen
            .asked
            .lock()
            .unwrap()
            .contains(&BTreeMap::from([(digits(), 3)]))
    );
}

#[tokio::test]
async fn the_leaders_trip_sets_the_flag_and_an_older_leader_is_refused() {
    let led = Led::start().await;
    let flag = led.flag();
    let heartbeat = FromLeader {
        trips: Vec::new(),
        ..from_leader(7, "r1")
    };
    assert_eq!(led.tell(&heartbeat).await, StatusCode::NO_CONTENT);
    assert_eq!(led.tell(&from_leader(6, "r1")).await, StatusCode::CONFLICT);
    assert_eq!(
        led.tell(&from_leader(7, "r0")).await,
        StatusCode::NO_CONTENT
    );
    assert!(!flag.load(Ordering::Acquire));
    assert_eq!(
        led.tell(&from_leader(8, "r1")).await,
        StatusCode::NO_CONTENT
    );
    assert!(flag.load(Ordering::Acquire));
    assert_eq!(led.world.proxy.trips.get(&digits()), Some(trip("r1")));
    // Said again, as every second: nothing changes.
    assert_eq!(
        led.tell(&from_leader(8, "r1")).await,
        StatusCode::NO_CONTENT
    );
    let text = led.ask(Method::GET, "/metrics", Vec::new()).await;
    let text = text.into_body().collect().await.unwrap().to_bytes();
    let text = String::from_utf8(text.to_vec()).unwrap();
    let silence = text
        .lines()
        .find_map(|line| line.strip_prefix("sluice_router_leader_silence_seconds "));
    let silence: f64 = silence.expect("the metric").parse().unwrap();
    assert!((0.0..60.0).contains(&silence), "{silence}");
}

#[tokio::test]
async fn what_is_not_a_leaders_word_is_refused() {
    let led = Led::start().await;
    for (body, expected) in [
        (b"{".to_vec(), StatusCode::BAD_REQUEST),
        (b"[]".to_vec(), StatusCode::BAD_REQUEST),
        (vec![b' '; 9 << 20], StatusCode::PAYLOAD_TOO_LARGE),
    ] {
        let answer = led.ask(Method::POST, "/v1/lead", body).await;
        assert_eq!(answer.status(), expected);
    }
    let answer = led.ask(Method::GET, "/v1/lead", Vec::new()).await;
    assert_eq!(answer.status(), StatusCode::NOT_FOUND);
    assert!(!led.flag().load(Ordering::Acquire));
}

#[tokio::test]
async fn readers_that_take_nothing_are_cut_off_and_make_room_for_others() {
    let led = Led::start().await;
    let mut readers = Vec::new();
    for _ in 0..4 {
        readers.push(led.stream("").await);
    }
    let refused = led.ask(Method::GET, "/v1/stream", Vec::new()).await;
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    // More at each look than sockets hold.
    let growing = {
        let seen = Arc::clone(&led.seen);
        tokio::spawn(async move {
            for requests in 0.. {
                let mut evidence = evidence(requests, 0);
                evidence.revision = "x".repeat(8 << 20);
                *seen.evidence.lock().unwrap() = vec![evidence];
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        })
    };
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let answer = led.ask(Method::GET, "/v1/stream", Vec::new()).await;
        if answer.status() == StatusCode::OK {
            break;
        }
        assert!(Instant::now() < deadline, "slow readers keep their streams");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    growing.abort();
    drop(readers);
}
