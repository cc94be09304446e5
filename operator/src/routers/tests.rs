//! Whole runs in virtual time, through the code that runs in service: requests → evidence and trips
//! of three routers → the lines of their streams → one count of users → decisions → routes → routers.

mod cluster;
mod fleet;
mod log;

use std::time::Duration;

use crds::contract::FromRouter;
use jiff::Timestamp;
use tokio::time::Instant;

use self::{
    cluster::{Cluster, End},
    fleet::{Fleet, ROUTERS},
    log::{Habits, Log},
};
use super::heard::{Connection, Heard};
use crate::clock;

/// The chance of a wrong rollback that the runs here allow, large for the sake of time: so few runs
/// could not tell a small one from none.
const ALPHA: &str = "0.1";
const RUNS: u32 = 60;
/// How long a run is looked at: at its end the canary has 25 % of the requests.
const SECONDS: u64 = 480;
/// When the last router becomes another process.
const RESTART: u64 = 240;
/// Between two looks of all. Fewer looks find no less: what evidence once was is not forgotten.
const LOOK_EVERY: u64 = 4;

/// What is wrong with how users are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Nothing,
    /// Every bad answer counts, whoever had it.
    NobodyIsKnown,
    /// Each router knows its users, and no router knows those of another.
    EachRouterForItself,
}

/// Three routers, a leader that hears them, and what the leader decides by.
struct World<'heard> {
    heard: &'heard Heard,
    streams: Vec<Connection<'heard>>,
    fleet: Fleet,
    cluster: Cluster,
    start: (Instant, Timestamp),
    fault: Fault,
}

impl<'heard> World<'heard> {
    fn new(heard: &'heard Heard, fault: Fault) -> Self {
        let start = (clock::monotonic(), cluster::start());
        let mut world = Self {
            heard,
            streams: Vec::new(),
            fleet: Fleet::new(start.0.into_std()),
            cluster: Cluster::new(ALPHA, u32::try_from(ROUTERS).unwrap()),
            start,
            fault,
        };
        for router in 0..ROUTERS {
            let address = format!("10.0.1.{router}:9090");
            heard.dialled(&address);
            world.streams.push(heard.connect(&address));
            world.greet(router, 0);
        }
        world
    }

    fn greet(&mut self, router: usize, second: u64) {
        let hello = FromRouter::Hello {
            boot: self.fleet.boot(router),
            pod: format!("router-{router}"),
            version: String::new(),
        };
        self.hear(router, hello, second);
    }

    fn hear(&mut self, router: usize, line: FromRouter, second: u64) {
        let (monotonic, wall) = self.at(second);
        self.streams[router].hear(line, monotonic, wall);
    }

    fn at(&self, second: u64) -> (Instant, Timestamp) {
        let passed = Duration::from_secs(second);
        (self.start.0 + passed, self.start.1 + passed)
    }

    /// The last router dies with what it had no time to say, and comes back.
    fn restart(&mut self, second: u64) {
        let last = ROUTERS - 1;
        self.fleet.restart(last, second);
        self.streams[last] = self.heard.connect(&format!("10.0.1.{last}:9090"));
        self.greet(last, second);
    }

    /// The routers judge and say what there is to say, and the leader decides.
    fn look(&mut self, second: u64) {
        self.fleet.look(second);
        for router in 0..ROUTERS {
            for mut line in self.fleet.lines(router) {
                if let (FromRouter::Evidence(told), Fault::EachRouterForItself) =
                    (&mut line, self.fault)
                {
                    let salt = u64::try_from(router).unwrap();
                    told.events.iter_mut().for_each(|it| it.user ^= salt);
                }
                self.hear(router, line, second);
            }
            self.hear(router, FromRouter::Alive, second);
        }
        let (_, now) = self.at(second);
        for route in self.cluster.look(self.heard, now) {
            self.fleet.serve(&route, second);
        }
    }
}

/// How a run ended, if it did.
fn run(seed: u64, habits: Habits, fault: Fault) -> Option<End> {
    let heard = Heard::default();
    let mut world = World::new(&heard, fault);
    let mut log = Log::new(seed, habits);
    for second in 0..SECONDS {
        if second == RESTART {
            world.restart(second);
        }
        for mut request in log.second() {
            request.tells_user &= fault != Fault::NobodyIsKnown;
            world.fleet.request(&request, second);
        }
        if second.is_multiple_of(LOOK_EVERY) {
            world.look(second);
        }
        if let Some(end) = world.cluster.end() {
            // Once the routers serve that, nothing reaches the canary.
            assert!(log.second().iter().all(|it| !world.fleet.is_canary(it)));
            return Some(end);
        }
    }
    assert_eq!(
        world.cluster.points(),
        2500,
        "the run did not come far enough"
    );
    None
}

/// How many runs of so many ended because of a router, and how many because of the sum.
fn rollbacks(runs: u32, habits: Habits, fault: Fault) -> (u32, u32) {
    let ends = (0..runs).filter_map(|number| run(u64::from(number) * 7919 + 1, habits, fault));
    let (mut tripped, mut decided) = (0, 0);
    for end in ends {
        match end {
            End::Tripped => tripped += 1,
            End::Decided => decided += 1,
        }
    }
    println!("{tripped} tripped and {decided} decided of {runs}: {habits:?}, {fault:?}");
    (tripped, decided)
}

/// The least number that a binomial variable exceeds with a chance below one in ten thousand.
fn binomial_bound(trials: u32, chance: f64) -> u32 {
    let mut point = (1.0 - chance).powf(f64::from(trials));
    let (mut upto, mut count) = (point, 0);
    while 1.0 - upto > 1e-4 {
        let left = f64::from(trials - count);
        count += 1;
        point *= left / f64::from(count) * chance / (1.0 - chance);
        upto += point;
    }
    count
}

/// How many runs in which nothing is worse may be rolled back, and by the sum alone, which has the
/// same share of the chance as each router.
fn allowed() -> (u32, u32) {
    let alpha: f64 = ALPHA.parse().unwrap();
    let tests = f64::from(u32::try_from(ROUTERS).unwrap()) + 1.0;
    (
        binomial_bound(RUNS, alpha),
        binomial_bound(RUNS, alpha / tests),
    )
}

#[test]
fn a_good_canary_is_rolled_back_no_more_often_than_allowed_whatever_users_do() {
    let (all, by_sum) = allowed();
    assert!(all < RUNS / 3, "{all}");
    for habits in [
        Habits::STRANGERS,
        Habits::TRY_AGAIN,
        Habits::SOME_ALWAYS_FAIL,
    ] {
        let (tripped, decided) = rollbacks(RUNS, habits, Fault::Nothing);
        assert!(tripped + decided <= all, "at most {all} of {RUNS}");
        assert!(decided <= by_sum, "at most {by_sum} of {RUNS} by the sum");
    }
}

#[test]
fn users_who_are_counted_again_and_again_would_be_seen_here() {
    let (all, by_sum) = allowed();
    let (tripped, decided) = rollbacks(RUNS, Habits::TRY_AGAIN, Fault::NobodyIsKnown);
    assert!(
        tripped + decided > all,
        "{all} of {RUNS} are too few to see"
    );
    let (_, decided) = rollbacks(RUNS, Habits::TRY_AGAIN, Fault::EachRouterForItself);
    assert!(decided > by_sum, "{by_sum} of {RUNS} are too few to see");
}

#[test]
fn a_bad_canary_is_always_rolled_back() {
    let (tripped, decided) = rollbacks(20, Habits::BAD_CANARY, Fault::Nothing);
    assert_eq!(tripped + decided, 20);
}
