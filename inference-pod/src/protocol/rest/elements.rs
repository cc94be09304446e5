//! The `data` of a JSON tensor, flat or nested, straight into a vector of its element type.

use std::fmt;

use half::f16;
use serde::de::{DeserializeSeed, Deserializer, Error, SeqAccess, Visitor};

use crate::tensor::{Data, Datatype};

/// Reads the elements of a tensor with this type and shape; says what is wrong otherwise.
pub(super) fn read(
    json: &str,
    datatype: Datatype,
    shape: &[usize],
    count: usize,
) -> Result<Data, String> {
    Ok(match datatype {
        Datatype::Bool => Data::Bool(typed(json, datatype, shape, count)?),
        Datatype::Uint8 => Data::Uint8(typed(json, datatype, shape, count)?),
        Datatype::Uint16 => Data::Uint16(typed(json, datatype, shape, count)?),
        Datatype::Uint32 => Data::Uint32(typed(json, datatype, shape, count)?),
        Datatype::Uint64 => Data::Uint64(typed(json, datatype, shape, count)?),
        Datatype::Int8 => Data::Int8(typed(json, datatype, shape, count)?),
        Datatype::Int16 => Data::Int16(typed(json, datatype, shape, count)?),
        Datatype::Int32 => Data::Int32(typed(json, datatype, shape, count)?),
        Datatype::Int64 => Data::Int64(typed(json, datatype, shape, count)?),
        Datatype::Fp16 => Data::Fp16(typed(json, datatype, shape, count)?),
        Datatype::Fp32 => Data::Fp32(typed(json, datatype, shape, count)?),
        Datatype::Fp64 => Data::Fp64(typed(json, datatype, shape, count)?),
        Datatype::Bytes => Data::Bytes(typed(json, datatype, shape, count)?),
    })
}

fn typed<T: Element>(
    json: &str,
    datatype: Datatype,
    shape: &[usize],
    count: usize,
) -> Result<Vec<T>, String> {
    // A body can not hold more elements than half its length: what a shape claims is no reason to
    // reserve memory.
    let room = count.min(json.len() / 2 + 1);
    let mut found = Found {
        values: Vec::with_capacity(room),
        sizes: Vec::new(),
        count,
        datatype,
    };
    let mut json = serde_json::Deserializer::from_str(json);
    let level = Level {
        found: &mut found,
        depth: 0,
    };
    level
        .deserialize(&mut json)
        .map_err(|error| plain(&error))?;
    let sizes: Vec<usize> = found.sizes.iter().map(|size| size.unwrap_or(0)).collect();
    if found.values.len() != count {
        let got = found.values.len();
        return Err(format!(
            "shape {shape:?} needs {count} values, data has {got}"
        ));
    }
    match sizes.as_slice() {
        [] | [_] => Ok(found.values),
        nested if nested == shape => Ok(found.values),
        _ if count == 0 => Ok(found.values),
        nested => Err(format!("data is nested as {nested:?}, shape is {shape:?}")),
    }
}

/// The message without the line and column, which are those inside `data`.
fn plain(error: &serde_json::Error) -> String {
    let text = error.to_string();
    text.split(" at line ").next().unwrap_or(&text).to_owned()
}

/// An element type that JSON can give.
trait Element: Sized {
    fn read(scalar: Scalar<'_>) -> Option<Self>;
}

enum Scalar<'a> {
    Bool(bool),
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Text(&'a str),
}

impl fmt::Display for Scalar<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bool(value) => write!(f, "{value}"),
            Self::Unsigned(value) => write!(f, "{value}"),
            Self::Signed(value) => write!(f, "{value}"),
            Self::Float(value) => write!(f, "{value}"),
            Self::Text(value) => write!(f, "{:?}", value.chars().take(40).collect::<String>()),
        }
    }
}

macro_rules! whole {
    ($($kind:ty),+) => {$(
        impl Element for $kind {
            fn read(scalar: Scalar<'_>) -> Option<Self> {
                match scalar {
                    Scalar::Unsigned(value) => value.try_into().ok(),
                    Scalar::Signed(value) => value.try_into().ok(),
                    Scalar::Bool(_) | Scalar::Float(_) | Scalar::Text(_) => None,
                }
            }
        }
    )+};
}
whole!(u8, u16, u32, u64, i8, i16, i32, i64);

impl Element for bool {
    fn read(scalar: Scalar<'_>) -> Option<Self> {
        match scalar {
            Scalar::Bool(value) => Some(value),
            Scalar::Unsigned(_) | Scalar::Signed(_) | Scalar::Float(_) | Scalar::Text(_) => None,
        }
    }
}

impl Element for String {
    fn read(scalar: Scalar<'_>) -> Option<Self> {
        match scalar {
            Scalar::Text(value) => Some(value.to_owned()),
            Scalar::Unsigned(_) | Scalar::Signed(_) | Scalar::Float(_) | Scalar::Bool(_) => None,
        }
    }
}

impl Element for f64 {
    #[expect(
        clippy::cast_precision_loss,
        clippy::as_conversions,
        reason = "a number in JSON is the nearest one that its type can hold"
    )]
    fn read(scalar: Scalar<'_>) -> Option<Self> {
        let value = match scalar {
            Scalar::Float(value) => value,
            Scalar::Unsigned(value) => value as Self,
            Scalar::Signed(value) => value as Self,
            Scalar::Bool(_) | Scalar::Text(_) => return None,
        };
        value.is_finite().then_some(value)
    }
}

impl Element for f32 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::as_conversions,
        reason = "a number in JSON is the nearest one that its type can hold"
    )]
    fn read(scalar: Scalar<'_>) -> Option<Self> {
        f64::read(scalar)
            .map(|value| value as Self)
            .filter(|value| value.is_finite())
    }
}

impl Element for f16 {
    fn read(scalar: Scalar<'_>) -> Option<Self> {
        f64::read(scalar)
            .map(Self::from_f64)
            .filter(|value| value.is_finite())
    }
}

/// What was read so far: the values, and the size of each level of nesting.
struct Found<T> {
    values: Vec<T>,
    sizes: Vec<Option<usize>>,
    count: usize,
    datatype: Datatype,
}

/// One level of nesting.
struct Level<'a, T> {
    found: &'a mut Found<T>,
    depth: usize,
}

impl<'de, T: Element> DeserializeSeed<'de> for Level<'_, T> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<T: Element> Level<'_, T> {
    fn scalar<E: Error>(self, scalar: Scalar<'_>) -> Result<(), E> {
        if self.depth == 0 {
            return Err(E::custom("data must be an array"));
        }
        if self.depth != self.found.sizes.len() {
            return Err(E::custom("data mixes values and arrays at one level"));
        }
        if self.found.values.len() == self.found.count {
            let count = self.found.count;
            return Err(E::custom(format!(
                "data has more than the {count} values of its shape"
            )));
        }
        let name = self.found.datatype.name();
        let said = scalar.to_string();
        let value = T::read(scalar)
            .ok_or_else(|| E::custom(format!("{said} is not a value of type {name}")))?;
        self.found.values.push(value);
        Ok(())
    }
}

impl<'de, T: Element> Visitor<'de> for Level<'_, T> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "values of type {}", self.found.datatype.name())
    }

    fn visit_bool<E: Error>(self, v: bool) -> Result<(), E> {
        self.scalar(Scalar::Bool(v))
    }

    fn visit_u64<E: Error>(self, v: u64) -> Result<(), E> {
        self.scalar(Scalar::Unsigned(v))
    }

    fn visit_i64<E: Error>(self, v: i64) -> Result<(), E> {
        self.scalar(Scalar::Signed(v))
    }

    fn visit_f64<E: Error>(self, v: f64) -> Result<(), E> {
        self.scalar(Scalar::Float(v))
    }

    fn visit_str<E: Error>(self, v: &str) -> Result<(), E> {
        self.scalar(Scalar::Text(v))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let depth = self.depth;
        if self.found.sizes.len() == depth {
            if !self.found.values.is_empty() {
                return Err(A::Error::custom(
                    "data mixes values and arrays at one level",
                ));
            }
            self.found.sizes.push(None);
        }
        let mut size = 0_usize;
        loop {
            let inside = Level {
                found: &mut *self.found,
                depth: depth.saturating_add(1),
            };
            if seq.next_element_seed(inside)?.is_none() {
                break;
            }
            size = size.saturating_add(1);
        }
        match self.found.sizes.get_mut(depth) {
            Some(Some(known)) if *known != size => Err(A::Error::custom(format!(
                "data is ragged: arrays of {known} and of {size} at one level"
            ))),
            Some(known) => {
                *known = Some(size);
                Ok(())
            }
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn floats(json: &str, shape: &[usize]) -> Result<Data, String> {
        read(json, Datatype::Fp32, shape, shape.iter().product())
    }

    #[test]
    fn flat_and_nested_data_are_the_same() {
        let want = Ok(Data::Fp32(vec![1.0, 2.0, 3.0, 4.5]));
        assert_eq!(floats("[1, 2, 3, 4.5]", &[2, 2]), want);
        assert_eq!(floats("[[1, 2], [3, 4.5]]", &[2, 2]), want);
    }

    #[test]
    fn wrong_nesting_is_refused() {
        for (wrong, says) in [
            ("[[1], [2, 3, 4]]", "ragged"),
            ("[1, [2, 3, 4]]", "mixes"),
            ("[[1, 2], 3, 4]", "mixes"),
            ("[[[1], [2]], [[3], [4]]]", "nested as [2, 2, 1]"),
            ("1", "must be an array"),
            ("[1, 2, 3]", "needs 4 values, data has 3"),
            ("[1, 2, 3, 4, 5]", "more than the 4 values"),
            ("[1, 2, 3, null]", "null"),
            ("[1, 2, 3, {}]", "map"),
        ] {
            let error = floats(wrong, &[2, 2]).unwrap_err();
            assert!(error.contains(says), "{wrong}: {error}");
        }
    }

    #[test]
    fn numbers_that_do_not_fit_are_refused() {
        for (kind, wrong) in [
            (Datatype::Fp32, "[1e39]"),
            (Datatype::Fp64, "[1e999]"),
            (Datatype::Fp16, "[70000]"),
            (Datatype::Uint8, "[256]"),
            (Datatype::Uint8, "[-1]"),
            (Datatype::Int8, "[-129]"),
            (Datatype::Int64, "[9223372036854775808]"),
            (Datatype::Int32, "[1.5]"),
            (Datatype::Bool, "[1]"),
            (Datatype::Bytes, "[1]"),
            (Datatype::Fp32, "[\"1\"]"),
            (Datatype::Fp32, "[true]"),
        ] {
            assert!(read(wrong, kind, &[1], 1).is_err(), "{kind:?} {wrong}");
        }
    }

    #[test]
    fn the_edges_of_every_type_fit() {
        let read_one = |kind, json: &str| read(json, kind, &[1], 1).unwrap();
        assert_eq!(
            read_one(Datatype::Uint64, "[18446744073709551615]"),
            Data::Uint64(vec![u64::MAX])
        );
        assert_eq!(
            read_one(Datatype::Int64, "[-9223372036854775808]"),
            Data::Int64(vec![i64::MIN])
        );
        assert_eq!(read_one(Datatype::Int8, "[-128]"), Data::Int8(vec![-128]));
        assert_eq!(read_one(Datatype::Bool, "[true]"), Data::Bool(vec![true]));
        assert_eq!(
            read_one(Datatype::Bytes, r#"["\u00e9\n"]"#),
            Data::Bytes(vec!["é\n".to_owned()])
        );
    }

    #[test]
    fn deep_nesting_ends_in_an_error() {
        let deep = "[".repeat(100_000);
        floats(&deep, &[1]).unwrap_err();
    }

    #[test]
    fn empty_tensors_may_be_nested_or_not() {
        assert_eq!(floats("[]", &[0, 4]), Ok(Data::Fp32(vec![])));
        assert_eq!(floats("[[], []]", &[2, 0]), Ok(Data::Fp32(vec![])));
    }
}
