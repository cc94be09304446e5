//! Metrics and health over HTTP.

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Context as _;
use bytes::Bytes;
use crds::contract;
use http::{Request, Response, StatusCode, header::CONTENT_TYPE};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;

use crate::{health::Health, telemetry::Telemetry};

const METRICS_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(100);

/// What is served.
#[derive(Clone, Debug)]
pub struct Admin {
    /// The metrics.
    pub telemetry: Arc<Telemetry>,
    /// Whether the operator is ready.
    pub health: Arc<Health>,
}

impl Admin {
    /// Listens, and serves in the background for as long as the process lives.
    pub async fn start(self, address: SocketAddr) -> anyhow::Result<()> {
        let listener = TcpListener::bind(address)
            .await
            .with_context(|| format!("cannot listen on {address} (--admin)"))?;
        tokio::spawn(self.accept(listener));
        Ok(())
    }

    async fn accept(self, listener: TcpListener) {
        loop {
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::debug!(%error, "cannot accept an admin connection");
                    tokio::time::sleep(PAUSE_AFTER_ERROR).await;
                    continue;
                }
            };
            let admin = self.clone();
            tokio::spawn(async move {
                let service = service_fn(move |request: Request<Incoming>| {
                    let response = admin.answer(request.uri().path());
                    async move { Ok::<_, Infallible>(response) }
                });
                let served = http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(HEADER_TIMEOUT)
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
                if let Err(error) = served {
                    tracing::debug!(%error, "an admin connection broke");
                }
            });
        }
    }

    fn answer(&self, path: &str) -> Response<Full<Bytes>> {
        match path {
            contract::PATH_HEALTHZ => text(StatusCode::OK, "ok\n".to_owned()),
            contract::PATH_READYZ => match self.health.missing() {
                None => text(StatusCode::OK, "ok\n".to_owned()),
                Some(why) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
            },
            contract::PATH_METRICS => match self.telemetry.encode() {
                Ok(metrics) => {
                    let mut response = text(StatusCode::OK, metrics);
                    let value = http::HeaderValue::from_static(METRICS_TYPE);
                    response.headers_mut().insert(CONTENT_TYPE, value);
                    response
                }
                Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
            },
            _ => text(StatusCode::NOT_FOUND, "not found\n".to_owned()),
        }
    }
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readiness_follows_health() {
        let admin = Admin {
            telemetry: Arc::default(),
            health: Arc::default(),
        };
        assert_eq!(
            admin.answer("/readyz").status(),
            StatusCode::SERVICE_UNAVAILABLE
        );
        assert_eq!(admin.answer("/healthz").status(), StatusCode::OK);
        admin.health.set(None);
        assert_eq!(admin.answer("/readyz").status(), StatusCode::OK);
        assert_eq!(admin.answer("/metrics").status(), StatusCode::OK);
        assert_eq!(admin.answer("/").status(), StatusCode::NOT_FOUND);
    }
}
