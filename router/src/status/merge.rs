//! From findings and what a status holds already to what it should hold. Pure.

use crds::contract::{CONDITION_TRIPPED, REASON_TRIPPED, Trip};
use crds::gateway::{GatewayStatus, ListenerStatus, RouteParentStatus};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use super::tripped::tells_of;
use crate::table::Run;
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

/// The run that a route names, and its trip.
pub(super) struct Named<'name> {
    /// The run.
    pub(super) run: Option<&'name Run>,
    /// Its trip, if it was tripped.
    pub(super) trip: Option<&'name Trip>,
}

impl<'name> Named<'name> {
    /// The trip counts only where it is of the run.
    pub(super) fn new(run: Option<&'name Run>, trip: Option<&'name Trip>) -> Self {
        let of_run = |trip: &&Trip| {
            run.is_some_and(|run| trip.run == run.id && trip.revision == run.revision)
        };
        Self {
            run,
            trip: trip.filter(of_run),
        }
    }

    /// What to say where nobody has said it; the first word of a run stays as it is, whichever
    /// replica's it was. What is said of another run goes.
    fn amend(
        &self,
        mut conditions: Vec<Condition>,
        (generation, now): (i64, Timestamp),
    ) -> Vec<Condition> {
        let told = |condition: &Condition| self.run.is_some_and(|run| tells_of(condition, run));
        conditions.retain(|it| it.type_ != CONDITION_TRIPPED || told(it));
        let Some(trip) = self.trip.filter(|_| !conditions.iter().any(told)) else {
            return conditions;
        };
        conditions.push(Condition {
            last_transition_time: Time(whole_second(now)),
            message: bounded(trip.to_condition_message()),
            observed_generation: Some(generation),
            reason: REASON_TRIPPED.to_owned(),
            status: "True".to_owned(),
            type_: CONDITION_TRIPPED.to_owned(),
        });
        conditions
    }
}

/// The API server refuses a condition whose message is longer; what counts stands in front.
const MESSAGE_BYTES_MAX: usize = 32_768;

fn bounded(mut message: String) -> String {
    message.truncate(message.floor_char_boundary(MESSAGE_BYTES_MAX));
    message
}

/// A route's parents with nothing changed but what is said of trips.
pub(super) fn tripped(
    before: &[RouteParentStatus],
    named: &Named<'_>,
    controller: &str,
    at: (i64, Timestamp),
) -> Vec<RouteParentStatus> {
    let mut after = before.to_vec();
    for entry in &mut after {
        if entry.controller_name == controller {
            entry.conditions = named.amend(std::mem::take(&mut entry.conditions), at);
        }
    }
    after
}

/// A route's parents: entries of other controllers stay as they are and where they are.
pub(super) fn parents(
    before: &[RouteParentStatus],
    found: &RouteFindings,
    named: &Named<'_>,
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
    tripped(&after, named, controller, (found.generation, now))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::findings::reason;
    use crds::gateway::ParentReference;
    use crds::quantity::Number;

    const OURS: &str = "sluice.dev/router";
    const NOTHING: Named<'_> = Named {
        run: None,
        trip: None,
    };

    fn run(id: &str) -> Run {
        Run {
            id: id.to_owned(),
            revision: "b".to_owned(),
        }
    }

    fn trip(run: &str, guardrail: &str) -> Trip {
        Trip {
            run: run.to_owned(),
            revision: "b".to_owned(),
            guardrail: guardrail.to_owned(),
            log_e: Number("9.77".to_owned()),
            bound: Number("7.78".to_owned()),
            message: "3 of 41 users".to_owned(),
        }
    }

    /// The messages of `Tripped` at each parent.
    fn trips(parents: &[RouteParentStatus]) -> Vec<Vec<&str>> {
        parents
            .iter()
            .map(|entry| {
                entry
                    .conditions
                    .iter()
                    .filter(|it| it.type_ == CONDITION_TRIPPED)
                    .map(|it| it.message.as_str())
                    .collect()
            })
            .collect()
    }

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
        let once = parents(&[], &accepted(1, &["a", "b"]), &NOTHING, OURS, at(10));
        assert_eq!(
            parents(&once, &accepted(1, &["a", "b"]), &NOTHING, OURS, at(99)),
            once
        );
    }

    #[test]
    fn time_changes_with_the_status_and_not_with_the_generation() {
        let first = parents(&[], &accepted(1, &["a"]), &NOTHING, OURS, at(10));
        let second = parents(&first, &accepted(2, &["a"]), &NOTHING, OURS, at(20));
        assert_eq!(second[0].conditions[0].last_transition_time.0, at(10));
        assert_eq!(second[0].conditions[0].observed_generation, Some(2));
        let mut refused = accepted(3, &["a"]);
        refused.parents[0].1[0].status = false;
        let third = parents(&second, &refused, &NOTHING, OURS, at(30));
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
            &NOTHING,
            OURS,
            at(10),
        );
        assert_eq!(before.len(), 3);
        let after = parents(&before, &accepted(2, &["b"]), &NOTHING, OURS, at(20));
        assert_eq!(after.len(), 2);
        assert_eq!(after[0], other);
        assert_eq!(after[1].parent_ref, parent("b"));
    }

    #[test]
    fn conditions_that_are_not_ours_stay() {
        let mut before = parents(&[], &accepted(1, &["a"]), &NOTHING, OURS, at(10));
        before[0].conditions[0].type_ = "example.com/Audited".to_owned();
        let after = parents(&before, &accepted(1, &["a"]), &NOTHING, OURS, at(20));
        assert_eq!(after[0].conditions.len(), 2);
    }

    #[test]
    fn a_trip_is_said_at_each_parent_and_the_first_word_of_it_stays() {
        let (run, first, second) = (run("r1"), trip("r1", "errors"), trip("r1", "slow-answers"));
        let found = accepted(1, &["a", "b"]);
        let named = Named::new(Some(&run), Some(&first));
        let once = parents(&[], &found, &named, OURS, at(10));
        let text = first.to_condition_message();
        assert_eq!(trips(&once), [[text.as_str()], [text.as_str()]]);
        let named = Named::new(Some(&run), Some(&second));
        assert_eq!(parents(&once, &found, &named, OURS, at(20)), once);
        // Another replica has not heard of it, and leaves it.
        let named = Named::new(Some(&run), None);
        assert_eq!(parents(&once, &found, &named, OURS, at(20)), once);
    }

    #[test]
    fn a_trip_goes_with_its_run_and_what_is_no_trip_of_the_run_is_replaced() {
        let (r1, r2) = (run("r1"), run("r2"));
        let found = accepted(1, &["a"]);
        let first = trip("r1", "errors");
        let once = parents(
            &[],
            &found,
            &Named::new(Some(&r1), Some(&first)),
            OURS,
            at(10),
        );
        for named in [Named::new(Some(&r2), Some(&first)), NOTHING] {
            let after = parents(&once, &found, &named, OURS, at(20));
            assert_eq!(trips(&after), [Vec::<&str>::new()]);
        }
        let mut malformed = once.clone();
        malformed[0].conditions[1].message = "someone wrote this".to_owned();
        let named = Named::new(Some(&r1), Some(&first));
        assert_eq!(parents(&malformed, &found, &named, OURS, at(10)), once);
    }

    #[test]
    fn trips_at_parents_of_others_are_not_touched() {
        let (run, first) = (run("r1"), trip("r1", "errors"));
        let named = Named::new(Some(&run), Some(&first));
        let theirs = parents(
            &[],
            &accepted(1, &["a"]),
            &named,
            "example.com/other",
            at(10),
        );
        let after = tripped(&theirs, &NOTHING, OURS, (1, at(20)));
        assert_eq!(after, theirs);
        assert_eq!(tripped(&theirs, &named, OURS, (1, at(20))), theirs);
    }
}
