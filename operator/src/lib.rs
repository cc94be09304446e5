//! The thin shell around the rollout machine: it observes the cluster, lets `rollout::decide`
//! decide, records the decision in the status, and carries it out. It decides nothing.
//!
//! `run -> controller -> reconcile -> {observe, record, apply} -> adapters`.

pub mod apply;
pub mod args;
pub mod client;
pub mod clock;
pub mod controller;
pub mod ctx;
pub mod defaults;
pub mod error;
pub mod events;
pub mod health;
pub mod lease;
pub mod memory;
pub mod metrics;
pub mod observe;
pub mod owner;
pub mod reconcile;
pub mod record;
pub mod revisions;
pub mod routers;
pub mod run;
pub mod serve;
pub mod telemetry;
pub mod traffic;
pub mod workload;
