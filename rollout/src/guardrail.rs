//! Guardrails: what a new revision must not do, and what is said of it. Where that is measured is a
//! [`Check`]: by queries ([`prometheus`]), or by the routers ([`router`], [`crate::evidence`]).

pub mod prometheus;
pub mod router;

use crds::guardrail::{Blind, BlindAction, CheckType, Guardrail as GuardrailSpec, OnFail};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use verdict::Verdict;

pub use self::{
    prometheus::{Answer, DEFAULT_SOURCE, PrometheusCheck, Reading, Subject, fill, judge},
    router::{RouterCheck, RouterTest},
};
use crate::plan::{BlindPolicy, SpecError};

const DEFAULT_NO_DATA: SignedDuration = SignedDuration::from_mins(30);
const DEFAULT_ERROR: SignedDuration = SignedDuration::from_mins(15);

/// One guardrail of a plan: complete, without references to the spec.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Guardrail {
    /// Name, unique in the plan.
    pub name: String,
    /// Path in the spec, for messages.
    pub path: String,
    /// What is measured, and what it may be.
    #[serde(flatten)]
    pub check: Check,
    /// What a failure does.
    pub on_fail: OnFail,
    /// What happens when there is nothing to measure.
    pub on_no_data: BlindPolicy,
    /// What happens when measuring fails.
    pub on_error: BlindPolicy,
}

/// What is measured, and what it may be. The two have no field in common, so that a plan that an
/// earlier release froze, when there was only one, is still read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Check {
    /// A value that Prometheus knows.
    Prometheus(PrometheusCheck),
    /// Bad requests that the routers see.
    Router(RouterCheck),
}

impl Guardrail {
    /// The guardrail that a spec asks for, at `path` in it.
    pub fn from_spec(spec: &GuardrailSpec, path: &str) -> Result<Self, SpecError> {
        let at = format!("{path}.check");
        let check = match spec.check.type_ {
            CheckType::Threshold => {
                Check::Prometheus(PrometheusCheck::from_spec(&spec.check, &at)?)
            }
            CheckType::Comparison | CheckType::Objective => {
                Check::Router(RouterCheck::from_spec(&spec.check, &at)?)
            }
        };
        Ok(Self {
            name: spec.name.clone(),
            path: path.to_owned(),
            check,
            on_fail: spec.on_fail.unwrap_or_default(),
            on_no_data: blind(spec.on_no_data.as_ref(), path, "onNoData", DEFAULT_NO_DATA)?,
            on_error: blind(spec.on_error.as_ref(), path, "onError", DEFAULT_ERROR)?,
        })
    }

    /// What watches a rollout whose spec names no guardrails: the routers compare errors, slow
    /// answers and broken streams with those of the stable revision.
    pub fn defaults() -> Vec<Self> {
        let checks = RouterCheck::defaults().into_iter();
        checks
            .map(|(name, check)| Self::default_of(name, check))
            .collect()
    }

    fn default_of(name: &str, check: RouterCheck) -> Self {
        let blind = |after| BlindPolicy {
            after,
            action: BlindAction::default(),
        };
        Self {
            name: name.to_owned(),
            path: "spec.guardrails".to_owned(),
            check: Check::Router(check),
            on_fail: OnFail::Rollback,
            on_no_data: blind(DEFAULT_NO_DATA),
            on_error: blind(DEFAULT_ERROR),
        }
    }

    /// What it asks Prometheus, if it does.
    pub fn prometheus(&self) -> Option<&PrometheusCheck> {
        match &self.check {
            Check::Prometheus(check) => Some(check),
            Check::Router(_) => None,
        }
    }

    /// What it asks the routers, if it does.
    pub fn router(&self) -> Option<&RouterCheck> {
        match &self.check {
            Check::Router(check) => Some(check),
            Check::Prometheus(_) => None,
        }
    }

    /// What is allowed, for people.
    pub fn bounds_text(&self) -> String {
        match &self.check {
            Check::Prometheus(check) => check.bounds_text(),
            Check::Router(check) => check.bounds_text(),
        }
    }

    /// Failed windows of a run that are borne. The evidence of routers is a sum over the run: it
    /// fails once.
    pub(crate) fn failure_limit(&self) -> u32 {
        self.prometheus().map_or(0, |check| check.failure_limit)
    }
}

fn blind(
    spec: Option<&Blind>,
    path: &str,
    field: &str,
    default: SignedDuration,
) -> Result<BlindPolicy, SpecError> {
    let after = match spec.and_then(|blind| blind.after.as_ref()) {
        None => default,
        Some(after) => after
            .parse()
            .map_err(SpecError::quantity(format!("{path}.{field}.after")))?,
    };
    let action = spec.and_then(|blind| blind.action).unwrap_or_default();
    Ok(BlindPolicy { after, action })
}

/// A verdict about one revision, since when.
#[derive(Clone, Debug, PartialEq)]
pub struct Judgement {
    /// The guardrail.
    pub guardrail: String,
    /// The revision that it is about.
    pub revision: String,
    /// Start of what was looked at.
    pub window_start: Timestamp,
    /// End of what was looked at.
    pub at: Timestamp,
    /// The verdict.
    pub verdict: Verdict,
    /// The value, where there was one.
    pub value: Option<f64>,
    /// The samples, where they could be counted.
    pub samples: Option<f64>,
    /// Why there is no pass, where the verdict alone does not tell. It holds no number that changes
    /// by itself.
    pub problem: Option<String>,
    /// Natural logarithm of the evidence that the revision is worse, where routers judge.
    pub log_e: Option<f64>,
    /// What that has to reach to fail.
    pub bound: Option<f64>,
    /// The same for people, with the numbers.
    pub summary: Option<String>,
}
