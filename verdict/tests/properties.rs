//! What holds for all input.
#![allow(
    clippy::tests_outside_test_module,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "integration tests"
)]

use std::collections::BTreeSet;

use proptest::{prelude::*, test_runner::RngSeed};
use verdict::{
    DomainError, alpha,
    attribution::{Attribution, AttributionEvidence, Track},
    budget, confidence,
    detection::{self, Traffic},
    exposure,
    non_inferiority::{self, NonInferiority},
    sample_size::{self, Comparison, Sides},
    share,
    slo::{self, Outcomes},
    units::{BadEvent, FirstSeen, first_bad},
};

/// The same cases in every run.
fn config(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases,
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(2026),
        ..ProptestConfig::default()
    }
}

/// Any number at all, and often one where formulas have their edges.
fn number() -> impl Strategy<Value = f64> {
    prop_oneof![
        4 => 0.0..=1.0_f64,
        1 => any::<f64>(),
        1 => 0.5..200.0_f64,
        1 => (0.0..300.0_f64).prop_map(|power| 10_f64.powf(-power)),
        1 => (0.0..17.0_f64).prop_map(|power| 1.0 - 10_f64.powf(-power)),
        2 => prop::sample::select(vec![
            0.0, -0.0, 1.0, 1.25, -1.0, 0.5, f64::EPSILON, 1.0 - f64::EPSILON / 2.0, f64::MIN_POSITIVE,
            f64::MAX, f64::MIN, f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 5e-324,
        ]),
    ]
}

fn count() -> impl Strategy<Value = u64> {
    prop_oneof![0..20_u64, 0..1_000_000_u64, any::<u64>(), Just(u64::MAX)]
}

fn segments() -> impl Strategy<Value = Vec<(f64, u64, u64)>> {
    let small = (0.001..0.999_f64, 0..5000_u64, 0..5000_u64);
    prop::collection::vec(small, 0..6)
}

fn close(left: f64, right: f64) -> bool {
    (left - right).abs() <= 1e-9 * (1.0 + left.abs().max(right.abs()))
}

/// What a function may say of any input: a domain error, or a number.
fn is_number(result: Result<f64, DomainError>) -> bool {
    result.is_ok_and(f64::is_finite)
}

/// As [`is_number`], where "infinitely many" is an answer.
fn is_no_nan(result: Result<f64, DomainError>) -> bool {
    result.is_ok_and(|value| !value.is_nan())
}

fn says_well<T>(result: &Result<T, DomainError>, holds: impl Fn(&T) -> bool) -> bool {
    result
        .as_ref()
        .map_or_else(|error| !error.to_string().is_empty(), holds)
}

proptest! {
    #![proptest_config(config(1500))]

    #[test]
    fn evidence_is_finite_whatever_comes(
        tolerance in number(), weight in number(), (c, s) in (count(), count()), p in number()
    ) {
        let segments = [(weight, c, s), (0.05, s, c), (weight, c, s)];
        let rollback = Attribution::new(tolerance).and_then(|test| test.evidence(&segments));
        let stays_finite = says_well(&rollback, |evidence| {
            let twice = evidence.merge(evidence).merge(evidence);
            evidence.ln_e().is_finite() && twice.ln_e().is_finite()
        });
        prop_assert!(stays_finite);
        let pass = NonInferiority::new(tolerance, p).and_then(|test| test.evidence(&segments));
        prop_assert!(says_well(&pass, |evidence| evidence.ln_e().is_finite()));
        let outcomes = Outcomes { bad: c, total: s };
        for result in [
            slo::ln_e(p, outcomes),
            non_inferiority::absolute_ln_e(p, outcomes),
            share::ln_e(weight, c, s),
            share::martingale((tolerance, p), weight, c, s),
            alpha::bound(p, 3, 2),
            alpha::bound_of_share(p),
            alpha::anytime_p_value(p),
            confidence::distribution_band(c, p),
        ] {
            prop_assert!(result.is_err() || is_number(result));
        }
        let range = confidence::rate(outcomes, p, tolerance);
        let is_range = says_well(&range, |range| {
            0.0 <= range.lower && range.lower <= range.upper && range.upper <= 1.0
        });
        prop_assert!(is_range);
    }

    #[test]
    fn plans_are_numbers_whatever_comes(
        (a, b, weight) in (number(), number(), number()), alpha in number(), power in number(),
        units in number()
    ) {
        if let Ok(comparison) = Comparison::new(weight, alpha, Sides::Two) {
            for result in [
                sample_size::canary_units(comparison, a, b, power),
                sample_size::power(comparison, a, b, units),
                sample_size::effect(a, b),
                sample_size::canary_units_for_effect(comparison, a, power),
                sample_size::power_for_effect(comparison, a, units),
            ] {
                prop_assert!(result.is_err() || is_no_nan(result));
            }
            let found = sample_size::minimum_detectable(comparison, a, units, power);
            prop_assert!(says_well(&found, |found| found.is_none_or(|found| found >= 0.0)));
        }
        let traffic = Traffic {
            units_per_second: units,
            weight,
            canary_rate: a,
            stable_rate: b,
        };
        for wait in [
            detection::lower_bound(traffic, 1.25, power),
            detection::estimate(traffic, 1.25, power),
            NonInferiority::new(2.0, 1.25)
                .and_then(|test| detection::estimate_to_pass(traffic, test, power)),
        ] {
            let is_wait = says_well(&wait, |wait| wait.is_none_or(|wait| {
                wait.events >= 0.0 && wait.seconds >= 0.0 && wait.seconds.is_finite()
            }));
            prop_assert!(is_wait);
        }
        let requests = detection::slo_lower_bound(a, b, power);
        prop_assert!(says_well(&requests, |found| found.is_none_or(f64::is_finite)));
        let floor = exposure::without_failure(alpha, a);
        prop_assert!(says_well(&floor, |floor| *floor > 0));
        let least = exposure::minimum(a, b, weight, alpha, power);
        prop_assert!(says_well(&least, |least| *least > 0));
        let outcomes = Outcomes { bad: 3, total: 9 };
        let burn = budget::burn(outcomes, a);
        prop_assert!(says_well(&burn, |burn| burn.is_some_and(f64::is_finite)));
        let fires = budget::ALERTS[0].seconds_to_fire(a, b);
        prop_assert!(fires.is_err() || is_number(fires));
    }

    #[test]
    fn nan_and_infinity_are_refused(place in 0..6_usize, bad in prop::sample::select(vec![
        f64::NAN, f64::INFINITY, f64::NEG_INFINITY,
    ])) {
        let with = |at: usize, good: f64| if at == place { bad } else { good };
        let outcomes = Outcomes { bad: 1, total: 100 };
        let traffic = Traffic {
            units_per_second: with(0, 100.0),
            weight: with(1, 0.1),
            canary_rate: with(2, 0.2),
            stable_rate: with(3, 0.1),
        };
        let estimate = detection::estimate(traffic, with(4, 1.0), with(5, 5.0));
        prop_assert!(estimate.is_err());
        let bound = detection::lower_bound(traffic, with(4, 1.0), with(5, 5.0));
        prop_assert!(bound.is_err());
        for refused in [
            Attribution::new(bad).err(),
            Attribution::new(1.0).unwrap().at(bad).err(),
            slo::ln_e(bad, outcomes).err(),
            non_inferiority::absolute_ln_e(bad, outcomes).err(),
            share::ln_e(bad, 1, 1).err(),
            alpha::bound(bad, 1, 0).err(),
            alpha::anytime_p_value(bad).err(),
            alpha::e_bh(0.05, &[1.0, bad]).err(),
            confidence::rate(outcomes, 0.05, bad).err(),
            budget::burn(outcomes, bad).err(),
            exposure::without_failure(0.05, bad).err(),
        ] {
            prop_assert!(refused.is_some());
        }
    }
}

proptest! {
    #![proptest_config(config(300))]

    #[test]
    fn evidence_adds_in_any_order_and_grouping(
        tolerance in 1.0..3.0_f64, a in segments(), b in segments(), c in segments()
    ) {
        let test = Attribution::new(tolerance).unwrap();
        let [of_a, of_b, of_c] = [&a, &b, &c].map(|part| test.evidence(part).unwrap());
        prop_assert_eq!(of_a.merge(&of_b), of_b.merge(&of_a));
        let left = of_a.merge(&of_b).merge(&of_c);
        let right = of_a.merge(&of_b.merge(&of_c));
        let whole = test.evidence(&[a, b, c].concat()).unwrap();
        prop_assert!(close(left.ln_e(), right.ln_e()));
        prop_assert!(close(left.ln_e(), whole.ln_e()));
        prop_assert_eq!((left.canary(), left.stable()), (right.canary(), right.stable()));
        prop_assert_eq!(of_a.merge(&AttributionEvidence::default()), of_a);
        let stored = serde_json::to_string(&whole).unwrap();
        let read: AttributionEvidence = serde_json::from_str(&stored).unwrap();
        prop_assert!(close(read.ln_e(), whole.ln_e()));
        prop_assert_eq!((read.canary(), read.stable()), (whole.canary(), whole.stable()));
    }

    #[test]
    fn canarys_failures_speak_against_it_and_stables_for_it(
        tolerance in 1.0..3.0_f64, weight in 0.001..0.999_f64, c in 0..500_u64, s in 0..5000_u64
    ) {
        let test = Attribution::new(tolerance).unwrap();
        let of = |c, s| test.evidence(&[(weight, c, s)]).unwrap().ln_e();
        prop_assert!(of(c + 1, s) > of(c, s));
        prop_assert!(of(c, s + 1) < of(c, s));
        let test = NonInferiority::new(tolerance + 0.5, tolerance).unwrap();
        let of = |c, s| test.evidence(&[(weight, c, s)]).unwrap().ln_e();
        prop_assert!(of(c + 1, s) < of(c, s));
        prop_assert!(of(c, s + 1) > of(c, s));
    }

    #[test]
    fn failures_speak_against_an_objective_and_successes_for_it(
        p0 in 0.0001..0.9_f64, bad in 0..500_u64, good in 0..5000_u64
    ) {
        let outcomes = |bad, good| Outcomes { bad, total: bad + good };
        let of = |bad, good| slo::ln_e(p0, outcomes(bad, good)).unwrap();
        prop_assert!(of(bad + 1, good) > of(bad, good));
        prop_assert!(of(bad, good + 1) < of(bad, good));
        let of = |bad, good| non_inferiority::absolute_ln_e(p0, outcomes(bad, good)).unwrap();
        prop_assert!(of(bad + 1, good) < of(bad, good));
        prop_assert!(of(bad, good + 1) > of(bad, good));
    }

    #[test]
    fn sharing_alpha_costs(alpha in 0.0001..0.5_f64, guardrails in 1..50_u32, replicas in 0..50_u32) {
        let bound = |alpha, guardrails, replicas| alpha::bound(alpha, guardrails, replicas).unwrap();
        let own = bound(alpha, guardrails, replicas);
        prop_assert!(bound(alpha, guardrails + 1, replicas) > own);
        prop_assert!(bound(alpha, guardrails, replicas + 1) > own);
        prop_assert!(bound(alpha / 2.0, guardrails, replicas) > own);
        let shares = vec![alpha / f64::from(guardrails); usize::try_from(guardrails).unwrap()];
        let equal = alpha::bounds_of_shares(alpha, &shares).unwrap();
        prop_assert!(equal.iter().all(|share| close(*share, bound(alpha, guardrails, 0))));
        let more = alpha::bounds_of_shares(alpha * 0.99, &shares);
        prop_assert!(more.is_err());
    }

    #[test]
    fn e_bh_takes_the_strongest_and_more_with_more_evidence(
        ln_e in prop::collection::vec(-3.0..9.0_f64, 1..12)
    ) {
        let rejected = alpha::e_bh(0.05, &ln_e).unwrap();
        let size = |count: usize| f64::from(u32::try_from(count).unwrap());
        let enough = (size(ln_e.len()) / (0.05 * size(rejected.len().max(1)))).ln();
        prop_assert!(rejected.iter().all(|at| ln_e[*at] >= enough - 1e-9));
        let weakest = rejected.iter().map(|at| ln_e[*at]).fold(f64::INFINITY, f64::min);
        for (at, value) in ln_e.iter().enumerate() {
            prop_assert!(rejected.contains(&at) || *value <= weakest);
        }
        let stronger: Vec<f64> = ln_e.iter().map(|value| value + 1.0).collect();
        prop_assert!(alpha::e_bh(0.05, &stronger).unwrap().len() >= rejected.len());
    }

    #[test]
    fn more_traffic_worse_canaries_and_weaker_bounds_are_seen_sooner(
        weight in 0.01..0.9_f64, stable_rate in 0.001..0.1_f64, times in 1.5..9.0_f64,
        bound in 1.0..15.0_f64
    ) {
        let traffic = Traffic {
            units_per_second: 100.0,
            weight,
            canary_rate: stable_rate * times,
            stable_rate,
        };
        let wait = |traffic, bound| detection::estimate(traffic, 1.0, bound).unwrap().unwrap();
        let own = wait(traffic, bound);
        let lower = detection::lower_bound(traffic, 1.0, bound).unwrap().unwrap();
        prop_assert!(lower.seconds <= own.seconds && lower.events <= own.events);
        let busier = Traffic { units_per_second: 200.0, ..traffic };
        prop_assert!(wait(busier, bound).seconds < own.seconds);
        let worse = Traffic { canary_rate: traffic.canary_rate * 1.1, ..traffic };
        prop_assert!(wait(worse, bound).events < own.events);
        prop_assert!(wait(traffic, bound + 1.0).events > own.events);
        let equal = Traffic { canary_rate: stable_rate, ..traffic };
        prop_assert_eq!(detection::estimate(equal, 1.0, bound).unwrap(), None);
        prop_assert_eq!(detection::lower_bound(equal, 1.0, bound).unwrap(), None);
    }

    #[test]
    fn more_units_show_smaller_differences(
        weight in 0.01..0.9_f64, stable in 0.001..0.3_f64, by in 0.01..0.3_f64, power in 0.5..0.95_f64
    ) {
        let comparison = Comparison::new(weight, 0.05, Sides::Two).unwrap();
        let units = sample_size::canary_units(comparison, stable, stable + by, power).unwrap();
        let reached = |units| sample_size::power(comparison, stable, stable + by, units).unwrap();
        prop_assert!(close(reached(units), power));
        prop_assert!(reached(units * 1.1) > power);
        let least = |units| {
            sample_size::minimum_detectable(comparison, stable, units, power).unwrap().unwrap_or(1.0)
        };
        prop_assert!((least(units) - by).abs() < 1e-6);
        prop_assert!(least(units * 2.0) < by);
        let closer = sample_size::canary_units(comparison, stable, stable + by / 2.0, power).unwrap();
        prop_assert!(closer > units);
        let one_sided = Comparison::new(weight, 0.05, Sides::One).unwrap();
        let fewer = sample_size::canary_units(one_sided, stable, stable + by, power).unwrap();
        prop_assert!(fewer < units);
    }

    #[test]
    fn ranges_hold_what_was_seen_and_narrow(bad in 0..300_u64, good in 0..3000_u64) {
        let outcomes = Outcomes { bad, total: bad + good };
        let range = |alpha| confidence::rate(outcomes, alpha, 300.0).unwrap();
        let (narrow, wide) = (range(0.05), range(0.001));
        prop_assert!(wide.lower <= narrow.lower && narrow.upper <= wide.upper);
        if bad + good > 0 {
            let seen = f64::from(u32::try_from(bad).unwrap())
                / f64::from(u32::try_from(bad + good).unwrap());
            prop_assert!(narrow.lower <= seen && seen <= narrow.upper);
        }
        let band = |count| confidence::distribution_band(count, 0.05).unwrap();
        prop_assert!(band(bad + good + 1) <= band(bad + good));
    }

    #[test]
    fn set_counts_nobody_twice_and_forgets_evenly(
        capacity in 0..50_usize, users in prop::collection::vec(0..200_u64, 0..600)
    ) {
        let mut seen = FirstSeen::new(capacity);
        let mut counted = BTreeSet::new();
        for (before, user) in users.iter().enumerate() {
            let room = users[..before].iter().collect::<BTreeSet<_>>().len() <= capacity;
            let first = seen.first(*user);
            prop_assert!(!first || counted.insert(*user), "{} counted twice", user);
            prop_assert!(!room || counted.contains(user), "{} missed, with room left", user);
        }
        prop_assert!((0.0..=1.0).contains(&seen.sampling()));
    }

    #[test]
    fn users_of_several_replicas_count_once_by_their_first_event(
        replicas in prop::collection::vec(prop::collection::vec(bad_event(), 0..12), 3)
    ) {
        let [a, b, c] = [&replicas[0], &replicas[1], &replicas[2]].map(Clone::clone);
        let merge = |parts: [&Vec<BadEvent>; 2]| first_bad(parts.into_iter().flatten().copied());
        let whole = first_bad(replicas.iter().flatten().copied());
        prop_assert_eq!(&merge([&merge([&a, &b]), &c]), &whole);
        prop_assert_eq!(&merge([&a, &merge([&b, &c])]), &whole);
        prop_assert_eq!(merge([&a, &b]), merge([&b, &a]));
        prop_assert_eq!(&first_bad(whole.iter().copied()), &whole);
        for event in replicas.iter().flatten().filter(|event| event.user.is_some()) {
            let kept: Vec<_> = whole.iter().filter(|kept| kept.user == event.user).collect();
            prop_assert_eq!(kept.len(), 1);
            prop_assert!(kept[0].at <= event.at);
        }
        prop_assert!(whole.windows(2).all(|pair| pair[0].at <= pair[1].at));
    }
}

fn bad_event() -> impl Strategy<Value = BadEvent> {
    let weight = prop::sample::select(vec![0.01, 0.05]);
    let track = prop::sample::select(vec![Track::Stable, Track::Canary]);
    let parts = (
        prop::option::weighted(0.9, 0..9_u64),
        track,
        weight,
        0..20_u64,
    );
    parts.prop_map(|(user, track, weight, at)| BadEvent {
        user,
        track,
        weight,
        at,
    })
}

#[test]
fn full_set_goes_on_counting_a_falling_share() {
    let mut seen = FirstSeen::new(100);
    let mut users = 0..10_000_u64;
    let counted = users.by_ref().filter(|user| seen.first(*user)).count();
    // 100·(1 + ln(10000/100)) are expected.
    assert!((450..670).contains(&counted), "{counted} of 10000");
    assert!(
        (0.005..0.02).contains(&seen.sampling()),
        "{}",
        seen.sampling()
    );
}

#[test]
fn stored_evidence_that_is_none_is_refused() {
    for text in [
        r#"{"l":[0,0],"c":0,"s":0}"#,
        r#"{"l":[0,0,0,0,0,0,0,null],"c":0,"s":0}"#,
        r#"{"l":[0,0,0,0,0,0,0,0],"c":-1,"s":0}"#,
    ] {
        let read = serde_json::from_str::<AttributionEvidence>(text);
        assert!(read.is_err(), "{text}");
    }
}
