//! Published and hand-computed values. Every JSON file in `vectors/` is a list of cases; a new file
//! adds its cases by being there. A function that nobody knows fails, and so does an empty folder.
#![allow(
    clippy::tests_outside_test_module,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "integration tests"
)]

use std::{fs, path::Path};

use serde::Deserialize;
use serde_json::Value;
use verdict::{
    DomainError, alpha,
    attribution::{Attribution, AttributionEvidence},
    slo::{self, Outcomes},
};

/// One value and where it is from.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    function: String,
    arguments: Value,
    expected: Expected,
    /// The largest absolute difference.
    tolerance: f64,
    source: String,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Expected {
    One(f64),
    Several(Vec<f64>),
}

/// The arguments of a case, by name.
struct Arguments<'a>(&'a Value);

impl Arguments<'_> {
    fn get<T: for<'de> Deserialize<'de>>(&self, name: &str) -> T {
        let value = self.0.get(name).unwrap_or(&Value::Null).clone();
        serde_json::from_value(value).unwrap_or_else(|error| panic!("argument {name}: {error}"))
    }

    fn number(&self, name: &str) -> f64 {
        self.get(name)
    }

    fn count(&self, name: &str) -> u64 {
        self.get(name)
    }

    fn outcomes(&self) -> Outcomes {
        Outcomes {
            bad: self.count("bad"),
            total: self.count("total"),
        }
    }

    fn attribution(&self) -> Result<AttributionEvidence, DomainError> {
        let segments: Vec<(f64, u64, u64)> = self.get("segments");
        Attribution::new(self.number("tolerance"))?.evidence(&segments)
    }
}

#[expect(
    clippy::as_conversions,
    clippy::cast_precision_loss,
    reason = "the counts of the vectors are small"
)]
fn small(count: u64) -> f64 {
    count as f64
}

fn evaluate(function: &str, given: &Arguments<'_>) -> Result<Vec<f64>, DomainError> {
    let one = |value: f64| Ok(vec![value]);
    match function {
        "attribution::ln_e" => one(given.attribution()?.ln_e()),
        "attribution::misrouted" => one(small(given.attribution()?.misrouted())),
        "slo::ln_e" => one(slo::ln_e(given.number("p0"), given.outcomes())?),
        "alpha::e_bh" => {
            let e: Vec<f64> = given.get("e");
            let ln_e: Vec<f64> = e.into_iter().map(f64::ln).collect();
            let rejected = alpha::e_bh(given.number("alpha"), &ln_e)?;
            one(rejected.iter().map(|_| 1.0).sum())
        }
        "alpha::bound" => {
            let (guardrails, replicas) = (given.get("guardrails"), given.get("replicas"));
            one(alpha::bound(given.number("alpha"), guardrails, replicas)?)
        }
        "alpha::bound_of_share" => one(alpha::bound_of_share(given.number("share"))?),
        "alpha::anytime_p_value" => one(alpha::anytime_p_value(given.number("highest"))?),
        unknown => panic!("no such function: {unknown}"),
    }
}

fn check(case: &Case) -> Result<(), String> {
    let what = format!("{}({})", case.function, case.arguments);
    if case.source.is_empty() {
        return Err(format!("{what} names no source"));
    }
    let found = evaluate(&case.function, &Arguments(&case.arguments))
        .map_err(|error| format!("{what}: {error}"))?;
    let expected = match &case.expected {
        Expected::One(value) => std::slice::from_ref(value),
        Expected::Several(values) => values,
    };
    let close = |(found, expected): (&f64, &f64)| (found - expected).abs() <= case.tolerance;
    if found.len() == expected.len() && found.iter().zip(expected).all(close) {
        Ok(())
    } else {
        let (within, source) = (case.tolerance, &case.source);
        Err(format!(
            "{what} is {found:?}, not {expected:?} within {within} ({source})"
        ))
    }
}

#[test]
fn every_vector_is_met() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors");
    let mut cases = 0;
    let mut failures = Vec::new();
    for entry in fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        let of_file: Vec<Case> = serde_json::from_str(&text)
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert!(!of_file.is_empty(), "{} has no cases", path.display());
        cases += of_file.len();
        failures.extend(of_file.iter().filter_map(|case| check(case).err()));
    }
    assert!(cases > 0, "{} has no vectors", folder.display());
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
