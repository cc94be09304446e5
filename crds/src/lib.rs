//! The API of Sluice (`sluice.dev/v1alpha1`): its types, their validation, the manifests generated
//! from them, and the contract between the programs.
//!
//! No client, no runtime, no I/O: whoever imports this crate gets values.

#![allow(
    unreachable_pub,
    reason = "KubeSchema repeats each public type inside a private scope"
)]
#![allow(
    clippy::doc_markdown,
    reason = "kubectl explain prints these texts as they are"
)]

pub mod as_written;
pub mod contract;
pub mod gateway;
pub mod guardrail;
pub mod hash;
pub mod metric_source;
pub mod model_deployment;
pub mod names;
pub mod quantity;
pub mod runtime;
pub mod status;
pub mod steps;
pub mod traffic;

pub use metric_source::{MetricSource, MetricSourceSpec};
pub use model_deployment::{ModelDeployment, ModelDeploymentSpec};
pub use status::ModelDeploymentStatus;
