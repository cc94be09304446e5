//! The peer that shows what hyper itself costs: a server, a pooled client, a split by chance, and
//! nothing else.

use std::{convert::Infallible, net::SocketAddr, thread};

use anyhow::Context as _;
use clap::Args;
use http::{Request, Response, StatusCode, Uri};
use http_body_util::{Either, Empty};
use hyper::{
    body::{Bytes, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioIo},
};
use tokio::net::{TcpListener, TcpStream};

/// A proxy of hyper alone, for comparison: one thread, 95 of 100 requests to the stable arm.
#[derive(Clone, Copy, Debug, Args)]
pub struct BareProxy {
    /// Where to listen.
    #[arg(long)]
    listen: SocketAddr,
    /// Where 95 of 100 requests go.
    #[arg(long)]
    stable: SocketAddr,
    /// Where the others go.
    #[arg(long)]
    canary: SocketAddr,
}

type Upstream = Client<HttpConnector, Incoming>;
type Answer = Response<Either<Incoming, Empty<Bytes>>>;

/// Serves until the process ends.
pub async fn run(args: BareProxy) -> anyhow::Result<()> {
    // The program's own runtime has several threads.
    let serving = thread::spawn(move || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("no runtime")?
            .block_on(serve(args))
    });
    let ended = tokio::task::spawn_blocking(move || serving.join()).await?;
    ended.unwrap_or_else(|_| anyhow::bail!("the proxy panicked"))
}

async fn serve(args: BareProxy) -> anyhow::Result<()> {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    let upstream: Upstream = Client::builder(TokioExecutor::new())
        .pool_max_idle_per_host(512)
        .build(connector);
    let listener = TcpListener::bind(args.listen)
        .await
        .with_context(|| format!("cannot listen on {}", args.listen))?;
    loop {
        let (stream, _) = listener.accept().await?;
        tokio::spawn(connection(stream, upstream.clone(), args));
    }
}

async fn connection(stream: TcpStream, upstream: Upstream, args: BareProxy) {
    if stream.set_nodelay(true).is_err() {
        return;
    }
    let service = service_fn(move |request| forward(upstream.clone(), args, request));
    let serving = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    if let Err(error) = serving.await {
        tracing::debug!(%error, "connection ended");
    }
}

async fn forward(
    upstream: Upstream,
    args: BareProxy,
    mut request: Request<Incoming>,
) -> Result<Answer, Infallible> {
    let canary = rand::random_range(0..100) < 5;
    let address = if canary { args.canary } else { args.stable };
    let path = request
        .uri()
        .path_and_query()
        .map_or("/", |path| path.as_str());
    let uri = Uri::builder()
        .scheme("http")
        .authority(address.to_string())
        .path_and_query(path)
        .build();
    let answered = match uri {
        Ok(uri) => {
            *request.uri_mut() = uri;
            upstream.request(request).await.ok()
        }
        Err(_) => None,
    };
    Ok(answered.map_or_else(bad_gateway, |answer| answer.map(Either::Left)))
}

fn bad_gateway() -> Answer {
    let mut answer = Response::new(Either::Right(Empty::new()));
    *answer.status_mut() = StatusCode::BAD_GATEWAY;
    answer
}
