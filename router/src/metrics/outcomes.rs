//! What is counted when something out of the ordinary is done with a request, and endpoints that
//! are left out.

use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use crds::contract;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeLabelSet, EncodeLabelValue, EncodeMetric as _, LabelValueEncoder,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use super::Labels;
use crate::mirror::Outcome;
use crate::pool::Pool;

/// What became of a request that could be sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Retry {
    /// It was sent again.
    Sent,
    /// The budget was spent.
    OverBudget,
}

const RETRIES: [Retry; 2] = [Retry::Sent, Retry::OverBudget];
const MIRRORED: [Outcome; 7] = [
    Outcome::Answered,
    Outcome::Failed,
    Outcome::Unreached,
    Outcome::Late,
    Outcome::Busy,
    Outcome::TooLarge,
    Outcome::Broken,
];

impl EncodeLabelValue for Retry {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        let label = match self {
            Self::Sent => "sent",
            Self::OverBudget => "over_budget",
        };
        EncodeLabelValue::encode(&label, encoder)
    }
}

impl EncodeLabelValue for Outcome {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        EncodeLabelValue::encode(&self.label(), encoder)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RetryLabels {
    #[prometheus(flatten)]
    of: Labels,
    outcome: Retry,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct MirrorLabels {
    #[prometheus(flatten)]
    of: Labels,
    outcome: Outcome,
}

/// Counters by outcome.
#[derive(Clone, Debug, Default)]
pub(super) struct Outcomes {
    retries: Family<RetryLabels, Counter>,
    mirrored: Family<MirrorLabels, Counter>,
}

impl Outcomes {
    /// No series yet. Those of copies appear with the first, for most revisions never get one.
    pub(super) fn register(registry: &mut Registry) -> Self {
        let outcomes = Self::default();
        // The encoder adds the suffix of counters by itself.
        let name = |total: &'static str| total.strip_suffix("_total").unwrap_or(total);
        registry.register(
            name(contract::METRIC_ROUTER_RETRIES),
            "Requests that were sent again after an attempt at this revision, or were not allowed to be",
            outcomes.retries.clone(),
        );
        registry.register(
            name(contract::METRIC_ROUTER_MIRRORED),
            "Copies of requests for this revision by what became of them",
            outcomes.mirrored.clone(),
        );
        outcomes
    }

    /// Begins to count what is sent again after an attempt at a revision.
    pub(super) fn list(&self, of: &Labels) {
        for outcome in RETRIES {
            let of = of.clone();
            drop(self.retries.get_or_create(&RetryLabels { of, outcome }));
        }
    }

    pub(super) fn retried(&self, of: &Labels, outcome: Retry) {
        let of = of.clone();
        self.retries
            .get_or_create(&RetryLabels { of, outcome })
            .inc();
    }

    pub(super) fn mirrored(&self, of: &Labels, outcome: Outcome) {
        let of = of.clone();
        self.mirrored
            .get_or_create(&MirrorLabels { of, outcome })
            .inc();
    }

    pub(super) fn remove(&self, of: &Labels) {
        for outcome in RETRIES {
            let of = of.clone();
            self.retries.remove(&RetryLabels { of, outcome });
        }
        for outcome in MIRRORED {
            let of = of.clone();
            self.mirrored.remove(&MirrorLabels { of, outcome });
        }
    }
}

/// A revision's.
type Endpoints = (Labels, Vec<SocketAddr>);

/// Counts at each scrape the endpoints that are left out.
#[derive(Clone, Debug, Default)]
pub(super) struct Ejected {
    pool: Option<Arc<Pool>>,
    served: Arc<Mutex<Vec<Endpoints>>>,
}

impl Ejected {
    /// Of the connections that a pool has.
    pub(super) fn of(&self, pool: Arc<Pool>) -> Self {
        Self {
            pool: Some(pool),
            served: Arc::clone(&self.served),
        }
    }

    /// From now on these are served.
    pub(super) fn adopt(&self, endpoints: Vec<Endpoints>) {
        *self.served.lock().unwrap_or_else(PoisonError::into_inner) = endpoints;
    }
}

impl Collector for Ejected {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut gauge = encoder.encode_descriptor(
            contract::METRIC_ROUTER_EJECTED,
            "Endpoints that refused or reset and have not proven themselves since",
            None,
            MetricType::Gauge,
        )?;
        let served = self.served.lock().unwrap_or_else(PoisonError::into_inner);
        for (labels, endpoints) in served.iter() {
            let out = endpoints
                .iter()
                .filter(|address| {
                    let pool = self.pool.as_ref();
                    pool.is_some_and(|pool| pool.is_ejected(**address))
                })
                .count();
            let out = u64::try_from(out).unwrap_or(u64::MAX);
            ConstGauge::new(out).encode(gauge.encode_family(labels)?)?;
        }
        Ok(())
    }
}
