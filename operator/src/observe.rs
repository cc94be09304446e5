//! Looks at the cluster. Reads only, and a read that fails is a value: what it was to tell counts as
//! not known, and everything else is still looked at.

mod heard;
mod judgements;
mod route;
mod tracks;
mod wanted;

use std::collections::{BTreeMap, BTreeSet};

use crds::{ModelDeployment, hash};
use jiff::Timestamp;
use k8s_openapi::api::{
    apps::v1::{ControllerRevision, Deployment},
    core::v1::{Pod, Service},
};
use kube::{
    Api, ResourceExt,
    api::{DynamicObject, ListParams},
};
use rollout::{
    guardrail::Guardrail,
    observation::{Frozen, Observation, SeenAddress},
    plan::Plan,
    state::State,
};

use crate::{
    ctx::Ctx,
    error::brief,
    metrics::source::{self, Lookup},
    owner::Owner,
    revisions::History,
    traffic::http_route,
    workload::service,
};

/// What is seen, and what only the hand that acts on it needs.
#[derive(Clone, Debug)]
pub struct Sight {
    /// What the decision is made from.
    pub observation: Observation,
    /// The route as an object.
    pub route: RouteObject,
    /// Whether a Service of the model's own name is there.
    pub address_exists: bool,
    /// What is there and ours, by kind and name: nothing else is changed or removed.
    pub owned: Owned,
}

/// Uids of objects that are ours, by name.
#[derive(Clone, Debug, Default)]
pub struct Owned {
    /// Saved revisions and plans.
    pub saved: BTreeMap<String, String>,
    /// Deployments.
    pub deployments: BTreeMap<String, String>,
    /// Services of revisions.
    pub services: BTreeMap<String, String>,
}

fn uids_of<K: ResourceExt>(list: Option<&Vec<K>>) -> BTreeMap<String, String> {
    let named = |object: &K| (object.name_any(), object.uid().unwrap_or_default());
    list.into_iter().flatten().map(named).collect()
}

/// The route as an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouteObject {
    /// There is none.
    Missing,
    /// It is there, in this version.
    At(String),
    /// One of that name is there, and not ours.
    Foreign,
    /// It is not known whether it is there.
    Unknown,
}

/// Everything that was read in the first round.
#[derive(Debug)]
struct Raw {
    saved: Result<Vec<ControllerRevision>, kube::Error>,
    deployments: Result<Vec<Deployment>, kube::Error>,
    services: Result<Vec<Service>, kube::Error>,
    pods: Result<Vec<Pod>, kube::Error>,
    address: Result<Option<Service>, kube::Error>,
    route: Result<Option<DynamicObject>, kube::Error>,
}

/// Reads that failed, for people.
#[derive(Debug, Default)]
struct Problems(Vec<String>);

impl Problems {
    /// The value, or the reason why there is none noted down.
    fn note<T>(&mut self, what: &str, read: Result<T, impl std::fmt::Display>) -> Option<T> {
        read.map_err(|error| {
            self.0.push(brief(&format!("cannot read {what}: {error}")));
        })
        .ok()
    }

    /// Notes down an object of somebody else that stands where one of ours belongs.
    fn foreign(&mut self, kind: &str, name: &str) {
        self.0.push(format!(
            "{kind} {name} is not of this ModelDeployment: rename or delete it"
        ));
    }

    /// What is ours of a list; what is not is left alone, and said where it is in the way.
    fn ours<K: ResourceExt>(
        &mut self,
        kind: &str,
        list: Vec<K>,
        (owner, revisions): (&Owner, &BTreeSet<String>),
    ) -> Vec<K> {
        let (ours, others): (Vec<K>, Vec<K>) = list
            .into_iter()
            .partition(|object| owner.owns(object.meta()));
        for other in others {
            if revisions.contains(&other.name_any()) {
                self.foreign(kind, &other.name_any());
            }
        }
        ours
    }
}

/// The value of a read that nothing else must wait for, or nothing.
fn aside<T>(what: &str, read: Result<T, impl std::fmt::Display>) -> Option<T> {
    read.map_err(|error| tracing::warn!(%error, "cannot read {what}"))
        .ok()
}

/// Looks at everything that a decision about an object depends on.
pub async fn observe(
    ctx: &Ctx,
    deployment: &ModelDeployment,
    state: Option<&State>,
    now: Timestamp,
) -> Sight {
    let owner = Owner::of(deployment);
    let raw = read(ctx, &owner).await;
    let mut problems = Problems::default();
    let mut raw = raw;
    let saved = own(&mut problems, &owner, deployment, &mut raw);
    let uids = Owned {
        saved: uids_of(saved.as_ref()),
        deployments: uids_of(raw.deployments.as_ref().ok()),
        services: uids_of(raw.services.as_ref().ok()),
    };
    let history = saved.clone().map(History::read).unwrap_or_default();
    let frozen = frozen(ctx, deployment, state, saved.is_some().then_some(&history));
    let plan = Plan::from_spec(&deployment.spec);
    let sources = sources(ctx, &owner, plan.as_ref().ok(), &frozen).await;
    let is_routed_by_us = wanted::is_routed_by_us(&ctx.config, deployment);

    let address = aside("the Service of the model's name", raw.address);
    let (own_route, route) = own_route(&mut problems, &owner, raw.route);
    let tracks = tracks::tracks(&mut problems, raw.deployments, raw.services, raw.pods);
    let looking_at_route = route::applied(ctx, deployment, state, own_route.as_ref());
    let judging = judgements::judgements(ctx, deployment, (state, &frozen), &sources, now);
    let (applied, judgements) = tokio::join!(looking_at_route, judging);
    let wanted = wanted::wanted(&ctx.config, deployment, plan, &sources);
    // Last, so that nothing is newer than what was heard.
    let about = (own_route.as_ref(), &wanted);
    let heard = heard::heard(ctx, &owner, (state, &frozen), about, now);

    let observation = Observation {
        name: owner.name.clone(),
        wanted,
        frozen,
        revisions: history.revisions,
        plans: history.plans.into_keys().collect(),
        tracks,
        route: rollout::observation::SeenRoute {
            rule: own_route.map(|object| http_route::read(&object, &owner.namespace)),
            applied,
            tripped: heard.tripped,
        },
        address: seen_address(ctx, &owner, is_routed_by_us, address.as_ref()),
        judgements,
        evidence: heard.evidence,
        problems: problems.0,
    };
    Sight {
        observation,
        route,
        address_exists: address.flatten().is_some(),
        owned: uids,
    }
}

/// The route that is there if it is ours, and what is known of the one that is there.
fn own_route(
    problems: &mut Problems,
    owner: &Owner,
    read: Result<Option<DynamicObject>, kube::Error>,
) -> (Option<DynamicObject>, RouteObject) {
    match problems.note("the HTTPRoute", read) {
        None => (None, RouteObject::Unknown),
        Some(None) => (None, RouteObject::Missing),
        Some(Some(object)) if owner.owns(&object.metadata) => {
            let version = object.metadata.resource_version.clone();
            (Some(object), RouteObject::At(version.unwrap_or_default()))
        }
        Some(Some(_)) => {
            problems.foreign("HTTPRoute", &owner.name);
            (None, RouteObject::Foreign)
        }
    }
}

/// Leaves in what was read only what is ours, and gives what is saved.
fn own(
    problems: &mut Problems,
    owner: &Owner,
    deployment: &ModelDeployment,
    raw: &mut Raw,
) -> Option<Vec<ControllerRevision>> {
    let spec = &deployment.spec;
    let wanted = hash::revision_name(&owner.name, spec.model.raw(), spec.runtime.raw());
    let mut names = BTreeSet::from([wanted]);
    let saved = std::mem::replace(&mut raw.saved, Ok(Vec::new()));
    let saved = problems.note("ControllerRevisions", saved);
    let saved = saved.map(|list| problems.ours("ControllerRevision", list, (owner, &names)));
    names.extend(saved.iter().flatten().map(ResourceExt::name_any));
    if let Ok(list) = &mut raw.deployments {
        *list = problems.ours("Deployment", std::mem::take(list), (owner, &names));
    }
    if let Ok(list) = &mut raw.services {
        *list = problems.ours("Service", std::mem::take(list), (owner, &names));
    }
    saved
}

async fn read(ctx: &Ctx, owner: &Owner) -> Raw {
    let ours = ListParams::default().labels(&owner.selector());
    let namespace = owner.namespace.as_str();
    let (revisions, deployments, services, pods) = (
        ctx.api::<ControllerRevision>(namespace),
        ctx.api::<Deployment>(namespace),
        ctx.api::<Service>(namespace),
        ctx.api::<Pod>(namespace),
    );
    let route_kind = http_route::resource();
    let routes: Api<DynamicObject> =
        Api::namespaced_with(ctx.client.clone(), namespace, &route_kind);
    let (saved, deployed, served, running, address, route) = tokio::join!(
        revisions.list(&ours),
        deployments.list(&ours),
        services.list(&ours),
        pods.list(&ours),
        services.get_opt(&owner.name),
        routes.get_opt(&owner.name),
    );
    Raw {
        saved: saved.map(|list| list.items),
        deployments: deployed.map(|list| list.items),
        services: served.map(|list| list.items),
        pods: running.map(|list| list.items),
        address,
        route,
    }
}

/// The plan of the run that is under way. `history` is none where it could not be read: then the
/// plan as it was read before goes on, and with it the guardrails.
fn frozen(
    ctx: &Ctx,
    deployment: &ModelDeployment,
    state: Option<&State>,
    history: Option<&History>,
) -> Frozen {
    let Some(run) = state.and_then(State::run) else {
        return Frozen::NoRun;
    };
    let Some(history) = history else {
        let known = ctx.memory.with(deployment, |entry| entry.plan.clone());
        return match known {
            Some((name, plan)) if name == run.plan => Frozen::Plan(plan),
            Some(_) | None => {
                Frozen::Unreadable("the ControllerRevisions could not be read".to_owned())
            }
        };
    };
    match history.plan(&run.plan) {
        Some(Ok(plan)) => {
            let known = (run.plan.clone(), plan.clone());
            ctx.memory
                .with(deployment, |entry| entry.plan = Some(known));
            Frozen::Plan(plan)
        }
        Some(Err(problem)) => Frozen::Unreadable(problem),
        None => Frozen::Missing,
    }
}

/// Each `MetricSource` that the wanted and the frozen plan name.
async fn sources(
    ctx: &Ctx,
    owner: &Owner,
    wanted: Option<&Plan>,
    frozen: &Frozen,
) -> BTreeMap<String, Lookup> {
    let frozen = if let Frozen::Plan(plan) = frozen {
        Some(plan)
    } else {
        None
    };
    let guardrails = wanted
        .into_iter()
        .chain(frozen)
        .flat_map(|plan| &plan.guardrails);
    let names: BTreeSet<&String> = guardrails
        .filter_map(Guardrail::prometheus)
        .map(|check| &check.source)
        .collect();
    let lookups = names.into_iter().map(|name| async move {
        (
            name.clone(),
            source::lookup(&ctx.client, name, &owner.namespace).await,
        )
    });
    futures::future::join_all(lookups)
        .await
        .into_iter()
        .collect()
}

/// `address` is none where it could not be read.
fn seen_address(
    ctx: &Ctx,
    owner: &Owner,
    is_wanted: bool,
    address: Option<&Option<Service>>,
) -> SeenAddress {
    let Some(router) = ctx.config.router_service.as_ref().filter(|_| is_wanted) else {
        return SeenAddress::NotWanted;
    };
    let host = service::router_host(router, &ctx.config.cluster_domain);
    match address {
        // What is not known is left alone.
        None => SeenAddress::Ours,
        Some(None) => SeenAddress::Missing,
        Some(Some(object)) if !owner.owns(&object.metadata) => SeenAddress::Foreign,
        Some(Some(object)) => {
            let leads_to = object
                .spec
                .as_ref()
                .and_then(|spec| spec.external_name.as_ref());
            if leads_to == Some(&host) {
                SeenAddress::Ours
            } else {
                SeenAddress::Missing
            }
        }
    }
}
