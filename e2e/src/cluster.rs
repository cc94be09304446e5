//! The cluster that a test or the demo runs on: the one that `KUBECONFIG` names.

use std::{env, time::Duration};

use anyhow::{Context as _, anyhow, bail};
use http::Request;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::{
    Api, Client, Config,
    api::{
        ApiResource, DeleteParams, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams,
    },
};
use serde::Deserialize as _;
use serde_json::{Value, json};

use crate::wait;

/// Field manager of everything that a test applies.
const MANAGER: &str = "sluice-e2e";
/// How long a namespace may take to go.
const GONE_WITHIN: Duration = Duration::from_secs(90);
/// Kinds without a namespace.
const CLUSTER_SCOPED: [&str; 8] = [
    "Namespace",
    "Node",
    "ClusterRole",
    "ClusterRoleBinding",
    "MetricSource",
    "GatewayClass",
    "CustomResourceDefinition",
    "PriorityClass",
];

/// A cluster that answers, and where its images come from.
#[derive(Clone)]
pub struct Cluster {
    /// Talks to it.
    pub client: Client,
    prefix: String,
    tag: String,
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster")
            .field("prefix", &self.prefix)
            .field("tag", &self.tag)
            .finish_non_exhaustive()
    }
}

impl Cluster {
    /// The cluster of `KUBECONFIG`, if it answers.
    pub async fn connect() -> anyhow::Result<Self> {
        const HINT: &str =
            "bring one up with `make cluster`, then `eval \"$(e2e/cluster/cluster env)\"`";
        if env::var_os("KUBECONFIG").is_none() {
            bail!("no cluster: KUBECONFIG is not set; {HINT}");
        }
        // The second call finds the first one's provider.
        rustls::crypto::ring::default_provider()
            .install_default()
            .unwrap_or_default();
        let config = Config::infer()
            .await
            .with_context(|| format!("no cluster; {HINT}"))?;
        let url = config.cluster_url.clone();
        let client = Client::try_from(config).context("cannot make a client")?;
        let version =
            tokio::time::timeout(Duration::from_secs(10), client.apiserver_version()).await;
        version
            .map_err(|_| anyhow!("it does not answer within 10 s"))
            .and_then(|version| version.map_err(Into::into))
            .with_context(|| format!("the cluster at {url} cannot be reached; {HINT}"))?;
        let tag = env::var("SLUICE_IMAGE_TAG").map_err(|_| {
            anyhow!("SLUICE_IMAGE_TAG is not set: load the images with `images/build --load` and evaluate what it prints")
        })?;
        let prefix = env::var("SLUICE_IMAGE_PREFIX").unwrap_or_else(|_| "sluice.local".to_owned());
        Ok(Self {
            client,
            prefix,
            tag,
        })
    }

    /// Reference of one of our images.
    pub fn image(&self, name: &str) -> String {
        format!("{}/{name}:{}", self.prefix, self.tag)
    }

    /// Registry, and path in it, of our images.
    pub fn image_prefix(&self) -> &str {
        &self.prefix
    }

    /// Tag of our images.
    pub fn image_tag(&self) -> &str {
        &self.tag
    }

    /// Objects of one kind, whatever it is.
    pub fn dynamic(&self, api_version: &str, kind: &str, namespace: &str) -> Api<DynamicObject> {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
        if CLUSTER_SCOPED.contains(&kind) {
            Api::all_with(self.client.clone(), &resource)
        } else {
            Api::namespaced_with(self.client.clone(), namespace, &resource)
        }
    }

    /// Applies an object by server-side apply; it gets `namespace` unless it has one.
    pub async fn apply(&self, namespace: &str, object: &Value) -> anyhow::Result<DynamicObject> {
        let text = |path: &str| {
            object
                .pointer(path)
                .and_then(Value::as_str)
                .unwrap_or_default()
        };
        let (kind, name) = (text("/kind"), text("/metadata/name"));
        let own = text("/metadata/namespace");
        let namespace = if own.is_empty() { namespace } else { own };
        let api = self.dynamic(text("/apiVersion"), kind, namespace);
        let params = PatchParams::apply(MANAGER).force();
        Box::pin(api.patch(name, &params, &Patch::Apply(object)))
            .await
            .with_context(|| format!("cannot apply {kind} {namespace}/{name}"))
    }

    /// Applies every document of a YAML text.
    pub async fn apply_yaml(&self, namespace: &str, text: &str) -> anyhow::Result<()> {
        for document in documents(text)? {
            self.apply(namespace, &document).await?;
        }
        Ok(())
    }

    /// A new, empty namespace; one of that name is deleted first.
    pub async fn fresh_namespace(&self, name: &str) -> anyhow::Result<()> {
        self.delete_namespace(name).await?;
        self.namespace(name).await
    }

    /// A namespace, new or not.
    pub async fn namespace(&self, name: &str) -> anyhow::Result<()> {
        let object = json!({
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": name, "labels": {"sluice.dev/e2e": "true"}},
        });
        self.apply("", &object).await.map(drop)
    }

    /// Deletes a namespace and waits until it is gone.
    pub async fn delete_namespace(&self, name: &str) -> anyhow::Result<()> {
        let api: Api<Namespace> = Api::all(self.client.clone());
        if api.get_opt(name).await?.is_none() {
            return Ok(());
        }
        api.delete(name, &DeleteParams::default()).await?;
        let gone = format!("namespace {name} to be gone");
        wait::until(&api, name, &gone, GONE_WITHIN, |namespace| {
            namespace.is_none()
        })
        .await?;
        Ok(())
    }

    /// Asks a pod over HTTP through the API server; `address` is `NAMESPACE/POD:PORT/PATH`.
    pub async fn pod_get(&self, address: &str) -> anyhow::Result<String> {
        self.pod_request("GET", address, Vec::new()).await
    }

    /// Posts JSON to a pod through the API server; `address` is `NAMESPACE/POD:PORT/PATH`.
    pub async fn pod_post(&self, address: &str, body: &Value) -> anyhow::Result<String> {
        self.pod_request("POST", address, body.to_string().into_bytes())
            .await
    }

    async fn pod_request(
        &self,
        method: &str,
        address: &str,
        body: Vec<u8>,
    ) -> anyhow::Result<String> {
        let mut parts = address.splitn(3, '/');
        let (Some(namespace), Some(pod), Some(path)) = (parts.next(), parts.next(), parts.next())
        else {
            bail!("{address} is not NAMESPACE/POD:PORT/PATH");
        };
        let uri = format!("/api/v1/namespaces/{namespace}/pods/{pod}/proxy/{path}");
        let request = Request::builder()
            .method(method)
            .uri(&uri)
            .header("content-type", "application/json")
            .body(body)?;
        Box::pin(self.client.request_text(request))
            .await
            .with_context(|| format!("{method} {uri}"))
    }

    /// Pods by label.
    pub async fn pods(&self, namespace: &str, selector: &str) -> anyhow::Result<Vec<Pod>> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        Ok(api
            .list(&ListParams::default().labels(selector))
            .await?
            .items)
    }

    /// How often the containers of pods in a namespace were restarted.
    pub async fn restarts(&self, namespace: &str) -> anyhow::Result<i32> {
        let pods = self.pods(namespace, "").await?;
        let statuses = pods
            .into_iter()
            .filter_map(|pod| pod.status?.container_statuses)
            .flatten();
        Ok(statuses.map(|status| status.restart_count).sum())
    }
}

/// The documents of a YAML text; empty ones are left out.
pub fn documents(text: &str) -> anyhow::Result<Vec<Value>> {
    let mut documents = Vec::new();
    for document in serde_yaml::Deserializer::from_str(text) {
        let value = Value::deserialize(document).context("a manifest is no YAML")?;
        if !value.is_null() {
            documents.push(value);
        }
    }
    Ok(documents)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_document_of_a_manifest_is_read() {
        let documents = documents("# only words\n---\na: 1\n---\nb: [x]\n").unwrap();
        assert_eq!(documents, [json!({"a": 1}), json!({"b": ["x"]})]);
    }

    #[test]
    fn our_own_manifests_and_examples_are_yaml() {
        let texts = [
            include_str!("../manifests/prometheus.yaml"),
            include_str!("../../examples/digits/v1.yaml"),
            include_str!("../../examples/fastapi/v3.yaml"),
        ];
        for text in texts {
            assert!(!documents(text).unwrap().is_empty());
        }
    }
}
