//! From a request's JSON to tensors that fit the model.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::elements;
use crate::tensor::{Datatype, ModelSpec, Tensor, TensorSpec, element_count};

#[derive(Deserialize)]
struct Wire<'a> {
    id: Option<String>,
    #[serde(borrow)]
    inputs: Vec<WireInput<'a>>,
    #[serde(default)]
    outputs: Vec<WireOutput>,
}

#[derive(Deserialize)]
struct WireInput<'a> {
    name: String,
    shape: Vec<u64>,
    datatype: String,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct WireOutput {
    name: String,
}

/// A request that fits the model.
#[derive(Debug, PartialEq)]
pub(super) struct Decoded {
    /// Given back with the answer.
    pub(super) id: Option<String>,
    /// In the model's order.
    pub(super) inputs: Vec<Tensor>,
    /// The outputs that are wanted; all where this is empty.
    pub(super) outputs: Vec<String>,
}

/// Reads a request; says what is wrong with it otherwise.
pub(super) fn decode(body: &[u8], spec: &ModelSpec) -> Result<Decoded, String> {
    let wire: Wire<'_> = serde_json::from_slice(body)
        .map_err(|error| format!("the body is not a valid inference request: {error}"))?;
    for input in &wire.inputs {
        if !spec.inputs.iter().any(|known| known.name == input.name) {
            return Err(format!(
                "unknown input {:?}; {}",
                input.name,
                names(&spec.inputs)
            ));
        }
    }
    let outputs: Vec<String> = wire.outputs.into_iter().map(|output| output.name).collect();
    for output in &outputs {
        if !spec.outputs.iter().any(|known| known.name == *output) {
            return Err(format!(
                "unknown output {output:?}; {}",
                names(&spec.outputs)
            ));
        }
    }
    let inputs = spec.inputs.iter().map(|known| {
        let mut given = wire.inputs.iter().filter(|input| input.name == known.name);
        match (given.next(), given.next()) {
            (Some(input), None) => {
                tensor(input, known).map_err(|why| format!("input {:?}: {why}", known.name))
            }
            (None, _) => Err(format!("input {:?} is missing", known.name)),
            (Some(_), Some(_)) => Err(format!("input {:?} is given twice", known.name)),
        }
    });
    Ok(Decoded {
        id: wire.id,
        inputs: inputs.collect::<Result<_, _>>()?,
        outputs,
    })
}

fn tensor(input: &WireInput<'_>, spec: &TensorSpec) -> Result<Tensor, String> {
    if Datatype::from_name(&input.datatype) != Some(spec.datatype) {
        return Err(format!(
            "expected datatype {}, got {:?}",
            spec.datatype.name(),
            input.datatype
        ));
    }
    let wrong = || format!("expected shape {:?}, got {:?}", spec.shape, input.shape);
    let shape: Vec<usize> = input
        .shape
        .iter()
        .map(|size| usize::try_from(*size))
        .collect::<Result<_, _>>()
        .map_err(|_| wrong())?;
    let count = element_count(&shape)
        .filter(|_| spec.admits(&shape))
        .ok_or_else(wrong)?;
    if count == 0 {
        return Err(format!("shape {shape:?} has no elements"));
    }
    let data = input
        .data
        .ok_or("data is missing; this server takes tensors as JSON, not as binary data")?;
    let data = elements::read(data.get(), spec.datatype, &shape, count)?;
    Ok(Tensor {
        name: spec.name.clone(),
        shape,
        data,
    })
}

fn names(specs: &[TensorSpec]) -> String {
    let names: Vec<String> = specs
        .iter()
        .map(|spec| format!("{:?}", spec.name))
        .collect();
    format!("the model has {}", names.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::Data;

    fn spec() -> ModelSpec {
        let tensor = |name: &str, datatype, shape: &[i64]| TensorSpec {
            name: name.to_owned(),
            datatype,
            shape: shape.to_vec(),
        };
        ModelSpec {
            platform: "test",
            inputs: vec![
                tensor("a", Datatype::Fp32, &[-1, 2]),
                tensor("b", Datatype::Int64, &[1]),
            ],
            outputs: vec![tensor("y", Datatype::Fp32, &[-1])],
        }
    }

    const B: &str = r#"{"name":"b","shape":[1],"datatype":"INT64","data":[7]}"#;

    fn with_a(a: &str) -> Result<Decoded, String> {
        decode(
            format!(r#"{{"id":"x","inputs":[{B},{a}]}}"#).as_bytes(),
            &spec(),
        )
    }

    #[test]
    fn inputs_come_in_the_models_order() {
        let a = r#"{"name":"a","shape":[1,2],"datatype":"FP32","data":[[1,2]]}"#;
        let decoded = with_a(a).unwrap();
        assert_eq!(decoded.id.as_deref(), Some("x"));
        assert_eq!(decoded.inputs[0].data, Data::Fp32(vec![1.0, 2.0]));
        assert_eq!(decoded.inputs[1].data, Data::Int64(vec![7]));
    }

    #[test]
    fn errors_name_the_input_and_what_was_expected() {
        for (wrong, says) in [
            (
                r#"{"name":"a","shape":[1,3],"datatype":"FP32","data":[1,2,3]}"#,
                "expected shape [-1, 2], got [1, 3]",
            ),
            (
                r#"{"name":"a","shape":[2],"datatype":"FP32","data":[1,2]}"#,
                "expected shape",
            ),
            (
                r#"{"name":"a","shape":[0,2],"datatype":"FP32","data":[]}"#,
                "no elements",
            ),
            (
                r#"{"name":"a","shape":[1,2],"datatype":"FP64","data":[1,2]}"#,
                "expected datatype FP32, got \"FP64\"",
            ),
            (
                r#"{"name":"a","shape":[1,2],"datatype":"FP32"}"#,
                "data is missing",
            ),
            (
                r#"{"name":"a","shape":[1,2],"datatype":"FP32","data":[1,1e300]}"#,
                "not a value of type FP32",
            ),
            (
                r#"{"name":"a","shape":[9223372036854775807,2],"datatype":"FP32","data":[1]}"#,
                "needs 18446744073709551614 values",
            ),
            (
                r#"{"name":"a","shape":[4611686018427387904,2],"datatype":"FP32","data":[1]}"#,
                "input \"a\"",
            ),
            (
                r#"{"name":"a","shape":[1,-2],"datatype":"FP32","data":[1]}"#,
                "not a valid inference request",
            ),
            (
                r#"{"name":"c","shape":[1,2],"datatype":"FP32","data":[1,2]}"#,
                "unknown input \"c\"; the model has \"a\", \"b\"",
            ),
            (B, "input \"a\" is missing"),
        ] {
            let error = with_a(wrong).unwrap_err();
            assert!(error.contains(says), "{wrong}: {error}");
        }
    }

    #[test]
    fn what_is_not_json_is_refused() {
        for wrong in [
            "",
            "{",
            "[]",
            "null",
            "{\"inputs\":[{\"name\":",
            "{\"inputs\":NaN}",
        ] {
            assert!(decode(wrong.as_bytes(), &spec()).is_err(), "{wrong:?}");
        }
        decode(&[0xff, 0xfe, 0], &spec()).unwrap_err();
    }
}
