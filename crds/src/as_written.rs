//! A part of a spec that is kept exactly as its author wrote it.

use std::{borrow::Cow, fmt, marker::PhantomData};

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;

/// Raw JSON that the schema of `T` describes.
///
/// The revision hash is over what the user wrote, so reading an object into types and writing it
/// back must not change a byte of its meaning, in a later release neither; and a value that this
/// release cannot read must not keep the rest of the object from being read.
pub struct AsWritten<T> {
    raw: Value,
    meaning: PhantomData<fn() -> T>,
}

impl<T> AsWritten<T> {
    /// The JSON as it was written.
    pub fn raw(&self) -> &Value {
        &self.raw
    }

    /// Takes JSON as it is.
    pub fn from_raw(raw: Value) -> Self {
        Self {
            raw,
            meaning: PhantomData,
        }
    }
}

impl<T: DeserializeOwned> AsWritten<T> {
    /// What it means to this release.
    pub fn read(&self) -> Result<T, serde_json::Error> {
        T::deserialize(&self.raw)
    }
}

impl<T: Serialize> AsWritten<T> {
    /// Writes a value; fields that are `None` are left out, as an author would.
    pub fn write(value: &T) -> Result<Self, serde_json::Error> {
        serde_json::to_value(value).map(Self::from_raw)
    }
}

impl<T> Clone for AsWritten<T> {
    fn clone(&self) -> Self {
        Self::from_raw(self.raw.clone())
    }
}

impl<T> fmt::Debug for AsWritten<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.raw.fmt(f)
    }
}

impl<T> PartialEq for AsWritten<T> {
    fn eq(&self, other: &Self) -> bool {
        self.raw == other.raw
    }
}

impl<T> Serialize for AsWritten<T> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.raw.serialize(serializer)
    }
}

impl<'de, T> Deserialize<'de> for AsWritten<T> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Value::deserialize(deserializer).map(Self::from_raw)
    }
}

impl<T: JsonSchema> JsonSchema for AsWritten<T> {
    fn schema_name() -> Cow<'static, str> {
        T::schema_name()
    }

    fn schema_id() -> Cow<'static, str> {
        T::schema_id()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        T::json_schema(generator)
    }

    fn inline_schema() -> bool {
        T::inline_schema()
    }
}
