//! More requests than the model can take.

use std::io::Write;
use std::thread;

use crate::process::{Pod, head, image_request, until};

#[test]
fn beyond_slots_and_queue_requests_are_shed_and_counted_as_capacity() {
    let pod = Pod::slow_sim("500ms", &["--concurrency", "1", "--queue", "1"]);
    let answers: Vec<_> = thread::scope(|scope| {
        let asked: Vec<_> = (0..6)
            .map(|_| scope.spawn(|| pod.infer(&image_request("x"))))
            .collect();
        asked
            .into_iter()
            .map(|asked| asked.join().unwrap())
            .collect()
    });
    let shed: Vec<_> = answers
        .iter()
        .filter(|answer| answer.status == 503)
        .collect();
    assert!(
        answers.iter().any(|answer| answer.status == 200),
        "{answers:?}"
    );
    assert!(!shed.is_empty(), "{answers:?}");
    assert!(
        shed.iter()
            .all(|answer| answer.header("retry-after") == Some("1")),
        "{shed:?}"
    );
    let rejected = pod.metric(&["sluice_pod_rejected_total", "reason=\"capacity\""]);
    assert_eq!(rejected, Some(shed.len()));
}

#[test]
fn a_client_that_leaves_is_counted_as_such_and_frees_its_place() {
    let pod = Pod::slow_sim("300ms", &["--concurrency", "1", "--queue", "0"]);
    let body = image_request("x").to_string();
    let mut leaves = pod.connect();
    leaves
        .write_all(&head("POST", "/v2/models/m/infer", &[], body.len()))
        .unwrap();
    leaves.write_all(body.as_bytes()).unwrap();
    until("the request is being answered", || {
        pod.metric(&["sluice_pod_in_flight{"]) == Some(1)
    });
    drop(leaves);
    let left = ["sluice_pod_requests_total", "code=\"499\""];
    until("the client's leaving is counted", || {
        pod.metric(&left) == Some(1)
    });
    until("its place is free", || {
        pod.infer(&image_request("y")).status == 200
    });
}

#[test]
fn bodies_that_are_held_open_take_a_bounded_part_of_memory() {
    const LIMIT: usize = 64 << 10;
    let pod = Pod::sim(&["--max-body-bytes", &LIMIT.to_string()]);
    let held: Vec<_> = (0..6)
        .map(|_| {
            let mut stream = pod.connect();
            stream
                .write_all(&head("POST", "/v2/models/m/infer", &[], LIMIT))
                .unwrap();
            stream.write_all(&vec![b' '; LIMIT - 1]).unwrap();
            stream
        })
        .collect();
    let rejected = ["sluice_pod_rejected_total", "reason=\"capacity\""];
    until("six bodies find no room for four", || {
        pod.metric(&rejected) > Some(0)
    });
    assert_eq!(pod.get("/v2/health/ready").status, 200);
    drop(held);
    until("there is room again", || {
        pod.infer(&image_request("x")).status == 200
    });
}
