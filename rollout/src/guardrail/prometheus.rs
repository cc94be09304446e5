//! Guardrails that ask a Prometheus: the queries, and what an answer means.

use crds::{
    contract,
    guardrail::Check as CheckSpec,
    quantity::{DurationText, Number},
};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use verdict::{
    Verdict,
    threshold::{self, Bounds},
};

use super::{Guardrail, Judgement};
use crate::plan::SpecError;

/// Name of the `MetricSource` that a guardrail asks when it names none.
pub const DEFAULT_SOURCE: &str = "default";

const DEFAULT_WINDOW: SignedDuration = SignedDuration::from_mins(1);
const DEFAULT_INTERVAL: SignedDuration = SignedDuration::from_secs(10);
const DEFAULT_MIN_SAMPLES: f64 = 50.0;

/// How far a metrics server's clock may be off before what it says is no data.
pub const CLOCK_SKEW_MAX: SignedDuration = SignedDuration::from_secs(30);

/// A value that Prometheus knows, and its bounds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PrometheusCheck {
    /// The `MetricSource`.
    pub source: String,
    /// Query of the value, with placeholders.
    pub value: String,
    /// Query of the samples, with placeholders.
    pub samples: String,
    /// The least that the value may be.
    pub min: Option<f64>,
    /// The most that the value may be.
    pub max: Option<f64>,
    /// How far back the queries look.
    pub window: SignedDuration,
    /// How often it is measured.
    pub interval: SignedDuration,
    /// Samples that a verdict needs.
    pub min_samples: f64,
    /// Failed windows of a run that are borne.
    pub failure_limit: u32,
}

impl PrometheusCheck {
    /// The check that a spec asks for, at `path` in it.
    pub(super) fn from_spec(spec: &CheckSpec, path: &str) -> Result<Self, SpecError> {
        let needed =
            |field: &str| SpecError::at(format!("{path}.{field}"), "type Threshold needs it");
        let queries = spec
            .prometheus
            .as_ref()
            .ok_or_else(|| needed("prometheus"))?;
        let threshold = spec.threshold.as_ref().ok_or_else(|| needed("threshold"))?;
        let at = format!("{path}.threshold");
        let number = |number: &Option<Number>, field: &str| match number {
            None => Ok(None),
            Some(number) => number
                .parse()
                .map(Some)
                .map_err(SpecError::quantity(format!("{at}.{field}"))),
        };
        let (min, max) = (
            number(&threshold.min, "min")?,
            number(&threshold.max, "max")?,
        );
        match (min, max) {
            (None, None) => return Err(SpecError::at(at, "give min, max or both")),
            (Some(min), Some(max)) if min > max => {
                return Err(SpecError::at(format!("{at}.min"), "must not be above max"));
            }
            _ => {}
        }
        let interval = threshold.interval.as_ref();
        let source = queries.source_ref.as_ref();
        Ok(Self {
            source: source
                .map_or(DEFAULT_SOURCE, |source| &source.name)
                .to_owned(),
            value: queries.value.clone(),
            samples: queries.samples.clone(),
            min,
            max,
            window: positive(threshold.window.as_ref(), &at, "window", DEFAULT_WINDOW)?,
            interval: positive(interval, &at, "interval", DEFAULT_INTERVAL)?,
            min_samples: threshold
                .min_samples
                .and_then(|samples| u32::try_from(samples).ok())
                .map_or(DEFAULT_MIN_SAMPLES, f64::from),
            failure_limit: threshold
                .failure_limit
                .and_then(|limit| u32::try_from(limit).ok())
                .unwrap_or(0),
        })
    }

    /// The bounds, for people.
    pub fn bounds_text(&self) -> String {
        match (self.min, self.max) {
            (Some(min), Some(max)) => format!(">= {min} and <= {max}"),
            (Some(min), None) => format!(">= {min}"),
            (None, Some(max)) => format!("<= {max}"),
            (None, None) => "none".to_owned(),
        }
    }

    /// The query window for a revision that has had traffic since `since`: the guardrail's, but
    /// never reaching back before that. At least a second, in whole seconds, as `PromQL` wants it.
    pub fn query_window(&self, since: Timestamp, now: Timestamp) -> SignedDuration {
        let seen = now.duration_since(since).max(SignedDuration::from_secs(1));
        let window = self.window.min(seen);
        SignedDuration::from_secs(window.as_secs().max(1))
    }

    /// The longest window that a query looks back: the guardrail's, in whole seconds.
    pub fn whole_window(&self) -> SignedDuration {
        SignedDuration::from_secs(self.window.as_secs().max(1))
    }
}

fn positive(
    text: Option<&DurationText>,
    path: &str,
    field: &str,
    default: SignedDuration,
) -> Result<SignedDuration, SpecError> {
    let Some(text) = text else { return Ok(default) };
    let at = format!("{path}.{field}");
    let duration = text.parse().map_err(SpecError::quantity(&at))?;
    if duration < SignedDuration::from_secs(1) {
        return Err(SpecError::at(at, "must be at least 1s"));
    }
    Ok(duration)
}

/// What the placeholders in a query stand for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// Namespace of the `ModelDeployment`.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The revision that is judged.
    pub revision: String,
    /// Name of the label that tells namespaces apart at this source.
    pub namespace_label: String,
}

/// A query with its placeholders filled. All that is put in is a DNS label, so nothing needs quoting.
pub fn fill(query: &str, subject: &Subject, window: SignedDuration) -> String {
    let selector = format!(
        "{}=\"{}\",{}=\"{}\",{}=\"{}\"",
        subject.namespace_label,
        subject.namespace,
        contract::METRIC_LABEL_MODEL_DEPLOYMENT,
        subject.name,
        contract::METRIC_LABEL_REVISION,
        subject.revision,
    );
    query
        .replace("$(selector)", &selector)
        .replace("$(window)", &format!("{}s", window.as_secs()))
        .replace("$(namespace)", &subject.namespace)
        .replace("$(name)", &subject.name)
        .replace("$(revision)", &subject.revision)
}

/// One query's answer: a value for each series.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// The values; what is no number is NaN.
    pub series: Vec<f64>,
    /// The server's clock when it evaluated the query, if it answered with anything.
    pub evaluated_at: Option<Timestamp>,
}

/// What was learnt for one guardrail.
#[derive(Clone, Debug, PartialEq)]
pub struct Reading {
    /// When the queries were sent.
    pub at: Timestamp,
    /// How far back they looked.
    pub window: SignedDuration,
    /// Answers to the value's and the samples' query, or why there are none.
    pub answers: Result<(Answer, Answer), String>,
}

/// Judges what a Prometheus said for a guardrail about a revision.
pub fn judge(
    guardrail: &Guardrail,
    check: &PrometheusCheck,
    revision: &str,
    reading: &Reading,
) -> Judgement {
    let (verdict, value, samples, problem) = match &reading.answers {
        Err(problem) => (Verdict::Error, None, None, Some(problem.clone())),
        Ok((value, samples)) => match (single(value, reading), single(samples, reading)) {
            (Err(problem), _) | (_, Err(problem)) => (problem.0, None, None, Some(problem.1)),
            (Ok(value), Ok(samples)) => {
                let bounds = Bounds {
                    min: check.min,
                    max: check.max,
                };
                let verdict = threshold::judge(value, samples, check.min_samples, bounds);
                (verdict, value, samples, None)
            }
        },
    };
    Judgement {
        guardrail: guardrail.name.clone(),
        revision: revision.to_owned(),
        window_start: reading.at.checked_sub(reading.window).unwrap_or(reading.at),
        at: reading.at,
        verdict,
        value: value.filter(|value| value.is_finite()),
        samples: samples.filter(|samples| samples.is_finite()),
        problem,
        log_e: None,
        bound: None,
        summary: None,
    }
}

/// The one value of an answer; none is no data, several are an error: picking one would be a guess.
fn single(answer: &Answer, reading: &Reading) -> Result<Option<f64>, (Verdict, String)> {
    if let Some(evaluated_at) = answer.evaluated_at {
        let skew = evaluated_at.duration_since(reading.at).abs();
        if skew > CLOCK_SKEW_MAX {
            return Err((
                Verdict::NoData,
                format!("the metrics server's clock is off by {}s", skew.as_secs()),
            ));
        }
    }
    match answer.series.as_slice() {
        [] => Ok(None),
        [value] => Ok(Some(*value)),
        _ => Err((
            Verdict::Error,
            // How many there are changes by itself, and with it a text in the status would.
            "the query gives several series where one is expected: aggregate it".to_owned(),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::Check, *};

    fn check() -> PrometheusCheck {
        PrometheusCheck {
            source: DEFAULT_SOURCE.to_owned(),
            value: "v".to_owned(),
            samples: "n".to_owned(),
            min: None,
            max: Some(0.05),
            window: DEFAULT_WINDOW,
            interval: DEFAULT_INTERVAL,
            min_samples: DEFAULT_MIN_SAMPLES,
            failure_limit: 0,
        }
    }

    fn judged(reading: &Reading) -> Verdict {
        let guardrail = Guardrail {
            check: Check::Prometheus(check()),
            ..Guardrail::defaults().swap_remove(0)
        };
        judge(&guardrail, &check(), "r", reading).verdict
    }

    fn answer(series: &[f64]) -> Answer {
        Answer {
            series: series.to_vec(),
            evaluated_at: None,
        }
    }

    fn verdict(value: &[f64], samples: &[f64]) -> Verdict {
        let reading = Reading {
            at: Timestamp::from_second(1000).unwrap(),
            window: SignedDuration::from_secs(60),
            answers: Ok((answer(value), answer(samples))),
        };
        judged(&reading)
    }

    #[test]
    fn answers_become_verdicts() {
        assert_eq!(verdict(&[0.0], &[100.0]), Verdict::Pass);
        assert_eq!(verdict(&[0.5], &[100.0]), Verdict::Fail);
        assert_eq!(verdict(&[0.5], &[10.0]), Verdict::Inconclusive);
        assert_eq!(verdict(&[], &[]), Verdict::NoData);
        assert_eq!(verdict(&[f64::NAN], &[0.0]), Verdict::NoData);
        assert_eq!(verdict(&[0.1, 0.2], &[100.0]), Verdict::Error);
    }

    #[test]
    fn a_metrics_server_in_another_time_is_no_data() {
        let at = Timestamp::from_second(1000).unwrap();
        let late = Answer {
            series: vec![0.0],
            evaluated_at: Timestamp::from_second(1031).ok(),
        };
        let reading = Reading {
            at,
            window: SignedDuration::from_secs(60),
            answers: Ok((late, answer(&[100.0]))),
        };
        assert_eq!(judged(&reading), Verdict::NoData);
    }

    #[test]
    fn placeholders_are_filled() {
        let subject = Subject {
            namespace: "ml".to_owned(),
            name: "digits".to_owned(),
            revision: "digits-1-abc".to_owned(),
            namespace_label: "namespace".to_owned(),
        };
        let query = fill(
            "sum(x{$(selector)}[$(window)])",
            &subject,
            SignedDuration::from_secs(30),
        );
        assert_eq!(
            query,
            "sum(x{namespace=\"ml\",model_deployment=\"digits\",revision=\"digits-1-abc\"}[30s])"
        );
    }

    #[test]
    fn queries_never_reach_back_before_the_canary_had_traffic() {
        let (since, now) = (
            Timestamp::from_second(100).unwrap(),
            Timestamp::from_second(110).unwrap(),
        );
        assert_eq!(
            check().query_window(since, now),
            SignedDuration::from_secs(10)
        );
        let later = Timestamp::from_second(1000).unwrap();
        assert_eq!(
            check().query_window(since, later),
            SignedDuration::from_mins(1)
        );
    }
}
