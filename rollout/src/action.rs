//! What is to change in the cluster, one change at a time.

use crds::contract::{Mark, Split};
use jiff::Timestamp;

use crate::{observation::RouteShape, plan::Plan, weight::Weight};

/// One change. The shell carries them out in their order.
#[expect(clippy::large_enum_variant, reason = "a decision holds a handful")]
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Save the spec's model and runtime under the revision's name.
    SaveRevision {
        /// Name of the revision.
        revision: String,
    },
    /// Save a run's plan.
    SavePlan {
        /// Name of the plan.
        name: String,
        /// The plan.
        plan: Plan,
    },
    /// Have a revision's Deployment and Service, with so many pods.
    EnsureTrack {
        /// The revision.
        revision: String,
        /// How many pods.
        replicas: u32,
    },
    /// Write the route: weights, split and mark in one patch.
    ApplyRoute(Route),
    /// Have the Service by which clients in the cluster reach the model.
    EnsureAddress,
    /// Mark a revision as stable.
    MarkStable {
        /// The revision.
        revision: String,
        /// Since when.
        since: Timestamp,
    },
    /// Remove a revision's Deployment and Service.
    RemoveTrack {
        /// The revision.
        revision: String,
    },
    /// Remove a saved revision or plan that nothing refers to any more.
    Forget {
        /// Its name.
        name: String,
    },
}

/// The route as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Stable (or the only) revision.
    pub stable: String,
    /// The canary and its share.
    pub canary: Option<(String, Weight)>,
    /// The contract with the router.
    pub split: Split,
    /// The latch on a condemned revision.
    pub mark: Option<Mark>,
    /// The part that does not depend on the rollout.
    pub shape: RouteShape,
    /// Whether the canary gets more traffic or copies than it has, or goes on getting what it has:
    /// such a write must not overtake another, which may have taken it off.
    pub widens: bool,
}

impl Route {
    /// Whether the write leaves the canary with traffic or copies. Then it must not overtake another one: what
    /// narrows in the eyes of an operator that was deposed may undo a mark that its successor set.
    pub fn must_not_overtake(&self) -> bool {
        let has_traffic = self
            .canary
            .as_ref()
            .is_some_and(|(_, weight)| *weight > Weight::ZERO);
        has_traffic || self.split.mirror.is_some()
    }
}

impl Action {
    /// Whether this only takes traffic off a canary: it may be done even when the state that led to
    /// it could not be recorded.
    pub fn narrows(&self) -> bool {
        match self {
            Self::ApplyRoute(route) => !route.widens,
            Self::SaveRevision { .. }
            | Self::SavePlan { .. }
            | Self::EnsureTrack { .. }
            | Self::EnsureAddress
            | Self::MarkStable { .. }
            | Self::RemoveTrack { .. }
            | Self::Forget { .. } => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use crds::contract::Mirror;

    use super::*;

    #[test]
    fn only_a_write_that_takes_all_traffic_and_copies_may_overtake() {
        let route = |weight: Option<u16>| Route {
            stable: "a".to_owned(),
            canary: weight.map(|points| ("b".to_owned(), Weight::from_basis_points(points))),
            split: Split {
                version: 1,
                run: "r1".to_owned(),
                step: 1,
                model_deployment: "m".to_owned(),
                stable: "a".to_owned(),
                canary: Some("b".to_owned()),
                key: None,
                judge: None,
                testers: None,
                mirror: None,
            },
            mark: None,
            shape: RouteShape::default(),
            widens: false,
        };
        assert!(route(Some(1)).must_not_overtake());
        assert!(!route(Some(0)).must_not_overtake());
        assert!(!route(None).must_not_overtake());
        let mut copied = route(Some(0));
        copied.split.mirror = Some(Mirror::default());
        assert!(copied.must_not_overtake());
    }
}
