//! The admin listener: what is applied, metrics, health.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use crds::contract::{PATH_APPLIED, PATH_HEALTHZ, PATH_METRICS, PATH_READYZ};
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tracing::{debug, warn};

use crate::proxy::Proxy;

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
                let service = service_fn(|request: Request<hyper::body::Incoming>| {
                    let response = admin.answer(request.method(), request.uri().path());
                    async move { Ok::<_, Infallible>(response) }
                });
                let serving = http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(READ_TIMEOUT)
                    .serve_connection(TokioIo::new(stream), service);
                if let Err(error) = serving.await {
                    debug!(%error, "admin connection ended");
                }
                drop(permit);
            });
        }
    }

    /// Answers one request.
    pub fn answer(&self, method: &Method, path: &str) -> Response<Full<Bytes>> {
        if method != Method::GET && method != Method::HEAD {
            return text(StatusCode::METHOD_NOT_ALLOWED, "only GET is served\n");
        }
        match path {
            PATH_HEALTHZ => text(StatusCode::OK, "ok\n"),
            PATH_READYZ => self.ready(),
            PATH_APPLIED => match serde_json::to_vec(&self.proxy.served.load().applied()) {
                Ok(json) => typed(StatusCode::OK, "application/json", json),
                Err(_) => text(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    "what is applied cannot be written\n",
                ),
            },
            PATH_METRICS => match self.proxy.metrics.text() {
                Ok(metrics) => typed(StatusCode::OK, OPENMETRICS, metrics),
                Err(_) => text(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    "metrics cannot be written\n",
                ),
            },
            _ => text(StatusCode::NOT_FOUND, "no such page\n"),
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
