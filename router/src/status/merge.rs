//! From findings and what a status holds already to what it should hold. Pure.

use crds::gateway::{GatewayStatus, ListenerStatus, RouteParentStatus};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use crate::table::findings::{Finding, GatewayFindings, ListenerFindings, RouteFindings};

/// Conditions: a time changes only with its status, and types that are not ours stay.
pub(super) fn conditions(
    before: &[Condition],
    found: &[Finding],
    generation: i64,
    now: Timestamp,
) -> Vec<Condition> {
    let mut after = before.to_vec();
    for finding in found {
        let status = if finding.status { "True" } else { "False" };
        let known = after
            .iter_mut()
            .find(|condition| condition.type_ == finding.type_);
        let since = match &known {
            Some(known) if known.status == status => known.last_transition_time.clone(),
            Some(_) | None => Time(whole_second(now)),
        };
        let condition = Condition {
            last_transition_time: since,
            message: finding.message.clone(),
            observed_generation: Some(generation),
            reason: finding.reason.to_owned(),
            status: status.to_owned(),
            type_: finding.type_.to_owned(),
        };
        match known {
            Some(known) => *known = condition,
            None => after.push(condition),
        }
    }
    after
}

/// Times are stored by the second; what is compared must be what comes back.
fn whole_second(now: Timestamp) -> Timestamp {
    Timestamp::from_second(now.as_second()).unwrap_or(now)
}

/// A Gateway's status.
pub(super) fn gateway(
    before: &GatewayStatus,
    found: &GatewayFindings,
    now: Timestamp,
) -> GatewayStatus {
    let listener = |found_listener: &ListenerFindings| {
        let known = before
            .listeners
            .iter()
            .find(|known| known.name == found_listener.name);
        let known = known.map_or(&[][..], |known| &known.conditions);
        ListenerStatus {
            name: found_listener.name.clone(),
            supported_kinds: found_listener.supported_kinds.clone(),
            attached_routes: found_listener.attached_routes,
            conditions: conditions(known, &found_listener.conditions, found.generation, now),
        }
    };
    GatewayStatus {
        addresses: found.addresses.clone(),
        conditions: conditions(&before.conditions, &found.conditions, found.generation, now),
        listeners: found.listeners.iter().map(listener).collect(),
    }
}

/// A route's parents: entries of other controllers stay as they are and where they are.
pub(super) fn parents(
    before: &[RouteParentStatus],
    found: &RouteFindings,
    controller: &str,
    now: Timestamp,
) -> Vec<RouteParentStatus> {
    let ours = |entry: &RouteParentStatus| entry.controller_name == controller;
    let wanted = |entry: &RouteParentStatus| {
        found
            .parents
            .iter()
            .any(|(parent, _)| *parent == entry.parent_ref)
    };
    let mut after: Vec<RouteParentStatus> = before
        .iter()
        .filter(|entry| !ours(entry) || wanted(entry))
        .cloned()
        .collect();
    for (parent, findings) in &found.parents {
        let known = after
            .iter_mut()
            .find(|entry| ours(entry) && entry.parent_ref == *parent);
        match known {
            Some(entry) => {
                entry.conditions = conditions(&entry.conditions, findings, found.generation, now);
            }
            None => after.push(RouteParentStatus {
                parent_ref: parent.clone(),
                controller_name: controller.to_owned(),
                conditions: conditions(&[], findings, found.generation, now),
            }),
        }
    }
    after
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::findings::reason;
    use crds::gateway::ParentReference;

    const OURS: &str = "sluice.dev/router";

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn parent(name: &str) -> ParentReference {
        ParentReference {
            name: name.to_owned(),
            ..ParentReference::default()
        }
    }

    fn accepted(generation: i64, names: &[&str]) -> RouteFindings {
        let yes = Finding::yes(reason::ACCEPTED, reason::ACCEPTED, "");
        let parents = names
            .iter()
            .map(|name| (parent(name), vec![yes.clone()]))
            .collect();
        RouteFindings {
            generation,
            parents,
        }
    }

    #[test]
    fn the_same_findings_change_nothing() {
        let once = parents(&[], &accepted(1, &["a", "b"]), OURS, at(10));
        assert_eq!(
            parents(&once, &accepted(1, &["a", "b"]), OURS, at(99)),
            once
        );
    }

    #[test]
    fn time_changes_with_the_status_and_not_with_the_generation() {
        let first = parents(&[], &accepted(1, &["a"]), OURS, at(10));
        let second = parents(&first, &accepted(2, &["a"]), OURS, at(20));
        assert_eq!(second[0].conditions[0].last_transition_time.0, at(10));
        assert_eq!(second[0].conditions[0].observed_generation, Some(2));
        let mut refused = accepted(3, &["a"]);
        refused.parents[0].1[0].status = false;
        let third = parents(&second, &refused, OURS, at(30));
        assert_eq!(third[0].conditions[0].last_transition_time.0, at(30));
    }

    #[test]
    fn entries_of_others_stay_and_ours_go_with_their_parent() {
        let other = RouteParentStatus {
            parent_ref: parent("a"),
            controller_name: "example.com/other".to_owned(),
            conditions: Vec::new(),
        };
        let before = parents(
            std::slice::from_ref(&other),
            &accepted(1, &["a", "b"]),
            OURS,
            at(10),
        );
        assert_eq!(before.len(), 3);
        let after = parents(&before, &accepted(2, &["b"]), OURS, at(20));
        assert_eq!(after.len(), 2);
        assert_eq!(after[0], other);
        assert_eq!(after[1].parent_ref, parent("b"));
    }

    #[test]
    fn conditions_that_are_not_ours_stay() {
        let mut before = parents(&[], &accepted(1, &["a"]), OURS, at(10));
        before[0].conditions[0].type_ = "sluice.dev/Tripped".to_owned();
        let after = parents(&before, &accepted(1, &["a"]), OURS, at(20));
        assert_eq!(after[0].conditions.len(), 2);
    }
}
