//! Which canaries were taken out, and by whose evidence: one registry for all who may say so.
//!
//! This replica's own judge, the leader, another replica's word in a route's status and the file of
//! the last life all say it by [`Trips::trip`]; requests see it at once, by a flag that the request
//! path holds. A trip is of one run and one revision: it outlives what is served for as long as the
//! route names that run, and says nothing of any other.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crds::contract::Trip;
use tokio::sync::watch;

use crate::table::Run;
use crate::table::objects::ObjectKey;

/// Trips of runs that a route does not name (yet) are kept for so many runs: the leader may be
/// ahead of our watch.
const RUNS_MAX: usize = 4;
/// And for so many routes that are not known here.
const ROUTES_MAX: usize = 10_000;

/// The trips that hold: at most one for each route, of the run that it names.
pub type Standing = BTreeMap<ObjectKey, Trip>;

/// The registry.
#[derive(Debug)]
pub struct Trips {
    routes: Mutex<BTreeMap<ObjectKey, OfRoute>>,
    standing: watch::Sender<Arc<Standing>>,
}

/// What is known of one route.
#[derive(Debug, Default)]
struct OfRoute {
    /// The run that the route names; none: it names none, or has not been seen.
    current: Option<Run>,
    /// In the order in which they were first heard of.
    runs: Vec<OfRun>,
}

#[derive(Debug)]
struct OfRun {
    run: Run,
    flag: Arc<AtomicBool>,
    trip: Option<Trip>,
}

impl Default for Trips {
    fn default() -> Self {
        Self {
            routes: Mutex::default(),
            standing: watch::Sender::new(Arc::default()),
        }
    }
}

impl Trips {
    /// Takes a canary out, from the next request on. Says whether this was the first word of it; the
    /// first trip of a run and revision stands.
    pub fn trip(&self, route: &ObjectKey, trip: Trip) -> bool {
        let mut routes = self.routes();
        if routes.len() >= ROUTES_MAX && !routes.contains_key(route) {
            return false;
        }
        let run = Run {
            id: trip.run.clone(),
            revision: trip.revision.clone(),
        };
        let of_run = routes.entry(route.clone()).or_default().of_run(&run);
        // Before anything else: requests see the flag without the lock.
        of_run.flag.store(true, Ordering::Release);
        let first = of_run.trip.is_none();
        if first {
            of_run.trip = Some(trip);
            self.tell(&routes);
        }
        first
    }

    /// The trip of the run that the route names, or the newest where the route is not known yet.
    pub fn get(&self, route: &ObjectKey) -> Option<Trip> {
        self.routes().get(route)?.standing().cloned()
    }

    /// The flag of a run and revision, set when it was tripped: the same one for all who ask.
    pub fn flag(&self, route: &ObjectKey, run: &str, revision: &str) -> Arc<AtomicBool> {
        let run = Run {
            id: run.to_owned(),
            revision: revision.to_owned(),
        };
        let mut routes = self.routes();
        let of_run = routes.entry(route.clone()).or_default().of_run(&run);
        Arc::clone(&of_run.flag)
    }

    /// Learns which run each known route names. What was said of a run that a route no longer names
    /// is forgotten, and so is every route that is gone.
    pub fn settle(&self, runs: &BTreeMap<ObjectKey, Option<Run>>) {
        let mut routes = self.routes();
        routes.retain(|route, _| runs.contains_key(route));
        for (route, run) in runs {
            match (routes.get_mut(route), run) {
                (Some(known), run) => known.settle(run.as_ref()),
                (None, Some(run)) => {
                    let mut known = OfRoute::default();
                    known.settle(Some(run));
                    routes.insert(route.clone(), known);
                }
                (None, None) => {}
            }
        }
        self.tell(&routes);
    }

    /// The trips that hold, whenever they change.
    pub fn subscribe(&self) -> watch::Receiver<Arc<Standing>> {
        self.standing.subscribe()
    }

    fn routes(&self) -> MutexGuard<'_, BTreeMap<ObjectKey, OfRoute>> {
        self.routes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, routes: &BTreeMap<ObjectKey, OfRoute>) {
        let standing: Standing = routes
            .iter()
            .filter_map(|(route, known)| Some((route.clone(), known.standing()?.clone())))
            .collect();
        self.standing.send_if_modified(|told| {
            let differs = **told != standing;
            if differs {
                *told = Arc::new(standing);
            }
            differs
        });
    }
}

impl OfRoute {
    fn of_run(&mut self, run: &Run) -> &mut OfRun {
        let at = if let Some(at) = self.runs.iter().position(|it| it.run == *run) {
            at
        } else {
            self.make_room();
            self.runs.push(OfRun {
                run: run.clone(),
                flag: Arc::default(),
                trip: None,
            });
            self.runs.len() - 1
        };
        // The place was found or made just above.
        #[expect(clippy::indexing_slicing, reason = "the place was found or made above")]
        &mut self.runs[at]
    }

    /// Forgets the oldest run that the route does not name.
    fn make_room(&mut self) {
        if self.runs.len() < RUNS_MAX {
            return;
        }
        let current = self.current.as_ref();
        if let Some(at) = self.runs.iter().position(|it| Some(&it.run) != current) {
            self.runs.remove(at);
        }
    }

    fn settle(&mut self, run: Option<&Run>) {
        if self.current.as_ref() != run {
            self.current = run.cloned();
            self.runs.retain(|it| Some(&it.run) == run);
        }
    }

    fn standing(&self) -> Option<&Trip> {
        let of_run = match &self.current {
            Some(current) => self.runs.iter().find(|it| it.run == *current),
            None => self.runs.iter().rfind(|it| it.trip.is_some()),
        }?;
        of_run.trip.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crds::quantity::Number;

    fn route(name: &str) -> ObjectKey {
        ObjectKey::new("ml", name)
    }

    fn trip(run: &str, guardrail: &str) -> Trip {
        Trip {
            run: run.to_owned(),
            revision: "b".to_owned(),
            guardrail: guardrail.to_owned(),
            log_e: Number("9".to_owned()),
            bound: Number("8".to_owned()),
            message: String::new(),
        }
    }

    fn names(name: &str, run: Option<&str>) -> BTreeMap<ObjectKey, Option<Run>> {
        let run = run.map(|id| Run {
            id: id.to_owned(),
            revision: "b".to_owned(),
        });
        BTreeMap::from([(route(name), run)])
    }

    #[test]
    fn the_first_trip_of_a_run_stands_and_sets_the_flag_that_was_given_out() {
        let trips = Trips::default();
        trips.settle(&names("digits", Some("r1")));
        let flag = trips.flag(&route("digits"), "r1", "b");
        assert!(!flag.load(Ordering::Acquire));
        assert!(trips.trip(&route("digits"), trip("r1", "errors")));
        assert!(flag.load(Ordering::Acquire));
        assert!(!trips.trip(&route("digits"), trip("r1", "slow-answers")));
        assert_eq!(trips.get(&route("digits")), Some(trip("r1", "errors")));
    }

    #[test]
    fn a_trip_of_another_run_or_revision_sets_no_flag_but_its_own() {
        let trips = Trips::default();
        trips.settle(&names("digits", Some("r1")));
        let flag = trips.flag(&route("digits"), "r1", "b");
        trips.trip(&route("digits"), trip("r0", "errors"));
        let mut other = trip("r1", "errors");
        other.revision = "c".to_owned();
        trips.trip(&route("digits"), other);
        trips.trip(&route("others"), trip("r1", "errors"));
        assert!(!flag.load(Ordering::Acquire));
        assert_eq!(trips.get(&route("digits")), None);
    }

    #[test]
    fn a_trip_that_is_told_before_its_run_is_seen_holds_from_its_first_request() {
        let trips = Trips::default();
        trips.settle(&names("digits", Some("r1")));
        trips.trip(&route("digits"), trip("r2", "errors"));
        trips.settle(&names("digits", Some("r1")));
        trips.settle(&names("digits", Some("r2")));
        let flag = trips.flag(&route("digits"), "r2", "b");
        assert!(flag.load(Ordering::Acquire));
        assert_eq!(trips.get(&route("digits")), Some(trip("r2", "errors")));
    }

    #[test]
    fn a_trip_is_forgotten_with_its_run_and_with_its_route() {
        let trips = Trips::default();
        for after in [
            names("digits", Some("r2")),
            names("digits", None),
            BTreeMap::new(),
        ] {
            trips.settle(&names("digits", Some("r1")));
            trips.trip(&route("digits"), trip("r1", "errors"));
            assert!(trips.get(&route("digits")).is_some());
            trips.settle(&after);
            assert_eq!(trips.get(&route("digits")), None);
        }
    }

    #[test]
    fn a_flag_stays_the_same_while_its_run_lasts_whatever_else_is_said() {
        let trips = Trips::default();
        trips.settle(&names("digits", Some("r1")));
        let flag = trips.flag(&route("digits"), "r1", "b");
        for run in 2..20 {
            trips.trip(&route("digits"), trip(&format!("r{run}"), "errors"));
            trips.settle(&names("digits", Some("r1")));
        }
        assert!(Arc::ptr_eq(&flag, &trips.flag(&route("digits"), "r1", "b")));
        let known = trips.routes();
        assert_eq!(known.get(&route("digits")).unwrap().runs.len(), RUNS_MAX);
    }

    #[test]
    fn who_subscribed_hears_of_what_holds_and_of_nothing_else() {
        let trips = Trips::default();
        let mut told = trips.subscribe();
        trips.settle(&names("digits", Some("r1")));
        trips.trip(&route("digits"), trip("r0", "errors"));
        assert!(!told.has_changed().unwrap());
        trips.trip(&route("digits"), trip("r1", "errors"));
        assert!(told.has_changed().unwrap());
        let standing = Arc::clone(&told.borrow_and_update());
        assert_eq!(standing.get(&route("digits")), Some(&trip("r1", "errors")));
        trips.settle(&names("digits", Some("r2")));
        assert!(told.has_changed().unwrap());
        assert!(told.borrow_and_update().is_empty());
    }
}
