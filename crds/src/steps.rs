//! How a new revision is rolled out.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::quantity::{DurationText, Number, Percent};

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
    /// The steps. Weights rise strictly and end at 100%.
    #[schemars(length(min = 1, max = 32))]
    #[x_kube(validation = Rule::new("self.all(i, s, i == 0 || double(s.weight.replace('%','')) > double(self[i-1].weight.replace('%','')))").message("weights must rise from step to step"))]
    #[x_kube(validation = Rule::new("self.size() == 0 || double(self[self.size()-1].weight.replace('%','')) == 100.0").message("the last step's weight must be 100%"))]
    #[x_kube(validation = Rule::new("self.all(s, double(s.weight.replace('%','')) > 0.0)").message("a weight must be above 0%"))]
    pub steps: Vec<Step>,
}

/// One step of a canary.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Step {
    /// Share of the traffic that the new revision gets.
    pub weight: Percent,
    /// How long the step lasts at least, counted from when the weight is applied; default 0s.
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
