//! What the answers come to.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::load::log::Entry;

/// All answers, counted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Stats {
    /// Requests that were sent and have ended, one way or another.
    pub ended: u64,
    /// Requests that are under way.
    pub in_flight: u64,
    /// Requests that were not sent because too many were in flight.
    pub skipped: u64,
    /// Requests that got no answer: connection errors and time-outs.
    pub unanswered: u64,
    /// Requests with an answer that names no revision.
    pub unattributed: u64,
    /// Those that did not succeed, without those that a revision answered.
    pub failed_without_revision: u64,
    /// By revision.
    pub revisions: BTreeMap<String, RevisionStats>,
    /// Status codes of answers that name no revision.
    pub unattributed_codes: BTreeMap<u16, u64>,
    /// Connection errors by their text.
    pub errors: BTreeMap<String, u64>,
    /// Whether sending has been stopped.
    pub stopped: bool,
}

/// The answers of one revision.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RevisionStats {
    /// Answers by status code.
    pub codes: BTreeMap<u16, u64>,
    /// Answers that were right.
    pub right: u64,
    /// Answers with success that were wrong.
    pub wrong: u64,
    /// Start of the first request, in ms since the epoch.
    pub first_ms: u64,
    /// Start of the last request.
    pub last_ms: u64,
    /// End of the first request that failed.
    pub first_failure_ms: Option<u64>,
    /// The longest that an answer took.
    pub slowest_ms: u64,
}

impl RevisionStats {
    /// All answers.
    pub fn total(&self) -> u64 {
        self.codes.values().sum()
    }

    /// Answers that are no success.
    pub fn failed(&self) -> u64 {
        self.codes
            .iter()
            .filter(|(code, _)| !success(**code))
            .map(|(_, count)| count)
            .sum()
    }

    /// Share of right answers among those that could be judged, in percent.
    pub fn accuracy_percent(&self) -> Option<f64> {
        let judged = self.right + self.wrong;
        // Counts of a test run are far below what an f64 holds exactly.
        let share = |part: u64| u32::try_from(part).map_or(f64::MAX, f64::from);
        (judged > 0).then(|| 100.0 * share(self.right) / share(judged))
    }

    /// From the end of the first failure to the start of the last request, in ms: how long users
    /// were still sent to a revision that failed.
    pub fn exposed_after_failure_ms(&self) -> Option<u64> {
        Some(self.last_ms.saturating_sub(self.first_failure_ms?))
    }

    fn add(&mut self, entry: &Entry) {
        if self.codes.is_empty() {
            self.first_ms = entry.t;
        }
        self.first_ms = self.first_ms.min(entry.t);
        self.last_ms = self.last_ms.max(entry.t);
        self.slowest_ms = self.slowest_ms.max(entry.d_ms);
        *self.codes.entry(entry.code).or_default() += 1;
        match entry.correct {
            Some(true) => self.right += 1,
            Some(false) => self.wrong += 1,
            None => {}
        }
        if !success(entry.code) {
            let end = entry.t + entry.d_ms;
            self.first_failure_ms = Some(self.first_failure_ms.map_or(end, |first| first.min(end)));
        }
    }
}

/// Whether a status is a success.
pub fn success(code: u16) -> bool {
    (200..300).contains(&code)
}

impl Stats {
    /// Counts one answer.
    pub fn add(&mut self, entry: &Entry) {
        self.ended += 1;
        if let Some(error) = &entry.error {
            *self.errors.entry(error.clone()).or_default() += 1;
        }
        match &entry.revision {
            Some(revision) => self
                .revisions
                .entry(revision.clone())
                .or_default()
                .add(entry),
            None if entry.code == 0 => {
                self.unanswered += 1;
                self.failed_without_revision += 1;
            }
            None => {
                self.unattributed += 1;
                self.failed_without_revision += u64::from(!success(entry.code));
                *self.unattributed_codes.entry(entry.code).or_default() += 1;
            }
        }
    }

    /// Everything that did not succeed.
    pub fn failed(&self) -> u64 {
        self.failed_without_revision
            + self
                .revisions
                .values()
                .map(RevisionStats::failed)
                .sum::<u64>()
    }

    /// Everything that did not succeed, but for what one revision answered.
    pub fn failed_except(&self, revision: &str) -> u64 {
        self.failed()
            - self
                .revisions
                .get(revision)
                .map_or(0, RevisionStats::failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(t: u64, code: u16, revision: Option<&str>) -> Entry {
        Entry {
            t,
            d_ms: 5,
            user: 1,
            code,
            error: (code == 0).then(|| "connection refused".to_owned()),
            revision: revision.map(str::to_owned),
            correct: (code == 200).then_some(t.is_multiple_of(2)),
        }
    }

    #[test]
    fn answers_are_counted_by_revision_and_code() {
        let mut stats = Stats::default();
        for (t, code) in [
            (10, 200),
            (11, 200),
            (8, 200),
            (30, 500),
            (20, 500),
            (40, 200),
        ] {
            stats.add(&entry(t, code, Some("a")));
        }
        stats.add(&entry(50, 0, None));
        stats.add(&entry(51, 404, None));
        stats.add(&entry(52, 200, None));
        let a = &stats.revisions["a"];
        assert_eq!((a.total(), a.failed(), a.right, a.wrong), (6, 2, 3, 1));
        assert_eq!(
            (a.first_ms, a.last_ms, a.first_failure_ms),
            (8, 40, Some(25))
        );
        assert_eq!(a.exposed_after_failure_ms(), Some(15));
        assert_eq!(a.accuracy_percent(), Some(75.0));
        assert_eq!(
            (stats.ended, stats.unanswered, stats.unattributed),
            (9, 1, 2)
        );
        assert_eq!(
            (
                stats.failed(),
                stats.failed_except("a"),
                stats.failed_except("b")
            ),
            (4, 2, 4)
        );
        assert_eq!(stats.errors["connection refused"], 1);
        assert_eq!(stats.unattributed_codes[&404], 1);
    }

    #[test]
    fn stats_are_read_back_from_their_json() {
        let mut stats = Stats::default();
        stats.add(&entry(10, 503, Some("a")));
        let text = serde_json::to_string(&stats).unwrap();
        assert_eq!(serde_json::from_str::<Stats>(&text).unwrap(), stats);
    }
}
