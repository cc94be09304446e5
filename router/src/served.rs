//! What is being served, as one value that is swapped whole.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;
use crds::contract::{Applied, AppliedRoute};

use crate::evidence::trial::Witness;
use crate::metrics::{Meter, Meters, Metrics};
use crate::pool::Pool;
use crate::table::objects::ObjectKey;
use crate::table::{Rule, Table};

/// A table with its meters and witnesses.
#[derive(Debug, Default)]
pub struct Served {
    /// The table.
    pub table: Table,
    /// Whether the table was made from what the cluster holds, and is not the empty one of the start.
    pub is_known: bool,
    meters: Meters,
    witnesses: Vec<Arc<Witness>>,
}

impl Served {
    /// The meter of an arm.
    pub fn meter(&self, series: usize) -> Option<&Arc<Meter>> {
        self.meters.series.get(series)
    }

    /// The meter of a route's requests that no revision got.
    pub fn route_meter(&self, route: &ObjectKey) -> Option<&Arc<Meter>> {
        self.meters.routes.get(route)
    }

    /// What a rule's requests hold to be evidence; none outside a run.
    pub fn witness(&self, rule: &Rule) -> Option<&Arc<Witness>> {
        self.witnesses.get(rule.watched?)
    }

    /// What the operator asks for. `held` says which canaries should be out and are not, and why.
    pub fn applied(&self, held: &BTreeMap<ObjectKey, String>) -> Applied {
        let routes = self.table.routes.iter().map(|route| AppliedRoute {
            namespace: route.key.namespace.clone(),
            name: route.key.name.clone(),
            digest: route.digest.clone(),
            held: held.get(&route.key).cloned(),
        });
        Applied {
            routes: routes.collect(),
            stale: false,
        }
    }
}

/// Serves a table from the next request on. Requests in flight end by the one they began with.
pub fn publish(
    table: Table,
    witnesses: Vec<Arc<Witness>>,
    current: &ArcSwap<Served>,
    metrics: &Metrics,
    pool: &Pool,
) {
    let meters = metrics.adopt(&table, Instant::now());
    let endpoints = table.endpoints.clone();
    current.store(Arc::new(Served {
        table,
        is_known: true,
        meters,
        witnesses,
    }));
    // After the swap: a request that begins before it may still use what is closed here, and then
    // connects anew.
    pool.retain(&endpoints);
}
