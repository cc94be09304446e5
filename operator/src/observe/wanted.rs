//! What the spec asks for.

use std::collections::BTreeMap;

use crds::{
    ModelDeployment, contract,
    gateway::ParentReference,
    hash,
    steps::Rollout,
    traffic::{SplitKey, SplitKeyType, Testers, TestersType, Traffic},
};
use kube::ResourceExt as _;
use rollout::{
    observation::{RouteShape, Wanted},
    plan::{Plan, SpecError},
};

use crate::{
    args::{Config, NamespacedName},
    error::brief,
    metrics::source::Lookup,
    revisions::Saved,
    traffic::http_route,
    workload,
};

/// What the spec asks for, given the plan that it makes and what is known of metric sources.
pub(super) fn wanted(
    config: &Config,
    deployment: &ModelDeployment,
    plan: Result<Plan, SpecError>,
    sources: &BTreeMap<String, Lookup>,
) -> Wanted {
    let spec = &deployment.spec;
    let rollout = spec.rollout.as_ref();
    let name = deployment.name_any();
    let route = shape(config, deployment);
    let replicas = spec
        .replicas
        .map_or(1, |replicas| u32::try_from(replicas).unwrap_or(0));
    let plan = can_be_served(config, deployment)
        .and_then(|()| can_be_routed(&route))
        .and(plan)
        .and_then(|plan| can_be_guarded(&plan, sources).map(|()| plan))
        .and_then(|plan| can_be_copied(config, deployment, &plan).map(|()| plan))
        // It may quote all of what it is about, and a status holds only so much.
        .map_err(|error| SpecError::at(error.path, brief(&error.message)));
    Wanted {
        generation: deployment.metadata.generation.unwrap_or(0),
        revision: hash::revision_name(&name, spec.model.raw(), spec.runtime.raw()),
        replicas,
        paused: rollout
            .and_then(|rollout: &Rollout| rollout.paused)
            .unwrap_or(false),
        attempt: rollout.and_then(|rollout| rollout.attempt).unwrap_or(1),
        plan,
        route,
        routers: if is_routed_by_us(config, deployment) {
            config.router_replicas
        } else {
            0
        },
    }
}

fn can_be_served(config: &Config, deployment: &ModelDeployment) -> Result<(), SpecError> {
    let spec = &deployment.spec;
    spec.model
        .read()
        .map_err(|error| SpecError::at("spec.model", error.to_string()))?;
    workload::deployment::check(&Saved::of(spec, config.inference_image.as_deref())?)
}

fn can_be_routed(route: &RouteShape) -> Result<(), SpecError> {
    if route.parents.is_empty() {
        let message = "the operator runs without --default-gateway: name a Gateway here";
        return Err(SpecError::at("spec.traffic.parentRefs", message));
    }
    Ok(())
}

fn can_be_guarded(plan: &Plan, sources: &BTreeMap<String, Lookup>) -> Result<(), SpecError> {
    for guardrail in &plan.guardrails {
        let source = guardrail.prometheus().map(|check| &check.source);
        if let Some(Lookup::Refused(problem)) = source.and_then(|source| sources.get(source)) {
            let path = format!("{}.check.prometheus.sourceRef.name", guardrail.path);
            return Err(SpecError::at(path, problem.clone()));
        }
    }
    Ok(())
}

/// Our routers copy requests; of no other data plane it is known.
fn can_be_copied(
    config: &Config,
    deployment: &ModelDeployment,
    plan: &Plan,
) -> Result<(), SpecError> {
    let copies = plan.steps.iter().position(|step| step.mirror.is_some());
    match copies {
        Some(index) if !is_routed_by_us(config, deployment) => {
            let path = format!("spec.rollout.canary.steps[{index}].mirror");
            let message = "only the routers of the chart's Gateway copy requests: leave the step out, or \
                           name no other Gateway in spec.traffic.parentRefs";
            Err(SpecError::at(path, message))
        }
        Some(_) | None => Ok(()),
    }
}

/// Whether the traffic comes through the default Gateway, and so through our router.
pub(super) fn is_routed_by_us(config: &Config, deployment: &ModelDeployment) -> bool {
    let home = deployment.namespace().unwrap_or_default();
    let parents = parents(config, deployment.spec.traffic.as_ref());
    config.default_gateway.as_ref().is_some_and(|gateway| {
        parents
            .iter()
            .any(|parent| is_gateway(parent, gateway, &home))
    })
}

fn is_gateway(parent: &ParentReference, gateway: &NamespacedName, home: &str) -> bool {
    parent.name == gateway.name
        && parent.namespace.as_deref().unwrap_or(home) == gateway.namespace
        && parent.kind.as_deref().is_none_or(|kind| kind == "Gateway")
}

fn parents(config: &Config, traffic: Option<&Traffic>) -> Vec<ParentReference> {
    let named = traffic
        .map(|traffic| traffic.parent_refs.clone())
        .unwrap_or_default();
    if !named.is_empty() {
        return named;
    }
    let gateway = config.default_gateway.iter();
    gateway
        .map(|gateway| ParentReference {
            namespace: Some(gateway.namespace.clone()),
            name: gateway.name.clone(),
            ..ParentReference::default()
        })
        .collect()
}

/// Where the route is attached, and under which names.
fn shape(config: &Config, deployment: &ModelDeployment) -> RouteShape {
    let traffic = deployment.spec.traffic.as_ref();
    let (name, namespace) = (
        deployment.name_any(),
        deployment.namespace().unwrap_or_default(),
    );
    let mut hostnames = traffic
        .map(|traffic| traffic.hostnames.clone())
        .unwrap_or_default();
    if is_routed_by_us(config, deployment) {
        let short = format!("{name}.{namespace}");
        hostnames.push(format!("{short}.svc.{}", config.cluster_domain));
        hostnames.push(format!("{short}.svc"));
        hostnames.push(short);
    }
    let shape = RouteShape {
        parents: parents(config, traffic),
        hostnames,
        key: traffic
            .and_then(|traffic| traffic.split_key.as_ref())
            .map(key),
        testers: traffic
            .and_then(|traffic| traffic.testers.as_ref())
            .map(testers),
        request_timeout: traffic
            .and_then(|traffic| traffic.timeouts.as_ref())
            .and_then(|timeouts| timeouts.request.as_ref())
            .map(|request| request.0.clone()),
    };
    http_route::normal(shape, &namespace)
}

fn key(key: &SplitKey) -> contract::KeySource {
    let name = key.name.clone().unwrap_or_default();
    match key.type_ {
        SplitKeyType::Header => contract::KeySource::Header { name },
        SplitKeyType::Cookie => contract::KeySource::Cookie { name },
        SplitKeyType::JWTClaim => contract::KeySource::UnverifiedJWTClaim { name },
        SplitKeyType::SourceIP => contract::KeySource::SourceIP,
    }
}

fn testers(testers: &Testers) -> contract::Testers {
    let name = testers.name.clone();
    contract::Testers {
        by: match testers.type_ {
            TestersType::Header => contract::KeySource::Header { name },
            TestersType::Cookie => contract::KeySource::Cookie { name },
        },
        value: testers.value.clone(),
    }
}

#[cfg(test)]
mod tests;
