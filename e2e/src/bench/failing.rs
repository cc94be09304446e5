//! What the trials of a rollback share: pods that are made to fail, the log of the load, and what
//! users had to bear.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use crds::contract;
use serde_json::json;

use crate::{
    cluster::Cluster,
    load::{log::Entry, stats::success},
    model_deployment::{self as md, Watched},
};

/// What one trial came to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Exposure {
    /// From the end of the revision's first bad answer to the start of the last request that it got.
    pub(super) seconds: f64,
    /// How many of its answers were bad.
    pub(super) bad: usize,
}

impl Exposure {
    /// Of a revision that was made to fail at `turned`, in ms since the epoch: what was bad before
    /// does not count. None: it failed nobody.
    pub(super) fn of(entries: &[Entry], revision: &str, turned: u64) -> Option<Self> {
        let of_it = || {
            entries
                .iter()
                .filter(|entry| entry.revision.as_deref() == Some(revision))
        };
        let bad = || of_it().filter(|entry| entry.t >= turned && !success(entry.code));
        let first = bad().map(|entry| entry.t + entry.d_ms).min()?;
        let last = of_it().map(|entry| entry.t).max()?;
        Some(Self {
            seconds: Duration::from_millis(last.saturating_sub(first)).as_secs_f64(),
            bad: bad().count(),
        })
    }
}

/// Lets a guardrail's window fill with usual answers of a canary, and then any moment of a scrape and
/// a check come. Fails if the canary ended by itself meanwhile.
pub(super) async fn lasts_a_window(
    watched: &Watched,
    canary: &str,
    window_seconds: u32,
) -> anyhow::Result<()> {
    let window = Duration::from_secs(u64::from(window_seconds + 1));
    tokio::time::sleep(window + Duration::from_secs_f64(rand::random_range(0.0..2.0))).await;
    let object = watched.get().await?;
    ensure!(
        md::canary(&object) == canary && md::phase(&object) == "Progressing",
        "the canary ended before it was made to fail: {}",
        md::phase(&object)
    );
    Ok(())
}

/// Makes a revision's pods fail for a share of their requests.
pub(super) async fn set_error_rate(
    cluster: &Cluster,
    namespace: &str,
    revision: &str,
    rate: f64,
) -> anyhow::Result<()> {
    let selector = format!("{}={revision}", contract::LABEL_REVISION);
    let pods = cluster.pods(namespace, &selector).await?;
    let body = json!({ "errorRate": rate });
    let living = pods
        .into_iter()
        .filter(|pod| pod.metadata.deletion_timestamp.is_none());
    let set = living.map(|pod| {
        let name = pod.metadata.name.unwrap_or_default();
        let address = format!("{namespace}/{name}:{}/sim", contract::POD_PORT);
        let body = &body;
        async move { cluster.pod_post(&address, body).await }
    });
    let set = futures::future::try_join_all(set).await?;
    ensure!(
        !set.is_empty() || rate == 0.0,
        "{revision} has no pods that could fail"
    );
    Ok(())
}

/// The answers of the load in a namespace, from a number on.
pub(super) async fn entries(
    cluster: &Cluster,
    namespace: &str,
    first: u64,
) -> anyhow::Result<Vec<Entry>> {
    let mut entries = Vec::new();
    let mut since = first;
    loop {
        let address = format!("{namespace}/load:{}/log?since={since}", contract::POD_PORT);
        let page = cluster.pod_get(&address).await?;
        if page.is_empty() {
            return Ok(entries);
        }
        for line in page.lines() {
            entries.push(serde_json::from_str(line).context("a line of the load log")?);
            since += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(t: u64, code: u16, revision: &str) -> Entry {
        Entry {
            t,
            d_ms: 5,
            user: 1,
            code,
            error: None,
            revision: Some(revision.to_owned()),
            correct: None,
        }
    }

    #[test]
    fn exposure_is_from_the_first_bad_answer_to_the_last_request() {
        let entries = [
            entry(500, 500, "new"),
            entry(1000, 200, "new"),
            entry(1100, 500, "new"),
            entry(1200, 500, "new"),
            entry(2105, 500, "new"),
            entry(9000, 200, "old"),
        ];
        let expected = Exposure {
            seconds: 1.0,
            bad: 3,
        };
        assert_eq!(Exposure::of(&entries, "new", 1000), Some(expected));
        assert_eq!(Exposure::of(&entries, "new", 3000), None);
        assert_eq!(Exposure::of(&entries, "old", 0), None);
    }
}
