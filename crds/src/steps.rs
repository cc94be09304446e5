//! How a new revision is rolled out.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    contract::MirrorMethods,
    quantity::{DurationText, Number, Percent},
};

/// How a new revision is rolled out. Changes here during a run apply to the next run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.type != 'Canary' || has(self.canary)").message("type Canary needs the member canary").field_path(".canary"))]
#[x_kube(validation = Rule::new("!has(self.falseRollbackProbability) || (double(self.falseRollbackProbability) > 0.0 && double(self.falseRollbackProbability) <= 0.5)").message("falseRollbackProbability must be above 0 and at most 0.5").field_path(".falseRollbackProbability"))]
pub struct Rollout {
    /// The strategy; the member of that name configures it.
    #[serde(rename = "type")]
    pub type_: RolloutType,
    /// Configures type `Canary`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canary: Option<Canary>,
    /// How long the new revision must hold at 100 % before it is promoted; until then the old one
    /// keeps its pods and can take all traffic back. Default 0s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bake: Option<DurationText>,
    /// How long a run may wait for pods to be ready or for a weight to be applied before it is
    /// rolled back; default 15m.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress_deadline: Option<DurationText>,
    /// What happens when a step's guardrails stay undecided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step_deadline: Option<StepDeadline>,
    /// How likely a run of a revision that is no worse may be rolled back all the same, by all
    /// guardrails of types Comparison and Objective together; default 0.01. Less of it takes longer
    /// to see a bad one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub false_rollback_probability: Option<Number>,
    /// Stops steps and clocks; guardrails go on and still roll back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused: Option<bool>,
    /// Raise it to try a revision again that was rolled back; default 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub attempt: Option<i64>,
}

/// A rollout strategy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RolloutType {
    /// Traffic moves in steps; each must hold.
    #[default]
    Canary,
}

/// Configures type `Canary`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Canary {
    /// The steps: first those with `mirror`, if any, then those with `weight`. Both rise strictly, and
    /// the last weight is 100%.
    #[schemars(length(min = 1, max = 32))]
    #[x_kube(validation = Rule::new("self.all(i, s, i == 0 || !has(s.weight) || !has(self[i-1].weight) || double(s.weight.replace('%','')) > double(self[i-1].weight.replace('%','')))").message("weights must rise from step to step"))]
    #[x_kube(validation = Rule::new("self.all(i, s, i == 0 || !has(s.mirror) || !has(self[i-1].mirror) || double(s.mirror.replace('%','')) > double(self[i-1].mirror.replace('%','')))").message("mirror must rise from step to step"))]
    #[x_kube(validation = Rule::new("self.all(i, s, i == 0 || !has(s.mirror) || has(self[i-1].mirror))").message("steps with mirror come before the first step with weight"))]
    #[x_kube(validation = Rule::new("self.size() == 0 || (has(self[self.size()-1].weight) && double(self[self.size()-1].weight.replace('%','')) == 100.0)").message("the last step's weight must be 100%"))]
    pub steps: Vec<Step>,
    /// Which requests the steps with `mirror` may copy; default Safe.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mirror_methods: Option<MirrorMethods>,
}

/// One step of a canary: either users get the new revision, or it only gets copies of requests.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.weight) != has(self.mirror)").message("a step has either weight or mirror").field_path(".weight"))]
#[x_kube(validation = Rule::new("!has(self.weight) || double(self.weight.replace('%','')) > 0.0").message("a weight must be above 0%").field_path(".weight"))]
#[x_kube(validation = Rule::new("!has(self.mirror) || double(self.mirror.replace('%','')) > 0.0").message("mirror must be above 0%").field_path(".mirror"))]
pub struct Step {
    /// Share of the traffic that the new revision gets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<Percent>,
    /// Share of the requests that are also sent to the new revision, whose answers nobody gets: users
    /// stay on the stable revision. Needs the chart's Gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mirror: Option<Percent>,
    /// How long the step lasts at least, counted from when the weight is applied or the copies begin;
    /// default 0s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold: Option<DurationText>,
}

/// What happens when a step stays undecided.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StepDeadline {
    /// Counted from the step's start; default 2h.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<DurationText>,
    /// What then; default Hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_inconclusive: Option<OnInconclusive>,
}

/// What happens to a step that stays undecided.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum OnInconclusive {
    /// Stay, and say that a person is needed.
    #[default]
    Hold,
    /// Go on as if it had passed.
    Advance,
    /// Roll back.
    Rollback,
}
