//! The admin listener: what is applied, metrics, health, and the leader's stream.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use crds::contract::{
    Applied, PATH_APPLIED, PATH_HEALTHZ, PATH_LEAD, PATH_METRICS, PATH_READYZ, PATH_STREAM,
};
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body::Body;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, Semaphore};
use tracing::{debug, warn};

use crate::lead::{AdminBody, Lead};
use crate::proxy::Proxy;
use crate::state_dir::Kept;
use crate::table::{self, LastGood, Settings};

/// Scrapers and operators are few; more at once is a mistake or an attack.
const CONNECTIONS_MAX: usize = 128;
const READ_TIMEOUT: Duration = Duration::from_secs(30);
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What the admin listener tells.
#[derive(Debug)]
pub struct Admin {
    /// What is served and counted.
    pub proxy: Arc<Proxy>,
    /// Whether all watches are synced and the first table is served.
    pub synced: AtomicBool,
    /// Whether what is served was kept from an earlier process, as no watch is synced yet.
    pub stale: AtomicBool,
    /// What is between this router and the leader.
    pub lead: Lead,
}

impl Admin {
    /// Serves until the process ends.
    pub async fn serve(self: Arc<Self>, listener: TcpListener) {
        let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        loop {
            let Ok(permit) = Arc::clone(&connections).acquire_owned().await else {
                return;
            };
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    warn!(%error, "accepting an admin connection failed");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            let admin = Arc::clone(&self);
            tokio::spawn(async move {
                admin.connection(stream).await;
                drop(permit);
            });
        }
    }

    async fn connection(self: Arc<Self>, stream: TcpStream) {
        let hang_up = Arc::new(Notify::new());
        let service = service_fn(|request: Request<Incoming>| {
            let (admin, hang_up) = (Arc::clone(&self), Arc::clone(&hang_up));
            async move { Ok::<_, Infallible>(admin.respond(request, hang_up).await) }
        });
        let serving = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(READ_TIMEOUT)
            .serve_connection(TokioIo::new(stream), service);
        tokio::select! {
            served = serving => {
                if let Err(error) = served {
                    debug!(%error, "admin connection ended");
                }
            }
            () = hang_up.notified() => {}
        }
    }

    /// Answers one request; `hang_up` is notified where the connection is to be cut off.
    pub async fn respond<B>(&self, request: Request<B>, hang_up: Arc<Notify>) -> Response<AdminBody>
    where
        B: Body<Data = Bytes> + Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let (asked, body) = request.into_parts();
        match (&asked.method, asked.uri.path()) {
            (&Method::GET, PATH_STREAM) => self.lead.stream(&asked, hang_up).await,
            (&Method::POST, PATH_LEAD) => self.lead.hear(&asked, body).await,
            (method, path) => self
                .answer(method, path)
                .map(http_body_util::BodyExt::boxed_unsync),
        }
    }

    /// Answers a request that anybody may make.
    pub fn answer(&self, method: &Method, path: &str) -> Response<Full<Bytes>> {
        if method != Method::GET && method != Method::HEAD {
            return text(StatusCode::METHOD_NOT_ALLOWED, "only GET is served\n");
        }
        match path {
            PATH_HEALTHZ => text(StatusCode::OK, "ok\n"),
            PATH_READYZ => self.ready(),
            PATH_APPLIED => match serde_json::to_vec(&self.applied()) {
                Ok(json) => typed(StatusCode::OK, "application/json", json),
                Err(_) => text(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    "what is applied cannot be written\n",
                ),
            },
            PATH_METRICS => self.metrics(),
            _ => text(StatusCode::NOT_FOUND, "no such page\n"),
        }
    }

    fn applied(&self) -> Applied {
        Applied {
            stale: self.stale.load(Ordering::Acquire),
            ..self.proxy.applied()
        }
    }

    /// Serves what an earlier process served; gives the routes that an invalid edit does not change.
    pub fn serve_kept(&self, kept: &Kept, settings: &Settings) -> LastGood {
        let built = table::build(&kept.objects, settings, &kept.last_good);
        warn!(
            routes = built.table.routes.len(),
            "no API server: serving what was served before the restart"
        );
        self.proxy.publish(built.table);
        self.stale.store(true, Ordering::Release);
        self.synced.store(true, Ordering::Release);
        built.last_good
    }

    fn metrics(&self) -> Response<Full<Bytes>> {
        let metrics = &self.proxy.metrics;
        metrics.leader_silence(self.lead.silence());
        match metrics.text() {
            Ok(metrics) => typed(StatusCode::OK, OPENMETRICS, metrics),
            Err(_) => text(
                StatusCode::INTERNAL_SERVER_ERROR,
                "metrics cannot be written\n",
            ),
        }
    }

    fn ready(&self) -> Response<Full<Bytes>> {
        if self.proxy.is_draining() {
            text(StatusCode::SERVICE_UNAVAILABLE, "draining\n")
        } else if self.synced.load(Ordering::Acquire) {
            text(StatusCode::OK, "ok\n")
        } else {
            text(
                StatusCode::SERVICE_UNAVAILABLE,
                "waiting for the first complete configuration\n",
            )
        }
    }
}

fn text(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    typed(status, "text/plain; charset=utf-8", text)
}

fn typed(status: StatusCode, type_: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(type_));
    response
}
