//! Why a rollout stands where it stands: a value, and the only place with texts for users.

use jiff::Timestamp;

use crate::{plan::SpecError, state::Ending, weight::Weight};

/// Why a rollout stands where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// The wanted revision serves.
    Promoted,
    /// The spec, or something that it refers to, cannot be carried out.
    InvalidSpec(SpecError),
    /// The wanted revision was rolled back.
    RolledBack {
        /// Why, as a reason.
        reason: String,
    },
    /// The first revision, or a canary, waits for its pods.
    WaitingForReplicas {
        /// Ready pods.
        ready: u32,
        /// Pods that are needed.
        want: u32,
        /// What the cluster says of pods that do not come.
        trouble: Option<String>,
    },
    /// The weights are written but not known to be served.
    WaitingForTraffic,
    /// The step lasts on.
    WaitingForHold {
        /// What lasts, such as `step 2 of 4`.
        what: String,
        /// Until when at the earliest.
        until: Timestamp,
    },
    /// The clock went back: how long a step lasts cannot be told.
    WaitingForClock {
        /// The recorded time that it is behind.
        until: Timestamp,
    },
    /// A guardrail's window does not lie within the step yet.
    WaitingForWindow {
        /// The guardrail.
        guardrail: String,
    },
    /// A guardrail has seen too little.
    Inconclusive {
        /// The guardrail.
        guardrail: String,
        /// What it lacks.
        problem: String,
        /// Whether the step's deadline has passed.
        overdue: bool,
    },
    /// A guardrail sees nothing.
    NoData {
        /// The guardrail.
        guardrail: String,
        /// Why that may be.
        problem: String,
        /// Whether it has seen nothing for longer than allowed.
        overdue: bool,
    },
    /// A guardrail cannot look.
    Error {
        /// The guardrail.
        guardrail: String,
        /// What goes wrong.
        problem: String,
        /// Whether it could not look for longer than allowed.
        overdue: bool,
    },
    /// A guardrail fails, and its policy or its limit says to hold.
    FailureHeld {
        /// The guardrail.
        guardrail: String,
        /// Whether the limit is reached, so that a person is needed.
        overdue: bool,
    },
    /// Somebody paused it.
    Paused,
    /// The stable revision has no ready pod: there is nothing to fall back to.
    StableUnhealthy,
    /// Traffic is being taken off the canary.
    Ending(Ending),
    /// The cluster could not be read.
    CannotSee {
        /// What could not be read.
        problem: String,
    },
    /// The status cannot be understood.
    Unreadable {
        /// What is wrong.
        problem: String,
    },
    /// The run's plan cannot be read.
    PlanUnreadable {
        /// What is wrong.
        problem: String,
    },
    /// A step was entered, or a run began, in this very decision.
    Moved {
        /// What happened.
        message: String,
        /// The weight from here on.
        weight: Weight,
    },
}

impl Why {
    /// A condition's reason.
    pub fn reason(&self) -> &str {
        match self {
            Self::Promoted => "Promoted",
            Self::InvalidSpec(_) => "InvalidSpec",
            Self::RolledBack { reason } => reason,
            Self::WaitingForReplicas { .. } => "WaitingForReplicas",
            Self::WaitingForTraffic => "WaitingForTraffic",
            Self::WaitingForHold { .. } => "WaitingForHold",
            Self::WaitingForClock { .. } => "WaitingForClock",
            Self::WaitingForWindow { .. } => "WaitingForWindow",
            Self::Inconclusive { .. } => "Inconclusive",
            Self::NoData { .. } => "NoData",
            Self::Error { .. } => "GuardrailError",
            Self::FailureHeld { .. } => "GuardrailFailed",
            Self::Paused => "Paused",
            Self::StableUnhealthy => "StableUnhealthy",
            Self::Ending(ending) => &ending.reason,
            Self::CannotSee { .. } => "CannotSee",
            Self::Unreadable { .. } => "StatusUnreadable",
            Self::PlanUnreadable { .. } => "PlanUnreadable",
            Self::Moved { .. } => "Progressing",
        }
    }

    /// A condition's message. It holds no number that changes by itself: a status is written when
    /// something happened, not whenever a sample arrives.
    pub fn message(&self) -> String {
        match self {
            Self::Promoted => "the revision of the spec serves all traffic".to_owned(),
            Self::InvalidSpec(error) => error.to_string(),
            Self::RolledBack { reason } => format!(
                "the revision of the spec was rolled back ({reason}): change the spec, or raise \
                 spec.rollout.attempt to try it again"
            ),
            Self::WaitingForReplicas {
                ready,
                want,
                trouble,
            } => {
                let trouble = trouble
                    .as_ref()
                    .map(|text| format!(": {text}"))
                    .unwrap_or_default();
                format!("{ready} of {want} pods are ready{trouble}")
            }
            Self::WaitingForTraffic => {
                "the data plane does not yet report the weights as served".to_owned()
            }
            Self::WaitingForHold { what, until } => {
                format!("{what} lasts at least until {}", short(*until))
            }
            Self::WaitingForClock { until } => {
                format!("the clock went back: nothing widens before {until}, a recorded time")
            }
            Self::WaitingForWindow { guardrail } => {
                format!("guardrail {guardrail} needs a whole window within this step")
            }
            Self::Inconclusive {
                guardrail,
                problem,
                overdue,
            } => format!(
                "guardrail {guardrail} is undecided: {problem}{}",
                late(*overdue, "the step's deadline")
            ),
            Self::NoData {
                guardrail,
                problem,
                overdue,
            } => format!(
                "guardrail {guardrail} sees no data: {problem}{}",
                late(*overdue, "onNoData.after")
            ),
            Self::Error {
                guardrail,
                problem,
                overdue,
            } => format!(
                "guardrail {guardrail} cannot be measured: {problem}{}",
                late(*overdue, "onError.after")
            ),
            Self::FailureHeld { guardrail, .. } => {
                format!("guardrail {guardrail} fails; its policy is to hold")
            }
            Self::Paused => "paused by spec.rollout.paused; guardrails go on".to_owned(),
            Self::StableUnhealthy => {
                "the stable revision has no ready pod: weights stay until it has".to_owned()
            }
            Self::Ending(ending) => ending.message.clone(),
            Self::CannotSee { problem } => format!("the cluster cannot be read: {problem}"),
            Self::Unreadable { problem } => format!("nothing is touched: {problem}"),
            Self::PlanUnreadable { problem } => {
                format!("the plan of the run cannot be read: {problem}")
            }
            Self::Moved { message, .. } => message.clone(),
        }
    }

    /// Whether nothing will change until a person does something.
    pub fn is_stalled(&self) -> bool {
        match self {
            Self::InvalidSpec(_) | Self::RolledBack { .. } | Self::Unreadable { .. } => true,
            Self::Inconclusive { overdue, .. }
            | Self::NoData { overdue, .. }
            | Self::Error { overdue, .. }
            | Self::FailureHeld { overdue, .. } => *overdue,
            Self::Promoted
            | Self::WaitingForReplicas { .. }
            | Self::WaitingForTraffic
            | Self::WaitingForHold { .. }
            | Self::WaitingForClock { .. }
            | Self::WaitingForWindow { .. }
            | Self::Paused
            | Self::StableUnhealthy
            | Self::Ending(_)
            | Self::CannotSee { .. }
            | Self::PlanUnreadable { .. }
            | Self::Moved { .. } => false,
        }
    }
}

fn late(overdue: bool, limit: &str) -> String {
    if overdue {
        format!("; {limit} has passed: a person is needed")
    } else {
        String::new()
    }
}

/// A time to the second, in UTC.
fn short(at: Timestamp) -> String {
    at.strftime("%H:%M:%SZ").to_string()
}
