//! The objects that a revision is made of.

pub mod deployment;
mod probes;
pub mod service;
pub mod trouble;
