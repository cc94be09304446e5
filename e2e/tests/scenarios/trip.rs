//! The routers take a bad canary's traffic away by themselves: with the operator or without it, with
//! the API server or without it, and also where a router saw nothing of it.

use std::time::Duration;

use k8s_openapi::api::{apps::v1::Deployment, core::v1::Pod};
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};
use sluice_e2e::{
    chart,
    fault_pod::FaultPod,
    load::stats::RevisionStats,
    load_pod::{LoadPod, Plan},
    model_deployment::{self as md, router_guardrails, sim},
    wait,
};

use crate::scenario::{DECIDED_WITHIN, Scenario, assert_no_failures};

/// How long a router may take to notice, counted generously: what is asserted is that it does.
const TRIPPED_WITHIN: Duration = Duration::from_secs(30);
/// Answers without one of the canary after which it counts as out of traffic.
const QUIET_FOR: u64 = 300;

/// Requests in a second.
const RATE: f64 = 300.0;

/// What is there while the canary turns bad.
#[derive(Clone, Copy, Debug)]
struct Cell {
    operator: bool,
    api_server: bool,
    /// Whether one of the two routers gets no request of the model before.
    one_saw_nothing: bool,
}

/// A rollout that stays at a quarter, with pods that can be made to fail.
fn fragile(number: u32) -> Value {
    let mut object = sim(&[&format!("seed={number}"), "--sim-control"]);
    let steps = json!([{"weight": "25%", "hold": "1h"}, {"weight": "100%", "hold": "1s"}]);
    let spec = object["spec"].as_object_mut().unwrap();
    spec.insert(
        "rollout".to_owned(),
        json!({"type": "Canary", "canary": {"steps": steps}}),
    );
    spec.insert("guardrails".to_owned(), router_guardrails(10));
    object
}

struct Matrix {
    scenario: Scenario,
    proxy: FaultPod,
    /// Addresses of the routers' pods.
    routers: Vec<String>,
    number: u32,
}

impl Matrix {
    async fn begin() -> anyhow::Result<Self> {
        let scenario = Scenario::alone("trip").await?;
        let proxy = FaultPod::start(&scenario.cluster).await?;
        scenario
            .install(&FaultPod::values_of_all(chart::values(&scenario.cluster)))
            .await?;
        scenario.first(&fragile(0)).await?;
        let routers = routers(&scenario).await?;
        Ok(Self {
            scenario,
            proxy,
            routers,
            number: 0,
        })
    }

    /// Steady load, through all routers or through one of them.
    async fn load(&self, router: Option<usize>) -> anyhow::Result<LoadPod> {
        let scenario = &self.scenario;
        let plan = Plan::digits(&scenario.namespace, md::NAME).rate(RATE);
        let plan = match router {
            Some(router) => plan.through_router_pod(&self.routers[router]),
            None => plan.through_router(),
        };
        LoadPod::start(&scenario.cluster, &scenario.namespace, &plan).await
    }

    /// A canary turns bad in one cell of the matrix.
    async fn run(&mut self, cell: Cell) -> anyhow::Result<()> {
        let stable = md::stable(&self.scenario.watched.get().await?);
        let load = self.load(cell.one_saw_nothing.then_some(0)).await?;
        self.number += 1;
        self.scenario.apply(&fragile(self.number)).await?;
        let canary = md::canary(&self.scenario.waits_for("1/2", "WaitingForHold").await?);
        load.answered_by(&canary, 50).await?;
        if !cell.operator {
            self.scale_operator(0).await?;
        }
        self.proxy.cut(!cell.api_server).await?;

        self.scenario.turn_bad(&canary).await?;
        quiet(&load, &canary).await?;
        if cell.one_saw_nothing && (cell.operator || cell.api_server) {
            // The other router learnt of it, and sends nobody there.
            assert_no_failures(&load.stop().await?, &[&canary]);
            self.sends_nobody(1, &canary).await?;
        }

        self.proxy.cut(false).await?;
        if !cell.operator {
            self.scale_operator(1).await?;
        }
        let object = self.scenario.watched.rolled_back(DECIDED_WITHIN).await?;
        assert_eq!(md::stable(&object), stable, "{cell:?}");
        let condemned = object.status.unwrap_or_default().condemned;
        assert_eq!(
            condemned.last().map(|one| &one.revision),
            Some(&canary),
            "{cell:?}"
        );
        if !cell.one_saw_nothing {
            // The load goes through both, all the time.
            quiet(&load, &canary).await?;
            assert_no_failures(&load.stop().await?, &[&canary]);
        } else if !cell.operator && !cell.api_server {
            assert_no_failures(&load.stop().await?, &[&canary]);
            self.sends_nobody(1, &canary).await?;
        }
        Ok(())
    }

    async fn sends_nobody(&self, router: usize, canary: &str) -> anyhow::Result<()> {
        let load = self.load(Some(router)).await?;
        load.answered(QUIET_FOR).await?;
        let stats = load.stop().await?;
        assert_no_failures(&stats, &[]);
        assert!(
            !stats.revisions.contains_key(canary),
            "router {router} still sends to {canary}: {stats:#?}"
        );
        Ok(())
    }

    async fn scale_operator(&self, replicas: i32) -> anyhow::Result<()> {
        let client = self.scenario.cluster.client.clone();
        let api: Api<Deployment> = Api::namespaced(client.clone(), chart::NAMESPACE);
        let patch = Patch::Merge(json!({"spec": {"replicas": replicas}}));
        api.patch(chart::OPERATOR, &PatchParams::default(), &patch)
            .await?;
        wait::rolled_out(&client, chart::NAMESPACE, chart::OPERATOR, DECIDED_WITHIN).await?;
        let selector = format!("app.kubernetes.io/name={}", crds::contract::OPERATOR_APP);
        wait::found("the operator's pods to be gone", DECIDED_WITHIN, || async {
            let pods = self.scenario.cluster.pods(chart::NAMESPACE, &selector);
            let there = !pods.await?.is_empty();
            Ok((there == (replicas > 0)).then_some(()))
        })
        .await
    }

    async fn end(self) -> anyhow::Result<()> {
        self.scenario
            .install(&chart::values(&self.scenario.cluster))
            .await?;
        self.proxy.remove().await?;
        self.scenario.end().await
    }
}

/// Waits until the canary gets nothing more.
async fn quiet(load: &LoadPod, canary: &str) -> anyhow::Result<()> {
    let what = format!("{canary} to be out of traffic");
    wait::found(&what, TRIPPED_WITHIN, || async {
        let total = || async {
            let stats = load.stats().await?;
            anyhow::Ok(stats.revisions.get(canary).map_or(0, RevisionStats::total))
        };
        let before = total().await?;
        load.answered(QUIET_FOR).await?;
        Ok((total().await? == before).then_some(()))
    })
    .await
}

async fn routers(scenario: &Scenario) -> anyhow::Result<Vec<String>> {
    let selector = format!("app.kubernetes.io/name={}", crds::contract::ROUTER_APP);
    let pods = scenario.cluster.pods(chart::NAMESPACE, &selector).await?;
    let is_leaving = |pod: &Pod| pod.metadata.deletion_timestamp.is_some();
    let addresses: Vec<String> = pods
        .iter()
        .filter(|pod| !is_leaving(pod))
        .filter_map(|pod| pod.status.as_ref()?.pod_ip.clone())
        .collect();
    anyhow::ensure!(addresses.len() == 2, "the routers are at {addresses:?}");
    Ok(addresses)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_canary_loses_its_traffic_whoever_is_gone() -> anyhow::Result<()> {
    let mut matrix = Matrix::begin().await?;
    for operator in [true, false] {
        for api_server in [true, false] {
            for one_saw_nothing in [false, true] {
                let cell = Cell {
                    operator,
                    api_server,
                    one_saw_nothing,
                };
                let begun = std::time::Instant::now();
                matrix.run(cell).await?;
                println!("{cell:?}: {:.0} s", begun.elapsed().as_secs_f64());
            }
        }
    }
    matrix.end().await
}
