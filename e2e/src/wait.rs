//! Waiting for a condition, by watching, with a bound and a message that says what was seen last.

use std::{fmt::Debug, future::Future, time::Duration};

use anyhow::{Context as _, bail};
use k8s_openapi::api::{apps::v1::Deployment, core::v1::Pod};
use kube::{Api, Client, Resource, api::ListParams, runtime::wait::await_condition};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

/// How often something is looked at that cannot be watched.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Longest status that a message shows.
const STATUS_CHARACTERS_MAX: usize = 6000;

/// Waits until an object is as it should be; the last state is none if it does not exist.
pub async fn until<K>(
    api: &Api<K>,
    name: &str,
    what: &str,
    limit: Duration,
    condition: impl Fn(Option<&K>) -> bool + Sync,
) -> anyhow::Result<Option<K>>
where
    K: Clone + Debug + Send + DeserializeOwned + Serialize + Resource + 'static,
{
    let waiting = Box::pin(async {
        loop {
            // A watch may break; the condition is then looked at anew.
            match await_condition(api.clone(), name, |object: Option<&K>| condition(object)).await {
                Ok(object) => return object,
                Err(error) => tracing::debug!(%error, name, "watch again"),
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    });
    if let Ok(object) = tokio::time::timeout(limit, waiting).await {
        return Ok(object);
    }
    bail!(
        "waited {limit:?} for {what}; {}",
        Box::pin(last_seen(api, name)).await
    )
}

async fn last_seen<K>(api: &Api<K>, name: &str) -> String
where
    K: Clone + Debug + DeserializeOwned + Serialize,
{
    match api.get_opt(name).await {
        Ok(None) => format!("{name} does not exist"),
        Err(error) => format!("{name} cannot be read: {error}"),
        Ok(Some(object)) => {
            let object = serde_json::to_value(object).unwrap_or_default();
            let shown = object
                .get("status")
                .filter(|status| !status.is_null())
                .unwrap_or(&Value::Null);
            let yaml = serde_yaml::to_string(shown).unwrap_or_default();
            let yaml: String = yaml.chars().take(STATUS_CHARACTERS_MAX).collect();
            format!("the status of {name} was:\n{yaml}")
        }
    }
}

/// Waits until `look` finds something; an error counts as not yet, and the last one is told.
pub async fn found<T, F>(
    what: &str,
    limit: Duration,
    mut look: impl FnMut() -> F,
) -> anyhow::Result<T>
where
    F: Future<Output = anyhow::Result<Option<T>>>,
{
    let mut last = None;
    let waiting = async {
        loop {
            match look().await {
                Ok(Some(found)) => return found,
                Ok(None) => last = None,
                Err(error) => last = Some(error),
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    if let Ok(found) = tokio::time::timeout(limit, waiting).await {
        return Ok(found);
    }
    let context = format!("waited {limit:?} for {what}");
    match last {
        Some(error) => Err(error).context(context),
        None => bail!(context),
    }
}

/// Waits until all pods of a Deployment are those of its template, and ready.
pub async fn rolled_out(
    client: &Client,
    namespace: &str,
    name: &str,
    limit: Duration,
) -> anyhow::Result<()> {
    let api: Api<Deployment> = Api::namespaced(client.clone(), namespace);
    let what = format!("Deployment {namespace}/{name} to be rolled out");
    let done = |deployment: Option<&Deployment>| deployment.is_some_and(is_rolled_out);
    if let Err(error) = until(&api, name, &what, limit, done).await {
        let troubles = troubles(client, namespace).await.unwrap_or_default();
        return Err(error.context(format!("pods that wait in {namespace}: {troubles:?}")));
    }
    Ok(())
}

/// Why containers of a namespace wait, as the kubelet says it.
async fn troubles(client: &Client, namespace: &str) -> anyhow::Result<Vec<String>> {
    let api: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let pods = api.list(&ListParams::default()).await?;
    let waiting = pods.into_iter().flat_map(|pod| {
        let name = pod.metadata.name.unwrap_or_default();
        let statuses = pod.status.and_then(|status| status.container_statuses);
        statuses
            .unwrap_or_default()
            .into_iter()
            .filter_map(move |status| {
                let waiting = status.state?.waiting?;
                let (reason, message) = (waiting.reason?, waiting.message.unwrap_or_default());
                Some(format!("{name}: {reason}: {message}"))
            })
    });
    Ok(waiting.collect())
}

fn is_rolled_out(deployment: &Deployment) -> bool {
    let Some(status) = &deployment.status else {
        return false;
    };
    let wanted = deployment
        .spec
        .as_ref()
        .and_then(|spec| spec.replicas)
        .unwrap_or(1);
    let all = |count: Option<i32>| count.unwrap_or(0) == wanted;
    status.observed_generation >= deployment.metadata.generation
        && all(status.updated_replicas)
        && all(status.available_replicas)
        && all(status.replicas)
}
