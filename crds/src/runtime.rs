//! Which model, and how it is served: together they are the revision.
//!
//! Nothing here may have a schema default: the revision hash is over what the user wrote, and a
//! default that a later release adds would change the hash of everything that runs.

use k8s_openapi::api::core::v1::{EnvVar, Probe, ResourceRequirements};
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The model: where its artifact is and what it must be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.format == 'InImage' || has(self.uri)").message("uri is required unless format is InImage").field_path(".uri"))]
#[x_kube(validation = Rule::new("self.format == 'InImage' || has(self.digest)").message("digest is required unless format is InImage: give the sha256 of the file, or of the folder's manifest").field_path(".digest"))]
#[x_kube(validation = Rule::new("self.format != 'InImage' || (!has(self.uri) && !has(self.digest))").message("a model that is in the image has neither uri nor digest").field_path(".format"))]
pub struct Model {
    /// Where the artifact is fetched from: an `http://`, `https://` or `file://` address of a file,
    /// or a folder if it ends with `/`. No credentials in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024), regex(pattern = r"^(https?|file)://[^\s@?#]+$"))]
    pub uri: Option<String>,
    /// What the artifact must be: the sha256 of the file, or of the folder's manifest (lines of
    /// `path size sha256`, sorted). The pod checks it before it becomes ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 71), regex(pattern = r"^sha256:[0-9a-f]{64}$"))]
    pub digest: Option<String>,
    /// The artifact's format.
    pub format: ModelFormat,
}

/// Format of a model's artifact.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ModelFormat {
    /// An ONNX file, or a folder with one.
    #[default]
    #[serde(rename = "ONNX")]
    Onnx,
    /// The model is part of the container image.
    InImage,
}

/// How the model is served.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.engine != 'custom' || has(self.image)").message("engine custom needs an image").field_path(".image"))]
#[x_kube(validation = Rule::new("self.engine == 'custom' || (!has(self.ports) && !has(self.probes) && !has(self.metricsPath))").message("ports, probes and metricsPath are for engine custom; the other engines bring their own").field_path(".engine"))]
pub struct Runtime {
    /// The engine that runs the model.
    pub engine: Engine,
    /// Arguments of the engine. For `custom` they are the container's arguments.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(max = 1024)))]
    pub args: Vec<String>,
    /// The container image. Needed with engine `custom`; the other engines come with one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub image: Option<String>,
    /// With engine `custom`: the ports that the container listens on. The one named `http` gets the
    /// traffic. None: 8080.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub ports: Vec<RuntimePort>,
    /// With engine `custom`: how to tell that the container lives and is ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probes: Option<Probes>,
    /// With engine `custom`: path of Prometheus metrics on the port `http`; none: no metrics.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256), regex(pattern = r"^/\S*$"))]
    pub metrics_path: Option<String>,
    /// Environment of the container.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub env: Vec<EnvVar>,
    /// Compute resources of one pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,
    /// Service account of the pods; none: the namespace's default, without a token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub service_account_name: Option<String>,
    /// Fragment of a pod template that is merged over what Sluice makes: containers by name (the
    /// model server is `model`), the rest as Kubernetes merges it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schemaless_object")]
    pub template: Option<Value>,
}

/// The program that runs the model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Engine {
    /// ONNX Runtime in Sluice's inference pod.
    #[default]
    Onnx,
    /// A stand-in with a given latency, error rate and output, for trying things out. Arguments are
    /// `name=value`: `alpha`, `beta`, `jitter`, `errorRate`, `shift`, `shape`, `seed`.
    Sim,
    /// Any container that answers HTTP.
    Custom,
}

/// A port of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RuntimePort {
    /// Name of the port.
    #[schemars(
        length(min = 1, max = 15),
        regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")
    )]
    pub name: String,
    /// Number of the port.
    #[schemars(range(min = 1, max = 65535))]
    pub port: i32,
}

/// Probes of a container, as in a pod.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Probes {
    /// Whether the container may get traffic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub readiness: Option<Probe>,
    /// Whether the container must be restarted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub liveness: Option<Probe>,
    /// Whether the container has started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub startup: Option<Probe>,
}

fn schemaless_object(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "type": "object",
        "x-kubernetes-preserve-unknown-fields": true,
    })
}
