//! Tensors as the protocols carry them, and what a model says about its own.

use half::f16;
use serde::{Serialize, Serializer};

/// Element type, under the names of the Open Inference Protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub(crate) enum Datatype {
    Bool,
    Uint8,
    Uint16,
    Uint32,
    Uint64,
    Int8,
    Int16,
    Int32,
    Int64,
    Fp16,
    Fp32,
    Fp64,
    Bytes,
}

impl Datatype {
    const ALL: [(Self, &'static str); 13] = [
        (Self::Bool, "BOOL"),
        (Self::Uint8, "UINT8"),
        (Self::Uint16, "UINT16"),
        (Self::Uint32, "UINT32"),
        (Self::Uint64, "UINT64"),
        (Self::Int8, "INT8"),
        (Self::Int16, "INT16"),
        (Self::Int32, "INT32"),
        (Self::Int64, "INT64"),
        (Self::Fp16, "FP16"),
        (Self::Fp32, "FP32"),
        (Self::Fp64, "FP64"),
        (Self::Bytes, "BYTES"),
    ];

    /// The type of that name.
    pub(crate) fn from_name(name: &str) -> Option<Self> {
        Self::ALL
            .iter()
            .find(|(_, known)| *known == name)
            .map(|(datatype, _)| *datatype)
    }

    /// The name in the protocol.
    pub(crate) fn name(self) -> &'static str {
        Self::ALL
            .iter()
            .find(|(known, _)| *known == self)
            .map_or("", |(_, name)| name)
    }
}

/// The elements of a tensor in row-major order. `Bytes` holds text: JSON carries nothing else.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Data {
    Bool(Vec<bool>),
    Uint8(Vec<u8>),
    Uint16(Vec<u16>),
    Uint32(Vec<u32>),
    Uint64(Vec<u64>),
    Int8(Vec<i8>),
    Int16(Vec<i16>),
    Int32(Vec<i32>),
    Int64(Vec<i64>),
    Fp16(Vec<f16>),
    Fp32(Vec<f32>),
    Fp64(Vec<f64>),
    Bytes(Vec<String>),
}

impl Data {
    /// As many zeros (empty texts, false) as asked for.
    pub(crate) fn zeros(datatype: Datatype, count: usize) -> Self {
        match datatype {
            Datatype::Bool => Self::Bool(vec![false; count]),
            Datatype::Uint8 => Self::Uint8(vec![0; count]),
            Datatype::Uint16 => Self::Uint16(vec![0; count]),
            Datatype::Uint32 => Self::Uint32(vec![0; count]),
            Datatype::Uint64 => Self::Uint64(vec![0; count]),
            Datatype::Int8 => Self::Int8(vec![0; count]),
            Datatype::Int16 => Self::Int16(vec![0; count]),
            Datatype::Int32 => Self::Int32(vec![0; count]),
            Datatype::Int64 => Self::Int64(vec![0; count]),
            Datatype::Fp16 => Self::Fp16(vec![f16::ZERO; count]),
            Datatype::Fp32 => Self::Fp32(vec![0.0; count]),
            Datatype::Fp64 => Self::Fp64(vec![0.0; count]),
            Datatype::Bytes => Self::Bytes(vec![String::new(); count]),
        }
    }

    /// The type of the elements.
    pub(crate) fn datatype(&self) -> Datatype {
        match self {
            Self::Bool(_) => Datatype::Bool,
            Self::Uint8(_) => Datatype::Uint8,
            Self::Uint16(_) => Datatype::Uint16,
            Self::Uint32(_) => Datatype::Uint32,
            Self::Uint64(_) => Datatype::Uint64,
            Self::Int8(_) => Datatype::Int8,
            Self::Int16(_) => Datatype::Int16,
            Self::Int32(_) => Datatype::Int32,
            Self::Int64(_) => Datatype::Int64,
            Self::Fp16(_) => Datatype::Fp16,
            Self::Fp32(_) => Datatype::Fp32,
            Self::Fp64(_) => Datatype::Fp64,
            Self::Bytes(_) => Datatype::Bytes,
        }
    }

    /// Whether JSON can carry every element: it has no NaN and no infinity.
    pub(crate) fn is_finite(&self) -> bool {
        match self {
            Self::Fp16(values) => values.iter().all(|value| value.is_finite()),
            Self::Fp32(values) => values.iter().all(|value| value.is_finite()),
            Self::Fp64(values) => values.iter().all(|value| value.is_finite()),
            Self::Bool(_)
            | Self::Uint8(_)
            | Self::Uint16(_)
            | Self::Uint32(_)
            | Self::Uint64(_)
            | Self::Int8(_)
            | Self::Int16(_)
            | Self::Int32(_)
            | Self::Int64(_)
            | Self::Bytes(_) => true,
        }
    }
}

impl Serialize for Data {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Fp16(values) => serializer.collect_seq(values.iter().map(|value| value.to_f32())),
            Self::Bool(values) => values.serialize(serializer),
            Self::Uint8(values) => values.serialize(serializer),
            Self::Uint16(values) => values.serialize(serializer),
            Self::Uint32(values) => values.serialize(serializer),
            Self::Uint64(values) => values.serialize(serializer),
            Self::Int8(values) => values.serialize(serializer),
            Self::Int16(values) => values.serialize(serializer),
            Self::Int32(values) => values.serialize(serializer),
            Self::Int64(values) => values.serialize(serializer),
            Self::Fp32(values) => values.serialize(serializer),
            Self::Fp64(values) => values.serialize(serializer),
            Self::Bytes(values) => values.serialize(serializer),
        }
    }
}

/// A named tensor.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Tensor {
    /// The name of the model's input or output.
    pub(crate) name: String,
    /// The size of each dimension.
    pub(crate) shape: Vec<usize>,
    /// As many elements as the shape says.
    pub(crate) data: Data,
}

/// What a model says about one of its inputs or outputs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct TensorSpec {
    /// The name.
    pub(crate) name: String,
    /// The type of the elements.
    pub(crate) datatype: Datatype,
    /// The size of each dimension; -1 where the request chooses it.
    pub(crate) shape: Vec<i64>,
}

impl TensorSpec {
    /// Whether a tensor of that shape may be given here.
    pub(crate) fn admits(&self, shape: &[usize]) -> bool {
        self.shape.len() == shape.len()
            && self
                .shape
                .iter()
                .zip(shape)
                .all(|(want, got)| *want < 0 || usize::try_from(*want) == Ok(*got))
    }

    /// Zeros of this shape, with `batch` for a first dimension that the request chooses and 1 for
    /// the others; none where the shape is too large to count.
    pub(crate) fn zeros(&self, batch: usize) -> Option<Tensor> {
        let size = |(index, want): (usize, &i64)| match usize::try_from(*want) {
            Ok(fixed) => fixed,
            Err(_) if index == 0 => batch,
            Err(_) => 1,
        };
        let shape: Vec<usize> = self.shape.iter().enumerate().map(size).collect();
        let count = element_count(&shape)?;
        Some(Tensor {
            name: self.name.clone(),
            shape,
            data: Data::zeros(self.datatype, count),
        })
    }
}

/// What a model takes and gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ModelSpec {
    /// The platform's name in the protocol.
    pub(crate) platform: &'static str,
    /// What it takes; every input is needed.
    pub(crate) inputs: Vec<TensorSpec>,
    /// What it gives.
    pub(crate) outputs: Vec<TensorSpec>,
}

/// The product of the dimensions, unless it overflows.
pub(crate) fn element_count(shape: &[usize]) -> Option<usize> {
    shape
        .iter()
        .try_fold(1_usize, |product, size| product.checked_mul(*size))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(shape: &[i64]) -> TensorSpec {
        TensorSpec {
            name: "x".to_owned(),
            datatype: Datatype::Fp32,
            shape: shape.to_vec(),
        }
    }

    #[test]
    fn a_free_dimension_admits_any_size_and_a_fixed_one_only_its_own() {
        assert!(spec(&[-1, 64]).admits(&[7, 64]));
        assert!(!spec(&[-1, 64]).admits(&[7, 63]));
        assert!(!spec(&[-1, 64]).admits(&[64]));
    }

    #[test]
    fn zeros_have_the_batch_in_front_only() {
        let zeros = spec(&[-1, 3, -1]).zeros(4).unwrap();
        assert_eq!(zeros.shape, [4, 3, 1]);
        assert_eq!(zeros.data, Data::Fp32(vec![0.0; 12]));
    }

    #[test]
    fn zeros_of_an_uncountable_shape_are_none() {
        assert_eq!(spec(&[i64::MAX, i64::MAX]).zeros(1), None);
    }

    #[test]
    fn every_name_leads_back_to_its_type() {
        for (datatype, name) in Datatype::ALL {
            assert_eq!(Datatype::from_name(name), Some(datatype));
            assert_eq!(datatype.name(), name);
            assert_eq!(Data::zeros(datatype, 2).datatype(), datatype);
        }
        assert_eq!(Datatype::from_name("fp32"), None);
    }
}
