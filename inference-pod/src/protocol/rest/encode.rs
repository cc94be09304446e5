//! From tensors to an answer's JSON.

use serde::Serialize;

use crate::app::App;
use crate::engine::InferError;
use crate::tensor::{Data, Datatype, Tensor};

#[derive(Serialize)]
struct Wire<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    model_name: &'a str,
    model_version: &'a str,
    outputs: Vec<WireOutput<'a>>,
}

#[derive(Serialize)]
struct WireOutput<'a> {
    name: &'a str,
    datatype: Datatype,
    shape: &'a [usize],
    data: &'a Data,
}

/// Writes the outputs that are wanted, in the order of the wish; all where there is none.
pub(super) fn encode(
    app: &App,
    id: Option<&str>,
    wanted: &[String],
    outputs: &[Tensor],
) -> Result<Vec<u8>, InferError> {
    let chosen: Vec<&Tensor> = if wanted.is_empty() {
        outputs.iter().collect()
    } else {
        wanted
            .iter()
            .filter_map(|name| outputs.iter().find(|o| o.name == *name))
            .collect()
    };
    if let Some(broken) = chosen.iter().find(|output| !output.data.is_finite()) {
        let name = &broken.name;
        let why = format!("output {name:?} has a NaN or an infinity, which JSON can not carry");
        return Err(InferError::Failed(why));
    }
    let wire = Wire {
        id,
        model_name: &app.model_name,
        model_version: &app.model_version,
        outputs: chosen.into_iter().map(wire_output).collect(),
    };
    serde_json::to_vec(&wire).map_err(|error| InferError::Failed(error.to_string()))
}

fn wire_output(tensor: &Tensor) -> WireOutput<'_> {
    WireOutput {
        name: &tensor.name,
        datatype: tensor.data.datatype(),
        shape: &tensor.shape,
        data: &tensor.data,
    }
}
