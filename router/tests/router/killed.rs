//! The program itself, killed and started again: what it knows of a trip then.

use std::fs::{self, File};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use crds::contract::Trip;
use http::{Method, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Incoming;
use serde::Serialize;
use serde_json::{Value, json};
use sluice_router::status::told;
use sluice_router::table::objects::Objects;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::backend::{Answer, full, named, nobody, serve};
use crate::evidence::{errors, judged};
use crate::objects::{HOST, object, objects};
use crate::persist::Folder;

const OURS: &str = "sluice.dev/router";
/// Nothing here takes longer, even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);
/// Half of them would go to a canary of half the weight.
const REQUESTS: u32 = 50;

async fn eventually(what: &str, holds: impl AsyncFn() -> bool) {
    let waiting = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let waited = tokio::time::timeout(PATIENCE, waiting).await;
    assert!(waited.is_ok(), "waited in vain for: {what}");
}

/// An API server that holds these objects, and of the route also the status.
#[derive(Clone)]
struct Cluster {
    objects: Arc<Objects>,
    route: Arc<Mutex<Value>>,
    address: SocketAddr,
}

impl Cluster {
    async fn start(objects: Objects) -> Self {
        let route = serde_json::to_value(&*objects.routes[0]).unwrap();
        let (objects, route) = (Arc::new(objects), Arc::new(Mutex::new(route)));
        let held = (Arc::clone(&objects), Arc::clone(&route));
        let address = serve(move |request| {
            let (objects, route) = held.clone();
            async move { answer(&objects, &route, request).await }
        })
        .await;
        Self {
            objects,
            route,
            address,
        }
    }

    /// The trip that the route's status tells of.
    fn says(&self) -> Option<Trip> {
        told(&object(self.route.lock().unwrap().clone()), OURS)
    }

    /// The status is lost.
    fn forget(&self) {
        *self.route.lock().unwrap() = serde_json::to_value(&*self.objects.routes[0]).unwrap();
    }
}

async fn answer(objects: &Objects, route: &Mutex<Value>, request: Request<Incoming>) -> Answer {
    let (head, body) = request.into_parts();
    let (path, query) = (head.uri.path(), head.uri.query().unwrap_or_default());
    if query.contains("watch=true") {
        // Nothing happens.
        let silence = futures::stream::pending::<Result<Frame<Bytes>, hyper::Error>>();
        return Response::new(BodyExt::boxed(StreamBody::new(silence)));
    }
    let of_route = "/apis/gateway.networking.k8s.io/v1/namespaces/ml/httproutes/digits";
    if let Some(part) = path.strip_prefix(of_route) {
        let body = body.collect().await.unwrap().to_bytes();
        let mut route = route.lock().unwrap();
        if (&head.method, part) == (&Method::PATCH, "/status") {
            let wanted: Value = serde_json::from_slice(&body).unwrap();
            route["status"] = wanted["status"].clone();
        }
        return full(&route.to_string());
    }
    let known = match path.rsplit('/').next().unwrap_or_default() {
        "gatewayclasses" => list("GatewayClass", &objects.classes),
        "gateways" => list("Gateway", &objects.gateways),
        "httproutes" => list("HTTPRoute", &[Arc::new(route.lock().unwrap().clone())]),
        "services" => list("Service", &objects.services),
        "endpointslices" => list("EndpointSlice", &objects.slices),
        "namespaces" => list("Namespace", &objects.namespaces),
        _ => return unknown(),
    };
    full(&known.to_string())
}

fn list<T: Serialize>(kind: &str, items: &[Arc<T>]) -> Value {
    let items: Vec<&T> = items.iter().map(Arc::as_ref).collect();
    let kind = format!("{kind}List");
    json!({"kind": kind, "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": items})
}

/// Leases, above all: nobody holds any.
fn unknown() -> Answer {
    let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404});
    let mut answer = full(&status.to_string());
    *answer.status_mut() = StatusCode::NOT_FOUND;
    answer
}

/// A running router; it ends with its test.
struct Router {
    child: Child,
    log: PathBuf,
    data: SocketAddr,
    admin: SocketAddr,
}

impl Router {
    /// With these files, and the API server there.
    async fn start(folder: &Folder, api_server: SocketAddr) -> Self {
        let (data, admin) = (free().await, free().await);
        fs::create_dir_all(&folder.0).unwrap();
        let (kubeconfig, log) = (folder.0.join("kubeconfig"), folder.0.join("log"));
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "it",
            "clusters": [{"name": "it", "cluster": {"server": format!("http://{api_server}")}}],
            "users": [{"name": "it", "user": {}}],
            "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it", "namespace": "sluice"}}],
        });
        fs::write(&kubeconfig, config.to_string()).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_sluice-router"))
            .args(["--pod-name", "router-0", "--listen", &format!("80={data}")])
            .args(["--admin", &admin.to_string(), "--state-dir"])
            .arg(&folder.0)
            .env("KUBECONFIG", &kubeconfig)
            .stderr(Stdio::from(File::create(&log).unwrap()))
            .spawn()
            .unwrap();
        let router = Self {
            child,
            log,
            data,
            admin,
        };
        eventually("the router to be ready", async || {
            let answer = get(router.admin, "/readyz").await;
            answer.is_some_and(|answer| answer.starts_with("HTTP/1.1 200"))
        })
        .await;
        router
    }

    async fn sends_everybody_to_stable(&self) {
        for _ in 0..REQUESTS {
            let answer = get(self.data, "/v2/x").await.unwrap();
            assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
            assert!(answer.contains("x-sluice-revision: stable\r\n"), "{answer}");
        }
    }

    /// Without a word.
    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Router {
    #[expect(clippy::print_stdout, reason = "why a test failed")]
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
        if std::thread::panicking() {
            println!("{}", fs::read_to_string(&self.log).unwrap_or_default());
        }
    }
}

/// Where nobody listens, at an address of its own: nothing else of these tests takes the port
/// meanwhile.
async fn free() -> SocketAddr {
    let [one, two] = rand::random::<[u8; 2]>();
    let own = IpAddr::from([127, 77, one, two]);
    let listener = TcpListener::bind((own, 0)).await.unwrap();
    listener.local_addr().unwrap()
}

async fn get(address: SocketAddr, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(address).await.ok()?;
    let head = format!("GET {path} HTTP/1.1\r\nhost: {HOST}\r\nconnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).await.ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.ok()?;
    Some(answer)
}

/// Fails always; counts how often.
async fn failing(tries: &Arc<AtomicU64>) -> SocketAddr {
    let tries = Arc::clone(tries);
    serve(move |_: Request<Incoming>| {
        tries.fetch_add(1, Ordering::Relaxed);
        async {
            let mut answer = full("x");
            *answer.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
            answer
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trip_outlives_a_router_that_is_killed() {
    let tries = Arc::default();
    let (stable, canary) = (named("stable").await, failing(&tries).await);
    let mut route = judged(1, 1, &[errors()]);
    route["metadata"]["resourceVersion"] = json!("1");
    let cluster = Cluster::start(objects(&[stable], &[canary], route)).await;
    let (folder, other) = (Folder::new(), Folder::new());

    let router = Router::start(&folder, cluster.address).await;
    eventually("a trip on disk", async || {
        get(router.data, "/v2/x").await.unwrap();
        folder.holds("trips.json", "\"r1\"")
    })
    .await;
    eventually("the configuration on disk", async || {
        folder.holds("configuration.json", "digits")
    })
    .await;
    eventually("the trip in the route's status", async || {
        cluster.says().is_some()
    })
    .await;
    let said = cluster.says().unwrap();
    assert_eq!((&*said.run, &*said.guardrail), ("r1", "errors"));
    router.kill();
    let before = tries.load(Ordering::Relaxed);
    assert!(before > 0);

    // Another pod has no files: the route's status tells it.
    let router = Router::start(&other, cluster.address).await;
    router.sends_everybody_to_stable().await;
    router.kill();

    // Without an API server its files do.
    let router = Router::start(&folder, nobody().await).await;
    router.sends_everybody_to_stable().await;
    router.kill();

    // And where the status was lost, it is told again.
    cluster.forget();
    let router = Router::start(&folder, cluster.address).await;
    router.sends_everybody_to_stable().await;
    eventually("the trip in the route's status again", async || {
        cluster.says() == Some(said.clone())
    })
    .await;
    router.kill();
    assert_eq!(tries.load(Ordering::Relaxed), before);
}
