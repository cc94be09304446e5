//! The digits models behind an HTTP file server, in place of an object store.

use std::time::Duration;

use serde_json::json;

use crate::{cluster::Cluster, wait};

const NAME: &str = "example-models";
const READY_WITHIN: Duration = Duration::from_mins(1);

/// Serves the models at `http://example-models.NAMESPACE`.
pub async fn serve(cluster: &Cluster, namespace: &str) -> anyhow::Result<()> {
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": NAME},
        "spec": {"selector": {"app": NAME}, "ports": [{"port": 80, "targetPort": 8080}]},
    });
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": NAME},
        "spec": {
            "selector": {"matchLabels": {"app": NAME}},
            "template": {
                "metadata": {"labels": {"app": NAME}},
                "spec": {
                    "automountServiceAccountToken": false,
                    "terminationGracePeriodSeconds": 5,
                    "securityContext": {
                        "runAsNonRoot": true, "runAsUser": 65532,
                        "seccompProfile": {"type": "RuntimeDefault"},
                    },
                    "containers": [{
                        "name": NAME, "image": cluster.image(NAME), "imagePullPolicy": "IfNotPresent",
                        "ports": [{"containerPort": 8080}],
                        "readinessProbe": {"httpGet": {"path": "/healthz", "port": 8080}, "periodSeconds": 1},
                        "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}},
                        "securityContext": {
                            "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
                            "capabilities": {"drop": ["ALL"]},
                        },
                    }],
                },
            },
        },
    });
    cluster.apply(namespace, &service).await?;
    cluster.apply(namespace, &deployment).await?;
    wait::rolled_out(&cluster.client, namespace, NAME, READY_WITHIN).await
}
