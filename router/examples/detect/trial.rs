//! One run: routers that see requests, and whoever adds up what they saw.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crds::contract::{BadEvent, Judge, JudgedGuardrail, Test};
use crds::quantity::Number;
use sluice_router::evidence::guardrails::{Ended, Guardrails};
use sluice_router::evidence::trial::Witness;
use sluice_router::evidence::{Evidences, LOOK_EVERY};
use sluice_router::metrics::Metrics;
use sluice_router::table::objects::ObjectKey;
use sluice_router::table::{Role, Route, Run, Table, Watched};
use sluice_router::trips::Trips;
use verdict::alpha;
use verdict::attribution::{Attribution, Track};
use verdict::lanes::Lanes;
use verdict::units;

/// Requests in a second.
pub(crate) const RATE: u64 = 1000;
/// Bad answers of stable.
pub(crate) const BASE: f64 = 0.01;
/// The chance of a wrong rollback, of all who may take the canary out together.
pub(crate) const ALPHA: f64 = 0.001;
/// A canary as bad as stable is at the edge of what is borne.
pub(crate) const TOLERANCE: f64 = 1.0;
/// How often a router's evidence goes over its stream.
const TELL_EVERY: u64 = 200;
const STEP: u32 = 1;

/// What is the case.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setup {
    /// Routers that share the requests.
    pub(crate) replicas: usize,
    /// The canary's weight in basis points.
    pub(crate) weight: u16,
    /// The share of its answers that is bad, once it is.
    pub(crate) canary: f64,
    /// For how long it is as good as stable before that, in milliseconds.
    pub(crate) good_for: u64,
}

impl Setup {
    /// The canary's weight as a share.
    pub(crate) fn share(self) -> f64 {
        f64::from(self.weight) / 10_000.0
    }

    /// What each router, and the sum of several, may have of [`ALPHA`].
    fn alpha_each(self) -> f64 {
        ALPHA / (self.replicas as f64 + 1.0)
    }
}

/// When the canary was found, in milliseconds from when it turned bad. Before that: at 0.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Found {
    /// By the first router that needs nobody else.
    pub(crate) alone: Option<u64>,
    /// By the sum of several.
    pub(crate) sum: Option<u64>,
}

impl Found {
    /// By whoever was first.
    pub(crate) fn first(&self) -> Option<u64> {
        self.alone.into_iter().chain(self.sum).min()
    }
}

struct Replica {
    evidence: Evidences,
    trips: Trips,
    witness: Arc<Witness>,
}

impl Replica {
    fn new(table: &Table, start: Instant) -> Self {
        let (evidence, trips) = (Evidences::new(start), Trips::default());
        let witness = evidence.adopt(table, &trips, start).remove(0);
        Self {
            evidence,
            trips,
            witness,
        }
    }
}

/// Users' first bad answers over all routers, counted as the leader counts them.
struct Sum {
    lanes: Lanes,
    bound: f64,
    share: f64,
    /// Number of the last event of each router.
    told: Vec<u64>,
}

impl Sum {
    fn new(setup: Setup) -> Self {
        let test = Attribution::new(TOLERANCE).unwrap();
        Self {
            lanes: Lanes::begin(test, units::FirstSeen::CAPACITY, STEP, 0),
            bound: alpha::bound_of_share(setup.alpha_each()).unwrap(),
            share: setup.share(),
            told: vec![0; setup.replicas],
        }
    }

    /// Whether what all have seen is enough.
    fn look(&mut self, replicas: &[Replica], seconds: u64) -> bool {
        self.lanes.advance(STEP, seconds);
        for (replica, told) in replicas.iter().zip(&mut self.told) {
            let after = BTreeMap::from([(key(), *told)]);
            for evidence in replica.evidence.snapshot(&after) {
                *told = evidence.last;
                for event in evidence.events {
                    let track = if event.canary {
                        Track::Canary
                    } else {
                        Track::Stable
                    };
                    let event = units::BadEvent {
                        user: Some(event.user),
                        track,
                        weight: self.share,
                        at: seconds,
                    };
                    self.lanes.observe(&event).unwrap();
                }
            }
        }
        self.lanes.rejects(self.bound)
    }
}

/// A run of at most so many milliseconds. The routers look at any phase of it.
pub(crate) fn run(setup: Setup, seed: u64, longest: u64) -> Found {
    let mut dice = Dice(
        seed.wrapping_mul(0x9e37_79b9)
            .wrapping_add(u64::from(setup.weight)),
    );
    let start = instant();
    let table = table(setup);
    let metrics = Metrics::new();
    let replicas: Vec<Replica> = (0..setup.replicas)
        .map(|_| Replica::new(&table, start))
        .collect();
    let mut sum = (setup.replicas > 1).then(|| Sum::new(setup));
    let looks = u64::try_from(LOOK_EVERY.as_millis()).unwrap();
    let phase = dice.next() % TELL_EVERY;
    let mut found = Found {
        alone: None,
        sum: None,
    };
    for millis in 1..=longest {
        let now = start + Duration::from_millis(millis);
        let bad_for = millis.saturating_sub(setup.good_for);
        let errors = if bad_for > 0 { setup.canary } else { BASE };
        for _ in 0..RATE / 1000 {
            let replica = dice.next() % u64::try_from(setup.replicas).unwrap();
            let replica = &replicas[usize::try_from(replica).unwrap()];
            request((setup.weight, errors), &replica.witness, &mut dice, now);
        }
        if (millis + phase).is_multiple_of(looks) {
            for replica in &replicas {
                replica.evidence.look(&replica.trips, &metrics, now);
            }
            if replicas.iter().any(|it| it.witness.is_tripped()) {
                found.alone = Some(bad_for);
                return found;
            }
        }
        if let (Some(sum), None, true) = (
            &mut sum,
            found.sum,
            (millis + phase).is_multiple_of(TELL_EVERY),
        ) && sum.look(&replicas, millis / 1000)
        {
            found.sum = Some(bad_for);
        }
    }
    found
}

fn request((weight, errors): (u16, f64), witness: &Arc<Witness>, dice: &mut Dice, now: Instant) {
    let draw = dice.next();
    let (role, bad) = if u128::from(draw) * 10_000 < u128::from(weight) << 64 {
        (Role::Canary, errors)
    } else {
        (Role::Stable, BASE)
    };
    let code = if dice.falls(bad) { 500 } else { 200 };
    let observation = witness.observe((role, address(role)), Some(draw), now);
    observation.unwrap().end(&Ended {
        code,
        took: Duration::from_millis(3),
        first_byte: None,
        broken: false,
    });
}

fn key() -> ObjectKey {
    ObjectKey::new("ml", "digits")
}

fn address(role: Role) -> SocketAddr {
    match role {
        Role::Canary => SocketAddr::from(([10, 0, 0, 2], 80)),
        Role::Stable | Role::Plain => SocketAddr::from(([10, 0, 0, 1], 80)),
    }
}

fn table(setup: Setup) -> Table {
    let (canary, stable) = (address(Role::Canary), address(Role::Stable));
    let judge = Judge {
        alpha: Number(setup.alpha_each().to_string()),
        guardrails: vec![JudgedGuardrail {
            name: "errors".to_owned(),
            event: BadEvent::Error,
            test: Test::Comparison {
                tolerance: Number(TOLERANCE.to_string()),
            },
            trips: true,
            warm_up_millis: 0,
        }],
    };
    let watched = Watched {
        route: Arc::new(Route {
            key: key(),
            model_deployment: "digits".to_owned(),
            digest: String::new(),
            generation: 1,
        }),
        run: Run {
            id: "r1".to_owned(),
            revision: "canary".to_owned(),
        },
        step: STEP,
        weight: setup.weight,
        guardrails: Arc::new(Guardrails::parse(&judge).unwrap()),
        stable_revision: "stable".to_owned(),
        canary: vec![canary],
        stable: vec![stable],
    };
    Table {
        endpoints: [canary, stable].into(),
        watched: vec![watched],
        ..Table::default()
    }
}

/// A point to count virtual time from.
fn instant() -> Instant {
    Instant::now()
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

    /// True with a chance.
    fn falls(&mut self, chance: f64) -> bool {
        // A number below 2^53 is exact.
        let point = (self.next() >> 11) as f64 / (1_u64 << 53) as f64;
        point < chance
    }
}
