//! The scenarios that run on a real cluster, and what they are made of: a load driver that keeps
//! every answer, a file server for model artifacts, a proxy that loses answers of the API server on
//! demand, and what installs, deploys and waits.
//!
//! No fakes: everything here talks to a real Kubernetes and to real pods.

pub mod bench;
pub mod chart;
pub mod cluster;
pub mod demo;
pub mod fault_pod;
pub mod fault_proxy;
pub mod files;
pub mod load;
pub mod load_pod;
pub mod model_deployment;
pub mod models;
pub mod prometheus;
pub mod router;
pub mod serve;
pub mod targets;
pub mod timeline;
pub mod wait;
