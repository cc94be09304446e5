//! What Sluice says of a `ModelDeployment`: where its rollout stands, and why.
//!
//! The status is the operator's only memory of a run, so everything a later decision needs is
//! here, flat; `rollout::State` is its meaning.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::quantity::{DurationText, Number, Percent};

/// Where the rollout stands, and why.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ModelDeploymentStatus {
    /// Generation of the spec that this status was decided from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Pending, Stable, Progressing, Baking, RollingBack, RolledBack or Unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<String>,
    /// Whether the rollout is paused.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub paused: bool,
    /// The step that the run is at, such as `2/4`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
    /// Share of the traffic that the canary gets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<Percent>,
    /// The revision that is proven.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stable_revision: Option<String>,
    /// The revision that is being tried.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canary_revision: Option<String>,
    /// Pods of the revision with the most traffic, for the scale subresource.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<i32>,
    /// Selector of those pods, for the scale subresource.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
    /// The revisions that have pods.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub revisions: Vec<RevisionStatus>,
    /// The run that is under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<RunStatus>,
    /// How many runs there have been; the next one's id follows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runs: Option<i64>,
    /// The latest transitions, newest last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 10))]
    pub decisions: Vec<DecisionRecord>,
    /// The latest runs that ended, newest last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 10))]
    pub history: Vec<RunRecord>,
    /// Revisions that get no traffic until `rollout.attempt` is raised or another spec came between.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 10))]
    pub condemned: Vec<CondemnedRevision>,
    /// Accepted, Available, Ready, Reconciling, Stalled, Progressing, GuardrailsHealthy and
    /// TrafficApplied.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// A revision that has pods.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RevisionStatus {
    /// Name of the revision, and of its ControllerRevision, Deployment and Service.
    pub name: String,
    /// Stable, Canary, or Draining: no traffic any more, its pods finish what they have.
    pub track: String,
    /// Its share of the traffic.
    pub weight: Percent,
    /// How many pods it is to have.
    pub replicas: i32,
    /// How many of them are ready.
    pub ready_replicas: i32,
    /// With track Draining: when its pods go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain_until: Option<Time>,
}

/// The run that is under way.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RunStatus {
    /// Id of the run, unique in this object.
    pub id: String,
    /// The revision that is tried.
    pub revision: String,
    /// The frozen plan.
    pub plan_ref: PlanReference,
    /// When the run began.
    pub started_at: Option<Time>,
    /// Value of `rollout.attempt` that it began with.
    #[serde(default)]
    pub attempt: i64,
    /// Pods of the stable revision when the run began: it keeps at least as many until promotion.
    #[serde(default)]
    pub stable_replicas: i32,
    /// When the canary first got traffic or copies of it in this run: no query reaches back before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exposed_at: Option<Time>,
    /// Index of the step, from 0; none before the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step_index: Option<i32>,
    /// Whether the run is past its last step and bakes.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub baking: bool,
    /// When that step (or the bake) was entered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step_started_at: Option<Time>,
    /// Since when the step's whole weight is applied without a break.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub applied_at: Option<Time>,
    /// How long the step was held before `appliedAt`, in stretches that a pause or lost pods broke.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<DurationText>,
    /// Since when the run waits for pods or for a weight to be applied; the progress deadline counts
    /// from here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting_since: Option<Time>,
    /// The weight that the canary has earned; what is applied may be less while pods are missing.
    #[serde(default)]
    pub earned_weight: Percent,
    /// What the guardrails have come to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub guardrails: Vec<GuardrailStatus>,
    /// How the run ends, while traffic is being taken off the canary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ending: Option<Ending>,
}

/// Where a run's frozen plan is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PlanReference {
    /// Name of the ControllerRevision.
    pub name: String,
}

/// How a run ends.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Ending {
    /// RolledBack, Superseded or Reverted.
    pub result: String,
    /// Why, as a condition's reason.
    pub reason: String,
    /// Why, for people.
    pub message: String,
}

/// What one guardrail has come to in this run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GuardrailStatus {
    /// Name of the guardrail.
    pub name: String,
    /// Windows of this run that failed.
    #[serde(default)]
    pub failures: i32,
    /// End of the last failed window; a later one counts again only if it does not overlap it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed_at: Option<Time>,
    /// NoData or Error, while it cannot see.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blind: Option<String>,
    /// Since when it cannot see, in this step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blind_since: Option<Time>,
    /// With a guardrail that the routers judge: what they had seen at the latest transition.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence: Option<EvidenceStatus>,
}

/// What the routers had seen for a guardrail at the latest transition.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EvidenceStatus {
    /// Pass, Fail, Inconclusive, NoData or Error.
    pub verdict: String,
    /// Natural logarithm of the evidence that the canary is worse.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_e: Option<Number>,
    /// What that had to reach.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bound: Option<Number>,
    /// Users of the canary in that step.
    #[serde(default)]
    pub canary_units: i64,
    /// With a comparison, once the canary has all traffic: the share of bad requests that it may have,
    /// from what the stable revision had.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<Number>,
    /// The sums that the evidence is made of, as JSON: what an operator that lost its memory goes on
    /// from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 2048))]
    pub sums: Option<String>,
}

/// One transition: what was decided, from what, and why.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DecisionRecord {
    /// Number of the transition, unique in this object.
    pub id: i64,
    /// When.
    pub at: Option<Time>,
    /// The run, if there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<String>,
    /// The revision that it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// What was decided, as an Event's reason: RunStarted, StepStarted, Promoted, RolledBack, ….
    pub decision: String,
    /// The canary's earned weight from here on.
    pub weight: Percent,
    /// Why, for people.
    pub message: String,
    /// What the guardrails said.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub guardrails: Vec<Measured>,
}

/// What a guardrail measured when a decision was made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Measured {
    /// Name of the guardrail.
    pub name: String,
    /// Pass, Fail, Inconclusive, NoData or Error.
    pub verdict: String,
    /// The value, if there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<Number>,
    /// The samples it rests on, if they could be counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub samples: Option<Number>,
    /// The bounds, such as `<= 0.05`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threshold: Option<String>,
    /// With a guardrail that the routers judge: natural logarithm of the evidence that the canary is
    /// worse.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_e: Option<Number>,
    /// What that has to reach to fail.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bound: Option<Number>,
    /// The same in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub summary: Option<String>,
}

/// A run that ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RunRecord {
    /// Id of the run.
    pub run: String,
    /// The revision that was tried.
    pub revision: String,
    /// Promoted, RolledBack, Superseded or Reverted.
    pub result: String,
    /// Why, as a condition's reason.
    pub reason: String,
    /// When it began.
    pub started_at: Option<Time>,
    /// When it ended.
    pub ended_at: Option<Time>,
}

/// A revision that gets no traffic.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CondemnedRevision {
    /// The revision.
    pub revision: String,
    /// The run in which it was condemned.
    pub run: String,
    /// Value of `rollout.attempt` then; a higher one lifts it.
    #[serde(default)]
    pub attempt: i64,
    /// Why, as a condition's reason.
    pub reason: String,
}
