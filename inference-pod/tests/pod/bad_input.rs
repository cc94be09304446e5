//! Bad requests get the right 4xx and harm nobody else.

use std::io::Write;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;

use crate::process::{Pod, answer, head, image_request};

const INFER: &str = "/v2/models/m/infer";
const MEGABYTE: usize = 1 << 20;

/// Runs `bad` while two clients go on asking for good answers, each of which must be one.
fn while_others_are_served(pod: &Pod, bad: impl FnOnce()) {
    let (stop, served) = (AtomicBool::new(false), AtomicU32::new(0));
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let answer = pod.infer(&image_request("good"));
                    if answer.status != 200 {
                        stop.store(true, Ordering::Relaxed);
                        panic!("a good request was harmed: {answer:?}");
                    }
                    served.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(bad));
        stop.store(true, Ordering::Relaxed);
        if let Err(panic) = outcome {
            std::panic::resume_unwind(panic);
        }
    });
    assert!(served.into_inner() > 0, "nobody was served meanwhile");
}

fn tensor(shape: &str, datatype: &str, data: &str) -> String {
    format!(
        r#"{{"inputs":[{{"name":"image","shape":{shape},"datatype":"{datatype}","data":{data}}}]}}"#
    )
}

/// Bodies for a model that takes rows of two numbers, and what their refusal must say.
fn wrong_tensors() -> Vec<(String, &'static str)> {
    vec![
        (
            tensor("[1,3]", "FP32", "[1,2,3]"),
            "expected shape [-1, 2], got [1, 3]",
        ),
        (
            tensor("[2]", "FP32", "[1,2]"),
            "expected shape [-1, 2], got [2]",
        ),
        (
            tensor("[1,2]", "INT64", "[1,2]"),
            "expected datatype FP32, got \"INT64\"",
        ),
        (
            tensor("[1,2]", "FP99", "[1,2]"),
            "expected datatype FP32, got \"FP99\"",
        ),
        (tensor("[1,2]", "FP32", "[1]"), "needs 2 values, data has 1"),
        (tensor("[1,2]", "FP32", "[1,2,3]"), "more than the 2 values"),
        (
            tensor("[1,2]", "FP32", "[1,\"2\"]"),
            "not a value of type FP32",
        ),
        (
            tensor("[1,2]", "FP32", "[1,NaN]"),
            "not a valid inference request",
        ),
        (
            tensor("[1,2]", "FP32", "[1,Infinity]"),
            "not a valid inference request",
        ),
        (
            tensor("[1,2]", "FP32", "[1,1e39]"),
            "not a value of type FP32",
        ),
        (tensor("[1,2]", "FP32", "[1,1e999]"), "out of range"),
        (
            tensor("[1,-2]", "FP32", "[1,2]"),
            "not a valid inference request",
        ),
        (
            tensor("[1000000000,2]", "FP32", "[1,2]"),
            "needs 2000000000 values",
        ),
        (
            tensor("[18446744073709551615,2]", "FP32", "[1]"),
            "expected shape",
        ),
        (
            tensor(
                "[1,2]",
                "FP32",
                &format!("{}{}", "[".repeat(50_000), "]".repeat(50_000)),
            ),
            "recursion limit",
        ),
        (r#"{"inputs":[]}"#.to_owned(), "input \"image\" is missing"),
        (
            r#"{"inputs":[{"name":"im"#.to_owned(),
            "not a valid inference request",
        ),
        (
            "image=1&label=2".to_owned(),
            "not a valid inference request",
        ),
        (String::new(), "not a valid inference request"),
    ]
}

#[test]
fn wrong_tensors_are_client_errors_that_say_what_was_expected() {
    let pod = Pod::sim(&["--", "shape=2"]);
    let cases = wrong_tensors();
    while_others_are_served(&Pod::sim(&[]), || {
        for (body, says) in &cases {
            let answer = pod.post(INFER, body.as_bytes());
            let shown: String = body.chars().take(120).collect();
            assert_eq!(answer.status, 400, "{shown}: {answer:?}");
            assert!(answer.error().contains(says), "{shown}: {}", answer.error());
        }
    });
    let bad = ["sluice_pod_requests_total", "code=\"400\""];
    assert_eq!(pod.metric(&bad), Some(cases.len()));
}

#[test]
fn one_pod_serves_good_requests_while_it_refuses_bad_ones() {
    let pod = Pod::sim(&[]);
    while_others_are_served(&pod, || {
        for bad in [
            &b"{"[..],
            b"\xff\xfe",
            b"{\"inputs\":7}",
            "[".repeat(60_000).as_bytes(),
        ] {
            for _ in 0..20 {
                assert_eq!(pod.post(INFER, bad).status, 400);
            }
        }
    });
}

#[test]
fn wrong_names_methods_and_types_have_their_own_codes() {
    let pod = Pod::sim(&[]);
    let good = image_request("x").to_string();
    let typed = |kind| pod.request("POST", INFER, &[("content-type", kind)], good.as_bytes());
    for (answer, status, says) in [
        (
            pod.post("/v2/models/other/infer", good.as_bytes()),
            404,
            "\"other\"",
        ),
        (
            pod.post("/v2/models/m/versions/9/infer", good.as_bytes()),
            404,
            "version \"9\"",
        ),
        (pod.get("/v2/models/other"), 404, "\"other\""),
        (
            pod.get("/v2/models/m/versions/9/ready"),
            404,
            "version \"9\"",
        ),
        (pod.get("/v3"), 404, "/v3"),
        (pod.get(INFER), 405, "takes POST"),
        (pod.post("/v2/health/ready", b""), 405, "takes GET"),
        (typed("text/csv"), 415, "text/csv"),
        (
            typed("application/octet-stream"),
            415,
            "application/octet-stream",
        ),
    ] {
        assert_eq!(answer.status, status, "{answer:?}");
        assert!(answer.error().contains(says), "{}", answer.error());
    }
    assert_eq!(typed("application/json; charset=utf-8").status, 200);
    assert_eq!(pod.get(INFER).header("allow"), Some("POST"));
}

#[test]
fn a_huge_body_is_refused_without_being_held() {
    let limit = MEGABYTE.to_string();
    let pod = Pod::sim(&["--max-body-bytes", &limit]);
    let before = pod.peak_memory();
    let filler = vec![b' '; MEGABYTE];
    while_others_are_served(&pod, || {
        let mut announced = pod.connect();
        announced
            .write_all(&head("POST", INFER, &[], 100 * MEGABYTE))
            .unwrap();
        for _ in 0..100 {
            announced.write_all(&filler).unwrap();
        }
        let announced = answer(announced);
        assert_eq!(announced.status, 413, "{announced:?}");
        assert!(announced.error().contains("1048576 bytes"));

        let mut chunked = pod.connect();
        let chunks = [("transfer-encoding", "chunked")];
        chunked.write_all(&head("POST", INFER, &chunks, 0)).unwrap();
        for _ in 0..100 {
            chunked
                .write_all(format!("{MEGABYTE:x}\r\n").as_bytes())
                .unwrap();
            chunked.write_all(&filler).unwrap();
            chunked.write_all(b"\r\n").unwrap();
        }
        chunked.write_all(b"0\r\n\r\n").unwrap();
        assert_eq!(answer(chunked).status, 413);
    });
    let grown = pod.peak_memory() - before;
    assert!(
        grown < 40 << 20,
        "200 MB of bodies took {grown} bytes of memory"
    );
}
