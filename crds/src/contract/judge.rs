//! What a router judges by itself while a run lasts: part of [`super::Split`], so that a router that
//! knows only the API server can still take a bad canary's traffic away.

use serde::{Deserialize, Serialize};

use crate::quantity::Number;

/// What is judged, and how sure a router must be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Judge {
    /// The chance of a wrong trip that each test of each replica may have: what the user allows for
    /// the run, divided by the number of guardrails and by the number of replicas that judge alone,
    /// plus one for the leader, who judges the sum.
    pub alpha: Number,
    /// The guardrails.
    pub guardrails: Vec<JudgedGuardrail>,
}

/// One guardrail that is judged where the requests are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JudgedGuardrail {
    /// Its name, unique in the plan.
    pub name: String,
    /// What counts as bad.
    pub event: BadEvent,
    /// What must not be so. With all traffic on the canary there is nothing to compare with: from
    /// that step on a comparison may be an objective of the same name.
    pub test: Test,
    /// Whether a router takes the canary's weight away by itself when the test rejects.
    pub trips: bool,
    /// For so long after an endpoint appeared its requests are no evidence, in milliseconds.
    #[serde(default)]
    pub warm_up_millis: u64,
}

/// What makes a request a bad one. A request may be bad in several ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all_fields = "camelCase")]
pub enum BadEvent {
    /// The first attempt that reached a pod ended with a 5xx, with no answer, or was cut off.
    Error,
    /// It ended with a 4xx other than 408 and 429: a schema that changed shows here.
    ClientError,
    /// The whole answer took longer than this.
    SlowerThan {
        /// The bound, in milliseconds.
        millis: u64,
    },
    /// The first chunk of the answer's body took longer than this, counted from the request's arrival.
    SlowFirstByte {
        /// The bound, in milliseconds.
        millis: u64,
    },
    /// Between two chunks of the answer's body the endpoint paused for longer than this.
    SlowChunk {
        /// The bound, in milliseconds.
        millis: u64,
    },
    /// The answer's body ended before it was complete.
    BrokenStream,
}

/// What must not be so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all_fields = "camelCase")]
pub enum Test {
    /// The canary's share of bad requests is more than so many times the stable revision's.
    Comparison {
        /// At least 1.
        tolerance: Number,
    },
    /// The canary's share of bad requests is more than this.
    Objective {
        /// Between 0 and 1.
        max: Number,
    },
}

/// A router took a canary's weight away by itself.
///
/// It says so on the stream, and durably in the route's status as condition
/// [`super::CONDITION_TRIPPED`]; both are honoured by other routers and by the operator, for this
/// run and this revision only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Trip {
    /// The run.
    pub run: String,
    /// The canary.
    pub revision: String,
    /// The guardrail.
    pub guardrail: String,
    /// Natural logarithm of the evidence, as decimal.
    pub log_e: Number,
    /// What it had to reach, as decimal.
    pub bound: Number,
    /// Requests and users that it rests on, for people.
    pub message: String,
}

impl Trip {
    /// The message of the condition: `key=value` pairs and then the text for people.
    pub fn to_condition_message(&self) -> String {
        let Self {
            run,
            revision,
            guardrail,
            log_e,
            bound,
            message,
        } = self;
        format!(
            "run={run} revision={revision} guardrail={guardrail} logE={} bound={}: {message}",
            log_e.0, bound.0
        )
    }

    /// The trip that a condition's message tells of; none where it is not of that form.
    pub fn from_condition_message(text: &str) -> Option<Self> {
        let (pairs, message) = text.split_once(": ").unwrap_or((text, ""));
        let value = |key: &str| {
            pairs
                .split(' ')
                .find_map(|pair| pair.strip_prefix(key)?.strip_prefix('='))
                .map(str::to_owned)
        };
        Some(Self {
            run: value("run")?,
            revision: value("revision")?,
            guardrail: value("guardrail").unwrap_or_default(),
            log_e: Number(value("logE").unwrap_or_default()),
            bound: Number(value("bound").unwrap_or_default()),
            message: message.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trip_is_read_back_from_its_condition() {
        let trip = Trip {
            run: "r7".to_owned(),
            revision: "digits-1-b".to_owned(),
            guardrail: "errors".to_owned(),
            log_e: Number("9.77".to_owned()),
            bound: Number("7.78".to_owned()),
            message: "3 of 41 users of the canary: see logs".to_owned(),
        };
        let text = trip.to_condition_message();
        assert_eq!(Trip::from_condition_message(&text), Some(trip));
        assert_eq!(Trip::from_condition_message("someone wrote this"), None);
    }
}
