//! What a status keeps of evidence: written at transitions only, so that a run at rest writes
//! nothing, and read by an operator that lost its memory.

use crds::{contract::BadEvent, status::EvidenceStatus};
use verdict::lanes::Checkpoint;

use crate::{
    evidence::RunEvidence,
    guardrail::{RouterCheck, RouterTest},
    observation::{Frozen, Observation},
    state::{Phase, Run, State},
    transition::number,
    weight::Weight,
};

/// Without a stable revision beside it a canary is not judged by less: the world may have changed.
const LIMIT_MIN: f64 = 0.05;
/// What a canary may have where nothing is known of stable.
const LIMIT_UNKNOWN: f64 = 0.5;
/// A limit near one says nothing.
const LIMIT_MAX: f64 = 0.9;

/// The lanes of a guardrail as they were at the latest transition, if they were recorded.
pub fn recorded(run: &Run, guardrail: &str) -> Option<Checkpoint> {
    let evidence = run.tallies.get(guardrail)?.evidence.as_ref()?;
    serde_json::from_str(evidence.sums.as_ref()?).ok()
}

/// Records what was seen, at a transition.
pub(crate) fn record(next: &mut State, seen: &Observation) {
    let (Phase::Running { run, .. } | Phase::Ending { run, .. }) = &mut next.phase else {
        return;
    };
    let Frozen::Plan(plan) = &seen.frozen else {
        return;
    };
    let evidence = seen
        .evidence
        .as_ref()
        .filter(|seen| seen.run == run.id && seen.revision == run.revision);
    for (guardrail, check) in plan.for_routers() {
        let name = guardrail.name.as_str();
        let judged = seen
            .judgements
            .iter()
            .find(|judged| judged.guardrail == name && judged.revision == run.revision);
        let before = run
            .tallies
            .get(name)
            .and_then(|tally| tally.evidence.as_ref());
        let limit = before.and_then(|before| before.limit.clone()).or_else(|| {
            let limit = limit(name, check, evidence)?;
            number(limit)
        });
        let lanes = evidence
            .and_then(|evidence| evidence.guardrails.get(name))
            .and_then(|evidence| evidence.lanes.as_ref());
        let status = EvidenceStatus {
            verdict: judged
                .map(|judged| judged.verdict.name().to_owned())
                .unwrap_or_default(),
            log_e: judged.and_then(|judged| judged.log_e).and_then(number),
            bound: judged.and_then(|judged| judged.bound).and_then(number),
            canary_units: judged.and_then(|judged| judged.samples).map_or(0, whole),
            limit: limit.filter(|_| run.earned == Weight::FULL),
            sums: lanes.and_then(|lanes| serde_json::to_string(lanes).ok()),
        };
        if judged.is_some() || status.limit.is_some() {
            run.tallies.entry(name.to_owned()).or_default().evidence = Some(status);
        }
    }
}

/// The share of bad requests that a canary with all traffic may have, as nothing is beside it to
/// compare it with: so many times what stable had that promotion bears, but at least
/// [`LIMIT_MIN`]. None where stable was too bad. Where too little is known of it, only a canary that
/// mostly fails is too bad; what is too slow nobody can say.
fn limit(name: &str, check: &RouterCheck, evidence: Option<&RunEvidence>) -> Option<f64> {
    let RouterTest::Comparison { promote_within, .. } = check.test else {
        return None;
    };
    let stable = evidence.map(|evidence| evidence.sum(|_| true).1);
    let known = stable.filter(|stable| stable.judged(name) >= u64::from(check.min_units));
    let Some(share) = known.and_then(|stable| stable.bad_share(name)) else {
        let is_failure = matches!(check.event, BadEvent::Error | BadEvent::BrokenStream);
        return is_failure.then_some(LIMIT_UNKNOWN);
    };
    let limit = (share * promote_within).max(LIMIT_MIN);
    (limit <= LIMIT_MAX).then_some(limit)
}

#[expect(
    clippy::as_conversions,
    clippy::cast_possible_truncation,
    reason = "it was a count, and a conversion of floats saturates"
)]
fn whole(count: f64) -> i64 {
    count as i64
}
