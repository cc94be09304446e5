//! The only place that reads the clocks.

use jiff::Timestamp;
use tokio::time::Instant;

/// The wall clock, for what is recorded, in whole milliseconds. A status keeps whole seconds only:
/// `rollout` rounds what it records up, so that no wait ends early.
#[expect(
    clippy::disallowed_methods,
    reason = "this is where the shell takes the time from"
)]
pub fn now() -> Timestamp {
    let now = Timestamp::now();
    Timestamp::from_millisecond(now.as_millisecond()).unwrap_or(now)
}

/// The clock that never goes back, for waits.
pub fn monotonic() -> Instant {
    Instant::now()
}
