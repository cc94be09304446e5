//! Who leads, by what was heard last.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// A leader that says nothing for so long binds nobody: should its term have been a mistake, no
/// later one would be heard ever.
const TERM_ENDS: Duration = Duration::from_mins(1);

/// An older leader spoke after a newer one.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("term {0} was heard already")]
pub(super) struct Stale(i64);

/// What was heard.
#[derive(Debug)]
pub(super) struct Heard {
    since: Instant,
    last: Mutex<Option<Last>>,
}

#[derive(Debug)]
struct Last {
    leader: String,
    epoch: i64,
    at: Instant,
}

impl Heard {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            since: now,
            last: Mutex::default(),
        }
    }

    /// Notes a word of a leader; whether it is another one than before.
    pub(super) fn hear(&self, leader: &str, epoch: i64, now: Instant) -> Result<bool, Stale> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let other = match &*last {
            Some(last) if epoch < last.epoch && now - last.at < TERM_ENDS => {
                return Err(Stale(last.epoch));
            }
            Some(last) => last.epoch != epoch || last.leader != leader,
            None => true,
        };
        *last = Some(Last {
            leader: leader.to_owned(),
            epoch,
            at: now,
        });
        Ok(other)
    }

    pub(super) fn silence(&self, now: Instant) -> Duration {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let since = last.as_ref().map_or(self.since, |last| last.at);
        now.saturating_duration_since(since)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_earlier_term_is_refused_until_the_later_one_fell_silent() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let heard = Heard::new(start);
        assert_eq!(heard.hear("a", 7, at(1)), Ok(true));
        assert_eq!(heard.hear("a", 7, at(2)), Ok(false));
        assert_eq!(heard.hear("b", 8, at(3)), Ok(true));
        assert_eq!(heard.hear("a", 7, at(4)), Err(Stale(8)));
        assert_eq!(heard.silence(at(10)), Duration::from_secs(7));
        assert_eq!(heard.hear("a", 7, at(62)), Err(Stale(8)));
        assert_eq!(heard.hear("a", 7, at(63)), Ok(true));
    }

    #[test]
    fn silence_is_counted_from_the_start_until_someone_speaks() {
        let start = Instant::now();
        let heard = Heard::new(start);
        assert_eq!(
            heard.silence(start + Duration::from_secs(5)),
            Duration::from_secs(5)
        );
    }
}
