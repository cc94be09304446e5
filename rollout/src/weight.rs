//! Shares of traffic, and the pods that they need.

use std::fmt;

use crds::quantity::{Percent, QuantityError};
use serde::{Deserialize, Serialize};

/// A share of the traffic in basis points, 0 to 10 000.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(try_from = "Percent", into = "Percent")]
pub struct Weight(u16);

impl Weight {
    /// No traffic.
    pub const ZERO: Self = Self(0);
    /// All traffic.
    pub const FULL: Self = Self(10_000);

    /// A weight of so many basis points; more than all is all.
    pub fn from_basis_points(points: u16) -> Self {
        Self(points.min(Self::FULL.0))
    }

    /// In basis points.
    pub fn basis_points(self) -> u16 {
        self.0
    }

    /// What is left for the others.
    #[must_use]
    pub fn rest(self) -> Self {
        Self(Self::FULL.0 - self.0)
    }

    /// The most that `ready` pods may carry of what `capacity` pods are meant for: their share,
    /// rounded down; nothing without a ready pod.
    pub fn ready_share(ready: u32, capacity: u32) -> Self {
        if ready == 0 {
            return Self::ZERO;
        }
        let points = u64::from(ready) * 10_000 / u64::from(capacity.max(1));
        Self(u16::try_from(points).map_or(Self::FULL.0, |points| points.min(Self::FULL.0)))
    }

    /// Pods that this share needs of a `capacity`: rounded up, at least one.
    pub fn replicas(self, capacity: u32) -> u32 {
        let pods = (u64::from(self.0) * u64::from(capacity))
            .div_ceil(10_000)
            .max(1);
        u32::try_from(pods).unwrap_or(u32::MAX)
    }

    /// The smallest whole numbers with the ratio of the rest to this share. Some implementations of
    /// the Gateway API stop at 999.
    pub fn whole_numbers(self) -> (i32, i32) {
        let (rest, own) = (i32::from(self.rest().0), i32::from(self.0));
        let divisor = greatest_common_divisor(rest, own).max(1);
        (rest / divisor, own / divisor)
    }
}

fn greatest_common_divisor(a: i32, b: i32) -> i32 {
    if b == 0 {
        a
    } else {
        greatest_common_divisor(b, a % b)
    }
}

impl From<Weight> for Percent {
    fn from(weight: Weight) -> Self {
        Self::from_basis_points(weight.0)
    }
}

impl TryFrom<Percent> for Weight {
    type Error = QuantityError;

    fn try_from(percent: Percent) -> Result<Self, QuantityError> {
        percent.basis_points().map(Self)
    }
}

impl fmt::Display for Weight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&Percent::from(*self).0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_share_is_never_more_than_the_pods() {
        assert_eq!(Weight::ready_share(0, 3), Weight::ZERO);
        assert_eq!(Weight::ready_share(1, 3), Weight(3333));
        assert_eq!(Weight::ready_share(3, 3), Weight::FULL);
        assert_eq!(Weight::ready_share(9, 3), Weight::FULL);
        assert_eq!(Weight::ready_share(1, 0), Weight::FULL);
    }

    #[test]
    fn replicas_cover_the_weight() {
        assert_eq!(Weight(1).replicas(3), 1);
        assert_eq!(Weight(2500).replicas(3), 1);
        assert_eq!(Weight(5000).replicas(3), 2);
        assert_eq!(Weight::FULL.replicas(3), 3);
        for points in 1..=10_000 {
            let weight = Weight(points);
            assert!(Weight::ready_share(weight.replicas(7), 7) >= weight);
        }
    }

    #[test]
    fn whole_numbers_are_exact_and_small() {
        assert_eq!(Weight(100).whole_numbers(), (99, 1));
        assert_eq!(Weight(2500).whole_numbers(), (3, 1));
        assert_eq!(Weight::ZERO.whole_numbers(), (1, 0));
        assert_eq!(Weight::FULL.whole_numbers(), (0, 1));
        assert_eq!(Weight(1).whole_numbers(), (9999, 1));
        for points in 0..=10_000 {
            let (rest, own) = Weight(points).whole_numbers();
            assert_eq!(own * 10_000, i32::from(points) * (rest + own));
        }
    }
}
