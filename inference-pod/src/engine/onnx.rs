//! ONNX Runtime, loaded from its library when the pod starts.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use ort::logging::LogLevel;
use ort::session::builder::GraphOptimizationLevel;
use ort::session::{Session, SessionInputValue};
use ort::value::{DynValue, Outlet, Tensor as OrtTensor, TensorElementType};

use super::{Engine, InferError, LoadError, Loaded};
use crate::tensor::{Data, Datatype, ModelSpec, Tensor, TensorSpec};

const TYPES: [(TensorElementType, Datatype); 13] = [
    (TensorElementType::Bool, Datatype::Bool),
    (TensorElementType::Uint8, Datatype::Uint8),
    (TensorElementType::Uint16, Datatype::Uint16),
    (TensorElementType::Uint32, Datatype::Uint32),
    (TensorElementType::Uint64, Datatype::Uint64),
    (TensorElementType::Int8, Datatype::Int8),
    (TensorElementType::Int16, Datatype::Int16),
    (TensorElementType::Int32, Datatype::Int32),
    (TensorElementType::Int64, Datatype::Int64),
    (TensorElementType::Float16, Datatype::Fp16),
    (TensorElementType::Float32, Datatype::Fp32),
    (TensorElementType::Float64, Datatype::Fp64),
    (TensorElementType::String, Datatype::Bytes),
];

/// A model in all its slots. Settings: `intraThreads`, the threads of one inference (1: slots use
/// the cores).
pub(crate) fn load(
    library: &Path,
    artifact: &Path,
    settings: &BTreeMap<String, String>,
    slots: usize,
) -> Result<Loaded, LoadError> {
    let threads = threads(settings)?;
    let model = model_file(artifact);
    let environment = ort::init_from(library)
        .map_err(|error| {
            LoadError(format!(
                "loading ONNX Runtime from {}: {error}; --onnxruntime takes the library's full \
                 versioned path",
                library.display()
            ))
        })?
        .with_name("sluice")
        .with_telemetry(false)
        .build()
        .map_err(|error| LoadError(format!("starting ONNX Runtime: {error}")))?;
    // What fails comes back as an error and is logged by whoever asked, in the form that the user
    // chose; the library would write it to stderr in its own.
    environment.set_log_level(LogLevel::Fatal);
    let sessions: Vec<Session> = (0..slots)
        .map(|_| session(&environment, &model, threads))
        .collect::<Result<_, String>>()
        .map_err(|error| LoadError(format!("loading {}: {error}", model.display())))?;
    let spec = sessions
        .first()
        .map(spec)
        .ok_or_else(|| LoadError("no slots".to_owned()))??;
    let engines = sessions
        .into_iter()
        .map(|session| -> Box<dyn Engine> { Box::new(Onnx { session }) });
    Ok(Loaded {
        engines: engines.collect(),
        spec,
        sim: None,
    })
}

fn threads(settings: &BTreeMap<String, String>) -> Result<usize, LoadError> {
    let mut threads = 1;
    for (key, value) in settings {
        let wrong = |why: &str| LoadError(format!("{key}={value}: {why}"));
        match key.as_str() {
            "intraThreads" => threads = value.parse().map_err(|_| wrong("not a whole number"))?,
            _ => return Err(wrong("engine onnx has no such setting")),
        }
    }
    Ok(threads)
}

/// The model inside a folder, which may be in Triton's layout.
fn model_file(artifact: &Path) -> PathBuf {
    let inside = ["model.onnx", "1/model.onnx"].map(|name| artifact.join(name));
    inside
        .into_iter()
        .find(|path| path.is_file())
        .unwrap_or_else(|| artifact.to_owned())
}

fn session(
    environment: &ort::environment::Environment,
    model: &Path,
    threads: usize,
) -> Result<Session, String> {
    Session::builder(environment)
        .map_err(|error| error.to_string())?
        .with_optimization_level(GraphOptimizationLevel::All)
        .map_err(|error| error.to_string())?
        .with_intra_threads(threads)
        .map_err(|error| error.to_string())?
        .commit_from_file(model)
        .map_err(|error| error.to_string())
}

fn spec(session: &Session) -> Result<ModelSpec, LoadError> {
    Ok(ModelSpec {
        platform: "onnxruntime_onnx",
        inputs: session
            .inputs()
            .iter()
            .map(tensor_spec)
            .collect::<Result<_, _>>()?,
        outputs: session
            .outputs()
            .iter()
            .map(tensor_spec)
            .collect::<Result<_, _>>()?,
    })
}

fn tensor_spec(outlet: &Outlet) -> Result<TensorSpec, LoadError> {
    let (name, dtype) = (outlet.name(), outlet.dtype());
    let (Some(kind), Some(shape)) = (dtype.tensor_type(), dtype.tensor_shape()) else {
        return Err(LoadError(format!(
            "{name:?} is not a tensor but {dtype:?}; export the model with tensors only (skl2onnx: \
             zipmap=False)"
        )));
    };
    let datatype = datatype(kind).ok_or_else(|| {
        LoadError(format!(
            "{name:?} is of type {kind}, which the protocol does not have"
        ))
    })?;
    Ok(TensorSpec {
        name: name.to_owned(),
        datatype,
        shape: shape.to_vec(),
    })
}

fn datatype(kind: TensorElementType) -> Option<Datatype> {
    TYPES
        .iter()
        .find(|(ours, _)| *ours == kind)
        .map(|(_, datatype)| *datatype)
}

#[derive(Debug)]
struct Onnx {
    session: Session,
}

impl Engine for Onnx {
    fn infer(&mut self, inputs: Vec<Tensor>) -> Result<Vec<Tensor>, InferError> {
        let inputs = inputs
            .into_iter()
            .map(|input| {
                let name = Cow::Owned(input.name.clone());
                let value = into_value(input)
                    .map_err(|error| InferError::BadInput(format!("input {name:?}: {error}")))?;
                Ok((name, SessionInputValue::Owned(value)))
            })
            .collect::<Result<Vec<(Cow<'_, str>, SessionInputValue<'_>)>, InferError>>()?;
        let outputs = self.session.run(inputs).map_err(|error| failed(&error))?;
        outputs
            .iter()
            .map(|(name, value)| from_value(name, &value).map_err(|error| failed(&error)))
            .collect()
    }
}

fn failed(error: &ort::Error) -> InferError {
    InferError::Failed(error.to_string())
}

fn into_value(tensor: Tensor) -> ort::Result<DynValue> {
    let shape = tensor.shape;
    Ok(match tensor.data {
        Data::Bool(values) => OrtTensor::from_array((shape, values))?.into_dyn(),
        Data::Uint8(values) => OrtTensor::from_array((shape, values))?.into_dyn(),
        Data::Uint16(values) => OrtTensor::from_array((shape, values))?.into_dyn(),
        Data::Uint32(values) => OrtTensor::from_array((shape, values))?.into_dyn(),
        Data::Uint64(values) => OrtTensor::from_array((shape, values))?.into_dyn(),
        Data::Int8(values) => OrtTensor::from_array((shape, values))?.into_dyn(),
        Data::Int16(values) => OrtTensor::from_array((shape, values))?.into_dyn(),
        Data::Int32(values) => OrtTensor::from_array((shape, values))?.into_dyn(),
        Data::Int64(values) => OrtTensor::from_array((shape, values))?.into_dyn(),
        Data::Fp16(values) => OrtTensor::from_array((shape, values))?.into_dyn(),
        Data::Fp32(values) => OrtTensor::from_array((shape, values))?.into_dyn(),
        Data::Fp64(values) => OrtTensor::from_array((shape, values))?.into_dyn(),
        Data::Bytes(values) => OrtTensor::from_string_array((shape, values.as_slice()))?.into_dyn(),
    })
}

fn from_value(name: &str, value: &DynValue) -> ort::Result<Tensor> {
    let kind = value.dtype().tensor_type().and_then(datatype);
    let shape = value
        .dtype()
        .tensor_shape()
        .map(|shape| shape.to_vec())
        .unwrap_or_default();
    let shape = shape
        .into_iter()
        .map(|size| usize::try_from(size).unwrap_or(0))
        .collect();
    let data = match kind {
        Some(Datatype::Bool) => Data::Bool(value.try_extract_tensor()?.1.to_vec()),
        Some(Datatype::Uint8) => Data::Uint8(value.try_extract_tensor()?.1.to_vec()),
        Some(Datatype::Uint16) => Data::Uint16(value.try_extract_tensor()?.1.to_vec()),
        Some(Datatype::Uint32) => Data::Uint32(value.try_extract_tensor()?.1.to_vec()),
        Some(Datatype::Uint64) => Data::Uint64(value.try_extract_tensor()?.1.to_vec()),
        Some(Datatype::Int8) => Data::Int8(value.try_extract_tensor()?.1.to_vec()),
        Some(Datatype::Int16) => Data::Int16(value.try_extract_tensor()?.1.to_vec()),
        Some(Datatype::Int32) => Data::Int32(value.try_extract_tensor()?.1.to_vec()),
        Some(Datatype::Int64) => Data::Int64(value.try_extract_tensor()?.1.to_vec()),
        Some(Datatype::Fp16) => Data::Fp16(value.try_extract_tensor()?.1.to_vec()),
        Some(Datatype::Fp32) => Data::Fp32(value.try_extract_tensor()?.1.to_vec()),
        Some(Datatype::Fp64) => Data::Fp64(value.try_extract_tensor()?.1.to_vec()),
        Some(Datatype::Bytes) => Data::Bytes(value.try_extract_strings()?.1),
        None => {
            return Err(ort::Error::new(format!(
                "output {name:?} has no type we know"
            )));
        }
    };
    Ok(Tensor {
        name: name.to_owned(),
        shape,
        data,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_library_is_an_error_that_names_it() {
        let nowhere = Path::new("/nonexistent/libonnxruntime.so.0");
        let error = load(nowhere, Path::new("/m.onnx"), &BTreeMap::new(), 1).unwrap_err();
        assert!(
            error.0.contains("/nonexistent/libonnxruntime.so.0"),
            "{error}"
        );
    }

    #[test]
    fn unknown_settings_are_refused() {
        let settings = BTreeMap::from([("delay".to_owned(), "1s".to_owned())]);
        assert!(threads(&settings).unwrap_err().0.contains("delay"));
    }
}
