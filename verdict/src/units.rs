//! One user, one event.
//!
//! A user who fails once fails again: retries, a page that calls ten times, an account that no
//! model can serve. Such events are not fresh flips of the coin that splits traffic, and counting
//! them would roll back good canaries. So a test counts a user's *first* bad event, and the key is
//! the user alone, not the user on a revision. A request without a key is split at random and is
//! its own unit.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::attribution::Track;

/// A bad event, as the router saw it. What does not count is not made into one: mirrored requests,
/// later attempts, client aborts, no endpoint, testers, warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct BadEvent {
    /// The keyed hash of the user, the same in every replica; absent when the request had no key.
    pub user: Option<u64>,
    /// Where the first attempt went.
    pub track: Track,
    /// The canary's weight, a share, when the request was *routed*.
    pub weight: f64,
    /// When, in seconds of whatever clock the caller keeps.
    pub at: u64,
}

/// The events of several replicas with each user's first bad event only; events without a user are
/// all kept. In the order of time.
///
/// Commutative, associative and idempotent over users: what is kept is the least by time, then
/// track, then weight, whoever saw it.
pub fn first_bad(events: impl IntoIterator<Item = BadEvent>) -> Vec<BadEvent> {
    let order = |left: &BadEvent, right: &BadEvent| {
        let by_time = (left.at, left.track).cmp(&(right.at, right.track));
        by_time.then(left.weight.total_cmp(&right.weight))
    };
    let mut of_users = BTreeMap::<u64, BadEvent>::new();
    let mut kept = Vec::new();
    for event in events {
        let Some(user) = event.user else {
            kept.push(event);
            continue;
        };
        let first = of_users.entry(user).or_insert(event);
        if order(&event, first).is_lt() {
            *first = event;
        }
    }
    kept.extend(of_users.into_values());
    kept.sort_by(|left, right| order(left, right).then(left.user.cmp(&right.user)));
    kept
}

/// Which users were seen, in bounded memory.
///
/// Users are ranked by a hash, and the set keeps those of the lowest ranks. When it is full, the
/// highest rank leaves, and from then on nobody of that rank or above is counted (bottom-k
/// sampling). So a user is never counted twice, which would make a test wrong; users are only
/// missed, evenly over tracks and outcomes, which makes it slower. A Bloom filter would be as safe,
/// but it ends by calling everybody seen; an evicting cache would count users again.
///
/// The rank is not the order of the caller's hash: traffic is split by a hash of the same key, and
/// a set that kept the low ones would keep the canary's users and drop those of stable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FirstSeen {
    capacity: usize,
    ranks: BTreeSet<u64>,
    /// Ranks from here on are not counted.
    ceiling: u64,
}

impl FirstSeen {
    /// Takes about a megabyte when full, and after a million users still counts one in fifteen.
    pub const CAPACITY: usize = 65_536;

    /// An empty set of at most `capacity` users.
    pub fn new(capacity: usize) -> Self {
        Self {
            capacity,
            ranks: BTreeSet::new(),
            ceiling: u64::MAX,
        }
    }

    /// Whether this is the first time that the user is seen, and it counts. Never true twice for
    /// one user.
    pub fn first(&mut self, user: u64) -> bool {
        let rank = rank(user);
        if rank >= self.ceiling || !self.ranks.insert(rank) {
            return false;
        }
        if self.ranks.len() > self.capacity
            && let Some(highest) = self.ranks.pop_last()
        {
            self.ceiling = highest;
        }
        true
    }

    /// The share of users not seen before who would be counted: 1 until the set is full.
    pub fn sampling(&self) -> f64 {
        crate::domain::real(self.ceiling) / crate::domain::real(u64::MAX)
    }

    /// Forgets everybody: for a window that begins.
    pub fn begin_again(&mut self) {
        *self = Self::new(self.capacity);
    }
}

/// A bijection (the finaliser of `SplitMix64`), so that no two users share a rank.
fn rank(user: u64) -> u64 {
    let mut bits = user.wrapping_add(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}
