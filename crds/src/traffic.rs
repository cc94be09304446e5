//! How users reach the model.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{gateway::ParentReference, quantity::DurationText};

/// How users reach the model.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Traffic {
    /// The Gateways that carry the traffic; none: the chart's own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub parent_refs: Vec<ParentReference>,
    /// Hostnames under which users ask. In the cluster `NAME.NAMESPACE` always works with our own
    /// Gateway.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 12),
        inner(
            length(min = 1, max = 253),
            regex(
                pattern = r"^(\*\.)?[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"
            )
        )
    )]
    pub hostnames: Vec<String>,
    /// Where a request's user key is read, so that a user stays on one side of the split; none:
    /// every request draws at random.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub split_key: Option<SplitKey>,
    /// Bounds on a request's time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeouts: Option<Timeouts>,
}

/// Where the user key is read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SplitKey {
    /// What kind of place.
    #[serde(rename = "type")]
    pub type_: SplitKeyType,
    /// Name of the header or cookie.
    #[schemars(
        length(min = 1, max = 256),
        regex(pattern = r"^[!#$%&'*+.^_`|~0-9A-Za-z-]+$")
    )]
    pub name: String,
}

/// What kind of place the user key is read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum SplitKeyType {
    /// A request header.
    Header,
    /// A cookie.
    Cookie,
}

/// Bounds on a request's time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Timeouts {
    /// From a request's arrival to the end of its answer; default 60s. Pods get as long to finish
    /// what they have when they go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<DurationText>,
}
