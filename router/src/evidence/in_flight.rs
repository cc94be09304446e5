//! Requests that may turn bad before they end, in a fixed number of slots.
//!
//! A slot is taken and given back with one atomic exchange each. The judge looks at all of them from
//! time to time and marks what is overdue by exchanging the very state that it saw, so that a
//! request is counted once, by the judge or at its end, and never one that took the slot meanwhile.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use verdict::attribution::Track;

use super::guardrails::{Bits, Guardrails};

/// Slots of a run. Where more requests are in flight, the rest is judged at its end.
const SLOTS: usize = 1024;
/// Slots looked at for a free one.
const PROBES: usize = 8;

const FREE: u64 = 0;
/// Someone is writing the slot.
const TAKEN: u64 = u64::MAX;
/// In a slot's state, above the guardrails' bits: the body has begun.
const FIRST_BYTE: u64 = 1 << 8;
/// In a slot's state, above that: microseconds of the request's start, plus one.
const START: u32 = 9;

/// The slots.
#[derive(Debug)]
pub struct InFlight {
    slots: Box<[Slot]>,
    /// Whether a slot may be taken: a thousand runs without traffic cost nothing to look at.
    in_use: AtomicBool,
}

#[derive(Debug, Default)]
struct Slot {
    state: AtomicU64,
    origin: AtomicU64,
    user: AtomicU64,
}

/// Where a request was routed, and what of it counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The segment's number.
    pub segment: u32,
    /// The arm.
    pub track: Track,
    /// The user, if the request has one.
    pub user: Option<u64>,
    /// The guardrails that the request counts for.
    pub counted: Bits,
}

/// A slot's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place(usize);

impl Default for InFlight {
    fn default() -> Self {
        Self {
            slots: (0..SLOTS).map(|_| Slot::default()).collect(),
            in_use: AtomicBool::new(false),
        }
    }
}

impl InFlight {
    /// Takes a slot for a request that began at `started`, by the judge's clock.
    pub fn begin(&self, started: Duration, origin: Origin) -> Option<Place> {
        let micros = micros(started);
        let spread = (micros ^ origin.user.unwrap_or_default()).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let first = usize::try_from(spread >> 40).unwrap_or_default();
        for probe in 0..PROBES {
            let place = Place((first + probe) % SLOTS);
            let slot = self.slot(place)?;
            let taken =
                slot.state
                    .compare_exchange(FREE, TAKEN, Ordering::AcqRel, Ordering::Relaxed);
            if taken.is_ok() {
                slot.user
                    .store(origin.user.unwrap_or_default(), Ordering::Relaxed);
                slot.origin.store(origin.pack(), Ordering::Relaxed);
                let state = (micros + 1) << START;
                slot.state.store(state, Ordering::SeqCst);
                if !self.in_use.load(Ordering::SeqCst) {
                    self.in_use.store(true, Ordering::SeqCst);
                }
                return Some(place);
            }
        }
        None
    }

    /// The body of the answer has begun.
    pub fn first_byte(&self, place: Place) {
        if let Some(slot) = self.slot(place) {
            slot.state.fetch_or(FIRST_BYTE, Ordering::AcqRel);
        }
    }

    /// Marks what the request has broken. Gives those that were not marked before.
    pub fn mark(&self, place: Place, bits: Bits) -> Bits {
        self.slot(place).map_or(bits, |slot| {
            let before = slot.state.fetch_or(u64::from(bits), Ordering::AcqRel);
            bits & !marked(before)
        })
    }

    /// Gives the slot back. Gives what was marked.
    pub fn end(&self, place: Place) -> Bits {
        self.slot(place)
            .map_or(0, |slot| marked(slot.state.swap(FREE, Ordering::AcqRel)))
    }

    /// Marks what is overdue at `now`, and says so, once for each request and guardrail.
    pub fn sweep(
        &self,
        now: Duration,
        guardrails: &Guardrails,
        mut overdue: impl FnMut(Origin, Bits),
    ) {
        if !self.in_use.swap(false, Ordering::SeqCst) {
            return;
        }
        for slot in &self.slots {
            let seen = slot.state.load(Ordering::SeqCst);
            if seen == FREE {
                continue;
            }
            self.in_use.store(true, Ordering::SeqCst);
            if seen == TAKEN {
                continue;
            }
            let started = Duration::from_micros((seen >> START) - 1);
            let age = now.saturating_sub(started);
            let broken = guardrails.broken_by_age(age, seen & FIRST_BYTE != 0) & !marked(seen);
            if broken == 0 {
                continue;
            }
            let origin = Origin::unpack(
                slot.origin.load(Ordering::Relaxed),
                slot.user.load(Ordering::Relaxed),
            );
            // Fails where the request ended or came further meanwhile: the next look tells.
            let mark = slot.state.compare_exchange(
                seen,
                seen | u64::from(broken),
                Ordering::AcqRel,
                Ordering::Relaxed,
            );
            let bad = broken & origin.counted;
            if mark.is_ok() && bad != 0 {
                overdue(origin, bad);
            }
        }
    }

    fn slot(&self, place: Place) -> Option<&Slot> {
        self.slots.get(place.0)
    }
}

impl Origin {
    const CANARY: u64 = 1 << 32;
    const USER: u64 = 1 << 33;
    const COUNTED: u32 = 40;

    fn pack(self) -> u64 {
        let canary = match self.track {
            Track::Canary => Self::CANARY,
            Track::Stable => 0,
        };
        let user = self.user.map_or(0, |_| Self::USER);
        u64::from(self.segment) | canary | user | (u64::from(self.counted) << Self::COUNTED)
    }

    fn unpack(packed: u64, user: u64) -> Self {
        Self {
            segment: u32::try_from(packed & u64::from(u32::MAX)).unwrap_or_default(),
            track: if packed & Self::CANARY == 0 {
                Track::Stable
            } else {
                Track::Canary
            },
            user: (packed & Self::USER != 0).then_some(user),
            counted: Bits::try_from(packed >> Self::COUNTED).unwrap_or_default(),
        }
    }
}

fn marked(state: u64) -> Bits {
    Bits::try_from(state & 0xff).unwrap_or_default()
}

fn micros(duration: Duration) -> u64 {
    // 55 bits hold a thousand years.
    u64::try_from(duration.as_micros()).unwrap_or_default() & ((1 << 54) - 1)
}
