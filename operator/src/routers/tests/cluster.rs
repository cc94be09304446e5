//! A cluster in which everything is ready at once, and `rollout::decide` is all that moves.

use std::collections::BTreeMap;

use crds::{ModelDeploymentSpec, contract::KeySource};
use jiff::Timestamp;
use rollout::{
    action::{Action, Route},
    decide,
    observation::{
        Applied, Frozen, Observation, RouteShape, SeenAddress, SeenRevision, SeenRoute, SeenRule,
        SeenTrack, Wanted,
    },
    plan::Plan,
    state::{Phase, State},
    weight::Weight,
};
use serde_json::json;

use super::super::{evidence::Follow, heard::Heard};
use crate::args::NamespacedName;

pub(super) const NAMESPACE: &str = "ml";
pub(super) const NAME: &str = "digits";
const REPLICAS: u32 = 4;

/// How a run is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// One router took the canary out by what it saw itself.
    Tripped,
    /// The leader did, by what all of them saw.
    Decided,
}

pub(super) struct Cluster {
    state: State,
    plan: Plan,
    routers: u32,
    frozen: BTreeMap<String, Plan>,
    rule: SeenRule,
}

/// When everything begins.
pub(super) fn start() -> Timestamp {
    Timestamp::from_second(1_800_000_000).unwrap()
}

fn route() -> NamespacedName {
    NamespacedName {
        namespace: NAMESPACE.to_owned(),
        name: NAME.to_owned(),
    }
}

/// At tolerance 1 a good canary is at the edge of what is borne.
fn plan(alpha: &str) -> Plan {
    let step = |weight, hold| json!({"weight": weight, "hold": hold});
    let spec = json!({
        "model": {"format": "InImage"}, "runtime": {"engine": "sim"},
        "rollout": {
            "type": "Canary",
            "falseRollbackProbability": alpha,
            "canary": {"steps": [
                step("1%", "1m"), step("5%", "2m"), step("25%", "1h"), step("100%", "1m"),
            ]},
        },
        "guardrails": [{"name": "errors", "check": {
            "type": "Comparison", "router": {"event": "Error"},
            "comparison": {"tolerance": "1", "minUnits": 1},
        }}],
    });
    let spec: ModelDeploymentSpec = serde_json::from_value(spec).unwrap();
    Plan::from_spec(&spec).unwrap()
}

impl Cluster {
    /// Revision `a` serves, and `b` is wanted.
    pub(super) fn new(alpha: &str, routers: u32) -> Self {
        Self {
            state: State {
                phase: Phase::Settled {
                    stable: "a".to_owned(),
                    rolled_back: false,
                },
                ..State::default()
            },
            plan: plan(alpha),
            routers,
            frozen: BTreeMap::new(),
            rule: SeenRule {
                weights: BTreeMap::from([("a".to_owned(), 1)]),
                ..SeenRule::default()
            },
        }
    }

    /// The canary's weight in basis points, as it is served.
    pub(super) fn points(&self) -> u16 {
        self.rule.weight("b").basis_points()
    }

    /// How the run ended, once it did and the canary has no traffic.
    pub(super) fn end(&self) -> Option<End> {
        let ended = self.state.history.last()?;
        assert_eq!((ended.result.as_str(), self.points()), ("RolledBack", 0));
        match ended.reason.as_str() {
            "Tripped" => Some(End::Tripped),
            _ => Some(End::Decided),
        }
    }

    /// The leader looks, decides and does. The routes that it wrote.
    pub(super) fn look(&mut self, heard: &Heard, now: Timestamp) -> Vec<Route> {
        let seen = self.observe(heard, now);
        let decision = decide(Some(&self.state), &seen, now);
        self.state = decision.next;
        let mut routes = Vec::new();
        for action in decision.actions {
            match action {
                Action::SavePlan { name, plan } => drop(self.frozen.insert(name, plan)),
                Action::ApplyRoute(route) => {
                    self.write(&route);
                    routes.push(route);
                }
                Action::SaveRevision { .. }
                | Action::EnsureTrack { .. }
                | Action::EnsureAddress
                | Action::MarkStable { .. }
                | Action::RemoveTrack { .. }
                | Action::Forget { .. } => {}
            }
        }
        routes
    }

    fn observe(&self, heard: &Heard, now: Timestamp) -> Observation {
        let run = self.state.run();
        let frozen = run.and_then(|run| Some((run, self.frozen.get(&run.plan)?)));
        let evidence = frozen.and_then(|(run, plan)| {
            let follow = Follow {
                run: run.clone(),
                plan: plan.clone(),
                routers: self.routers,
                by_user: true,
            };
            heard.follow(&route(), follow, (None, now))
        });
        let track = SeenTrack {
            replicas: REPLICAS,
            ready: REPLICAS,
            complete: true,
            trouble: None,
        };
        let revision = |stable_since, number| SeenRevision {
            stable_since,
            number,
        };
        Observation {
            name: NAME.to_owned(),
            wanted: self.wanted(),
            frozen: match (run, frozen) {
                (None, _) => Frozen::NoRun,
                (Some(_), None) => Frozen::Missing,
                (Some(_), Some((_, plan))) => Frozen::Plan(plan.clone()),
            },
            revisions: BTreeMap::from([
                ("a".to_owned(), revision(Some(start()), 0)),
                ("b".to_owned(), revision(None, 1)),
            ]),
            plans: self.frozen.keys().cloned().collect(),
            tracks: ["a", "b"]
                .map(|name| (name.to_owned(), track.clone()))
                .into(),
            route: SeenRoute {
                rule: Some(self.rule.clone()),
                applied: Applied::Yes,
                tripped: run.and_then(|run| heard.tripped(&route(), &run.id)),
            },
            address: SeenAddress::Ours,
            judgements: Vec::new(),
            evidence,
            problems: Vec::new(),
        }
    }

    fn wanted(&self) -> Wanted {
        Wanted {
            generation: 1,
            revision: "b".to_owned(),
            replicas: REPLICAS,
            paused: false,
            attempt: 1,
            plan: Ok(self.plan.clone()),
            route: RouteShape {
                key: Some(KeySource::Header {
                    name: "x-user".to_owned(),
                }),
                ..RouteShape::default()
            },
            routers: self.routers,
        }
    }

    fn write(&mut self, route: &Route) {
        let weights = match &route.canary {
            None => vec![(route.stable.clone(), 1)],
            Some((canary, weight)) => {
                let (rest, own) = Weight::whole_numbers(*weight);
                vec![(route.stable.clone(), rest), (canary.clone(), own)]
            }
        };
        self.rule = SeenRule {
            weights: weights.into_iter().collect(),
            split: Some(route.split.clone()),
            mark: route.mark.clone(),
            shape: route.shape.clone(),
        };
    }
}
