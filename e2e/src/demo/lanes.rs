//! The same bad revision, taken back by the routers and by way of Prometheus.

use std::time::Duration;

use crate::load::{
    log::Entry,
    stats::{RevisionStats, Stats},
};

/// How long users were sent to the bad revision after its first failure, and how many of them it
/// failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Lanes {
    pub(crate) router_ms: u64,
    pub(crate) router_failed: u64,
    pub(crate) prometheus_ms: u64,
    pub(crate) prometheus_failed: u64,
}

impl Lanes {
    /// Of a log in which the revision was tried twice. `first` is what had come of it when the first
    /// attempt was over.
    pub(crate) fn of(log: &[Entry], revision: &str, first: &Stats) -> Self {
        let first = first.revisions.get(revision).cloned().unwrap_or_default();
        let mut second = Stats::default();
        let later =
            |entry: &&Entry| entry.revision.as_deref() == Some(revision) && entry.t > first.last_ms;
        log.iter().filter(later).for_each(|entry| second.add(entry));
        let second = second.revisions.remove(revision).unwrap_or_default();
        let exposed = |stats: &RevisionStats| stats.exposed_after_failure_ms().unwrap_or(0);
        Self {
            router_ms: exposed(&first),
            router_failed: first.failed(),
            prometheus_ms: exposed(&second),
            prometheus_failed: second.failed(),
        }
    }

    /// A table for people.
    pub(crate) fn text(&self) -> String {
        let row = |lane: &str, ms: u64, failed: u64| {
            let seconds = Duration::from_millis(ms).as_secs_f64();
            format!("{lane:<12} {seconds:>26.2} s {failed:>16}\n")
        };
        format!(
            "{:<12} {:>28} {:>16}\n{}{}",
            "LANE",
            "FIRST FAILURE TO LAST REQUEST",
            "FAILED REQUESTS",
            row("router", self.router_ms, self.router_failed),
            row("Prometheus", self.prometheus_ms, self.prometheus_failed),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(t: u64, code: u16) -> Entry {
        serde_json::from_value(serde_json::json!({
            "t": t, "d_ms": 5, "user": 1, "code": code, "revision": "bad",
        }))
        .unwrap()
    }

    #[test]
    fn the_two_attempts_are_told_apart() {
        let log = [
            entry(1000, 200),
            entry(1100, 500),
            entry(1600, 200),
            entry(9000, 200),
            entry(9100, 500),
            entry(12_100, 500),
        ];
        let mut first = Stats::default();
        log[..3].iter().for_each(|entry| first.add(entry));
        let lanes = Lanes::of(&log, "bad", &first);
        assert_eq!((lanes.router_ms, lanes.router_failed), (495, 1));
        assert_eq!((lanes.prometheus_ms, lanes.prometheus_failed), (2995, 2));
        assert!(lanes.text().contains("0.49 s") || lanes.text().contains("0.50 s"));
    }
}
