//! What a number may be. A number that is not finite or out of range is a [`DomainError`], never a
//! statistic: it is the caller's `Verdict::Error`, and neither a pass nor a failure.

/// A number outside the domain of a formula.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[error("{argument} is {value}: it must be {allowed}")]
pub struct DomainError {
    argument: &'static str,
    value: f64,
    allowed: &'static str,
}

impl DomainError {
    pub(crate) fn of(argument: &'static str, value: f64, allowed: &'static str) -> Self {
        Self {
            argument,
            value,
            allowed,
        }
    }

    /// The argument that was out of its domain, by the name that the documentation gives it.
    pub fn argument(self) -> &'static str {
        self.argument
    }
}

pub(crate) type Result<T> = std::result::Result<T, DomainError>;

/// `value` if `holds`. NaN must not hold: state the condition so that comparisons with NaN fail.
pub(crate) fn require(
    argument: &'static str,
    value: f64,
    holds: bool,
    allowed: &'static str,
) -> Result<f64> {
    if value.is_finite() && holds {
        Ok(value)
    } else {
        Err(DomainError::of(argument, value, allowed))
    }
}

/// A share: 0 and 1 included.
pub(crate) fn share(argument: &'static str, value: f64) -> Result<f64> {
    let holds = (0.0..=1.0).contains(&value);
    require(argument, value, holds, "from 0 to 1")
}

/// A chance that is neither impossible nor certain.
pub(crate) fn chance(argument: &'static str, value: f64) -> Result<f64> {
    let holds = value > 0.0 && value < 1.0;
    require(argument, value, holds, "above 0 and below 1")
}

/// A number of things, or a rate of them, of which there is something.
pub(crate) fn positive(argument: &'static str, value: f64) -> Result<f64> {
    require(argument, value, value > 0.0, "above 0")
}

/// A count of at least one.
pub(crate) fn some(argument: &'static str, count: u64) -> Result<f64> {
    let value = real(count);
    require(argument, value, count > 0, "at least 1")
}

/// `part` of `whole`, both as numbers.
pub(crate) fn part(argument: &'static str, part: u64, whole: u64) -> Result<(f64, f64)> {
    let value = real(part);
    let allowed = "at most the number of all of them";
    Ok((
        require(argument, value, part <= whole, allowed)?,
        real(whole),
    ))
}

/// A count as a number.
#[expect(
    clippy::as_conversions,
    clippy::cast_precision_loss,
    reason = "above 2^53 the rounding is below one part in 10^15"
)]
pub(crate) fn real(count: u64) -> f64 {
    count as f64
}

/// The least count that is not below `value`; of what is beyond counting, the largest count.
#[expect(
    clippy::as_conversions,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a cast from a float saturates, and negative numbers become 0"
)]
pub(crate) fn count_up(value: f64) -> u64 {
    value.ceil() as u64
}
