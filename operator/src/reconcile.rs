//! One look at one object.

use std::{sync::Arc, time::Duration};

use crds::ModelDeployment;
use kube::{ResourceExt as _, runtime::controller::Action};
use rand::RngExt as _;
use rollout::state::State;
use tracing::Instrument as _;

use crate::{
    apply::{self, apply},
    args::NamespacedName,
    clock,
    ctx::Ctx,
    error::{Class, Failure},
    events::announce,
    observe::observe,
    record::{Recorded, record},
};

/// Waits from here on are guards against an event that never came, not timers of a rollout.
const LONG_WAIT: Duration = Duration::from_mins(5);

/// Looks at an object: observes, decides, records, acts.
pub async fn reconcile(object: Arc<ModelDeployment>, ctx: Arc<Ctx>) -> Result<Action, Failure> {
    let span = tracing::info_span!(
        "reconcile",
        namespace = object.namespace(),
        model_deployment = object.name_any()
    );
    let started = clock::monotonic();
    // On the heap: what one look holds is large, and few look at a time.
    let outcome = Box::pin(look(&object, &ctx)).instrument(span.clone()).await;
    let seconds = started.elapsed().as_secs_f64();
    match &outcome {
        Ok(_) => {
            ctx.telemetry.reconciled("ok", seconds);
            ctx.memory.succeeded(&object);
            span.in_scope(|| tracing::debug!(seconds, "reconciled"));
        }
        Err(failure) => {
            ctx.telemetry.reconciled(failure.class().name(), seconds);
            span.in_scope(|| report(failure));
        }
    }
    outcome
}

/// A conflict is part of the work; the metrics count it.
fn report(failure: &Failure) {
    let class = failure.class();
    if class != Class::Conflict {
        tracing::warn!(%failure, class = class.name(), "reconcile failed");
    }
}

async fn look(object: &ModelDeployment, ctx: &Ctx) -> Result<Action, Failure> {
    let Some(deployment) = fresh(object, ctx).await? else {
        ctx.memory.forget(object);
        ctx.routers.forget(&NamespacedName {
            namespace: object.namespace().unwrap_or_default(),
            name: object.name_any(),
        });
        return Ok(Action::await_change());
    };
    let now = clock::now();
    let status = deployment.status.clone().unwrap_or_default();
    let state = State::read(&status);
    let sight = observe(ctx, &deployment, state.as_ref(), now).await;
    let decision = rollout::decide(state.as_ref(), &sight.observation, now);
    let next = rollout::report::status(&status, &decision, &sight.observation, now);
    match record(ctx, &deployment, next).await {
        Recorded::Done => {}
        Recorded::Gone => return Ok(Action::await_change()),
        Recorded::Refused(error) if error.class() == Class::Conflict => return Err(error),
        // What takes traffic off needs no record: the mark in the same patch remembers it.
        Recorded::Refused(error) => {
            apply(
                ctx,
                &deployment,
                &sight,
                apply::narrowing(&decision.actions),
            )
            .await?;
            return Err(error);
        }
    }
    announce(ctx, &deployment, &decision, now).await;
    apply(ctx, &deployment, &sight, decision.actions.iter()).await?;
    let wake_after = Duration::try_from(decision.wake_after).unwrap_or_default();
    Ok(Action::requeue(spread(
        wake_after,
        rand::rng().random_range(0.8..=1.0),
    )))
}

/// Long waits end a little earlier, each at another time: objects that a restart looked at together
/// must not all be looked at together ever after.
fn spread(wake_after: Duration, share: f64) -> Duration {
    if wake_after < LONG_WAIT {
        wake_after
    } else {
        wake_after.mul_f64(share)
    }
}

/// The object as the API server has it: the watch may lag behind our own last record, and what was
/// decided from an older one would be decided twice.
async fn fresh(object: &ModelDeployment, ctx: &Ctx) -> Result<Option<ModelDeployment>, Failure> {
    let namespace = object.namespace().unwrap_or_default();
    let fresh = ctx
        .api::<ModelDeployment>(&namespace)
        .get_opt(&object.name_any())
        .await
        .map_err(Failure::api("read the ModelDeployment"))?;
    // What is being deleted takes everything along by owner references.
    Ok(fresh.filter(|fresh| fresh.metadata.deletion_timestamp.is_none()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_long_waits_are_spread_and_never_longer() {
        let short = Duration::from_secs(10);
        assert_eq!(spread(short, 0.8), short);
        assert_eq!(spread(LONG_WAIT, 0.8), Duration::from_mins(4));
        assert_eq!(spread(LONG_WAIT, 1.0), LONG_WAIT);
    }
}
