//! What runs a model. One [`Engine`] is one slot; requests are checked against the model's
//! [`ModelSpec`] before they get here.

pub(crate) mod onnx;
pub(crate) mod sim;

use std::fmt;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::args::{EngineConfig, EngineKind};
use crate::tensor::{ModelSpec, Tensor};

/// One loaded model.
pub(crate) trait Engine: fmt::Debug + Send {
    /// Runs the model once. Blocks.
    fn infer(&mut self, inputs: Vec<Tensor>) -> Result<Vec<Tensor>, InferError>;
}

/// Why an inference gave nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum InferError {
    /// The request can not be given to this model: the client's fault.
    #[error("{0}")]
    BadInput(String),
    /// The model failed: its own fault.
    #[error("inference failed: {0}")]
    Failed(String),
}

/// A model in all its slots.
#[derive(Debug)]
pub(crate) struct Loaded {
    /// What it takes and gives.
    pub(crate) spec: ModelSpec,
    /// One for each slot.
    pub(crate) engines: Vec<Box<dyn Engine>>,
    /// The sim's control, if that is the engine.
    pub(crate) sim: Option<sim::Control>,
}

/// Why a model could not be loaded; says what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct LoadError(pub(crate) String);

/// Loads the model into as many slots as asked for. Blocks.
pub(crate) fn load(
    config: &EngineConfig,
    artifact: Option<&Path>,
    slots: usize,
) -> Result<Loaded, LoadError> {
    match (config.kind, artifact) {
        (EngineKind::Sim, _) => sim::load(&config.settings, slots),
        (EngineKind::Onnx, Some(path)) => {
            onnx::load(&config.onnxruntime, path, &config.settings, slots)
        }
        (EngineKind::Onnx, None) => Err(LoadError("engine onnx needs --model-uri".to_owned())),
    }
}

/// Runs the model on zeros of its own shapes, with growing batches, so that the first user does
/// not pay for what a first run costs. Only the smallest has to succeed: a model may be made for
/// one size. A slow model is not made slower to start: larger batches are left out after `longest`.
pub(crate) fn warm_up(
    loaded: &mut Loaded,
    batches: &[usize],
    longest: Duration,
) -> Result<(), LoadError> {
    let began = Instant::now();
    for engine in &mut loaded.engines {
        for (index, batch) in batches.iter().enumerate() {
            if index > 0 && began.elapsed() > longest {
                break;
            }
            let inputs: Option<Vec<Tensor>> = loaded
                .spec
                .inputs
                .iter()
                .map(|input| input.zeros(*batch))
                .collect();
            let inputs =
                inputs.ok_or_else(|| LoadError("the model's inputs are too large".to_owned()))?;
            match engine.infer(inputs) {
                Ok(_) => {}
                Err(error) if index == 0 => {
                    return Err(LoadError(format!(
                        "warm-up with batch size {batch}: {error}"
                    )));
                }
                Err(error) => {
                    tracing::warn!(batch, %error, "warm-up failed; requests of this size may too");
                    break;
                }
            }
        }
    }
    Ok(())
}
