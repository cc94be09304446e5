//! Slots in which a model runs, and a bounded line of requests in front of them.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task;

use crate::engine::{Engine, InferError};
use crate::tensor::Tensor;

type Slots = Arc<Mutex<Vec<Box<dyn Engine>>>>;

/// The slots. A slot is one loaded model: engines can not be shared between threads.
#[derive(Debug)]
pub(crate) struct Pool {
    slots: Slots,
    free: Arc<Semaphore>,
    line: Arc<Semaphore>,
}

/// A place in the line or in a slot.
#[derive(Debug)]
pub(crate) struct Admission {
    _place: OwnedSemaphorePermit,
}

/// How an inference went.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// What the engine gave.
    pub(crate) result: Result<Vec<Tensor>, InferError>,
    /// Time spent in the line.
    pub(crate) queued: Duration,
    /// Time spent in the slot.
    pub(crate) ran: Duration,
}

impl Pool {
    /// One slot for each engine, and room for `queue` requests to wait.
    pub(crate) fn new(engines: Vec<Box<dyn Engine>>, queue: usize) -> Self {
        let slots = engines.len();
        let line = slots.saturating_add(queue).min(Semaphore::MAX_PERMITS);
        Self {
            slots: Arc::new(Mutex::new(engines)),
            free: Arc::new(Semaphore::new(slots)),
            line: Arc::new(Semaphore::new(line)),
        }
    }

    /// A place, unless line and slots are full.
    pub(crate) fn admit(&self) -> Option<Admission> {
        Arc::clone(&self.line)
            .try_acquire_owned()
            .ok()
            .map(|place| Admission { _place: place })
    }

    /// Waits for a slot and runs the engine in it, off the threads that serve connections.
    pub(crate) async fn infer(&self, admission: Admission, inputs: Vec<Tensor>) -> Outcome {
        let arrived = Instant::now();
        let permit = Arc::clone(&self.free).acquire_owned().await;
        let queued = arrived.elapsed();
        let lent = permit
            .ok()
            .and_then(|permit| Lent::take(&self.slots, admission, permit));
        let Some(mut lent) = lent else {
            return Outcome {
                result: Err(gone()),
                queued,
                ran: Duration::ZERO,
            };
        };
        let started = Instant::now();
        // The slot goes back inside the task: a client that leaves must not take it along.
        let running = task::spawn_blocking(move || match &mut lent.engine {
            Some(engine) => engine.infer(inputs),
            None => Err(gone()),
        });
        let result = running.await.unwrap_or_else(|_| {
            Err(InferError::Failed(
                "the engine ended in the middle of the inference".to_owned(),
            ))
        });
        Outcome {
            result,
            queued,
            ran: started.elapsed(),
        }
    }
}

fn gone() -> InferError {
    InferError::Failed("the engine has no slot left".to_owned())
}

/// An engine out of its slot; it returns on drop, also when the inference panicked.
struct Lent {
    engine: Option<Box<dyn Engine>>,
    slots: Slots,
    _places: (Admission, OwnedSemaphorePermit),
}

impl Lent {
    fn take(slots: &Slots, admission: Admission, permit: OwnedSemaphorePermit) -> Option<Self> {
        let engine = slots.lock().unwrap_or_else(PoisonError::into_inner).pop()?;
        Some(Self {
            engine: Some(engine),
            slots: Arc::clone(slots),
            _places: (admission, permit),
        })
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(engine) = self.engine.take() {
            self.slots
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(engine);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[derive(Debug)]
    struct Gate(mpsc::Receiver<bool>);

    impl Engine for Gate {
        fn infer(&mut self, inputs: Vec<Tensor>) -> Result<Vec<Tensor>, InferError> {
            assert!(self.0.recv() == Ok(true), "told to panic");
            Ok(inputs)
        }
    }

    fn pool(queue: usize) -> (mpsc::Sender<bool>, Arc<Pool>) {
        let (open, gate) = mpsc::channel();
        (open, Arc::new(Pool::new(vec![Box::new(Gate(gate))], queue)))
    }

    #[tokio::test]
    async fn a_full_line_admits_nobody() {
        let (_open, pool) = pool(1);
        let places = (pool.admit(), pool.admit());
        assert!(places.0.is_some() && places.1.is_some());
        assert!(pool.admit().is_none());
        drop(places);
        assert!(pool.admit().is_some());
    }

    #[tokio::test]
    async fn a_client_that_leaves_does_not_take_the_slot_along() {
        let (open, pool) = pool(0);
        let admission = pool.admit().unwrap();
        let asked = tokio::spawn({
            let pool = Arc::clone(&pool);
            async move { pool.infer(admission, Vec::new()).await }
        });
        while pool.free.available_permits() > 0 {
            task::yield_now().await;
        }
        asked.abort();
        assert!(asked.await.unwrap_err().is_cancelled());
        assert!(pool.admit().is_none(), "the engine is still busy");
        open.send(true).unwrap();
        open.send(true).unwrap();
        let admission = loop {
            match pool.admit() {
                Some(admission) => break admission,
                None => task::yield_now().await,
            }
        };
        pool.infer(admission, Vec::new()).await.result.unwrap();
    }

    #[tokio::test]
    async fn an_inference_that_panics_gives_its_slot_back() {
        let (open, pool) = pool(0);
        open.send(false).unwrap();
        let failed = pool.infer(pool.admit().unwrap(), Vec::new()).await;
        assert!(matches!(failed.result, Err(InferError::Failed(_))));
        open.send(true).unwrap();
        let admission = pool.admit().unwrap();
        pool.infer(admission, Vec::new()).await.result.unwrap();
    }
}
