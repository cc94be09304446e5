//! What the router counts, and for how long it keeps counting it.

mod judged;
mod outcomes;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crds::contract;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

pub use self::judged::Judged;
pub use self::outcomes::Retry;
use self::outcomes::{Ejected, Outcomes};
use crate::budget::RetryBudget;
use crate::evidence::trial::Trial;
use crate::mirror::Outcome;
use crate::pool::Pool;
use crate::table::Table;
use crate::table::objects::ObjectKey;

/// Codes of failures that guardrails count. A series that begins with its first failure shows no
/// increase before its second scrape, which can cost a rollback 15 seconds.
const FAILURES: [u16; 4] = [500, 502, 503, 504];
/// Two scrapes at the longest usual interval still see the last value of a revision that left.
const KEEP_GONE: Duration = Duration::from_mins(10);

/// Labels of one revision on one route.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, EncodeLabelSet)]
struct Labels {
    namespace: String,
    model_deployment: String,
    revision: String,
    route: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CodeLabels {
    namespace: String,
    model_deployment: String,
    revision: String,
    route: String,
    code: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, EncodeLabelSet)]
struct RouteLabels {
    namespace: String,
    route: String,
}

type Weight = Gauge<f64, AtomicU64>;
type Seconds = Gauge<f64, AtomicU64>;
type Durations = Family<Labels, Histogram, fn() -> Histogram>;

/// All metrics.
pub struct Metrics {
    registry: Registry,
    requests: Family<CodeLabels, Counter>,
    durations: Durations,
    weight: Family<Labels, Weight>,
    generation: Family<RouteLabels, Gauge>,
    leader_silence: Seconds,
    outcomes: Outcomes,
    ejected: Ejected,
    /// What the judge says of canaries.
    pub judged: Judged,
    kept: Mutex<Kept>,
    /// Requests that no route took.
    unrouted: Arc<Meter>,
}

#[derive(Default)]
struct Kept {
    meters: BTreeMap<Labels, (Arc<Meter>, Instant)>,
    routes: BTreeSet<RouteLabels>,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

/// Counts the requests of one revision on one route, or of a route's requests that no revision got.
pub struct Meter {
    labels: Labels,
    requests: Family<CodeLabels, Counter>,
    outcomes: Outcomes,
    /// Of a route: how many of its requests may be sent again. It outlives tables, as the counts do.
    pub retries: RetryBudget,
    /// None where there is no revision: those series appear with their first request.
    ok: Option<Counter>,
    /// None where there is no revision to time.
    duration: Option<Histogram>,
    codes: Mutex<BTreeSet<u16>>,
}

impl fmt::Debug for Meter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Meter")
            .field("labels", &self.labels)
            .finish_non_exhaustive()
    }
}

/// The meters of a table.
#[derive(Debug, Default)]
pub struct Meters {
    /// Of each of [`Table::series`], in order.
    pub series: Vec<Arc<Meter>>,
    /// Of each route's requests that no revision got.
    pub routes: BTreeMap<ObjectKey, Arc<Meter>>,
}

impl Meter {
    /// Counts one request.
    pub fn count(&self, code: u16, took: Duration) {
        if let (200, Some(ok)) = (code, &self.ok) {
            ok.inc();
        } else {
            self.codes
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .insert(code);
            self.requests.get_or_create(&self.labels.with(code)).inc();
        }
        if let Some(duration) = &self.duration {
            duration.observe(took.as_secs_f64());
        }
    }
}

impl Meter {
    /// Counts a request that was sent again after an attempt here, or was not allowed to be.
    pub fn retried(&self, outcome: Retry) {
        self.outcomes.retried(&self.labels, outcome);
    }

    /// Counts a copy of a request.
    pub fn mirrored(&self, outcome: Outcome) {
        self.outcomes.mirrored(&self.labels, outcome);
    }
}

impl Labels {
    fn with(&self, code: u16) -> CodeLabels {
        let Self {
            namespace,
            model_deployment,
            revision,
            route,
        } = self.clone();
        CodeLabels {
            namespace,
            model_deployment,
            revision,
            route,
            code,
        }
    }
}

fn histogram() -> Histogram {
    Histogram::new(contract::latency_edges())
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// No series yet.
    pub fn new() -> Self {
        let mut registry = Registry::default();
        let requests = Family::<CodeLabels, Counter>::default();
        let durations = Durations::new_with_constructor(histogram);
        let weight = Family::<Labels, Weight>::default();
        let generation = Family::<RouteLabels, Gauge>::default();
        let leader_silence = Seconds::default();
        let total = contract::METRIC_ROUTER_REQUESTS;
        // The encoder adds the suffix of counters by itself.
        let name = total.strip_suffix("_total").unwrap_or(total);
        registry.register(
            name,
            "Requests by outcome of the first attempt that reached a pod",
            requests.clone(),
        );
        registry.register(
            contract::METRIC_ROUTER_DURATION,
            "Time from a request's arrival to the end of its answer",
            durations.clone(),
        );
        registry.register(
            contract::METRIC_ROUTER_WEIGHT,
            "Weight that is applied, 0 to 1",
            weight.clone(),
        );
        registry.register(
            contract::METRIC_ROUTER_APPLIED_GENERATION,
            "Generation of the route that is applied",
            generation.clone(),
        );
        registry.register(
            contract::METRIC_ROUTER_LEADER_SILENCE,
            "Time since a leading operator was heard, or since the start",
            leader_silence.clone(),
        );
        let outcomes = Outcomes::register(&mut registry);
        let judged = Judged::register(&mut registry);
        let none = Labels::default();
        let unrouted = Arc::new(meter(none, &requests, &outcomes, None));
        Self {
            registry,
            requests,
            durations,
            weight,
            generation,
            leader_silence,
            outcomes,
            ejected: Ejected::default(),
            judged,
            kept: Mutex::default(),
            unrouted,
        }
    }

    /// Counts endpoints of this pool that are left out.
    pub fn watch_endpoints(&mut self, pool: Arc<Pool>) {
        let ejected = self.ejected.of(pool);
        self.registry.register_collector(Box::new(ejected));
    }

    /// Notes for how long no leader was heard of.
    pub fn leader_silence(&self, silence: Duration) {
        self.leader_silence.set(silence.as_secs_f64());
    }

    /// Counts requests that no route took.
    pub fn unrouted(&self) -> Arc<Meter> {
        Arc::clone(&self.unrouted)
    }

    /// Brings the series in line with a table that is about to be served, and gives a meter for
    /// each of its series and each of its routes.
    pub fn adopt(&self, table: &Table, now: Instant) -> Meters {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let mut listed = BTreeSet::new();
        let mut meters = Vec::with_capacity(table.series.len());
        let mut endpoints = Vec::with_capacity(table.series.len());
        for series in &table.series {
            let labels = Labels {
                namespace: series.route.namespace.clone(),
                model_deployment: series.model_deployment.clone(),
                revision: series.revision.clone(),
                route: series.route.name.clone(),
            };
            self.weight.get_or_create(&labels).set(series.weight);
            meters.push(self.keep(&mut kept, labels.clone(), now));
            endpoints.push((labels.clone(), series.endpoints.clone()));
            listed.insert(labels);
        }
        let mut routes = BTreeMap::new();
        for route in &table.routes {
            let labels = Labels {
                namespace: route.key.namespace.clone(),
                model_deployment: route.model_deployment.clone(),
                revision: String::new(),
                route: route.key.name.clone(),
            };
            routes.insert(route.key.clone(), self.keep(&mut kept, labels.clone(), now));
            listed.insert(labels);
        }
        self.ejected.adopt(endpoints);
        self.expire(&mut kept, &listed, now);
        self.judged.expire(now, |labels| listed.contains(labels));
        self.adopt_generations(&mut kept, table);
        Meters {
            series: meters,
            routes,
        }
    }

    fn keep(&self, kept: &mut Kept, labels: Labels, now: Instant) -> Arc<Meter> {
        let (meter, seen) = kept.meters.entry(labels).or_insert_with_key(|labels| {
            let timed = !labels.revision.is_empty();
            let duration = timed.then(|| self.durations.get_or_create_owned(labels));
            (
                Arc::new(meter(
                    labels.clone(),
                    &self.requests,
                    &self.outcomes,
                    duration,
                )),
                now,
            )
        });
        *seen = now;
        Arc::clone(meter)
    }

    /// Shows that canaries have no weight, and stable what they had.
    pub fn take_out(&self, tripped: &[Arc<Trial>]) {
        for trial in tripped {
            let of = |revision: &str| Labels {
                namespace: trial.route.namespace.clone(),
                model_deployment: trial.model_deployment.clone(),
                revision: revision.to_owned(),
                route: trial.route.name.clone(),
            };
            let weight = self.weight.get_or_create(&of(&trial.run.revision)).set(0.0);
            if weight > 0.0 {
                let stable = self.weight.get_or_create(&of(&trial.stable));
                stable.set(stable.get() + weight);
            }
        }
    }

    /// Drops what left every route long ago; what left just now gets nothing more.
    fn expire(&self, kept: &mut Kept, listed: &BTreeSet<Labels>, now: Instant) {
        kept.meters.retain(|labels, (meter, seen)| {
            if listed.contains(labels) {
                return true;
            }
            if now.duration_since(*seen) < KEEP_GONE {
                if !labels.revision.is_empty() {
                    self.weight.get_or_create(labels).set(0.0);
                }
                return true;
            }
            let codes = meter
                .codes
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone();
            for code in codes.into_iter().chain([200]) {
                self.requests.remove(&labels.with(code));
            }
            self.outcomes.remove(labels);
            self.durations.remove(labels);
            self.weight.remove(labels);
            false
        });
    }

    fn adopt_generations(&self, kept: &mut Kept, table: &Table) {
        let labels = |key: &ObjectKey| RouteLabels {
            namespace: key.namespace.clone(),
            route: key.name.clone(),
        };
        let served: BTreeSet<RouteLabels> = table
            .routes
            .iter()
            .map(|route| labels(&route.key))
            .collect();
        for gone in kept.routes.difference(&served) {
            self.generation.remove(gone);
        }
        for route in &table.routes {
            self.generation
                .get_or_create(&labels(&route.key))
                .set(route.generation);
        }
        kept.routes = served;
    }

    /// All series as text.
    pub fn text(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

fn meter(
    labels: Labels,
    requests: &Family<CodeLabels, Counter>,
    outcomes: &Outcomes,
    duration: Option<Histogram>,
) -> Meter {
    // Made here, at 0, so that an increase over time sees the first request, and the first failure.
    let listed = !labels.revision.is_empty();
    let ok = listed.then(|| requests.get_or_create_owned(&labels.with(200)));
    let mut codes = BTreeSet::new();
    if listed {
        for code in FAILURES {
            drop(requests.get_or_create(&labels.with(code)));
            codes.insert(code);
        }
        outcomes.list(&labels);
    }
    Meter {
        labels,
        requests: requests.clone(),
        outcomes: outcomes.clone(),
        retries: RetryBudget::default(),
        ok,
        duration,
        codes: Mutex::new(codes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::Series;

    fn table(revisions: &[(&str, f64)]) -> Table {
        let series = |(revision, weight): &(&str, f64)| Series {
            route: ObjectKey::new("ml", "digits"),
            model_deployment: "digits".to_owned(),
            revision: (*revision).to_owned(),
            weight: *weight,
            endpoints: Vec::new(),
        };
        Table {
            series: revisions.iter().map(series).collect(),
            ..Table::default()
        }
    }

    #[test]
    fn a_listed_revision_exists_at_zero_under_the_names_of_the_contract() {
        let metrics = Metrics::new();
        let Meters { series: meters, .. } =
            metrics.adopt(&table(&[("a", 0.75), ("b", 0.25)]), Instant::now());
        let text = metrics.text().unwrap();
        let labels = r#"{namespace="ml",model_deployment="digits",revision="b",route="digits""#;
        assert!(
            text.contains(&format!(
                "{}{labels},code=\"200\"}} 0",
                contract::METRIC_ROUTER_REQUESTS
            )),
            "{text}"
        );
        assert!(
            text.contains(&format!(
                "{}{labels}}} 0.25",
                contract::METRIC_ROUTER_WEIGHT
            )),
            "{text}"
        );
        for code in FAILURES {
            assert!(
                text.contains(&format!("{labels},code=\"{code}\"}} 0")),
                "{text}"
            );
        }
        let retries = contract::METRIC_ROUTER_RETRIES;
        assert!(
            text.contains(&format!("{retries}{labels},outcome=\"sent\"}} 0")),
            "{text}"
        );
        meters[1].count(503, Duration::from_millis(3));
        let text = metrics.text().unwrap();
        assert!(text.contains(&format!(
            "{}{labels},code=\"503\"}} 1",
            contract::METRIC_ROUTER_REQUESTS
        )));
        assert!(text.contains(&format!(
            "{}_count{labels}}} 1",
            contract::METRIC_ROUTER_DURATION
        )));
        assert!(text.contains("le=\"0.25\""));
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn a_revision_that_left_is_dropped_after_ten_minutes_with_all_its_codes() {
        let metrics = Metrics::new();
        let start = Instant::now();
        let Meters { series: meters, .. } = metrics.adopt(&table(&[("a", 0.5), ("b", 0.5)]), start);
        meters[1].count(502, Duration::ZERO);
        metrics.adopt(&table(&[("a", 1.0)]), start + Duration::from_mins(5));
        let text = metrics.text().unwrap();
        assert!(text.contains("revision=\"b\",route=\"digits\",code=\"502\""));
        assert!(
            text.contains("revision=\"b\",route=\"digits\"} 0.0"),
            "{text}"
        );
        metrics.adopt(&table(&[("a", 1.0)]), start + Duration::from_mins(11));
        assert!(!metrics.text().unwrap().contains("revision=\"b\""));
    }
}
