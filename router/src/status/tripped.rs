//! Trips in the status of routes: read from every route that is seen, by every replica, and written
//! by whoever knows of one, until it stands there.
//!
//! A condition `sluice.dev/Tripped` counts only at a parent of ours, in the form that the contract
//! gives it, and for the run that its route names. Whatever else stands there is not ours to judge by.

use std::collections::BTreeMap;
use std::fmt::{self, Debug};
use std::sync::Arc;
use std::time::Duration;

use crds::contract::{CONDITION_TRIPPED, REASON_TRIPPED, Trip};
use crds::gateway::{HttpRoute, RouteParentStatus};
use futures::StreamExt as _;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::merge::{self, Named};
use super::routes::RouteStatuses;
use crate::table::Run;
use crate::table::findings::RouteFindings;
use crate::table::objects::ObjectKey;
use crate::table::route;
use crate::trips::{Standing, Trips};
use crate::watch::Report;

/// How long the watch may take to show what was written.
const SETTLE: Duration = Duration::from_secs(2);
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);
const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(10);
/// Many canaries may trip at once: what they share broke.
const WRITES_AT_ONCE: usize = 8;

/// The trip that a route's status tells of, for the run that the route names.
pub fn told(route: &HttpRoute, controller: &str) -> Option<Trip> {
    let parents = &route.status.as_ref()?.parents;
    let named = route::run(route);
    let ours = |entry: &&RouteParentStatus| entry.controller_name == controller;
    let mut trips = parents
        .iter()
        .filter(ours)
        .flat_map(|entry| &entry.conditions)
        .filter_map(tells);
    // A split that cannot be read may hide the run; a trip holds for its own run only in any case.
    trips.find(|trip| named.as_ref().is_none_or(|run| is_of(trip, run)))
}

/// The trip that a condition tells of.
fn tells(condition: &Condition) -> Option<Trip> {
    let said = condition.type_ == CONDITION_TRIPPED
        && condition.status == "True"
        && condition.reason == REASON_TRIPPED;
    said.then(|| Trip::from_condition_message(&condition.message))?
}

/// Whether a condition tells of a trip of this run.
pub(super) fn tells_of(condition: &Condition, run: &Run) -> bool {
    tells(condition).is_some_and(|trip| is_of(&trip, run))
}

fn is_of(trip: &Trip, run: &Run) -> bool {
    trip.run == run.id && trip.revision == run.revision
}

/// Takes in what a route's status says, at once: the flag is set before the table is built anew.
pub fn heed(trips: &Trips, route: &HttpRoute, controller: &str) {
    let Some(trip) = told(route, controller) else {
        return;
    };
    let key = ObjectKey::of(&route.metadata);
    let Trip {
        run,
        revision,
        guardrail,
        ..
    } = trip.clone();
    if trips.trip(&key, trip) {
        warn!(route = %key, run, revision, guardrail, "canary taken out: the route's status says so");
    }
}

/// Writes the trips that hold into the status of their routes.
pub struct Recorder<S> {
    /// Where to.
    pub statuses: S,
    /// Under which name.
    pub controller_name: String,
    /// What holds.
    pub trips: watch::Receiver<Arc<Standing>>,
    /// What was seen.
    pub reports: watch::Receiver<Option<Arc<Report>>>,
}

impl<S> Debug for Recorder<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recorder")
            .field("controller_name", &self.controller_name)
            .finish_non_exhaustive()
    }
}

/// When to look at a trip again that is not seen in its route's status yet.
#[derive(Debug)]
struct Attempt {
    run: Run,
    failures: u32,
    again: Instant,
}

type Attempts = BTreeMap<ObjectKey, Attempt>;

/// A trip that its route's status does not show.
struct Missing {
    route: ObjectKey,
    run: Run,
    trip: Trip,
    /// What to say at our parents where nothing is said yet.
    found: RouteFindings,
}

impl<S: RouteStatuses> Recorder<S> {
    /// Writes for as long as the process lives.
    pub async fn run(mut self) {
        let mut attempts = Attempts::new();
        loop {
            let missing = self.missing();
            attempts.retain(|route, attempt| {
                missing
                    .iter()
                    .any(|it| it.route == *route && it.run == attempt.run)
            });
            let now = Instant::now();
            let due = missing
                .into_iter()
                .filter(|it| attempts.get(&it.route).is_none_or(|it| it.again <= now));
            let written: Vec<(Missing, bool)> = futures::stream::iter(due)
                .map(|missing| async {
                    let written = self.write(&missing).await;
                    (missing, written)
                })
                .buffer_unordered(WRITES_AT_ONCE)
                .collect()
                .await;
            for (missing, written) in written {
                note(&mut attempts, missing, written);
            }
            if !self
                .changed(attempts.values().map(|it| it.again).min())
                .await
            {
                return;
            }
        }
    }

    /// Waits until something changes or is due; false: the process is on its way out.
    async fn changed(&mut self, due: Option<Instant>) -> bool {
        let due = async {
            match due {
                Some(due) => tokio::time::sleep_until(due).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = self.trips.changed() => changed.is_ok(),
            changed = self.reports.changed() => changed.is_ok(),
            () = due => true,
        }
    }

    fn missing(&mut self) -> Vec<Missing> {
        let standing = Arc::clone(&self.trips.borrow_and_update());
        let report = self.reports.borrow_and_update().clone();
        let Some(report) = report.filter(|_| !standing.is_empty()) else {
            return Vec::new();
        };
        let missing = |object: &Arc<HttpRoute>| {
            let route = ObjectKey::of(&object.metadata);
            let trip = standing.get(&route)?.clone();
            let run = report.runs.get(&route)?.clone()?;
            let found = report.statuses.routes.get(&route)?.clone();
            let wanted = is_of(&trip, &run) && !found.parents.is_empty();
            let stands = told(object, &self.controller_name).is_some_and(|it| is_of(&it, &run));
            (wanted && !stands).then_some(Missing {
                route,
                run,
                trip,
                found,
            })
        };
        report.objects.routes.iter().filter_map(missing).collect()
    }

    /// Writes one trip on the route as it is; whether it stands there.
    async fn write(&self, missing: &Missing) -> bool {
        match tokio::time::timeout(WRITE_TIMEOUT, self.try_write(missing)).await {
            Ok(Ok(())) => true,
            Ok(Err(kube::Error::Api(answer))) if answer.code == 409 => {
                debug!(route = %missing.route, "route changed meanwhile; writing its trip again");
                false
            }
            Ok(Err(error)) => {
                warn!(route = %missing.route, %error, "trip could not be written into the route's status; trying again");
                false
            }
            Err(_) => {
                warn!(route = %missing.route, "trip could not be written into the route's status in time; trying again");
                false
            }
        }
    }

    async fn try_write(&self, missing: &Missing) -> kube::Result<()> {
        let Some(object) = self.statuses.read(&missing.route).await? else {
            return Ok(());
        };
        // The route may have moved on since it was last seen here.
        if route::run(&object).is_some_and(|run| run != missing.run) {
            return Ok(());
        }
        let before = object.status.unwrap_or_default().parents;
        let generation = object.metadata.generation.unwrap_or_default();
        let named = Named {
            run: Some(&missing.run),
            trip: Some(&missing.trip),
        };
        let controller = self.controller_name.as_str();
        let now = Timestamp::now();
        let after = if before.iter().any(|it| it.controller_name == controller) {
            merge::tripped(&before, &named, controller, (generation, now))
        } else {
            merge::parents(&before, &missing.found, &named, controller, now)
        };
        if after == before {
            return Ok(());
        }
        let version = object.metadata.resource_version;
        self.statuses.write(&missing.route, version, after).await?;
        info!(route = %missing.route, run = missing.run.id, "trip written into the route's status");
        Ok(())
    }
}

fn note(attempts: &mut Attempts, missing: Missing, written: bool) {
    let failures = match attempts.get(&missing.route) {
        _ if written => 0,
        Some(before) => before.failures.saturating_add(1),
        None => 1,
    };
    let pause = if written { SETTLE } else { backoff(failures) };
    let attempt = Attempt {
        run: missing.run,
        failures,
        again: Instant::now() + pause,
    };
    attempts.insert(missing.route, attempt);
}

/// Doubles from attempt to attempt; half of it is chance, so that replicas do not meet again.
fn backoff(failures: u32) -> Duration {
    let doubled = RETRY_FIRST.saturating_mul(2_u32.saturating_pow(failures.saturating_sub(1)));
    let most = doubled.min(RETRY_MAX);
    most / 2 + (most / 2).mul_f64(rand::random::<f64>())
}
