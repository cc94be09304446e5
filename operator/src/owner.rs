//! The `ModelDeployment` that everything Sluice makes belongs to.

use std::collections::BTreeMap;

use crds::{ModelDeployment, contract};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::{Resource as _, ResourceExt as _};

/// The `ModelDeployment` that an object belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Its namespace, and that of all its objects.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
}

impl Owner {
    /// The owner's names.
    pub fn of(deployment: &ModelDeployment) -> Self {
        Self {
            namespace: deployment.namespace().unwrap_or_default(),
            name: deployment.name_any(),
            uid: deployment.uid().unwrap_or_default(),
        }
    }

    /// Selector of everything that belongs to it.
    pub fn selector(&self) -> String {
        format!("{}={}", contract::LABEL_MODEL_DEPLOYMENT, self.name)
    }

    /// Labels of everything that belongs to it.
    pub fn labels(&self) -> BTreeMap<String, String> {
        BTreeMap::from([
            (
                contract::LABEL_MANAGED_BY.to_owned(),
                contract::MANAGED_BY.to_owned(),
            ),
            (
                contract::LABEL_MODEL_DEPLOYMENT.to_owned(),
                self.name.clone(),
            ),
        ])
    }

    /// Labels of what belongs to one of its revisions.
    pub fn revision_labels(&self, revision: &str) -> BTreeMap<String, String> {
        let mut labels = self.labels();
        labels.insert(contract::LABEL_REVISION.to_owned(), revision.to_owned());
        labels
    }

    /// The reference by which the cluster removes an object together with its owner.
    pub fn reference(&self) -> OwnerReference {
        OwnerReference {
            api_version: ModelDeployment::api_version(&()).into_owned(),
            kind: ModelDeployment::kind(&()).into_owned(),
            name: self.name.clone(),
            uid: self.uid.clone(),
            controller: Some(true),
            block_owner_deletion: None,
        }
    }

    /// Whether an object is ours to change and to remove: its controller is the owner, or it has none
    /// and our labels, as after a deletion that left it behind. Labels alone make nobody's object ours.
    pub fn owns(&self, object: &ObjectMeta) -> bool {
        let mut references = object.owner_references.iter().flatten();
        if let Some(controller) = references.find(|reference| reference.controller == Some(true)) {
            return controller.uid == self.uid;
        }
        let labels = object.labels.as_ref();
        let has = |(key, value)| labels.and_then(|labels| labels.get(key)) == Some(value);
        self.labels().iter().all(has)
    }

    /// Metadata of an object that belongs to it.
    pub fn metadata(&self, name: &str, labels: BTreeMap<String, String>) -> ObjectMeta {
        ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some(self.namespace.clone()),
            labels: Some(labels),
            owner_references: Some(vec![self.reference()]),
            ..ObjectMeta::default()
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    #[test]
    fn an_object_belongs_to_its_controller_and_else_to_its_labels() {
        let ours = owner().metadata("x", owner().labels());
        assert!(owner().owns(&ours));
        let left_behind = ObjectMeta {
            owner_references: None,
            ..ours.clone()
        };
        assert!(owner().owns(&left_behind));
        let unlabelled = ObjectMeta {
            labels: None,
            ..left_behind
        };
        assert!(!owner().owns(&unlabelled));
        let made_anew = Owner {
            uid: "u-2".to_owned(),
            ..owner()
        };
        assert!(!made_anew.owns(&ours));
    }

    pub(crate) fn owner() -> Owner {
        Owner {
            namespace: "ml".to_owned(),
            name: "digits".to_owned(),
            uid: "u-1".to_owned(),
        }
    }
}
