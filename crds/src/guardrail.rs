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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Check {
    /// Kind of check.
    #[serde(rename = "type")]
    pub type_: CheckType,
    /// The queries.
    pub prometheus: PrometheusCheck,
    /// The bounds.
    pub threshold: Threshold,
}

/// Kind of check.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum CheckType {
    /// A value must stay within bounds.
    #[default]
    Threshold,
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
