use serde_json::{Value, json};

use super::*;
use crate::owner::tests::owner;

fn built(model: &Value, runtime: &Value) -> Value {
    let saved = Saved {
        model: model.clone(),
        runtime: runtime.clone(),
        image: "pod:1".to_owned(),
    };
    let options = PodOptions {
        pull_secrets: vec!["pull".to_owned()],
        longest_request: SignedDuration::from_secs(2),
    };
    json!(deployment(&owner(), "digits-1-a", 3, &saved, &options).unwrap())
}

fn onnx() -> Value {
    let model = json!({"uri": "http://m/digits.onnx", "digest": "sha256:00", "format": "ONNX"});
    let runtime = json!({
        "engine": "onnx",
        "args": ["threads=2", "--queue=8"],
        "resources": {"limits": {"cpu": "1"}},
    });
    built(&model, &runtime)
}

#[test]
fn our_engine_is_told_what_it_serves() {
    let container = &onnx()["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(container["name"], "model");
    assert_eq!(container["image"], "pod:1");
    assert_eq!(
        container["args"],
        json!([
            "--model-name",
            "digits",
            "--engine",
            "onnx",
            "--model-uri",
            "http://m/digits.onnx",
            "--model-digest",
            "sha256:00",
            "--port",
            "8080",
            "--model-deployment",
            "digits",
            "--revision",
            "digits-1-a",
            "--drain-timeout",
            "2000ms",
            "--engine-arg",
            "threads=2",
            "--queue=8",
        ])
    );
    assert_eq!(container["resources"], json!({"limits": {"cpu": "1"}}));
    assert_eq!(
        container["readinessProbe"]["httpGet"]["path"],
        "/v2/health/ready"
    );
    assert_eq!(container["readinessProbe"]["periodSeconds"], 1);
}

#[test]
fn pods_pass_restricted_pod_security() {
    let pod = &onnx()["spec"]["template"]["spec"];
    assert_eq!(
        pod["securityContext"],
        json!({
            "runAsNonRoot": true, "runAsUser": 65532, "runAsGroup": 65532, "fsGroup": 65532,
            "seccompProfile": {"type": "RuntimeDefault"},
        })
    );
    assert_eq!(
        pod["containers"][0]["securityContext"],
        json!({
            "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
            "capabilities": {"drop": ["ALL"]},
        })
    );
    assert_eq!(pod["automountServiceAccountToken"], false);
    assert_eq!(pod["terminationGracePeriodSeconds"], 13);
    assert_eq!(pod["imagePullSecrets"], json!([{"name": "pull"}]));
}

#[test]
fn the_selector_matches_the_pods_and_the_owner_is_named() {
    let object = onnx();
    let selector = object["spec"]["selector"]["matchLabels"]
        .as_object()
        .unwrap();
    let labels = object["spec"]["template"]["metadata"]["labels"]
        .as_object()
        .unwrap();
    assert_eq!(selector.len(), 2);
    assert!(
        selector
            .iter()
            .all(|(key, value)| labels.get(key) == Some(value))
    );
    assert_eq!(object["metadata"]["name"], "digits-1-a");
    assert_eq!(object["metadata"]["ownerReferences"][0]["uid"], "u-1");
    assert_eq!(
        object["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"],
        0
    );
    assert_eq!(object["spec"]["replicas"], 3);
    let annotations = &object["spec"]["template"]["metadata"]["annotations"];
    assert_eq!(annotations["prometheus.io/port"], "8080");
}

#[test]
fn a_template_is_merged_by_container_name_and_keeps_our_labels() {
    let runtime = json!({"engine": "sim", "template": {
        "metadata": {"labels": {"team": "ml", "sluice.dev/revision": "stolen"}},
        "spec": {
            "nodeSelector": {"gpu": "yes"},
            "containers": [
                {"name": "model", "volumeMounts": [{"name": "cache", "mountPath": "/cache"}]},
                {"name": "sidecar", "image": "s:1"},
            ],
            "volumes": [{"name": "cache", "emptyDir": {}}],
        },
    }});
    let object = built(&json!({"format": "InImage"}), &runtime);
    let template = &object["spec"]["template"];
    assert_eq!(template["metadata"]["labels"]["team"], "ml");
    assert_eq!(
        template["metadata"]["labels"]["sluice.dev/revision"],
        "digits-1-a"
    );
    let containers = template["spec"]["containers"].as_array().unwrap();
    assert_eq!(containers.len(), 2);
    assert_eq!(containers[0]["image"], "pod:1");
    assert_eq!(containers[0]["volumeMounts"].as_array().unwrap().len(), 2);
    assert_eq!(template["spec"]["nodeSelector"], json!({"gpu": "yes"}));
    assert_eq!(template["spec"]["volumes"].as_array().unwrap().len(), 2);
}

#[test]
fn a_template_may_leave_the_containers_out() {
    let runtime = json!({"engine": "sim", "template": {"spec": {"nodeSelector": {"gpu": "yes"}}}});
    let object = built(&json!({"format": "InImage"}), &runtime);
    assert_eq!(
        object["spec"]["template"]["spec"]["containers"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
}

#[test]
fn a_custom_container_is_left_as_it_is() {
    let runtime = json!({
        "engine": "custom", "image": "x:1", "args": ["serve"],
        "ports": [{"name": "http", "port": 9000}], "env": [{"name": "A", "value": "b"}],
        "serviceAccountName": "digits",
    });
    let pod = built(&json!({"format": "InImage"}), &runtime)["spec"]["template"].clone();
    let container = &pod["spec"]["containers"][0];
    assert_eq!(container["args"], json!(["serve"]));
    assert_eq!(container["ports"][0]["containerPort"], 9000);
    assert_eq!(container["readinessProbe"]["tcpSocket"]["port"], "http");
    assert!(
        container["securityContext"]
            .get("readOnlyRootFilesystem")
            .is_none()
    );
    assert!(pod["spec"]["securityContext"].get("runAsUser").is_none());
    assert!(pod["spec"].get("automountServiceAccountToken").is_none());
    assert!(pod["metadata"].get("annotations").is_none());
    let names: Vec<_> = container["env"]
        .as_array()
        .unwrap()
        .iter()
        .map(|v| &v["name"])
        .collect();
    assert_eq!(names, ["SLUICE_MODEL_DEPLOYMENT", "SLUICE_REVISION", "A"]);
}

#[test]
fn what_cannot_be_made_into_pods_is_refused_with_its_path() {
    let path = |runtime: Value| {
        let model = json!({"format": "InImage"});
        check(&Saved {
            model,
            runtime,
            image: "x".to_owned(),
        })
        .unwrap_err()
        .path
    };
    let template = json!({"engine": "sim", "template": {"spec": {"containers": 7}}});
    assert_eq!(path(template), "spec.runtime.template");
    assert_eq!(path(json!({"engine": "vllm"})), "spec.runtime");
    let ports = json!({"engine": "custom", "ports": [{"name": "grpc", "port": 1}]});
    assert_eq!(path(ports), "spec.runtime.ports");
}
