//! What requests tell of a canary, and what follows from it.
//!
//! A request holds the [`Witness`] of its rule and counts itself when the first attempt that reached
//! a pod ends: relaxed atomics of its [`segment`], and, where it was bad or the canary's, one value
//! on a bounded lock-free queue. One task ([`Evidences::look`]) drains the queue, keeps each user's
//! first bad event alone, finds what is overdue among the requests [`in_flight`], and judges. A
//! guardrail that rejects takes the canary out for the next request; then it is told to the others.
//!
//! | part | what it is |
//! |---|---|
//! | [`guardrails`] | which requests are bad (pure) |
//! | [`trial`] | one run on one route, and what its requests hold |
//! | [`segment`] | what is counted while step and weight stay as they are |
//! | [`in_flight`] | requests that may turn bad before they end |
//! | `ledger`, `docket` | the judge's books of a run, and the test of one guardrail |

mod docket;
pub mod guardrails;
pub mod in_flight;
mod ledger;
pub mod segment;
pub mod trial;

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crds::contract::{Evidence, Trip};
use crds::quantity::Number;
use tokio::sync::watch;
use tracing::warn;
use verdict::attribution::Track;

use self::ledger::{Ledger, Look, Rejected};
use self::trial::{Ages, Inbox, Trial, Witness};
use crate::metrics::Metrics;
use crate::table::objects::ObjectKey;
use crate::table::{Table, Watched};
use crate::trips::Trips;

/// The code of a request whose client went away before the end of the answer.
pub const CLIENT_WENT_AWAY: u16 = 499;

/// Between two looks of the judge.
pub const LOOK_EVERY: Duration = Duration::from_millis(50);

/// The evidence of every run that is served.
#[derive(Debug)]
pub struct Evidences {
    inbox: Arc<Inbox>,
    trials: Mutex<BTreeMap<ObjectKey, Arc<Trial>>>,
    appeared: Mutex<Arc<HashMap<SocketAddr, Instant>>>,
    /// Numbers users' events: over all routes and runs of this process, so that what a reader has
    /// seen of one run never hides an event of the next.
    events: AtomicU64,
    changed: watch::Sender<u64>,
}

impl Evidences {
    /// None yet. Time is counted from `now`.
    pub fn new(now: Instant) -> Self {
        Self {
            inbox: Arc::new(Inbox::new(now)),
            trials: Mutex::default(),
            appeared: Mutex::default(),
            events: AtomicU64::default(),
            changed: watch::Sender::new(0),
        }
    }

    /// Gives each watched rule of a table that is about to be served what its requests hold. A run
    /// goes on where it was known; another weight or step opens a segment; what left is dropped.
    pub fn adopt(&self, table: &Table, trips: &Trips, now: Instant) -> Vec<Arc<Witness>> {
        let appeared = self.note_endpoints(table, now);
        let mut by_route: BTreeMap<&ObjectKey, Vec<&Watched>> = BTreeMap::new();
        for watched in &table.watched {
            by_route
                .entry(&watched.route.key)
                .or_default()
                .push(watched);
        }
        let mut trials = self.trials();
        let before = std::mem::take(&mut *trials);
        // A route that is not served for a while has not ended its run.
        let is_named = |trial: &Trial| {
            let run = table.runs.get(&trial.route);
            run.is_some_and(|run| run.as_ref() == Some(&trial.run))
        };
        trials.extend(before.clone().into_iter().filter(|(_, it)| is_named(it)));
        let mut opened = BTreeMap::new();
        for (route, rules) in by_route {
            let Some(first) = rules.first() else { continue };
            let trial = self.trial(before.get(route), first, trips);
            let reachable = rules.iter().any(|watched| watched.stable_reachable());
            trial.stable_reachable.store(reachable, Ordering::Relaxed);
            let wanted: Vec<(u32, u16)> = rules
                .iter()
                .map(|watched| (watched.step, watched.weight))
                .collect();
            let mut ledger = trial.ledger();
            let seconds = self.inbox.at(now).as_secs();
            let segments = ledger.open(&first.guardrails, &wanted, seconds);
            drop(ledger);
            opened.insert(route.clone(), (Arc::clone(&trial), segments.into_iter()));
            trials.insert(route.clone(), trial);
        }
        drop(trials);
        let witness = |watched: &Watched| {
            let (trial, segments) = opened.get_mut(&watched.route.key)?;
            let (segment, resting) = segments.next()?;
            Some(Arc::new(Witness {
                ages: ages(watched, &appeared, now),
                stable_reachable: watched.stable_reachable(),
                trial: Arc::clone(trial),
                segment,
                resting,
            }))
        };
        // One for each, as every route among them was opened above.
        table.watched.iter().filter_map(witness).collect()
    }

    /// The trial that goes on, or a new one.
    fn trial(&self, before: Option<&Arc<Trial>>, watched: &Watched, trips: &Trips) -> Arc<Trial> {
        let goes_on = before.filter(|trial| {
            trial.run == watched.run
                && trial.stable == watched.stable_revision
                && trial.guardrails.watch_alike(&watched.guardrails)
        });
        if let Some(trial) = goes_on {
            return Arc::clone(trial);
        }
        let route = &watched.route;
        Arc::new(Trial::new(
            watched,
            trips.flag(&route.key, &watched.run.id, &watched.run.revision),
            Arc::clone(&self.inbox),
        ))
    }

    fn note_endpoints(&self, table: &Table, now: Instant) -> Arc<HashMap<SocketAddr, Instant>> {
        let mut known = self.appeared.lock().unwrap_or_else(PoisonError::into_inner);
        let since = |address: &SocketAddr| known.get(address).copied().unwrap_or(now);
        let noted = table.endpoints.iter().map(|it| (*it, since(it))).collect();
        *known = Arc::new(noted);
        Arc::clone(&known)
    }

    /// Takes in what requests told since the last look, and judges. To be called every
    /// [`LOOK_EVERY`].
    pub fn look(&self, trips: &Trips, metrics: &Metrics, now: Instant) {
        let now = self.inbox.at(now);
        let trials: Vec<Arc<Trial>> = self.trials().values().cloned().collect();
        for trial in &trials {
            trial.ledger().advance(now.as_secs());
        }
        let look = Look {
            now: now.as_secs(),
            events: &self.events,
        };
        for outcome in self.inbox.take() {
            let mut ledger = outcome.trial().ledger();
            ledger.take(&outcome, look);
        }
        let mut is_news = false;
        for trial in &trials {
            let mut ledger = trial.ledger();
            if let Some(slots) = &trial.in_flight {
                slots.sweep(now, &trial.guardrails, |origin, bad| {
                    ledger.overdue(origin, bad, look);
                });
            }
            let counted_more = ledger.is_news();
            is_news |= counted_more;
            let trip = conclude(trial, &mut ledger);
            if ledger.is_report_due(counted_more, now.as_secs()) || trip.is_some() {
                metrics.judged.report(trial, ledger.ln_e(), ledger.bound);
            }
            drop(ledger);
            if let Some(trip) = trip {
                take_out(trial, trip, trips, metrics);
                is_news = true;
            }
        }
        metrics.take_out(&self.tripped());
        if is_news {
            self.changed.send_modify(|version| *version += 1);
        }
    }

    /// What was seen of each run, with the users' events after the number that `after` has for its
    /// route. Numbers rise over all runs of this process.
    pub fn snapshot(&self, after: &BTreeMap<ObjectKey, u64>) -> Vec<Evidence> {
        let trials: Vec<Arc<Trial>> = self.trials().values().cloned().collect();
        let tell = |trial: &Arc<Trial>| {
            let after = after.get(&trial.route).copied().unwrap_or_default();
            let mut told = trial.ledger().tell(&trial.guardrails, after);
            told.namespace.clone_from(&trial.route.namespace);
            told.route.clone_from(&trial.route.name);
            told.run.clone_from(&trial.run.id);
            told.revision.clone_from(&trial.run.revision);
            told.dropped += trial.lost.load(Ordering::Relaxed);
            told
        };
        trials.iter().map(tell).collect()
    }

    /// Says when a snapshot would tell something new.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// The canaries that would be taken out if stable had an endpoint to go to, and by which
    /// guardrail.
    pub fn held(&self) -> BTreeMap<ObjectKey, String> {
        let trials: Vec<Arc<Trial>> = self.trials().values().cloned().collect();
        let held = |trial: &Arc<Trial>| {
            let ledger = trial.ledger();
            let rejected = ledger.rejected().filter(|_| ledger.held)?;
            let guardrail = trial.guardrails.iter().nth(rejected.guardrail)?;
            Some((trial.route.clone(), guardrail.name.clone()))
        };
        trials.iter().filter_map(held).collect()
    }

    /// The canaries that are out of traffic.
    pub(crate) fn tripped(&self) -> Vec<Arc<Trial>> {
        let trials = self.trials();
        trials
            .values()
            .filter(|it| it.is_tripped())
            .cloned()
            .collect()
    }

    fn trials(&self) -> MutexGuard<'_, BTreeMap<ObjectKey, Arc<Trial>>> {
        self.trials.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The ages of a rule's endpoints.
fn ages(watched: &Watched, appeared: &Arc<HashMap<SocketAddr, Instant>>, now: Instant) -> Ages {
    let since = |it: &SocketAddr| appeared.get(it).copied();
    let all = watched.stable.iter().chain(&watched.canary);
    let newest = all.filter_map(since).max().unwrap_or(now);
    let settled = |arm: &[SocketAddr]| {
        let mut since: Vec<Instant> = arm.iter().filter_map(since).collect();
        since.sort_unstable_by(|one, two| two.cmp(one));
        since.get(since.len() / 10).copied()
    };
    let (canary, stable) = (settled(&watched.canary), settled(&watched.stable));
    Ages {
        settled: canary
            .zip(stable)
            .map(|(canary, stable)| canary.max(stable)),
        warm_from: newest + watched.guardrails.warm_up_max(),
        appeared: Arc::clone(appeared),
    }
}

/// Whether a guardrail's evidence is enough, and there is something to go back to.
fn conclude(trial: &Trial, ledger: &mut Ledger) -> Option<Trip> {
    if trial.is_tripped() {
        return None;
    }
    let rejected = ledger.rejected()?;
    if trial.stable_reachable.load(Ordering::Relaxed) {
        ledger.held = false;
        return trip(trial, ledger, rejected);
    }
    if !ledger.held {
        ledger.held = true;
        let guardrail = trial.guardrails.iter().nth(rejected.guardrail)?;
        warn!(
            route = %trial.route, run = trial.run.id, revision = trial.run.revision, guardrail = guardrail.name,
            "the canary is worse, but stable has no endpoint to go back to: the canary stays"
        );
    }
    None
}

fn trip(trial: &Trial, ledger: &Ledger, rejected: Rejected) -> Option<Trip> {
    let guardrail = trial.guardrails.iter().nth(rejected.guardrail)?;
    let share = |track| {
        let (all, bad) = ledger.totals(track, rejected.guardrail);
        format!("{bad} of {all}")
    };
    Some(Trip {
        run: trial.run.id.clone(),
        revision: trial.run.revision.clone(),
        guardrail: guardrail.name.clone(),
        log_e: Number(format!("{:.3}", rejected.log_e)),
        bound: Number(format!("{:.3}", ledger.bound)),
        message: format!(
            "{} requests of the canary were bad and {} of stable, at one router",
            share(Track::Canary),
            share(Track::Stable)
        ),
    })
}

/// First the next request, then the word.
fn take_out(trial: &Trial, trip: Trip, trips: &Trips, metrics: &Metrics) {
    trial.tripped.store(true, Ordering::Release);
    warn!(
        route = %trial.route, run = trip.run, revision = trip.revision, guardrail = trip.guardrail,
        log_e = trip.log_e.0, bound = trip.bound.0, message = trip.message, "the canary was taken out"
    );
    metrics.judged.tripped(trial, &trip.guardrail);
    trips.trip(&trial.route, trip);
}

#[cfg(test)]
mod tests;
