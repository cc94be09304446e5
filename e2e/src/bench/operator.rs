//! The operator with many model deployments at rest, and how fast it starts with them.

use std::{
    env, fs,
    io::{BufRead as _, BufReader},
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, api::DeleteParams};

use crate::{
    bench::{
        self, Bench,
        figures::{self, Counters, Usage},
        fleet::Fleet,
        line::{Line, float, rounded},
    },
    chart, prometheus, wait,
};

/// User name of the operator at the API server.
const USER: &str = "system:serviceaccount:sluice-system:sluice-operator";
const STARTED_WITHIN: Duration = Duration::from_mins(3);
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Without a look at any object for so long, each has had its first.
const QUIET_FOR: Duration = Duration::from_secs(2);
/// How long the operator may take until it writes nothing.
const SETTLED_AFTER: Duration = Duration::from_secs(30);

/// What is measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Idle {
    pub(crate) objects: usize,
    pub(crate) watched_for: Duration,
    pub(crate) restarts: usize,
}

/// Measures; afterwards everything is as it was.
pub(crate) async fn run(bench: &Bench<'_>, idle: &Idle) -> anyhow::Result<()> {
    // It would try to scrape every pod that is not there.
    prometheus::scale(bench.cluster, 0).await?;
    let measured = with_fleet(bench, idle).await;
    let restored = prometheus::scale(bench.cluster, 1).await;
    measured.and(restored)
}

async fn with_fleet(bench: &Bench<'_>, idle: &Idle) -> anyhow::Result<()> {
    let mut fleet = Fleet::begin(bench).await?;
    let measured = async {
        fleet.fill(bench, idle.objects).await?;
        // At rest first: a start announces decisions of the last minutes again.
        at_rest(bench, idle).await?;
        cold_start(bench, idle).await
    };
    let measured = measured.await;
    measured.and(fleet.end(bench).await)
}

async fn at_rest(bench: &Bench<'_>, idle: &Idle) -> anyhow::Result<()> {
    tokio::time::sleep(SETTLED_AFTER).await;
    bench::say(&format!("watching the operator for {:?}", idle.watched_for));
    let pod = figures::pod(bench).await?;
    let before = Sample::take(bench, &pod).await?;
    tokio::time::sleep(idle.watched_for).await;
    let after = Sample::take(bench, &figures::pod(bench).await?).await?;
    ensure!(
        before.pod == after.pod && after.counters.reconciles >= before.counters.reconciles,
        "the operator was restarted while it was watched"
    );
    let minutes = after.at.duration_since(before.at).as_secs_f64() / 60.0;
    let reconciles = (after.counters.reconciles - before.counters.reconciles) / minutes;
    let writes = (after.counters.writes - before.counters.writes) / minutes;
    let of_all = |line: Option<Line>| {
        let line = line.context("nothing was measured")?;
        let line = line.with("objects", idle.objects);
        bench::print(&line.with("minutes", rounded(minutes)))
    };
    of_all(
        Line::of("operator.idle.rss", "bytes", &[after.usage.rss])
            .map(|line| line.at_most(150e6, "value<=150000000")),
    )?;
    let busy = after.usage.cpu_seconds - before.usage.cpu_seconds;
    let cores = busy / (after.usage.at - before.usage.at);
    of_all(
        Line::of("operator.idle.cpu", "cores", &[cores])
            .map(|line| line.at_most(0.02, "value<=0.02")),
    )?;
    let audited = match (before.audited, after.audited) {
        (Some(before), Some(after)) => Some(rounded(float(after.saturating_sub(before)) / minutes)),
        _ => None,
    };
    // The larger of the two witnesses.
    let counted = audited.map_or(writes, |audited| audited.max(writes));
    of_all(
        Line::of("operator.idle.writes", "1/min", &[counted]).map(|line| {
            line.at_most(0.0, "value==0")
                .with("by_metrics", rounded(writes))
                .with("by_audit_log", audited)
        }),
    )?;
    of_all(Line::of("operator.idle.reconciles", "1/min", &[reconciles]))
}

/// The operator at one moment.
#[derive(Clone, Debug)]
struct Sample {
    pod: String,
    at: Instant,
    counters: Counters,
    usage: Usage,
    audited: Option<usize>,
}

impl Sample {
    async fn take(bench: &Bench<'_>, pod: &Pod) -> anyhow::Result<Self> {
        let name = pod.metadata.name.clone().unwrap_or_default();
        Ok(Self {
            at: Instant::now(),
            counters: figures::counters(bench, &name).await?,
            usage: figures::usage(bench, pod).await?,
            audited: audited_writes()?,
            pod: name,
        })
    }
}

/// Writes of the operator in the API server's audit log, where one is given.
fn audited_writes() -> anyhow::Result<Option<usize>> {
    let Some(path) = env::var_os("SLUICE_AUDIT_LOG") else {
        return Ok(None);
    };
    let file = fs::File::open(&path)
        .with_context(|| format!("cannot read {}, SLUICE_AUDIT_LOG", path.display()))?;
    let mut count = 0;
    for line in BufReader::new(file).lines() {
        count += usize::from(is_write(&line?));
    }
    Ok(Some(count))
}

/// Whether a line tells of a write by the operator that is not about the lease.
fn is_write(line: &str) -> bool {
    let Ok(event) = serde_json::from_str::<serde_json::Value>(line) else {
        return false;
    };
    let text = |pointer: &str| {
        event
            .pointer(pointer)
            .and_then(serde_json::Value::as_str)
            .unwrap_or_default()
    };
    text("/user/username") == USER
        && text("/objectRef/resource") != "leases"
        && matches!(
            text("/verb"),
            "create" | "update" | "patch" | "delete" | "deletecollection"
        )
}

async fn cold_start(bench: &Bench<'_>, idle: &Idle) -> anyhow::Result<()> {
    let mut seconds = Vec::new();
    let mut reconciles = 0.0;
    for number in 1..=idle.restarts {
        let (took, looks) = restart(bench, idle.objects).await?;
        bench::say(&format!(
            "cold start {number}/{}: {took:.2} s, {looks} reconciles",
            idle.restarts
        ));
        seconds.push(took);
        reconciles = looks;
    }
    let line = Line::of("operator.cold_start", "s", &seconds).context("nothing was measured")?;
    let line = line
        .at_most(10.0, "value<=10")
        .with("objects", idle.objects)
        .with("reconciles_of_last", reconciles);
    bench::print(&line)
}

/// Starts the operator anew; gives how long it took until it had looked at every object, and how
/// many looks that were.
async fn restart(bench: &Bench<'_>, objects: usize) -> anyhow::Result<(f64, f64)> {
    let api: Api<Pod> = Api::namespaced(bench.cluster.client.clone(), chart::NAMESPACE);
    let old = figures::pod(bench).await?.metadata.name;
    let old = old.context("the operator's pod has no name")?;
    api.delete(&old, &DeleteParams::default()).await?;
    let new = wait::found("the operator's next pod to run", STARTED_WITHIN, || async {
        let pod = figures::pod(bench).await?;
        let begun = started_at(&pod);
        Ok(begun.and_then(|begun| Some((pod.metadata.name?, begun))))
    });
    let (name, begun) = new.await?;
    let mut last = (begun, 0.0);
    let deadline = Instant::now() + STARTED_WITHIN;
    let mut changed = Instant::now();
    loop {
        // Until it listens there is nothing to ask.
        let reconciles = figures::counters(bench, &name)
            .await
            .map_or(0.0, |now| now.reconciles);
        if reconciles > last.1 {
            last = (wall_clock(), reconciles);
            changed = Instant::now();
        }
        if last.1 >= float(objects) && changed.elapsed() > QUIET_FOR {
            let took = last.0.duration_since(begun).as_secs_f64();
            return Ok((took, last.1));
        }
        ensure!(
            Instant::now() < deadline,
            "{} reconciles of {objects} objects within {STARTED_WITHIN:?}",
            last.1
        );
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// When the container of a pod began to run, as its node says it: to the second, rounded down, so
/// that what is measured from it is never too short.
fn started_at(pod: &Pod) -> Option<jiff::Timestamp> {
    let statuses = pod.status.as_ref()?.container_statuses.as_ref()?;
    let running = statuses.first()?.state.as_ref()?.running.as_ref()?;
    Some(running.started_at.as_ref()?.0)
}

fn wall_clock() -> jiff::Timestamp {
    std::time::SystemTime::now()
        .try_into()
        .unwrap_or(jiff::Timestamp::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_writes_of_the_operator_count() {
        let event = |user: &str, verb: &str, resource: &str| {
            json!({"user": {"username": user}, "verb": verb, "objectRef": {"resource": resource}})
                .to_string()
        };
        assert!(is_write(&event(USER, "patch", "httproutes")));
        assert!(!is_write(&event(USER, "update", "leases")));
        assert!(!is_write(&event(USER, "get", "httproutes")));
        assert!(!is_write(&event("somebody", "patch", "httproutes")));
        assert!(!is_write("half a li"));
    }
}
