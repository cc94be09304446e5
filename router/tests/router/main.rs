//! The proxy core in one process: real sockets on loopback, tables built from objects, no API server.
#![allow(
    clippy::tests_outside_test_module,
    unreachable_pub,
    reason = "integration tests"
)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs,
    reason = "a test that cannot go on should say where"
)]

mod backend;
mod balance;
mod evidence;
mod gone;
mod hostile;
mod killed;
mod lead;
mod mirror;
mod objects;
mod patience;
mod persist;
mod replicas;
mod retry;
mod reweigh;
mod rolling;
mod split;
mod statuses;
mod stream;
mod strict;
mod testers;
mod tripping;
mod trips;
mod world;
