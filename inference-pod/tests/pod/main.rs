//! The real binary, from its flags to its exit.

#![allow(clippy::tests_outside_test_module, reason = "integration tests")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::unwrap_in_result,
    reason = "a test that can not go on fails"
)]

mod artifact;
mod bad_input;
mod contract;
mod drain;
mod load;
mod onnx;
mod process;
mod protocol;
