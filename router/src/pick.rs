//! Who gets a request: the split, and the endpoint.
//!
//! Pure but for the random draw, which callers pass in. A user's draw is a point on a line from 0
//! to 1, and the canary takes the line from 0 up to its weight: raising the weight only adds users.

use hmac::{Hmac, KeyInit, Mac};
use http::header::COOKIE;
use http::{HeaderMap, HeaderName};
use sha2::Sha256;

use crate::table::Arm;

/// A longer user key is not hashed: nobody's identity is this long, and hashing it is work that a
/// client can order for nothing.
const USER_KEY_BYTES_MAX: usize = 1024;

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

/// Where a request's user key is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UserKey {
    /// This header.
    Header(HeaderName),
    /// This cookie.
    Cookie(String),
}

impl UserKey {
    /// The key of a request, if it has a usable one.
    pub fn read<'request>(&self, headers: &'request HeaderMap) -> Option<&'request [u8]> {
        let key = match self {
            Self::Header(name) => headers.get(name)?.as_bytes(),
            Self::Cookie(name) => headers
                .get_all(COOKIE)
                .iter()
                .flat_map(|value| value.as_bytes().split(|byte| *byte == b';'))
                .find_map(|pair| {
                    pair.trim_ascii()
                        .strip_prefix(name.as_bytes())?
                        .strip_prefix(b"=")
                })?,
        };
        (!key.is_empty() && key.len() <= USER_KEY_BYTES_MAX).then_some(key)
    }
}

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

/// Of two random endpoints the one with fewer requests in flight: nearly as good as the least
/// loaded of all, and stampedes nobody. `load` of none: leave it out.
pub fn endpoint<T: Copy>(
    endpoints: &[T],
    draw: Draw,
    load: impl Fn(T) -> Option<usize>,
) -> Option<T> {
    let usable: Vec<(T, usize)> = endpoints
        .iter()
        .filter_map(|endpoint| Some((*endpoint, load(*endpoint)?)))
        .collect();
    let count = u64::try_from(usable.len())
        .ok()
        .filter(|count| *count > 0)?;
    let low = draw.0 & 0xffff_ffff;
    let high = draw.0 >> 32;
    let first = (low * count) >> 32;
    // Among the others, so that the two differ wherever there are two.
    let second = if count > 1 {
        (first + 1 + ((high * (count - 1)) >> 32)) % count
    } else {
        first
    };
    let at = |index: u64| usable.get(usize::try_from(index).ok()?).copied();
    let (one, two) = (at(first)?, at(second)?);
    Some(if two.1 < one.1 { two.0 } else { one.0 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;
    use proptest::prelude::*;

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

    #[test]
    fn user_keys_are_read_from_header_and_cookie() {
        let mut headers = HeaderMap::new();
        headers.append(COOKIE, HeaderValue::from_static("a=1; uid=u7 ;b=2"));
        headers.append("x-user", HeaderValue::from_static("u8"));
        headers.append("x-empty", HeaderValue::from_static(""));
        headers.append("x-long", HeaderValue::from_str(&"u".repeat(2000)).unwrap());
        let header = |name| UserKey::Header(HeaderName::from_static(name));
        let cookie = |name: &str| UserKey::Cookie(name.to_owned());
        assert_eq!(cookie("uid").read(&headers), Some(&b"u7"[..]));
        assert_eq!(cookie("ui").read(&headers), None);
        assert_eq!(header("x-user").read(&headers), Some(&b"u8"[..]));
        assert_eq!(header("x-empty").read(&headers), None);
        assert_eq!(header("x-long").read(&headers), None);
        assert_eq!(header("x-none").read(&headers), None);
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
            let chosen = endpoint(&indices, Draw(draw), |index| loads[index]);
            prop_assert_eq!(chosen.is_some(), loads.iter().any(Option::is_some));
            if let Some(index) = chosen {
                prop_assert!(loads[index].is_some());
                let usable: Vec<usize> = loads.iter().flatten().copied().collect();
                if usable.len() == 2 {
                    prop_assert_eq!(loads[index], usable.iter().min().copied());
                }
            }
        }
    }
}
