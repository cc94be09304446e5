//! How fast a rule over a Prometheus can be at best: arithmetic, no run needed.

use crate::bench::line::float;

/// Values of each of the two uniform delays.
const GRID: usize = 200;

/// What the delay is made of; times in seconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lane {
    /// Time between two scrapes.
    pub(crate) scrape: f64,
    /// How far back the rule looks.
    pub(crate) window: f64,
    /// Time between two looks at the rule.
    pub(crate) check: f64,
    /// Share of failures that the rule allows.
    pub(crate) limit: f64,
    /// Share of failures before.
    pub(crate) before: f64,
    /// Share of failures after.
    pub(crate) after: f64,
    /// From the decision until no request goes there.
    pub(crate) propagation: f64,
}

impl Lane {
    /// U(0, scrape) + window · (limit − before) / (after − before) + U(0, check) + propagation,
    /// as sorted values of equal probability.
    pub(crate) fn delays(&self) -> Vec<f64> {
        let filling = self.window * (self.limit - self.before) / (self.after - self.before);
        let uniform = |index: usize| (float(index) + 0.5) / float(GRID);
        let mut delays: Vec<f64> = (0..GRID)
            .flat_map(|scrape| (0..GRID).map(move |check| (scrape, check)))
            .map(|(scrape, check)| {
                uniform(scrape) * self.scrape
                    + filling
                    + uniform(check) * self.check
                    + self.propagation
            })
            .collect();
        delays.sort_by(f64::total_cmp);
        delays
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::line::percentile;

    #[test]
    fn the_known_medians_come_out() {
        let quick = Lane {
            scrape: 1.0,
            window: 10.0,
            check: 1.0,
            limit: 0.01,
            before: 0.001,
            after: 1.0,
            propagation: 0.2,
        };
        let slow = Lane {
            scrape: 5.0,
            window: 30.0,
            check: 5.0,
            propagation: 0.5,
            ..quick
        };
        for (lane, median, tail) in [(quick, 1.3, 2.0), (slow, 5.8, 9.2)] {
            let delays = lane.delays();
            assert!((percentile(&delays, 50).unwrap() - median).abs() < 0.05);
            assert!((percentile(&delays, 95).unwrap() - tail).abs() < 0.1);
        }
    }
}
