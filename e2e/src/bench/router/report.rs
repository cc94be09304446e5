//! From repetitions to lines: the router beside each peer.

use std::fmt::Write as _;

use anyhow::Context as _;

use crate::bench::{
    self,
    line::{Line, float, percentile, rounded},
    router::{
        cases::{Case, Figures},
        measure::{Metric, Repetition, Rows},
        targets::{Target, Who},
    },
};

/// Resamplings of a bootstrap.
const RESAMPLINGS: usize = 2000;

/// A figure of a case.
#[derive(Clone, Copy, Debug)]
struct Figure {
    name: &'static str,
    unit: &'static str,
    metric: Metric,
    /// What the target is measured beyond: the backend itself.
    added: bool,
    /// From µs to the unit.
    scale: f64,
}

const fn figure(name: &'static str, unit: &'static str, metric: Metric) -> Figure {
    Figure {
        name,
        unit,
        metric,
        added: false,
        scale: 1.0,
    }
}

const fn added(name: &'static str, metric: Metric) -> Figure {
    Figure {
        name,
        unit: "us",
        metric,
        added: true,
        scale: 1.0,
    }
}

const ANSWERS: [Figure; 4] = [
    figure("cpu_per_req", "us", Metric::Cpu),
    figure("latency_p50", "us", Metric::WholeMedian),
    figure("latency_p99", "us", Metric::WholeP99),
    figure("rps", "1/s", Metric::Rate),
];
const STREAM: [Figure; 4] = [
    figure("cpu_per_req", "us", Metric::Cpu),
    added("added_ttfb_p50", Metric::FirstMedian),
    added("added_ttfb_p99", Metric::FirstP99),
    added("added_per_chunk", Metric::Transit),
];
const PROMPTS: [Figure; 5] = [
    Figure {
        name: "llm.cpu_per_req",
        unit: "ms",
        metric: Metric::Cpu,
        added: false,
        scale: 1e-3,
    },
    added("llm.added_ttft_p50", Metric::FirstMedian),
    added("llm.added_ttft_p99", Metric::FirstP99),
    added("llm.added_per_chunk", Metric::Transit),
    figure("llm.rps", "1/s", Metric::Rate),
];

impl Figure {
    fn of(kind: Figures) -> &'static [Self] {
        match kind {
            Figures::Answers => &ANSWERS,
            Figures::Stream => &STREAM,
            Figures::Prompts => &PROMPTS,
        }
    }

    /// What the router may cost at most, as a multiple of a peer's.
    fn limit(self, peer: Who) -> Option<f64> {
        let prompts = self.name.starts_with("llm.");
        match (self.metric, peer) {
            (Metric::Cpu, Who::Bare) => Some(1.15),
            (Metric::Cpu | Metric::FirstMedian, Who::Haproxy) if prompts => Some(1.2),
            (Metric::Cpu, Who::Haproxy) => Some(1.3),
            _ => None,
        }
    }

    /// Its values by repetition, with gaps.
    fn values(self, rows: &Rows, who: Who) -> Vec<Option<f64>> {
        let row = |who| rows.get(&who).map_or(&[][..], Vec::as_slice);
        let read =
            |repetition: &Option<Repetition>| repetition.as_ref()?.get(&self.metric).copied();
        let values = row(who).iter().map(read);
        if !self.added {
            return values.map(|value| Some(value? * self.scale)).collect();
        }
        let direct = row(Who::Direct).iter().map(read);
        values
            .zip(direct)
            .map(|(through, direct)| Some((through? - direct?) * self.scale))
            .collect()
    }
}

/// Prints all lines of a case and says the main figure of each target.
pub(super) fn print(case: &Case, rows: &Rows, targets: &[Target]) -> anyhow::Result<()> {
    let peers = || {
        targets
            .iter()
            .filter(|it| it.who != Who::Router && it.who != Who::Direct)
    };
    for figure in Figure::of(case.figures) {
        let router = figure.values(rows, Who::Router);
        let mut said = format!("    {:<24}", format!("{}.{}", figure.name, case.name));
        for target in targets {
            let values = figure.values(rows, target.who);
            if let Some(value) = median(&values.into_iter().flatten().collect::<Vec<_>>()) {
                // Writing to a String cannot fail.
                write!(said, "{} {value:.1}  ", target.name).unwrap_or_default();
            }
        }
        bench::say(&format!("{said}{}", figure.unit));
        for peer in peers() {
            let values = figure.values(rows, peer.who);
            if values.is_empty() {
                continue;
            }
            let mut line = line(figure, case, &router, (peer, &values))?;
            for (name, metric) in [("busy", Metric::Busy), ("elsewhere", Metric::Elsewhere)] {
                let shares = rows.get(&Who::Router).into_iter().flatten().flatten();
                let shares: Vec<f64> = shares.filter_map(|it| it.get(&metric).copied()).collect();
                if let Some(share) = median(&shares) {
                    line = line.with(name, rounded(share));
                }
            }
            bench::print(&line)?;
        }
    }
    Ok(())
}

fn line(
    figure: &Figure,
    case: &Case,
    router: &[Option<f64>],
    (peer, values): (&Target, &[Option<f64>]),
) -> anyhow::Result<Line> {
    let known = |values: &[Option<f64>]| values.iter().copied().flatten().collect::<Vec<f64>>();
    let name = format!("router.{}.{}", figure.name, case.name);
    let mut line = Line::of(&name, figure.unit, &known(router)).context("nothing was measured")?;
    line.discarded = router
        .iter()
        .chain(values)
        .filter(|it| it.is_none())
        .count();
    if figure.metric == Metric::Rate {
        line.better = "higher";
    }
    let of_peer = Line::of(&name, figure.unit, &known(values)).context("nothing was measured")?;
    line = line.against(peer.name.clone(), of_peer.value);
    if let Some(spread) = of_peer.spread {
        line = line.with("peer_spread", spread.to_vec());
    }
    // What is added may be nothing, or less: then there is no ratio.
    if of_peer.value <= 0.0 {
        line.ratio = None;
        return Ok(line);
    }
    let pairs = router.iter().zip(values);
    let ratios: Vec<f64> = pairs
        .filter_map(|(router, peer)| Some((*router)? / (*peer)?))
        .collect();
    if let Some(interval) = interval(&ratios) {
        line = line.with("ratio_95", interval.map(rounded).to_vec());
    }
    if let (Some(limit), Some(ratio)) = (figure.limit(peer.who), line.ratio) {
        line.target = Some(format!("ratio<={limit}"));
        line.pass = Some(ratio <= limit);
    }
    Ok(line)
}

pub(super) fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    percentile(&sorted, 50)
}

/// The 95 % interval of the median by bootstrap; the same for the same numbers.
fn interval(values: &[f64]) -> Option<[f64; 2]> {
    if values.len() < 3 {
        return None;
    }
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut draw = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let place = usize::try_from(state >> 33).unwrap_or_default() % values.len();
        values.get(place).copied()
    };
    let medians = (0..RESAMPLINGS).filter_map(|_| {
        let sample: Option<Vec<f64>> = values.iter().map(|_| draw()).collect();
        median(&sample?)
    });
    let mut medians: Vec<f64> = medians.collect();
    medians.sort_by(f64::total_cmp);
    let at = |share: f64| {
        let count = float(medians.len());
        let place = medians
            .iter()
            .enumerate()
            .find(|(place, _)| float(*place) >= share * count);
        place.map(|(_, value)| *value)
    };
    Some([at(0.025)?, at(0.975)?])
}

/// The medians of the processor time for one request by target, for a plot.
pub(super) fn cpu(rows: &Rows, targets: &[Target]) -> Vec<(String, f64)> {
    let cpu = figure("", "", Metric::Cpu);
    let of = |target: &Target| {
        let values: Vec<f64> = cpu.values(rows, target.who).into_iter().flatten().collect();
        Some((target.name.clone(), median(&values)?))
    };
    targets.iter().filter_map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(values: &[(Who, &[Option<f64>])]) -> Rows {
        let repetition =
            |value: f64| Repetition::from([(Metric::Cpu, value), (Metric::Transit, value)]);
        let row = |values: &[Option<f64>]| values.iter().map(|it| it.map(repetition)).collect();
        values
            .iter()
            .map(|(who, values)| (*who, row(values)))
            .collect()
    }

    #[test]
    fn what_is_added_is_counted_from_the_same_round() {
        let rows = rows(&[
            (Who::Direct, &[Some(1.0), Some(5.0), None]),
            (Who::Router, &[Some(3.0), Some(6.0), Some(9.0)]),
        ]);
        let chunk = added("a", Metric::Transit);
        assert_eq!(
            chunk.values(&rows, Who::Router),
            [Some(2.0), Some(1.0), None]
        );
    }

    #[test]
    fn a_line_says_whether_the_target_was_met() {
        let peer = Target {
            who: Who::Haproxy,
            name: "haproxy-1.2.3".to_owned(),
            address: "127.0.0.1:1".parse().unwrap(),
            process: None,
        };
        let case = Case::wanted(&["c64".to_owned()], false)[0];
        let of = |router: f64| {
            let router = [Some(router), None, Some(router)];
            let values = [Some(10.0), Some(10.0), Some(10.0)];
            line(&ANSWERS[0], &case, &router, (&peer, &values)).unwrap()
        };
        assert_eq!(of(12.0).pass, Some(true));
        assert_eq!(of(14.0).pass, Some(false));
        assert_eq!(of(12.0).discarded, 1);
        assert_eq!(of(12.0).name, "router.cpu_per_req.c64");
        assert_eq!(of(12.0).peer.as_deref(), Some("haproxy-1.2.3"));
    }

    #[test]
    fn the_interval_holds_the_median_and_is_narrower_than_the_values() {
        let values = [1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 9.0];
        let [low, high] = interval(&values).unwrap();
        assert!(low <= 1.3 && (1.3..9.0).contains(&high), "{low} {high}");
        assert_eq!(interval(&[1.0, 2.0]), None);
    }
}
