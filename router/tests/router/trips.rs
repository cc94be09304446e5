//! Trips in the status of routes: what is read there, and that what is known comes to stand there.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use crds::contract::Trip;
use crds::gateway::{HttpRoute, RouteParentStatus};
use crds::quantity::Number;
use kube::core::Status;
use serde_json::{Value, json};
use sluice_router::status::{Recorder, RouteStatuses, heed, told};
use sluice_router::table::objects::ObjectKey;
use sluice_router::table::{self, LastGood};
use sluice_router::trips::Trips;
use sluice_router::watch::Report;
use tokio::sync::watch;

use crate::objects::{object, objects, split_route};
use crate::world::{World, settings, until};

const OURS: &str = "sluice.dev/router";

pub fn digits() -> ObjectKey {
    ObjectKey::new("ml", "digits")
}

pub fn trip(run: &str) -> Trip {
    Trip {
        run: run.to_owned(),
        revision: "canary".to_owned(),
        guardrail: "errors".to_owned(),
        log_e: Number("9.77".to_owned()),
        bound: Number("7.78".to_owned()),
        message: "3 of 41 users of the canary".to_owned(),
    }
}

/// The split route of run `r1`, with this condition at a parent of this controller.
fn saying(controller: &str, condition: &Value) -> Value {
    let mut route = split_route(1, 1);
    route["metadata"]["resourceVersion"] = json!("1");
    route["status"] = json!({"parents": [
        {"parentRef": {"name": "x"}, "controllerName": "example.com/other", "conditions": []},
        {"parentRef": {"name": "gw", "namespace": "infra"}, "controllerName": controller, "conditions": [condition]},
    ]});
    route
}

fn condition(type_: &str, status: &str, reason: &str, message: &str) -> Value {
    json!({"type": type_, "status": status, "reason": reason, "message": message,
        "lastTransitionTime": "2026-01-01T00:00:00Z"})
}

fn tripped(message: &str) -> Value {
    condition("sluice.dev/Tripped", "True", "GuardrailTripped", message)
}

#[test]
fn only_our_condition_in_its_form_and_of_the_run_is_a_trip() {
    let text = trip("r1").to_condition_message();
    let read = |route: Value| told(&object::<HttpRoute>(route), OURS);
    assert_eq!(read(saying(OURS, &tripped(&text))), Some(trip("r1")));
    let other = trip("r0").to_condition_message();
    let mut revision = trip("r1");
    revision.revision = "stable".to_owned();
    for (controller, condition) in [
        ("example.com/other", tripped(&text)),
        (OURS, tripped(&other)),
        (OURS, tripped(&revision.to_condition_message())),
        (OURS, tripped("someone wrote this")),
        (OURS, tripped("")),
        (
            OURS,
            condition("sluice.dev/Tripped", "False", "GuardrailTripped", &text),
        ),
        (
            OURS,
            condition("sluice.dev/Tripped", "True", "Other", &text),
        ),
        (
            OURS,
            condition("Accepted", "True", "GuardrailTripped", &text),
        ),
    ] {
        assert_eq!(read(saying(controller, &condition)), None, "{condition}");
    }
    assert_eq!(read(split_route(1, 1)), None);
}

#[tokio::test]
async fn a_status_that_arrives_sets_the_flag_before_a_table_is_built() {
    let text = trip("r1").to_condition_message();
    let world = World::start(&objects(&[], &[], split_route(1, 1))).await;
    let trips = &world.proxy.trips;
    let flag = trips.flag(&digits(), "r1", "canary");
    heed(trips, &object(saying(OURS, &tripped("foreign"))), OURS);
    assert!(!flag.load(Ordering::Acquire));
    heed(trips, &object(saying(OURS, &tripped(&text))), OURS);
    assert!(flag.load(Ordering::Acquire));
    assert_eq!(trips.get(&digits()), Some(trip("r1")));
    // And in a router that starts with it, whose first table is still to come.
    let started = Trips::default();
    heed(&started, &object(saying(OURS, &tripped(&text))), OURS);
    let built = table::build(
        &objects(&[], &[], split_route(1, 1)),
        &settings(),
        &LastGood::new(),
    );
    started.settle(&built.table.runs);
    assert!(
        started
            .flag(&digits(), "r1", "canary")
            .load(Ordering::Acquire)
    );
}

/// One route as the API server holds it, and what is to go wrong with the next writes.
#[derive(Debug)]
struct Held {
    route: Value,
    refusals: Vec<u16>,
    reads: u32,
    writes: u32,
}

#[derive(Clone, Debug)]
struct Fake(Arc<Mutex<Held>>);

impl Fake {
    fn new(route: Value, refusals: &[u16]) -> Self {
        Self(Arc::new(Mutex::new(Held {
            route,
            refusals: refusals.to_vec(),
            reads: 0,
            writes: 0,
        })))
    }

    fn route(&self) -> HttpRoute {
        serde_json::from_value(self.0.lock().unwrap().route.clone()).unwrap()
    }

    fn says(&self) -> Option<Trip> {
        told(&self.route(), OURS)
    }
}

fn refusal(code: u16) -> kube::Error {
    kube::Error::Api(Box::new(Status {
        code,
        ..Status::default()
    }))
}

impl RouteStatuses for Fake {
    async fn read(&self, route: &ObjectKey) -> kube::Result<Option<HttpRoute>> {
        assert_eq!(*route, digits());
        self.0.lock().unwrap().reads += 1;
        Ok(Some(self.route()))
    }

    async fn write(
        &self,
        _: &ObjectKey,
        version: Option<String>,
        parents: Vec<RouteParentStatus>,
    ) -> kube::Result<()> {
        let mut held = self.0.lock().unwrap();
        if let Some(code) = held.refusals.pop() {
            // Whoever was faster wrote something of their own.
            held.route["metadata"]["resourceVersion"] = json!(format!("other-{code}"));
            return Err(refusal(code));
        }
        if held.route["metadata"]["resourceVersion"].as_str() != version.as_deref() {
            return Err(refusal(409));
        }
        held.writes += 1;
        held.route["metadata"]["resourceVersion"] = json!("written");
        held.route["status"] = json!({ "parents": parents });
        Ok(())
    }
}

struct Recording {
    trips: Trips,
    seen: watch::Sender<Option<Arc<Report>>>,
    fake: Fake,
}

impl Recording {
    /// A recorder that sees `seen` while the API server holds what the fake holds.
    fn start(seen: &Value, fake: Fake) -> Self {
        let trips = Trips::default();
        let report = report(seen);
        trips.settle(&report.runs);
        let (seen, reports) = watch::channel(Some(Arc::new(report)));
        let recorder = Recorder {
            statuses: fake.clone(),
            controller_name: OURS.to_owned(),
            trips: trips.subscribe(),
            reports,
        };
        tokio::spawn(recorder.run());
        Self { trips, seen, fake }
    }
}

fn report(seen: &Value) -> Report {
    let objects = objects(&[], &[], seen.clone());
    let built = table::build(&objects, &settings(), &LastGood::new());
    Report {
        statuses: built.statuses,
        objects,
        runs: built.table.runs,
        last_good: Arc::new(built.last_good),
    }
}

#[tokio::test]
async fn a_trip_is_written_until_it_stands_and_leaves_the_rest_as_it_is() {
    let accepted = condition("Accepted", "True", "Accepted", "");
    let before = saying(OURS, &accepted);
    let recording = Recording::start(&before, Fake::new(before.clone(), &[409, 503, 409, 500]));
    recording.trips.trip(&digits(), trip("r1"));
    until("the condition", || recording.fake.says().is_some()).await;
    assert_eq!(recording.fake.says(), Some(trip("r1")));
    let parents = recording.fake.route().status.unwrap().parents;
    assert_eq!(parents.len(), 2);
    assert_eq!(parents[0].controller_name, "example.com/other");
    assert!(parents[0].conditions.is_empty());
    assert_eq!(parents[1].conditions.len(), 2);
    assert_eq!(parents[1].conditions[0].type_, "Accepted");
}

#[tokio::test]
async fn a_trip_of_a_route_without_status_brings_the_parent_with_it() {
    let route = split_route(1, 1);
    let recording = Recording::start(&route, Fake::new(route.clone(), &[]));
    recording.trips.trip(&digits(), trip("r1"));
    until("the condition", || recording.fake.says().is_some()).await;
    let parents = recording.fake.route().status.unwrap().parents;
    assert_eq!(parents[0].parent_ref.name, "gw");
    let types: Vec<&str> = parents[0]
        .conditions
        .iter()
        .map(|it| it.type_.as_str())
        .collect();
    assert_eq!(types, ["Accepted", "ResolvedRefs", "sluice.dev/Tripped"]);
}

#[tokio::test]
async fn writing_ends_with_the_run() {
    let before = saying(OURS, &condition("Accepted", "True", "Accepted", ""));
    let recording = Recording::start(&before, Fake::new(before.clone(), &[500; 64]));
    let left = |recording: &Recording| recording.fake.0.lock().unwrap().refusals.len();
    recording.trips.trip(&digits(), trip("r1"));
    until("a refusal", || left(&recording) < 64).await;
    let mut next = before;
    let split = json!({"version": 1, "run": "r2", "modelDeployment": "digits", "stable": "stable", "canary": "canary"});
    next["metadata"]["annotations"]["sluice.dev/split"] = json!(split.to_string());
    recording.fake.0.lock().unwrap().route.clone_from(&next);
    let report = report(&next);
    recording.trips.settle(&report.runs);
    recording.seen.send_replace(Some(Arc::new(report)));
    // A trip of the next run is written, by which time the first would have been.
    recording.fake.0.lock().unwrap().refusals.clear();
    recording.trips.trip(&digits(), trip("r2"));
    until("the second trip", || recording.fake.says().is_some()).await;
    assert_eq!(recording.fake.says(), Some(trip("r2")));
    assert_eq!(recording.fake.0.lock().unwrap().writes, 1);
}

#[tokio::test]
async fn what_another_replica_wrote_is_not_written_again() {
    let before = saying(OURS, &condition("Accepted", "True", "Accepted", ""));
    let mut theirs = trip("r1");
    theirs.guardrail = "slow-answers".to_owned();
    let after = saying(OURS, &tripped(&theirs.to_condition_message()));
    // The watch is behind and goes on showing the route without it.
    let recording = Recording::start(&before, Fake::new(after.clone(), &[]));
    recording.trips.trip(&digits(), trip("r1"));
    let reads = || recording.fake.0.lock().unwrap().reads;
    until("a second look", || reads() == 2).await;
    assert_eq!(recording.fake.0.lock().unwrap().writes, 0);
    assert_eq!(recording.fake.says(), Some(theirs));
}
