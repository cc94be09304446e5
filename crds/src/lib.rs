//! The API of Sluice (`sluice.dev/v1alpha1`): its types, their validation, the manifests generated
//! from them, and the contract between the programs.
//!
//! No client, no runtime, no I/O: whoever imports this crate gets values.

pub mod contract;
pub mod gateway;
