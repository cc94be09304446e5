//! What the routers say of a run: what they saw, and whether one of them took the canary out.

use crds::{
    contract::{self, Trip},
    gateway::{HttpRouteStatus, RouteParentStatus},
};
use jiff::Timestamp;
use kube::api::DynamicObject;
use rollout::{
    evidence::RunEvidence,
    observation::{Frozen, Wanted},
    state::{Phase, Run, State},
};
use serde::Deserialize as _;

use crate::{args::NamespacedName, ctx::Ctx, owner::Owner, routers::Follow};

/// What the routers say of a run.
#[derive(Debug, Default)]
pub(super) struct Heard {
    pub(super) evidence: Option<RunEvidence>,
    pub(super) tripped: Option<Trip>,
}

/// What was heard of the object's run, and from here on is listened for.
pub(super) fn heard(
    ctx: &Ctx,
    owner: &Owner,
    (state, frozen): (Option<&State>, &Frozen),
    (route, wanted): (Option<&DynamicObject>, &Wanted),
    now: Timestamp,
) -> Heard {
    let name = NamespacedName {
        namespace: owner.namespace.clone(),
        name: owner.name.clone(),
    };
    let Some(run) = state.and_then(State::run) else {
        // Of a status that cannot be read it is not known whether there is a run.
        if !state.is_some_and(|state| matches!(state.phase, Phase::Unknown { .. })) {
            ctx.routers.at_rest(&name);
        }
        return Heard::default();
    };
    let durable = route.and_then(|route| trip(route, run));
    if let Some(trip) = &durable {
        ctx.routers.tripped(&name, trip.clone());
    }
    let plan = match frozen {
        Frozen::Plan(plan) => Some(plan),
        Frozen::NoRun | Frozen::Missing | Frozen::Unreadable(_) => None,
    };
    let judged = plan.filter(|plan| wanted.routers > 0 && plan.for_routers().next().is_some());
    let evidence = judged.and_then(|plan| {
        let follow = Follow {
            run: run.clone(),
            plan: plan.clone(),
            routers: wanted.routers,
            by_user: wanted.route.key.is_some(),
        };
        ctx.routers.follow(&name, follow, now)
    });
    Heard {
        evidence,
        tripped: ctx.routers.trip_of(&name, &run.id).or(durable),
    }
}

/// The trip of a run that our routers have written into the route's status.
fn trip(route: &DynamicObject, run: &Run) -> Option<Trip> {
    let status = HttpRouteStatus::deserialize(route.data.get("status")?).ok()?;
    let ours = |parent: &&RouteParentStatus| parent.controller_name == contract::GATEWAY_CONTROLLER;
    let conditions = status
        .parents
        .iter()
        .filter(ours)
        .flat_map(|parent| &parent.conditions);
    let is_trip =
        |type_: &str, status: &str| type_ == contract::CONDITION_TRIPPED && status == "True";
    conditions
        .filter(|condition| is_trip(&condition.type_, &condition.status))
        .filter_map(|condition| Trip::from_condition_message(&condition.message))
        .find(|trip| trip.run == run.id && trip.revision == run.revision)
}
