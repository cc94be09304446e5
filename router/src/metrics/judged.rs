//! What the judge says of canaries.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use crds::contract;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::{KEEP_GONE, Labels};
use crate::evidence::trial::Trial;

type Value = Gauge<f64, AtomicU64>;

/// Labels of one guardrail of one run.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, EncodeLabelSet)]
struct GuardrailLabels {
    namespace: String,
    model_deployment: String,
    revision: String,
    route: String,
    guardrail: String,
}

/// What the judge says.
#[derive(Debug, Default)]
pub struct Judged {
    trips: Family<GuardrailLabels, Counter>,
    evidence: Family<GuardrailLabels, Value>,
    bound: Family<GuardrailLabels, Value>,
    /// When each was last said.
    kept: Mutex<BTreeMap<GuardrailLabels, Instant>>,
}

impl Judged {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let judged = Self::default();
        let total = contract::METRIC_ROUTER_TRIPS;
        registry.register(
            total.strip_suffix("_total").unwrap_or(total),
            "Canaries that this replica took out by its own evidence",
            judged.trips.clone(),
        );
        registry.register(
            contract::METRIC_ROUTER_EVIDENCE,
            "Natural logarithm of this replica's evidence against the canary",
            judged.evidence.clone(),
        );
        registry.register(
            contract::METRIC_ROUTER_EVIDENCE_BOUND,
            "What the evidence must reach for this replica to take the canary out",
            judged.bound.clone(),
        );
        judged
    }

    /// Tells how far the evidence of each guardrail is.
    pub fn report(&self, trial: &Trial, ln_e: impl Iterator<Item = f64>, bound: f64) {
        let now = Instant::now();
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        for (guardrail, ln_e) in trial.guardrails.iter().zip(ln_e) {
            let labels = labels(trial, &guardrail.name);
            self.evidence.get_or_create(&labels).set(ln_e);
            self.bound.get_or_create(&labels).set(bound);
            // At 0 from the start, so that the first one is an increase.
            drop(self.trips.get_or_create(&labels));
            kept.insert(labels, now);
        }
    }

    /// Counts a trip.
    pub fn tripped(&self, trial: &Trial, guardrail: &str) {
        self.trips.get_or_create(&labels(trial, guardrail)).inc();
    }

    /// Drops what belongs to no revision that is kept.
    pub(super) fn expire(&self, now: Instant, is_listed: impl Fn(&Labels) -> bool) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|labels, seen| {
            let of = Labels {
                namespace: labels.namespace.clone(),
                model_deployment: labels.model_deployment.clone(),
                revision: labels.revision.clone(),
                route: labels.route.clone(),
            };
            if is_listed(&of) || now.saturating_duration_since(*seen) < KEEP_GONE {
                return true;
            }
            self.trips.remove(labels);
            self.evidence.remove(labels);
            self.bound.remove(labels);
            false
        });
    }
}

fn labels(trial: &Trial, guardrail: &str) -> GuardrailLabels {
    GuardrailLabels {
        namespace: trial.route.namespace.clone(),
        model_deployment: trial.model_deployment.clone(),
        revision: trial.run.revision.clone(),
        route: trial.route.name.clone(),
        guardrail: guardrail.to_owned(),
    }
}
