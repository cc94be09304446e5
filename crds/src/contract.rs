//! What the programs must agree on: labels, annotations, ports, paths and metric names.
//!
//! Written once, here. The router and the operator use these constants; the inference pod, which
//! knows no Kubernetes, checks its own against them in a test.

mod evidence;
mod judge;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

pub use self::evidence::{
    ArmEvidence, Evidence, FromLeader, FromRouter, LedTrip, PATH_LEAD, PATH_STREAM, Segment,
    UserEvent,
};
pub use self::judge::{BadEvent, Judge, JudgedGuardrail, Test, Trip};

/// API group of every kind that Sluice defines.
pub const GROUP: &str = "sluice.dev";

/// Label on every object that Sluice makes.
pub const LABEL_MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// Value of [`LABEL_MANAGED_BY`].
pub const MANAGED_BY: &str = "sluice";
/// Label that names the `ModelDeployment` an object belongs to.
pub const LABEL_MODEL_DEPLOYMENT: &str = "sluice.dev/model-deployment";
/// Label that names the revision an object or pod belongs to.
pub const LABEL_REVISION: &str = "sluice.dev/revision";
/// Label on `ControllerRevision` objects: what they hold, [`HOLDS_REVISION`] or [`HOLDS_PLAN`].
pub const LABEL_HOLDS: &str = "sluice.dev/holds";
/// Value of [`LABEL_HOLDS`]: model and runtime, as the user wrote them.
pub const HOLDS_REVISION: &str = "revision";
/// Value of [`LABEL_HOLDS`]: the frozen plan of one run.
pub const HOLDS_PLAN: &str = "plan";

/// Annotation on the route: everything a router needs to split and judge, as [`Split`] in JSON.
pub const ANNOTATION_SPLIT: &str = "sluice.dev/split";
/// Annotation on the route: the latch that keeps a revision at weight 0, as [`Mark`] in JSON.
pub const ANNOTATION_MARK: &str = "sluice.dev/condemned";
/// Annotation on a revision's `ControllerRevision`: since when it is stable, RFC 3339. Of several
/// marked revisions the latest is stable.
pub const ANNOTATION_STABLE_SINCE: &str = "sluice.dev/stable-since";

/// Type of the condition on a route's status by which a router says that it took the canary's
/// weight away: reason [`REASON_TRIPPED`], message as [`Trip::to_condition_message`] writes it.
pub const CONDITION_TRIPPED: &str = "sluice.dev/Tripped";
/// The one reason of [`CONDITION_TRIPPED`].
pub const REASON_TRIPPED: &str = "GuardrailTripped";
/// Audience of the token by which the operator shows itself to routers.
pub const ROUTER_AUDIENCE: &str = "sluice-router";

/// `controllerName` of our `GatewayClass`.
pub const GATEWAY_CONTROLLER: &str = "sluice.dev/router";
/// Name of the `GatewayClass`, and of the default `Gateway`.
pub const GATEWAY_CLASS: &str = "sluice";

/// Label on the router's pods and its `Service` (`app.kubernetes.io/name`).
pub const ROUTER_APP: &str = "sluice-router";
/// Label on the operator's pods (`app.kubernetes.io/name`).
pub const OPERATOR_APP: &str = "sluice-operator";

/// Container name of the model server in every pod that Sluice makes.
pub const MODEL_CONTAINER: &str = "model";
/// Port name of HTTP/1.1 traffic on pods and Services.
pub const PORT_HTTP: &str = "http";
/// Port on which the inference pod serves its protocols, health and metrics.
pub const POD_PORT: u16 = 8080;
/// Port of every revision's `Service`.
pub const SERVICE_PORT: u16 = 80;
/// Port of the router's admin listener: applied generation, metrics, health.
pub const ROUTER_ADMIN_PORT: u16 = 9090;
/// Port of the operator's metrics and health.
pub const OPERATOR_ADMIN_PORT: u16 = 9090;

/// Path of the router's report of what it has applied, answered with [`Applied`].
pub const PATH_APPLIED: &str = "/applied";
/// Path of Prometheus metrics, on every program of ours.
pub const PATH_METRICS: &str = "/metrics";
/// Path that says the process lives.
pub const PATH_HEALTHZ: &str = "/healthz";
/// Path that says the process is ready for work.
pub const PATH_READYZ: &str = "/readyz";
/// Path that says an inference pod lives (Open Inference Protocol).
pub const PATH_POD_LIVE: &str = "/v2/health/live";
/// Path that says an inference pod is ready (Open Inference Protocol).
pub const PATH_POD_READY: &str = "/v2/health/ready";

/// Metric label: namespace of the `ModelDeployment`.
pub const METRIC_LABEL_NAMESPACE: &str = "namespace";
/// Metric label: name of the `ModelDeployment`.
pub const METRIC_LABEL_MODEL_DEPLOYMENT: &str = "model_deployment";
/// Metric label: name of the revision.
pub const METRIC_LABEL_REVISION: &str = "revision";
/// Requests that the router answered; further label `code`.
pub const METRIC_ROUTER_REQUESTS: &str = "sluice_router_requests_total";
/// Time from a request's arrival to the end of its answer, as the router saw it.
pub const METRIC_ROUTER_DURATION: &str = "sluice_router_request_duration_seconds";
/// Weight that the router applies, 0 to 1.
pub const METRIC_ROUTER_WEIGHT: &str = "sluice_router_weight";
/// Generation of the route that the router applies.
pub const METRIC_ROUTER_APPLIED_GENERATION: &str = "sluice_router_applied_generation";
/// Requests that the router sent again, or was not allowed to; further label `outcome`.
pub const METRIC_ROUTER_RETRIES: &str = "sluice_router_retries_total";
/// Endpoints that refused or reset and have not answered since.
pub const METRIC_ROUTER_EJECTED: &str = "sluice_router_ejected_endpoints";
/// Requests that were also sent to the canary, or should have been; further label `outcome`.
pub const METRIC_ROUTER_MIRRORED: &str = "sluice_router_mirrored_total";
/// Header on a request that is sent a second time only to see how the canary bears it.
pub const HEADER_MIRROR: &str = "x-sluice-mirror";
/// Seconds since the router heard a leading operator, or since it started.
pub const METRIC_ROUTER_LEADER_SILENCE: &str = "sluice_router_leader_silence_seconds";
/// Canaries that a router took out by its own evidence; further label `guardrail`.
pub const METRIC_ROUTER_TRIPS: &str = "sluice_router_trips_total";
/// Natural logarithm of a router's own evidence against a canary; further label `guardrail`.
pub const METRIC_ROUTER_EVIDENCE: &str = "sluice_router_evidence";
/// What that must reach for the router to take the canary out; further label `guardrail`.
pub const METRIC_ROUTER_EVIDENCE_BOUND: &str = "sluice_router_evidence_bound";
/// Requests that the pod answered; further labels `class`, `protocol`, `cache`, `code`.
pub const METRIC_POD_REQUESTS: &str = "sluice_pod_requests_total";
/// Time that the pod took for an answer.
pub const METRIC_POD_DURATION: &str = "sluice_pod_request_duration_seconds";

/// Seconds of the latency bound that the default guardrails use; an exact edge of
/// [`latency_edges`].
pub const DEFAULT_SLOW_SECONDS: &str = "0.25";

/// Bucket edges of every latency histogram, in seconds: geometric with ratio 1.5 from 0.1 ms to
/// 10 minutes, so that a quantile is within a quarter, and the round figures that people write in
/// objectives as exact edges.
pub fn latency_edges() -> Vec<f64> {
    const ROUND: [f64; 9] = [0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
    let geometric = std::iter::successors(Some(1e-4_f64), |edge| Some(edge * 1.5))
        .take_while(|edge| *edge < 600.0)
        // Three significant digits keep the label short and the same on every machine.
        .map(|edge| {
            let scale = 10_f64.powf(2.0 - edge.log10().floor());
            (edge * scale).round() / scale
        });
    let mut edges: Vec<f64> = geometric.chain(ROUND).chain([600.0]).collect();
    edges.sort_by(f64::total_cmp);
    edges.dedup();
    edges
}

/// The contract that travels from operator to router on the route itself, in the same patch as the
/// weights, so that a router that knows only the API server can split and judge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Split {
    /// Version of this document; a router leaves a version that it does not know alone.
    pub version: u32,
    /// The run, part of the split's hash: a new run draws new users. Empty outside a run.
    #[serde(default)]
    pub run: String,
    /// The step of the run, counted from 1; 0 before the first.
    #[serde(default)]
    pub step: u32,
    /// Name of the `ModelDeployment`, for metrics.
    pub model_deployment: String,
    /// Service name (which is the revision's name) of the stable revision.
    pub stable: String,
    /// Service name of the canary revision, while there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canary: Option<String>,
    /// Where a request's user key is read; none: every request draws at random.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<KeySource>,
    /// What the router judges by itself; none outside a run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub judge: Option<Judge>,
    /// Who may ask for the canary whatever the split says; none: nobody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub testers: Option<Testers>,
    /// Which of the stable revision's requests are also sent to the canary; none: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mirror: Option<Mirror>,
}

/// Requests of the stable revision that are also sent to the canary, whose answers are dropped. They
/// are no evidence and count in no request series.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Mirror {
    /// The share of the requests, in basis points.
    pub share: u16,
    /// Which requests may be sent twice.
    #[serde(default)]
    pub methods: MirrorMethods,
}

/// Which requests may be sent twice; default Safe: GET, HEAD and OPTIONS. Inference asks by POST, so
/// that nothing of it is copied unless this says All.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum MirrorMethods {
    /// Those whose method says that they change nothing: GET, HEAD, OPTIONS.
    #[default]
    Safe,
    /// All: a model that only computes answers may be asked twice by POST too.
    All,
}

/// Who may ask for the canary whatever the split says. What they get is no evidence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Testers {
    /// The header or cookie that tells a tester.
    pub by: KeySource,
    /// The value that it must have.
    pub value: String,
}

/// [`Split::version`] that this release writes.
pub const SPLIT_VERSION: u32 = 1;

/// Where the router reads the key that keeps a user on one side of the split.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all_fields = "camelCase")]
pub enum KeySource {
    /// A request header.
    Header {
        /// Name of the header, in any case.
        name: String,
    },
    /// A cookie.
    Cookie {
        /// Name of the cookie.
        name: String,
    },
    /// The client's address.
    SourceIP,
    /// A claim of a JSON Web Token in the `authorization` header. Its signature is not checked here:
    /// whoever may forge it may choose among arms, and nothing else.
    UnverifiedJWTClaim {
        /// Name of the claim, a string or a number.
        name: String,
    },
}

/// The latch on a route that names a revision which must get no traffic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Mark {
    /// The condemned revision.
    pub revision: String,
    /// The run in which it was condemned; a mark of an older run is ignored.
    pub run: String,
    /// Value of `spec.rollout.attempt` then; a higher one lifts the latch.
    #[serde(default)]
    pub attempt: i64,
}

/// Answer of `GET /applied`: the digest of each route that the router serves.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Applied {
    /// One entry for every accepted route.
    pub routes: Vec<AppliedRoute>,
    /// Whether the router has not heard the API server yet, and serves what it served before a
    /// restart.
    #[serde(default, skip_serializing_if = "is_false")]
    pub stale: bool,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
fn is_false(truth: &bool) -> bool {
    !truth
}

/// One route in [`Applied`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AppliedRoute {
    /// Namespace of the route.
    pub namespace: String,
    /// Name of the route.
    pub name: String,
    /// [`route_digest`] of what is being served.
    pub digest: String,
    /// The guardrail by which the canary would be taken out, were there an endpoint of stable to go
    /// back to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<String>,
}

/// Digest of everything on a route that changes where traffic goes: its rules, the split and the
/// mark. Annotations do not raise `metadata.generation`, so the generation alone cannot tell.
///
/// `rules` is the value of `spec.rules` as the API server stores it.
pub fn route_digest(rules: &Value, split: Option<&str>, mark: Option<&str>) -> String {
    let document = serde_json::json!({ "rules": rules, "split": split, "mark": mark });
    // Canonical form: the two programs must agree on bytes whatever order their maps have.
    let bytes = serde_json_canonicalizer::to_vec(&document).unwrap_or_default();
    hex(&Sha256::digest(bytes))
}

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            // Writing to a String cannot fail.
            write!(text, "{byte:02x}").unwrap_or_default();
            text
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latency_edges_rise_and_hold_the_default_bound() {
        let edges = latency_edges();
        assert!(edges.windows(2).all(|pair| pair[0] < pair[1]));
        assert!(
            edges
                .iter()
                .any(|edge| edge.to_string() == DEFAULT_SLOW_SECONDS)
        );
        assert!(edges.len() < 60, "{}", edges.len());
    }

    #[test]
    fn digest_tells_split_from_mark_and_ignores_key_order() {
        let rules = serde_json::json!([{"a": 1, "b": 2}]);
        let same = serde_json::json!([{"b": 2, "a": 1}]);
        let digest = route_digest(&rules, Some("x"), None);
        assert_eq!(digest, route_digest(&same, Some("x"), None));
        assert_ne!(digest, route_digest(&rules, None, Some("x")));
    }

    #[test]
    fn split_is_read_back_from_its_json() {
        let text = r#"{"version":1,"run":"r7","step":2,"modelDeployment":"digits","stable":"digits-1-a",
            "canary":"digits-1-b","key":{"type":"Header","name":"x-user-id"}}"#;
        let split: Split = serde_json::from_str(text).unwrap();
        assert_eq!(
            split.key,
            Some(KeySource::Header {
                name: "x-user-id".to_owned()
            })
        );
        let again: Split = serde_json::from_str(&serde_json::to_string(&split).unwrap()).unwrap();
        assert_eq!(split, again);
    }
}
