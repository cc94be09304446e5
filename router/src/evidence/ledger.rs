//! What the judge has of a run: its segments, the users' first bad events and the tests. Bounded,
//! however many users, weights and bad events there are.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crds::contract::{self, UserEvent};
use verdict::attribution::Track;
use verdict::units::FirstSeen;

use super::docket::{Docket, Said};
use super::guardrails::{Bits, Check, Guardrails, bit, places};
use super::in_flight::Origin;
use super::segment::Segment;
use super::trial::Outcome;

/// Segments of a run; beyond, old ones are merged.
const SEGMENTS_MAX: usize = 64;
/// Bad events with a user that are kept for readers; beyond, the oldest is dropped.
const EVENTS_MAX: usize = 16 * 1024;

/// What the judge has of a run.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    pub(super) bound: f64,
    segments: Vec<Kept>,
    last_id: u32,
    step: u32,
    cases: Vec<Case>,
    events: VecDeque<UserEvent>,
    last_event: u64,
    dropped: u64,
    /// The sum over everything when it was last asked for: another one means news.
    told: u64,
    pub(super) held: bool,
    /// Whether the metrics lag behind, and the second in which they were last brought up.
    lags: bool,
    reported: Option<u64>,
}

/// A guardrail's test.
#[derive(Debug)]
struct Case {
    check: Check,
    trips: bool,
    docket: Docket,
}

#[derive(Debug)]
struct Kept {
    segment: Arc<Segment>,
    is_current: bool,
    units: u64,
    /// The canary's users in this segment; dropped some time after it was left.
    seen: Option<FirstSeen>,
}

/// A segment, and the one that is in force once the canary was taken out.
pub(super) type Opened = (Arc<Segment>, Arc<Segment>);

/// One look of the judge.
#[derive(Clone, Copy, Debug)]
pub(super) struct Look<'events> {
    /// The judge's time, in seconds.
    pub(super) now: u64,
    /// The number of the last event of any run.
    pub(super) events: &'events AtomicU64,
}

impl Look<'_> {
    fn number(self) -> u64 {
        self.events.fetch_add(1, Ordering::Relaxed) + 1
    }
}

/// A guardrail that rejects.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Rejected {
    /// Its place.
    pub(super) guardrail: usize,
    /// The evidence.
    pub(super) log_e: f64,
}

impl Ledger {
    /// The segments that requests are routed in from now on, each with the one that is in force once
    /// the canary was taken out.
    pub(super) fn open(
        &mut self,
        guardrails: &Guardrails,
        wanted: &[(u32, u16)],
        now: u64,
    ) -> Vec<Opened> {
        if let Some((step, _)) = wanted.first() {
            self.step = *step;
        }
        self.follow(guardrails, now);
        let current = |kept: &Kept, step, weight| {
            kept.is_current && kept.segment.step == step && kept.segment.weight == weight
        };
        for kept in &mut self.segments {
            let (step, weight) = (kept.segment.step, kept.segment.weight);
            kept.is_current = kept.is_current
                && wanted
                    .iter()
                    .any(|(at, given)| *at == step && (*given == weight || weight == 0));
        }
        let mut find = |step, weight| {
            let found = self.segments.iter().find(|it| current(it, step, weight));
            if let Some(kept) = found {
                return Arc::clone(&kept.segment);
            }
            self.last_id += 1;
            let segment = Arc::new(Segment::new(self.last_id, step, weight));
            self.segments.push(Kept {
                segment: Arc::clone(&segment),
                is_current: true,
                units: 0,
                seen: Some(FirstSeen::new(FirstSeen::CAPACITY)),
            });
            segment
        };
        let opened = wanted
            .iter()
            .map(|(step, weight)| (find(*step, *weight), find(*step, 0)))
            .collect();
        self.forget();
        opened
    }

    /// Judges by these from now on. A test that became another one begins with nothing.
    fn follow(&mut self, guardrails: &Guardrails, now: u64) {
        self.bound = guardrails.bound;
        for (at, wanted) in guardrails.iter().enumerate() {
            let known = self.cases.get_mut(at);
            if let Some(case) = known.filter(|case| case.check == wanted.check) {
                case.trips = wanted.trips;
                continue;
            }
            let case = Case {
                check: wanted.check,
                trips: wanted.trips,
                docket: Docket::new(wanted.check, self.step, now),
            };
            match self.cases.get_mut(at) {
                Some(known) => *known = case,
                None => self.cases.push(case),
            }
        }
    }

    /// Keeps within bounds.
    fn forget(&mut self) {
        self.segments.retain(|kept| {
            kept.is_current || Arc::strong_count(&kept.segment) > 1 || !kept.segment.is_empty()
        });
        let left = self.segments.iter_mut().rev().filter(|it| !it.is_current);
        // What was routed in the last one may still be in flight; before that it is not worth it.
        for kept in left.skip(2) {
            kept.seen = None;
        }
        while self.segments.len() > SEGMENTS_MAX {
            // What requests still hold would be counted where nobody looks.
            let unheld = |kept: &Kept| !kept.is_current && Arc::strong_count(&kept.segment) == 1;
            let Some(at) = self.segments.iter().position(unheld) else {
                return;
            };
            let oldest = self.segments.remove(at);
            self.merge(&oldest, at);
        }
    }

    /// Adds a segment that was removed from `at` to another one, of the same weight where there is
    /// one. Of another weight its events are worth nothing, and are dropped.
    fn merge(&mut self, oldest: &Kept, at: usize) {
        let same = |kept: &Kept| kept.segment.weight == oldest.segment.weight;
        let same_step = |kept: &Kept| same(kept) && kept.segment.step == oldest.segment.step;
        let found = self.segments.iter().position(same_step);
        let found = found.or_else(|| self.segments.iter().position(same));
        let Some(into) = self.segments.get_mut(found.unwrap_or(at)) else {
            return;
        };
        into.segment.absorb(&oldest.segment);
        into.units += oldest.units;
        let (from, to) = (oldest.segment.id, into.segment.id);
        if into.segment.weight == oldest.segment.weight {
            let moved = self.events.iter_mut().filter(|it| it.segment == from);
            moved.for_each(|event| event.segment = to);
        } else {
            let before = self.events.len();
            self.events.retain(|event| event.segment != from);
            self.dropped += u64::try_from(before - self.events.len()).unwrap_or_default();
        }
    }

    /// Time passes: at every look, before what was told since.
    pub(super) fn advance(&mut self, now: u64) {
        for case in &mut self.cases {
            case.docket.advance(self.step, now);
        }
    }

    /// Takes in what a request told.
    pub(super) fn take(&mut self, outcome: &Outcome, look: Look<'_>) {
        let segment = outcome.segment();
        let origin = Origin {
            segment: segment.id,
            track: outcome.track,
            user: outcome.user,
            counted: outcome.judged,
        };
        self.hear(origin, segment.share(), outcome.bad, look);
        if outcome.is_over && outcome.track == Track::Canary {
            self.count_unit(segment.id, outcome.user);
        }
    }

    /// Takes in a request that is bad before it ended. The counts are the caller's.
    pub(super) fn overdue(&mut self, origin: Origin, bad: Bits, look: Look<'_>) {
        let kept = self.segments.iter();
        let Some(segment) = kept
            .map(|kept| &kept.segment)
            .find(|it| it.id == origin.segment)
        else {
            return;
        };
        segment.bad(origin.track, bad, origin.user.is_some());
        let share = segment.share();
        let origin = Origin {
            counted: bad,
            ..origin
        };
        self.hear(origin, share, bad, look);
    }

    fn hear(&mut self, origin: Origin, weight: f64, bad: Bits, look: Look<'_>) {
        for at in places(origin.counted) {
            let said = Said {
                track: origin.track,
                user: origin.user,
                weight,
                bad: bad & bit(at) != 0,
            };
            let case = self.cases.get_mut(at);
            let is_new = case.is_some_and(|case| case.docket.take(said, look.now));
            if let (true, Some(user)) = (is_new, origin.user) {
                self.remember(UserEvent {
                    seq: look.number(),
                    segment: origin.segment,
                    guardrail: u8::try_from(at).unwrap_or_default(),
                    canary: origin.track == Track::Canary,
                    user,
                });
            }
        }
    }

    fn remember(&mut self, event: UserEvent) {
        if self.events.len() >= EVENTS_MAX {
            self.events.pop_front();
            self.dropped += 1;
        }
        self.last_event = event.seq;
        self.events.push_back(event);
    }

    fn count_unit(&mut self, segment: u32, user: Option<u64>) {
        let kept = self.segments.iter_mut().rev();
        let Some(kept) = kept.into_iter().find(|kept| kept.segment.id == segment) else {
            return;
        };
        let first = match (user, &mut kept.seen) {
            (None, _) => true,
            (Some(user), Some(seen)) => seen.first(user),
            (Some(_), None) => false,
        };
        kept.units += u64::from(first);
    }

    /// The guardrail that rejects most clearly, of those that trip.
    pub(super) fn rejected(&self) -> Option<Rejected> {
        let tripping = self.cases.iter().enumerate().filter(|(_, it)| it.trips);
        tripping
            .map(|(guardrail, case)| Rejected {
                guardrail,
                log_e: case.docket.highest(),
            })
            .filter(|rejected| rejected.log_e >= self.bound)
            .max_by(|one, two| one.log_e.total_cmp(&two.log_e))
    }

    /// The evidence against the canary, by guardrail.
    pub(super) fn ln_e(&self) -> impl Iterator<Item = f64> + '_ {
        self.cases.iter().map(|case| case.docket.ln_e())
    }

    /// Whether something was counted since this was last asked.
    pub(super) fn is_news(&mut self) -> bool {
        let sums = self.segments.iter().map(|kept| kept.segment.sum());
        let units = self.segments.iter().map(|kept| kept.units);
        let sum = sums.chain(units).sum::<u64>() + self.last_event;
        std::mem::replace(&mut self.told, sum) != sum
    }

    /// Whether the metrics are to be brought up: once a second, while they lag.
    pub(super) fn is_report_due(&mut self, is_news: bool, now: u64) -> bool {
        self.lags |= is_news;
        let is_due = self.lags && self.reported != Some(now);
        if is_due {
            self.lags = false;
            self.reported = Some(now);
        }
        is_due
    }

    /// Requests of an arm, and those that broke a guardrail, over the whole run.
    pub(super) fn totals(&self, track: Track, guardrail: usize) -> (u64, u64) {
        self.segments.iter().fold((0, 0), |(all, bad), kept| {
            (
                all + kept.segment.requests(track),
                bad + kept.segment.bad_requests(track, guardrail),
            )
        })
    }

    /// Fills in what the stream tells; the events after `after` alone.
    pub(super) fn tell(&self, guardrails: &Guardrails, after: u64) -> contract::Evidence {
        let segments = self.segments.iter().filter(|kept| {
            // What is only in force after a trip is not worth a word before it.
            kept.segment.weight > 0 || !kept.segment.is_empty()
        });
        contract::Evidence {
            segments: segments
                .map(|kept| kept.segment.to_contract(guardrails, kept.units))
                .collect(),
            events: self
                .events
                .iter()
                .filter(|event| event.seq > after)
                .copied()
                .collect(),
            last: self.last_event,
            dropped: self.dropped,
            ..contract::Evidence::default()
        }
    }
}
