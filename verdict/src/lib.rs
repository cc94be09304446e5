//! The statistics behind a rollout's verdicts: pure functions of values, without I/O, clock,
//! randomness or Kubernetes.
//!
//! Logarithms are natural. A weight is the canary's share of traffic, from 0 to 1; an E is kept as
//! `ln E`. Numbers that are not finite or out of range are a [`DomainError`], too little data is
//! [`Verdict::NoData`], and neither is ever a pass or a failure.

pub mod alpha;
pub mod attribution;
pub mod budget;
pub mod confidence;
pub mod detection;
mod domain;
pub mod evidence;
pub mod exposure;
pub mod lanes;
pub mod non_inferiority;
pub mod sample_size;
pub mod share;
pub mod slo;
pub mod threshold;
pub mod units;

use serde::{Deserialize, Serialize};

pub use domain::DomainError;

/// What a guardrail says of a revision. There are five and never fewer: having seen nothing is
/// neither a pass nor a failure, and failing to look is not the model's fault.
///
/// The order is by gravity, so that the worst of several is their maximum: an error to look hides
/// more than an absence of data, and nothing hides a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Verdict {
    /// Enough was seen, and it is within bounds.
    Pass,
    /// Not enough was seen to say.
    Inconclusive,
    /// Nothing was seen.
    NoData,
    /// It could not be looked at.
    Error,
    /// Enough was seen, and it is out of bounds.
    Fail,
}

impl Verdict {
    /// The worst of several verdicts; of none, `Pass`: there was nothing to object.
    pub fn worst(verdicts: impl IntoIterator<Item = Self>) -> Self {
        verdicts.into_iter().max().unwrap_or(Self::Pass)
    }

    /// Whether the guardrail cannot see: time in this state has deadlines of its own.
    pub fn is_blind(self) -> bool {
        match self {
            Self::NoData | Self::Error => true,
            Self::Pass | Self::Inconclusive | Self::Fail => false,
        }
    }

    /// The name that users read in a status.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pass => "Pass",
            Self::Inconclusive => "Inconclusive",
            Self::NoData => "NoData",
            Self::Error => "Error",
            Self::Fail => "Fail",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Verdict;

    #[test]
    fn nothing_hides_a_failure() {
        use Verdict::{Error, Fail, Inconclusive, NoData, Pass};
        assert_eq!(Verdict::worst([Pass, Fail, Error, NoData]), Fail);
        assert_eq!(Verdict::worst([Pass, Error, NoData]), Error);
        assert_eq!(Verdict::worst([Inconclusive, NoData]), NoData);
        assert_eq!(Verdict::worst([Pass, Inconclusive]), Inconclusive);
        assert_eq!(Verdict::worst([Pass, Pass]), Pass);
    }
}
