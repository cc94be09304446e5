//! What a benchmark prints: one JSON object per line, and the statistics in it.

use std::{env, fs};

use serde::Serialize;
use serde_json::{Map, Value};

/// One measured figure. Names are stable: a renamed one is a broken history.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Line {
    pub(crate) name: String,
    pub(crate) unit: &'static str,
    pub(crate) value: f64,
    pub(crate) peer: Option<String>,
    pub(crate) peer_value: Option<f64>,
    pub(crate) ratio: Option<f64>,
    pub(crate) better: &'static str,
    pub(crate) target: Option<String>,
    pub(crate) pass: Option<bool>,
    pub(crate) n: usize,
    pub(crate) spread: Option<[f64; 2]>,
    pub(crate) discarded: usize,
    /// What explains the figure, beyond what every line has.
    #[serde(flatten)]
    pub(crate) detail: Map<String, Value>,
    pub(crate) host: Host,
    pub(crate) commit: String,
}

impl Line {
    /// The median of what was measured, less being better; none without a measurement.
    pub(crate) fn of(name: &str, unit: &'static str, measured: &[f64]) -> Option<Self> {
        let mut sorted = measured.to_vec();
        sorted.sort_by(f64::total_cmp);
        let spread = [percentile(&sorted, 25)?, percentile(&sorted, 75)?].map(rounded);
        Some(Self {
            name: name.to_owned(),
            unit,
            value: rounded(percentile(&sorted, 50)?),
            peer: None,
            peer_value: None,
            ratio: None,
            better: "lower",
            target: None,
            pass: None,
            n: sorted.len(),
            spread: (sorted.len() > 1).then_some(spread),
            discarded: 0,
            detail: Map::new(),
            host: Host::this(),
            commit: env::var("SLUICE_COMMIT").unwrap_or_else(|_| "unknown".to_owned()),
        })
    }

    /// Measured against the same figure of another.
    #[must_use]
    pub(crate) fn against(mut self, peer: impl Into<String>, value: f64) -> Self {
        self.peer = Some(peer.into());
        self.peer_value = Some(rounded(value));
        self.ratio = Some(rounded(self.value / value));
        self
    }

    /// What it should be at most.
    #[must_use]
    pub(crate) fn at_most(mut self, limit: f64, rule: &str) -> Self {
        self.target = Some(rule.to_owned());
        self.pass = Some(self.value <= limit);
        self
    }

    /// Adds what explains the figure.
    #[must_use]
    pub(crate) fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.detail.insert(name.to_owned(), value.into());
        self
    }
}

/// The machine that the benchmark runs on.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Host {
    cpu: String,
    cores: usize,
    kernel: String,
}

impl Host {
    fn this() -> Self {
        let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpus
            .lines()
            .find(|line| line.starts_with("model name"))
            .and_then(|line| line.split_once(':'));
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        Self {
            cpu: model.map_or("unknown", |(_, name)| name.trim()).to_owned(),
            // Not those that this process may run on: a benchmark may keep to one.
            cores: cpus
                .lines()
                .filter(|line| line.starts_with("processor"))
                .count(),
            kernel: kernel.trim().to_owned(),
        }
    }
}

/// A percentile of sorted numbers, between two of them where it falls between; none of nothing.
pub(crate) fn percentile(sorted: &[f64], percent: usize) -> Option<f64> {
    let scaled = percent * sorted.len().checked_sub(1)?;
    let (index, part) = (scaled / 100, scaled % 100);
    let low = *sorted.get(index)?;
    let high = sorted.get(index + 1).copied().unwrap_or(low);
    Some(low + (high - low) * float(part) / 100.0)
}

/// A count as a number with a fraction; counts of a benchmark are far below what that holds exactly.
pub(crate) fn float(count: usize) -> f64 {
    u32::try_from(count).map_or(f64::MAX, f64::from)
}

/// To six places: more would pretend.
pub(crate) fn rounded(value: f64) -> f64 {
    (value * 1e6).round() / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn percentiles_lie_between_neighbours() {
        let sorted = [1.0, 2.0, 3.0, 4.0];
        assert_eq!(percentile(&sorted, 50), Some(2.5));
        assert_eq!(percentile(&sorted, 25), Some(1.75));
        assert_eq!(percentile(&sorted, 100), Some(4.0));
        assert_eq!(percentile(&[7.0], 95), Some(7.0));
        assert_eq!(percentile(&[], 50), None);
    }

    #[test]
    fn a_line_has_what_a_checker_reads() {
        assert!(Line::of("a", "s", &[]).is_none());
        let line = Line::of("a.b", "s", &[3.0, 1.0, 2.0])
            .unwrap()
            .against("floor", 4.0)
            .at_most(1.5, "value<=1.5")
            .with("weight", 0.5);
        let value = serde_json::to_value(line).unwrap();
        for (member, expected) in [
            ("name", json!("a.b")),
            ("unit", json!("s")),
            ("value", json!(2.0)),
            ("peer", json!("floor")),
            ("peer_value", json!(4.0)),
            ("ratio", json!(0.5)),
            ("pass", json!(false)),
            ("n", json!(3)),
            ("spread", json!([1.5, 2.5])),
            ("weight", json!(0.5)),
        ] {
            assert_eq!(value[member], expected, "{member}");
        }
        assert!(value["host"]["cores"].as_u64().unwrap() > 0);
        let alone = serde_json::to_value(Line::of("a", "s", &[1.0]).unwrap()).unwrap();
        assert!(alone["peer"].is_null() && alone["ratio"].is_null());
    }
}
