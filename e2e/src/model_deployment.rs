//! `ModelDeployment`s to try things with, and what is waited for on them.

use std::{fs, time::Duration};

use anyhow::Context as _;
use crds::ModelDeployment;
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};

use crate::{
    chart,
    cluster::{Cluster, documents},
    wait,
};

/// Name of the model deployment of most tests.
pub const NAME: &str = "digits";

/// One of sim pods: no artifact, settable behaviour. Arguments are `name=value`.
pub fn sim(args: &[&str]) -> Value {
    json!({
        "apiVersion": "sluice.dev/v1alpha1", "kind": "ModelDeployment",
        "metadata": {"name": NAME},
        "spec": {
            "model": {"format": "InImage"},
            "runtime": {
                "engine": "sim", "args": args,
                "resources": {"requests": {"cpu": "10m", "memory": "32Mi"}},
            },
            "replicas": 2,
            "traffic": {"splitKey": {"type": "Header", "name": "x-user-id"}},
        },
    })
}

/// A version of the digits example, its models served in `namespace`.
pub fn digits(namespace: &str, version: &str) -> anyhow::Result<Value> {
    let text = example(&format!("digits/{version}.yaml"))?;
    one(&text.replace(".sluice-demo.", &format!(".{namespace}.")))
}

/// A version of the `FastAPI` example.
pub fn fastapi(cluster: &Cluster, version: &str) -> anyhow::Result<Value> {
    let mut object = one(&example(&format!("fastapi/{version}.yaml"))?)?;
    let image = json!(cluster.image("example-fastapi"));
    set(&mut object, "/spec/runtime/image", image)?;
    Ok(object)
}

fn example(path: &str) -> anyhow::Result<String> {
    let path = chart::root().join("examples").join(path);
    fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
}

fn one(text: &str) -> anyhow::Result<Value> {
    documents(text)?
        .into_iter()
        .next()
        .context("the example holds no object")
}

/// Puts a value in place of another.
pub fn set(object: &mut Value, pointer: &str, value: Value) -> anyhow::Result<()> {
    *object
        .pointer_mut(pointer)
        .with_context(|| format!("there is no {pointer}"))? = value;
    Ok(())
}

/// Steps and guardrails that take seconds in place of minutes.
#[must_use]
pub fn quick(mut object: Value) -> Value {
    let steps = json!([
        {"weight": "5%", "hold": "1s"}, {"weight": "25%", "hold": "1s"}, {"weight": "100%", "hold": "1s"},
    ]);
    if let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) {
        spec.insert(
            "rollout".to_owned(),
            json!({"type": "Canary", "canary": {"steps": steps}}),
        );
        spec.insert("guardrails".to_owned(), guardrails("5s", 10));
    }
    object
}

/// The default guardrails, looking back for `window` every second.
pub fn guardrails(window: &str, min_samples: u32) -> Value {
    let threshold =
        json!({"max": "0.05", "window": window, "interval": "1s", "minSamples": min_samples});
    let requests = "sum(increase(sluice_router_requests_total{$(selector)}[$(window)]))";
    let errors = "(sum(increase(sluice_router_requests_total{$(selector),code=~\"5..\"}[$(window)])) or vector(0))";
    let answers =
        "sum(increase(sluice_router_request_duration_seconds_count{$(selector)}[$(window)]))";
    let fast = "sum(increase(sluice_router_request_duration_seconds_bucket{$(selector),le=\"0.25\"}[$(window)]))";
    let guardrail = |name: &str, value: String, samples: &str| {
        json!({"name": name, "check": {
            "type": "Threshold",
            "prometheus": {"value": value, "samples": samples},
            "threshold": threshold,
        }})
    };
    json!([
        guardrail("errors", format!("{errors} / {requests}"), requests),
        guardrail("slow-answers", format!("1 - {fast} / {answers}"), answers),
    ])
}

/// A guardrail on errors that the routers judge by themselves.
pub fn router_guardrails(min_units: u32) -> Value {
    json!([{"name": "errors", "check": {
        "type": "Comparison",
        "router": {"event": "Error"},
        "comparison": {"tolerance": "1.25", "minUnits": min_units},
    }}])
}

/// A model deployment in a cluster.
#[derive(Clone, Debug)]
pub struct Watched {
    /// The objects of its kind in its namespace.
    pub api: Api<ModelDeployment>,
    /// Its name.
    pub name: String,
}

impl Watched {
    /// The one of that name.
    pub fn new(cluster: &Cluster, namespace: &str, name: &str) -> Self {
        Self {
            api: Api::namespaced(cluster.client.clone(), namespace),
            name: name.to_owned(),
        }
    }

    /// Waits until it is as it should be.
    pub async fn until(
        &self,
        what: &str,
        limit: Duration,
        condition: impl Fn(&ModelDeployment) -> bool + Sync,
    ) -> anyhow::Result<ModelDeployment> {
        let met = |object: Option<&ModelDeployment>| object.is_some_and(&condition);
        let object = wait::until(&self.api, &self.name, what, limit, met).await?;
        object.context("the model deployment is gone")
    }

    /// Waits until the spec's revision is promoted; gives its name.
    pub async fn promoted(&self, limit: Duration) -> anyhow::Result<String> {
        let object = self
            .until("the spec's revision to be promoted", limit, is_promoted)
            .await?;
        Ok(stable(&object))
    }

    /// Waits until the canary has been rolled back.
    pub async fn rolled_back(&self, limit: Duration) -> anyhow::Result<ModelDeployment> {
        self.until("the spec's revision to be rolled back", limit, |object| {
            is_current(object) && phase(object) == "RolledBack"
        })
        .await
    }

    /// Waits until the run is at a step; the first has number 1.
    pub async fn at_step(&self, step: u32, limit: Duration) -> anyhow::Result<ModelDeployment> {
        let begins = format!("{step}/");
        let what = format!("step {step}");
        let at = |object: &ModelDeployment| {
            let status = object.status.as_ref();
            let applied = status
                .and_then(|status| status.run.as_ref()?.applied_at.as_ref())
                .is_some();
            applied
                && status
                    .and_then(|status| status.step.as_ref())
                    .is_some_and(|at| at.starts_with(&begins))
        };
        self.until(&what, limit, at).await
    }

    /// Changes it by a merge patch.
    pub async fn patch(&self, patch: &Value) -> anyhow::Result<ModelDeployment> {
        let patched = self
            .api
            .patch(&self.name, &PatchParams::default(), &Patch::Merge(patch))
            .await;
        patched.with_context(|| format!("cannot patch {}", self.name))
    }

    /// Its latest state.
    pub async fn get(&self) -> anyhow::Result<ModelDeployment> {
        Ok(self.api.get(&self.name).await?)
    }
}

/// Whether the status is about the latest spec.
pub fn is_current(object: &ModelDeployment) -> bool {
    let observed = object
        .status
        .as_ref()
        .and_then(|status| status.observed_generation);
    observed.is_some() && observed == object.metadata.generation
}

/// Whether the spec's revision serves all traffic.
pub fn is_promoted(object: &ModelDeployment) -> bool {
    is_current(object) && phase(object) == "Stable" && condition(object, "Ready").0 == "True"
}

/// The phase; empty: none.
pub fn phase(object: &ModelDeployment) -> &str {
    object
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref())
        .unwrap_or_default()
}

/// The stable revision; empty: none.
pub fn stable(object: &ModelDeployment) -> String {
    object
        .status
        .as_ref()
        .and_then(|status| status.stable_revision.clone())
        .unwrap_or_default()
}

/// The canary; empty: none.
pub fn canary(object: &ModelDeployment) -> String {
    object
        .status
        .as_ref()
        .and_then(|status| status.canary_revision.clone())
        .unwrap_or_default()
}

/// Status and reason of a condition; empty: there is none.
pub fn condition<'a>(object: &'a ModelDeployment, type_: &str) -> (&'a str, &'a str) {
    let conditions = object
        .status
        .as_ref()
        .map(|status| status.conditions.as_slice());
    let found = conditions
        .unwrap_or_default()
        .iter()
        .find(|condition| condition.type_ == type_);
    found.map_or(("", ""), |condition| {
        (condition.status.as_str(), condition.reason.as_str())
    })
}

/// The names of the decisions that are remembered, oldest first.
pub fn decisions(object: &ModelDeployment) -> Vec<&str> {
    let decisions = object
        .status
        .as_ref()
        .map(|status| status.decisions.as_slice());
    decisions
        .unwrap_or_default()
        .iter()
        .map(|record| record.decision.as_str())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_built_can_be_read_as_a_model_deployment() {
        let digits = digits("somewhere", "v2").unwrap();
        assert!(digits.to_string().contains("example-models.somewhere.svc"));
        for object in [quick(sim(&["alpha=5ms"])), quick(digits)] {
            let object: ModelDeployment = serde_json::from_value(object).unwrap();
            assert_eq!(object.spec.guardrails.unwrap().len(), 2);
            assert_eq!(object.spec.rollout.unwrap().canary.unwrap().steps.len(), 3);
        }
    }
}
