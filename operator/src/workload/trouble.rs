//! Why pods do not come, where the cluster says.

use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{ContainerStatus, Pod},
};

use crate::error::brief;

/// Reasons of a waiting container that do not go by themselves.
const BAD_REASONS: [&str; 7] = [
    "CrashLoopBackOff",
    "ImagePullBackOff",
    "ErrImagePull",
    "InvalidImageName",
    "CreateContainerConfigError",
    "CreateContainerError",
    "RunContainerError",
];

/// Why the pods of a revision do not come; the nearest cause first.
pub fn trouble(deployment: &Deployment, pods: &[&Pod]) -> Option<String> {
    pods.iter()
        .find_map(|pod| of_pod(pod))
        .or_else(|| of_deployment(deployment))
        .map(|trouble| brief(&trouble))
}

fn of_deployment(deployment: &Deployment) -> Option<String> {
    let conditions = deployment.status.as_ref()?.conditions.as_ref()?;
    let bad = |type_: &str, status: &str| {
        conditions
            .iter()
            .find(|condition| condition.type_ == type_ && condition.status == status)
    };
    let condition = bad("ReplicaFailure", "True").or_else(|| bad("Progressing", "False"))?;
    condition
        .message
        .clone()
        .or_else(|| condition.reason.clone())
}

fn of_pod(pod: &Pod) -> Option<String> {
    let status = pod.status.as_ref()?;
    let all = [&status.init_container_statuses, &status.container_statuses];
    let containers = all.into_iter().flatten().flatten();
    containers.into_iter().find_map(of_container).or_else(|| {
        let conditions = status.conditions.as_ref()?;
        let unscheduled = conditions
            .iter()
            .find(|condition| condition.type_ == "PodScheduled" && condition.status == "False")?;
        let message = unscheduled
            .message
            .as_deref()
            .unwrap_or("no node is found for the pod");
        Some(format!("Unschedulable: {message}"))
    })
}

fn of_container(container: &ContainerStatus) -> Option<String> {
    let waiting = container.state.as_ref()?.waiting.as_ref()?;
    let reason = waiting
        .reason
        .as_deref()
        .filter(|reason| BAD_REASONS.contains(reason))?;
    let last = container
        .last_state
        .as_ref()
        .and_then(|last| last.terminated.as_ref());
    let why = last
        .and_then(|last| {
            last.message
                .clone()
                .or_else(|| Some(format!("exit code {}", last.exit_code)))
        })
        .or_else(|| waiting.message.clone());
    Some(match why {
        Some(why) => format!("container {}: {reason}: {why}", container.name),
        None => format!("container {}: {reason}", container.name),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn of(deployment: &Value, pod: &Value) -> Option<String> {
        let deployment =
            serde_json::from_value(json!({"metadata": {}, "status": deployment})).unwrap();
        let pod: Pod = serde_json::from_value(json!({"metadata": {}, "status": pod})).unwrap();
        trouble(&deployment, &[&pod])
    }

    #[test]
    fn pods_that_are_on_their_way_are_no_trouble() {
        let starting = json!({"containerStatuses": [{
            "name": "model", "image": "", "imageID": "", "ready": false, "restartCount": 0,
            "state": {"waiting": {"reason": "ContainerCreating"}},
        }]});
        assert_eq!(of(&json!({}), &starting), None);
    }

    #[test]
    fn a_crash_tells_how_it_ended() {
        let crashed = json!({"containerStatuses": [{
            "name": "model", "image": "", "imageID": "", "ready": false, "restartCount": 3,
            "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 40s"}},
            "lastState": {"terminated": {"exitCode": 137}},
        }]});
        let expected = "container model: CrashLoopBackOff: exit code 137";
        assert_eq!(of(&json!({}), &crashed).as_deref(), Some(expected));
    }

    #[test]
    fn no_room_and_no_quota_are_told() {
        let waiting = json!({"conditions": [
            {"type": "PodScheduled", "status": "False", "message": "0/1 nodes: Insufficient cpu"},
        ]});
        let expected = "Unschedulable: 0/1 nodes: Insufficient cpu";
        assert_eq!(of(&json!({}), &waiting).as_deref(), Some(expected));
        let refused = json!({"conditions": [
            {"type": "ReplicaFailure", "status": "True", "message": "exceeded quota"},
        ]});
        assert_eq!(of(&refused, &json!({})).as_deref(), Some("exceeded quota"));
    }
}
