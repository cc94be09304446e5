//! Published and hand-computed values. Every JSON file in `vectors/` is a list of cases; a new file
//! adds its cases by being there. A function that nobody knows fails, and so does an empty folder.
#![allow(
    clippy::tests_outside_test_module,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "integration tests"
)]

use std::{fs, path::Path};

use serde::Deserialize;
use serde_json::Value;
use verdict::{
    DomainError, alpha,
    attribution::Attribution,
    budget::{self, Alert},
    confidence,
    detection::{self, Traffic},
    exposure,
    non_inferiority::{self, NonInferiority},
    sample_size::{self, Comparison, Sides},
    share,
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

    fn segments(&self) -> Vec<(f64, u64, u64)> {
        self.get("segments")
    }

    fn comparison(&self) -> Result<Comparison, DomainError> {
        let sides: String = self.get("sides");
        let sides = match sides.as_str() {
            "one" => Sides::One,
            "two" => Sides::Two,
            other => panic!("no such number of sides: {other}"),
        };
        Comparison::new(self.number("weight"), self.number("alpha"), sides)
    }

    fn traffic(&self) -> Traffic {
        Traffic {
            units_per_second: self.number("units_per_second"),
            weight: self.number("weight"),
            canary_rate: self.number("canary_rate"),
            stable_rate: self.number("stable_rate"),
        }
    }

    fn alert(&self) -> Alert {
        let place: usize = self.get("alert");
        budget::ALERTS[place]
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

type Values = Result<Vec<f64>, DomainError>;

#[expect(clippy::unnecessary_wraps, reason = "so that every arm reads the same")]
fn one(value: f64) -> Values {
    Ok(vec![value])
}

fn evaluate(function: &str, given: &Arguments<'_>) -> Values {
    match function.split_once("::").unwrap_or_default() {
        ("attribution", function) => attribution(function, given),
        ("slo", "ln_e") => one(slo::ln_e(given.number("p0"), given.outcomes())?),
        ("alpha", function) => of_alpha(function, given),
        ("non_inferiority", function) => promotion(function, given),
        ("exposure", "without_failure") => {
            let (alpha, rate) = (given.number("alpha"), given.number("rate"));
            one(small(exposure::without_failure(alpha, rate)?))
        }
        ("exposure", "minimum") => {
            let [base_rate, margin, weight, alpha, power] =
                ["base_rate", "margin", "weight", "alpha", "power"].map(|name| given.number(name));
            one(small(exposure::minimum(
                base_rate, margin, weight, alpha, power,
            )?))
        }
        ("detection", function) => time_to_detect(function, given),
        ("share", function) => of_share(function, given),
        ("confidence", function) => range(function, given),
        ("sample_size", function) => size(function, given),
        ("budget", function) => error_budget(function, given),
        _ => unknown(function),
    }
}

fn unknown(function: &str) -> ! {
    panic!("no such function: {function}")
}

fn attribution(function: &str, given: &Arguments<'_>) -> Values {
    let test = Attribution::new(given.number("tolerance"))?;
    let evidence = test.evidence(&given.segments())?;
    match function {
        "ln_e" => one(evidence.ln_e()),
        "misrouted" => one(small(evidence.misrouted())),
        _ => unknown(function),
    }
}

fn of_alpha(function: &str, given: &Arguments<'_>) -> Values {
    match function {
        "e_bh" => {
            let e: Vec<f64> = given.get("e");
            let ln_e: Vec<f64> = e.into_iter().map(f64::ln).collect();
            let rejected = alpha::e_bh(given.number("alpha"), &ln_e)?;
            one(rejected.iter().map(|_| 1.0).sum())
        }
        "bound" => {
            let (guardrails, replicas) = (given.get("guardrails"), given.get("replicas"));
            one(alpha::bound(given.number("alpha"), guardrails, replicas)?)
        }
        "bound_of_share" => one(alpha::bound_of_share(given.number("share"))?),
        "anytime_p_value" => one(alpha::anytime_p_value(given.number("highest"))?),
        _ => unknown(function),
    }
}

fn promotion(function: &str, given: &Arguments<'_>) -> Values {
    match function {
        "ln_e" => {
            let test = NonInferiority::new(given.number("margin"), 1.0)?;
            one(test.evidence(&given.segments())?.ln_e())
        }
        "absolute_ln_e" => {
            let rate = given.number("rate");
            one(non_inferiority::absolute_ln_e(rate, given.outcomes())?)
        }
        _ => unknown(function),
    }
}

fn time_to_detect(function: &str, given: &Arguments<'_>) -> Values {
    let never = f64::INFINITY;
    let bound = |name| alpha::bound(given.number(name), 1, 0);
    let tolerance = || given.number("tolerance");
    match function {
        "lower_bound_seconds" => {
            let wait = detection::lower_bound(given.traffic(), tolerance(), bound("alpha")?)?;
            one(wait.map_or(never, |wait| wait.seconds))
        }
        "estimate_seconds" => {
            let wait = detection::estimate(given.traffic(), tolerance(), bound("alpha")?)?;
            one(wait.map_or(never, |wait| wait.seconds))
        }
        "estimate_events" => {
            let wait = detection::estimate(given.traffic(), tolerance(), bound("alpha")?)?;
            one(wait.map_or(never, |wait| wait.events))
        }
        "events_to_pass" => {
            let test = NonInferiority::new(given.number("margin"), 1.0)?;
            let bound = bound("bound_of_alpha")?;
            let wait = detection::estimate_to_pass(given.traffic(), test, bound)?;
            one(wait.map_or(never, |wait| wait.events))
        }
        "slo_lower_bound" => {
            let (rate, objective) = (given.number("rate"), given.number("objective"));
            let requests = detection::slo_lower_bound(rate, objective, bound("alpha")?)?;
            one(requests.unwrap_or(never))
        }
        _ => unknown(function),
    }
}

fn of_share(function: &str, given: &Arguments<'_>) -> Values {
    let weight = given.number("weight");
    let (canary, stable) = (given.count("canary"), given.count("stable"));
    match function {
        "ln_e" => one(share::ln_e(weight, canary, stable)?),
        "martingale" => {
            let prior = (given.number("a"), given.number("b"));
            one(share::martingale(prior, weight, canary, stable)?)
        }
        _ => unknown(function),
    }
}

fn range(function: &str, given: &Arguments<'_>) -> Values {
    let alpha = given.number("alpha");
    match function {
        "distribution_band" => one(confidence::distribution_band(given.count("count"), alpha)?),
        "rate" => {
            let tightest_at = given.number("tightest_at");
            let range = confidence::rate(given.outcomes(), alpha, tightest_at)?;
            Ok(vec![range.lower, range.upper])
        }
        _ => unknown(function),
    }
}

fn size(function: &str, given: &Arguments<'_>) -> Values {
    let comparison = given.comparison()?;
    let rates = || (given.number("stable"), given.number("canary"));
    match function {
        "canary_units" => {
            let ((stable, canary), power) = (rates(), given.number("power"));
            one(sample_size::canary_units(
                comparison, stable, canary, power,
            )?)
        }
        "canary_units_for_effect" => {
            let (stable, canary) = rates();
            let effect = sample_size::effect(stable, canary)?;
            let power = given.number("power");
            one(sample_size::canary_units_for_effect(
                comparison, effect, power,
            )?)
        }
        "power" => {
            let ((stable, canary), units) = (rates(), given.number("units"));
            one(sample_size::power(comparison, stable, canary, units)?)
        }
        "minimum_detectable" => {
            let (stable, units) = (given.number("stable"), given.number("units"));
            let power = given.number("power");
            let found = sample_size::minimum_detectable(comparison, stable, units, power)?;
            one(found.unwrap_or(f64::INFINITY))
        }
        "power_for_effect" => {
            let (effect, units) = (given.number("effect"), given.number("units"));
            one(sample_size::power_for_effect(comparison, effect, units)?)
        }
        _ => unknown(function),
    }
}

fn error_budget(function: &str, given: &Arguments<'_>) -> Values {
    let slo = given.number("slo");
    let no_data = f64::INFINITY;
    match function {
        "threshold" => one(given.alert().threshold(slo)?),
        "seconds_to_fire" => one(given
            .alert()
            .seconds_to_fire(slo, given.number("error_rate"))?),
        "burn" => one(budget::burn(given.outcomes(), slo)?.unwrap_or(no_data)),
        "left" => one(budget::left(given.outcomes(), slo)?.unwrap_or(no_data)),
        _ => unknown(function),
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
