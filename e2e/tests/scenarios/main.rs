//! What must happen on a real cluster. Needs the one of KUBECONFIG, with our images in it; without
//! one every test fails and says how to bring one up.
#![allow(clippy::tests_outside_test_module, reason = "integration tests")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::unwrap_in_result,
    clippy::large_futures,
    reason = "a test fails by a panic, and its stack is large enough"
)]

mod crash;
mod hold;
mod promote;
mod rollback;
mod scenario;
mod spec;
mod supersede;
mod trip;
