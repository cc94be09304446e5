//! What is heard of routers that come, go, repeat themselves and misbehave, and what they are told.
#![allow(clippy::tests_outside_test_module, reason = "integration tests")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on should say where"
)]

mod evidence;
mod fake;
mod streams;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use crds::contract::{ArmEvidence, Evidence, FromRouter, Segment, Trip, UserEvent};
use crds::{ModelDeploymentSpec, quantity::Number};
use operator::{
    args::NamespacedName,
    clock,
    routers::{Follow, Pace, Routers, Term},
};
use rollout::{
    evidence::RunEvidence,
    plan::Plan,
    state::{Hold, Run, Stage},
    weight::Weight,
};
use serde_json::json;
use tokio::{sync::watch, task::JoinHandle, time::timeout};

pub(crate) use self::fake::Router;

/// Longer than anything here takes.
const LONG: Duration = Duration::from_secs(20);
const CANARY: &str = "digits-1-bbbbbbbbbb";

/// A leader of routers, until it is dropped.
struct Leader {
    routers: Arc<Routers>,
    addresses: watch::Sender<BTreeSet<String>>,
    task: JoinHandle<()>,
}

impl Drop for Leader {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Leader {
    /// Leads these routers.
    fn of(routers: &[&Router]) -> Self {
        Self::at(routers, 1, None)
    }

    fn at(routers: &[&Router], epoch: i64, token: Option<std::path::PathBuf>) -> Self {
        // Several tests share one process; the first installs it.
        rustls::crypto::ring::default_provider()
            .install_default()
            .ok();
        let pace = Pace {
            heartbeat: Duration::from_millis(20),
            silence: Duration::from_secs(2),
            first_pause: Duration::from_millis(1),
            longest_pause: Duration::from_millis(20),
            judging: Duration::from_millis(1),
        };
        let leads = Routers::new(None, token, Arc::default())
            .unwrap()
            .paced(pace);
        let leads = Arc::new(leads);
        let addresses = routers
            .iter()
            .map(|router| router.address.clone())
            .collect();
        let (addresses, told) = watch::channel(addresses);
        let term = Term {
            leader: format!("leader-{epoch}"),
            epoch,
        };
        let leading = Arc::clone(&leads);
        let task = tokio::spawn(async move { leading.lead_those(term, told).await });
        Self {
            routers: leads,
            addresses,
            task,
        }
    }

    /// The routers are these from here on.
    fn are(&self, routers: &[&Router]) {
        let addresses = routers.iter().map(|router| router.address.clone());
        self.addresses.send_replace(addresses.collect());
    }

    fn evidence(&self, run: &Run) -> Option<RunEvidence> {
        self.routers.follow(&route(), follow(run), clock::now())
    }

    /// What was heard of a run, once it is as the test wants it.
    async fn heard(&self, run: &Run, is_meant: impl Fn(&RunEvidence) -> bool) -> RunEvidence {
        let waiting = async {
            loop {
                if let Some(evidence) = self.evidence(run).filter(&is_meant) {
                    return evidence;
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        let waited = timeout(LONG, waiting).await;
        waited.unwrap_or_else(|_| panic!("only this was heard: {:#?}", self.evidence(run)))
    }
}

fn route() -> NamespacedName {
    NamespacedName {
        namespace: "ml".to_owned(),
        name: "digits".to_owned(),
    }
}

fn plan() -> Plan {
    let spec = json!({
        "model": {"format": "InImage"}, "runtime": {"engine": "sim"},
        "traffic": {"splitKey": {"type": "Header", "name": "x-user"}},
    });
    let spec: ModelDeploymentSpec = serde_json::from_value(spec).unwrap();
    Plan::from_spec(&spec).unwrap()
}

/// A run at its first step, which began before anybody here led.
fn under_way() -> Run {
    let began = clock::now();
    Run {
        id: "r1".to_owned(),
        revision: CANARY.to_owned(),
        plan: "digits-plan-r1".to_owned(),
        started_at: began,
        attempt: 1,
        stable_replicas: 1,
        exposed_at: Some(began),
        stage: Stage::Step {
            index: 0,
            held: Hold::entered(began),
        },
        earned: Weight::from_basis_points(500),
        waiting_since: None,
        tallies: std::collections::BTreeMap::new(),
    }
}

/// A run whose canary has had no traffic yet.
fn about_to_begin() -> Run {
    Run {
        exposed_at: None,
        stage: Stage::Starting,
        ..under_way()
    }
}

fn follow(run: &Run) -> Follow {
    Follow {
        run: run.clone(),
        plan: plan(),
        routers: 2,
        by_user: true,
    }
}

/// A stretch with so many requests of the canary, and nineteen times as many of stable.
fn stretch(requests: u64) -> Segment {
    let arm = |requests, units| ArmEvidence {
        requests,
        units,
        ..ArmEvidence::default()
    };
    Segment {
        id: 1,
        step: 1,
        weight: 500,
        canary: arm(requests, requests),
        stable: arm(requests * 19, 0),
    }
}

/// Users who had an error, in this order.
fn errors(users: &[(u64, bool)]) -> Vec<UserEvent> {
    let event = |(seq, (user, canary)): (u64, &(u64, bool))| UserEvent {
        seq,
        segment: 1,
        guardrail: 0,
        canary: *canary,
        user: *user,
    };
    (1..).zip(users).map(event).collect()
}

fn evidence(segments: Vec<Segment>, events: Vec<UserEvent>) -> FromRouter {
    FromRouter::Evidence(Box::new(Evidence {
        namespace: "ml".to_owned(),
        route: "digits".to_owned(),
        run: "r1".to_owned(),
        revision: CANARY.to_owned(),
        last: events.last().map_or(0, |event| event.seq),
        segments,
        events,
        dropped: 0,
    }))
}

fn trip() -> Trip {
    Trip {
        run: "r1".to_owned(),
        revision: CANARY.to_owned(),
        guardrail: "errors".to_owned(),
        log_e: Number("9.7".to_owned()),
        bound: Number("7.8".to_owned()),
        message: "3 users".to_owned(),
    }
}

/// Requests of the canary and of stable.
fn requests(evidence: &RunEvidence) -> (u64, u64) {
    let sum = |of: fn(&rollout::evidence::Stretch) -> u64| evidence.stretches.iter().map(of).sum();
    (
        sum(|one| one.canary.requests),
        sum(|one| one.stable.requests),
    )
}

/// First errors of the run on the canary and on stable, as the carry lane has them.
fn carried(evidence: &RunEvidence) -> Option<(u64, u64)> {
    let lanes = evidence.guardrails["errors"].lanes?;
    let carry = lanes.carry?;
    Some((carry.canary(), carry.stable()))
}
