//! The router's own counters and its evidence, which must equal what was sent.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context as _, bail, ensure};
use crds::contract::{self, FromRouter};
use tokio::time::Instant;

use crate::bench::router::{
    load::Counts,
    ports,
    wire::{Head, Wire},
};

/// A request is counted when its answer has ended, which the client may see a little earlier.
const SETTLES_WITHIN: Duration = Duration::from_secs(5);
/// The first lines of a stream come at once.
const STREAM_READ_FOR: Duration = Duration::from_millis(250);

/// What was sent to the router since it started, and what it says of it.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    sent: Counts,
}

impl Ledger {
    /// Enters what was sent, and compares.
    pub(super) async fn balance(&mut self, more: Counts) -> anyhow::Result<()> {
        self.sent.add(more);
        ensure!(
            self.sent.errors == 0,
            "the router gave {} wrong answers or none",
            self.sent.errors
        );
        let deadline = Instant::now() + SETTLES_WITHIN;
        loop {
            let counted = Counted::read(&get(contract::PATH_METRICS).await?);
            let evidence = evidence().await?;
            if counted.matches(self.sent) && evidence == Some(self.sent) {
                return Ok(());
            }
            if Instant::now() >= deadline {
                let sent = self.sent;
                bail!(
                    "the router counts other than what was sent: {sent:?}, its metrics {counted:?}, its evidence {evidence:?}"
                );
            }
        }
    }
}

/// The requests that the router's evidence of the run rests on; bad ones among them are errors.
async fn evidence() -> anyhow::Result<Option<Counts>> {
    let (mut wire, head) = ask(contract::PATH_STREAM).await?;
    let mut text = Vec::new();
    // A stream has no end; the router says what it has seen at once.
    let reading = wire.body(head.framing, |part| text.extend_from_slice(part));
    if let Ok(ended) = tokio::time::timeout(STREAM_READ_FOR, reading).await {
        ended.context("the router ended its stream of evidence")?;
    }
    Ok(newest(&String::from_utf8_lossy(&text)))
}

/// What the last evidence in a stream's lines rests on.
fn newest(lines: &str) -> Option<Counts> {
    let read = |line: &str| serde_json::from_str(line).ok();
    let evidence = lines.lines().rev().find_map(|line| match read(line)? {
        FromRouter::Evidence(evidence) => Some(evidence),
        FromRouter::Hello { .. }
        | FromRouter::Applied { .. }
        | FromRouter::Tripped { .. }
        | FromRouter::Alive => None,
    })?;
    let mut counts = Counts::default();
    for segment in &evidence.segments {
        let bad = segment
            .stable
            .bad
            .values()
            .chain(segment.canary.bad.values());
        counts.add(Counts {
            stable: segment.stable.requests,
            canary: segment.canary.requests,
            errors: bad.sum(),
        });
    }
    Some(counts)
}

/// Waits until the router serves what the API server has.
pub(super) async fn ready() -> anyhow::Result<()> {
    let deadline = Instant::now() + SETTLES_WITHIN;
    loop {
        match get(contract::PATH_READYZ).await {
            Ok(_) => return Ok(()),
            Err(error) if Instant::now() >= deadline => {
                return Err(error.context("the router does not become ready"));
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

/// Asks the router's admin listener for a page.
async fn ask(path: &str) -> anyhow::Result<(Wire, Head)> {
    let mut wire = Wire::connect(ports::loopback(ports::ROUTER_ADMIN)).await?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: admin\r\n\r\n");
    wire.write(request.as_bytes()).await?;
    let head = wire.head().await?;
    ensure!(head.word == "200", "{path} answers with {}", head.word);
    Ok((wire, head))
}

async fn get(path: &str) -> anyhow::Result<String> {
    let (mut wire, head) = ask(path).await?;
    let mut text = Vec::new();
    wire.body(head.framing, |part| text.extend_from_slice(part))
        .await?;
    String::from_utf8(text).with_context(|| format!("{path} is no text"))
}

/// Requests by revision and code.
#[derive(Debug, Default, PartialEq, Eq)]
struct Counted(BTreeMap<(String, String), u64>);

impl Counted {
    fn read(text: &str) -> Self {
        let mut counted = BTreeMap::new();
        for line in text.lines() {
            let Some(rest) = line.strip_prefix(contract::METRIC_ROUTER_REQUESTS) else {
                continue;
            };
            let label = |name: &str| {
                let (_, value) = rest.split_once(&format!("{name}=\""))?;
                Some(value.split_once('"')?.0.to_owned())
            };
            let count: Option<u64> = rest.rsplit(' ').next().and_then(|it| it.parse().ok());
            let key = label(contract::METRIC_LABEL_REVISION).zip(label("code"));
            if let (Some(key), Some(count)) = (key, count)
                && count > 0
            {
                *counted.entry(key).or_default() += count;
            }
        }
        Self(counted)
    }

    fn matches(&self, sent: Counts) -> bool {
        let expected = [("stable", sent.stable), ("canary", sent.canary)];
        let expected = expected.into_iter().filter(|(_, count)| *count > 0);
        let expected = expected.map(|(arm, count)| ((arm.to_owned(), "200".to_owned()), count));
        self.0 == expected.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_evidence_counts_over_all_segments() {
        let line = |segments: &str| {
            format!(
                r#"{{"type":"Evidence","namespace":"bench","route":"bench","run":"r1","revision":"canary","segments":[{segments}],"events":[],"last":0,"dropped":0}}"#
            )
        };
        let arm = |requests: u64, bad: u64| {
            format!(
                r#"{{"requests":{requests},"units":0,"bad":{{"errors":{bad}}},"badWithoutUser":{{}},"latency":[]}}"#
            )
        };
        let segment = |id: u32, stable: &str, canary: &str| {
            format!(r#"{{"id":{id},"step":1,"weight":500,"stable":{stable},"canary":{canary}}}"#)
        };
        let first = segment(1, &arm(90, 1), &arm(4, 0));
        let both = format!("{first},{}", segment(2, &arm(5, 0), &arm(1, 2)));
        let text = [line(&first), line(&both), r#"{"type":"Alive"}"#.to_owned()].join("\n");
        let expected = Counts {
            stable: 95,
            canary: 5,
            errors: 3,
        };
        assert_eq!(newest(&text), Some(expected));
        assert_eq!(newest("{\"type\":\"Alive\"}\n"), None);
    }

    #[test]
    fn counters_match_only_what_was_sent() {
        let text = "\
# TYPE sluice_router_requests counter
sluice_router_requests_total{namespace=\"bench\",revision=\"stable\",route=\"bench\",code=\"200\"} 95
sluice_router_requests_total{namespace=\"bench\",revision=\"stable\",route=\"bench\",code=\"502\"} 0
sluice_router_requests_total{namespace=\"bench\",revision=\"canary\",route=\"bench\",code=\"200\"} 5
";
        let sent = Counts {
            stable: 95,
            canary: 5,
            errors: 0,
        };
        assert!(Counted::read(text).matches(sent));
        assert!(!Counted::read(text).matches(Counts { canary: 6, ..sent }));
        let failed = text.replace("\"502\"} 0", "\"502\"} 1");
        assert!(!Counted::read(&failed).matches(sent));
        assert!(Counted::read("").matches(Counts::default()));
    }
}
