//! What it costs a request to be evidence: nanoseconds from its routing to its end, on one thread
//! and on all cores, while the judge looks as often as it does in service.
//!
//!     cargo bench -p sluice-router --bench evidence
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::as_conversions,
    clippy::cast_precision_loss,
    reason = "a program for people, that may stop where it stands"
)]

use std::hint::black_box;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crds::contract::{BadEvent, Judge, JudgedGuardrail, Test};
use crds::quantity::Number;
use sluice_router::evidence::guardrails::{Ended, Guardrails};
use sluice_router::evidence::trial::Witness;
use sluice_router::evidence::{Evidences, LOOK_EVERY};
use sluice_router::metrics::Metrics;
use sluice_router::table::objects::ObjectKey;
use sluice_router::table::{Role, Route, Run, Table, Watched};
use sluice_router::trips::Trips;

const REQUESTS: u64 = 2_000_000;

fn table(canary: SocketAddr, stable: SocketAddr) -> Table {
    let guardrail = |name: &str, event| JudgedGuardrail {
        name: name.to_owned(),
        event,
        test: Test::Comparison {
            tolerance: Number::from("1.25"),
        },
        trips: true,
        warm_up_millis: 0,
    };
    let judge = Judge {
        alpha: Number::from("0.001"),
        guardrails: vec![
            guardrail("errors", BadEvent::Error),
            guardrail("slow-answers", BadEvent::SlowerThan { millis: 250 }),
            guardrail("broken-streams", BadEvent::BrokenStream),
        ],
    };
    let watched = Watched {
        route: Arc::new(Route {
            key: ObjectKey::new("ml", "digits"),
            model_deployment: "digits".to_owned(),
            digest: String::new(),
            generation: 1,
        }),
        run: Run {
            id: "r1".to_owned(),
            revision: "canary".to_owned(),
        },
        step: 1,
        weight: 500,
        guardrails: Arc::new(Guardrails::parse(&judge).unwrap()),
        stable_revision: "stable".to_owned(),
        canary: vec![canary],
        stable: vec![stable],
    };
    Table {
        endpoints: [canary, stable].into(),
        watched: vec![watched],
        ..Table::default()
    }
}

/// One in twenty is the canary's and one in a hundred is bad.
fn requests(witness: &Arc<Witness>, addresses: [SocketAddr; 2], count: u64) {
    for number in 0..count {
        let at = if number.is_multiple_of(20) {
            (Role::Canary, addresses[0])
        } else {
            (Role::Stable, addresses[1])
        };
        let started = Instant::now();
        let observation = witness.observe(at, Some(number), started);
        black_box(observation).unwrap().end(&Ended {
            code: if number.is_multiple_of(100) { 500 } else { 200 },
            took: Duration::from_micros(number % 5000),
            first_byte: None,
            broken: false,
        });
    }
}

fn clock(count: u64) {
    for _ in 0..count {
        black_box(Instant::now());
    }
}

fn timed(threads: u64, work: impl Fn(u64) + Sync) -> f64 {
    let began = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| work(REQUESTS));
        }
    });
    began.elapsed().as_nanos() as f64 / REQUESTS as f64
}

fn main() {
    let addresses = [([10, 0, 0, 1], 80).into(), ([10, 0, 0, 2], 80).into()];
    let (evidence, trips, metrics) = (
        Evidences::new(Instant::now()),
        Trips::default(),
        Metrics::new(),
    );
    let table = table(addresses[0], addresses[1]);
    let witness = evidence.adopt(&table, &trips, Instant::now()).remove(0);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                evidence.look(&trips, &metrics, Instant::now());
                std::thread::sleep(LOOK_EVERY);
            }
        });
        let cores = std::thread::available_parallelism().map_or(2, usize::from) as u64;
        for threads in [1, cores] {
            let clock = timed(threads, clock);
            let all = timed(threads, |count| requests(&witness, addresses, count));
            println!(
                "{threads} threads: {:.0} ns a request, and {clock:.0} ns for reading the clock",
                all - clock
            );
        }
        done.store(true, Ordering::Relaxed);
    });
}
