//! Metrics servers that answer badly: every one is an error, soon, and none is followed elsewhere.
#![allow(clippy::tests_outside_test_module, reason = "integration tests")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on should say where"
)]

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use crds::ModelDeploymentSpec;
use operator::{
    clock,
    metrics::{prometheus::Prometheus, source::Source},
};
use rollout::{guardrail::Subject, plan::Plan};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

const TIMEOUT: Duration = Duration::from_millis(500);

/// Answers every connection with a head, then with one chunk again and again. Gives the address, and
/// how many bytes went out.
async fn serve(head: &'static str, chunk: Vec<u8>, pause: Duration) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let sent = Arc::new(AtomicUsize::new(0));
    let counting = Arc::clone(&sent);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let (chunk, sent) = (chunk.clone(), Arc::clone(&counting));
            tokio::spawn(async move {
                let mut request = [0; 4096];
                if !matches!(stream.read(&mut request).await, Ok(1..)) {
                    return;
                }
                stream.write_all(head.as_bytes()).await.ok();
                while !chunk.is_empty() && stream.write_all(&chunk).await.is_ok() {
                    sent.fetch_add(chunk.len(), Ordering::Relaxed);
                    tokio::time::sleep(pause).await;
                }
            });
        }
    });
    (url, sent)
}

async fn ask(url: &str) -> String {
    // Several tests share one process; the first installs it.
    rustls::crypto::ring::default_provider()
        .install_default()
        .ok();
    let spec = json!({
        "model": {"format": "InImage"}, "runtime": {"engine": "sim"},
        "guardrails": [{"name": "errors", "check": {
            "type": "Threshold", "threshold": {"max": "0.05"},
            "prometheus": {"value": "errors", "samples": "requests"},
        }}],
    });
    let spec: ModelDeploymentSpec = serde_json::from_value(spec).unwrap();
    let plan = Plan::from_spec(&spec).unwrap();
    let source = Source {
        url: url.to_owned(),
        headers: Vec::new(),
        mount: None,
        namespace_label: "namespace".to_owned(),
        timeout: TIMEOUT,
    };
    let subject = Subject {
        namespace: "ml".to_owned(),
        name: "digits".to_owned(),
        revision: "digits-1-a".to_owned(),
        namespace_label: "namespace".to_owned(),
    };
    let now = clock::now();
    let prometheus = Prometheus::new(None).unwrap();
    let check = plan.guardrails[0].prometheus().unwrap();
    let reading = prometheus.read(&source, check, &subject, (now, now));
    let reading = tokio::time::timeout(TIMEOUT * 10, reading);
    reading
        .await
        .expect("an answer in time")
        .answers
        .unwrap_err()
}

#[tokio::test]
async fn a_page_where_numbers_are_expected_is_an_error() {
    let head = "HTTP/1.1 200 OK\r\ncontent-length: 12\r\nconnection: close\r\n\r\n<html></html";
    let (url, _) = serve(head, Vec::new(), Duration::ZERO).await;
    assert!(ask(&url).await.contains("not Prometheus's"));
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_an_error() {
    let head = "HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n{\"status\":\"success\",\"data\":{";
    let (url, _) = serve(head, Vec::new(), Duration::ZERO).await;
    assert!(!ask(&url).await.is_empty());
}

#[tokio::test]
async fn an_endless_answer_is_not_read_to_the_end() {
    let head = "HTTP/1.1 200 OK\r\n\r\n";
    let (url, sent) = serve(head, vec![b' '; 1 << 16], Duration::ZERO).await;
    assert!(ask(&url).await.contains("larger than"));
    // What two queries read, and what sockets held.
    let sent = sent.load(Ordering::Relaxed);
    assert!(sent < 64 << 20, "{sent} bytes were sent");
}

#[tokio::test]
async fn an_answer_that_drips_is_not_waited_for() {
    let head = "HTTP/1.1 200 OK\r\n\r\n";
    let (url, _) = serve(head, vec![b' '], Duration::from_millis(50)).await;
    assert!(ask(&url).await.contains("no answer within"));
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let (elsewhere, sent) = serve("HTTP/1.1 200 OK\r\n\r\n", vec![b' '], Duration::ZERO).await;
    let head = format!(
        "HTTP/1.1 307 Temporary Redirect\r\nlocation: {elsewhere}/\r\ncontent-length: 0\r\n\r\n"
    );
    let (url, _) = serve(head.leak(), Vec::new(), Duration::ZERO).await;
    let problem = ask(&url).await;
    assert!(problem.contains("307"), "{problem}");
    assert_eq!(sent.load(Ordering::Relaxed), 0);
}
