//! The pods of each revision.

use std::collections::{BTreeMap, BTreeSet};

use crds::contract;
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{Pod, Service},
};
use rollout::observation::SeenTrack;

use super::Problems;
use crate::workload::trouble;

/// The tracks that there are, by revision.
pub(super) fn tracks(
    problems: &mut Problems,
    deployments: Result<Vec<Deployment>, kube::Error>,
    services: Result<Vec<Service>, kube::Error>,
    pods: Result<Vec<Pod>, kube::Error>,
) -> BTreeMap<String, SeenTrack> {
    let deployments = problems
        .note("Deployments", deployments)
        .unwrap_or_default();
    // Unknown counts as there: nothing that may be whole is repaired.
    let services: Option<BTreeSet<String>> = problems
        .note("Services", services)
        .map(|services| services.iter().filter_map(named).collect());
    let pods = super::aside("Pods", pods).unwrap_or_default();
    let has_service = |name: &str| {
        services
            .as_ref()
            .is_none_or(|services| services.contains(name))
    };
    deployments
        .iter()
        .filter(|deployment| deployment.metadata.deletion_timestamp.is_none())
        .filter_map(|deployment| {
            let name = named(deployment)?;
            let complete = has_service(&name);
            let own = pods
                .iter()
                .filter(|pod| revision(*pod).as_ref() == Some(&name));
            let own: Vec<&Pod> = own.collect();
            Some((name.clone(), track(deployment, &own, complete)))
        })
        .collect()
}

/// The revision of a pod.
fn revision<K: kube::ResourceExt>(object: &K) -> Option<String> {
    object.labels().get(contract::LABEL_REVISION).cloned()
}

/// The revision that a Deployment or Service is for. It has its name: whose label says another one
/// than its name leads to an object that nobody meant.
fn named<K: kube::ResourceExt>(object: &K) -> Option<String> {
    revision(object).filter(|revision| *revision == object.name_any())
}

fn track(deployment: &Deployment, pods: &[&Pod], complete: bool) -> SeenTrack {
    let count = |count: Option<i32>| count.and_then(|count| u32::try_from(count).ok());
    let replicas = count(deployment.spec.as_ref().and_then(|spec| spec.replicas)).unwrap_or(1);
    let status = deployment.status.as_ref();
    let ready = count(status.and_then(|status| status.ready_replicas)).unwrap_or(0);
    let trouble = if ready < replicas {
        trouble::trouble(deployment, pods)
    } else {
        None
    };
    SeenTrack {
        replicas,
        ready,
        complete,
        trouble,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn deployment() -> Deployment {
        serde_json::from_value(json!({
            "metadata": {"name": "digits-1-a", "labels": {"sluice.dev/revision": "digits-1-a"}},
            "spec": {"replicas": 3, "selector": {}, "template": {}},
            "status": {"readyReplicas": 2},
        }))
        .unwrap()
    }

    fn service() -> Service {
        let labels = json!({"sluice.dev/revision": "digits-1-a"});
        serde_json::from_value(json!({"metadata": {"name": "digits-1-a", "labels": labels}}))
            .unwrap()
    }

    #[test]
    fn a_deployment_under_another_name_is_no_track() {
        let mut problems = Problems::default();
        let mut other = deployment();
        other.metadata.name = Some("web".to_owned());
        let tracks = tracks(&mut problems, Ok(vec![other]), Ok(vec![]), Ok(vec![]));
        assert!(tracks.is_empty(), "{tracks:?}");
    }

    #[test]
    fn a_track_is_complete_with_its_service() {
        let mut problems = Problems::default();
        let seen = |problems: &mut Problems, services| {
            tracks(problems, Ok(vec![deployment()]), services, Ok(vec![]))
        };
        let whole = SeenTrack {
            replicas: 3,
            ready: 2,
            complete: true,
            trouble: None,
        };
        let expected = BTreeMap::from([("digits-1-a".to_owned(), whole.clone())]);
        assert_eq!(seen(&mut problems, Ok(vec![service()])), expected);
        let partial = BTreeMap::from([(
            "digits-1-a".to_owned(),
            SeenTrack {
                complete: false,
                ..whole
            },
        )]);
        assert_eq!(seen(&mut problems, Ok(vec![])), partial);
        assert!(problems.0.is_empty());
        let refused = Err(kube::Error::LinesCodecMaxLineLengthExceeded);
        assert_eq!(seen(&mut problems, refused), expected);
        assert_eq!(problems.0.len(), 1);
    }
}
