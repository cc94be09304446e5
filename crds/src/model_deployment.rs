//! `ModelDeployment`: a model, how it is served and how a new revision of it is rolled out.

use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use crate::{
    as_written::AsWritten,
    guardrail::Guardrail,
    runtime::{Model, Runtime},
    status::ModelDeploymentStatus,
    steps::Rollout,
    traffic::Traffic,
};

/// A model, how it is served and how a new revision of it is rolled out.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "sluice.dev",
    version = "v1alpha1",
    kind = "ModelDeployment",
    plural = "modeldeployments",
    shortname = "mdep",
    category = "sluice",
    namespaced,
    status = "ModelDeploymentStatus",
    derive = "PartialEq",
    doc = "A model, how it is served and how a new revision of it is rolled out.",
    scale(
        spec_replicas_path = ".spec.replicas",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    ),
    validation = Rule::new("self.metadata.name.size() <= 40").message("metadata.name: must be no more than 40 characters, so that the names of what Sluice makes fit"),
    validation = Rule::new("self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')").message("metadata.name: must be a DNS label: lower-case letters, digits and '-', beginning with a letter"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Step", type_ = "string", json_path = ".status.step"),
    printcolumn(name = "Weight", type_ = "string", json_path = ".status.weight", description = "traffic that the canary gets"),
    printcolumn(name = "Stable", type_ = "string", json_path = ".status.stableRevision"),
    printcolumn(name = "Canary", type_ = "string", json_path = ".status.canaryRevision"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].status"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].reason"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].message", priority = 1)
)]
#[serde(rename_all = "camelCase")]
pub struct ModelDeploymentSpec {
    /// Which model. Together with `runtime` it is the revision: a change here starts a rollout.
    pub model: AsWritten<Model>,
    /// How the model is served. Together with `model` it is the revision.
    pub runtime: AsWritten<Runtime>,
    /// How many pods serve the stable revision; default 1. Not part of the revision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 10_000), extend("default" = 1))]
    pub replicas: Option<i32>,
    /// How users reach the model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traffic: Option<Traffic>,
    /// How a new revision is rolled out; none: 1%, 5%, 25% and 100%, five minutes each.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<Rollout>,
    /// What a new revision must not do. None: the routers compare its errors, its answers slower than
    /// 250 ms and its broken streams with the stable revision's. An empty list: nothing is watched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    #[x_kube(validation = Rule::new("self.filter(g, g.check.type != 'Threshold').size() <= 8").message("at most 8 guardrails may be of types Comparison and Objective"))]
    pub guardrails: Option<Vec<Guardrail>>,
}
