//! Durations and percentages as users write them, and what they mean.

use jiff::SignedDuration;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A value that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a {what}: write it like {example}")]
pub struct QuantityError {
    text: String,
    what: &'static str,
    example: &'static str,
}

/// A duration such as `90s`, `10m`, `1h30m` or `250ms` (the Gateway API's form).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
#[schemars(extend("pattern" = "^([0-9]{1,5}(h|m|s|ms)){1,4}$", "maxLength" = 24))]
pub struct DurationText(pub String);

impl DurationText {
    /// The length of time that is meant.
    pub fn parse(&self) -> Result<SignedDuration, QuantityError> {
        let wrong = || QuantityError {
            text: self.0.clone(),
            what: "duration",
            example: "90s, 10m or 1h30m",
        };
        let first_digit = self.0.starts_with(|c: char| c.is_ascii_digit());
        let duration: SignedDuration = self.0.parse().map_err(|_| wrong())?;
        if first_digit && !duration.is_negative() {
            Ok(duration)
        } else {
            Err(wrong())
        }
    }
}

impl From<&str> for DurationText {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

/// A percentage such as `1%`, `25%` or `0.05%`: at most two decimals.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
#[schemars(extend("pattern" = "^(100|[0-9]{1,2})(\\.[0-9]{1,2})?%$", "maxLength" = 8))]
pub struct Percent(pub String);

impl Default for Percent {
    // An empty text would be a schema default that its own pattern refuses, and so the whole CRD.
    fn default() -> Self {
        Self("0%".to_owned())
    }
}

impl Percent {
    /// In basis points: hundredths of a percent, 0 to 10 000.
    pub fn basis_points(&self) -> Result<u16, QuantityError> {
        let wrong = || QuantityError {
            text: self.0.clone(),
            what: "percentage between 0% and 100%",
            example: "5% or 0.05%",
        };
        let number = self.0.strip_suffix('%').ok_or_else(wrong)?;
        let (whole, part) = number.split_once('.').unwrap_or((number, "0"));
        if whole.is_empty() || part.is_empty() || part.len() > 2 {
            return Err(wrong());
        }
        let digits = |text: &str| -> Result<u16, QuantityError> {
            if text.bytes().all(|byte| byte.is_ascii_digit()) {
                text.parse().map_err(|_| wrong())
            } else {
                Err(wrong())
            }
        };
        let hundredths = if part.len() == 1 {
            digits(part)? * 10
        } else {
            digits(part)?
        };
        let points = digits(whole)?
            .checked_mul(100)
            .and_then(|p| p.checked_add(hundredths));
        points.filter(|points| *points <= 10_000).ok_or_else(wrong)
    }

    /// The percentage that stands for so many basis points, as short as it can be written.
    pub fn from_basis_points(points: u16) -> Self {
        let (whole, part) = (points / 100, points % 100);
        Self(match part {
            0 => format!("{whole}%"),
            _ if part % 10 == 0 => format!("{whole}.{}%", part / 10),
            _ => format!("{whole}.{part:02}%"),
        })
    }
}

impl From<&str> for Percent {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

/// A plain number written as text, such as `"0.01"`: floats have no place in a stored API object.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
#[schemars(extend("pattern" = "^-?[0-9]{1,15}(\\.[0-9]{1,9})?$", "maxLength" = 26))]
pub struct Number(pub String);

impl Number {
    /// The number that is meant; always finite.
    pub fn parse(&self) -> Result<f64, QuantityError> {
        let wrong = || QuantityError {
            text: self.0.clone(),
            what: "number",
            example: "\"0.05\" or \"12\"",
        };
        self.0
            .parse()
            .ok()
            .filter(|number: &f64| number.is_finite())
            .ok_or_else(wrong)
    }
}

impl From<&str> for Number {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentages_are_exact_basis_points() {
        for (text, points) in [
            ("0%", 0),
            ("0.05%", 5),
            ("1%", 100),
            ("12.5%", 1250),
            ("100%", 10_000),
        ] {
            assert_eq!(Percent::from(text).basis_points(), Ok(points), "{text}");
            assert_eq!(Percent::from_basis_points(points).0, text);
        }
    }

    #[test]
    fn what_is_no_percentage_is_refused() {
        for text in [
            "", "%", "5", "101%", "100.01%", "-1%", "1.234%", "1.%", ".5%", "+1%", "1e1%",
        ] {
            assert!(Percent::from(text).basis_points().is_err(), "{text}");
        }
    }

    #[test]
    fn durations_are_read_and_nonsense_is_refused() {
        assert_eq!(
            DurationText::from("1h30m").parse(),
            Ok(SignedDuration::from_mins(90))
        );
        assert_eq!(
            DurationText::from("250ms").parse(),
            Ok(SignedDuration::from_millis(250))
        );
        for text in ["", "s", "5", "-5s", "five", "5x"] {
            assert!(DurationText::from(text).parse().is_err(), "{text}");
        }
    }
}
