//! Whatever way the words of processes come, they come to the same.

use std::collections::BTreeSet;

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use rollout::state::Stage;
use serde_json::json;

use super::*;

const STEPS: [(u32, u16); 3] = [(1, 100), (2, 500), (3, 2500)];

fn follow() -> Follow {
    let spec = json!({"model": {"format": "InImage"}, "runtime": {"engine": "sim"}});
    let spec: crds::ModelDeploymentSpec = serde_json::from_value(spec).unwrap();
    Follow {
        run: Run {
            id: "r1".to_owned(),
            revision: "b".to_owned(),
            plan: "p".to_owned(),
            started_at: Timestamp::UNIX_EPOCH,
            attempt: 1,
            stable_replicas: 1,
            exposed_at: None,
            stage: Stage::Starting,
            earned: Weight::ZERO,
            waiting_since: None,
            tallies: BTreeMap::new(),
        },
        plan: Plan::from_spec(&spec).unwrap(),
        routers: 2,
        by_user: true,
    }
}

fn route() -> NamespacedName {
    NamespacedName {
        namespace: "ml".to_owned(),
        name: "digits".to_owned(),
    }
}

/// What a process has seen by now.
#[derive(Clone, Default)]
struct Process {
    segments: Vec<Segment>,
    events: Vec<UserEvent>,
}

impl Process {
    /// It sees somebody, perhaps in the next step.
    fn see(&mut self, random: &mut StdRng) {
        let step = self.segments.len();
        if step == 0 || (step < STEPS.len() && random.random_bool(0.05)) {
            let (step, weight) = STEPS[step];
            self.segments.push(Segment {
                id: step,
                step,
                weight,
                ..Segment::default()
            });
        }
        let segment = self.segments.last_mut().unwrap();
        let canary = random.random_bool(f64::from(segment.weight) / 10_000.0);
        let arm = if canary {
            &mut segment.canary
        } else {
            &mut segment.stable
        };
        arm.requests += 1;
        if random.random_bool(0.2) {
            *arm.bad_without_user.entry("errors".to_owned()).or_default() += 1;
        } else {
            self.events.push(UserEvent {
                seq: u64::try_from(self.events.len()).unwrap() + 1,
                segment: segment.id,
                guardrail: 0,
                canary,
                user: random.random_range(0..40),
            });
        }
    }

    /// Its word, with the events after some that its reader has.
    fn word(&self, after: usize) -> Evidence {
        Evidence {
            namespace: "ml".to_owned(),
            route: "digits".to_owned(),
            run: "r1".to_owned(),
            revision: "b".to_owned(),
            segments: self.segments.clone(),
            events: self.events[after..].to_vec(),
            last: u64::try_from(self.events.len()).unwrap(),
            dropped: 0,
        }
    }
}

#[test]
fn repeated_late_and_mixed_words_come_to_what_was_seen_with_each_user_once() {
    for seed in 0..200 {
        let random = &mut StdRng::seed_from_u64(seed);
        let mut runs = Runs::default();
        let mut processes = [Process::default(), Process::default(), Process::default()];
        let names = ["a", "b", "c"];
        let follow = follow();
        for _ in 0..200 {
            let which = random.random_range(0..processes.len());
            processes[which].see(random);
            match random.random_range(0..10) {
                // A line, of all that it saw or of some that was heard already.
                0..3 => {
                    let known = runs.known(names[which], 1);
                    let known = known.first().map_or(0, |(_, last)| *last);
                    let after = random.random_range(0..=usize::try_from(known).unwrap());
                    runs.hear(names[which], processes[which].word(after));
                }
                3 => drop(runs.judge(None, Timestamp::UNIX_EPOCH)),
                4 => drop(runs.follow(&route(), follow.clone(), (None, Timestamp::UNIX_EPOCH))),
                _ => {}
            }
        }
        for (name, process) in names.iter().zip(&processes) {
            runs.hear(name, process.word(0));
            runs.hear(name, process.word(0));
        }
        let heard = runs.follow(&route(), follow, (None, Timestamp::UNIX_EPOCH));
        let heard = heard.unwrap();
        let arms = |count: fn(&ArmEvidence) -> u64| -> u64 {
            let segments = processes.iter().flat_map(|process| &process.segments);
            segments
                .map(|one| count(&one.canary) + count(&one.stable))
                .sum()
        };
        let requests = heard.stretches.iter();
        let requests = requests.map(|one| one.canary.requests + one.stable.requests);
        assert_eq!(requests.sum::<u64>(), arms(|arm| arm.requests), "{seed}");
        let events = processes.iter().flat_map(|process| &process.events);
        let users: BTreeSet<u64> = events.map(|event| event.user).collect();
        let unknown = arms(|arm| arm.bad_without_user.values().sum());
        let expected = u64::try_from(users.len()).unwrap() + unknown;
        let errors = &heard.guardrails["errors"];
        let carry = errors.lanes.unwrap().carry.unwrap();
        assert_eq!(carry.canary() + carry.stable(), expected, "{seed}");
        let first_bad = errors.first_bad.iter().map(|one| one.canary + one.stable);
        assert_eq!(first_bad.sum::<u64>(), expected, "{seed}");
    }
}

#[test]
fn a_new_leader_looks_at_no_arm_without_what_the_other_had_beside_it() {
    // The weight of the first step lasted into the second, until its pods were ready.
    let segment = |id, step, weight, canary: u64, stable: u64| {
        let bad = |count| ArmEvidence {
            requests: count * 100,
            bad_without_user: (count > 0)
                .then(|| ("errors".to_owned(), count))
                .into_iter()
                .collect(),
            ..ArmEvidence::default()
        };
        Segment {
            id,
            step,
            weight,
            canary: bad(canary),
            stable: bad(stable),
        }
    };
    let seen = Process {
        segments: vec![
            segment(1, 1, 500, 50, 940),
            segment(2, 2, 500, 0, 10),
            segment(3, 2, 2500, 100, 300),
        ],
        events: Vec::new(),
    };
    let mut runs = Runs::default();
    runs.hear("a", seen.word(0));
    let heard = runs.follow(&route(), follow(), (None, Timestamp::UNIX_EPOCH));
    let lanes = heard.unwrap().guardrails["errors"].lanes.unwrap();
    assert!(lanes.highest < 1.0, "{}", lanes.highest);
}
