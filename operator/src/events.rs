//! Announces transitions as Events.

use crds::{ModelDeployment, contract, status::DecisionRecord};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::{core::v1::ObjectReference, events::v1::Event},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
};
use kube::{Resource as _, api::PostParams};
use rollout::Decision;

use crate::{ctx::Ctx, error, owner::Owner};

/// Decisions younger than this are announced again after a restart: whether they were is not known.
const FORGOTTEN_AFTER: SignedDuration = SignedDuration::from_mins(5);
/// Longest note that the API server takes, in bytes.
const LONGEST_NOTE: usize = 1024;
const CONTROLLER: &str = "sluice.dev/operator";
const ACTION: &str = "Rollout";

/// Announces what was decided and is not announced yet. An Event that cannot be written stops
/// nothing; it is tried again at the next look.
pub async fn announce(
    ctx: &Ctx,
    deployment: &ModelDeployment,
    decision: &Decision,
    now: Timestamp,
) {
    if let Some(record) = decision
        .next
        .decisions
        .last()
        .filter(|_| decision.is_transition)
    {
        ctx.telemetry.transition(&record.decision);
        log(record);
    }
    let announced = ctx.memory.with(deployment, |entry| entry.announced);
    let owner = Owner::of(deployment);
    for record in pending(&decision.next.decisions, announced, now) {
        let event = event(&owner, record, &ctx.config.pod_name, now);
        let created = ctx
            .api::<Event>(&owner.namespace)
            .create(&PostParams::default(), &event)
            .await;
        if let Err(error) = error::exists_is_fine(created) {
            tracing::warn!(%error, decision = record.decision, "cannot write an Event");
            return;
        }
        ctx.memory
            .with(deployment, |entry| entry.announced = Some(record.id));
    }
}

fn log(record: &DecisionRecord) {
    tracing::info!(
        decision = record.decision,
        revision = record.revision,
        weight = record.weight.0,
        why = record.message,
        "transition"
    );
}

/// The decisions that are still to be announced.
fn pending(
    decisions: &[DecisionRecord],
    announced: Option<i64>,
    now: Timestamp,
) -> impl Iterator<Item = &DecisionRecord> {
    decisions.iter().filter(move |record| match announced {
        Some(announced) => record.id > announced,
        None => record
            .at
            .as_ref()
            .is_some_and(|at| now.duration_since(at.0) < FORGOTTEN_AFTER),
    })
}

/// The Event of a decision. Its name follows from the decision, so that it is never doubled.
fn event(owner: &Owner, record: &DecisionRecord, pod: &str, now: Timestamp) -> Event {
    let at = record.at.as_ref().map_or(now, |at| at.0);
    Event {
        metadata: ObjectMeta {
            name: Some(format!(
                "{}.{}-{}",
                owner.name,
                record.id,
                short_hash(&owner.uid)
            )),
            namespace: Some(owner.namespace.clone()),
            labels: Some(owner.labels()),
            ..ObjectMeta::default()
        },
        event_time: Some(MicroTime(at)),
        reporting_controller: Some(CONTROLLER.to_owned()),
        reporting_instance: Some(pod.to_owned()),
        action: Some(ACTION.to_owned()),
        reason: Some(record.decision.clone()),
        note: Some(cut(&record.message, LONGEST_NOTE)),
        type_: Some(
            if is_warning(record) {
                "Warning"
            } else {
                "Normal"
            }
            .to_owned(),
        ),
        regarding: Some(ObjectReference {
            api_version: Some(ModelDeployment::api_version(&()).into_owned()),
            kind: Some(ModelDeployment::kind(&()).into_owned()),
            namespace: Some(owner.namespace.clone()),
            name: Some(owner.name.clone()),
            uid: Some(owner.uid.clone()),
            ..ObjectReference::default()
        }),
        ..Event::default()
    }
}

fn is_warning(record: &DecisionRecord) -> bool {
    let decision = record.decision.as_str();
    decision.contains("RolledBack")
        || decision.contains("RollingBack")
        || decision.contains("Rollback")
}

/// Eight hexadecimal digits of a digest.
fn short_hash(text: &str) -> String {
    let digest = contract::route_digest(&serde_json::Value::Null, Some(text), None);
    digest.chars().take(8).collect()
}

/// The text, or as much of it as fits.
fn cut(text: &str, bytes: usize) -> String {
    let mut cut = String::new();
    for char in text.chars() {
        if cut.len() + char.len_utf8() > bytes {
            break;
        }
        cut.push(char);
    }
    cut
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    use super::*;
    use crate::owner::tests::owner;

    fn record(id: i64, second: i64) -> DecisionRecord {
        DecisionRecord {
            id,
            at: Timestamp::from_second(second).ok().map(Time),
            decision: "Promoted".to_owned(),
            ..DecisionRecord::default()
        }
    }

    #[test]
    fn after_a_restart_only_young_decisions_are_announced() {
        let now = Timestamp::from_second(1000).unwrap();
        let records = [record(1, 600), record(2, 701), record(3, 1000)];
        let ids = |announced| -> Vec<i64> {
            pending(&records, announced, now)
                .map(|record| record.id)
                .collect()
        };
        assert_eq!(ids(None), [2, 3]);
        assert_eq!(ids(Some(2)), [3]);
        assert!(ids(Some(3)).is_empty());
    }

    #[test]
    fn the_same_decision_has_the_same_name() {
        let now = Timestamp::from_second(1000).unwrap();
        let name = |owner: &Owner, id| event(owner, &record(id, 1), "pod", now).metadata.name;
        let other = Owner {
            uid: "u-2".to_owned(),
            ..owner()
        };
        assert_eq!(name(&owner(), 1), name(&owner(), 1));
        assert_ne!(name(&owner(), 1), name(&owner(), 2));
        assert_ne!(name(&owner(), 1), name(&other, 1));
    }

    #[test]
    fn notes_are_cut_between_characters() {
        assert_eq!(cut("aäb", 3), "aä");
        assert_eq!(cut("aäb", 2), "a");
    }
}
