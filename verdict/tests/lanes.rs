//! The two lanes: whom they count, when they begin again, what survives a crash.
#![allow(
    clippy::tests_outside_test_module,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "integration tests"
)]

use verdict::{
    alpha,
    attribution::{Attribution, Track},
    lanes::{Checkpoint, Counted, Lanes, PROCESS_SECONDS, Process},
    units::{BadEvent, FirstSeen},
};

const BOTH: Counted = Counted {
    carry: true,
    restart: true,
};
const NEITHER: Counted = Counted {
    carry: false,
    restart: false,
};
const RESTART: Counted = Counted {
    carry: false,
    restart: true,
};

fn test() -> Attribution {
    Attribution::new(1.0).unwrap()
}

fn begin(now: u64) -> Lanes {
    Lanes::begin(test(), FirstSeen::CAPACITY, 0, now)
}

fn on(track: Track, user: u64) -> BadEvent {
    BadEvent {
        user: Some(user),
        track,
        weight: 0.05,
        at: 0,
    }
}

fn on_canary(user: u64) -> BadEvent {
    on(Track::Canary, user)
}

#[test]
fn user_counts_once_per_run_and_once_per_process() {
    let mut lanes = begin(0);
    assert_eq!(lanes.observe(&on(Track::Stable, 7)).unwrap(), BOTH);
    // The same user, moved to the canary by a higher weight.
    assert_eq!(lanes.observe(&on_canary(7)).unwrap(), NEITHER);
    lanes.advance(1, 10);
    assert_eq!(lanes.observe(&on_canary(7)).unwrap(), RESTART);
    assert_eq!(lanes.observe(&on_canary(7)).unwrap(), NEITHER);
    assert_eq!((lanes.restart().canary(), lanes.restart().stable()), (1, 0));
    let carry = lanes.carry().unwrap();
    assert_eq!((carry.canary(), carry.stable()), (0, 1));
}

#[test]
fn requests_without_a_user_count_each_time() {
    let mut lanes = begin(0);
    let event = BadEvent {
        user: None,
        ..on_canary(0)
    };
    assert_eq!(lanes.observe(&event).unwrap(), BOTH);
    assert_eq!(lanes.observe(&event).unwrap(), BOTH);
}

#[test]
fn events_without_a_user_may_come_as_a_number_of_them() {
    let (mut one_by_one, mut at_once) = (begin(0), begin(0));
    for track in [Track::Stable, Track::Canary] {
        let event = BadEvent {
            user: None,
            ..on(track, 0)
        };
        for _ in 0..9 {
            one_by_one.observe(&event).unwrap();
        }
        at_once.observe_anonymous(track, 0.05, 9).unwrap();
    }
    assert!((one_by_one.ln_e() - at_once.ln_e()).abs() < 1e-9);
    assert_eq!(at_once.restart().stable(), 9);
    assert_eq!(at_once.carry().unwrap().canary(), 9);
}

#[test]
fn process_begins_at_each_step_and_each_hour_within_it() {
    let process = |number, step, began| Process {
        number,
        step,
        began,
    };
    let mut lanes = begin(100);
    lanes.advance(0, 100 + PROCESS_SECONDS - 1);
    assert_eq!(lanes.process(), process(1, 0, 100));
    lanes.advance(0, 100 + PROCESS_SECONDS);
    assert_eq!(lanes.process(), process(2, 0, 3700));
    lanes.advance(1, 4000);
    assert_eq!(lanes.process(), process(3, 1, 4000));
    // A clock that stepped back.
    lanes.advance(1, 50);
    assert_eq!(lanes.process(), process(3, 1, 4000));
    // Hours without a look are one process, which began when the last of them did.
    lanes.advance(1, 4000 + 2 * PROCESS_SECONDS + 5);
    assert_eq!(lanes.process(), process(4, 1, 4000 + 2 * PROCESS_SECONDS));
}

#[test]
fn each_lane_pays_for_its_half_and_each_process_for_those_before_it() {
    let mut lanes = begin(0);
    lanes.advance(1, 1);
    lanes.advance(2, 2);
    lanes.observe(&on_canary(1)).unwrap();
    let one = test().evidence(&[(0.05, 1, 0)]).unwrap().ln_e();
    let (carry, restart) = (one - 2_f64.ln(), one - (2.0_f64 * 3.0 * 4.0).ln());
    assert!((lanes.ln_e() - carry.max(restart)).abs() < 1e-12);

    let mut lanes = Lanes::resume(test(), 9, &begin(0).checkpoint(), (0, 1));
    lanes.observe(&on_canary(1)).unwrap();
    let second = one - (2.0_f64 * 2.0 * 3.0).ln();
    assert!((lanes.ln_e() - second).abs() < 1e-12);
}

#[test]
fn lost_users_close_the_carry_lane_and_begin_the_next_process() {
    let mut lanes = begin(0);
    for user in 0..5 {
        lanes.observe(&on_canary(user)).unwrap();
    }
    let text = serde_json::to_string(&lanes.checkpoint()).unwrap();
    assert!(text.len() < 700, "{} bytes: {text}", text.len());
    let stored: Checkpoint = serde_json::from_str(&text).unwrap();
    assert_eq!(stored.process, lanes.process());
    assert_eq!(stored.carry.unwrap().canary(), 5);

    let resumed = Lanes::resume(test(), 9, &stored, (0, 60));
    assert_eq!(resumed.carry(), None);
    assert_eq!(
        (resumed.restart().canary(), resumed.process().number),
        (0, 2)
    );
    assert!((resumed.highest() - lanes.highest()).abs() < 1e-12);
    assert_eq!(resumed.checkpoint().carry, None);
}

#[test]
fn resuming_reuses_no_process_that_may_have_run_since_the_checkpoint() {
    let mut lanes = begin(0);
    let stored = lanes.checkpoint();
    for look in 0..20_000 {
        lanes.advance(0, look);
    }
    assert_eq!(lanes.process().number, 6);
    let number = |step, now| {
        let resumed = Lanes::resume(test(), 9, &stored, (step, now));
        resumed.process().number
    };
    assert_eq!(number(0, 20_000), 7);
    assert_eq!(number(1, 20_000), 8);
    assert_eq!(number(0, 0), 2);
}

#[test]
fn rejection_between_looks_is_not_forgotten() {
    let mut lanes = begin(0);
    let bound = alpha::bound(0.001, 1, 0).unwrap();
    for user in 0..3 {
        lanes.observe(&on_canary(user)).unwrap();
    }
    assert!(!lanes.rejects(bound));
    for user in 3..8 {
        lanes.observe(&on_canary(user)).unwrap();
    }
    assert!(lanes.rejects(bound));
    for user in 100..1000 {
        lanes.observe(&on(Track::Stable, user)).unwrap();
    }
    assert!(
        lanes.ln_e() < bound,
        "stable's failures speak for the canary"
    );
    assert!(lanes.rejects(bound));
    assert!(lanes.p_value().unwrap() <= 0.001);
}

#[test]
fn routing_faults_are_kept_apart_and_events_that_say_nothing_use_up_no_user() {
    let mut lanes = begin(0);
    let at = |weight, event| BadEvent { weight, ..event };
    assert_eq!(lanes.observe(&at(0.0, on_canary(1))).unwrap(), NEITHER);
    assert_eq!(
        lanes.observe(&at(0.0, on(Track::Stable, 1))).unwrap(),
        NEITHER
    );
    assert_eq!(
        lanes.observe(&at(1.0, on(Track::Stable, 1))).unwrap(),
        NEITHER
    );
    assert_eq!(lanes.restart().misrouted(), 2);
    assert_eq!(lanes.carry().unwrap().misrouted(), 2);
    assert_eq!(lanes.observe(&on_canary(1)).unwrap(), BOTH);
}

#[test]
fn weight_that_is_none_counts_nothing() {
    let mut lanes = begin(0);
    for weight in [-0.01, 1.01, f64::NAN, f64::INFINITY] {
        let event = BadEvent {
            weight,
            ..on_canary(1)
        };
        let error = lanes.observe(&event).unwrap_err();
        assert_eq!(error.argument(), "weight");
    }
    assert_eq!(lanes.observe(&on_canary(1)).unwrap(), BOTH);
}

#[test]
fn events_without_a_user_count_together_as_they_do_one_by_one() {
    let (mut together, mut one_by_one) = (begin(0), begin(0));
    for (track, weight, count) in [(Track::Stable, 0.01, 40), (Track::Canary, 0.05, 9)] {
        let unknown = BadEvent {
            user: None,
            weight,
            ..on(track, 0)
        };
        for _ in 0..count {
            assert_eq!(one_by_one.observe(&unknown).unwrap(), BOTH);
        }
        together.observe_anonymous(track, weight, count).unwrap();
    }
    assert!((together.ln_e() - one_by_one.ln_e()).abs() < 1e-9);
    assert_eq!(together.highest().to_bits(), together.ln_e().to_bits());
    assert_eq!(together.carry().unwrap().canary(), 9);
    assert_eq!(together.restart().stable(), 40);
}
