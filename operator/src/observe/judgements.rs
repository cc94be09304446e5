//! What the guardrails say of the canary.

use std::collections::BTreeMap;

use crds::ModelDeployment;
use futures::future;
use jiff::Timestamp;
use rollout::{
    guardrail::{self, Guardrail, Judgement, PrometheusCheck, Reading, Subject},
    observation::Frozen,
    state::{Run, State},
};

use crate::{ctx::Ctx, metrics::source::Lookup, owner::Owner};

/// One judgement for each guardrail of the run that asks a Prometheus, as old as its interval at
/// most. None before the canary has had traffic.
pub(super) async fn judgements(
    ctx: &Ctx,
    deployment: &ModelDeployment,
    (state, frozen): (Option<&State>, &Frozen),
    sources: &BTreeMap<String, Lookup>,
    now: Timestamp,
) -> Vec<Judgement> {
    let run = state.and_then(State::run);
    let Some((run, since)) = run.and_then(|run| Some((run, run.exposed_at?))) else {
        return Vec::new();
    };
    let Frozen::Plan(plan) = frozen else {
        return Vec::new();
    };
    let known = ctx.memory.with(deployment, |entry| {
        if entry.run != run.id {
            run.id.clone_into(&mut entry.run);
            entry.judgements.clear();
        }
        entry.judgements.clone()
    });
    let owner = Owner::of(deployment);
    let asked = plan.guardrails.iter();
    let asked = asked.filter_map(|guardrail| Some((guardrail, guardrail.prometheus()?)));
    let (known, owner) = (&known, &owner);
    let asking = asked.map(|(guardrail, check)| async move {
        match known.get(&guardrail.name) {
            Some(judgement) if is_fresh(judgement, run, check, now) => judgement.clone(),
            Some(_) | None => {
                let source = sources.get(&check.source);
                ask(ctx, owner, source, (guardrail, check, run), (since, now)).await
            }
        }
    });
    let judgements = future::join_all(asking).await;
    ctx.memory.with(deployment, |entry| {
        let by_name = judgements
            .iter()
            .map(|one| (one.guardrail.clone(), one.clone()));
        entry.judgements = by_name.collect();
    });
    judgements
}

/// Whether a guardrail need not be asked again yet. A clock that went back makes nothing fresh.
fn is_fresh(judgement: &Judgement, run: &Run, check: &PrometheusCheck, now: Timestamp) -> bool {
    let age = now.duration_since(judgement.at);
    judgement.revision == run.revision && !age.is_negative() && age < check.interval
}

async fn ask(
    ctx: &Ctx,
    owner: &Owner,
    source: Option<&Lookup>,
    (guardrail, check, run): (&Guardrail, &PrometheusCheck, &Run),
    (since, now): (Timestamp, Timestamp),
) -> Judgement {
    let refused = |problem: String| Reading {
        at: now,
        window: check.query_window(since, now),
        answers: Err(problem),
    };
    let reading = match source {
        Some(Lookup::Usable(source)) => {
            let subject = Subject {
                namespace: owner.namespace.clone(),
                name: owner.name.clone(),
                revision: run.revision.clone(),
                namespace_label: source.namespace_label.clone(),
            };
            ctx.prometheus
                .read(source, check, &subject, (since, now))
                .await
        }
        Some(Lookup::Refused(problem) | Lookup::Unknown(problem)) => refused(problem.clone()),
        None => refused(format!("MetricSource {:?} was not looked up", check.source)),
    };
    ctx.telemetry.queried(reading.answers.is_ok());
    guardrail::judge(guardrail, check, &run.revision, &reading)
}
