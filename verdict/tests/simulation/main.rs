//! Whole rollouts, event by event, from fixed seeds: how often a good canary is rolled back, and
//! how soon a bad one is.
#![allow(
    clippy::tests_outside_test_module,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "integration tests"
)]

mod detection;
mod null;
mod random;
