//! The rollout machine: every decision about a `ModelDeployment`, made from values alone.
//!
//! [`decide`] takes where the rollout stands ([`state::State`], read from the status), what is seen
//! now ([`observation::Observation`]) and the time, and says where it stands next, what is to change
//! in the cluster ([`action::Action`]) and why. No I/O, no clock, no randomness: the same values
//! give the same decision, in the operator, in a test and in a simulation.

pub mod action;
mod desired;
pub mod evidence;
pub mod guardrail;
pub mod observation;
pub mod plan;
pub mod report;
pub mod state;
mod transition;
pub mod weight;
pub mod why;

use jiff::{SignedDuration, Timestamp};

use crate::{
    action::Action, observation::Observation, state::State, transition::Transition, why::Why,
};

/// What was decided.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// Where the rollout stands from here on.
    pub next: State,
    /// What is to change in the cluster, in this order, once `next` is recorded.
    pub actions: Vec<Action>,
    /// When to look again at the latest, even if nothing happens.
    pub wake_after: SignedDuration,
    /// Why the rollout stands where it stands.
    pub why: Why,
    /// Whether `next` holds a new decision record (its last), which is announced as an Event.
    pub is_transition: bool,
}

/// Decides. `state` is none when the object has no status: a new object, or one whose status was
/// lost.
pub fn decide(state: Option<&State>, seen: &Observation, now: Timestamp) -> Decision {
    let present = state.cloned().unwrap_or_else(|| transition::recover(seen));
    let seen = &*evidence::with_judgements(&present, seen, now);
    let Transition {
        mut next,
        why,
        record,
    } = transition::advance(&present, seen, now);
    if record.is_some() {
        evidence::record(&mut next, seen);
    }
    let desired = desired::desired(&next, seen);
    let actions = desired::diff(&desired, &next, seen, now);
    let is_transition = record.is_some();
    let wake_after = transition::wake_after(&next, seen, is_transition, now);
    let next = transition::with_record(next, record, seen, now);
    Decision {
        next,
        actions,
        wake_after,
        why,
        is_transition,
    }
}
