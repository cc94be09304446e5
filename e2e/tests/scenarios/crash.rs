//! The operator is killed at each kind of write, before it reaches the API server and after it was
//! committed; and the API server errs. The rollout ends as it would have.

use std::{collections::BTreeSet, time::Duration};

use k8s_openapi::api::events::v1::Event;
use kube::{Api, api::ListParams};
use serde_json::{Value, json};
use sluice_e2e::{
    chart,
    fault_pod::FaultPod,
    fault_proxy::{Arm, Fail, When, request::Match},
    model_deployment::{Watched, canary, decisions, guardrails, set, sim, stable},
};

use crate::scenario::{DECIDED_WITHIN, STILL_FOR, Scenario, assert_no_failures, last_run};

/// The writes that every promotion makes. Together with [`FIRST`] they are all kinds that are seen,
/// or this list is not complete.
const KINDS: [(&str, &str); 10] = [
    ("POST", "controllerrevisions"),
    ("PATCH", "controllerrevisions"),
    ("DELETE", "controllerrevisions"),
    ("PATCH", "deployments"),
    ("DELETE", "deployments"),
    ("PATCH", "services"),
    ("DELETE", "services"),
    ("PATCH", "httproutes"),
    ("PUT", "modeldeployments/status"),
    ("POST", "events"),
];
/// The write that only a first deployment makes: the Service under which clients ask.
const FIRST: (&str, &str) = ("POST", "services");
const PROMOTION: [&str; 4] = [
    "RunStarted 0%",
    "StepStarted 25%",
    "StepStarted 100%",
    "Promoted 100%",
];
const ROLLBACK: [&str; 4] = [
    "RunStarted 0%",
    "StepStarted 25%",
    "RollingBack 0%",
    "RolledBack 0%",
];
/// A kind of write, and which one of them.
type Write = (&'static str, &'static str, u32);
/// What a rollback writes: that it begins, the weight with the mark, that it is done.
const ROLLBACK_WRITES: [Write; 4] = [
    ("PUT", "modeldeployments/status", 1),
    ("POST", "events", 1),
    ("PATCH", "httproutes", 1),
    ("PUT", "modeldeployments/status", 2),
];
/// How long a kind of write may take to come: with it the pods of the last revision go.
const HIT_WITHIN: Duration = Duration::from_mins(1);

/// A rollout that takes seconds, different for each number.
fn revision(number: u32) -> Value {
    let mut object = sim(&[&format!("seed={number}")]);
    let spec = object["spec"].as_object_mut().unwrap();
    let steps = json!([{"weight": "25%", "hold": "1s"}, {"weight": "100%", "hold": "1s"}]);
    spec.insert(
        "rollout".to_owned(),
        json!({"type": "Canary", "canary": {"steps": steps}}),
    );
    spec.insert("guardrails".to_owned(), guardrails("2s", 10));
    set(
        &mut object,
        "/spec/traffic",
        json!({
            "splitKey": {"type": "Header", "name": "x-user-id"}, "timeouts": {"request": "2s"},
        }),
    )
    .unwrap();
    object
}

/// The same, staying at its first step, with pods that can be made to fail.
fn fragile(number: u32) -> Value {
    let mut object = revision(number);
    set(
        &mut object,
        "/spec/runtime/args",
        json!([format!("seed={number}"), "--sim-control"]),
    )
    .unwrap();
    set(
        &mut object,
        "/spec/rollout/canary/steps/0/hold",
        json!("1h"),
    )
    .unwrap();
    object
}

struct Crash {
    scenario: Scenario,
    proxy: FaultPod,
    number: u32,
}

impl Crash {
    async fn begin(name: &str) -> anyhow::Result<Self> {
        let scenario = Scenario::alone(name).await?;
        let proxy = FaultPod::start(&scenario.cluster).await?;
        scenario
            .install(&FaultPod::values(chart::values(&scenario.cluster)))
            .await?;
        scenario.first(&revision(0)).await?;
        Ok(Self {
            scenario,
            proxy,
            number: 0,
        })
    }

    /// Applies the next revision.
    async fn next(&mut self) -> anyhow::Result<()> {
        self.number += 1;
        self.scenario.apply(&revision(self.number)).await
    }

    /// The run ended as a run ends that nobody disturbed.
    async fn promoted(&self, what: &str) -> anyhow::Result<()> {
        self.scenario.watched.promoted(DECIDED_WITHIN).await?;
        let object = self.scenario.watched.get().await?;
        assert_eq!(last_run(&object), PROMOTION, "{what}");
        Ok(())
    }

    async fn end(self) -> anyhow::Result<()> {
        self.scenario
            .install(&chart::values(&self.scenario.cluster))
            .await?;
        self.proxy.remove().await?;
        self.scenario.end().await
    }

    fn in_namespace(&self, verb: &str, resource: &str) -> Match {
        Match {
            verb: verb.to_owned(),
            resource: resource.to_owned(),
            namespace: self.scenario.namespace.clone(),
            name: String::new(),
        }
    }

    /// The kinds of writes that were made in the namespace.
    async fn kinds(&self) -> anyhow::Result<BTreeSet<(String, String)>> {
        let writes = self.proxy.writes().await?.into_iter();
        let here = writes.filter(|write| write.target.namespace == self.scenario.namespace);
        Ok(here
            .map(|write| (write.target.verb, write.target.resource))
            .collect())
    }

    /// Kills the operator at a write of the rollback of the next revision.
    async fn kill_in_rollback(
        &mut self,
        (verb, resource, nth): Write,
        when: When,
    ) -> anyhow::Result<()> {
        let what = format!("{verb} {resource} {nth} {when:?}");
        let stable = stable(&self.scenario.watched.get().await?);
        self.number += 1;
        self.scenario.apply(&fragile(self.number)).await?;
        // From here on nothing is written until the canary fails.
        let canary = canary(&self.scenario.waits_for("1/2", "WaitingForHold").await?);
        let matches = self.in_namespace(verb, resource);
        self.proxy.arm(&Arm { matches, nth, when }).await?;
        self.scenario.turn_bad(&canary).await?;
        let armed = self
            .proxy
            .hit(HIT_WITHIN)
            .await
            .map_err(|error| error.context(what.clone()))?;
        self.proxy.kill_held(&armed).await?;
        let object = self.scenario.watched.rolled_back(DECIDED_WITHIN).await?;
        assert_eq!(last_run(&object), ROLLBACK, "{what}");
        let status = object.status.unwrap_or_default();
        assert_eq!(status.stable_revision.as_ref(), Some(&stable), "{what}");
        assert_eq!(
            status.condemned.last().map(|one| &one.revision),
            Some(&canary),
            "{what}"
        );
        Ok(())
    }

    /// Kills the operator at a write of a first deployment.
    async fn kill_at_first(&mut self, when: When) -> anyhow::Result<()> {
        let (verb, resource) = FIRST;
        let name = format!(
            "other-{}",
            if when == When::Before {
                "before"
            } else {
                "after"
            }
        );
        let matches = self.in_namespace(verb, resource);
        self.proxy
            .arm(&Arm {
                matches,
                nth: 1,
                when,
            })
            .await?;
        let mut object = revision(0);
        set(&mut object, "/metadata/name", json!(name))?;
        self.scenario.apply(&object).await?;
        let armed = self.proxy.hit(HIT_WITHIN).await?;
        self.proxy.kill_held(&armed).await?;
        let other = Watched::new(&self.scenario.cluster, &self.scenario.namespace, &name);
        other.promoted(DECIDED_WITHIN).await?;
        let object = other.get().await?;
        assert_eq!(
            decisions(&object),
            ["FirstDeployment", "FirstDeploymentServing"],
            "{when:?}"
        );
        Ok(())
    }

    /// Kills the operator at a write of the next rollout.
    async fn kill_at(&mut self, verb: &str, resource: &str, when: When) -> anyhow::Result<()> {
        let what = format!("{verb} {resource} {when:?}");
        let matches = self.in_namespace(verb, resource);
        self.proxy
            .arm(&Arm {
                matches,
                nth: 1,
                when,
            })
            .await?;
        self.next().await?;
        let armed = self
            .proxy
            .hit(HIT_WITHIN)
            .await
            .map_err(|error| error.context(what.clone()))?;
        self.proxy.kill_held(&armed).await?;
        self.promoted(&what).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_at_any_write_changes_nothing_in_the_end() -> anyhow::Result<()> {
    let mut crash = Crash::begin("crash").await?;
    let load = crash.scenario.load().await?;
    crash.next().await?;
    crash.promoted("undisturbed").await?;
    for (verb, resource) in KINDS {
        for when in [When::Before, When::After] {
            let begun = std::time::Instant::now();
            crash.kill_at(verb, resource, when).await?;
            println!(
                "killed at {verb} {resource} {when:?}: {:.0} s",
                begun.elapsed().as_secs_f64()
            );
        }
    }
    for when in [When::Before, When::After] {
        crash.kill_at_first(when).await?;
    }
    let known: BTreeSet<_> = KINDS
        .iter()
        .chain([&FIRST])
        .map(|(verb, resource)| ((*verb).to_owned(), (*resource).to_owned()))
        .collect();
    assert_eq!(
        crash.kinds().await?,
        known,
        "each kind of write needs its kill"
    );
    assert_no_failures(&load.stop().await?, &[]);
    let runs = usize::try_from(crash.number)?;
    for decision in ["RunStarted", "Promoted"] {
        let told = told(&crash.scenario, decision).await?;
        assert_eq!(told, runs, "Events {decision} after {runs} runs");
    }
    crash.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_at_any_write_of_a_rollback_keeps_the_canary_down() -> anyhow::Result<()> {
    let mut crash = Crash::begin("crash-rollback").await?;
    let load = crash.scenario.load().await?;
    for write in ROLLBACK_WRITES {
        for when in [When::Before, When::After] {
            crash.kill_in_rollback(write, when).await?;
            println!("killed in a rollback at {write:?} {when:?}");
            let condemned = crash
                .scenario
                .watched
                .get()
                .await?
                .status
                .unwrap_or_default()
                .condemned;
            let revision = &condemned.last().unwrap().revision;
            // Requests that were in flight when the route changed are answered first.
            load.answered(200).await?;
            let before = load.stats().await?.revisions[revision].total();
            load.answered(200).await?;
            let after = load.stats().await?.revisions[revision].total();
            assert_eq!(before, after, "{revision} got traffic after its rollback");
        }
    }
    let stats = load.stop().await?;
    let stable = stable(&crash.scenario.watched.get().await?);
    assert_eq!(stats.failed_without_revision, 0, "{stats:#?}");
    assert_eq!(stats.revisions[&stable].failed(), 0, "{stats:#?}");
    crash.end().await
}

/// How many Events tell of a decision.
async fn told(scenario: &Scenario, decision: &str) -> anyhow::Result<usize> {
    let api: Api<Event> = Api::namespaced(scenario.cluster.client.clone(), &scenario.namespace);
    let events = api.list(&ListParams::default()).await?;
    Ok(events
        .iter()
        .filter(|event| event.reason.as_deref() == Some(decision))
        .count())
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_of_the_api_server_change_nothing_in_the_end() -> anyhow::Result<()> {
    let mut crash = Crash::begin("api-errors").await?;
    let load = crash.scenario.load().await?;
    for (resource, code) in [
        ("modeldeployments/status", 409),
        ("modeldeployments/status", 500),
        ("httproutes", 409),
        ("httproutes", 429),
        ("deployments", 503),
        ("controllerrevisions", 500),
    ] {
        let matches = crash.in_namespace("", resource);
        crash
            .proxy
            .fail(&Fail {
                matches,
                code,
                count: 3,
            })
            .await?;
        crash.next().await?;
        crash.promoted(&format!("{code} on {resource}")).await?;
        let failed = crash.proxy.writes().await?.into_iter();
        let failed = failed.filter(|write| write.injected && write.code == code);
        assert!(
            failed.count() >= 3,
            "the errors were not met: {code} on {resource}"
        );
    }
    assert_no_failures(&load.stop().await?, &[]);
    crash.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn at_rest_the_operator_writes_nothing_but_its_lease() -> anyhow::Result<()> {
    let mut crash = Crash::begin("at-rest").await?;
    let load = crash.scenario.load().await?;
    crash.next().await?;
    crash.promoted("undisturbed").await?;
    load.stop().await?;
    // What was promoted away is drained and removed, and then nothing is left to do.
    let removed = ("DELETE".to_owned(), "services".to_owned());
    sluice_e2e::wait::found("the last revision to be removed", HIT_WITHIN, || async {
        Ok(crash.kinds().await?.contains(&removed).then_some(()))
    })
    .await?;
    crash
        .scenario
        .stays("rest", |object| object.status.is_some())
        .await?;
    let before = crash.proxy.writes().await?.len();
    crash
        .scenario
        .stays("rest", |object| object.status.is_some())
        .await?;
    let writes = crash.proxy.writes().await?.split_off(before);
    let others: Vec<_> = writes
        .iter()
        .filter(|write| write.target.resource != "leases")
        .collect();
    assert!(others.is_empty(), "in {STILL_FOR:?} at rest: {others:#?}");
    crash.end().await
}
