//! How requests come in.

pub(crate) mod rest;

use std::time::Duration;

/// Where the time of a request went.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Timing {
    /// Waiting for a slot.
    pub(crate) queued: Duration,
    /// In the engine.
    pub(crate) ran: Duration,
}
