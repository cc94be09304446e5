//! Gateway API durations (GEP-2257): `1h30m`, `10s`, `250ms`.

use std::time::Duration;

use thiserror::Error;

/// Why a text is no duration.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("{0:?} is no duration; write one as 10s, 1m30s or 250ms")]
pub struct NotADuration(String);

/// Reads a duration.
pub fn parse(text: &str) -> Result<Duration, NotADuration> {
    read(text).ok_or_else(|| NotADuration(text.chars().take(32).collect()))
}

fn read(text: &str) -> Option<Duration> {
    let mut total = Duration::ZERO;
    let mut rest = text.trim();
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        // The format allows five digits a part, which also keeps the sum from overflowing.
        if digits == 0 || digits > 5 {
            return None;
        }
        let (number, tail) = rest.split_at_checked(digits)?;
        let number: u64 = number.parse().ok()?;
        let letters = tail.bytes().take_while(u8::is_ascii_alphabetic).count();
        let (unit, tail) = tail.split_at_checked(letters)?;
        total += match unit {
            "h" => Duration::from_secs(number * 3600),
            "m" => Duration::from_secs(number * 60),
            "s" => Duration::from_secs(number),
            "ms" => Duration::from_millis(number),
            _ => return None,
        };
        rest = tail;
    }
    Some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_gateway_api_writes_and_nothing_else() {
        assert_eq!(parse("1h30m"), Ok(Duration::from_mins(90)));
        assert_eq!(parse("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(parse("0s"), Ok(Duration::ZERO));
        for bad in ["", "s", "10", "1.5s", "-1s", "999999s", "1d", "ä"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
