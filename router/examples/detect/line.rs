//! What is printed: the form of a line is that of all benchmarks (`docs/benchmarks.md`).

use std::{env, fs};

use serde_json::{Map, Value, json};

/// One figure.
pub(crate) struct Line(Map<String, Value>);

impl Line {
    /// A median, less being better.
    pub(crate) fn median(name: &str, unit: &str, measured: &[f64]) -> Self {
        let spread = [percentile(measured, 25), percentile(measured, 75)];
        let value = percentile(measured, 50);
        Self::new(name, unit, value, measured.len()).with("spread", spread.to_vec())
    }

    /// So many of so many.
    pub(crate) fn count(name: &str, unit: &str, count: usize, of: usize) -> Self {
        Self::new(name, unit, count as f64, of)
    }

    fn new(name: &str, unit: &str, value: f64, n: usize) -> Self {
        let commit = env::var("SLUICE_COMMIT").unwrap_or_else(|_| "unknown".to_owned());
        let line = json!({
            "name": name, "unit": unit, "value": value, "peer": null, "peer_value": null,
            "ratio": null, "better": "lower", "target": null, "pass": null, "n": n, "spread": null,
            "discarded": 0, "clock": "virtual", "host": host(), "commit": commit,
        });
        Self(line.as_object().cloned().unwrap_or_default())
    }

    fn value(&self) -> f64 {
        self.0["value"].as_f64().unwrap()
    }

    /// Beside the same figure of another.
    pub(crate) fn against(self, peer: &str, value: f64) -> Self {
        let ratio = rounded(self.value() / value);
        self.with("peer", peer)
            .with("peer_value", rounded(value))
            .with("ratio", ratio)
    }

    /// What it should be at most.
    pub(crate) fn at_most(self, limit: f64, rule: &str) -> Self {
        let is_met = self.value() <= limit;
        self.holds(is_met, rule)
    }

    /// What is promised, and whether it held.
    pub(crate) fn holds(self, is_met: bool, rule: &str) -> Self {
        self.with("target", rule).with("pass", is_met)
    }

    /// Adds a member.
    pub(crate) fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.0.insert(name.to_owned(), value.into());
        self
    }

    /// Says it.
    pub(crate) fn print(self) {
        eprintln!("{}: {}", self.0["name"], self.0["value"]);
        println!("{}", Value::Object(self.0));
    }
}

fn host() -> Value {
    let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpus
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let cores = cpus
        .lines()
        .filter(|line| line.starts_with("processor"))
        .count();
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    json!({
        "cpu": model.map_or("unknown", |(_, name)| name), "cores": cores, "kernel": kernel.trim(),
    })
}

/// A percentile, between two figures where it falls between; no number of nothing.
pub(crate) fn percentile(figures: &[f64], percent: usize) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    let Some(last) = sorted.len().checked_sub(1) else {
        return f64::NAN;
    };
    let (index, part) = (percent * last / 100, percent * last % 100);
    let (low, high) = (sorted[index], sorted[last.min(index + 1)]);
    rounded(low + (high - low) * part as f64 / 100.0)
}

/// The chance of at least so many of so many.
pub(crate) fn at_least(count: usize, of: usize, chance: f64) -> f64 {
    let mut point = (1.0 - chance).powf(of as f64);
    let mut below = 0.0;
    for number in 0..count {
        below += point;
        point *= (of - number) as f64 / (number as f64 + 1.0) * chance / (1.0 - chance);
    }
    1.0 - below
}

/// A count as a number with a fraction.
pub(crate) fn float(count: u64) -> f64 {
    count as f64
}

fn rounded(value: f64) -> f64 {
    (value * 1e6).round() / 1e6
}
