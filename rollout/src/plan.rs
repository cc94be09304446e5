//! The plan of a run: what the spec asks for, checked, complete, and frozen when the run begins.
//! Past this module nobody reads the spec.

use crds::{
    ModelDeploymentSpec,
    contract::{Mirror, MirrorMethods},
    guardrail::BlindAction,
    quantity::{Percent, QuantityError},
    steps::{OnInconclusive, Rollout, Step as StepSpec},
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
    /// The steps: first those that copy requests, then those with weights, which rise strictly to
    /// 100 %.
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
    /// Share of the traffic; 0 in a step that copies requests.
    pub weight: Weight,
    /// Requests that are copied to the new revision in this step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mirror: Option<Mirror>,
    /// How long the step lasts at least.
    pub hold: SignedDuration,
}

impl Step {
    /// The share of the requests that the new revision's pods must bear in it, for users or as copies.
    pub fn load(&self) -> Weight {
        self.mirror.map_or(self.weight, |mirror| {
            Weight::from_basis_points(mirror.share)
        })
    }
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
                mirror: None,
                hold: SignedDuration::from_mins(*minutes),
            })
            .collect());
    };
    let path = "spec.rollout.canary.steps";
    let methods = canary.mirror_methods.unwrap_or_default();
    let mut steps: Vec<Step> = Vec::with_capacity(canary.steps.len());
    for (index, step) in canary.steps.iter().enumerate() {
        let at = format!("{path}[{index}]");
        let (weight, mirror) = given(step, methods, steps.last(), &at)?;
        let hold = match &step.hold {
            None => SignedDuration::ZERO,
            Some(hold) => hold
                .parse()
                .map_err(SpecError::quantity(format!("{at}.hold")))?,
        };
        steps.push(Step {
            weight,
            mirror,
            hold,
        });
    }
    match steps.last() {
        Some(last) if last.weight == Weight::FULL => Ok(steps),
        _ => Err(SpecError::at(path, "the last step's weight must be 100%")),
    }
}

/// What the new revision gets in a step that follows `before`: traffic or copies.
fn given(
    step: &StepSpec,
    methods: MirrorMethods,
    before: Option<&Step>,
    path: &str,
) -> Result<(Weight, Option<Mirror>), SpecError> {
    match (&step.weight, &step.mirror) {
        (Some(weight), None) => {
            let least = before.map_or(Weight::ZERO, |before| before.weight);
            let weight = above(least, weight, format!("{path}.weight"))?;
            Ok((weight, None))
        }
        (None, Some(_)) if before.is_some_and(|before| before.mirror.is_none()) => {
            let message = "must come before the first step with weight";
            Err(SpecError::at(format!("{path}.mirror"), message))
        }
        (None, Some(mirror)) => {
            let least = before.map_or(Weight::ZERO, Step::load);
            let share = above(least, mirror, format!("{path}.mirror"))?.basis_points();
            Ok((Weight::ZERO, Some(Mirror { share, methods })))
        }
        (Some(_), Some(_)) | (None, None) => {
            let message = "a step has either weight or mirror";
            Err(SpecError::at(format!("{path}.weight"), message))
        }
    }
}

fn above(least: Weight, share: &Percent, path: String) -> Result<Weight, SpecError> {
    let share = Weight::try_from(share.clone()).map_err(SpecError::quantity(path.as_str()))?;
    if share > least {
        Ok(share)
    } else {
        let message = "must be above the step before it, and above 0%";
        Err(SpecError::at(path, message))
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

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(canary: &Value) -> Result<Vec<Step>, SpecError> {
        let rollout = serde_json::from_value(json!({"type": "Canary", "canary": canary}));
        steps(&rollout.map_err(|error| SpecError::at("", error.to_string()))?)
    }

    #[test]
    fn copies_come_before_traffic_and_are_of_safe_methods_unless_all_are_named() {
        let listed = json!([
            {"mirror": "10%", "hold": "10m"}, {"mirror": "50%"},
            {"weight": "5%"}, {"weight": "100%"},
        ]);
        let mirror = |share, methods| Some(Mirror { share, methods });
        let safe = read(&json!({"steps": listed})).unwrap();
        assert_eq!(safe[0].mirror, mirror(1000, MirrorMethods::Safe));
        assert_eq!(safe[0].weight, Weight::ZERO);
        assert_eq!(safe[0].hold, SignedDuration::from_mins(10));
        assert_eq!(safe[1].load(), Weight::from_basis_points(5000));
        assert_eq!(
            (safe[2].mirror, safe[2].load()),
            (None, Weight::from_basis_points(500))
        );
        let all = read(&json!({"steps": listed, "mirrorMethods": "All"})).unwrap();
        assert_eq!(all[1].mirror, mirror(5000, MirrorMethods::All));
    }

    #[test]
    fn steps_that_cannot_be_gone_are_refused_with_their_path() {
        for (listed, path) in [
            (json!([{"hold": "1s"}, {"weight": "100%"}]), "[0].weight"),
            (json!([{"weight": "100%", "mirror": "5%"}]), "[0].weight"),
            (
                json!([{"weight": "5%"}, {"mirror": "5%"}, {"weight": "100%"}]),
                "[1].mirror",
            ),
            (
                json!([{"mirror": "5%"}, {"mirror": "5%"}, {"weight": "100%"}]),
                "[1].mirror",
            ),
            (json!([{"mirror": "0%"}, {"weight": "100%"}]), "[0].mirror"),
            (
                json!([{"mirror": "101%"}, {"weight": "100%"}]),
                "[0].mirror",
            ),
            (
                json!([{"weight": "5%"}, {"weight": "5%"}, {"weight": "100%"}]),
                "[1].weight",
            ),
            (json!([{"mirror": "100%"}]), ""),
            (json!([{"mirror": "5%"}, {"weight": "50%"}]), ""),
        ] {
            let refused = read(&json!({"steps": listed})).unwrap_err();
            assert_eq!(refused.path, format!("spec.rollout.canary.steps{path}"));
        }
    }

    #[test]
    fn a_step_frozen_without_copies_reads_and_writes_as_before() {
        let old = json!({"weight": "5%", "hold": "PT5M"});
        let read: Step = serde_json::from_value(old.clone()).unwrap();
        assert_eq!(read.mirror, None);
        assert_eq!(serde_json::to_value(&read).unwrap(), old);
    }
}
