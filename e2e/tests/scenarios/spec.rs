//! Bad specs are refused before anything happens, with the path of what is wrong.

use crds::ModelDeployment;
use kube::api::PostParams;
use serde_json::{Value, json};
use sluice_e2e::model_deployment::{quick, sim};

use crate::scenario::Scenario;

const STEPS: &str = "/spec/rollout/canary/steps";
const STEPS_PATH: &str = "spec.rollout.canary.steps";

/// What is wrong: the pointer to it, the value there, and what the refusal must name.
type Case = (&'static str, Value, &'static str);

fn rollout_cases() -> Vec<Case> {
    let steps = |weights: &[&str]| -> Value {
        weights
            .iter()
            .map(|weight| json!({"weight": weight}))
            .collect()
    };
    vec![
        (
            "/metadata/name",
            json!("a-name-that-is-far-longer-than-forty-characters"),
            "metadata.name",
        ),
        ("/metadata/name", json!("9digits"), "metadata.name"),
        (STEPS, steps(&[]), STEPS_PATH),
        (STEPS, steps(&["25%", "5%", "100%"]), STEPS_PATH),
        (STEPS, steps(&["5%", "5%", "100%"]), STEPS_PATH),
        (STEPS, steps(&["5%", "25%"]), STEPS_PATH),
        (STEPS, steps(&["0%", "100%"]), STEPS_PATH),
        (STEPS, steps(&["1%"; 33]), STEPS_PATH),
        (
            "/spec/rollout/canary/steps/0/weight",
            json!("-5%"),
            "spec.rollout.canary.steps[0].weight",
        ),
        (
            "/spec/rollout/canary/steps/2/weight",
            json!("101%"),
            "spec.rollout.canary.steps[2].weight",
        ),
        (
            "/spec/rollout/canary/steps/0/weight",
            json!(5),
            "spec.rollout.canary.steps[0].weight",
        ),
        (
            "/spec/rollout/canary/steps/1/hold",
            json!("5 minutes"),
            "spec.rollout.canary.steps[1].hold",
        ),
        ("/spec/rollout/type", json!("Sudden"), "spec.rollout.type"),
        (
            "/spec/rollout",
            json!({"type": "Canary"}),
            "spec.rollout.canary",
        ),
        ("/spec/model", json!({"format": "ONNX"}), "spec.model.uri"),
    ]
}

/// Steps that copy requests.
fn mirror_cases() -> Vec<Case> {
    vec![
        (
            STEPS,
            json!([{"mirror": "5%"}, {"weight": "5%", "mirror": "10%"}, {"weight": "100%"}]),
            "spec.rollout.canary.steps[1].weight",
        ),
        (
            STEPS,
            json!([{"hold": "1s"}, {"weight": "100%"}]),
            "spec.rollout.canary.steps[0].weight",
        ),
        (
            STEPS,
            json!([{"mirror": "0%"}, {"weight": "100%"}]),
            "spec.rollout.canary.steps[0].mirror",
        ),
        (
            STEPS,
            json!([{"mirror": "10%"}, {"mirror": "5%"}, {"weight": "100%"}]),
            "mirror must rise",
        ),
        (
            STEPS,
            json!([{"weight": "5%"}, {"mirror": "10%"}, {"weight": "100%"}]),
            "steps with mirror come before",
        ),
        (STEPS, json!([{"mirror": "100%"}]), STEPS_PATH),
        (
            "/spec/rollout/canary/mirrorMethods",
            json!("POST"),
            "spec.rollout.canary.mirrorMethods",
        ),
    ]
}

fn other_cases() -> Vec<Case> {
    vec![
        (
            "/spec/model",
            json!({"format": "Pickle"}),
            "spec.model.format",
        ),
        (
            "/spec/model",
            json!({"format": "ONNX", "uri": "http://models/m.onnx", "digest": "sha256:0"}),
            "spec.model.digest",
        ),
        (
            "/spec/model",
            json!({"format": "ONNX", "uri": "ftp://models/m.onnx", "digest": format!("sha256:{:064}", 0)}),
            "spec.model.uri",
        ),
        (
            "/spec/runtime",
            json!({"engine": "custom"}),
            "spec.runtime.image",
        ),
        (
            "/spec/runtime",
            json!({"engine": "abacus"}),
            "spec.runtime.engine",
        ),
        (
            "/spec/runtime/args",
            json!("alpha=1ms"),
            "spec.runtime.args",
        ),
        ("/spec/replicas", json!(-1), "spec.replicas"),
        (
            "/spec/traffic/splitKey/type",
            json!("Colour"),
            "spec.traffic.splitKey.type",
        ),
        (
            "/spec/traffic/splitKey/name",
            json!("x user"),
            "spec.traffic.splitKey.name",
        ),
        (
            "/spec/guardrails/0/check/threshold",
            json!({}),
            "spec.guardrails[0].check.threshold",
        ),
        (
            "/spec/guardrails/0/check/prometheus/value",
            json!(""),
            "spec.guardrails[0].check.prometheus.value",
        ),
        (
            "/spec/guardrails/1/name",
            json!("errors"),
            "spec.guardrails[1]",
        ),
        (
            "/spec/guardrails/0/onFail",
            json!("Shrug"),
            "spec.guardrails[0].onFail",
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_spec_is_refused_with_the_path_of_what_is_wrong() -> anyhow::Result<()> {
    let scenario = Scenario::begin("bad-specs").await?;
    let api = scenario.cluster.dynamic(
        "sluice.dev/v1alpha1",
        "ModelDeployment",
        &scenario.namespace,
    );
    let dry = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    let good = quick(sim(&["alpha=1ms"]));
    api.create(&dry, &serde_json::from_value(good.clone())?)
        .await
        .expect("the good spec is taken");
    let mut wrong = Vec::new();
    let cases = [rollout_cases(), mirror_cases(), other_cases()];
    for (pointer, value, path) in cases.into_iter().flatten() {
        let mut object = good.clone();
        let (parent, last) = pointer.rsplit_once('/').unwrap();
        let parent = object.pointer_mut(parent).unwrap();
        if let Some(items) = parent.as_array_mut() {
            items[last.parse::<usize>()?] = value.clone();
        } else {
            parent[last] = value.clone();
        }
        match api.create(&dry, &serde_json::from_value(object)?).await {
            Ok(_) => wrong.push(format!("{pointer} = {value}: was accepted")),
            Err(error) if error.to_string().contains(path) => {}
            Err(error) => wrong.push(format!("{pointer} = {value}: no {path} in: {error}")),
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    let left: kube::Api<ModelDeployment> = scenario.watched.api.clone();
    assert!(
        left.list(&kube::api::ListParams::default())
            .await?
            .items
            .is_empty()
    );
    scenario.end().await
}
