//! The router's own counters, which must equal what was sent.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context as _, bail, ensure};
use crds::contract;
use tokio::time::Instant;

use crate::bench::router::{load::Counts, ports, wire::Wire};

/// A request is counted when its answer has ended, which the client may see a little earlier.
const SETTLES_WITHIN: Duration = Duration::from_secs(5);

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
            let counted = Counted::read(&metrics().await?);
            if counted.matches(self.sent) {
                return Ok(());
            }
            if Instant::now() >= deadline {
                let sent = self.sent;
                bail!("the router's counters are not what was sent: {sent:?}, counted {counted:?}");
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

async fn metrics() -> anyhow::Result<String> {
    get(contract::PATH_METRICS).await
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

/// A page of the router's admin listener.
async fn get(path: &str) -> anyhow::Result<String> {
    let mut wire = Wire::connect(ports::loopback(ports::ROUTER_ADMIN)).await?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: admin\r\n\r\n");
    wire.write(request.as_bytes()).await?;
    let head = wire.head().await?;
    let mut text = Vec::new();
    wire.body(head.framing, |part| text.extend_from_slice(part))
        .await?;
    ensure!(head.word == "200", "{path} answers with {}", head.word);
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
