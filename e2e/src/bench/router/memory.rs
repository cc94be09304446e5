//! Resident memory with many idle connections, and after load.

use anyhow::Context as _;
use std::time::Duration;

use crate::bench::{
    self,
    line::Line,
    router::{
        exchange::Exchange,
        load::{self, Load},
        measure::{Bench, number},
        targets::Who,
    },
};

/// A proxy may tidy up after the last connection came.
const SETTLE: Duration = Duration::from_secs(1);
const MEGABYTE: f64 = 1e6;

/// Memory of each target with idle connections, in bytes: before, and with them.
pub(super) async fn idle(bench: &mut Bench, connections: u32) -> anyhow::Result<()> {
    bench::say(&format!("==> {connections} idle connections"));
    let mut seen = Vec::new();
    let all: Vec<Who> = bench.targets.iter().map(|target| target.who).collect();
    for who in all.into_iter().filter(|who| *who != Who::Direct) {
        let target = bench.target(who)?;
        let process = target.process.as_ref().context("a proxy without process")?;
        let load = Load {
            address: target.address,
            connections,
            exchange: Exchange::Answer { bytes: 100 },
            clock: bench.clock,
        };
        let before = number(process.resident()?);
        let (open, counts) = load::idle(load)
            .await
            .with_context(|| format!("{}: {connections} connections", target.name))?;
        tokio::time::sleep(SETTLE).await;
        let with = number(process.resident()?);
        drop(open);
        bench::say(&format!(
            "    {:<20} {:.1} MB, with them {:.1} MB",
            target.name,
            before / MEGABYTE,
            with / MEGABYTE
        ));
        seen.push((who, target.name.clone(), before, with));
        if who == Who::Router {
            bench.ledger.balance(counts).await?;
        }
    }
    let router = seen.iter().find(|(who, ..)| *who == Who::Router);
    let (_, _, before, with) = router.context("the router does not run")?;
    let each = |before: f64, with: f64| (with - before) / f64::from(connections);
    for (_, name, peer_before, peer_with) in seen.iter().filter(|(who, ..)| *who != Who::Router) {
        for (figure, unit, value, peer) in [
            ("rss", "MB", with / MEGABYTE, peer_with / MEGABYTE),
            (
                "rss_per_connection",
                "bytes",
                each(*before, *with),
                each(*peer_before, *peer_with),
            ),
        ] {
            let line = Line::of(&format!("router.idle.{figure}"), unit, &[value]);
            let line = line.context("nothing was measured")?;
            let line = line
                .against(name.clone(), peer)
                .with("connections", connections);
            bench::print(&line)?;
        }
    }
    Ok(())
}

/// Memory of each target after all load.
pub(super) fn after(bench: &Bench) -> anyhow::Result<()> {
    let mut peers = Vec::new();
    let mut router = None;
    for target in &bench.targets {
        let Some(process) = &target.process else {
            continue;
        };
        let megabytes = number(process.resident()?) / MEGABYTE;
        bench::say(&format!(
            "    {:<20} {megabytes:.1} MB after all load",
            target.name
        ));
        if target.who == Who::Router {
            router = Some(megabytes);
        } else {
            peers.push((target.name.clone(), megabytes));
        }
    }
    let router = router.context("the router does not run")?;
    for (name, megabytes) in peers {
        let line = Line::of("router.rss", "MB", &[router]).context("nothing was measured")?;
        bench::print(&line.against(name, megabytes))?;
    }
    Ok(())
}
