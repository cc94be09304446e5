//! Carries out what was decided, in the order that was decided.

use crds::{
    ModelDeployment,
    gateway::HttpRoute,
    names::{MANAGER_REVISIONS, MANAGER_TRAFFIC, MANAGER_WORKLOAD},
};
use jiff::Timestamp;
use k8s_openapi::api::{
    apps::v1::{ControllerRevision, Deployment},
    core::v1::Service,
};
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions},
};
use rollout::{
    action::{Action, Route},
    plan::{DEFAULT_REQUEST_TIMEOUT, Plan},
};
use serde_json::json;

use crate::{
    ctx::Ctx,
    error::{self, Failure, exists_is_fine, none_is_fine},
    observe::{RouteObject, Sight},
    owner::Owner,
    revisions::{self, Saved},
    traffic::http_route,
    workload::{
        deployment::{PodOptions, deployment as build_deployment},
        service,
    },
};

/// The actions that only take traffic off a canary.
pub fn narrowing(actions: &[Action]) -> impl Iterator<Item = &Action> {
    actions.iter().filter(|action| action.narrows())
}

/// Carries out actions. After one that failed only those that take traffic off a canary are still
/// done: nothing may stand in their way, and everything else may depend on what failed.
pub async fn apply(
    ctx: &Ctx,
    deployment: &ModelDeployment,
    sight: &Sight,
    actions: impl Iterator<Item = &Action>,
) -> Result<(), Failure> {
    let hand = Hand {
        ctx,
        deployment,
        sight,
        owner: Owner::of(deployment),
    };
    let mut outcome = Ok(());
    for action in actions {
        if outcome.is_ok() || action.narrows() {
            let done = hand.act(action).await;
            outcome = outcome.and(done);
        }
    }
    outcome
}

/// Who acts on one object.
struct Hand<'a> {
    ctx: &'a Ctx,
    deployment: &'a ModelDeployment,
    sight: &'a Sight,
    owner: Owner,
}

impl Hand<'_> {
    async fn act(&self, action: &Action) -> Result<(), Failure> {
        match action {
            Action::SaveRevision { revision } => self.save_revision(revision).await,
            Action::SavePlan { name, plan } => self.save_plan(name, plan).await,
            Action::EnsureTrack { revision, replicas } => {
                self.ensure_track(revision, *replicas).await
            }
            Action::ApplyRoute(route) => self.apply_route(route).await,
            Action::EnsureAddress => self.ensure_address().await,
            Action::MarkStable { revision, since } => self.mark_stable(revision, *since).await,
            Action::RemoveTrack { revision } => self.remove_track(revision).await,
            Action::Forget { name } => self.forget(name).await,
        }
    }

    async fn save_revision(&self, revision: &str) -> Result<(), Failure> {
        let seen = &self.sight.observation;
        if seen.wanted.revision != revision {
            return Err(Failure::Stale {
                what: format!("save revision {revision}"),
            });
        }
        let image = self.ctx.config.inference_image.as_deref();
        let saved = Saved::of(&self.deployment.spec, image)?;
        let number = seen
            .revisions
            .values()
            .map(|revision| revision.number)
            .max()
            .unwrap_or(0)
            + 1;
        let object = revisions::revision_object(&self.owner, revision, &saved, number);
        self.create_revision(&object, revision).await
    }

    async fn save_plan(&self, name: &str, plan: &Plan) -> Result<(), Failure> {
        let object = revisions::plan_object(&self.owner, name, plan);
        self.create_revision(&object, name).await
    }

    async fn create_revision(
        &self,
        object: &ControllerRevision,
        name: &str,
    ) -> Result<(), Failure> {
        let params = created_by(MANAGER_REVISIONS);
        let what = format!("create ControllerRevision {name}");
        let created = exists_is_fine(self.revisions().create(&params, object).await);
        if let Some(_created) = created.map_err(Failure::api(what))? {
            return Ok(());
        }
        self.saved(name).await.map(drop)
    }

    /// A saved revision or plan; one that somebody else put there says nothing about ours.
    async fn saved(&self, name: &str) -> Result<ControllerRevision, Failure> {
        let what = format!("read ControllerRevision {name}");
        let object = self
            .revisions()
            .get(name)
            .await
            .map_err(Failure::api(what.clone()))?;
        if !self.owner.owns(&object.metadata) {
            let (kind, name) = ("ControllerRevision", name.to_owned());
            return Err(Failure::Foreign { what, kind, name });
        }
        Ok(object)
    }

    /// A Deployment that is there keeps its pod template: another release of the operator, or other
    /// flags, must not restart pods.
    async fn ensure_track(&self, revision: &str, replicas: u32) -> Result<(), Failure> {
        let deployments: Api<Deployment> = self.ctx.api(&self.owner.namespace);
        if self.sight.observation.tracks.contains_key(revision) {
            let scaled = Patch::Merge(json!({ "spec": { "replicas": replicas } }));
            let params = PatchParams {
                field_manager: Some(MANAGER_WORKLOAD.to_owned()),
                ..PatchParams::default()
            };
            deployments
                .patch(revision, &params, &scaled)
                .await
                .map_err(Failure::api(format!("scale Deployment {revision}")))?;
        } else if self.sight.owned.deployments.contains_key(revision) {
            // Ours and on its way out: it must be gone first.
            let what = format!("create Deployment {revision}");
            return Err(Failure::Stale { what });
        } else {
            let saved = Saved::read(&self.saved(revision).await?).map_err(Failure::Bug)?;
            let built =
                build_deployment(&self.owner, revision, replicas, &saved, &self.pod_options())?;
            let params = PatchParams::apply(MANAGER_WORKLOAD);
            let made = deployments
                .patch(revision, &params, &Patch::Apply(&built))
                .await;
            made.map_err(foreign("Deployment", revision))?;
        }
        self.ensure_service(revision).await
    }

    async fn ensure_service(&self, revision: &str) -> Result<(), Failure> {
        let built = Patch::Apply(service::service(&self.owner, revision));
        let services = self.services();
        if self.sight.owned.services.contains_key(revision) {
            let params = applied_by(MANAGER_WORKLOAD);
            let applied = services.patch(revision, &params, &built).await;
            applied.map_err(Failure::api(format!("apply Service {revision}")))?;
        } else {
            let params = PatchParams::apply(MANAGER_WORKLOAD);
            let made = services.patch(revision, &params, &built).await;
            made.map_err(foreign("Service", revision))?;
        }
        Ok(())
    }

    fn pod_options(&self) -> PodOptions {
        let traffic = self.deployment.spec.traffic.as_ref();
        let timeouts = traffic.and_then(|traffic| traffic.timeouts.as_ref());
        let request = timeouts.and_then(|timeouts| timeouts.request.as_ref());
        PodOptions {
            pull_secrets: self.ctx.config.image_pull_secrets.clone(),
            longest_request: request
                .and_then(|request| request.parse().ok())
                .unwrap_or(DEFAULT_REQUEST_TIMEOUT),
        }
    }

    /// One patch: weights, split and mark are never apart. A write that leaves the
    /// canary with traffic names the version that it was decided from, so that it never overtakes
    /// another; one that takes all of it is never refused for that.
    async fn apply_route(&self, route: &Route) -> Result<(), Failure> {
        let what = || format!("apply HTTPRoute {}", self.owner.name);
        let version = match (&self.sight.route, route.must_not_overtake()) {
            (RouteObject::At(version), true) => Some(version.as_str()),
            (RouteObject::Unknown, true) => return Err(Failure::Stale { what: what() }),
            (RouteObject::Foreign, _) => {
                let (what, name) = (what(), self.owner.name.clone());
                let kind = "HTTPRoute";
                return Err(Failure::Foreign { what, kind, name });
            }
            (RouteObject::Missing, true) | (_, false) => None,
        };
        let manifest = http_route::manifest(&self.owner, route, version)
            .map_err(|error| Failure::Bug(error.to_string()))?;
        let routes: Api<HttpRoute> = self.ctx.api(&self.owner.namespace);
        let params = PatchParams {
            // One that came meanwhile is looked at first.
            force: self.sight.route != RouteObject::Missing,
            ..PatchParams::apply(MANAGER_TRAFFIC)
        };
        routes
            .patch(&self.owner.name, &params, &Patch::Apply(&manifest))
            .await
            .map_err(Failure::api(what()))?;
        Ok(())
    }

    /// A Service that is not there is created, not applied: if somebody else makes one of that name
    /// first, theirs stays.
    async fn ensure_address(&self) -> Result<(), Failure> {
        let config = &self.ctx.config;
        let Some(router) = &config.router_service else {
            return Ok(());
        };
        let host = service::router_host(router, &config.cluster_domain);
        let built = service::address(&self.owner, &host);
        let name = self.owner.name.as_str();
        let what = format!("create Service {name}");
        if self.sight.address_exists {
            let params = applied_by(MANAGER_TRAFFIC);
            self.services()
                .patch(name, &params, &Patch::Apply(&built))
                .await
                .map_err(Failure::api(what))?;
        } else {
            let params = created_by(MANAGER_TRAFFIC);
            self.services()
                .create(&params, &built)
                .await
                .map_err(Failure::api(what))?;
        }
        Ok(())
    }

    async fn mark_stable(&self, revision: &str, since: Timestamp) -> Result<(), Failure> {
        let params = PatchParams {
            field_manager: Some(MANAGER_REVISIONS.to_owned()),
            ..PatchParams::default()
        };
        self.revisions()
            .patch(
                revision,
                &params,
                &Patch::Merge(revisions::stable_mark(since)),
            )
            .await
            .map_err(Failure::api(format!(
                "mark ControllerRevision {revision} stable"
            )))?;
        Ok(())
    }

    /// Removes what was seen, and nothing that took its place since.
    async fn remove_track(&self, revision: &str) -> Result<(), Failure> {
        let owned = &self.sight.owned;
        let deployments: Api<Deployment> = self.ctx.api(&self.owner.namespace);
        if let Some(uid) = owned.deployments.get(revision) {
            none_is_fine(deployments.delete(revision, &exactly(uid)).await)
                .map_err(Failure::api(format!("delete Deployment {revision}")))?;
        }
        if let Some(uid) = owned.services.get(revision) {
            none_is_fine(self.services().delete(revision, &exactly(uid)).await)
                .map_err(Failure::api(format!("delete Service {revision}")))?;
        }
        Ok(())
    }

    async fn forget(&self, name: &str) -> Result<(), Failure> {
        if let Some(uid) = self.sight.owned.saved.get(name) {
            none_is_fine(self.revisions().delete(name, &exactly(uid)).await)
                .map_err(Failure::api(format!("delete ControllerRevision {name}")))?;
        }
        Ok(())
    }

    fn revisions(&self) -> Api<ControllerRevision> {
        self.ctx.api(&self.owner.namespace)
    }

    fn services(&self) -> Api<Service> {
        self.ctx.api(&self.owner.namespace)
    }
}

/// Why an object that was not seen could not be made. It is applied without force: where there is one
/// all the same, it is somebody else's and stays theirs.
fn foreign(kind: &'static str, name: &str) -> impl FnOnce(kube::Error) -> Failure {
    let what = format!("apply {kind} {name}");
    let name = name.to_owned();
    move |error| {
        if error::code(&error) == Some(409) {
            Failure::Foreign { what, kind, name }
        } else {
            Failure::api(what)(error)
        }
    }
}

/// Deletes the object of that uid alone.
fn exactly(uid: &str) -> DeleteParams {
    let uid = (!uid.is_empty()).then(|| uid.to_owned());
    DeleteParams {
        preconditions: Some(Preconditions {
            uid,
            resource_version: None,
        }),
        ..DeleteParams::background()
    }
}

fn applied_by(manager: &str) -> PatchParams {
    PatchParams::apply(manager).force()
}

fn created_by(manager: &str) -> PostParams {
    PostParams {
        field_manager: Some(manager.to_owned()),
        ..PostParams::default()
    }
}
