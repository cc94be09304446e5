//! How many requests may be sent again.

use std::sync::atomic::{AtomicU64, Ordering};

/// A request that is sent again costs so much.
const COST: u64 = 1000;
/// Each request pays in so much: of five one may be sent again.
const PAID: u64 = COST / 5;
/// So many a second are free, where there is little traffic.
const FREE_PER_SECOND: u64 = 10;
/// At most so many at once: an endpoint that goes away takes all that wait for it along.
const FILL: u64 = 500 * COST;

/// A bucket of tokens, so that a backend that is down does not multiply the load on what is left of
/// it. Times are milliseconds on any clock that begins at 0.
#[derive(Debug)]
pub struct RetryBudget {
    tokens: AtomicU64,
    /// Up to when the free ones were paid in.
    paid_until: AtomicU64,
}

impl Default for RetryBudget {
    fn default() -> Self {
        Self {
            tokens: AtomicU64::new(FILL),
            paid_until: AtomicU64::new(0),
        }
    }
}

impl RetryBudget {
    /// A request came.
    pub fn pay_in(&self) {
        // Not exact where many meet at the brim, and need not be.
        if self.tokens.load(Ordering::Relaxed) < FILL {
            self.tokens.fetch_add(PAID, Ordering::Relaxed);
        }
    }

    /// Whether a request may be sent again at this time; takes what that costs.
    pub fn take(&self, now: u64) -> bool {
        let since = self.paid_until.fetch_max(now, Ordering::Relaxed);
        let free = now.saturating_sub(since) * FREE_PER_SECOND * COST / 1000;
        let spent = self
            .tokens
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |tokens| {
                (tokens + free).min(FILL).checked_sub(COST)
            });
        if spent.is_err() {
            self.tokens.fetch_add(free, Ordering::Relaxed);
        }
        spent.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(budget: &RetryBudget, now: u64) -> usize {
        (0..10_000).take_while(|_| budget.take(now)).count()
    }

    #[test]
    fn a_burst_is_bounded_and_a_trickle_stays_free() {
        let budget = RetryBudget::default();
        assert_eq!(taken(&budget, 0), 500);
        assert_eq!(taken(&budget, 1000), 10);
        assert_eq!(taken(&budget, 1050), 0);
        assert_eq!(taken(&budget, 1100), 1, "halves add up");
        assert_eq!(taken(&budget, 3_600_000), 500);
    }

    #[test]
    fn of_five_requests_one_may_be_sent_again() {
        let budget = RetryBudget::default();
        taken(&budget, 0);
        let again = (0..1000).filter(|_| {
            budget.pay_in();
            budget.take(0)
        });
        assert_eq!(again.count(), 200);
        (0..10_000).for_each(|_| budget.pay_in());
        assert_eq!(taken(&budget, 0), 500);
    }
}
