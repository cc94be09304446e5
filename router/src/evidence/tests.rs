//! Whole runs in virtual time, through the same code as requests take.

mod null;
mod races;

use super::*;
use crate::evidence::guardrails::{Ended, Guardrails};
use crate::table::{Role, Route, Run};
use crds::contract::{BadEvent, Judge, JudgedGuardrail, Test};

const CANARY: &str = "10.0.0.2:80";
const STABLE: &str = "10.0.0.1:80";

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn guardrail(name: &str, event: BadEvent, test: Test) -> JudgedGuardrail {
    JudgedGuardrail {
        name: name.to_owned(),
        event,
        test,
        trips: true,
        warm_up_millis: 0,
    }
}

fn comparison(tolerance: &str) -> Test {
    Test::Comparison {
        tolerance: Number::from(tolerance),
    }
}

fn errors(test: Test) -> JudgedGuardrail {
    guardrail("errors", BadEvent::Error, test)
}

/// A router whose clock is the test's.
struct Virtual {
    evidence: Evidences,
    trips: Trips,
    metrics: Metrics,
    start: Instant,
    judge: Judge,
    witness: Option<Arc<Witness>>,
    weight: u16,
}

impl Virtual {
    fn new(alpha: &str, guardrails: Vec<JudgedGuardrail>) -> Self {
        let start = Instant::now();
        Self {
            evidence: Evidences::new(start),
            trips: Trips::default(),
            metrics: Metrics::new(),
            start,
            judge: Judge {
                alpha: Number::from(alpha),
                guardrails,
            },
            witness: None,
            weight: 0,
        }
    }

    fn at(&self, millis: u64) -> Instant {
        self.start + Duration::from_millis(millis)
    }

    fn publish(&mut self, run: &str, step: u32, weight: u16, millis: u64) {
        self.publish_at((&[CANARY], &[STABLE]), (run, step, weight), millis);
    }

    /// With these endpoints of the canary and of stable.
    fn publish_at(
        &mut self,
        (canary, stable): (&[&str], &[&str]),
        (run, step, weight): (&str, u32, u16),
        millis: u64,
    ) {
        let addresses = |arm: &[&str]| arm.iter().map(|it| address(it)).collect::<Vec<_>>();
        let watched = Watched {
            route: Arc::new(Route {
                key: ObjectKey::new("ml", "digits"),
                model_deployment: "digits".to_owned(),
                digest: String::new(),
                generation: 1,
            }),
            run: Run {
                id: run.to_owned(),
                revision: "canary".to_owned(),
            },
            step,
            weight,
            guardrails: Arc::new(Guardrails::parse(&self.judge).unwrap()),
            stable_revision: "stable".to_owned(),
            canary: addresses(canary),
            stable: addresses(stable),
        };
        let table = Table {
            endpoints: addresses(&[canary, stable].concat()).into_iter().collect(),
            watched: vec![watched],
            ..Table::default()
        };
        let now = self.at(millis);
        let mut witnesses = self.evidence.adopt(&table, &self.trips, now);
        self.witness = witnesses.pop();
        self.weight = weight;
    }

    fn look(&self, millis: u64) {
        self.evidence
            .look(&self.trips, &self.metrics, self.at(millis));
    }

    fn is_tripped(&self) -> bool {
        self.witness.as_ref().unwrap().is_tripped()
    }

    /// The arm of a draw.
    fn role(&self, draw: u64) -> Role {
        let share = u128::from(self.weight) << 64;
        if u128::from(draw) * 10_000 < share && !self.is_tripped() {
            Role::Canary
        } else {
            Role::Stable
        }
    }

    fn request(&self, role: Role, user: Option<u64>, code: u16, millis: u64) {
        let endpoint = match role {
            Role::Canary => address(CANARY),
            Role::Stable | Role::Plain => address(STABLE),
        };
        let witness = self.witness.as_ref().unwrap();
        let observation = witness.observe((role, endpoint), user, self.at(millis));
        observation.unwrap().end(&Ended {
            code,
            took: Duration::from_millis(3),
            first_byte: None,
            broken: false,
        });
    }

    fn told(&self) -> Evidence {
        self.evidence.snapshot(&BTreeMap::new()).remove(0)
    }
}

/// Numbers that are the same on every machine.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    /// True once in so many times.
    fn once_in(&mut self, times: u64) -> bool {
        self.next().is_multiple_of(times)
    }
}

#[test]
fn an_objective_counts_a_users_first_request_and_trips_when_it_is_missed() {
    let objective = || {
        errors(Test::Objective {
            max: Number::from("0.05"),
        })
    };
    let mut router = Virtual::new("0.001", vec![objective()]);
    router.publish("r1", 1, 10_000, 0);
    let mut dice = Dice(3);
    // Users come back for ten requests; the first is bad as often as allowed, all others are bad.
    for number in 0..1000 {
        let user = dice.next();
        let code = if number % 20 == 0 { 500 } else { 200 };
        router.request(Role::Canary, Some(user), code, 10);
        for _ in 0..9 {
            router.request(Role::Canary, Some(user), 500, 10);
        }
        router.look(20);
    }
    assert!(!router.is_tripped());
    let told = router.told();
    let canary = &told.segments.first().unwrap().canary;
    assert_eq!((canary.requests, canary.units), (10_000, 1000));
    assert_eq!(told.events.len(), 50);
    for _ in 0..40 {
        router.request(Role::Canary, None, 500, 30);
    }
    // At full weight a comparison sees nothing; an objective does.
    router.look(40);
    assert!(router.is_tripped());
}

#[test]
fn a_comparison_that_becomes_an_objective_goes_on_with_its_counts_and_begins_its_test() {
    let mut router = Virtual::new("0.001", vec![errors(comparison("1"))]);
    router.publish("r1", 1, 5000, 0);
    for user in 0..10 {
        router.request(Role::Canary, Some(user), 500, 1);
        router.request(Role::Stable, Some(1000 + user), 500, 1);
    }
    router.look(2);
    let max = Number::from("0.05");
    router.judge.guardrails = vec![errors(Test::Objective { max })];
    router.publish("r1", 2, 10_000, 3);
    for user in 0..20 {
        router.request(Role::Canary, Some(user), 500, 4);
    }
    router.look(5);
    assert!(router.is_tripped());
    let told = router.told();
    let requests = told.segments.iter().map(|it| it.canary.requests);
    assert_eq!(requests.collect::<Vec<_>>(), [10, 20]);
    assert_eq!(told.events.len(), 40);
}

#[test]
fn at_full_weight_a_comparison_learns_nothing_but_tells_whose_answers_were_bad() {
    let mut router = Virtual::new("0.001", vec![errors(comparison("1"))]);
    router.publish("r1", 1, 10_000, 0);
    for user in 0..100 {
        router.request(Role::Canary, Some(user / 2), 500, 1);
    }
    router.look(2);
    assert!(!router.is_tripped());
    assert_eq!(router.told().events.len(), 50);
}

#[test]
fn a_million_users_take_no_more_memory_than_the_bounds_say() {
    let mut router = Virtual::new("0.001", vec![errors(comparison("1"))]);
    // Too even to be judged, and all of them bad: the worst for memory.
    router.publish("r1", 1, 5000, 0);
    let mut dice = Dice(1);
    for number in 0..1_000_000_u32 {
        let user = dice.next();
        router.request(router.role(user), Some(user), 500, 10);
        if number % 20_000 == 0 {
            router.look(u64::from(number));
        }
    }
    router.look(1_000_001);
    assert!(!router.is_tripped());
    let told = router.told();
    assert!(told.events.len() <= 16 * 1024);
    assert!(told.dropped > 0);
    let segment = told.segments.first().unwrap();
    assert_eq!(segment.canary.requests + segment.stable.requests, 1_000_000);
    // Users are sampled beyond the bound of the set, and never counted twice.
    assert!(segment.canary.units > 65_536 / 2);
    assert!(segment.canary.units <= segment.canary.requests);
}

#[test]
fn segments_beyond_the_bound_are_merged_and_no_request_is_lost() {
    let mut router = Virtual::new("0.001", vec![errors(comparison("1"))]);
    let held = |router: &Virtual, millis| {
        let witness = router.witness.as_ref().unwrap();
        let at = (Role::Canary, address(CANARY));
        witness.observe(at, Some(7), router.at(millis)).unwrap()
    };
    router.publish("r1", 1, 9_000, 0);
    let first = held(&router, 0);
    let mut sent = 0_u64;
    for weight in 1..=300_u16 {
        router.publish("r1", 1, weight, u64::from(weight));
        for user in 0..3_u64 {
            router.request(Role::Stable, Some(u64::from(weight) * 10 + user), 500, 1);
            router.request(Role::Stable, None, 200, 1);
            sent += 2;
        }
        router.look(u64::from(weight));
    }
    first.end(&Ended {
        code: 500,
        took: Duration::from_millis(1),
        first_byte: None,
        broken: false,
    });
    router.look(400);
    let told = router.told();
    assert!(told.segments.len() <= 65, "{}", told.segments.len());
    let sum: u64 = told.segments.iter().map(|it| it.stable.requests).sum();
    assert_eq!(sum, sent);
    // What was in flight all the time counts where it was routed.
    let first = told.segments.iter().find(|it| it.weight == 9_000).unwrap();
    assert_eq!(first.canary.requests, 1);
    // No event names a segment that is gone, and those of another weight are counted as dropped.
    let ids: Vec<u32> = told.segments.iter().map(|it| it.id).collect();
    assert!(told.events.iter().all(|event| ids.contains(&event.segment)));
    assert!(told.dropped > 0);
}

#[test]
fn a_new_run_begins_with_nothing_and_the_same_run_goes_on() {
    let mut router = Virtual::new("0.001", vec![errors(comparison("1"))]);
    router.publish("r1", 1, 500, 0);
    for user in 0..50 {
        router.request(Role::Canary, Some(user), 500, 1);
    }
    router.publish("r1", 2, 2500, 2);
    router.look(3);
    assert!(router.is_tripped());
    let told = router.told();
    assert_eq!(told.events.len(), 50);
    let last = told.last;
    let after = BTreeMap::from([(ObjectKey::new("ml", "digits"), last - 3)]);
    let rest = router.evidence.snapshot(&after).remove(0).events;
    assert_eq!(
        rest.iter().map(|it| it.seq).collect::<Vec<_>>(),
        [last - 2, last - 1, last]
    );
    router.publish("r2", 1, 500, 4);
    assert!(!router.is_tripped());
    router.request(Role::Canary, Some(1), 500, 5);
    router.look(6);
    let told = router.told();
    assert_eq!((told.run.as_str(), told.events.len()), ("r2", 1));
    // A reader that asks for what came after the last run misses nothing of this one.
    assert!(told.events.first().unwrap().seq > last);
}

#[test]
fn a_route_that_is_not_served_for_a_while_has_not_ended_its_run() {
    let mut router = Virtual::new("0.001", vec![errors(comparison("1"))]);
    router.publish("r1", 1, 500, 0);
    router.request(Role::Canary, Some(1), 500, 1);
    let unserved = |id: &str| Table {
        runs: BTreeMap::from([(
            ObjectKey::new("ml", "digits"),
            Some(Run {
                id: id.to_owned(),
                revision: "canary".to_owned(),
            }),
        )]),
        ..Table::default()
    };
    let adopt = |router: &Virtual, table| {
        router.evidence.adopt(&table, &router.trips, router.at(2));
    };
    adopt(&router, unserved("r1"));
    router.publish("r1", 1, 500, 3);
    router.look(4);
    assert_eq!(router.told().events.len(), 1);
    adopt(&router, unserved("r2"));
    assert!(router.evidence.snapshot(&BTreeMap::new()).is_empty());
}

#[test]
fn what_finds_no_room_is_counted_and_judged_no_longer() {
    let mut router = Virtual::new("0.001", vec![errors(comparison("1"))]);
    router.publish("r1", 1, 5000, 0);
    for user in 0..40_000 {
        router.request(Role::Canary, Some(user), 200, 1);
    }
    router.look(2);
    let told = router.told();
    assert_eq!(told.dropped, 40_000 - 32 * 1024);
    let canary = &told.segments.first().unwrap().canary;
    assert_eq!((canary.requests, canary.units), (40_000, 32 * 1024));
}

#[test]
fn stables_bad_answers_count_from_when_the_canarys_do() {
    let mut slow = errors(comparison("1"));
    slow.warm_up_millis = 30_000;
    let mut router = Virtual::new("0.001", vec![slow]);
    router.publish("r1", 1, 500, 0);
    let bad = |router: &Virtual, millis| {
        router.request(Role::Canary, None, 500, millis);
        router.request(Role::Stable, None, 500, millis);
        let told = router.told();
        let segment = told.segments.first().unwrap();
        let of = |arm: &crds::contract::ArmEvidence| arm.bad.get("errors").copied();
        (
            of(&segment.canary),
            of(&segment.stable),
            segment.canary.requests,
        )
    };
    assert_eq!(bad(&router, 29_999), (None, None, 1));
    assert_eq!(bad(&router, 30_000), (Some(1), Some(1), 2));
}

#[test]
fn stable_that_was_restarted_or_is_gone_for_a_while_is_not_held_against_the_canary() {
    const ANOTHER: &str = "10.0.0.3:80";
    let mut slow = guardrail("slow", BadEvent::Error, comparison("1"));
    slow.warm_up_millis = 30_000;
    let mut most = guardrail(
        "most",
        BadEvent::Error,
        Test::Objective { max: "0.9".into() },
    );
    most.warm_up_millis = 30_000;
    let mut router = Virtual::new("0.001", vec![slow, errors(comparison("1")), most]);
    let step = ("r1", 1, 2500);
    router.publish_at((&[CANARY], &[STABLE]), step, 0);
    // Of a hundred requests of each arm's share one is bad, whichever arm it is.
    let bad = |router: &Virtual, millis| {
        for _ in 0..25 {
            router.request(Role::Canary, None, 500, millis);
        }
        router.look(millis + 1);
    };
    // All of stable is new: its requests would be left out, and so are the canary's.
    router.publish_at((&[CANARY], &[ANOTHER]), step, 100_000);
    bad(&router, 101_000);
    let told = router.told().segments[0].canary.clone();
    assert_eq!(told.bad.get("slow"), None);
    assert_eq!(told.untold, BTreeMap::from([("slow".to_owned(), 25)]));
    assert_eq!((told.bad["errors"], told.bad["most"]), (25, 25));

    let mut router = Virtual::new("0.001", vec![errors(comparison("1"))]);
    router.publish_at((&[CANARY], &[STABLE]), step, 0);
    router.publish_at((&[CANARY], &[]), step, 100_000);
    bad(&router, 101_000);
    router.publish_at((&[CANARY], &[STABLE]), step, 102_000);
    router.look(102_001);
    assert!(!router.is_tripped());
    bad(&router, 103_000);
    assert!(router.is_tripped());
}
