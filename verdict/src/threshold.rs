//! A value within bounds, resting on enough samples.

use crate::Verdict;

/// Bounds on a value, both inclusive; what is absent does not bind.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Bounds {
    /// The least that the value may be.
    pub min: Option<f64>,
    /// The most that the value may be.
    pub max: Option<f64>,
}

impl Bounds {
    /// Whether a number is within them. NaN never is: no comparison with it holds.
    pub fn contain(self, value: f64) -> bool {
        self.min.is_none_or(|min| value >= min) && self.max.is_none_or(|max| value <= max)
    }
}

/// The verdict on `value`, which rests on `samples`, of which `min_samples` are needed.
///
/// The samples are looked at first: of nothing, no value says anything, and a ratio of nothing is
/// NaN or absent. A value that is not finite is no data, whatever the samples say.
pub fn judge(
    value: Option<f64>,
    samples: Option<f64>,
    min_samples: f64,
    bounds: Bounds,
) -> Verdict {
    let Some(samples) = samples.filter(|samples| samples.is_finite() && *samples > 0.0) else {
        return Verdict::NoData;
    };
    let Some(value) = value.filter(|value| value.is_finite()) else {
        return Verdict::NoData;
    };
    if samples < min_samples {
        Verdict::Inconclusive
    } else if bounds.contain(value) {
        Verdict::Pass
    } else {
        Verdict::Fail
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const AT_MOST_5_PERCENT: Bounds = Bounds {
        min: None,
        max: Some(0.05),
    };

    #[test]
    fn each_verdict_has_its_case() {
        let judge = |value, samples| judge(value, samples, 50.0, AT_MOST_5_PERCENT);
        assert_eq!(judge(Some(0.05), Some(50.0)), Verdict::Pass);
        assert_eq!(judge(Some(0.051), Some(50.0)), Verdict::Fail);
        assert_eq!(judge(Some(1.0), Some(49.9)), Verdict::Inconclusive);
        assert_eq!(judge(Some(f64::NAN), Some(100.0)), Verdict::NoData);
        assert_eq!(judge(Some(f64::INFINITY), Some(100.0)), Verdict::NoData);
        assert_eq!(judge(None, Some(100.0)), Verdict::NoData);
        assert_eq!(judge(Some(0.0), Some(0.0)), Verdict::NoData);
        assert_eq!(judge(Some(0.0), None), Verdict::NoData);
        assert_eq!(judge(Some(0.0), Some(f64::NAN)), Verdict::NoData);
    }

    proptest! {
        #[test]
        fn only_a_finite_value_on_enough_samples_decides(value: f64, samples: f64) {
            let verdict = judge(Some(value), Some(samples), 50.0, AT_MOST_5_PERCENT);
            if matches!(verdict, Verdict::Pass | Verdict::Fail) {
                prop_assert!(value.is_finite() && samples.is_finite() && samples >= 50.0);
                prop_assert_eq!(verdict == Verdict::Pass, value <= 0.05);
            }
        }
    }
}
