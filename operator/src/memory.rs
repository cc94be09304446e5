//! What the operator remembers of each object between two looks. Nothing here decides where a
//! rollout stands: a restart forgets it all and only asks, waits or announces again.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use crds::ModelDeployment;
use kube::ResourceExt as _;
use rollout::{guardrail::Judgement, plan::Plan};
use tokio::time::Instant;

/// What is remembered of all objects.
#[derive(Debug, Default)]
pub struct Memory {
    entries: Mutex<BTreeMap<String, Entry>>,
}

/// What is remembered of one object.
#[derive(Clone, Debug, Default)]
pub struct Entry {
    uid: String,
    /// The run that `judgements` are about.
    pub run: String,
    /// The latest judgement of each guardrail: it is not asked again before its interval is over.
    pub judgements: BTreeMap<String, Judgement>,
    /// The frozen plan that was read last, by name. It never changes, so a failed read later is no
    /// reason to be without it.
    pub plan: Option<(String, Plan)>,
    /// The version of the route that every router was seen to serve.
    pub applied: Option<String>,
    /// The generation of the route that another implementation accepted, and since when.
    pub accepted: Option<(i64, Instant)>,
    /// The latest decision that was announced.
    pub announced: Option<i64>,
    /// Reconciles that failed since the last that did not.
    pub failures: u32,
}

impl Memory {
    /// Reads or changes what is remembered of an object. An object made anew under the same name is
    /// another object.
    pub fn with<T>(&self, object: &ModelDeployment, change: impl FnOnce(&mut Entry) -> T) -> T {
        let key = key(object);
        let uid = object.uid().unwrap_or_default();
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = entries.entry(key).or_default();
        if entry.uid != uid {
            *entry = Entry {
                uid,
                ..Entry::default()
            };
        }
        change(entry)
    }

    /// A reconcile did not fail. Of an object that is gone nothing is remembered for that.
    pub fn succeeded(&self, object: &ModelDeployment) {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = entries.get_mut(&key(object)) {
            entry.failures = 0;
        }
    }

    /// Forgets an object that is gone.
    pub fn forget(&self, object: &ModelDeployment) {
        let key = key(object);
        self.entries
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&key);
    }
}

fn key(object: &ModelDeployment) -> String {
    format!(
        "{}/{}",
        object.namespace().unwrap_or_default(),
        object.name_any()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_kept_of_what_is_gone() {
        let memory = Memory::default();
        let object: ModelDeployment = serde_json::from_value(serde_json::json!({
            "apiVersion": "sluice.dev/v1alpha1", "kind": "ModelDeployment",
            "metadata": {"name": "digits", "namespace": "ml", "uid": "u-1"},
            "spec": {"model": {"format": "InImage"}, "runtime": {"engine": "sim"}},
        }))
        .unwrap();
        memory.with(&object, |entry| entry.failures = 1);
        memory.forget(&object);
        memory.succeeded(&object);
        assert!(memory.entries.lock().unwrap().is_empty());
    }
}
