//! A stand-in for a model: it takes and gives what the digits models do, at a latency of
//! α + β · batch, with settable jitter, errors and drift, and without a single weight.

use std::collections::BTreeMap;
use std::slice::Chunks;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde::{Deserialize, Serialize};

use super::{Engine, InferError, LoadError, Loaded};
use crate::args::parse_duration;
use crate::tensor::{Data, Datatype, ModelSpec, Tensor, TensorSpec};

const CLASSES: u8 = 10;

/// How the sim behaves. Durations are texts such as `5ms`, as everywhere else.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct Settings {
    alpha: String,
    beta: String,
    jitter: String,
    error_rate: f64,
    shift: f64,
}

impl Default for Settings {
    fn default() -> Self {
        let zero = || "0s".to_owned();
        Self {
            alpha: zero(),
            beta: zero(),
            jitter: zero(),
            error_rate: 0.0,
            shift: 0.0,
        }
    }
}

/// [`Settings`], read.
#[derive(Clone, Copy, Debug)]
struct Behaviour {
    alpha: Duration,
    beta: Duration,
    jitter: Duration,
    error_rate: f64,
    shift: f64,
}

impl Settings {
    fn behaviour(&self) -> Result<Behaviour, String> {
        let named = |name: &str, text: &str| {
            parse_duration(text).map_err(|error| format!("{name}: {error}"))
        };
        for (name, share) in [("errorRate", self.error_rate), ("shift", self.shift)] {
            if !(0.0..=1.0).contains(&share) {
                return Err(format!("{name}: {share} is not between 0 and 1"));
            }
        }
        Ok(Behaviour {
            alpha: named("alpha", &self.alpha)?,
            beta: named("beta", &self.beta)?,
            jitter: named("jitter", &self.jitter)?,
            error_rate: self.error_rate,
            shift: self.shift,
        })
    }
}

/// Changes the sim while it runs.
#[derive(Clone, Debug)]
pub(crate) struct Control(Arc<Mutex<(Settings, Behaviour)>>);

impl Control {
    fn new(settings: Settings) -> Result<Self, String> {
        let behaviour = settings.behaviour()?;
        Ok(Self(Arc::new(Mutex::new((settings, behaviour)))))
    }

    /// Takes a JSON object with the settings that change; gives all of them. A wrong one changes
    /// nothing.
    pub(crate) fn change(&self, patch: &[u8]) -> Result<Settings, String> {
        let patch: serde_json::Map<String, serde_json::Value> =
            serde_json::from_slice(patch).map_err(|error| error.to_string())?;
        let mut current = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut merged = serde_json::to_value(&current.0).map_err(|error| error.to_string())?;
        if let Some(fields) = merged.as_object_mut() {
            fields.extend(patch);
        }
        let settings: Settings =
            serde_json::from_value(merged).map_err(|error| error.to_string())?;
        *current = (settings.clone(), settings.behaviour()?);
        Ok(settings)
    }

    fn behaviour(&self) -> Behaviour {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).1
    }
}

/// A sim in all its slots. Settings: `alpha`, `beta`, `jitter`, `errorRate`, `shift`, `shape`
/// (values in a row, 64) and `seed`.
pub(crate) fn load(settings: &BTreeMap<String, String>, slots: usize) -> Result<Loaded, LoadError> {
    let mut width: usize = 64;
    let mut seed: u64 = 0;
    let mut sim = Settings::default();
    for (key, value) in settings {
        let wrong = |why: &dyn std::fmt::Display| LoadError(format!("{key}={value}: {why}"));
        match key.as_str() {
            "alpha" => sim.alpha.clone_from(value),
            "beta" => sim.beta.clone_from(value),
            "jitter" => sim.jitter.clone_from(value),
            "errorRate" => sim.error_rate = value.parse().map_err(|error| wrong(&error))?,
            "shift" => sim.shift = value.parse().map_err(|error| wrong(&error))?,
            "shape" => width = value.parse().map_err(|error| wrong(&error))?,
            "seed" => seed = value.parse().map_err(|error| wrong(&error))?,
            _ => return Err(wrong(&"engine sim has no such setting")),
        }
    }
    let control = Control::new(sim).map_err(LoadError)?;
    let engines = (0_u64..).take(slots).map(|slot| -> Box<dyn Engine> {
        let random = StdRng::seed_from_u64(seed.wrapping_add(slot));
        Box::new(Sim {
            control: control.clone(),
            random,
        })
    });
    Ok(Loaded {
        spec: spec(width)?,
        engines: engines.collect(),
        sim: Some(control),
    })
}

fn spec(width: usize) -> Result<ModelSpec, LoadError> {
    let width = i64::try_from(width)
        .ok()
        .filter(|width| (1..=1 << 20).contains(width))
        .ok_or_else(|| LoadError(format!("shape={width}: not between 1 and {}", 1 << 20)))?;
    let tensor = |name: &str, datatype, shape| TensorSpec {
        name: name.to_owned(),
        datatype,
        shape,
    };
    Ok(ModelSpec {
        platform: "sluice_sim",
        inputs: vec![tensor("image", Datatype::Fp32, vec![-1, width])],
        outputs: vec![
            tensor("label", Datatype::Int64, vec![-1]),
            tensor(
                "probabilities",
                Datatype::Fp32,
                vec![-1, i64::from(CLASSES)],
            ),
        ],
    })
}

#[derive(Debug)]
struct Sim {
    control: Control,
    random: StdRng,
}

impl Engine for Sim {
    fn infer(&mut self, inputs: Vec<Tensor>) -> Result<Vec<Tensor>, InferError> {
        let behaviour = self.control.behaviour();
        let missing = || InferError::BadInput("input \"image\" is missing".to_owned());
        let image = inputs.first().ok_or_else(missing)?;
        let (Data::Fp32(values), [rows, width]) = (&image.data, image.shape.as_slice()) else {
            return Err(missing());
        };
        let batch = u32::try_from(*rows).unwrap_or(u32::MAX);
        let jitter = behaviour.jitter.mul_f64(self.random.random::<f64>());
        thread::sleep(behaviour.alpha + behaviour.beta.saturating_mul(batch) + jitter);
        if self.random.random::<f64>() < behaviour.error_rate {
            return Err(InferError::Failed("simulated failure".to_owned()));
        }
        Ok(answer(
            *rows,
            values.chunks((*width).max(1)),
            behaviour.shift,
        ))
    }
}

fn answer(rows: usize, values: Chunks<'_, f32>, shift: f64) -> Vec<Tensor> {
    let labels: Vec<u8> = values.map(|row| label(row, shift)).collect();
    let share = |label: u8, class: u8| if label == class { 0.91 } else { 0.01 };
    let probabilities = labels
        .iter()
        .flat_map(|label| (0..CLASSES).map(|class| share(*label, class)))
        .collect();
    let labels = labels.iter().copied().map(i64::from).collect();
    vec![
        Tensor {
            name: "label".to_owned(),
            shape: vec![rows],
            data: Data::Int64(labels),
        },
        Tensor {
            name: "probabilities".to_owned(),
            shape: vec![rows, usize::from(CLASSES)],
            data: Data::Fp32(probabilities),
        },
    ]
}

/// A label that depends on the row alone. `shift` is the share of rows whose label is another one;
/// which rows these are also depends on the row alone, so a greater shift only adds to them.
fn label(row: &[f32], shift: f64) -> u8 {
    let mut hash = row.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, value| {
        (hash ^ u64::from(value.to_bits())).wrapping_mul(0x0100_0000_01b3)
    });
    // One more mixing round: the low bits of small images hardly differ before it.
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^= hash >> 33;
    let [label, a, b, ..] = hash.to_le_bytes();
    let moved = f64::from(u16::from_le_bytes([a, b])) < shift * 65536.0;
    (label % CLASSES + u8::from(moved)) % CLASSES
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loaded(settings: &[(&str, &str)]) -> Result<Loaded, LoadError> {
        let settings = settings
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect();
        load(&settings, 1)
    }

    fn image(seed: u16) -> Tensor {
        let mut tensor = spec(64).unwrap().inputs[0].zeros(1).unwrap();
        tensor.data = Data::Fp32((0..64_u8).map(|i| f32::from(seed) + f32::from(i)).collect());
        tensor
    }

    fn labels(loaded: &mut Loaded) -> Vec<Result<Vec<Tensor>, InferError>> {
        (0..500)
            .map(|seed| loaded.engines[0].infer(vec![image(seed)]))
            .collect()
    }

    #[test]
    fn answers_depend_on_the_image_alone() {
        let (mut one, mut two) = (loaded(&[]).unwrap(), loaded(&[("seed", "9")]).unwrap());
        assert_eq!(labels(&mut one), labels(&mut two));
    }

    #[test]
    fn shift_changes_its_share_of_answers() {
        let before = labels(&mut loaded(&[]).unwrap());
        let after = labels(&mut loaded(&[("shift", "0.2")]).unwrap());
        let moved = before.iter().zip(&after).filter(|(a, b)| a != b).count();
        assert!((60..=140).contains(&moved), "{moved} of 500");
    }

    #[test]
    fn the_error_rate_is_kept() {
        let answers = labels(&mut loaded(&[("errorRate", "0.2")]).unwrap());
        let failed = answers.iter().filter(|answer| answer.is_err()).count();
        assert!((60..=140).contains(&failed), "{failed} of 500");
    }

    #[test]
    fn wrong_settings_are_refused_by_name() {
        for wrong in [
            ("alpha", "5"),
            ("errorRate", "2"),
            ("shape", "0"),
            ("shap", "64"),
        ] {
            let error = loaded(&[wrong]).unwrap_err();
            assert!(error.0.contains(wrong.0), "{error}");
        }
    }

    #[test]
    fn a_wrong_change_changes_nothing() {
        let control = loaded(&[("alpha", "1ms")]).unwrap().sim.unwrap();
        for wrong in [
            &b"{\"errorRate\":7}"[..],
            b"{\"nope\":1}",
            b"[]",
            b"{\"alpha\":\"x\"}",
        ] {
            control.change(wrong).unwrap_err();
        }
        let settings = control.change(b"{\"errorRate\":0.5}").unwrap();
        assert_eq!((settings.alpha.as_str(), settings.error_rate), ("1ms", 0.5));
    }
}
