//! Which endpoint of a revision gets a request.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use http::StatusCode;
use hyper::body::Incoming;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::backend::{OK, full, named, nobody, raw, read_request, serve, write};
use crate::objects::{objects, plain_route};
use crate::world::{World, until};

impl World {
    /// A number among the metrics, of the series that begins so.
    fn number(&self, series: &str) -> Option<f64> {
        let text = self.proxy.metrics.text().unwrap();
        let line = text.lines().find(|line| line.starts_with(series))?;
        line.rsplit(' ').next()?.parse().ok()
    }

    fn ejected(&self) -> Option<f64> {
        self.number("sluice_router_ejected_endpoints{namespace=\"ml\",model_deployment=\"\",revision=\"stable\"")
    }

    fn retries(&self, outcome: &str) -> f64 {
        let labels = "namespace=\"ml\",model_deployment=\"\",revision=\"stable\",route=\"digits\"";
        let series = format!("sluice_router_retries_total{{{labels},outcome=\"{outcome}\"}}");
        self.number(&series).unwrap_or_default()
    }
}

/// Takes requests and closes without an answer while it is told to; counts what it took.
async fn resetting(resets: &Arc<AtomicBool>, taken: &Arc<AtomicUsize>) -> SocketAddr {
    let (resets, taken) = (Arc::clone(resets), Arc::clone(taken));
    raw(move |_, mut stream| {
        let (resets, taken) = (Arc::clone(&resets), Arc::clone(&taken));
        async move {
            while read_request(&mut stream, 0).await {
                taken.fetch_add(1, Ordering::Relaxed);
                if resets.load(Ordering::Relaxed) {
                    return;
                }
                write(&mut stream, OK).await;
            }
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_that_is_busy_gets_fewer_requests() {
    let gate = Arc::new(Semaphore::new(0));
    let held = Arc::new(AtomicUsize::new(0));
    let slow = {
        let (gate, held) = (Arc::clone(&gate), Arc::clone(&held));
        serve(move |_: http::Request<Incoming>| {
            let (gate, held) = (Arc::clone(&gate), Arc::clone(&held));
            async move {
                held.fetch_add(1, Ordering::Relaxed);
                gate.acquire().await.unwrap().forget();
                full("slow")
            }
        })
        .await
    };
    let endpoints = [slow, named("fast").await, named("fast").await];
    let world = Arc::new(World::start(&objects(&endpoints, &[], plain_route())).await);
    // Users, some of whom wait at the slow one.
    let asking = (0..8).map(|_| {
        let world = Arc::clone(&world);
        tokio::spawn(async move {
            let mut client = world.client().await;
            for _ in 0..50 {
                assert_eq!(client.get(None).await.status, StatusCode::OK);
            }
        })
    });
    let asking: Vec<_> = asking.collect();
    until("the fast ones did all that does not wait", || {
        let waiting = held.load(Ordering::Relaxed);
        let over = asking.iter().filter(|it| it.is_finished()).count();
        waiting > 0 && waiting + over == 8
    })
    .await;
    // Once one request waits there it is the busier of any two that are drawn.
    assert!(held.load(Ordering::Relaxed) <= 4, "{held:?}");
    gate.add_permits(1000);
    for one in asking {
        one.await.unwrap();
    }
}

#[tokio::test]
async fn an_endpoint_that_refuses_is_left_out_and_comes_back_by_itself() {
    let (good, gone) = (named("good").await, nobody().await);
    let world = World::start(&objects(&[gone, good], &[], plain_route())).await;
    let mut client = world.client().await;
    for _ in 0..100 {
        assert_eq!(client.get(None).await.body, "good");
    }
    assert_eq!(world.ejected(), Some(1.0));
    // Only who met it was sent again; the others were spared.
    let spared = world.retries("sent");
    assert!((1.0..=2.0).contains(&spared), "{spared}");
    let listener = TcpListener::bind(gone).await.unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                while read_request(&mut stream, 0).await {
                    write(&mut stream, OK).await;
                }
            });
        }
    });
    let waiting = async {
        while client.get(None).await.body != "ok" {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    let waited = tokio::time::timeout(std::time::Duration::from_secs(20), waiting).await;
    assert!(waited.is_ok(), "it never came back");
    assert_eq!(world.ejected(), Some(0.0));
}

#[tokio::test]
async fn of_endpoints_that_reset_at_least_half_stay_in() {
    let resets = Arc::new(AtomicBool::new(true));
    let taken: Vec<Arc<AtomicUsize>> = (0..4).map(|_| Arc::default()).collect();
    let mut endpoints = Vec::new();
    for taken in &taken {
        endpoints.push(resetting(&resets, taken).await);
    }
    let world = World::start(&objects(&endpoints, &[], plain_route())).await;
    let mut client = world.client().await;
    let count = || -> Vec<usize> { taken.iter().map(|it| it.load(Ordering::Relaxed)).collect() };
    // Posts are sent once: each goes where it is drawn.
    for _ in 0..60 {
        assert_eq!(client.post("").await.status, StatusCode::BAD_GATEWAY);
    }
    assert_eq!(world.ejected(), Some(4.0), "{:?}", count());
    let before = count();
    for _ in 0..60 {
        client.post("").await;
    }
    let asked = count()
        .iter()
        .zip(&before)
        .filter(|(now, before)| now > before)
        .count();
    assert!(asked >= 2, "{before:?} then {:?}", count());
    // They recover without being asked to.
    resets.store(false, Ordering::Relaxed);
    let mut answered: BTreeMap<StatusCode, usize> = BTreeMap::new();
    for _ in 0..20 {
        *answered.entry(client.post("").await.status).or_default() += 1;
    }
    assert_eq!(answered, BTreeMap::from([(StatusCode::OK, 20)]));
}

#[tokio::test]
async fn one_endpoint_among_several_that_resets_is_spared_for_a_while() {
    let (resets, taken) = (Arc::new(AtomicBool::new(true)), Arc::default());
    let bad = resetting(&resets, &taken).await;
    let endpoints = [bad, named("good").await, named("good").await];
    let world = World::start(&objects(&endpoints, &[], plain_route())).await;
    let mut client = world.client().await;
    let mut failed = 0;
    for _ in 0..200 {
        failed += usize::from(client.post("").await.status != StatusCode::OK);
    }
    assert_eq!(failed, taken.load(Ordering::Relaxed));
    // Three in a row, and now and then one that looks whether it is over.
    assert!((3..=8).contains(&failed), "{failed}");
    assert_eq!(world.ejected(), Some(1.0));
}

#[tokio::test]
async fn a_backend_that_is_down_does_not_multiply_the_load() {
    let resets = Arc::new(AtomicBool::new(true));
    let taken = Arc::new(AtomicUsize::new(0));
    let mut endpoints = Vec::new();
    for _ in 0..3 {
        endpoints.push(resetting(&resets, &taken).await);
    }
    let world = World::start(&objects(&endpoints, &[], plain_route())).await;
    let mut client = world.client().await;
    let requests = 1500_u32;
    let started = std::time::Instant::now();
    for _ in 0..requests {
        assert_eq!(client.get(None).await.status, StatusCode::BAD_GATEWAY);
    }
    // A burst of 500, a fifth of the requests, and ten a second.
    let allowed = 500.0 + 0.2 * f64::from(requests) + 10.0 * started.elapsed().as_secs_f64() + 1.0;
    let sent = world.retries("sent");
    assert!(sent > 500.0 && sent <= allowed, "{sent} of {allowed}");
    assert!(world.retries("over_budget") > 0.0);
    let taken = f64::from(u32::try_from(taken.load(Ordering::Relaxed)).unwrap());
    assert!((taken - f64::from(requests) - sent).abs() < 0.5, "{taken}");
}
