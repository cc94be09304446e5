//! The Open Inference Protocol, as a client sees it.

use serde_json::json;

use crate::process::{Pod, image_request};

#[test]
fn a_request_is_answered_with_its_id_and_every_output() {
    let pod = Pod::sim(&["--model-version", "7"]);
    for path in ["/v2/models/m/infer", "/v2/models/m/versions/7/infer"] {
        let answer = pod.post(path, image_request("abc").to_string().as_bytes());
        assert_eq!(answer.status, 200, "{answer:?}");
        let body = answer.json();
        assert_eq!(body["id"], "abc");
        assert_eq!(
            (&body["model_name"], &body["model_version"]),
            (&json!("m"), &json!("7"))
        );
        assert_eq!(body["outputs"][0]["name"], "label");
        assert_eq!(body["outputs"][0]["datatype"], "INT64");
        assert_eq!(body["outputs"][1]["shape"], json!([1, 10]));
        assert_eq!(body["outputs"][1]["data"].as_array().unwrap().len(), 10);
        assert!(
            answer
                .header("server-timing")
                .unwrap()
                .contains("inference;dur=")
        );
    }
}

#[test]
fn only_the_wanted_outputs_come_back() {
    let pod = Pod::sim(&[]);
    let mut request = image_request("x");
    request["outputs"] = json!([{"name": "probabilities"}]);
    let outputs = pod.infer(&request).json()["outputs"].clone();
    assert_eq!(outputs.as_array().unwrap().len(), 1);
    assert_eq!(outputs[0]["name"], "probabilities");
}

#[test]
fn metadata_says_what_the_model_takes() {
    let pod = Pod::sim(&["--", "shape=5"]);
    assert_eq!(pod.get("/v2").json()["name"], "sluice-inference-pod");
    for path in ["/v2/models/m", "/v2/models/m/versions/1"] {
        let model = pod.get(path).json();
        assert_eq!(model["versions"], json!(["1"]));
        let input = json!([{"name": "image", "datatype": "FP32", "shape": [-1, 5]}]);
        assert_eq!(model["inputs"], input);
    }
    assert_eq!(pod.get("/v2/models/m/ready").status, 200);
    assert_eq!(pod.get("/v2/health/live").status, 200);
}

#[test]
fn the_sim_changes_only_where_that_is_allowed() {
    let closed = Pod::sim(&[]);
    assert_eq!(closed.post("/sim", b"{}").status, 404);

    let pod = Pod::sim(&["--sim-control"]);
    assert_eq!(pod.infer(&image_request("a")).status, 200);
    let settings = pod.post("/sim", br#"{"errorRate": 1.0}"#);
    assert_eq!(
        (settings.status, &settings.json()["errorRate"]),
        (200, &json!(1.0))
    );
    let failed = pod.infer(&image_request("b"));
    assert_eq!(failed.status, 500);
    assert!(failed.error().contains("simulated failure"));
    assert_eq!(pod.post("/sim", br#"{"errorRate": 2}"#).status, 400);
}
