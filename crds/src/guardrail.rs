//! What a new revision must not do.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::quantity::{DurationText, Number};

/// One thing that a new revision must not do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Guardrail {
    /// Name, unique among the object's guardrails.
    #[schemars(
        length(min = 1, max = 63),
        regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")
    )]
    pub name: String,
    /// What is measured and what it may be.
    pub check: Check,
    /// What a failure does; default Rollback.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_fail: Option<OnFail>,
    /// What happens when there is nothing to measure; default Hold, after 30m.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_no_data: Option<Blind>,
    /// What happens when the measurement itself fails; default Hold, after 15m.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_error: Option<Blind>,
}

/// What a failed guardrail does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum OnFail {
    /// Take all traffic off the new revision, for good.
    #[default]
    Rollback,
    /// Keep the weight and wait for a person.
    Hold,
}

/// What happens when a guardrail cannot see for too long.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Blind {
    /// How long it may be blind within a step before the action is taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<DurationText>,
    /// The action; default Hold. In every case the weight does not rise while it is blind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub action: Option<BlindAction>,
}

/// What is done when a guardrail has been blind for too long.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum BlindAction {
    /// Stay, and say that a person is needed.
    #[default]
    Hold,
    /// Roll back.
    Rollback,
}

/// What is measured and what it may be.
///
/// A `Threshold` asks a Prometheus. A `Comparison` and an `Objective` are judged by the routers
/// where the requests are, within a tenth of a second, and need no metrics server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.type != 'Threshold' || has(self.prometheus)").message("type Threshold needs prometheus: the queries").field_path(".prometheus"))]
#[x_kube(validation = Rule::new("self.type != 'Threshold' || has(self.threshold)").message("type Threshold needs threshold: the bounds").field_path(".threshold"))]
#[x_kube(validation = Rule::new("self.type == 'Threshold' || has(self.router)").message("types Comparison and Objective need router: the event that is bad").field_path(".router"))]
#[x_kube(validation = Rule::new("self.type != 'Objective' || has(self.objective)").message("type Objective needs objective: the share that may be bad").field_path(".objective"))]
#[x_kube(validation = Rule::new("self.type == 'Threshold' || !has(self.prometheus)").message("prometheus is for type Threshold; the routers judge the other types").field_path(".prometheus"))]
#[x_kube(validation = Rule::new("self.type == 'Threshold' || !has(self.threshold)").message("threshold is for type Threshold").field_path(".threshold"))]
#[x_kube(validation = Rule::new("self.type != 'Threshold' || !has(self.router)").message("router is for types Comparison and Objective").field_path(".router"))]
#[x_kube(validation = Rule::new("self.type == 'Comparison' || !has(self.comparison)").message("comparison is for type Comparison").field_path(".comparison"))]
#[x_kube(validation = Rule::new("self.type == 'Objective' || !has(self.objective)").message("objective is for type Objective").field_path(".objective"))]
#[x_kube(validation = Rule::new("self.type != 'Threshold' || !has(self.warmUp)").message("warmUp is for types Comparison and Objective").field_path(".warmUp"))]
pub struct Check {
    /// Kind of check.
    #[serde(rename = "type")]
    pub type_: CheckType,
    /// Type Threshold: the queries.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prometheus: Option<PrometheusCheck>,
    /// Type Threshold: the bounds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threshold: Option<Threshold>,
    /// Types Comparison and Objective: what makes a request a bad one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub router: Option<RouterCheck>,
    /// Type Comparison: how much worse than the stable revision is too much. None: its defaults.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comparison: Option<Comparison>,
    /// Type Objective: what share may be bad, whatever the stable revision does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub objective: Option<Objective>,
    /// For so long after a pod appeared its requests are no evidence; default 30s for the events
    /// SlowerThan, SlowFirstByte and SlowChunk, as a pod is slow until it is warm, and 0s else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warm_up: Option<DurationText>,
}

/// Kind of check.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum CheckType {
    /// A value that Prometheus knows must stay within bounds.
    #[default]
    Threshold,
    /// The new revision's requests must not be bad more often than the stable revision's at the
    /// same time.
    Comparison,
    /// The share of the new revision's requests that are bad must not be above a figure.
    Objective,
}

/// What makes a request a bad one, as the router sees it: the first attempt that reached a pod
/// counts, whatever the client saw in the end.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.event.startsWith('Slow') == has(self.bound)").message("bound is needed for SlowerThan, SlowFirstByte and SlowChunk, and has no meaning for the other events").field_path(".bound"))]
pub struct RouterCheck {
    /// The event.
    pub event: RouterEvent,
    /// For the slow ones: what is too long, such as 250ms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bound: Option<DurationText>,
}

/// What makes a request a bad one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RouterEvent {
    /// The pod answered with a 5xx, did not answer, or its answer was cut off.
    #[default]
    Error,
    /// It answered with a 4xx other than 408 and 429: a schema that changed shows here.
    ClientError,
    /// The whole answer took longer than the bound.
    SlowerThan,
    /// The first chunk of the answer came later than the bound.
    SlowFirstByte,
    /// Between two chunks of the answer the pod paused for longer than the bound.
    SlowChunk,
    /// The answer ended before it was complete.
    BrokenStream,
}

/// How much worse than the stable revision is too much.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.tolerance) || double(self.tolerance) >= 1.0").message("tolerance must be at least 1: the stable revision itself is 1 times as bad as it is").field_path(".tolerance"))]
#[x_kube(validation = Rule::new("double(has(self.promoteWithin) ? self.promoteWithin : '2') > double(has(self.tolerance) ? self.tolerance : '1.25')").message("promoteWithin (default 2) must be above tolerance (default 1.25)").field_path(".promoteWithin"))]
#[x_kube(validation = Rule::new("!has(self.promoteBelow) || (double(self.promoteBelow) > 0.0 && double(self.promoteBelow) < 1.0)").message("promoteBelow is a share: above 0 and below 1").field_path(".promoteBelow"))]
pub struct Comparison {
    /// The new revision fails when its share of bad requests is proven to be more than so many times
    /// the stable revision's; default 1.25.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tolerance: Option<Number>,
    /// Before it gets all traffic it must be proven to be less than so many times as bad; default 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub promote_within: Option<Number>,
    /// Or else its share of bad requests must be proven to be below this, which nothing that hardly
    /// ever fails can be compared for; default 0.01.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub promote_below: Option<Number>,
    /// How many users a step needs on the new revision at least to pass; default 50. Requests
    /// without a user key are a user each. Where fewer users come, as many requests of them will do,
    /// four of each on average.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub min_units: Option<i64>,
}

/// What share may be bad.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("double(self.max) > 0.0 && double(self.max) < 1.0").message("max is a share: above 0 and below 1").field_path(".max"))]
pub struct Objective {
    /// The new revision fails when its share of bad requests is proven to be above this.
    pub max: Number,
    /// How many users a step needs on the new revision at least to pass; default 50. Requests
    /// without a user key are a user each. Where fewer users come, as many requests of them will do,
    /// four of each on average.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub min_units: Option<i64>,
}

/// Queries in PromQL.
///
/// `$(selector)` stands for the matchers of the revision that is judged (namespace,
/// model_deployment and revision), `$(window)` for the window, `$(namespace)`, `$(name)` and
/// `$(revision)` for the plain names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PrometheusCheck {
    /// The MetricSource to ask; default the one named `default`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_ref: Option<SourceReference>,
    /// The value: one series, one number.
    #[schemars(length(min = 1, max = 4096))]
    pub value: String,
    /// How many samples the value rests on: one series, one number.
    #[schemars(length(min = 1, max = 4096))]
    pub samples: String,
}

/// A MetricSource by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SourceReference {
    /// Name of the MetricSource.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// Bounds on a value.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.min) || has(self.max)").message("give min, max or both"))]
pub struct Threshold {
    /// The least that the value may be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min: Option<Number>,
    /// The most that the value may be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<Number>,
    /// How far back the queries look; default 1m. Only a window that lies within the step can pass.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<DurationText>,
    /// How often it is measured; default 10s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<DurationText>,
    /// How many samples a verdict needs at least; default 50.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub min_samples: Option<i64>,
    /// How many failed windows of a run are borne; the next one fails the guardrail. Default 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100))]
    pub failure_limit: Option<i32>,
}
