//! What the cluster looks like, as values. A read that failed is a value too: a bad edit or one
//! refused call must not switch off guardrails.

use std::collections::BTreeMap;

use crds::contract::{Mark, Mirror, Split, Trip};
use jiff::Timestamp;

use crate::{
    evidence::RunEvidence,
    guardrail::Judgement,
    plan::{Plan, SpecError},
    weight::Weight,
};

/// Everything that a decision is made from, but for the state and the clock.
#[derive(Clone, Debug, PartialEq)]
pub struct Observation {
    /// The object's name.
    pub name: String,
    /// What the spec asks for.
    pub wanted: Wanted,
    /// The frozen plan of the run that is under way.
    pub frozen: Frozen,
    /// Revisions that are saved, by name.
    pub revisions: BTreeMap<String, SeenRevision>,
    /// Names of saved plans.
    pub plans: Vec<String>,
    /// Pods by revision; what has no Deployment is absent.
    pub tracks: BTreeMap<String, SeenTrack>,
    /// The route.
    pub route: SeenRoute,
    /// The Service by which clients in the cluster reach the model.
    pub address: SeenAddress,
    /// What the guardrails that ask a Prometheus say of the canary.
    pub judgements: Vec<Judgement>,
    /// What the routers saw of the run that is under way; none: they reported nothing of it.
    pub evidence: Option<RunEvidence>,
    /// Reads that failed, for people; what they were to tell counts as not known.
    pub problems: Vec<String>,
}

/// What the spec asks for.
#[derive(Clone, Debug, PartialEq)]
pub struct Wanted {
    /// Generation of the spec.
    pub generation: i64,
    /// The revision that it describes.
    pub revision: String,
    /// Pods of the stable revision.
    pub replicas: u32,
    /// Whether it is paused.
    pub paused: bool,
    /// The attempt.
    pub attempt: i64,
    /// The plan that a run begun now would have, or why there can be none.
    pub plan: Result<Plan, SpecError>,
    /// Where the route is attached, and under which names.
    pub route: RouteShape,
    /// How many routers of ours may carry the route at most, each of which may trip alone; 0: the
    /// traffic comes another way, and no router of ours sees it.
    pub routers: u32,
}

/// The part of a route that does not depend on the rollout.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RouteShape {
    /// The Gateways.
    pub parents: Vec<crds::gateway::ParentReference>,
    /// The hostnames.
    pub hostnames: Vec<String>,
    /// Where the user key is read.
    pub key: Option<crds::contract::KeySource>,
    /// Who may ask for the canary while there is one.
    pub testers: Option<crds::contract::Testers>,
    /// Longest time of a request, as written.
    pub request_timeout: Option<String>,
}

/// The frozen plan of the run that is under way.
#[derive(Clone, Debug, PartialEq)]
pub enum Frozen {
    /// There is no run.
    NoRun,
    /// The plan.
    Plan(Plan),
    /// The API server says that there is none.
    Missing,
    /// It could not be read.
    Unreadable(String),
}

/// A saved revision.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SeenRevision {
    /// Since when it is marked stable, if it is.
    pub stable_since: Option<Timestamp>,
    /// Order in which revisions were saved.
    pub number: i64,
}

/// The pods of one revision.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SeenTrack {
    /// How many it is to have.
    pub replicas: u32,
    /// How many are ready.
    pub ready: u32,
    /// Whether all of its objects (Deployment and Service) are there.
    pub complete: bool,
    /// Why its pods do not come, where the cluster says.
    pub trouble: Option<String>,
}

/// The route as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SeenRoute {
    /// What the route asks for; none: there is no route.
    pub rule: Option<SeenRule>,
    /// Whether the data plane serves it.
    pub applied: Applied,
    /// The router's word that it took a canary's traffic off by itself, from the route's status or
    /// from its stream. It may be about a run that is over.
    pub tripped: Option<Trip>,
}

/// What a route asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SeenRule {
    /// Weights by revision, as they are written.
    pub weights: BTreeMap<String, i32>,
    /// The split.
    pub split: Option<Split>,
    /// The mark.
    pub mark: Option<Mark>,
    /// The rest.
    pub shape: RouteShape,
}

impl SeenRule {
    /// The share that a revision gets by these weights.
    pub fn weight(&self, revision: &str) -> Weight {
        let sum: i64 = self.weights.values().map(|weight| i64::from(*weight)).sum();
        let own = self.weights.get(revision).copied().map_or(0, i64::from);
        let points = own.saturating_mul(10_000).checked_div(sum).unwrap_or(0);
        Weight::from_basis_points(u16::try_from(points).unwrap_or(0))
    }
}

/// Whether the data plane serves the route as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Applied {
    /// Every ready router says so.
    Yes,
    /// The implementation accepted it some time ago, and cannot say more.
    Unverified,
    /// Not yet, and whoever is to serve it says so as soon as it does: nothing need be asked again.
    Awaited,
    /// Not yet, or it cannot be told.
    #[default]
    No,
}

impl Applied {
    /// Whether the weights may be taken for served.
    pub fn counts(&self) -> bool {
        match self {
            Self::Yes | Self::Unverified => true,
            Self::Awaited | Self::No => false,
        }
    }
}

/// The Service by which clients in the cluster reach the model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SeenAddress {
    /// It is there and ours.
    Ours,
    /// Somebody else's Service has the name.
    Foreign,
    /// There is none.
    #[default]
    Missing,
    /// It is not wanted: another data plane carries the traffic.
    NotWanted,
}

impl Observation {
    /// Ready pods of a revision.
    pub fn ready(&self, revision: &str) -> u32 {
        self.tracks.get(revision).map_or(0, |track| track.ready)
    }

    /// The share of a revision by the route as it is; nothing without a route.
    pub fn routed(&self, revision: &str) -> Weight {
        self.route
            .rule
            .as_ref()
            .map_or(Weight::ZERO, |rule| rule.weight(revision))
    }

    /// The requests that are copied by the route as it is.
    pub fn mirrored(&self) -> Option<Mirror> {
        self.route.rule.as_ref()?.split.as_ref()?.mirror
    }

    /// Whether any request reaches a revision by the route as it is, for users or as a copy.
    pub fn reaches(&self, revision: &str) -> bool {
        let split = self
            .route
            .rule
            .as_ref()
            .and_then(|rule| rule.split.as_ref());
        let is_copied = split.is_some_and(|split| {
            split.mirror.is_some() && split.canary.as_deref() == Some(revision)
        });
        is_copied || self.routed(revision) > Weight::ZERO
    }
}
