//! What is watched, and how often a failed reconcile is tried again.

use std::{sync::Arc, time::Duration};

use crds::{MetricSource, ModelDeployment, contract, gateway::HttpRoute};
use futures::{StreamExt as _, future};
use k8s_openapi::{
    NamespaceResourceScope,
    api::{
        apps::v1::{ControllerRevision, Deployment},
        core::v1::Service,
    },
};
use kube::{
    Api, Client, Resource,
    runtime::{
        Controller,
        controller::{Action, Config},
        reflector::{ObjectRef, Store},
        utils::Backoff,
        watcher,
    },
};
use rand::RngExt as _;

use crate::{ctx::Ctx, error::Failure, reconcile::reconcile};

/// How long the API server lets a watch live: a dead connection is noticed five seconds later.
const WATCH_SECONDS: u32 = 50;
/// Objects that are worked on at one time.
const CONCURRENCY: u16 = 16;
/// Changes of one object that come within this time are one change.
const DEBOUNCE: Duration = Duration::from_millis(50);
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// How long nothing is watched after a watch broke. One pause is for all watches together, so it
/// stays short: a kind that may not be watched must not hide what happens to the others.
#[derive(Debug)]
struct WatchPause(Duration);

const WATCH_PAUSE_FIRST: Duration = Duration::from_millis(200);
const WATCH_PAUSE_LONGEST: Duration = Duration::from_secs(2);

impl Iterator for WatchPause {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let pause = self.0;
        self.0 = (pause * 2).min(WATCH_PAUSE_LONGEST);
        Some(pause)
    }
}

impl Backoff for WatchPause {
    fn reset(&mut self) {
        self.0 = WATCH_PAUSE_FIRST;
    }
}

/// Reconciles until its future is dropped.
pub async fn run(ctx: Arc<Ctx>, watch: Client) {
    let namespaces = match ctx.config.watch_namespaces.as_slice() {
        [] => vec![None],
        some => some.iter().cloned().map(Some).collect(),
    };
    let controllers = namespaces
        .into_iter()
        .map(|namespace| control(Arc::clone(&ctx), watch.clone(), namespace));
    future::join_all(controllers).await;
}

async fn control(ctx: Arc<Ctx>, watch: Client, namespace: Option<String>) {
    let all = watcher::Config::default().timeout(WATCH_SECONDS);
    let ours = all.clone().labels(&format!(
        "{}={}",
        contract::LABEL_MANAGED_BY,
        contract::MANAGED_BY
    ));
    let place = namespace.as_deref();
    let controller = Controller::new(api::<ModelDeployment>(&watch, place), all.clone());
    let store = controller.store();
    controller
        .with_config(
            Config::default()
                .concurrency(CONCURRENCY)
                .debounce(DEBOUNCE),
        )
        .trigger_backoff(WatchPause(WATCH_PAUSE_FIRST))
        .owns(api::<Deployment>(&watch, place), ours.clone())
        .owns(api::<Service>(&watch, place), ours.clone())
        .owns(api::<ControllerRevision>(&watch, place), ours.clone())
        .owns(api::<HttpRoute>(&watch, place), ours)
        .watches(Api::<MetricSource>::all(watch.clone()), all, move |_| {
            everyone(&store)
        })
        .reconcile_on(ctx.routers.wakes(place))
        .run(reconcile, retry, ctx)
        .for_each(|outcome| async move {
            match outcome {
                Ok((object, _)) => tracing::trace!(%object, "reconciled"),
                // A failed reconcile has said so itself; this is a watch that broke, and is retried.
                Err(error) => tracing::debug!(%error, "controller"),
            }
        })
        .await;
}

fn api<K>(client: &Client, namespace: Option<&str>) -> Api<K>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    match namespace {
        None => Api::all(client.clone()),
        Some(namespace) => Api::namespaced(client.clone(), namespace),
    }
}

fn everyone(store: &Store<ModelDeployment>) -> Vec<ObjectRef<ModelDeployment>> {
    store
        .state()
        .iter()
        .map(|object| ObjectRef::from_obj(&**object))
        .collect()
}

/// When a failed reconcile is tried again.
#[expect(
    clippy::needless_pass_by_value,
    reason = "the signature that the controller calls"
)]
fn retry(object: Arc<ModelDeployment>, _: &Failure, ctx: Arc<Ctx>) -> Action {
    let failures = ctx.memory.with(&object, |entry| {
        entry.failures = entry.failures.saturating_add(1);
        entry.failures
    });
    Action::requeue(pause(failures, rand::rng().random_range(0.5..=1.0)))
}

/// The pause after so many failures in a row: doubled each time, and spread, so that objects that
/// failed together do not come back together.
fn pause(failures: u32, spread: f64) -> Duration {
    let doubled = FIRST_PAUSE.saturating_mul(2_u32.saturating_pow(failures.saturating_sub(1)));
    doubled.min(LONGEST_PAUSE).mul_f64(spread)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_and_stop_growing() {
        assert_eq!(pause(1, 1.0), FIRST_PAUSE);
        assert_eq!(pause(2, 1.0), FIRST_PAUSE * 2);
        assert_eq!(pause(2, 0.5), FIRST_PAUSE);
        assert_eq!(pause(u32::MAX, 1.0), LONGEST_PAUSE);
    }
}
