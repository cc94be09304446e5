//! Guardrails that the routers judge: what is bad, and what must not be so. The routers get them
//! with the route (`judge`); what comes back is judged in [`crate::evidence`].

use crds::{
    contract::{BadEvent, Judge, JudgedGuardrail, Test},
    guardrail::{Check as CheckSpec, CheckType, OnFail, RouterEvent},
    quantity::Number,
};
use jiff::SignedDuration;
use serde::{Deserialize, Serialize};

use crate::{
    plan::{Plan, SpecError},
    state::{Run, Stage},
    weight::Weight,
};

const DEFAULT_TOLERANCE: f64 = 1.25;
const DEFAULT_PROMOTE_WITHIN: f64 = 2.0;
const DEFAULT_PROMOTE_BELOW: f64 = 0.01;
const DEFAULT_MIN_UNITS: u32 = 50;
const DEFAULT_WARM_UP: SignedDuration = SignedDuration::from_secs(30);
/// Milliseconds of [`crds::contract::DEFAULT_SLOW_SECONDS`].
const DEFAULT_SLOW_MILLIS: u64 = 250;

/// Bad requests that the routers see.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RouterCheck {
    /// What makes a request a bad one.
    pub event: BadEvent,
    /// What must not be so.
    pub test: RouterTest,
    /// Users of the canary that a step needs.
    pub min_units: u32,
    /// For so long after a pod appeared its requests are no evidence.
    pub warm_up: SignedDuration,
}

/// What must not be so.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all_fields = "camelCase")]
pub enum RouterTest {
    /// The canary is worse than stable.
    Comparison {
        /// So many times as bad is borne.
        tolerance: f64,
        /// Before all traffic: less than so many times as bad,
        promote_within: f64,
        /// or a smaller share of bad requests than this.
        promote_below: f64,
    },
    /// The canary's share of bad requests is above this.
    Objective {
        /// The share.
        max: f64,
    },
}

impl RouterCheck {
    /// The check that a spec asks for, at `path` in it.
    pub(super) fn from_spec(spec: &CheckSpec, path: &str) -> Result<Self, SpecError> {
        let event = event(spec, path)?;
        let (judged, min_units) = test(spec, path)?;
        let warm_up = match &spec.warm_up {
            Some(written) => written
                .parse()
                .map_err(SpecError::quantity(format!("{path}.warmUp")))?,
            None => default_warm_up(event),
        };
        Ok(Self {
            event,
            test: judged,
            min_units: min_units
                .and_then(|units| u32::try_from(units).ok())
                .map_or(DEFAULT_MIN_UNITS, |units| units.max(1)),
            warm_up,
        })
    }

    /// What is compared with stable where nothing is named.
    pub(super) fn defaults() -> [(&'static str, Self); 3] {
        let slow = BadEvent::SlowerThan {
            millis: DEFAULT_SLOW_MILLIS,
        };
        [
            ("errors", BadEvent::Error),
            ("slow-answers", slow),
            ("broken-streams", BadEvent::BrokenStream),
        ]
        .map(|(name, event)| {
            let check = Self {
                event,
                test: RouterTest::Comparison {
                    tolerance: DEFAULT_TOLERANCE,
                    promote_within: DEFAULT_PROMOTE_WITHIN,
                    promote_below: DEFAULT_PROMOTE_BELOW,
                },
                min_units: DEFAULT_MIN_UNITS,
                warm_up: default_warm_up(event),
            };
            (name, check)
        })
    }

    /// What is allowed, for people.
    pub(super) fn bounds_text(&self) -> String {
        match self.test {
            RouterTest::Comparison { tolerance, .. } => format!("<= {tolerance} x stable"),
            RouterTest::Objective { max } => format!("<= {max}"),
        }
    }
}

/// A pod is slow until it is warm; it fails no less rightly.
fn default_warm_up(event: BadEvent) -> SignedDuration {
    match event {
        BadEvent::SlowerThan { .. }
        | BadEvent::SlowFirstByte { .. }
        | BadEvent::SlowChunk { .. } => DEFAULT_WARM_UP,
        BadEvent::Error | BadEvent::ClientError | BadEvent::BrokenStream => SignedDuration::ZERO,
    }
}

fn event(spec: &CheckSpec, path: &str) -> Result<BadEvent, SpecError> {
    let path = format!("{path}.router");
    let router = spec
        .router
        .as_ref()
        .ok_or_else(|| SpecError::at(path.as_str(), "types Comparison and Objective need it"))?;
    let at = format!("{path}.bound");
    let millis = || {
        let bound = router.bound.as_ref();
        let bound = bound.ok_or_else(|| SpecError::at(at.as_str(), "is needed for slow events"))?;
        let bound = bound.parse().map_err(SpecError::quantity(at.as_str()))?;
        let millis = u64::try_from(bound.as_millis())
            .ok()
            .filter(|millis| *millis > 0);
        millis.ok_or_else(|| SpecError::at(at.as_str(), "must be at least 1ms"))
    };
    let quick = |event| match &router.bound {
        None => Ok(event),
        Some(_) => Err(SpecError::at(at.as_str(), "has no meaning for this event")),
    };
    match router.event {
        RouterEvent::Error => quick(BadEvent::Error),
        RouterEvent::ClientError => quick(BadEvent::ClientError),
        RouterEvent::BrokenStream => quick(BadEvent::BrokenStream),
        RouterEvent::SlowerThan => Ok(BadEvent::SlowerThan { millis: millis()? }),
        RouterEvent::SlowFirstByte => Ok(BadEvent::SlowFirstByte { millis: millis()? }),
        RouterEvent::SlowChunk => Ok(BadEvent::SlowChunk { millis: millis()? }),
    }
}

fn test(spec: &CheckSpec, path: &str) -> Result<(RouterTest, Option<i64>), SpecError> {
    if spec.type_ == CheckType::Objective {
        let at = format!("{path}.objective");
        let objective = spec.objective.as_ref();
        let objective =
            objective.ok_or_else(|| SpecError::at(at.as_str(), "type Objective needs it"))?;
        let max = share(&objective.max, &format!("{at}.max"))?;
        return Ok((RouterTest::Objective { max }, objective.min_units));
    }
    let at = format!("{path}.comparison");
    let named = spec.comparison.clone().unwrap_or_default();
    let ratio = |number: &Option<Number>, field: &str, default| match number {
        None => Ok(default),
        Some(number) => number
            .parse()
            .map_err(SpecError::quantity(format!("{at}.{field}"))),
    };
    let tolerance = ratio(&named.tolerance, "tolerance", DEFAULT_TOLERANCE)?;
    if tolerance < 1.0 {
        let at = format!("{at}.tolerance");
        return Err(SpecError::at(at, "must be at least 1"));
    }
    let promote_within = ratio(
        &named.promote_within,
        "promoteWithin",
        DEFAULT_PROMOTE_WITHIN,
    )?;
    if promote_within <= tolerance {
        let message = format!("is {promote_within}: it must be above tolerance, {tolerance}");
        return Err(SpecError::at(format!("{at}.promoteWithin"), message));
    }
    let promote_below = match &named.promote_below {
        None => DEFAULT_PROMOTE_BELOW,
        Some(below) => share(below, &format!("{at}.promoteBelow"))?,
    };
    let test = RouterTest::Comparison {
        tolerance,
        promote_within,
        promote_below,
    };
    Ok((test, named.min_units))
}

fn share(number: &Number, path: &str) -> Result<f64, SpecError> {
    let share = number.parse().map_err(SpecError::quantity(path))?;
    if share > 0.0 && share < 1.0 {
        Ok(share)
    } else {
        Err(SpecError::at(path, "must be above 0 and below 1"))
    }
}

/// What the routers judge by themselves in a run, by its plan; none where nothing is for them.
///
/// `routers` may each trip alone. With all traffic on the canary there is no stable revision to
/// compare with at the same time: then a comparison becomes an objective, with the limit that was
/// recorded when that step was entered.
pub(crate) fn judge(plan: &Plan, run: &Run, weight: Weight, routers: u32) -> Option<Judge> {
    let alpha = plan.alpha_each(routers)?;
    let guardrails = plan
        .for_routers()
        .map(|(guardrail, check)| JudgedGuardrail {
            name: guardrail.name.clone(),
            event: check.event,
            test: match effective(check, run, weight, &guardrail.name) {
                RouterTest::Comparison { tolerance, .. } => Test::Comparison {
                    tolerance: number(tolerance),
                },
                RouterTest::Objective { max } => Test::Objective { max: number(max) },
            },
            trips: guardrail.on_fail == OnFail::Rollback,
            warm_up_millis: u64::try_from(check.warm_up.as_millis()).unwrap_or(0),
        });
    Some(Judge {
        alpha: number(alpha),
        guardrails: guardrails.collect(),
    })
}

/// The test of a guardrail at a weight of the canary.
pub(crate) fn effective(
    check: &RouterCheck,
    run: &Run,
    weight: Weight,
    guardrail: &str,
) -> RouterTest {
    let evidence = run
        .tallies
        .get(guardrail)
        .and_then(|tally| tally.evidence.as_ref());
    let limit = evidence
        .and_then(|evidence| evidence.limit.as_ref())
        .and_then(|limit| limit.parse().ok());
    match (&check.test, limit) {
        (RouterTest::Comparison { .. }, Some(max)) if weight == Weight::FULL => {
            RouterTest::Objective { max }
        }
        (test, _) => test.clone(),
    }
}

/// The number of the run's step, as the routers know it.
pub(crate) fn step_number(stage: &Stage) -> u32 {
    match stage {
        Stage::Starting => 0,
        Stage::Step { index, .. } => u32::try_from(index + 1).unwrap_or(u32::MAX),
        Stage::Bake { .. } => u32::MAX,
    }
}

fn number(value: f64) -> Number {
    Number(value.to_string())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crds::contract;

    use super::{
        super::{Check, Guardrail},
        *,
    };

    fn read(check: &serde_json::Value) -> Result<Guardrail, SpecError> {
        let spec = json!({"name": "g", "check": check});
        let spec =
            serde_json::from_value(spec).map_err(|error| SpecError::at("", error.to_string()))?;
        Guardrail::from_spec(&spec, "spec.guardrails[3]")
    }

    #[test]
    fn what_is_left_out_has_a_default() {
        let defaults = RouterCheck::defaults().map(|(_, check)| Check::Router(check));
        let errors = json!({"type": "Comparison", "router": {"event": "Error"}});
        assert_eq!(read(&errors).unwrap().check, defaults[0]);
        let slow =
            json!({"type": "Comparison", "router": {"event": "SlowerThan", "bound": "250ms"}});
        assert_eq!(read(&slow).unwrap().check, defaults[1]);
        let seconds: f64 = contract::DEFAULT_SLOW_SECONDS.parse().unwrap();
        assert_eq!(number(seconds * 1000.0).0, DEFAULT_SLOW_MILLIS.to_string());
    }

    #[test]
    fn what_cannot_be_tested_is_refused_with_its_path() {
        let error = json!({"event": "Error"});
        let compared =
            |comparison| json!({"type": "Comparison", "router": error, "comparison": comparison});
        let objective =
            |max| json!({"type": "Objective", "router": error, "objective": {"max": max}});
        for (check, path) in [
            (json!({"type": "Comparison"}), "router"),
            (json!({"type": "Objective", "router": error}), "objective"),
            (
                json!({"type": "Comparison", "router": {"event": "SlowChunk"}}),
                "router.bound",
            ),
            (
                json!({"type": "Comparison", "router": {"event": "SlowChunk", "bound": "0s"}}),
                "router.bound",
            ),
            (
                json!({"type": "Comparison", "router": {"event": "Error", "bound": "1s"}}),
                "router.bound",
            ),
            (
                compared(json!({"tolerance": "0.9"})),
                "comparison.tolerance",
            ),
            (
                compared(json!({"tolerance": "2"})),
                "comparison.promoteWithin",
            ),
            (
                compared(json!({"promoteBelow": "1"})),
                "comparison.promoteBelow",
            ),
            (objective("0"), "objective.max"),
            (objective("1"), "objective.max"),
            (json!({"type": "Threshold"}), "prometheus"),
        ] {
            let refused = read(&check).unwrap_err();
            assert_eq!(refused.path, format!("spec.guardrails[3].check.{path}"));
        }
    }

    #[test]
    fn a_plan_frozen_before_routers_judged_is_still_read() {
        let old = json!({
            "name": "errors", "path": "spec.guardrails", "source": "default",
            "value": "v", "samples": "n", "min": null, "max": 0.05, "window": "PT1M",
            "interval": "PT10S", "minSamples": 50.0, "failureLimit": 0, "onFail": "Rollback",
            "onNoData": {"after": "PT30M", "action": "Hold"},
            "onError": {"after": "PT15M", "action": "Hold"},
        });
        let read: Guardrail = serde_json::from_value(old.clone()).unwrap();
        assert_eq!(read.prometheus().unwrap().max, Some(0.05));
        assert_eq!(serde_json::to_value(&read).unwrap(), old);
        for guardrail in Guardrail::defaults() {
            let text = serde_json::to_string(&guardrail).unwrap();
            assert_eq!(serde_json::from_str::<Guardrail>(&text).unwrap(), guardrail);
        }
    }
}
