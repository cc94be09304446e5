//! Whether the data plane serves the route.

use crds::{ModelDeployment, gateway::HttpRoute};
use kube::{ResourceExt as _, api::DynamicObject};
use rollout::{
    observation::Applied,
    state::{Phase, State},
};

use crate::{
    args::NamespacedName,
    clock,
    ctx::Ctx,
    routers::Awaited,
    traffic::{applied, http_route},
};

/// Whether the data plane serves the route as it is. Not being told counts as not being served.
pub(super) async fn applied(
    ctx: &Ctx,
    deployment: &ModelDeployment,
    state: Option<&State>,
    route: Option<&DynamicObject>,
) -> Applied {
    try_applied(ctx, deployment, state, route)
        .await
        .unwrap_or_else(|problem| {
            tracing::info!(problem, "it is not known whether the route is served");
            Applied::No
        })
}

async fn try_applied(
    ctx: &Ctx,
    deployment: &ModelDeployment,
    state: Option<&State>,
    route: Option<&DynamicObject>,
) -> Result<Applied, String> {
    let Some(object) = route else {
        return Ok(Applied::No);
    };
    let namespace = object.namespace().unwrap_or_default();
    let route: HttpRoute = object
        .clone()
        .try_parse()
        .map_err(|error| error.to_string())?;
    let parents = &route.spec.parent_refs;
    let is_ours = ctx
        .gateways
        .are_any_ours(&ctx.client, parents, &namespace)
        .await
        .map_err(|error| format!("the Gateways: {error}"))?;
    if !is_ours {
        return Ok(accepted(ctx, deployment, &route));
    }
    let version = object.resource_version().unwrap_or_default();
    let is_settled = state.is_some_and(|state| matches!(state.phase, Phase::Settled { .. }));
    let known = ctx.memory.with(deployment, |entry| entry.applied.clone());
    // At rest one look at each version is enough; in a run every decision needs a fresh one.
    if is_settled && known.as_ref() == Some(&version) {
        return Ok(Applied::Yes);
    }
    let awaited = Awaited {
        route: NamespacedName {
            namespace,
            name: object.name_any(),
        },
        digest: http_route::digest(object),
    };
    let applied = ctx.routers.all_serve(&ctx.client, &awaited).await?;
    let is_served = applied == Applied::Yes;
    ctx.memory.with(deployment, |entry| {
        entry.applied = is_served.then_some(version);
    });
    Ok(applied)
}

/// What can be known of another implementation.
fn accepted(ctx: &Ctx, deployment: &ModelDeployment, route: &HttpRoute) -> Applied {
    let now = clock::monotonic();
    let generation = route.metadata.generation.unwrap_or(0);
    let is_accepted = applied::is_accepted(route);
    ctx.memory.with(deployment, |entry| {
        if !is_accepted {
            entry.accepted = None;
            return Applied::No;
        }
        let since = match entry.accepted {
            Some((known, since)) if known == generation => since,
            Some(_) | None => now,
        };
        entry.accepted = Some((generation, since));
        applied::settled(since, now)
    })
}
