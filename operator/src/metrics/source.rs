//! What a `MetricSource` means: where to ask, how, and for whom.

use std::{collections::BTreeMap, time::Duration};

use crds::{
    MetricSource, contract,
    metric_source::{AllowedNamespaces, NamespacesFrom},
};
use k8s_openapi::api::core::v1::Namespace;
use kube::{
    Api, Client, ResourceExt as _,
    core::{Selector, SelectorExt as _},
};

const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);
/// A query that takes longer than this would hold up the look at its object.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(30);

/// A metrics server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Base address, without `/api/v1`.
    pub url: String,
    /// Headers of every query.
    pub headers: Vec<(String, String)>,
    /// Name under which credentials are mounted.
    pub mount: Option<String>,
    /// Name of the label that tells namespaces apart.
    pub namespace_label: String,
    /// How long one query may take.
    pub timeout: Duration,
}

/// What became of looking a `MetricSource` up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// It may be asked.
    Usable(Source),
    /// It may not be asked: there is none, or this namespace may not.
    Refused(String),
    /// It is not known whether it may be.
    Unknown(String),
}

/// Looks up a `MetricSource` for a namespace.
pub async fn lookup(client: &Client, name: &str, namespace: &str) -> Lookup {
    let sources: Api<MetricSource> = Api::all(client.clone());
    let object = match sources.get_opt(name).await {
        Ok(Some(object)) => object,
        Ok(None) => {
            return Lookup::Refused(format!(
                "there is no MetricSource {name:?}: create it, or name another one"
            ));
        }
        Err(error) => return Lookup::Unknown(format!("cannot read MetricSource {name}: {error}")),
    };
    match is_allowed(client, object.spec.allowed_namespaces.as_ref(), namespace).await {
        Ok(true) => match source(&object) {
            Ok(source) => Lookup::Usable(source),
            Err(problem) => Lookup::Refused(problem),
        },
        Ok(false) => Lookup::Refused(format!(
            "MetricSource {name:?} does not allow the namespace {namespace:?}: an administrator \
             must add it to allowedNamespaces"
        )),
        Err(problem) => Lookup::Unknown(problem),
    }
}

async fn is_allowed(
    client: &Client,
    allowed: Option<&AllowedNamespaces>,
    namespace: &str,
) -> Result<bool, String> {
    let Some(allowed) = allowed else {
        return Ok(true);
    };
    match allowed.from {
        NamespacesFrom::All => Ok(true),
        NamespacesFrom::Selector => {
            let namespaces: Api<Namespace> = Api::all(client.clone());
            let object = namespaces
                .get(namespace)
                .await
                .map_err(|error| format!("cannot read namespace {namespace}: {error}"))?;
            matches(allowed, object.labels())
        }
    }
}

fn matches(allowed: &AllowedNamespaces, labels: &BTreeMap<String, String>) -> Result<bool, String> {
    // No selector names nobody.
    let Some(selector) = allowed.selector.clone() else {
        return Ok(false);
    };
    let selector = Selector::try_from(selector)
        .map_err(|error| format!("allowedNamespaces.selector: {error}"))?;
    Ok(selector.matches(labels))
}

fn source(object: &MetricSource) -> Result<Source, String> {
    let name = object.name_any();
    let wrong = |what: &str| format!("MetricSource {name:?}: {what}");
    let spec = &object.spec;
    let prometheus = spec
        .prometheus
        .as_ref()
        .ok_or_else(|| wrong("spec.prometheus is missing"))?;
    let timeout = match &spec.timeout {
        None => DEFAULT_TIMEOUT,
        Some(text) => text
            .parse()
            .ok()
            .and_then(|timeout| Duration::try_from(timeout).ok())
            .ok_or_else(|| wrong("spec.timeout is not a duration"))?,
    };
    let headers = prometheus.headers.iter();
    Ok(Source {
        url: prometheus.url.trim_end_matches('/').to_owned(),
        headers: headers
            .map(|header| (header.name.clone(), header.value.clone()))
            .collect(),
        mount: spec
            .credentials
            .as_ref()
            .map(|credentials| credentials.mount.clone()),
        namespace_label: spec
            .namespace_label
            .clone()
            .unwrap_or_else(|| contract::METRIC_LABEL_NAMESPACE.to_owned()),
        timeout: timeout.min(LONGEST_TIMEOUT),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn object(spec: &Value) -> MetricSource {
        let kind = json!({"apiVersion": "sluice.dev/v1alpha1", "kind": "MetricSource"});
        let mut object = kind;
        object["metadata"] = json!({"name": "default"});
        object["spec"] = spec.clone();
        serde_json::from_value(object).unwrap()
    }

    #[test]
    fn a_source_has_defaults_and_bounds() {
        let prometheus = json!({"url": "http://p:9090/"});
        let plain = source(&object(
            &json!({"type": "Prometheus", "prometheus": prometheus}),
        ))
        .unwrap();
        assert_eq!(plain.url, "http://p:9090");
        assert_eq!(plain.timeout, DEFAULT_TIMEOUT);
        assert_eq!(plain.namespace_label, "namespace");
        let slow = json!({"type": "Prometheus", "prometheus": prometheus, "timeout": "10m"});
        assert_eq!(source(&object(&slow)).unwrap().timeout, LONGEST_TIMEOUT);
        let error = source(&object(&json!({"type": "Prometheus"}))).unwrap_err();
        assert!(error.contains("\"default\""), "{error}");
    }

    #[test]
    fn a_namespace_is_allowed_by_its_labels() {
        let allowed = AllowedNamespaces {
            from: NamespacesFrom::Selector,
            selector: serde_json::from_value(json!({"matchLabels": {"team": "ml"}})).unwrap(),
        };
        let labels = |team: &str| BTreeMap::from([("team".to_owned(), team.to_owned())]);
        assert_eq!(matches(&allowed, &labels("ml")), Ok(true));
        assert_eq!(matches(&allowed, &labels("web")), Ok(false));
        let nobody = AllowedNamespaces {
            selector: None,
            ..allowed
        };
        assert_eq!(matches(&nobody, &labels("ml")), Ok(false));
    }
}
