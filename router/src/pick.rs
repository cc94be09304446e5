//! Who gets a request: the split, and the endpoint.
//!
//! Pure but for the random draw, which callers pass in. A user's draw is a point on a line from 0
//! to 1, and the canary takes the line from 0 up to its weight: raising the weight only adds users.

mod user;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

pub use self::user::{Testers, UserKey};
use crate::table::Arm;

/// The secret that turns a user key into a draw, so that nobody can pick an arm.
#[derive(Clone)]
pub struct SplitKey(Hmac<Sha256>);

impl std::fmt::Debug for SplitKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SplitKey(…)")
    }
}

impl SplitKey {
    /// A key of any length.
    pub fn new(secret: &[u8]) -> Option<Self> {
        Hmac::new_from_slice(secret).ok().map(Self)
    }

    /// The draw of a user in a run.
    pub fn draw(&self, run: &str, user: &[u8]) -> Draw {
        let mut mac = self.0.clone();
        mac.update(run.as_bytes());
        mac.update(&[0]);
        mac.update(user);
        let digest = mac.finalize().into_bytes();
        Draw(
            digest
                .iter()
                .take(8)
                .fold(0, |sum, byte| (sum << 8) | u64::from(*byte)),
        )
    }
}

/// A point between 0 and 1, in units of 2⁻⁶⁴.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Draw(pub u64);

/// The arm that a draw falls on. The canary stands first among the arms (see
/// [`crate::table::Rule`]). None: no arm has weight.
pub fn arm(arms: &[Arm], draw: Draw) -> Option<usize> {
    let total: u64 = arms.iter().map(|arm| arm.weight).sum();
    let point = u128::from(draw.0) * u128::from(total);
    let mut upto: u64 = 0;
    arms.iter().position(|arm| {
        upto += arm.weight;
        point < u128::from(upto) << 64
    })
}

/// What is known of an endpoint when one is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It may be used, and has so many requests in flight.
    Usable(usize),
    /// It is left out for having refused connections: it would do nothing with a request.
    Refusing,
    /// It is left out for having broken off answers, with so many in flight, until a time.
    Resetting {
        /// Requests in flight.
        load: usize,
        /// When it may be used again.
        until: u64,
    },
    /// This request was there already.
    Tried,
}

/// Of two random endpoints the one with fewer requests in flight: nearly as good as the least
/// loaded of all, and stampedes nobody.
///
/// Any number of endpoints that refuse is left out, and of those that break off answers so many that
/// half of all stay in: a client that knows how to break an answer must not take all of them away.
pub fn endpoint<T: Copy>(
    endpoints: &[T],
    draw: Draw,
    standing: impl Fn(T) -> Standing,
) -> Option<T> {
    let (one, two) = two_of(endpoints, draw)?;
    if let (Standing::Usable(first), Standing::Usable(second)) = (standing(one), standing(two)) {
        return Some(if second < first { two } else { one });
    }
    let usable = usable(endpoints, standing);
    // What was drawn is no longer even: it fell on one that is left out.
    let again = Draw(draw.0.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(32));
    let (one, two) = two_of(&usable, again)?;
    Some(if two.1 < one.1 { two.0 } else { one.0 })
}

/// Two of them at random, which differ wherever there are two.
fn two_of<T: Copy>(all: &[T], draw: Draw) -> Option<(T, T)> {
    let count = u64::try_from(all.len()).ok().filter(|count| *count > 0)?;
    let low = draw.0 & 0xffff_ffff;
    let high = draw.0 >> 32;
    let first = (low * count) >> 32;
    let second = if count > 1 {
        (first + 1 + ((high * (count - 1)) >> 32)) % count
    } else {
        first
    };
    let at = |index: u64| all.get(usize::try_from(index).ok()?).copied();
    Some((at(first)?, at(second)?))
}

/// Those that are not left out, with their load.
fn usable<T: Copy>(endpoints: &[T], standing: impl Fn(T) -> Standing) -> Vec<(T, usize)> {
    let mut usable = Vec::with_capacity(endpoints.len());
    let mut resetting = Vec::new();
    let mut refusing = 0;
    for endpoint in endpoints {
        match standing(*endpoint) {
            Standing::Usable(load) => usable.push((*endpoint, load)),
            Standing::Resetting { load, until } => resetting.push((until, *endpoint, load)),
            Standing::Refusing => refusing += 1,
            Standing::Tried => {}
        }
    }
    let out = (endpoints.len() / 2).saturating_sub(refusing);
    // Those come back first whose time is nearest.
    resetting.sort_by_key(|(until, ..)| *until);
    let back = resetting.len().saturating_sub(out);
    let back = resetting.into_iter().take(back);
    usable.extend(back.map(|(_, endpoint, load)| (endpoint, load)));
    usable
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand::SeedableRng as _;
    use rand::rngs::StdRng;

    fn arms(canary: u64, stable: u64) -> Vec<Arm> {
        vec![Arm::named("canary", canary), Arm::named("stable", stable)]
    }

    fn key() -> SplitKey {
        SplitKey::new(b"secret").unwrap()
    }

    #[test]
    fn weight_zero_gets_none_and_full_weight_all() {
        for draw in [0, 1, u64::MAX / 2, u64::MAX] {
            assert_eq!(arm(&arms(0, 100), Draw(draw)), Some(1));
            assert_eq!(arm(&arms(100, 0), Draw(draw)), Some(0));
            assert_eq!(arm(&arms(0, 0), Draw(draw)), None);
        }
    }

    #[test]
    fn share_of_users_is_the_weight() {
        let users = 40_000_u32;
        for (canary, stable) in [(1, 99), (5, 95), (1, 3), (1, 1)] {
            let seen = (0..users)
                .filter(|user| {
                    let draw = key().draw("run", user.to_string().as_bytes());
                    arm(&arms(canary, stable), draw) == Some(0)
                })
                .count();
            let share = f64::from(u32::try_from(canary).unwrap())
                / f64::from(u32::try_from(canary + stable).unwrap());
            let expected = f64::from(users) * share;
            let off = f64::from(u32::try_from(seen).unwrap()) - expected;
            // Chi-square with one degree of freedom, at one in ten thousand.
            let chi = off * off / (expected * (1.0 - share));
            assert!(
                chi < 15.1,
                "{canary}:{stable} gave {seen} of {users}, chi² {chi}"
            );
        }
    }

    /// Weights of a canary's share in basis points as they stand on a route: smallest whole numbers.
    fn whole(points: u64) -> (u64, u64) {
        let divisor = (1..=10_000)
            .rev()
            .find(|it| points.is_multiple_of(*it) && 10_000_u64.is_multiple_of(*it));
        (
            points / divisor.unwrap(),
            (10_000 - points) / divisor.unwrap(),
        )
    }

    #[test]
    fn every_share_is_exact_to_the_last_draw() {
        for points in 1..10_000_u64 {
            let (canary, stable) = whole(points);
            let weights = arms(canary, stable);
            // So many of the 2⁶⁴ draws are the canary's: the share of them, rounded up.
            let count = (u128::from(points) << 64).div_ceil(10_000);
            let count = u64::try_from(count).unwrap();
            assert_eq!(arm(&weights, Draw(count - 1)), Some(0), "{points}");
            assert_eq!(arm(&weights, Draw(count)), Some(1), "{points}");
        }
    }

    #[test]
    fn a_million_draws_follow_the_weight_down_to_a_hundredth_of_a_percent() {
        let requests = 1_000_000_u32;
        let key = key();
        let draws: Vec<Draw> = (0..requests)
            .map(|user| key.draw("run", &user.to_be_bytes()))
            .collect();
        let canaries = |points| {
            let (canary, stable) = whole(points);
            let weights = arms(canary, stable);
            let falls = draws.iter().filter(|draw| arm(&weights, **draw) == Some(0));
            f64::from(u32::try_from(falls.count()).unwrap())
        };
        assert!(canaries(0) < 0.5, "0 means none");
        for points in [1_u32, 10, 100, 500, 2500, 5000] {
            let seen = canaries(u64::from(points));
            let share = f64::from(points) / 10_000.0;
            let expected = f64::from(requests) * share;
            // One degree of freedom: both cells are off by the same.
            let chi = (seen - expected).powi(2) / (expected * (1.0 - share));
            assert!(
                chi < 10.83,
                "{points} basis points: {seen}, χ² {chi}, p < 0.001"
            );
        }
    }

    #[test]
    fn another_run_draws_other_users() {
        let same = (0..1000_u32)
            .filter(|user| {
                let side = |run| arm(&arms(1, 1), key().draw(run, &user.to_be_bytes()));
                side("one") == side("two")
            })
            .count();
        assert!((400..600).contains(&same), "{same}");
    }

    #[test]
    fn run_and_user_cannot_be_shifted_into_each_other() {
        assert_ne!(key().draw("ab", b"c"), key().draw("a", b"bc"));
        assert_ne!(
            key().draw("a", b"u"),
            SplitKey::new(b"other").unwrap().draw("a", b"u")
        );
    }

    proptest! {
        #[test]
        fn raising_the_weight_never_moves_a_user_back(
            draw: u64, low in 0..1000_u64, low_rest in 0..1000_u64, high in 0..1000_u64, high_rest in 0..1000_u64,
        ) {
            prop_assume!(low + low_rest > 0 && high + high_rest > 0);
            // The share rises: low/(low+rest) <= high/(high+rest).
            prop_assume!(low * (high + high_rest) <= high * (low + low_rest));
            let before = arm(&arms(low, low_rest), Draw(draw));
            let after = arm(&arms(high, high_rest), Draw(draw));
            prop_assert!(!(before == Some(0) && after == Some(1)));
        }

        #[test]
        fn every_draw_finds_an_arm_with_weight(draw: u64, weights in prop::collection::vec(0..1_000_000_u64, 1..6)) {
            let arms: Vec<Arm> = weights.iter().map(|weight| Arm::named("a", *weight)).collect();
            if let Some(at) = arm(&arms, Draw(draw)) { prop_assert!(arms[at].weight > 0) } else { prop_assert_eq!(weights.iter().sum::<u64>(), 0) }
        }

        #[test]
        fn endpoint_is_usable_and_the_less_loaded_of_two(draw: u64, loads in prop::collection::vec(prop::option::of(0..9_usize), 0..6)) {
            let indices: Vec<usize> = (0..loads.len()).collect();
            let standing = |index: usize| loads[index].map_or(Standing::Refusing, Standing::Usable);
            let chosen = endpoint(&indices, Draw(draw), standing);
            prop_assert_eq!(chosen.is_some(), loads.iter().any(Option::is_some));
            if let Some(index) = chosen {
                prop_assert!(loads[index].is_some());
                let usable: Vec<usize> = loads.iter().flatten().copied().collect();
                if usable.len() == 2 {
                    prop_assert_eq!(loads[index], usable.iter().min().copied());
                }
            }
        }

        #[test]
        fn half_of_all_stay_in_however_many_break_off(all in prop::collection::vec((0..4_u8, 0..9_u64), 1..12)) {
            let standing = |at: usize| match all[at] {
                (0, until) => Standing::Resetting { load: 0, until },
                (1, _) => Standing::Refusing,
                (2, _) => Standing::Tried,
                _ => Standing::Usable(0),
            };
            let indices: Vec<usize> = (0..all.len()).collect();
            let left = usable(&indices, standing);
            let count = |kind: u8| all.iter().filter(|(of, _)| *of == kind).count();
            let out = all.len() - count(2) - left.len();
            prop_assert!(out <= count(1).max(all.len() / 2), "{out} are out");
            // Those that are out for longest stay out.
            let back: Vec<usize> = left.iter().map(|(at, _)| *at).collect();
            let until = |at: &usize| all[*at].1;
            let (inside, outside): (Vec<usize>, Vec<usize>) =
                indices.into_iter().filter(|at| all[*at].0 == 0).partition(|at| back.contains(at));
            prop_assert!(inside.iter().map(until).max() <= outside.iter().map(until).min() || outside.is_empty());
        }
    }

    #[test]
    fn endpoints_that_are_left_out_leave_an_even_choice_of_the_others() {
        let mut random = StdRng::seed_from_u64(7);
        let mut seen = [0_u32; 5];
        for _ in 0..30_000 {
            let standing = |at| {
                if at < 2 {
                    Standing::Refusing
                } else {
                    Standing::Usable(0)
                }
            };
            let chosen = endpoint(&[0, 1, 2, 3, 4], Draw(random.random()), standing).unwrap();
            seen[chosen] += 1;
        }
        assert_eq!(seen[..2], [0, 0]);
        // Chi-square with two degrees of freedom, at one in a thousand.
        let off = seen[2..]
            .iter()
            .map(|count| (f64::from(*count) - 10_000.0).powi(2) / 10_000.0);
        assert!(off.sum::<f64>() < 13.8, "{seen:?}");
    }
}
