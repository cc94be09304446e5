//! The plan of a run: what the spec asks for, checked, complete, and frozen when the run begins.
//! Past this module nobody reads the spec.

use crds::{
    ModelDeploymentSpec,
    guardrail::BlindAction,
    quantity::QuantityError,
    steps::{OnInconclusive, Rollout},
};
use jiff::SignedDuration;
use serde::{Deserialize, Serialize};

use crate::{
    guardrail::{Guardrail, RouterCheck},
    weight::Weight,
};

const DEFAULT_STEPS: [(u16, i64); 4] = [(100, 5), (500, 5), (2500, 5), (10_000, 5)];
const DEFAULT_PROGRESS_DEADLINE: SignedDuration = SignedDuration::from_mins(15);
const DEFAULT_STEP_DEADLINE: SignedDuration = SignedDuration::from_hours(2);
/// Longest time that a request may take unless the user says otherwise; pods that leave get as long
/// to finish.
pub const DEFAULT_REQUEST_TIMEOUT: SignedDuration = SignedDuration::from_secs(60);
const DEFAULT_FALSE_ROLLBACK: f64 = 0.01;
/// How many guardrails a router judges at most: each costs memory for its users.
const ROUTER_GUARDRAILS_MAX: usize = 8;

/// A validated rollout.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Plan {
    /// The steps; weights rise strictly to 100 %.
    pub steps: Vec<Step>,
    /// How long the last weight must hold before promotion.
    pub bake: SignedDuration,
    /// How long the run may wait for pods or for a weight to be applied.
    pub progress_deadline: SignedDuration,
    /// How long a step may stay undecided.
    pub step_deadline: SignedDuration,
    /// What happens then.
    pub on_inconclusive: OnInconclusive,
    /// How long pods that leave may take to finish what they have.
    pub drain: SignedDuration,
    /// What the new revision must not do.
    pub guardrails: Vec<Guardrail>,
    /// How likely the routers' guardrails together may roll back a revision that is no worse.
    #[serde(default = "default_false_rollback")]
    pub false_rollback_probability: f64,
}

fn default_false_rollback() -> f64 {
    DEFAULT_FALSE_ROLLBACK
}

/// One step of a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// Share of the traffic.
    pub weight: Weight,
    /// How long the step lasts at least.
    pub hold: SignedDuration,
}

/// Something in a spec that cannot be carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {message}")]
pub struct SpecError {
    /// Path of the field, such as `spec.rollout.canary.steps[1].weight`.
    pub path: String,
    /// What is wrong and what to do.
    pub message: String,
}

impl SpecError {
    /// An error at a path.
    pub fn at(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            message: message.into(),
        }
    }

    /// A quantity that cannot be read, at a path.
    pub fn quantity(path: impl Into<String>) -> impl FnOnce(QuantityError) -> Self {
        let path = path.into();
        move |error| Self {
            path,
            message: error.to_string(),
        }
    }
}

impl Plan {
    /// The plan that a spec asks for. The API server has checked most of it, but not every object
    /// has passed the schema of this release.
    pub fn from_spec(spec: &ModelDeploymentSpec) -> Result<Self, SpecError> {
        let default_rollout = Rollout::default();
        let rollout = spec.rollout.as_ref().unwrap_or(&default_rollout);
        let timeouts = spec
            .traffic
            .as_ref()
            .and_then(|traffic| traffic.timeouts.as_ref());
        let deadline = rollout.step_deadline.as_ref();
        let duration = |text: Option<&crds::quantity::DurationText>, path: &str, default| match text
        {
            None => Ok(default),
            Some(text) => text.parse().map_err(SpecError::quantity(path)),
        };
        Ok(Self {
            steps: steps(rollout)?,
            bake: duration(
                rollout.bake.as_ref(),
                "spec.rollout.bake",
                SignedDuration::ZERO,
            )?,
            progress_deadline: duration(
                rollout.progress_deadline.as_ref(),
                "spec.rollout.progressDeadline",
                DEFAULT_PROGRESS_DEADLINE,
            )?,
            step_deadline: duration(
                deadline.and_then(|deadline| deadline.after.as_ref()),
                "spec.rollout.stepDeadline.after",
                DEFAULT_STEP_DEADLINE,
            )?,
            on_inconclusive: deadline
                .and_then(|deadline| deadline.on_inconclusive)
                .unwrap_or_default(),
            drain: duration(
                timeouts.and_then(|timeouts| timeouts.request.as_ref()),
                "spec.traffic.timeouts.request",
                DEFAULT_REQUEST_TIMEOUT,
            )?,
            guardrails: guardrails(spec)?,
            false_rollback_probability: false_rollback(rollout)?,
        })
    }

    /// The step at an index.
    pub fn step(&self, index: usize) -> Option<&Step> {
        self.steps.get(index)
    }

    /// The guardrails that the routers judge, in their order.
    pub fn for_routers(&self) -> impl Iterator<Item = (&Guardrail, &RouterCheck)> {
        let guardrails = self.guardrails.iter();
        guardrails.filter_map(|guardrail| Some((guardrail, guardrail.router()?)))
    }

    /// The chance of a wrong rollback that each test may have: what is allowed for the run, shared
    /// by the guardrails, and by the leader and the `routers` that may each trip alone. None where
    /// there is no such guardrail, or no router to judge it.
    pub fn alpha_each(&self, routers: u32) -> Option<f64> {
        let guardrails = u32::try_from(self.for_routers().count()).ok()?;
        let tests = f64::from(guardrails) * (f64::from(routers) + 1.0);
        (guardrails > 0 && routers > 0).then_some(self.false_rollback_probability / tests)
    }

    /// Whether nothing watches this run.
    pub fn is_unguarded(&self) -> bool {
        self.guardrails.is_empty()
    }
}

fn steps(rollout: &Rollout) -> Result<Vec<Step>, SpecError> {
    let Some(canary) = rollout.canary.as_ref() else {
        return Ok(DEFAULT_STEPS
            .iter()
            .map(|(points, minutes)| Step {
                weight: Weight::from_basis_points(*points),
                hold: SignedDuration::from_mins(*minutes),
            })
            .collect());
    };
    let path = "spec.rollout.canary.steps";
    let mut steps: Vec<Step> = Vec::with_capacity(canary.steps.len());
    for (index, step) in canary.steps.iter().enumerate() {
        let at = format!("{path}[{index}].weight");
        let weight = Weight::try_from(step.weight.clone()).map_err(SpecError::quantity(&at))?;
        if weight <= steps.last().map_or(Weight::ZERO, |last| last.weight) {
            return Err(SpecError::at(
                at,
                "must be above the step before it, and above 0%",
            ));
        }
        let hold = match &step.hold {
            None => SignedDuration::ZERO,
            Some(hold) => hold
                .parse()
                .map_err(SpecError::quantity(format!("{path}[{index}].hold")))?,
        };
        steps.push(Step { weight, hold });
    }
    match steps.last() {
        Some(last) if last.weight == Weight::FULL => Ok(steps),
        _ => Err(SpecError::at(path, "the last step's weight must be 100%")),
    }
}

fn guardrails(spec: &ModelDeploymentSpec) -> Result<Vec<Guardrail>, SpecError> {
    let Some(listed) = spec.guardrails.as_ref() else {
        return Ok(Guardrail::defaults());
    };
    let read = listed.iter().enumerate().map(|(index, guardrail)| {
        Guardrail::from_spec(guardrail, &format!("spec.guardrails[{index}]"))
    });
    let read = read.collect::<Result<Vec<_>, _>>()?;
    let for_routers = read.iter().filter(|guardrail| guardrail.router().is_some());
    if for_routers.count() > ROUTER_GUARDRAILS_MAX {
        let message = format!(
            "at most {ROUTER_GUARDRAILS_MAX} guardrails may be of types Comparison and Objective"
        );
        return Err(SpecError::at("spec.guardrails", message));
    }
    Ok(read)
}

fn false_rollback(rollout: &Rollout) -> Result<f64, SpecError> {
    let Some(number) = &rollout.false_rollback_probability else {
        return Ok(DEFAULT_FALSE_ROLLBACK);
    };
    let path = "spec.rollout.falseRollbackProbability";
    let probability = number.parse().map_err(SpecError::quantity(path))?;
    if probability > 0.0 && probability <= 0.5 {
        Ok(probability)
    } else {
        Err(SpecError::at(path, "must be above 0 and at most 0.5"))
    }
}

/// What is done about a guardrail that has been blind for too long.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlindPolicy {
    /// How long it may be blind in one step.
    pub after: SignedDuration,
    /// What then.
    pub action: BlindAction,
}
