//! Histories drawn at random. Every event is paired with how the reconcile after it ends: a crash as
//! an event of its own never meets a fresh verdict, and would miss the orders of writes that fail.

use crds::{ModelDeploymentStatus, contract::Trip, status::CondemnedRevision};
use jiff::SignedDuration;
use proptest::prelude::*;
use rollout::{
    action::Action,
    state::{Phase, State},
    weight::Weight,
};
use verdict::Verdict;

use super::cluster::{Cluster, Ending, Revision, copies, trip_of};

#[derive(Clone, Debug)]
enum Event {
    /// So many milliseconds pass.
    Pass(i64),
    /// The clock jumps by so many seconds.
    Clock(i64),
    Quality(Revision, Verdict),
    Broken(Revision),
    Mended,
    Spec(Revision),
    SpecInvalid(bool),
    Paused(bool),
    Attempt,
    Tampered(u16),
    StatusLost,
    Unreadable(bool),
    Replicas(u32),
    RouteDeleted,
    PlansDeleted,
    /// A router took the canary out.
    Trip,
    /// The route's status tells of a run that is another.
    ForeignTrip(u64, Revision),
}

fn revision() -> impl Strategy<Value = Revision> {
    prop::sample::select(vec!["a", "b", "c"])
}

fn verdict() -> impl Strategy<Value = Verdict> {
    use Verdict::{Error, Fail, Inconclusive, NoData, Pass};
    prop::sample::select(vec![Pass, Pass, Fail, Inconclusive, NoData, Error])
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        12 => (1_i64..12_000).prop_map(Event::Pass),
        1 => (-30_i64..30).prop_map(Event::Clock),
        3 => (revision(), verdict()).prop_map(|(revision, verdict)| Event::Quality(revision, verdict)),
        1 => revision().prop_map(Event::Broken),
        2 => Just(Event::Mended),
        2 => revision().prop_map(Event::Spec),
        1 => any::<bool>().prop_map(Event::SpecInvalid),
        1 => any::<bool>().prop_map(Event::Paused),
        1 => Just(Event::Attempt),
        1 => (0_u16..=10_000).prop_map(Event::Tampered),
        1 => Just(Event::StatusLost),
        1 => any::<bool>().prop_map(Event::Unreadable),
        1 => (0_u32..8).prop_map(Event::Replicas),
        1 => Just(Event::RouteDeleted),
        1 => Just(Event::PlansDeleted),
        1 => Just(Event::Trip),
        1 => (0_u64..4, revision()).prop_map(|(run, revision)| Event::ForeignTrip(run, revision)),
    ]
}

fn ending() -> impl Strategy<Value = Ending> {
    prop_oneof![
        10 => Just(Ending::Completes),
        3 => (0_usize..6).prop_map(Ending::DiesAfter),
        2 => Just(Ending::RecordRefused),
        1 => Just(Ending::Conflict),
    ]
}

fn happen(cluster: &mut Cluster, event: &Event) {
    match event {
        Event::Pass(millis) => cluster.pass(SignedDuration::from_millis(*millis)),
        Event::Clock(seconds) => cluster.now += SignedDuration::from_secs(*seconds),
        Event::RouteDeleted => {
            // The word of routers is in its status.
            cluster.rule = None;
            cluster.tripped = None;
        }
        Event::Trip => cluster.trip(),
        Event::ForeignTrip(run, revision) => foreign_trip(cluster, *run, revision),
        Event::PlansDeleted => cluster.plans.clear(),
        Event::Quality(revision, verdict) => {
            cluster.quality.insert(revision, *verdict);
        }
        Event::Broken(revision) => {
            cluster.broken.insert(revision);
        }
        Event::Mended => cluster.broken.clear(),
        Event::Spec(revision) => cluster.spec = revision,
        Event::SpecInvalid(invalid) => cluster.spec_is_valid = !invalid,
        Event::Paused(paused) => cluster.paused = *paused,
        Event::Attempt => cluster.attempt += 1,
        Event::Tampered(points) => tamper(cluster, *points),
        Event::StatusLost => cluster.status = ModelDeploymentStatus::default(),
        Event::Unreadable(unreadable) => cluster.unreadable = *unreadable,
        Event::Replicas(replicas) => cluster.replicas = *replicas,
    }
}

/// A word of a router about another run, or about this run and another revision. It must change
/// nothing, so it never takes the place of one that must.
fn foreign_trip(cluster: &mut Cluster, run: u64, revision: Revision) {
    let state = cluster.state();
    let present = state.as_ref().and_then(State::run);
    let foreign = trip_of(&format!("r{run}"), revision);
    let is_about = |trip: &Trip| {
        present.is_some_and(|run| trip.run == run.id && trip.revision == run.revision)
    };
    if !is_about(&foreign) && !cluster.tripped.as_ref().is_some_and(is_about) {
        cluster.tripped = Some(foreign);
    }
}

/// Somebody edits the weights of the route.
fn tamper(cluster: &mut Cluster, points: u16) {
    let Some(rule) = cluster.rule.as_mut().filter(|rule| rule.weights.len() == 2) else {
        return;
    };
    for (index, weight) in rule.weights.values_mut().enumerate() {
        *weight = i32::from(if index == 0 { points } else { 10_000 - points });
    }
    cluster.applied = false;
}

fn earned(cluster: &Cluster, revision: &str) -> Weight {
    let state = cluster.state();
    let run = state
        .as_ref()
        .and_then(State::run)
        .filter(|run| run.revision == revision);
    run.map_or(Weight::ZERO, |run| run.earned)
}

fn is_stable(cluster: &Cluster, revision: &str) -> bool {
    cluster.status.stable_revision.as_deref() == Some(revision)
}

fn stable_at_start(cluster: &Cluster) -> u32 {
    let state = cluster.state();
    let run = state.as_ref().and_then(State::run);
    run.map_or(0, |run| run.stable_replicas)
}

/// Deciding again at the same instant, with all that was decided done, comes to rest: no more
/// actions, no more writes.
fn check_rest(cluster: &Cluster) {
    let mut again = cluster.clone();
    for _ in 0..8 {
        let writes = again.writes;
        let decision = again.reconcile(Ending::Completes);
        if !decision.is_transition {
            // Of what was just saved the oldest may be too many.
            let is_tidying = |action: &Action| matches!(action, Action::Forget { .. });
            let (actions, why) = (decision.actions, decision.why);
            assert!(actions.iter().all(is_tidying), "{why:?} again: {actions:?}");
        }
        if again.writes == writes {
            return;
        }
    }
    panic!("never comes to rest: {:#?}", again.status);
}

/// A trip never loses: whatever else was seen and however the reconcile went, the canary earns
/// nothing any more, unless there is nothing to fall back to. It ends no run but its own.
fn check_trip(before: &Cluster, after: &Cluster, ending: Ending) {
    let (state, next) = (before.state(), after.state());
    let Some(Phase::Running { stable, run }) = state.as_ref().map(|state| &state.phase) else {
        return;
    };
    let trip = before.tripped.as_ref();
    let is_about = trip.is_some_and(|trip| trip.run == run.id && trip.revision == run.revision);
    let reached = matches!(&next.as_ref().unwrap().phase, Phase::Running { run: now, .. } if now.id == run.id);
    if !is_about {
        let message = after
            .status
            .run
            .as_ref()
            .and_then(|run| run.ending.as_ref());
        assert!(message.is_none_or(|ending| ending.reason != "Tripped"));
        return;
    }
    assert!(
        earned(after, &run.revision) <= run.earned,
        "a tripped canary earned more"
    );
    let ready = before
        .tracks
        .get(stable.as_str())
        .map_or(0, |track| track.ready);
    if ending == Ending::Completes && ready > 0 {
        assert!(!reached, "a tripped run goes on: {:?}", after.status.run);
        assert_eq!(after.weight(&run.revision), Weight::ZERO);
        assert_eq!(after.copied(), 0, "a tripped canary gets copies");
    }
}

/// Copies are made in a step that asks for them alone: beside no traffic, no more than the canary's
/// pods carry, for no revision that must get nothing, and none before that step is recorded.
fn check_copies(before: &Cluster, after: &Cluster, ending: Ending) {
    if ending == Ending::RecordRefused {
        assert!(after.copied() <= before.copied(), "copies without a record");
    }
    let copied = after.copied();
    if copied == 0 || ending != Ending::Completes || after.unreadable {
        return;
    }
    let (state, split) = (after.state(), after.split().unwrap());
    let Some(Phase::Running { stable, run }) = state.as_ref().map(|state| &state.phase) else {
        panic!("copies outside a run: {:?}", after.status);
    };
    assert_eq!(
        (&split.run, split.canary.as_ref()),
        (&run.id, Some(&run.revision))
    );
    assert_eq!(
        after.weight(&run.revision),
        Weight::ZERO,
        "copies beside traffic"
    );
    let asked = after.plans[&run.plan].clone();
    let asked = run.mirror(&asked).map_or(0, |mirror| mirror.share);
    assert!(copied <= asked, "{copied} of {asked} are copied");
    let ready = |name: &str| before.tracks.get(name).map_or(0, |track| track.ready);
    let capacity = run.stable_replicas.max(before.replicas.min(ready(stable)));
    let carried = Weight::ready_share(ready(&run.revision), capacity);
    assert!(copied <= carried.basis_points(), "more copies than pods");
    let is_condemned = |condemned: &CondemnedRevision| {
        condemned.revision == run.revision && after.attempt <= condemned.attempt
    };
    assert!(!after.status.condemned.iter().any(is_condemned));
}

/// What must hold after a reconcile, given the cluster before it.
fn check(before: &Cluster, after: &Cluster, ending: Ending) {
    let revisions = ["a", "b", "c"];
    let first_deployment = before.phase() == "" || before.phase() == "Pending";
    check_trip(before, after, ending);
    check_copies(before, after, ending);
    for revision in revisions
        .iter()
        .filter(|revision| !is_stable(after, revision))
    {
        let (old, new) = (before.weight(revision), after.weight(revision));
        let rose = new > old;
        if rose && !first_deployment {
            assert!(
                new <= earned(after, revision),
                "{revision} got {new}, more than it earned"
            );
            let ready = |name: &str| after.tracks.get(name).map_or(0, |track| track.ready);
            // Capacity that was raised in the run counts once its pods are ready.
            let stable = after.status.stable_revision.as_deref().map_or(0, ready);
            let capacity = stable_at_start(after).max(after.replicas.min(stable));
            assert!(
                new <= Weight::ready_share(ready(revision), capacity),
                "{revision} got more than its pods carry"
            );
        }
        let judged = before
            .state()
            .as_ref()
            .and_then(State::run)
            .is_some_and(|run| run.revision == **revision && run.exposed_at.is_some());
        let bad = judged && before.quality.get(revision) != Some(&Verdict::Pass);
        if bad && before.quality.contains_key(revision) {
            assert!(
                earned(after, revision) <= earned(before, revision),
                "{revision} rose without a pass"
            );
        }
        let condemned = after.status.condemned.iter().any(|condemned| {
            condemned.revision == **revision && after.attempt <= condemned.attempt
        });
        if condemned && ending == Ending::Completes && !after.unreadable && after.spec == *revision
        {
            assert_eq!(new, Weight::ZERO, "{revision} is condemned");
        }
    }
}

/// Steps that copy requests come before the others.
fn begin_with(copied: &[u16], cluster: &mut Cluster) {
    let steps = copied.iter().map(|share| copies(*share, 6));
    cluster.plan.steps.splice(0..0, steps);
}

fn copied() -> impl Strategy<Value = Vec<u16>> {
    prop::sample::select(vec![vec![], vec![1000], vec![2000, 6000]])
}

proptest! {
    // 256 histories of each property, the default; PROPTEST_CASES=10000 takes a longer look.
    #![proptest_config(ProptestConfig { max_shrink_iters: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn properties_hold_in_every_history(
        copied in copied(),
        history in prop::collection::vec((event(), ending()), 1..60)
    ) {
        let mut cluster = Cluster::new("a");
        begin_with(&copied, &mut cluster);
        cluster.until(20, |cluster| cluster.phase() == "Stable");
        for (event, ending) in history {
            happen(&mut cluster, &event);
            let before = cluster.clone();
            cluster.reconcile(ending);
            check(&before, &cluster, ending);
            if ending == Ending::Completes {
                check_rest(&cluster);
            }
        }
    }

    #[test]
    fn whatever_happened_a_healthy_cluster_ends_with_what_the_spec_asks_for(
        copied in copied(),
        history in prop::collection::vec((event(), ending()), 1..40)
    ) {
        let mut cluster = Cluster::new("a");
        begin_with(&copied, &mut cluster);
        cluster.routers_forget = true;
        cluster.until(20, |cluster| cluster.phase() == "Stable");
        for (event, ending) in history {
            happen(&mut cluster, &event);
            cluster.reconcile(ending);
        }
        cluster.quality.clear();
        cluster.broken.clear();
        cluster.unreadable = false;
        cluster.paused = false;
        cluster.spec_is_valid = true;
        cluster.replicas = cluster.replicas.max(1);
        // What was tripped is rolled back first: an attempt that is raised before lifts nothing.
        cluster.until(10, |cluster| cluster.tripped.is_none());
        cluster.attempt += 1;
        let spec = cluster.spec;
        let done = cluster.until(400, |cluster| {
            cluster.phase() == "Stable" && is_stable(cluster, spec) && cluster.weight(spec) == Weight::FULL
        });
        prop_assert!(done, "{:#?}", cluster.status);
        // And then there is nothing more to write.
        cluster.until(70, |_| false);
        let writes = cluster.writes;
        cluster.until(10, |_| false);
        prop_assert_eq!(cluster.writes, writes);
    }
}
