//! What every request can see.

use std::sync::{Arc, OnceLock};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::args::Config;
use crate::engine::sim;
use crate::metrics::Metrics;
use crate::pool::Pool;
use crate::ready::Readiness;
use crate::tensor::ModelSpec;

/// Bodies of this many times the largest one may be in memory together.
const BODIES: usize = 4;

/// The pod.
#[derive(Debug)]
pub(crate) struct App {
    /// Name under which the model answers.
    pub(crate) model_name: String,
    /// Version under which the model answers.
    pub(crate) model_version: String,
    /// Largest request body.
    pub(crate) body_bytes: u32,
    /// Whether requests may come.
    pub(crate) readiness: Readiness,
    /// The counters.
    pub(crate) metrics: Metrics,
    /// Whether POST /sim exists.
    pub(crate) sim_control: bool,
    serving: OnceLock<Serving>,
    budget: Arc<Semaphore>,
}

/// A loaded model.
#[derive(Debug)]
pub(crate) struct Serving {
    /// What it takes and gives.
    pub(crate) spec: ModelSpec,
    /// Where it runs.
    pub(crate) pool: Pool,
    /// The sim's control, if that is the engine.
    pub(crate) sim: Option<sim::Control>,
}

/// Room for a part of a body in memory; given back on drop.
#[derive(Debug)]
pub(crate) struct Room(OwnedSemaphorePermit);

impl App {
    /// A pod without a model.
    pub(crate) fn new(config: &Config) -> Self {
        let body = usize::try_from(config.limits.body_bytes).unwrap_or(usize::MAX);
        let budget = body.saturating_mul(BODIES).clamp(1, Semaphore::MAX_PERMITS);
        Self {
            model_name: config.model_name.clone(),
            model_version: config.model_version.clone(),
            body_bytes: config.limits.body_bytes,
            readiness: Readiness::new(),
            metrics: Metrics::new(config.model_deployment.clone(), config.revision.clone()),
            sim_control: config.engine.sim_control,
            serving: OnceLock::new(),
            budget: Arc::new(Semaphore::new(budget)),
        }
    }

    /// The model is loaded.
    pub(crate) fn serve(&self, serving: Serving) {
        // Only the start calls this, and only once; a second model would have nowhere to go.
        drop(self.serving.set(serving));
    }

    /// The model, once it is loaded.
    pub(crate) fn serving(&self) -> Option<&Serving> {
        self.serving.get()
    }

    /// Room for more bytes of a body, unless too many are held already.
    pub(crate) fn room(&self, bytes: u32) -> Option<Room> {
        Arc::clone(&self.budget)
            .try_acquire_many_owned(bytes)
            .ok()
            .map(Room)
    }
}

impl Room {
    /// Joins more room to this one, to be given back together.
    pub(crate) fn join(&mut self, more: Self) {
        self.0.merge(more.0);
    }
}
