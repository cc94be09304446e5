//! Where guardrails ask: a Prometheus-compatible server that an administrator has named.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::quantity::DurationText;

/// A Prometheus-compatible server that guardrails may ask. Users name it; only administrators, who
/// may write this cluster-scoped kind, give addresses.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "sluice.dev",
    version = "v1alpha1",
    kind = "MetricSource",
    plural = "metricsources",
    derive = "PartialEq",
    category = "sluice",
    doc = "A Prometheus-compatible server that guardrails may ask.",
    printcolumn(name = "URL", type_ = "string", json_path = ".spec.prometheus.url"),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    )
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.type != 'Prometheus' || has(self.prometheus)").message("type Prometheus needs the member prometheus").field_path(".prometheus"))]
pub struct MetricSourceSpec {
    /// Kind of server; the member of that name configures it.
    #[serde(rename = "type")]
    pub type_: MetricSourceType,
    /// Configures type `Prometheus`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prometheus: Option<PrometheusSource>,
    /// How the operator proves who it is; none: it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<Credentials>,
    /// Which namespaces' ModelDeployments may use it; default All.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allowed_namespaces: Option<AllowedNamespaces>,
    /// Name of the label that tells namespaces apart, put into every `$(selector)`; default
    /// `namespace`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 128),
        regex(pattern = r"^[a-zA-Z_][a-zA-Z0-9_]*$")
    )]
    pub namespace_label: Option<String>,
    /// How long one query may take; default 5s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<DurationText>,
}

/// Kind of metrics server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum MetricSourceType {
    /// Prometheus, or what speaks its HTTP API: Thanos, Mimir, VictoriaMetrics.
    #[default]
    Prometheus,
}

/// Configures type `Prometheus`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PrometheusSource {
    /// Base address, without `/api/v1`.
    #[schemars(length(max = 1024), regex(pattern = r"^https?://[^\s@?#]+$"))]
    pub url: String,
    /// Headers that every query carries, such as a tenant. No credentials: they are mounted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub headers: Vec<HeaderValue>,
}

/// A header of a query.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HeaderValue {
    /// Name of the header.
    #[schemars(
        length(min = 1, max = 256),
        regex(pattern = r"^[!#$%&'*+.^_`|~0-9A-Za-z-]+$")
    )]
    pub name: String,
    /// Its value.
    #[schemars(length(max = 4096))]
    pub value: String,
}

/// How the operator proves who it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Credentials {
    /// Kind of credentials.
    #[serde(rename = "type")]
    pub type_: CredentialsType,
    /// Name under which the chart mounts them (`operator.metricCredentials` in its values): never a
    /// path.
    #[schemars(
        length(min = 1, max = 63),
        regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")
    )]
    pub mount: String,
}

/// Kind of credentials.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum CredentialsType {
    /// The file `token` of the mount, sent as `Authorization: Bearer`.
    BearerToken,
}

/// Which namespaces may use a MetricSource.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = Rule::new("self.from != 'Selector' || has(self.selector)").message("from: Selector needs a selector").field_path(".selector"))]
pub struct AllowedNamespaces {
    /// All namespaces, or those that the selector names.
    pub from: NamespacesFrom,
    /// Labels of the namespaces, with `from: Selector`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<LabelSelector>,
}

/// How namespaces are chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum NamespacesFrom {
    /// All.
    #[default]
    All,
    /// By their labels.
    Selector,
}
