//! The Deployment of a revision, made from what was saved of it.

use std::collections::BTreeMap;

use crds::{
    contract,
    runtime::{Engine, Model, Runtime, RuntimePort},
};
use jiff::SignedDuration;
use k8s_openapi::{
    DeepMerge as _,
    api::{
        apps::v1::{Deployment, DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment},
        core::v1::{
            Capabilities, Container, ContainerPort, EmptyDirVolumeSource, EnvVar,
            LocalObjectReference, PodSecurityContext, PodSpec, PodTemplateSpec, SeccompProfile,
            SecurityContext, TopologySpreadConstraint, Volume, VolumeMount,
        },
    },
    apimachinery::pkg::{
        apis::meta::v1::{LabelSelector, ObjectMeta},
        util::intstr::IntOrString,
    },
};
use rollout::plan::SpecError;
use serde::Deserialize as _;
use serde_json::Value;

use super::probes;
use crate::{owner::Owner, revisions::Saved};

/// User and group of our own inference pod.
const POD_USER: i64 = 65_532;
/// The rollout has a deadline of its own, which can roll back; this one could only say so.
const PROGRESS_DEADLINE_SECONDS: i32 = 7 * 24 * 3600;
/// Time that a pod has to leave beyond the longest request: endpoints must forget it first.
const LEAVE_SECONDS: i64 = 10;
const TMP: &str = "tmp";

/// What a Deployment depends on beyond the revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodOptions {
    /// Pull secrets of its pods.
    pub pull_secrets: Vec<String>,
    /// The longest request, which a pod that leaves may finish.
    pub longest_request: SignedDuration,
}

/// What a saved revision means.
#[derive(Clone, Debug)]
struct Meaning {
    model: Model,
    runtime: Runtime,
    template: PodTemplateSpec,
    ports: Vec<RuntimePort>,
}

/// Whether a revision can be made into pods.
pub fn check(saved: &Saved) -> Result<(), SpecError> {
    meaning(saved).map(drop)
}

fn meaning(saved: &Saved) -> Result<Meaning, SpecError> {
    let at =
        |path: &'static str| move |error: serde_json::Error| SpecError::at(path, error.to_string());
    let model = Model::deserialize(&saved.model).map_err(at("spec.model"))?;
    let runtime = Runtime::deserialize(&saved.runtime).map_err(at("spec.runtime"))?;
    let template = match &runtime.template {
        None => PodTemplateSpec::default(),
        Some(fragment) => template(fragment)?,
    };
    let ports = match (runtime.engine, runtime.ports.as_slice()) {
        (Engine::Onnx | Engine::Sim, _) | (Engine::Custom, []) => {
            let (name, port) = (
                contract::PORT_HTTP.to_owned(),
                i32::from(contract::POD_PORT),
            );
            vec![RuntimePort { name, port }]
        }
        (Engine::Custom, listed) => listed.to_vec(),
    };
    if !ports.iter().any(|port| port.name == contract::PORT_HTTP) {
        return Err(SpecError::at(
            "spec.runtime.ports",
            "one port must be named http",
        ));
    }
    Ok(Meaning {
        model,
        runtime,
        template,
        ports,
    })
}

/// Reads a fragment of a pod template. Only `containers` is required in a whole one.
fn template(fragment: &Value) -> Result<PodTemplateSpec, SpecError> {
    let mut whole = fragment.clone();
    if let Some(spec) = whole.get_mut("spec").and_then(Value::as_object_mut) {
        spec.entry("containers")
            .or_insert_with(|| Value::Array(Vec::new()));
    }
    PodTemplateSpec::deserialize(whole)
        .map_err(|error| SpecError::at("spec.runtime.template", error.to_string()))
}

/// The Deployment of a revision.
pub fn deployment(
    owner: &Owner,
    revision: &str,
    replicas: u32,
    saved: &Saved,
    options: &PodOptions,
) -> Result<Deployment, SpecError> {
    let meaning = meaning(saved)?;
    let labels = owner.revision_labels(revision);
    let selector = BTreeMap::from([
        (
            contract::LABEL_MODEL_DEPLOYMENT.to_owned(),
            owner.name.clone(),
        ),
        (contract::LABEL_REVISION.to_owned(), revision.to_owned()),
    ]);
    let mut template = PodTemplateSpec {
        metadata: Some(ObjectMeta {
            annotations: annotations(&meaning),
            ..ObjectMeta::default()
        }),
        spec: Some(pod(owner, revision, saved, &meaning, options)),
    };
    template.merge_from(meaning.template.clone());
    // The selector depends on these, whatever the fragment says.
    let metadata = template.metadata.get_or_insert_default();
    metadata
        .labels
        .get_or_insert_default()
        .extend(labels.clone());
    Ok(Deployment {
        metadata: owner.metadata(revision, labels),
        spec: Some(DeploymentSpec {
            replicas: Some(i32::try_from(replicas).unwrap_or(i32::MAX)),
            selector: LabelSelector {
                match_labels: Some(selector),
                ..LabelSelector::default()
            },
            strategy: Some(DeploymentStrategy {
                type_: Some("RollingUpdate".to_owned()),
                rolling_update: Some(RollingUpdateDeployment {
                    max_unavailable: Some(IntOrString::Int(0)),
                    max_surge: Some(IntOrString::Int(1)),
                }),
            }),
            revision_history_limit: Some(1),
            progress_deadline_seconds: Some(PROGRESS_DEADLINE_SECONDS),
            template,
            ..DeploymentSpec::default()
        }),
        status: None,
    })
}

/// Where Prometheus finds the pod's metrics.
fn annotations(meaning: &Meaning) -> Option<BTreeMap<String, String>> {
    let path = match meaning.runtime.engine {
        Engine::Onnx | Engine::Sim => contract::PATH_METRICS.to_owned(),
        Engine::Custom => meaning.runtime.metrics_path.clone()?,
    };
    let http = meaning
        .ports
        .iter()
        .find(|port| port.name == contract::PORT_HTTP)?;
    Some(BTreeMap::from([
        ("prometheus.io/scrape".to_owned(), "true".to_owned()),
        ("prometheus.io/port".to_owned(), http.port.to_string()),
        ("prometheus.io/path".to_owned(), path),
    ]))
}

fn pod(
    owner: &Owner,
    revision: &str,
    saved: &Saved,
    meaning: &Meaning,
    options: &PodOptions,
) -> PodSpec {
    let is_ours = is_ours(meaning);
    let spread = LabelSelector {
        match_labels: Some(BTreeMap::from([(
            contract::LABEL_REVISION.to_owned(),
            revision.to_owned(),
        )])),
        ..LabelSelector::default()
    };
    let pull_secrets = options.pull_secrets.iter().cloned();
    let pull_secrets: Vec<_> = pull_secrets
        .map(|name| LocalObjectReference { name })
        .collect();
    PodSpec {
        containers: vec![container(owner, revision, saved, meaning, options)],
        service_account_name: meaning.runtime.service_account_name.clone(),
        // Who names an account wants what it may do; nobody else needs a token.
        automount_service_account_token: meaning
            .runtime
            .service_account_name
            .is_none()
            .then_some(false),
        image_pull_secrets: (!pull_secrets.is_empty()).then_some(pull_secrets),
        security_context: Some(PodSecurityContext {
            run_as_non_root: Some(true),
            run_as_user: is_ours.then_some(POD_USER),
            run_as_group: is_ours.then_some(POD_USER),
            fs_group: is_ours.then_some(POD_USER),
            seccomp_profile: Some(SeccompProfile {
                type_: "RuntimeDefault".to_owned(),
                ..SeccompProfile::default()
            }),
            ..PodSecurityContext::default()
        }),
        termination_grace_period_seconds: Some(
            options
                .longest_request
                .as_secs()
                .saturating_add(1 + LEAVE_SECONDS),
        ),
        topology_spread_constraints: Some(vec![TopologySpreadConstraint {
            max_skew: 1,
            topology_key: "kubernetes.io/hostname".to_owned(),
            when_unsatisfiable: "ScheduleAnyway".to_owned(),
            label_selector: Some(spread),
            ..TopologySpreadConstraint::default()
        }]),
        volumes: Some(vec![Volume {
            name: TMP.to_owned(),
            empty_dir: Some(EmptyDirVolumeSource::default()),
            ..Volume::default()
        }]),
        ..PodSpec::default()
    }
}

fn is_ours(meaning: &Meaning) -> bool {
    match meaning.runtime.engine {
        Engine::Onnx | Engine::Sim => true,
        Engine::Custom => false,
    }
}

fn container(
    owner: &Owner,
    revision: &str,
    saved: &Saved,
    meaning: &Meaning,
    options: &PodOptions,
) -> Container {
    let runtime = &meaning.runtime;
    let args = match runtime.engine {
        Engine::Onnx => engine_args("onnx", owner, revision, meaning, options),
        Engine::Sim => engine_args("sim", owner, revision, meaning, options),
        Engine::Custom => runtime.args.clone(),
    };
    let probes = probes::probes(runtime);
    let port = |port: &RuntimePort| ContainerPort {
        name: Some(port.name.clone()),
        container_port: port.port,
        protocol: Some("TCP".to_owned()),
        ..ContainerPort::default()
    };
    Container {
        name: contract::MODEL_CONTAINER.to_owned(),
        image: Some(saved.image.clone()),
        args: (!args.is_empty()).then_some(args),
        env: environment(owner, revision, meaning),
        ports: Some(meaning.ports.iter().map(port).collect()),
        resources: runtime.resources.clone(),
        readiness_probe: probes.readiness,
        liveness_probe: probes.liveness,
        startup_probe: probes.startup,
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            read_only_root_filesystem: is_ours(meaning).then_some(true),
            capabilities: Some(Capabilities {
                drop: Some(vec!["ALL".to_owned()]),
                add: None,
            }),
            ..SecurityContext::default()
        }),
        volume_mounts: Some(vec![VolumeMount {
            name: TMP.to_owned(),
            mount_path: "/tmp".to_owned(),
            ..VolumeMount::default()
        }]),
        ..Container::default()
    }
}

/// Arguments of our own inference pod.
fn engine_args(
    engine: &str,
    owner: &Owner,
    revision: &str,
    meaning: &Meaning,
    options: &PodOptions,
) -> Vec<String> {
    let mut args: Vec<String> = Vec::new();
    let mut flag = |name: &str, value: &str| args.extend([name.to_owned(), value.to_owned()]);
    flag("--model-name", &owner.name);
    flag("--engine", engine);
    if let Some(uri) = &meaning.model.uri {
        flag("--model-uri", uri);
    }
    if let Some(digest) = &meaning.model.digest {
        flag("--model-digest", digest);
    }
    flag("--port", &contract::POD_PORT.to_string());
    flag("--model-deployment", &owner.name);
    flag("--revision", revision);
    flag(
        "--drain-timeout",
        &format!("{}ms", options.longest_request.as_millis()),
    );
    for arg in &meaning.runtime.args {
        if arg.starts_with("--") {
            args.push(arg.clone());
        } else {
            args.extend(["--engine-arg".to_owned(), arg.clone()]);
        }
    }
    args
}

/// The user's variables; a container of the user's own also learns what it is to serve.
fn environment(owner: &Owner, revision: &str, meaning: &Meaning) -> Option<Vec<EnvVar>> {
    let mut variables = Vec::new();
    if !is_ours(meaning) {
        let model = &meaning.model;
        let told = [
            ("SLUICE_MODEL_DEPLOYMENT", Some(owner.name.as_str())),
            ("SLUICE_REVISION", Some(revision)),
            ("SLUICE_MODEL_URI", model.uri.as_deref()),
            ("SLUICE_MODEL_DIGEST", model.digest.as_deref()),
        ];
        let given = |name: &str| meaning.runtime.env.iter().any(|own| own.name == name);
        variables.extend(
            told.into_iter()
                .filter(|(name, _)| !given(name))
                .filter_map(|(name, value)| {
                    let (name, value) = (name.to_owned(), Some(value?.to_owned()));
                    Some(EnvVar {
                        name,
                        value,
                        value_from: None,
                    })
                }),
        );
    }
    variables.extend(meaning.runtime.env.iter().cloned());
    (!variables.is_empty()).then_some(variables)
}

#[cfg(test)]
mod tests;
