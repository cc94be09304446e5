//! How often a canary is taken out that is no worse than stable.

use super::{Dice, Virtual, comparison, errors};
use crate::table::Role;

/// The least number that a binomial variable exceeds with a chance below one in ten thousand.
fn binomial_bound(trials: i32, chance: f64) -> i32 {
    let mut point = (1.0 - chance).powi(trials);
    let mut upto = point;
    let mut count = 0;
    while 1.0 - upto > 1e-4 {
        let left = f64::from(trials - count);
        count += 1;
        point *= left / f64::from(count) * chance / (1.0 - chance);
        upto += point;
    }
    count
}

/// Ten minutes at fifty requests a second, of which one in twenty-five is bad on stable; steps of 1,
/// 5 and 25 %. A user who had a bad answer tries again some times. Whether the canary was taken out,
/// which is looked for once a second.
fn ten_minutes(seed: u64, alpha: &str, worse: u64, retries: u64) -> bool {
    let mut router = Virtual::new(alpha, vec![errors(comparison("1"))]);
    let mut dice = Dice(seed);
    for second in 0..600_u64 {
        let millis = second * 1000;
        if let Some((step, weight)) = [(0, (1, 100)), (100, (2, 500)), (300, (3, 2500))]
            .into_iter()
            .find_map(|(from, step)| (from == second).then_some(step))
        {
            router.publish("r1", step, weight, millis);
        }
        for request in 0..50 {
            // Half of the requests say who sent them.
            let draw = dice.next();
            let user = (request % 2 == 0).then_some(draw);
            let role = router.role(draw);
            let times = if role == Role::Canary { worse } else { 1 };
            if (0..times).any(|_| dice.once_in(25)) {
                let tries = 1 + user.map_or(0, |_| retries);
                for _ in 0..tries {
                    router.request(role, user, 500, millis);
                }
            }
        }
        router.look(millis);
        if router.is_tripped() {
            return true;
        }
    }
    false
}

#[test]
fn a_canary_as_bad_as_stable_trips_no_more_often_than_allowed() {
    let seeds = 200;
    let trips = |retries| {
        let tripped = (0..200).filter(|seed: &u64| ten_minutes(seed * 7919, "0.05", 1, retries));
        i32::try_from(tripped.count()).unwrap()
    };
    let bound = binomial_bound(seeds, 0.05);
    assert!(bound < seeds / 8, "{bound}");
    for retries in [0, 4] {
        let trips = trips(retries);
        println!("{trips} of {seeds} null runs tripped at 0.05, {retries} retries");
        assert!(
            trips <= bound,
            "{trips} of {seeds}, at most {bound}, {retries} retries"
        );
    }
    // The test can see: a canary that fails four times as often is found.
    assert!((0..10).all(|seed| ten_minutes(seed, "0.05", 4, 0)));
}
