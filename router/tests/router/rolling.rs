//! Pods come and go under load.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use http::{Method, Request, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::backend::full;
use crate::objects::{objects, plain_route};
use crate::world::{World, body, request, until};

/// A pod that stops as a good one does: it accepts no more, closes what is idle, ends what is not.
struct Pod {
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    gone: JoinHandle<()>,
}

impl Pod {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, mut stopped) = oneshot::channel();
        let gone = tokio::spawn(async move {
            let graceful = GracefulShutdown::new();
            loop {
                let accepted = tokio::select! {
                    accepted = listener.accept() => accepted,
                    _ = &mut stopped => break,
                };
                let (stream, _) = accepted.unwrap();
                stream.set_nodelay(true).unwrap();
                let service = service_fn(|request: Request<Incoming>| async move {
                    let text = request.into_body().collect().await.unwrap().to_bytes();
                    Ok::<_, Infallible>(full(&String::from_utf8_lossy(&text)))
                });
                let serving = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
                let serving = graceful.watch(serving);
                tokio::spawn(async move { serving.await.ok() });
            }
            drop(listener);
            graceful.shutdown().await;
        });
        Self {
            address,
            stop,
            gone,
        }
    }

    async fn stop(self) {
        self.stop.send(()).unwrap();
        self.gone.await.unwrap();
    }
}

/// Sends requests from several clients while pods are replaced; `grace` is what a pod waits
/// between leaving the table and going away.
async fn roll(method: Method, grace: Duration) {
    let mut pods = vec![Pod::start().await, Pod::start().await];
    let listed = |pods: &[Pod]| {
        let endpoints: Vec<SocketAddr> = pods.iter().map(|pod| pod.address).collect();
        objects(&endpoints, &[], plain_route())
    };
    let world = Arc::new(World::start(&listed(&pods)).await);
    let done = Arc::new(AtomicBool::new(false));
    let answers = Arc::new(AtomicUsize::new(0));
    let clients = (0..4).map(|_| {
        let (world, done, method) = (Arc::clone(&world), Arc::clone(&done), method.clone());
        let answers = Arc::clone(&answers);
        tokio::spawn(async move {
            let mut client = world.client().await;
            let mut count = 0_u32;
            while !done.load(Ordering::Relaxed) {
                let text = if method == Method::POST {
                    format!("{count}")
                } else {
                    String::new()
                };
                let answered = client
                    .send(request(method.clone(), None, body(&text)))
                    .await
                    .unwrap();
                assert_eq!(
                    (answered.status, &answered.body[..]),
                    (StatusCode::OK, text.as_bytes())
                );
                count += 1;
                answers.fetch_add(1, Ordering::Relaxed);
            }
            count
        })
    });
    let clients: Vec<_> = clients.collect();
    for _ in 0..25 {
        let leaving = pods.remove(0);
        pods.push(Pod::start().await);
        world.publish(&listed(&pods));
        tokio::time::sleep(grace).await;
        leaving.stop().await;
        let enough = answers.load(Ordering::Relaxed) + 20;
        until("requests go on", || {
            answers.load(Ordering::Relaxed) >= enough
        })
        .await;
    }
    done.store(true, Ordering::Relaxed);
    for client in clients {
        assert!(
            client.await.unwrap() > 50,
            "requests must have run all the while"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_post_is_lost_while_pods_are_replaced() {
    roll(Method::POST, Duration::from_millis(20)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_get_is_lost_even_where_pods_leave_without_grace() {
    roll(Method::GET, Duration::ZERO).await;
}
