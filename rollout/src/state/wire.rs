//! A state from a status, and a status's part of a state.

use std::collections::BTreeMap;

use crds::{
    ModelDeploymentStatus,
    quantity::DurationText,
    status::{self, CondemnedRevision, GuardrailStatus, PlanReference, RunStatus},
};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use verdict::Verdict;

use super::{Condemned, EndResult, Ending, Hold, Phase, Run, Stage, State, Tally};
use crate::weight::Weight;

/// Names of phases in the status.
pub mod phase {
    /// No revision is proven.
    pub const PENDING: &str = "Pending";
    /// The wanted revision serves.
    pub const STABLE: &str = "Stable";
    /// A step is under way.
    pub const PROGRESSING: &str = "Progressing";
    /// At 100 %, before promotion.
    pub const BAKING: &str = "Baking";
    /// Traffic is being taken off the canary.
    pub const ROLLING_BACK: &str = "RollingBack";
    /// The last run was rolled back and its revision is still wanted.
    pub const ROLLED_BACK: &str = "RolledBack";
    /// Nothing is touched: a person must look.
    pub const UNKNOWN: &str = "Unknown";
}

/// Name of the track of pods that finish what they have.
pub const TRACK_DRAINING: &str = "Draining";

impl State {
    /// What a status says. One that cannot be read is a state too, in which nothing is touched:
    /// after a promotion there may be nothing to fall back to.
    ///
    /// None: the object has no status, so nothing was decided, or it was lost.
    pub fn read(status: &ModelDeploymentStatus) -> Option<Self> {
        let name = status.phase.as_deref()?;
        let phase = read_phase(name, status).unwrap_or_else(|problem| Phase::Unknown { problem });
        Some(Self {
            phase,
            runs: status
                .runs
                .and_then(|runs| u64::try_from(runs).ok())
                .unwrap_or(0),
            draining: status
                .revisions
                .iter()
                .filter(|revision| revision.track == TRACK_DRAINING)
                .filter_map(|revision| {
                    Some((revision.name.clone(), revision.drain_until.as_ref()?.0))
                })
                .collect(),
            condemned: status.condemned.iter().map(read_condemned).collect(),
            history: status.history.clone(),
            decisions: status.decisions.clone(),
        })
    }
}

fn read_phase(name: &str, status: &ModelDeploymentStatus) -> Result<Phase, String> {
    let stable = || {
        let stable = status.stable_revision.clone();
        stable.ok_or_else(|| format!("status.stableRevision is missing in phase {name}"))
    };
    let run = || {
        let run = status.run.as_ref();
        read_run(run.ok_or_else(|| format!("status.run is missing in phase {name}"))?)
    };
    Ok(match name {
        phase::PENDING => Phase::Pending {
            revision: status.canary_revision.clone(),
        },
        phase::STABLE => Phase::Settled {
            stable: stable()?,
            rolled_back: false,
        },
        phase::ROLLED_BACK => Phase::Settled {
            stable: stable()?,
            rolled_back: true,
        },
        phase::PROGRESSING | phase::BAKING => Phase::Running {
            stable: stable()?,
            run: run()?,
        },
        phase::ROLLING_BACK => {
            let ending = status.run.as_ref().and_then(|run| run.ending.as_ref());
            let ending = ending.ok_or("status.run.ending is missing in phase RollingBack")?;
            let result = EndResult::from_name(&ending.result).ok_or_else(|| {
                format!("status.run.ending.result {:?} is unknown", ending.result)
            })?;
            let (reason, message) = (ending.reason.clone(), ending.message.clone());
            Phase::Ending {
                stable: stable()?,
                run: run()?,
                ending: Ending {
                    result,
                    reason,
                    message,
                },
            }
        }
        phase::UNKNOWN => Phase::Unknown {
            problem: "an earlier status could not be read; remove it to start from what the \
                      revisions say: kubectl replace --subresource=status"
                .to_owned(),
        },
        other => return Err(format!("status.phase {other:?} is unknown to this release")),
    })
}

fn read_run(run: &RunStatus) -> Result<Run, String> {
    let missing = |field: &str| format!("status.run.{field} is missing");
    let held = || -> Result<Hold, String> {
        Ok(Hold {
            entered_at: read_time(run.step_started_at.as_ref())
                .ok_or_else(|| missing("stepStartedAt"))?,
            applied_at: read_time(run.applied_at.as_ref()),
            before: match &run.held {
                None => SignedDuration::ZERO,
                Some(held) => held
                    .parse()
                    .map_err(|error| format!("status.run.held: {error}"))?,
            },
        })
    };
    let stage = match (run.baking, run.step_index) {
        (true, _) => Stage::Bake { held: held()? },
        (false, None) => Stage::Starting,
        (false, Some(index)) => Stage::Step {
            index: usize::try_from(index)
                .map_err(|_| format!("status.run.stepIndex {index} is negative"))?,
            held: held()?,
        },
    };
    Ok(Run {
        id: run.id.clone(),
        revision: run.revision.clone(),
        plan: run.plan_ref.name.clone(),
        started_at: read_time(run.started_at.as_ref()).ok_or_else(|| missing("startedAt"))?,
        attempt: run.attempt,
        stable_replicas: u32::try_from(run.stable_replicas).unwrap_or(0),
        exposed_at: read_time(run.exposed_at.as_ref()),
        stage,
        earned: Weight::try_from(run.earned_weight.clone())
            .map_err(|error| format!("status.run.earnedWeight: {error}"))?,
        waiting_since: read_time(run.waiting_since.as_ref()),
        tallies: run
            .guardrails
            .iter()
            .map(read_tally)
            .collect::<BTreeMap<_, _>>(),
    })
}

fn read_tally(guardrail: &GuardrailStatus) -> (String, Tally) {
    let verdict = match guardrail.blind.as_deref() {
        Some("NoData") => Some(Verdict::NoData),
        Some("Error") => Some(Verdict::Error),
        Some(_) | None => None,
    };
    let blind = verdict.zip(read_time(guardrail.blind_since.as_ref()));
    let failures = u32::try_from(guardrail.failures).unwrap_or(0);
    let failed_at = read_time(guardrail.failed_at.as_ref());
    (
        guardrail.name.clone(),
        Tally {
            failures,
            failed_at,
            blind,
            evidence: guardrail.evidence.clone(),
        },
    )
}

fn read_condemned(condemned: &CondemnedRevision) -> Condemned {
    Condemned {
        revision: condemned.revision.clone(),
        run: condemned.run.clone(),
        attempt: condemned.attempt,
        reason: condemned.reason.clone(),
    }
}

fn read_time(time: Option<&Time>) -> Option<Timestamp> {
    time.map(|time| time.0)
}

/// The status's form of a run.
pub fn write_run(run: &Run, ending: Option<&Ending>) -> RunStatus {
    let held = run.hold();
    RunStatus {
        id: run.id.clone(),
        revision: run.revision.clone(),
        plan_ref: PlanReference {
            name: run.plan.clone(),
        },
        started_at: Some(Time(run.started_at)),
        attempt: run.attempt,
        stable_replicas: i32::try_from(run.stable_replicas).unwrap_or(i32::MAX),
        exposed_at: run.exposed_at.map(Time),
        step_index: match &run.stage {
            Stage::Step { index, .. } => i32::try_from(*index).ok(),
            Stage::Starting | Stage::Bake { .. } => None,
        },
        baking: matches!(run.stage, Stage::Bake { .. }),
        step_started_at: held.map(|held| Time(held.entered_at)),
        applied_at: held.and_then(|held| held.applied_at).map(Time),
        held: held
            .filter(|held| !held.before.is_zero())
            .map(|held| write_duration(held.before)),
        waiting_since: run.waiting_since.map(Time),
        earned_weight: run.earned.into(),
        guardrails: run.tallies.iter().map(write_tally).collect(),
        ending: ending.map(|ending| status::Ending {
            result: ending.result.name().to_owned(),
            reason: ending.reason.clone(),
            message: ending.message.clone(),
        }),
    }
}

/// A duration as the schema wants it: no part has more than five digits.
fn write_duration(duration: SignedDuration) -> DurationText {
    const HOURS_MAX: i128 = 99_999;
    let millis = duration.as_millis().max(0);
    let hours = (millis / 3_600_000).min(HOURS_MAX);
    let parts = [
        (hours, "h"),
        (millis / 60_000 % 60, "m"),
        (millis / 1000 % 60, "s"),
        (millis % 1000, "ms"),
    ];
    let text = parts
        .iter()
        .filter(|(count, _)| *count > 0)
        .fold(String::new(), |text, (count, unit)| {
            text + &count.to_string() + unit
        });
    DurationText(if text.is_empty() {
        "0s".to_owned()
    } else {
        text
    })
}

fn write_tally((name, tally): (&String, &Tally)) -> GuardrailStatus {
    GuardrailStatus {
        name: name.clone(),
        failures: i32::try_from(tally.failures).unwrap_or(i32::MAX),
        failed_at: tally.failed_at.map(Time),
        blind: tally.blind.map(|(verdict, _)| verdict.name().to_owned()),
        blind_since: tally.blind.map(|(_, since)| Time(since)),
        evidence: tally.evidence.clone(),
    }
}

/// The status's form of a condemned revision.
pub fn write_condemned(condemned: &Condemned) -> CondemnedRevision {
    CondemnedRevision {
        revision: condemned.revision.clone(),
        run: condemned.run.clone(),
        attempt: condemned.attempt,
        reason: condemned.reason.clone(),
    }
}
