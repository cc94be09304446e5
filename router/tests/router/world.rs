//! A router and its clients.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use crds::contract::Trip;
use crds::quantity::Number;
use http::header::HOST as HOST_HEADER;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use sluice_router::pick::SplitKey;
use sluice_router::proxy::server::{Limits, Server};
use sluice_router::proxy::{HEADER_REVISION, Proxy};
use sluice_router::table::objects::{ObjectKey, Objects};
use sluice_router::table::{self, LastGood, Settings};
use tokio::net::{TcpListener, TcpStream};

use crate::objects::HOST;

pub type ClientBody = BoxBody<Bytes, std::io::Error>;

pub fn settings() -> Settings {
    Settings {
        controller_name: "sluice.dev/router".to_owned(),
        ports: [80].into(),
        service: None,
    }
}

pub struct World {
    pub proxy: Arc<Proxy>,
    pub server: Arc<Server>,
    pub address: SocketAddr,
}

/// Bounds that tests shorten.
pub struct Times {
    pub request: Duration,
    pub idle: Duration,
}

impl Default for Times {
    fn default() -> Self {
        Self {
            request: Duration::from_secs(30),
            idle: Duration::from_mins(1),
        }
    }
}

impl World {
    pub async fn start(objects: &Objects) -> Self {
        Self::timed(objects, Times::default()).await
    }

    pub async fn timed(objects: &Objects, times: Times) -> Self {
        let world = Self::unconfigured(times).await;
        world.publish(objects);
        world
    }

    /// A router that knows nothing of the cluster yet.
    pub async fn unconfigured(times: Times) -> Self {
        let key = SplitKey::new(b"a secret of the test").unwrap();
        // Long: a busy machine must not pass for an endpoint that is away.
        let connect = Duration::from_secs(10);
        let proxy = Arc::new(Proxy::new(key, times.request, connect));
        let limits = Limits {
            header_read_timeout: Duration::from_millis(300),
            idle_timeout: times.idle,
            header_bytes_max: 16 * 1024,
            connections_max: 100,
        };
        let server = Arc::new(Server::new(Arc::clone(&proxy), limits));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let accepting = Arc::clone(&server);
        tokio::spawn(async move { accepting.accept(80, listener).await });
        let judging = Arc::clone(&proxy);
        tokio::spawn(async move { judging.judge().await });
        Self {
            proxy,
            server,
            address,
        }
    }

    pub fn publish(&self, objects: &Objects) {
        self.proxy
            .publish(table::build(objects, &settings(), &LastGood::new()).table);
    }

    pub async fn client(&self) -> Client {
        Client::connect(self.address).await
    }

    /// Takes the canary of run `r1` out, as another replica's word does.
    pub fn take_out(&self) {
        let trip = Trip {
            run: "r1".to_owned(),
            revision: "canary".to_owned(),
            guardrail: "errors".to_owned(),
            log_e: Number("9".to_owned()),
            bound: Number("7".to_owned()),
            message: String::new(),
        };
        let route = ObjectKey::new("ml", "digits");
        assert!(self.proxy.trips.trip(&route, trip));
    }

    /// The count of a revision's requests with a code.
    pub fn count(&self, revision: &str, code: u16) -> u64 {
        let text = self.proxy.metrics.text().unwrap();
        let labels = format!("revision=\"{revision}\",route=\"digits\",code=\"{code}\"}} ");
        let line = text.lines().find(|line| line.contains(&labels));
        line.map_or(0, |line| line.rsplit(' ').next().unwrap().parse().unwrap())
    }

    /// Waits until a revision has so many requests with a code: they are counted at their end.
    pub async fn counted(&self, revision: &str, code: u16, want: u64) {
        until(&format!("{want} × {code} of {revision}"), || {
            self.count(revision, code) == want
        })
        .await;
    }
}

/// Waits until a condition holds.
pub async fn until(what: &str, holds: impl Fn() -> bool) {
    let waiting = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(10), waiting).await;
    assert!(waited.is_ok(), "waited in vain for: {what}");
}

pub struct Client(SendRequest<ClientBody>);

#[derive(Debug)]
pub struct Answered {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answered {
    pub fn revision(&self) -> &str {
        self.headers
            .get(HEADER_REVISION)
            .map_or("-", |value| value.to_str().unwrap())
    }
}

pub fn body(text: &str) -> ClientBody {
    let body = Full::new(Bytes::copy_from_slice(text.as_bytes()));
    body.map_err(|never| match never {}).boxed()
}

pub fn request(method: Method, user: Option<&str>, body: ClientBody) -> Request<ClientBody> {
    let mut request = Request::builder()
        .method(method)
        .uri("/v2/x")
        .header(HOST_HEADER, HOST);
    if let Some(user) = user {
        request = request.header("x-user-id", user);
    }
    request.body(body).unwrap()
}

impl Client {
    pub async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        Self(sender)
    }

    pub async fn begin(
        &mut self,
        request: Request<ClientBody>,
    ) -> hyper::Result<http::Response<Incoming>> {
        self.0.ready().await?;
        self.0.send_request(request).await
    }

    pub async fn send(&mut self, request: Request<ClientBody>) -> hyper::Result<Answered> {
        let (parts, body) = self.begin(request).await?.into_parts();
        let body = body.collect().await?.to_bytes();
        Ok(Answered {
            status: parts.status,
            headers: parts.headers,
            body,
        })
    }

    pub async fn get(&mut self, user: Option<&str>) -> Answered {
        self.send(request(Method::GET, user, body("")))
            .await
            .unwrap()
    }

    pub async fn post(&mut self, text: &str) -> Answered {
        self.send(request(Method::POST, None, body(text)))
            .await
            .unwrap()
    }
}
