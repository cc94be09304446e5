//! Endpoints that refuse connections or break off answers are left out for a while, each time for
//! twice as long, and come back by one request that must succeed.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

/// How long an endpoint is left out the first time: long enough to spare the next requests the wait,
/// short enough that a restart is not noticed.
const FIRST: Duration = Duration::from_secs(1);
/// And at most.
const LONGEST: Duration = Duration::from_secs(30);
/// Answers that break off in a row before their endpoint is left out. One may be the request's fault.
const RESETS_MAX: u32 = 3;

/// What an endpoint's past says of it. Times are milliseconds on the pool's clock.
#[derive(Debug, Default)]
pub(super) struct Ejection {
    /// How often in a row it was left out without having proven itself since.
    strikes: AtomicU32,
    /// Answers in a row that broke off.
    resets: AtomicU32,
    /// Until when it is left out.
    until: AtomicU64,
    /// Whether the request that is to prove it is under way.
    probing: AtomicBool,
}

/// Whether an endpoint is left out, and for what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Left {
    /// It is not.
    In,
    /// It refused.
    Refusing,
    /// It broke off answers.
    Resetting { until: u64 },
}

impl Ejection {
    /// Whether it is left out at this time.
    pub(super) fn left(&self, now: u64) -> Left {
        if !self.has_strikes() {
            return Left::In;
        }
        let until = self.until.load(Ordering::Relaxed);
        if until <= now && !self.probing.load(Ordering::Relaxed) {
            return Left::In;
        }
        if self.resets.load(Ordering::Relaxed) < RESETS_MAX {
            Left::Refusing
        } else {
            Left::Resetting { until }
        }
    }

    /// Whether it has yet to prove itself.
    pub(super) fn has_strikes(&self) -> bool {
        self.strikes.load(Ordering::Relaxed) > 0
    }

    /// A request begins. True where it is the one that proves the endpoint.
    pub(super) fn begin(&self, now: u64) -> bool {
        self.has_strikes()
            && self.until.load(Ordering::Relaxed) <= now
            && !self.probing.swap(true, Ordering::Relaxed)
    }

    /// The request that was to prove it is over, or has done so.
    pub(super) fn probed(&self) {
        self.probing.store(false, Ordering::Relaxed);
    }

    /// It took a connection; where it was left out for refusing them, that proves it. True then.
    pub(super) fn connected(&self, probe: bool) -> bool {
        let proven = probe && self.resets.load(Ordering::Relaxed) < RESETS_MAX;
        if proven {
            self.strikes.store(0, Ordering::Relaxed);
        }
        proven
    }

    /// It answered. An answer from before it was left out says nothing of the time since.
    pub(super) fn answered(&self, probe: bool) {
        if probe {
            self.strikes.store(0, Ordering::Relaxed);
        }
        let reset = self.resets.load(Ordering::Relaxed);
        if reset > 0 && !self.has_strikes() {
            self.resets.store(0, Ordering::Relaxed);
        }
    }

    /// It refused a connection. `random`: any number.
    pub(super) fn refused(&self, now: u64, random: u32) {
        self.resets.store(0, Ordering::Relaxed);
        self.strike(now, random);
    }

    /// It broke off an answer, or gave none.
    pub(super) fn reset(&self, now: u64, random: u32) {
        let resets = self.resets.fetch_add(1, Ordering::Relaxed) + 1;
        if resets >= RESETS_MAX {
            self.strike(now, random);
        }
    }

    /// Leaves it out, unless it is: many requests that fail together are one failure.
    fn strike(&self, now: u64, random: u32) {
        let until = self.until.load(Ordering::Relaxed);
        if self.has_strikes() && until > now {
            return;
        }
        let strikes = self.strikes.load(Ordering::Relaxed);
        let next = now + pause(strikes, random);
        let struck = self
            .until
            .compare_exchange(until, next, Ordering::Relaxed, Ordering::Relaxed);
        if struck.is_ok() {
            self.strikes
                .store(strikes.saturating_add(1), Ordering::Relaxed);
        }
    }
}

/// Milliseconds of the pause after so many others: doubled each time, and spread by a quarter to
/// either side, so that routers and endpoints do not meet again all at once.
fn pause(strikes: u32, random: u32) -> u64 {
    let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let doubled = millis(FIRST) << strikes.min(16);
    let even = doubled.min(millis(LONGEST));
    even * 3 / 4 + ((even / 2 * u64::from(random)) >> 32)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HALF: u32 = u32::MAX / 2;

    #[test]
    fn refusing_leaves_it_out_at_once_each_time_for_longer_and_one_probe_brings_it_back() {
        let ejection = Ejection::default();
        let mut now = 0;
        for seconds in [1, 2, 4, 8, 16, 30, 30] {
            assert_eq!(ejection.left(now), Left::In);
            ejection.begin(now);
            ejection.refused(now, HALF);
            ejection.refused(now, HALF);
            ejection.probed();
            now += seconds * 1000 - 2;
            assert_eq!(ejection.left(now), Left::Refusing, "before {seconds} s");
            now += 4;
        }
        assert!(ejection.begin(now), "one request goes there");
        assert_eq!(ejection.left(now), Left::Refusing, "and no other");
        assert!(!ejection.begin(now));
        assert!(ejection.connected(true));
        ejection.probed();
        assert_eq!(ejection.left(now), Left::In);
        ejection.refused(now, HALF);
        assert_eq!(ejection.left(now + 1002), Left::In, "all is forgiven");
    }

    #[test]
    fn a_probe_that_is_broken_off_by_the_client_is_made_again() {
        let ejection = Ejection::default();
        ejection.refused(0, HALF);
        assert!(ejection.begin(5000));
        ejection.probed();
        assert_eq!(ejection.left(5000), Left::In);
        assert!(ejection.has_strikes());
        assert!(ejection.begin(5000));
    }

    #[test]
    fn answers_that_break_off_count_in_a_row_only() {
        let ejection = Ejection::default();
        for _ in 0..10 {
            ejection.reset(0, HALF);
            ejection.reset(0, HALF);
            ejection.answered(false);
            assert_eq!(ejection.left(0), Left::In);
        }
        for _ in 0..3 {
            ejection.reset(0, HALF);
        }
        assert!(matches!(ejection.left(0), Left::Resetting { .. }));
        ejection.answered(false);
        assert!(
            matches!(ejection.left(0), Left::Resetting { .. }),
            "an answer from before proves nothing"
        );
        assert!(ejection.begin(1002));
        assert!(!ejection.connected(true), "it takes connections all along");
        ejection.answered(true);
        ejection.probed();
        ejection.reset(1002, HALF);
        assert_eq!(ejection.left(1002), Left::In);
    }

    #[test]
    fn a_pause_is_spread_by_a_quarter() {
        assert_eq!((pause(0, 0), pause(0, u32::MAX)), (750, 1249));
        assert_eq!((pause(40, 0), pause(40, u32::MAX)), (22_500, 37_499));
    }
}
