//! What is asked of every proxy, for how long and how often.

use std::time::Duration;

use crate::bench::router::{
    exchange::Exchange,
    targets::{PROXIES, Who},
};

/// A kind of load.
#[derive(Clone, Copy, Debug)]
pub(super) struct Case {
    /// Last part of the names of its figures.
    pub(super) name: &'static str,
    pub(super) connections: u32,
    pub(super) exchange: Exchange,
    pub(super) figures: Figures,
}

/// Which figures a case gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Figures {
    /// Processor time, latency and rate.
    Answers,
    /// Processor time, and what a proxy adds to the first byte and to each chunk.
    Stream,
    /// The same of large prompts.
    Prompts,
}

/// An answer as small as many models give.
const SMALL: usize = 100;
/// About 50 000 tokens of text.
const PROMPT: usize = 220 * 1000;

const fn answers(name: &'static str, connections: u32, bytes: usize) -> Case {
    Case {
        name,
        connections,
        exchange: Exchange::Answer { bytes },
        figures: Figures::Answers,
    }
}

const fn prompts(name: &'static str, connections: u32) -> Case {
    Case {
        name,
        connections,
        exchange: Exchange::Stream {
            prompt: PROMPT,
            records: 32,
            every_millis: 20,
        },
        figures: Figures::Prompts,
    }
}

const CASES: [Case; 11] = [
    answers("c1", 1, SMALL),
    answers("c16", 16, SMALL),
    answers("c64", 64, SMALL),
    answers("c256", 256, SMALL),
    answers("4kb", 64, 4096),
    answers("1mb", 8, 1 << 20),
    Case {
        name: "stream",
        connections: 16,
        exchange: Exchange::Stream {
            prompt: 0,
            records: 50,
            every_millis: 10,
        },
        figures: Figures::Stream,
    },
    prompts("s20", 20),
    prompts("s60", 60),
    prompts("s100", 100),
    prompts("s200", 200),
];

impl Case {
    /// Those that are wanted; none named: all of them, or those of a quick look.
    pub(super) fn wanted(only: &[String], quick: bool) -> Vec<Self> {
        let mut cases = CASES.to_vec();
        cases.retain(|case| {
            if only.is_empty() {
                !(quick && ["s60", "s100"].contains(&case.name))
            } else {
                only.iter().any(|name| name == case.name)
            }
        });
        cases
    }

    /// The names of all.
    pub(super) fn names() -> Vec<&'static str> {
        CASES.iter().map(|case| case.name).collect()
    }

    /// Who is measured, in the order in which they are.
    pub(super) fn who(&self) -> Vec<Who> {
        match self.figures {
            Figures::Answers => PROXIES.to_vec(),
            Figures::Stream => [vec![Who::Direct], PROXIES.to_vec()].concat(),
            Figures::Prompts => vec![Who::Direct, Who::Bare, Who::Haproxy, Who::Router],
        }
    }

    /// How it is repeated.
    pub(super) fn plan(&self, quick: bool) -> Plan {
        let streams = self.figures != Figures::Answers;
        let millis = match (streams, quick) {
            (false, false) => [300, 1000],
            (false, true) => [150, 400],
            // A stream takes more than half a second: load is steady after that.
            (true, false) => [800, 1600],
            (true, true) => [700, 700],
        };
        let rounds = match (streams, quick) {
            (_, true) => 1,
            (true, false) => 3,
            (false, false) => 5,
        };
        let [warm_up, window] = millis.map(Duration::from_millis);
        Plan {
            warm_up,
            window,
            rounds,
            kept: if quick { 1 } else { 5 },
        }
    }
}

/// How a case is repeated: rounds of A B C C B A.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    /// Load that is not measured.
    pub(super) warm_up: Duration,
    /// Load that is.
    pub(super) window: Duration,
    /// Two repetitions each.
    pub(super) rounds: usize,
    /// Repetitions that must count.
    pub(super) kept: usize,
}
