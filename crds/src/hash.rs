//! The name of a revision: a hash of `model` and `runtime` as the user wrote them.

use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use crate::contract::hex;

/// Version of the hash, part of every revision's name. A release that must hash in another way
/// raises it and goes on understanding the old ones, so that an upgrade re-rolls nothing.
pub const HASH_VERSION: u32 = 1;

/// Hex digits of the hash in a revision's name: 40 bits, which keep names short; two specs of one
/// object meet by chance once in a million objects with a thousand revisions each.
const DIGITS: usize = 10;

/// Name of the revision of the ModelDeployment `name` with this `model` and `runtime`, which are
/// the raw JSON of the spec.
///
/// The hash is sha256 over the canonical JSON (RFC 8785) of both, with `null`, empty lists and
/// empty objects dropped: writing `args: []` means what leaving it out means.
pub fn revision_name(name: &str, model: &Value, runtime: &Value) -> String {
    let document = serde_json::json!({ "model": pruned(model), "runtime": pruned(runtime) });
    let bytes = serde_json_canonicalizer::to_vec(&document).unwrap_or_default();
    let digest = hex(&Sha256::digest(bytes));
    let short: String = digest.chars().take(DIGITS).collect();
    format!("{name}-{HASH_VERSION}-{short}")
}

/// The value without `null`, empty lists and empty objects, all the way down.
fn pruned(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let kept = fields
                .iter()
                .map(|(key, value)| (key.clone(), pruned(value)));
            Value::Object(
                kept.filter(|(_, value)| !is_empty(value))
                    .collect::<Map<_, _>>(),
            )
        }
        Value::Array(items) => Value::Array(items.iter().map(pruned).collect()),
        other @ (Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_)) => {
            other.clone()
        }
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn order_and_emptiness_do_not_change_a_revision() {
        let model = json!({"format": "InImage"});
        let a = json!({"engine": "sim", "args": [], "template": {"spec": {}}});
        let b = json!({"engine": "sim"});
        assert_eq!(
            revision_name("m", &model, &a),
            revision_name("m", &model, &b)
        );
    }

    #[test]
    fn what_the_user_wrote_changes_a_revision() {
        let model = json!({"format": "InImage"});
        let a = json!({"engine": "sim", "args": ["x", "y"]});
        let b = json!({"engine": "sim", "args": ["y", "x"]});
        assert_ne!(
            revision_name("m", &model, &a),
            revision_name("m", &model, &b)
        );
    }
}
