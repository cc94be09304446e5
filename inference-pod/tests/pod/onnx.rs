//! The example models in ONNX Runtime, where it is installed.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::process::{Pod, sha256, until};

/// ONNX Runtime's library: what `SLUICE_ONNXRUNTIME` names, else that of Python's package.
fn library() -> Option<PathBuf> {
    if let Some(named) = std::env::var_os("SLUICE_ONNXRUNTIME") {
        let named = PathBuf::from(named);
        assert!(
            named.is_file(),
            "SLUICE_ONNXRUNTIME names no file: {}",
            named.display()
        );
        return Some(named);
    }
    let script = "import glob, os, onnxruntime\n\
        home = os.path.dirname(onnxruntime.__file__)\n\
        print(glob.glob(home + '/capi/libonnxruntime.so.*')[0])";
    let output = Command::new("python3").args(["-c", script]).output().ok()?;
    let path = PathBuf::from(String::from_utf8(output.stdout).ok()?.trim());
    path.is_file().then_some(path)
}

/// Says what is not tested, past the capture of a passing test's output.
#[expect(clippy::explicit_write, reason = "eprintln is captured")]
fn skip(why: &str) {
    writeln!(std::io::stderr(), "SKIPPED: {why}").unwrap();
}

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../examples/digits")
        .canonicalize()
        .unwrap()
}

/// A pod with a version of the digits model; none, with a reason, where there is no ONNX Runtime.
fn digits(version: &str) -> Option<Pod> {
    let Some(library) = library() else {
        skip("no ONNX Runtime; set SLUICE_ONNXRUNTIME to libonnxruntime.so.<version>");
        return None;
    };
    let sums = std::fs::read_to_string(examples().join("models/SHA256SUMS")).unwrap();
    let file = format!("{version}/model.onnx");
    let line = sums.lines().find(|line| line.ends_with(&file)).unwrap();
    let digest = format!("sha256:{}", line.split(' ').next().unwrap());
    let uri = format!("file://{}", examples().join("models").join(file).display());
    Some(Pod::ready(&[
        "--engine",
        "onnx",
        "--concurrency",
        "1",
        "--onnxruntime",
        library.to_str().unwrap(),
        "--model-uri",
        &uri,
        "--model-digest",
        &digest,
    ]))
}

fn held_out() -> (Vec<Value>, Vec<i64>) {
    let text = std::fs::read_to_string(examples().join("heldout.json")).unwrap();
    let held: Value = serde_json::from_str(&text).unwrap();
    let labels = held["labels"]
        .as_array()
        .unwrap()
        .iter()
        .map(|l| l.as_i64().unwrap())
        .collect();
    (held["images"].as_array().unwrap().clone(), labels)
}

fn request(images: &[Value]) -> Value {
    let shape = [images.len(), 64];
    json!({"inputs": [{"name": "image", "shape": shape, "datatype": "FP32", "data": images}]})
}

fn labels(answer: &Value) -> Vec<i64> {
    let outputs = answer["outputs"].as_array().unwrap();
    let label = outputs
        .iter()
        .find(|output| output["name"] == "label")
        .unwrap();
    label["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|label| label.as_i64().unwrap())
        .collect()
}

#[test]
fn good_models_read_digits_that_they_never_saw() {
    let (images, want) = held_out();
    for (version, percent) in [("v1", 94), ("v2", 96)] {
        let Some(pod) = digits(version) else { return };
        let answer = pod.infer(&request(&images));
        assert_eq!(answer.status, 200, "{answer:?}");
        let right = labels(&answer.json())
            .iter()
            .zip(&want)
            .filter(|(a, b)| a == b)
            .count();
        let all = want.len();
        assert!(
            right * 100 >= percent * all,
            "{version}: {right} of {all} right"
        );
    }
}

#[test]
fn the_broken_model_fails_for_some_images_only() {
    let Some(pod) = digits("v3") else { return };
    let (images, _) = held_out();
    let answers: Vec<_> = images
        .iter()
        .map(|image| pod.infer(&request(std::slice::from_ref(image))))
        .collect();
    let failed: Vec<_> = answers
        .iter()
        .filter(|answer| answer.status == 500)
        .collect();
    assert!(
        answers
            .iter()
            .all(|answer| matches!(answer.status, 200 | 500))
    );
    assert!(
        failed
            .iter()
            .all(|answer| answer.error().starts_with("inference failed: "))
    );
    let (some, all) = (failed.len(), answers.len());
    assert!(
        (20 * all..30 * all).contains(&(100 * some)),
        "{some} of {all} failed"
    );
    let counted = pod.metric(&["sluice_pod_requests_total", "code=\"500\""]);
    assert_eq!(counted, Some(some));
}

#[test]
fn the_slow_model_is_slow_by_its_own_graph() {
    let Some(pod) = digits("v4") else { return };
    let (images, want) = held_out();
    let answer = pod.infer(&request(&images[..1]));
    assert_eq!(
        (answer.status, labels(&answer.json())),
        (200, want[..1].to_vec())
    );
    let millis: u64 = answer.header("x-inference-time").unwrap().parse().unwrap();
    assert!(millis >= 100, "{millis} ms");
}

#[test]
fn metadata_comes_from_the_model() {
    let Some(pod) = digits("v1") else { return };
    let model = pod.get("/v2/models/m").json();
    assert_eq!(model["platform"], "onnxruntime_onnx");
    assert_eq!(
        model["inputs"][0],
        json!({"name": "image", "datatype": "FP32", "shape": [-1, 64]})
    );
    assert_eq!(model["outputs"][0]["datatype"], "INT64");
}

#[test]
fn a_wrong_library_or_model_is_said_and_not_a_crash() {
    let model = examples().join("models/v1/model.onnx");
    let broken = examples().join("README.md");
    let mut cases = vec![("/nonexistent/libonnxruntime.so".to_owned(), model)];
    if let Some(library) = library() {
        cases.push((library.display().to_string(), broken));
    } else {
        skip("no ONNX Runtime to give a broken model to");
    }
    for (library, path) in cases {
        let bytes = std::fs::read(&path).unwrap();
        let digest = sha256(&bytes);
        let pod = Pod::listening(&[
            "--engine",
            "onnx",
            "--onnxruntime",
            &library,
            "--model-uri",
            &format!("file://{}", path.display()),
            "--model-digest",
            &format!("sha256:{digest}"),
        ]);
        until("the pod says why it does not start", || {
            pod.get("/v2/health/ready").text().contains("loading ")
                && !pod.get("/v2/health/ready").text().contains("warming")
        });
        assert_eq!(pod.get("/v2/health/ready").status, 503);
        assert_eq!(pod.get("/v2/health/live").status, 200);
    }
}
