//! How users reach the model.

use kube::KubeSchema;
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
    /// Who may ask for the new revision during a rollout, whatever its weight; none: nobody. What
    /// they get decides nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub testers: Option<Testers>,
    /// Bounds on a request's time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeouts: Option<Timeouts>,
}

/// Where the user key is read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("(self.type == 'SourceIP') != has(self.name)").message("name is needed for types Header, Cookie and JWTClaim, and has no meaning for SourceIP").field_path(".name"))]
#[x_kube(validation = Rule::new("self.type == 'JWTClaim' || !has(self.name) || self.name.matches(\"^[!#$%&'*+.^_`|~0-9A-Za-z-]+$\")").message("the name of a header or cookie has letters, digits and !#$%&'*+.^_`|~- only").field_path(".name"))]
#[x_kube(validation = Rule::new("self.type != 'JWTClaim' || (has(self.unverified) && self.unverified)").message("nothing here checks the signature of a token, so whoever forges one is taken for another user: say unverified: true if the split may rest on that").field_path(".unverified"))]
#[x_kube(validation = Rule::new("self.type == 'JWTClaim' || !has(self.unverified)").message("unverified is for type JWTClaim").field_path(".unverified"))]
pub struct SplitKey {
    /// What kind of place.
    #[serde(rename = "type")]
    pub type_: SplitKeyType,
    /// Name of the header, the cookie or the claim.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256), regex(pattern = r"^[!-~]+$"))]
    pub name: Option<String>,
    /// For type `JWTClaim`: that you know that the token's signature is not checked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unverified: Option<bool>,
}

/// What kind of place the user key is read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum SplitKeyType {
    /// A request header.
    Header,
    /// A cookie.
    Cookie,
    /// A string or number in the JSON Web Token of the `authorization` header.
    JWTClaim,
    /// The client's address: the peer's, or, behind proxies that the router was told to trust, what
    /// they say. A Service that hides the client's address makes one user of all.
    SourceIP,
}

/// Who may ask for the new revision, whatever its weight.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Testers {
    /// What tells a tester.
    #[serde(rename = "type")]
    pub type_: TestersType,
    /// Name of the header or cookie.
    #[schemars(
        length(min = 1, max = 256),
        regex(pattern = r"^[!#$%&'*+.^_`|~0-9A-Za-z-]+$")
    )]
    pub name: String,
    /// The value that it must have, exactly. It can be read on the route: it is no password.
    #[schemars(length(min = 1, max = 256), regex(pattern = r"^[!#-+\--:<-\[\]-~]+$"))]
    pub value: String,
}

/// What tells a tester.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TestersType {
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
