//! How long until a bad canary is out, and how often a good one is, in virtual time through the
//! code that judges in service: one JSON object per line on stdout, progress on stderr.
//!
//!     cargo run --release -p sluice-router --example detect -- --plots docs/plots
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::cast_precision_loss,
    clippy::as_conversions,
    reason = "a measurement that cannot go on should say where"
)]

mod line;
mod plot;
mod trial;

use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use clap::Parser;
use verdict::alpha;
use verdict::detection::{self, Traffic};

use self::line::{Line, float};
use self::plot::{Mark, Series};
use self::trial::{ALPHA, BASE, Found, RATE, Setup, TOLERANCE};

/// Weights in basis points.
const WEIGHTS: [u16; 3] = [100, 500, 2500];
/// Bad answers of the canary, in percent.
const ERRORS: [u16; 3] = [5, 50, 100];
/// How many routers there are, and for how many seconds the canary is good before it turns bad.
const WHEN: [(usize, u64); 4] = [(1, 0), (3, 0), (3, 60), (3, 600)];
/// A canary that is not found within this is not found.
const LONGEST: u64 = 3600 * 1000;

/// Measures in virtual time.
#[derive(Debug, Parser)]
struct Flags {
    /// Trials of each cell.
    #[arg(long, default_value_t = 200)]
    trials: usize,
    /// Hours in which nothing is wrong, at each weight.
    #[arg(long, default_value_t = 20)]
    hours: usize,
    /// Folder for the plot; none: no plot.
    #[arg(long)]
    plots: Option<PathBuf>,
}

fn main() {
    let flags = Flags::parse();
    let mut marks = Vec::new();
    for weight in WEIGHTS {
        for errors in ERRORS {
            for (replicas, seconds) in WHEN {
                let setup = Setup {
                    replicas,
                    weight,
                    canary: f64::from(errors) / 100.0,
                    good_for: seconds * 1000,
                };
                marks.push(detect(setup, errors, flags.trials));
            }
        }
    }
    for weight in WEIGHTS {
        for replicas in [1, 3] {
            let setup = Setup {
                replicas,
                weight,
                canary: BASE,
                good_for: 0,
            };
            falsely(setup, flags.hours);
        }
    }
    if let Some(folder) = flags.plots {
        std::fs::write(folder.join("detect.svg"), plot::svg(&marks)).unwrap();
    }
}

/// One cell: until the first of them takes the canary out, be it a router by itself or the sum.
fn detect(setup: Setup, errors: u16, trials: usize) -> Mark {
    let all = all(trials, |seed| trial::run(setup, seed, LONGEST));
    let found: Vec<&Found> = all.iter().filter(|it| it.first() != Some(0)).collect();
    let of = |times: &dyn Fn(&Found) -> Option<u64>| -> Vec<f64> {
        let millis = found.iter().filter_map(|it| times(it));
        millis.map(|it| float(it) / 1000.0).collect()
    };
    let first = of(&Found::first);
    let name = name(setup, errors);
    let traffic = Traffic {
        units_per_second: float(RATE),
        weight: setup.share(),
        canary_rate: setup.canary,
        stable_rate: BASE,
    };
    let bound = alpha::bound_of_share(ALPHA).unwrap();
    let wald = detection::lower_bound(traffic, TOLERANCE, bound)
        .unwrap()
        .unwrap()
        .seconds;
    let line = Line::median(&name, "s", &first)
        .against("wald", wald)
        .at_most(2.0 * wald, "value<=2*peer_value")
        .with("p99", line::percentile(&first, 99))
        .with("slowest", line::percentile(&first, 100))
        .with("router_alone", line::percentile(&of(&|it| it.alone), 50))
        .with("missed", found.len() - first.len())
        .with("before_it_was_bad", all.len() - found.len())
        .with("good_for", setup.good_for / 1000)
        .with("weight", setup.share())
        .with("canary_errors", setup.canary)
        .with("base_errors", BASE)
        .with("rate", RATE)
        .with("alpha", ALPHA);
    let line = if setup.replicas > 1 {
        let by_sum = |it: &&&Found| it.sum.is_some() && it.sum == it.first();
        line.with("first_by_sum", found.iter().filter(by_sum).count())
    } else {
        line
    };
    line.print();
    Mark {
        cell: format!("{} %, {errors} %", setup.weight / 100),
        series: match (setup.replicas, setup.good_for) {
            (1, _) => Series::One,
            (_, 0) => Series::Three,
            (_, _) => Series::Turned(setup.good_for / 60_000),
        },
        wald,
        median: line::percentile(&first, 50),
        late: line::percentile(&first, 99),
    }
}

/// So many hours in which the canary is as good as stable.
fn falsely(setup: Setup, hours: usize) {
    let found = all(hours, |seed| {
        trial::run(setup, seed + 1_000_000, 3600 * 1000)
    });
    let wrong = found.iter().filter(|it| it.first().is_some()).count();
    let name = format!(
        "detect.false.{}.w{}",
        number(setup.replicas),
        setup.weight / 100
    );
    let chance = line::at_least(wrong, hours, ALPHA);
    Line::count(&name, "rollbacks", wrong, hours)
        .holds(chance > 0.01, "binomial p>0.01")
        .with("p", chance)
        .with("weight", setup.share())
        .with("hours", hours)
        .with("rate", RATE)
        .with("alpha", ALPHA)
        .print();
}

fn name(setup: Setup, errors: u16) -> String {
    let percent = setup.weight / 100;
    let name = format!("detect.{}.w{percent}.e{errors}", number(setup.replicas));
    match setup.good_for / 1000 {
        0 => name,
        seconds => format!("{name}.after{seconds}s"),
    }
}

fn number(replicas: usize) -> &'static str {
    if replicas == 1 { "one" } else { "three" }
}

/// Trials from their seeds, on all cores; the same whatever runs when.
fn all(trials: usize, trial: impl Fn(u64) -> Found + Sync) -> Vec<Found> {
    let next = AtomicUsize::new(0);
    let found = Mutex::new(Vec::with_capacity(trials));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= trials {
                        return;
                    }
                    let seed = u64::try_from(number).unwrap();
                    let one = trial(seed);
                    found.lock().unwrap().push(one);
                }
            });
        }
    });
    found.into_inner().unwrap()
}
