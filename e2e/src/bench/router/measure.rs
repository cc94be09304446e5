//! Repetitions: load runs, and processor time, answers and times are read over a window of it.

use std::collections::BTreeMap;

use anyhow::{Context as _, ensure};
use tokio::time::Instant;

use crate::bench::{
    self, line,
    router::{
        cases::Case,
        counters::Ledger,
        exchange::Clock,
        load::{Load, Running, Times},
        process::{self, Machine},
        targets::{Target, Who},
    },
};

/// A repetition in which the host took more than this of the machine does not count.
const STEAL_MAX: f64 = 0.01;

/// What one repetition gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Metric {
    /// Processor time of the proxy for a request, in µs.
    Cpu,
    /// Answers a second.
    Rate,
    /// Median and 99th percentile of the time for a whole answer, in µs.
    WholeMedian,
    WholeP99,
    /// The same until the first record of a stream.
    FirstMedian,
    FirstP99,
    /// Median of a record's way, in µs.
    Transit,
    /// Share of its core that the proxy used.
    Busy,
    /// Share of the machine that others used.
    Elsewhere,
}

pub(super) type Repetition = BTreeMap<Metric, f64>;

/// The repetitions of a case by target; those that do not count leave a gap, so that what was
/// measured one after the other stays side by side.
pub(super) type Rows = BTreeMap<Who, Vec<Option<Repetition>>>;

/// Measures on targets.
#[derive(Debug)]
pub(super) struct Bench {
    pub(super) targets: Vec<Target>,
    pub(super) ledger: Ledger,
    pub(super) clock: Clock,
    pub(super) quick: bool,
}

impl Bench {
    /// All repetitions of a case.
    pub(super) async fn case(&mut self, case: &Case) -> anyhow::Result<Rows> {
        let plan = case.plan(self.quick);
        let there = |who: &Who| self.targets.iter().any(|target| target.who == *who);
        let order: Vec<Who> = case.who().into_iter().filter(there).collect();
        let mut rows = Rows::new();
        for round in 0..2 * plan.rounds {
            let kept = |row: &Vec<Option<Repetition>>| row.iter().flatten().count();
            if round >= plan.rounds && rows.values().all(|row| kept(row) >= plan.kept) {
                break;
            }
            for who in order.iter().chain(order.iter().rev()) {
                let repetition = self.repetition(*who, case).await?;
                rows.entry(*who).or_default().push(repetition);
            }
        }
        for (who, row) in &rows {
            let kept = row.iter().flatten().count();
            ensure!(
                kept >= plan.kept,
                "{}: only {kept} repetitions of {who:?} count: the host takes too much of this machine",
                case.name
            );
        }
        Ok(rows)
    }

    /// The target of that name.
    pub(super) fn target(&self, who: Who) -> anyhow::Result<&Target> {
        let target = self.targets.iter().find(|target| target.who == who);
        target.with_context(|| format!("{who:?} does not run"))
    }

    /// One repetition; none where it does not count.
    async fn repetition(&mut self, who: Who, case: &Case) -> anyhow::Result<Option<Repetition>> {
        let plan = case.plan(self.quick);
        let target = self.target(who)?;
        let load = Load {
            address: target.address,
            connections: case.connections,
            exchange: case.exchange,
            clock: self.clock,
        };
        let running = load.start();
        tokio::time::sleep(plan.warm_up).await;
        let before = Reading::take(target, &running)?;
        running.measure(true);
        tokio::time::sleep(plan.window).await;
        let after = Reading::take(target, &running)?;
        running.measure(false);
        let (counts, times) = running
            .end()
            .await
            .with_context(|| format!("{}: {}", target.name, case.name))?;
        ensure!(
            counts.errors == 0,
            "{}: {}: {} wrong answers or none",
            target.name,
            case.name,
            counts.errors
        );
        if who == Who::Router {
            self.ledger.balance(counts).await?;
        }
        let stolen = before.stolen(after);
        if stolen > STEAL_MAX {
            bench::say(&format!(
                "    discarded: the host took {:.1} %",
                stolen * 100.0
            ));
            return Ok(None);
        }
        Ok(Some(before.until(after, times)?))
    }
}

/// What is read at each end of the window.
#[derive(Clone, Copy, Debug)]
struct Reading {
    at: Instant,
    /// Processor time of the proxy and of this process, in nanoseconds.
    proxy: u64,
    own: u64,
    answers: u64,
    machine: Machine,
}

impl Reading {
    fn take(target: &Target, running: &Running) -> anyhow::Result<Self> {
        let proxy = target.process.as_ref().map(process::Process::cpu);
        Ok(Self {
            at: Instant::now(),
            proxy: proxy.transpose()?.unwrap_or_default(),
            own: process::cpu("self")?,
            answers: running.counts().answers(),
            machine: Machine::read()?,
        })
    }

    fn stolen(self, after: Self) -> f64 {
        let all = number(after.machine.all - self.machine.all);
        number(after.machine.steal - self.machine.steal) / all.max(1.0)
    }

    fn until(self, after: Self, times: Times) -> anyhow::Result<Repetition> {
        let answers = number(after.answers - self.answers);
        ensure!(answers > 0.0, "nothing was answered");
        let seconds = (after.at - self.at).as_secs_f64();
        let (proxy, own) = (after.proxy - self.proxy, after.own - self.own);
        let mut figures = Repetition::new();
        figures.insert(Metric::Rate, answers / seconds);
        figures.insert(Metric::Cpu, number(proxy) / 1e3 / answers);
        figures.insert(Metric::Busy, number(proxy) / 1e9 / seconds);
        // A tick is a hundredth of a second on every Linux that people run.
        let busy = number(after.machine.busy - self.machine.busy) / 100.0;
        let all = number(after.machine.all - self.machine.all) / 100.0;
        let others = (busy - number(proxy + own) / 1e9).max(0.0);
        figures.insert(Metric::Elsewhere, others / all.max(0.01));
        let mut add = |metric, values: &[f64], percent| {
            if let Some(value) = line::percentile(values, percent) {
                figures.insert(metric, value);
            }
        };
        let whole = micros(times.whole);
        add(Metric::WholeMedian, &whole, 50);
        add(Metric::WholeP99, &whole, 99);
        let first = micros(times.first);
        add(Metric::FirstMedian, &first, 50);
        add(Metric::FirstP99, &first, 99);
        add(Metric::Transit, &micros(times.transit), 50);
        Ok(figures)
    }
}

/// Sorted, in µs.
fn micros(mut nanoseconds: Vec<u64>) -> Vec<f64> {
    nanoseconds.sort_unstable();
    nanoseconds.into_iter().map(|it| number(it) / 1e3).collect()
}

/// Counts and times of a benchmark, far below what a `f64` holds exactly.
pub(super) fn number(count: u64) -> f64 {
    let low = u32::try_from(count & u64::from(u32::MAX)).map_or(0.0, f64::from);
    u32::try_from(count >> 32).map_or(0.0, f64::from) * 4_294_967_296.0 + low
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_of_the_window_alone() {
        let machine = |busy, steal| Machine {
            busy,
            steal,
            all: busy + steal + 100,
        };
        let before = Reading {
            at: Instant::now(),
            proxy: 5_000,
            own: 7_000,
            answers: 100,
            machine: machine(1000, 0),
        };
        let after = Reading {
            at: before.at + std::time::Duration::from_secs(2),
            proxy: 1_000_005_000,
            own: 500_007_000,
            answers: 100_100,
            machine: machine(1200, 1),
        };
        let times = Times {
            whole: vec![3_000, 1_000, 2_000],
            ..Times::default()
        };
        let figures = before.until(after, times).unwrap();
        let near = |metric, expected: f64| {
            let found = figures[&metric];
            assert!((found - expected).abs() < 1e-9, "{metric:?} is {found}");
        };
        near(Metric::Cpu, 10.0);
        near(Metric::Rate, 50_000.0);
        near(Metric::Busy, 0.5);
        near(Metric::WholeMedian, 2.0);
        // 2 s of ticks, of which load and proxy used 1.5.
        near(Metric::Elsewhere, 0.5 / 2.01);
        assert!(!figures.contains_key(&Metric::FirstMedian));
        assert!((before.stolen(after) - 1.0 / 201.0).abs() < 1e-9);
        before.until(before, Times::default()).unwrap_err();
    }

    #[test]
    fn large_counts_stay_exact() {
        assert!((number(5_000_000_000) - 5e9).abs() < f64::EPSILON);
    }
}
