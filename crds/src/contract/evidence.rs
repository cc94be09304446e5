//! What the leading operator and a router say to each other while both live.
//!
//! The leader reads [`FromRouter`] from each router as JSON lines, the answer to `GET`
//! [`PATH_STREAM`], and says [`FromLeader`] by `POST` to [`PATH_LEAD`]. Both are on the admin
//! listener and ask for a bearer token of the operator's `ServiceAccount` for the audience
//! [`super::ROUTER_AUDIENCE`].
//!
//! Everything that a router says of a run is cumulative since the run began there, so a stream that
//! broke is resumed by reading the newest line, and a line that is read twice changes nothing.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{AppliedRoute, Trip};

/// The path of the stream. With `boot=BOOT&after=NAMESPACE/ROUTE/NUMBER&after=…` only user events
/// after these numbers are told, if the process is still the one that greeted as `BOOT`.
pub const PATH_STREAM: &str = "/v1/stream";
/// The path of what the leader says.
pub const PATH_LEAD: &str = "/v1/lead";

/// One line of the stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all_fields = "camelCase")]
pub enum FromRouter {
    /// The first line.
    Hello {
        /// A random name of this process: counts of another one are other counts.
        boot: String,
        /// Name of the pod.
        pod: String,
        /// Version of the program.
        version: String,
    },
    /// The routes that are served, whenever they change, and once after the greeting.
    Applied {
        /// All of them.
        routes: Vec<AppliedRoute>,
    },
    /// What was seen in a run, whenever there is more, and once after the greeting.
    Evidence(Box<Evidence>),
    /// The canary of a route was taken out, here or by another's word.
    Tripped {
        /// Namespace of the route.
        namespace: String,
        /// Name of the route.
        route: String,
        /// The trip.
        trip: Trip,
    },
    /// Nothing happened; the stream lives.
    Alive,
}

/// What a router has seen of a run since it began there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Evidence {
    /// Namespace of the route.
    pub namespace: String,
    /// Name of the route.
    pub route: String,
    /// The run.
    pub run: String,
    /// The canary.
    pub revision: String,
    /// Stretches of constant weight, in their order.
    pub segments: Vec<Segment>,
    /// Bad events with a user, in their order: those after the `after` that the reader asked for.
    pub events: Vec<UserEvent>,
    /// Number of the last event so far; what to ask for next.
    pub last: u64,
    /// Events that were dropped because memory for them is bounded. It costs power, not validity.
    pub dropped: u64,
}

/// A stretch of a run in which step and weight did not change.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Segment {
    /// Number, counted from 1 in this process and run.
    pub id: u32,
    /// The step of the run, counted from 1.
    pub step: u32,
    /// The weight that was applied, in basis points.
    pub weight: u16,
    /// The canary's requests.
    pub canary: ArmEvidence,
    /// The stable revision's.
    pub stable: ArmEvidence,
}

/// The requests of one revision in one segment. Only those that count: no mirrored ones, none that
/// the client broke off, none that reached no pod, none of testers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ArmEvidence {
    /// Requests that ended.
    pub requests: u64,
    /// Users among them, each counted once a segment, and requests without a user key. Counted for
    /// the canary only, in bounded memory: a lower bound.
    pub units: u64,
    /// Bad requests by guardrail.
    pub bad: BTreeMap<String, u64>,
    /// Bad requests without a user key by guardrail: each is its own unit.
    pub bad_without_user: BTreeMap<String, u64>,
    /// Requests that tell a guardrail nothing, by guardrail: they are never bad. An endpoint was too
    /// new, or the other revision had none to be compared with.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub untold: BTreeMap<String, u64>,
    /// Requests by latency: one count for each edge of [`super::latency_edges`], not cumulative, and
    /// one for what is beyond the last.
    pub latency: Vec<u64>,
}

/// A user had a bad answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UserEvent {
    /// Number, from 1.
    pub seq: u64,
    /// [`Segment::id`].
    pub segment: u32,
    /// Place of the guardrail in [`super::Judge::guardrails`].
    pub guardrail: u8,
    /// Whether the canary answered.
    pub canary: bool,
    /// The user's draw: a keyed hash, the same at every router.
    pub user: u64,
}

/// What the leader says: who leads, and what was tripped elsewhere. It repeats it as a heartbeat.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FromLeader {
    /// Name of the leader.
    pub leader: String,
    /// How often leadership has changed hands; a router listens to the highest.
    pub epoch: i64,
    /// Trips that hold.
    pub trips: Vec<LedTrip>,
}

/// A trip of a route.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LedTrip {
    /// Namespace of the route.
    pub namespace: String,
    /// Name of the route.
    pub route: String,
    /// The trip.
    pub trip: Trip,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_read_back() {
        let evidence = Evidence {
            namespace: "ml".to_owned(),
            route: "digits".to_owned(),
            segments: vec![Segment::default()],
            events: vec![UserEvent {
                seq: 1,
                segment: 1,
                guardrail: 0,
                canary: true,
                user: u64::MAX,
            }],
            last: 1,
            ..Evidence::default()
        };
        for line in [
            FromRouter::Alive,
            FromRouter::Applied { routes: Vec::new() },
            FromRouter::Evidence(Box::new(evidence)),
        ] {
            let text = serde_json::to_string(&line).unwrap();
            assert_eq!(serde_json::from_str::<FromRouter>(&text).unwrap(), line);
        }
    }
}
