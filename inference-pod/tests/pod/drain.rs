//! SIGTERM: unready at once, still accepting for a while, nothing in flight is broken.

use std::io::Write;
use std::thread;

use crate::process::{Pod, answer, head, image_request, until};

fn in_flight(pod: &Pod, count: usize) {
    until("requests are in flight", || {
        pod.metric(&["sluice_pod_in_flight{"]) == Some(count)
    });
}

#[test]
fn requests_in_flight_are_finished_and_new_ones_accepted_for_the_delay() {
    // The first request outlasts the delay.
    let mut pod = Pod::slow_sim("2500ms", &["--drain-delay", "2s", "--concurrency", "2"]);
    thread::scope(|scope| {
        let before = scope.spawn(|| pod.infer(&image_request("before")));
        in_flight(&pod, 1);
        pod.terminate();
        until("the pod is unready", || {
            pod.get("/v2/health/ready").status == 503
        });
        assert!(pod.get("/v2/health/ready").text().contains("draining"));
        assert_eq!(pod.get("/v2/health/live").status, 200);
        let mut kept = pod.connect();
        kept.write_all(b"GET /v2/health/live HTTP/1.1\r\nhost: pod\r\n\r\n")
            .unwrap();
        assert_eq!(
            answer(kept).header("connection"),
            Some("close"),
            "it is not used again"
        );
        let during = scope.spawn(|| pod.infer(&image_request("during")));
        assert_eq!(before.join().unwrap().status, 200);
        assert_eq!(during.join().unwrap().status, 200);
    });
    assert!(pod.end().success());
}

#[test]
fn a_request_that_outlives_the_timeout_does_not_keep_the_pod() {
    let mut pod = Pod::slow_sim("10m", &["--drain-timeout", "100ms", "--concurrency", "1"]);
    let stuck = {
        let mut stream = pod.connect();
        let body = image_request("stuck").to_string();
        let head = head("POST", "/v2/models/m/infer", &[], body.len());
        stream
            .write_all(&[&head, body.as_bytes()].concat())
            .unwrap();
        stream
    };
    in_flight(&pod, 1);
    pod.terminate();
    assert!(pod.end().success());
    drop(stuck);
}

#[test]
fn a_pod_that_is_still_starting_stops_when_told() {
    let digest = format!("sha256:{}", "0".repeat(64));
    let uri = "http://127.0.0.1:1/m.onnx";
    let mut pod = Pod::listening(&[
        "--engine",
        "sim",
        "--model-uri",
        uri,
        "--model-digest",
        &digest,
    ]);
    pod.terminate();
    assert!(pod.end().success());
}
