//! Revisions and plans, kept in `ControllerRevision` objects.

use std::collections::BTreeMap;

use crds::{ModelDeploymentSpec, contract, runtime::Engine};
use jiff::Timestamp;
use k8s_openapi::{api::apps::v1::ControllerRevision, apimachinery::pkg::runtime::RawExtension};
use kube::ResourceExt as _;
use rollout::{
    observation::SeenRevision,
    plan::{Plan, SpecError},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::owner::Owner;

/// All that is saved for one `ModelDeployment`.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// Revisions by name.
    pub revisions: BTreeMap<String, SeenRevision>,
    /// Plans by name, as they are stored.
    pub plans: BTreeMap<String, Value>,
}

impl History {
    /// Sorts what is saved.
    pub fn read(objects: impl IntoIterator<Item = ControllerRevision>) -> Self {
        let mut history = Self::default();
        for object in objects {
            let name = object.name_any();
            match object
                .labels()
                .get(contract::LABEL_HOLDS)
                .map(String::as_str)
            {
                Some(contract::HOLDS_REVISION) => {
                    history.revisions.insert(name, seen(&object));
                }
                Some(contract::HOLDS_PLAN) => {
                    let data = object.data.map_or(Value::Null, |data| data.0);
                    history.plans.insert(name, data);
                }
                Some(_) | None => {}
            }
        }
        history
    }

    /// A saved plan, if there is one of that name.
    pub fn plan(&self, name: &str) -> Option<Result<Plan, String>> {
        self.plans.get(name).map(|data| {
            Plan::deserialize(data.get("plan").unwrap_or(&Value::Null))
                .map_err(|error| format!("the plan in ControllerRevision {name}: {error}"))
        })
    }
}

fn seen(object: &ControllerRevision) -> SeenRevision {
    let since = object.annotations().get(contract::ANNOTATION_STABLE_SINCE);
    SeenRevision {
        stable_since: since.and_then(|since| since.parse::<Timestamp>().ok()),
        number: object.revision,
    }
}

/// A revision as it is saved: what its pods are made from, however often, whatever the spec says by
/// then.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Saved {
    /// The model, as its author wrote it.
    pub model: Value,
    /// How it is served, as its author wrote it.
    pub runtime: Value,
    /// The image: an operator that comes with another one must not change what runs.
    pub image: String,
}

impl Saved {
    /// What is to be saved of a spec.
    pub fn of(
        spec: &ModelDeploymentSpec,
        inference_image: Option<&str>,
    ) -> Result<Self, SpecError> {
        let runtime = spec
            .runtime
            .read()
            .map_err(|error| SpecError::at("spec.runtime", error.to_string()))?;
        let image = match (runtime.image, runtime.engine) {
            (Some(image), _) => image,
            (None, Engine::Custom) => {
                return Err(SpecError::at(
                    "spec.runtime.image",
                    "engine custom needs an image",
                ));
            }
            (None, Engine::Onnx | Engine::Sim) => {
                inference_image.map(str::to_owned).ok_or_else(|| {
                    SpecError::at(
                        "spec.runtime.image",
                        "the operator runs without --inference-image: name an image here",
                    )
                })?
            }
        };
        let (model, runtime) = (spec.model.raw().clone(), spec.runtime.raw().clone());
        Ok(Self {
            model,
            runtime,
            image,
        })
    }

    /// What is saved in an object.
    pub fn read(object: &ControllerRevision) -> Result<Self, String> {
        let data = object.data.as_ref().map_or(&Value::Null, |data| &data.0);
        Self::deserialize(data)
            .map_err(|error| format!("ControllerRevision {}: {error}", object.name_any()))
    }
}

/// The object that keeps a revision.
pub fn revision_object(
    owner: &Owner,
    name: &str,
    saved: &Saved,
    number: i64,
) -> ControllerRevision {
    let mut labels = owner.revision_labels(name);
    labels.insert(
        contract::LABEL_HOLDS.to_owned(),
        contract::HOLDS_REVISION.to_owned(),
    );
    ControllerRevision {
        metadata: owner.metadata(name, labels),
        data: Some(RawExtension(json!(saved))),
        revision: number,
    }
}

/// The object that keeps a plan.
pub fn plan_object(owner: &Owner, name: &str, plan: &Plan) -> ControllerRevision {
    let mut labels = owner.labels();
    labels.insert(
        contract::LABEL_HOLDS.to_owned(),
        contract::HOLDS_PLAN.to_owned(),
    );
    ControllerRevision {
        metadata: owner.metadata(name, labels),
        data: Some(RawExtension(json!({ "plan": plan }))),
        revision: 0,
    }
}

/// The patch that marks a revision stable.
pub fn stable_mark(since: Timestamp) -> Value {
    json!({ "metadata": { "annotations": { contract::ANNOTATION_STABLE_SINCE: since.to_string() } } })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::owner::tests::owner;

    fn spec(runtime: &Value) -> ModelDeploymentSpec {
        serde_json::from_value(json!({ "model": {"format": "InImage"}, "runtime": runtime }))
            .unwrap()
    }

    #[test]
    fn a_revision_is_read_back_as_it_was_saved() {
        let spec = spec(&json!({"engine": "sim", "args": ["alpha=1ms"], "unknown": 7}));
        let saved = Saved::of(&spec, Some("pod:1")).unwrap();
        let mut object = revision_object(&owner(), "digits-1-a", &saved, 3);
        assert_eq!(Saved::read(&object).unwrap(), saved);
        assert_eq!(saved.runtime["unknown"], 7);

        let since: Timestamp = "2026-01-02T03:04:05Z".parse().unwrap();
        let mark = &stable_mark(since)["metadata"]["annotations"];
        object.metadata.annotations = serde_json::from_value(mark.clone()).unwrap();
        let history = History::read([object]);
        let seen = SeenRevision {
            stable_since: Some(since),
            number: 3,
        };
        assert_eq!(
            history.revisions,
            BTreeMap::from([("digits-1-a".to_owned(), seen)])
        );
    }

    #[test]
    fn the_image_is_the_users_or_the_operators() {
        let image = |runtime, ours| Saved::of(&spec(&runtime), ours).map(|saved| saved.image);
        assert_eq!(
            image(json!({"engine": "sim"}), Some("pod:1")).unwrap(),
            "pod:1"
        );
        assert_eq!(
            image(json!({"engine": "sim", "image": "x"}), Some("pod:1")).unwrap(),
            "x"
        );
        assert_eq!(
            image(json!({"engine": "sim"}), None).unwrap_err().path,
            "spec.runtime.image"
        );
        image(json!({"engine": "custom"}), Some("pod:1")).unwrap_err();
    }

    #[test]
    fn a_plan_is_read_back_as_it_was_saved() {
        let plan = Plan::from_spec(&spec(&json!({"engine": "sim"}))).unwrap();
        let history = History::read([plan_object(&owner(), "digits-plan-1", &plan)]);
        assert_eq!(history.plan("digits-plan-1"), Some(Ok(plan)));
        assert_eq!(history.plan("other"), None);
        assert!(history.revisions.is_empty());
    }
}
