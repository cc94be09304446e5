//! The life of the server: listen while starting, serve, and on SIGTERM leave without breaking a
//! request.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::{task, time};

use crate::app::App;
use crate::args::Config;
use crate::protocol::rest;
use crate::ready::Phase;
use crate::start::start;

/// A client that has not sent its headers by then is cut off.
const HEADER_TIMEOUT: Duration = Duration::from_secs(15);

/// Serves until told to stop, then drains.
pub(crate) async fn serve(config: Config) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listening for SIGINT")?;
    let listener = TcpListener::bind(config.listen)
        .await
        .with_context(|| format!("listening on {}:{}", config.listen.0, config.listen.1))?;
    let address = listener.local_addr().context("reading the own address")?;
    tracing::info!(%address, model = config.model_name, "listening");

    let (delay, timeout) = (config.drain_delay, config.drain_timeout);
    let app = Arc::new(App::new(&config));
    let starting = task::spawn(start(Arc::clone(&app), config));
    let connections = GracefulShutdown::new();
    let told = async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    accept_until(told, &listener, &app, &connections).await;

    tracing::info!(
        delay_seconds = delay.as_secs_f64(),
        "told to stop; still accepting"
    );
    app.readiness.set(Phase::Draining);
    starting.abort();
    accept_until(time::sleep(delay), &listener, &app, &connections).await;

    drop(listener);
    tracing::info!(
        connections = connections.count(),
        "finishing what is in flight"
    );
    if time::timeout(timeout, connections.shutdown())
        .await
        .is_err()
    {
        tracing::warn!(
            timeout_seconds = timeout.as_secs_f64(),
            "requests were cut off"
        );
    }
    tracing::info!("stopped");
    Ok(())
}

async fn accept_until(
    end: impl Future<Output = ()>,
    listener: &TcpListener,
    app: &Arc<App>,
    connections: &GracefulShutdown,
) {
    tokio::pin!(end);
    loop {
        tokio::select! {
            () = &mut end => return,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => serve_connection(stream, app, connections),
                Err(error) => {
                    // Out of file descriptors, most often: trying at once would only burn the core.
                    tracing::warn!(%error, "accepting a connection");
                    time::sleep(Duration::from_millis(50)).await;
                }
            },
        }
    }
}

fn serve_connection(stream: TcpStream, app: &Arc<App>, connections: &GracefulShutdown) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "setting TCP_NODELAY");
    }
    let app = Arc::clone(app);
    let service = service_fn(move |request| {
        let app = Arc::clone(&app);
        async move { Ok::<_, Infallible>(rest::answer(&app, request).await) }
    });
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT);
    builder.http2().timer(TokioTimer::new());
    let connection = builder
        .serve_connection(TokioIo::new(stream), service)
        .into_owned();
    let connection = connections.watch(connection);
    task::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "connection ended");
        }
    });
}
