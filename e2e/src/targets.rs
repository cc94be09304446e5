//! Tells Prometheus which pods to scrape, over its HTTP service discovery: the distribution's
//! Prometheus is built without Kubernetes'.

use std::net::IpAddr;

use anyhow::Context as _;
use clap::Args;
use crds::contract;
use http::StatusCode;
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, Client, api::ListParams};
use serde::Serialize;
use serde_json::{Value, json};

use crate::serve::{self, Answer};

/// Lists pods for Prometheus: `/sluice` for router and operator, `/pods` for the others.
#[derive(Clone, Debug, Args)]
pub struct Targets {
    /// Port to listen on.
    #[arg(long, default_value_t = 9091)]
    pub port: u16,
    /// Address to listen on.
    #[arg(long, default_value = "127.0.0.1")]
    pub address: IpAddr,
}

/// Serves until SIGTERM.
pub async fn run(args: Targets) -> anyhow::Result<()> {
    let client = Client::try_default().await.context("no cluster")?;
    let api: Api<Pod> = Api::all(client);
    let listener = serve::listen(args.address, args.port).await?;
    serve::serve(listener, serve::ended()?, move |request, _| {
        let api = api.clone();
        async move { Ok(answer(&api, request.uri().path()).await) }
    })
    .await;
    Ok(())
}

async fn answer(api: &Api<Pod>, path: &str) -> Answer {
    let of_sluice = match path {
        "/sluice" => true,
        "/pods" => false,
        _ => return serve::text(StatusCode::NOT_FOUND, "/sluice or /pods\n"),
    };
    // Whatever version is at hand: this is asked for every second.
    match api.list(&ListParams::default().match_any()).await {
        Ok(pods) => {
            let groups: Vec<Group> = pods
                .iter()
                .filter_map(|pod| Group::of(pod, of_sluice))
                .collect();
            serve::json(StatusCode::OK, &groups)
        }
        Err(error) => serve::text(
            StatusCode::BAD_GATEWAY,
            format!("cannot list pods: {error}\n"),
        ),
    }
}

/// One pod, as Prometheus wants it.
#[derive(Debug, PartialEq, Serialize)]
struct Group {
    targets: [String; 1],
    labels: Value,
}

impl Group {
    fn of(pod: &Pod, of_sluice: bool) -> Option<Self> {
        let status = pod.status.as_ref()?;
        if status.phase.as_deref() != Some("Running") {
            return None;
        }
        let ip = status.pod_ip.as_ref()?;
        let label = |name: &str| {
            pod.metadata
                .labels
                .as_ref()
                .and_then(|labels| labels.get(name))
        };
        let app = label("app.kubernetes.io/name").map(String::as_str);
        let ours = app.filter(|app| [contract::ROUTER_APP, contract::OPERATOR_APP].contains(app));
        if ours.is_some() != of_sluice {
            return None;
        }
        let annotation = |name: &str| {
            pod.metadata
                .annotations
                .as_ref()
                .and_then(|all| all.get(name))
        };
        let port = if ours.is_some() {
            contract::ROUTER_ADMIN_PORT.to_string()
        } else {
            annotation("prometheus.io/scrape").filter(|scrape| *scrape == "true")?;
            annotation("prometheus.io/port")?.clone()
        };
        let path = annotation("prometheus.io/path").map_or(contract::PATH_METRICS, String::as_str);
        let labels = json!({
            "__metrics_path__": if ours.is_some() { contract::PATH_METRICS } else { path },
            "job": ours.unwrap_or("pods"),
            "pod": pod.metadata.name,
            contract::METRIC_LABEL_NAMESPACE: pod.metadata.namespace,
            contract::METRIC_LABEL_REVISION: label(contract::LABEL_REVISION).map_or("", String::as_str),
            contract::METRIC_LABEL_MODEL_DEPLOYMENT:
                label(contract::LABEL_MODEL_DEPLOYMENT).map_or("", String::as_str),
        });
        Some(Self {
            targets: [format!("{ip}:{port}")],
            labels,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(labels: &Value, annotations: &Value) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "ml", "labels": labels, "annotations": annotations},
            "status": {"phase": "Running", "podIP": "10.0.0.9"},
        }))
        .unwrap()
    }

    #[test]
    fn routers_are_told_apart_from_pods_that_ask_to_be_scraped() {
        let router = pod(
            &json!({"app.kubernetes.io/name": "sluice-router"}),
            &json!({}),
        );
        assert_eq!(Group::of(&router, true).unwrap().targets, ["10.0.0.9:9090"]);
        assert_eq!(Group::of(&router, false), None);
        let model = pod(
            &json!({"sluice.dev/revision": "m-1", "sluice.dev/model-deployment": "m"}),
            &json!({"prometheus.io/scrape": "true", "prometheus.io/port": "8080"}),
        );
        let group = Group::of(&model, false).unwrap();
        assert_eq!(group.targets, ["10.0.0.9:8080"]);
        assert_eq!(group.labels["revision"], "m-1");
        assert_eq!(group.labels["__metrics_path__"], "/metrics");
        assert_eq!(Group::of(&model, true), None);
        assert_eq!(Group::of(&pod(&json!({}), &json!({})), false), None);
    }
}
