//! The metrics servers that guardrails ask.

pub mod prometheus;
pub mod source;
