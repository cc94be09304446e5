//! The canary is as good as stable, or just as bad as is tolerated. Who rolls it back errs, and may
//! do so with probability alpha in a whole run. We look after every event that could reject, which
//! is more often than every second.

use verdict::{
    alpha,
    attribution::{Attribution, AttributionEvidence, Track, theta},
    lanes::Lanes,
    units::BadEvent,
};

use crate::random::{Random, as_unit};

const RUNS: u32 = 3000;

/// The most rejections that an honest test shows: the mean at exactly `alpha` and four standard
/// deviations of the binomial, which chance exceeds once in thirty thousand times.
fn allowed(runs: u32, alpha: f64) -> f64 {
    let runs = f64::from(runs);
    runs * alpha + 4.0 * (runs * alpha * (1.0 - alpha)).sqrt()
}

fn assert_within_alpha(highest: &[f64], what: &str) {
    let runs = u32::try_from(highest.len()).unwrap();
    for alpha in [0.05, 0.001] {
        let rejected = rejected_at(highest, alpha);
        assert!(
            f64::from(rejected) <= allowed(runs, alpha),
            "{what}: {rejected} of {runs} null runs were rejected at {alpha}"
        );
    }
}

fn rejected_at(highest: &[f64], alpha: f64) -> u32 {
    let bound = alpha::bound(alpha, 1, 0).unwrap();
    let rejected = highest.iter().filter(|highest| **highest >= bound);
    u32::try_from(rejected.count()).unwrap()
}

/// The highest ln E in a run of `events` independent bad events under each weight.
fn independent_run(random: &mut Random, tolerance: f64, weights: &[f64], events: u64) -> f64 {
    let test = Attribution::new(tolerance).unwrap();
    let mut evidence = AttributionEvidence::default();
    let mut highest = 0.0_f64;
    for weight in weights {
        let worth = test.at(*weight).unwrap();
        let chance = theta(tolerance, *weight);
        let mut left = events;
        loop {
            let on_stable = random.failures_before_success(chance);
            if on_stable >= left {
                evidence.add(&worth, 0, left);
                break;
            }
            left -= on_stable + 1;
            // Only an event on the canary raises the evidence.
            evidence.add(&worth, 1, on_stable);
            highest = highest.max(evidence.ln_e());
        }
    }
    highest
}

/// 10 bad events per second (1000 rps, 1 %): an hour where the canary's events are rare, and ten to
/// twenty minutes where there are many of them.
#[test]
fn independent_events_stay_within_alpha() {
    let cases: [(f64, &[f64], u64); 5] = [
        (1.0, &[0.01], 36_000),
        (1.0, &[0.05], 36_000),
        (1.0, &[0.25], 6000),
        (1.0, &[0.01, 0.05, 0.25], 4000),
        (1.25, &[0.05], 12_000),
    ];
    for (seed, (tolerance, weights, events)) in (1..).zip(cases) {
        let mut random = Random::new(seed);
        let runs = (0..RUNS).map(|_| independent_run(&mut random, tolerance, weights, events));
        let highest: Vec<_> = runs.collect();
        let what = format!("tolerance {tolerance}, weights {weights:?}");
        assert_within_alpha(&highest, &what);
    }
}

/// How the requests of a simulated user are told apart.
#[derive(Clone, Copy, PartialEq)]
enum Key {
    User,
    UserAndTrack,
    Nothing,
}

/// A bad event of a user whose place in the split is the order of the hash: as it is with a router
/// that splits and identifies by one hash.
fn event(user: u64, weight: f64, at: u64, key: Key) -> BadEvent {
    let track = if as_unit(user) < weight {
        Track::Canary
    } else {
        Track::Stable
    };
    let user = match key {
        Key::User => Some(user),
        Key::UserAndTrack if track == Track::Canary => Some(!user),
        Key::UserAndTrack => Some(user),
        Key::Nothing => None,
    };
    BadEvent {
        user,
        track,
        weight,
        at,
    }
}

fn lanes(capacity: usize) -> Lanes {
    Lanes::begin(Attribution::new(1.0).unwrap(), capacity, 0, 0)
}

/// An hour with a bad event per second, in bursts of five of one user.
fn run_of_bursts(random: &mut Random, capacity: usize, weight: f64, key: Key) -> f64 {
    let mut lanes = lanes(capacity);
    for burst in 0..720 {
        let user = random.bits();
        for retry in 0..5 {
            let at = burst * 5 + retry;
            lanes.advance(0, at);
            lanes.observe(&event(user, weight, at, key)).unwrap();
        }
    }
    lanes.highest()
}

#[test]
fn bursts_of_one_user_stay_within_alpha() {
    for (seed, weight, capacity) in [(11, 0.05, 100_000), (12, 0.25, 40)] {
        let mut random = Random::new(seed);
        let runs = (0..RUNS).map(|_| run_of_bursts(&mut random, capacity, weight, Key::User));
        let highest: Vec<_> = runs.collect();
        assert_within_alpha(
            &highest,
            &format!("bursts at {weight}, room for {capacity}"),
        );
    }
}

#[test]
fn bursts_counted_one_by_one_would_roll_good_canaries_back() {
    let mut random = Random::new(13);
    let runs = (0..300).map(|_| run_of_bursts(&mut random, 1, 0.05, Key::Nothing));
    let rejected = rejected_at(&runs.collect::<Vec<_>>(), 0.05);
    assert!(
        rejected > 75,
        "only {rejected} of 300: the simulation shows nothing"
    );
}

/// Three steps of 20 minutes. 100 users fail whatever serves them, every other minute; others fail
/// once, 4 a minute. In every third run the users that were seen are lost in the second step.
fn run_of_hopeless_users(random: &mut Random, capacity: usize, loses: bool, key: Key) -> f64 {
    let mut lanes = lanes(capacity);
    let hopeless: Vec<u64> = (0..100).map(|_| random.bits()).collect();
    for minute in 0_u32..60 {
        let (step, at) = (minute / 20, u64::from(minute) * 60);
        let weight = [0.01, 0.05, 0.25][usize::try_from(step).unwrap()];
        if loses && minute == 30 {
            let test = Attribution::new(1.0).unwrap();
            lanes = Lanes::resume(test, capacity, &lanes.checkpoint(), (step, at));
        }
        lanes.advance(step, at);
        let failing = hopeless.iter().filter(|_| minute % 2 == 0);
        for user in failing {
            lanes.observe(&event(*user, weight, at, key)).unwrap();
        }
        for _ in 0..4 {
            lanes
                .observe(&event(random.bits(), weight, at, key))
                .unwrap();
        }
    }
    lanes.highest()
}

#[test]
fn users_who_always_fail_stay_within_alpha() {
    for (seed, capacity) in [(21, 100_000), (22, 40)] {
        let mut random = Random::new(seed);
        let runs = (0..RUNS)
            .map(|run| run_of_hopeless_users(&mut random, capacity, run % 3 == 0, Key::User));
        let highest: Vec<_> = runs.collect();
        assert_within_alpha(
            &highest,
            &format!("users who always fail, room for {capacity}"),
        );
    }
}

#[test]
fn users_who_always_fail_would_roll_good_canaries_back_if_each_track_counted_them() {
    let mut random = Random::new(23);
    let runs =
        (0..100).map(|_| run_of_hopeless_users(&mut random, 100_000, false, Key::UserAndTrack));
    let rejected = rejected_at(&runs.collect::<Vec<_>>(), 0.05);
    assert!(
        rejected > 50,
        "only {rejected} of 100: the simulation shows nothing"
    );
}
