//! The lines of one stream, as fast as its reader takes them.
//!
//! Everything is cumulative, so nothing is queued: a reader that was slow for a moment gets the
//! newest state, and one that is slow for long is cut off.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use crds::contract::{AppliedRoute, Evidence, FromRouter};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};

use super::Sightings;
use crate::proxy::Proxy;
use crate::table::objects::ObjectKey;
use crate::trips::Standing;

/// Between two lines of evidence of one run.
const EVIDENCE_INTERVAL: Duration = Duration::from_millis(200);
/// Between two lists of what is applied, which may be long.
const APPLIED_INTERVAL: Duration = Duration::from_millis(50);
/// Something is said at least so often.
const ALIVE_INTERVAL: Duration = Duration::from_secs(1);
/// A reader that takes nothing for so long is gone, or as good as gone.
const READER_TIMEOUT: Duration = Duration::from_secs(5);

/// The reader took nothing for too long.
#[derive(Debug, thiserror::Error)]
#[error("the reader took nothing for {READER_TIMEOUT:?}")]
pub(super) struct Slow;

/// Why a stream ended.
enum Ended {
    Gone,
    Slow,
}

/// Up to which event a reader knows each route. Numbers are of a process and never given twice.
pub(super) type After = BTreeMap<ObjectKey, u64>;

/// From `boot=BOOT&after=NAMESPACE/ROUTE/NUMBER&after=…`. Events of another process have other
/// numbers; what cannot be read is as if it were not there: then more is said than need be.
pub(super) fn after(query: &str, boot: &str) -> After {
    let values = |name: &'static str| {
        query
            .split('&')
            .filter_map(move |pair| pair.strip_prefix(name)?.strip_prefix('='))
    };
    if values("boot").next() != Some(boot) {
        return After::new();
    }
    let known = |text: &str| {
        let (route, number) = text.rsplit_once('/')?;
        let (namespace, name) = route.split_once('/')?;
        Some((ObjectKey::new(namespace, name), number.parse().ok()?))
    };
    values("after").filter_map(known).collect()
}

/// Writes the lines of one stream.
pub(super) struct Feed {
    proxy: Arc<Proxy>,
    sightings: Arc<dyn Sightings>,
    lines: mpsc::Sender<Bytes>,
    after: After,
    /// What was said last of each run, without its events.
    seen: BTreeMap<(ObjectKey, String), Evidence>,
    trips: Arc<Standing>,
    applied: Option<Vec<AppliedRoute>>,
    spoke: Instant,
}

impl Feed {
    pub(super) fn new(
        proxy: Arc<Proxy>,
        sightings: Arc<dyn Sightings>,
        after: After,
        lines: mpsc::Sender<Bytes>,
    ) -> Self {
        Self {
            proxy,
            sightings,
            lines,
            after,
            seen: BTreeMap::new(),
            trips: Arc::default(),
            applied: None,
            spoke: Instant::now(),
        }
    }

    /// Speaks until the reader goes, or is too slow.
    pub(super) async fn run(mut self, hello: FromRouter) -> Result<(), Slow> {
        match self.speak(hello).await {
            Ok(()) | Err(Ended::Gone) => Ok(()),
            Err(Ended::Slow) => Err(Slow),
        }
    }

    async fn speak(&mut self, hello: FromRouter) -> Result<(), Ended> {
        self.say(&hello).await?;
        let mut trips = self.proxy.trips.subscribe();
        let mut published = self.proxy.published.subscribe();
        // What is so already is news to this reader.
        trips.mark_changed();
        published.mark_changed();
        let mut tick = tokio::time::interval(EVIDENCE_INTERVAL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut applied_at = Instant::now();
        let mut is_published = false;
        loop {
            tokio::select! {
                biased;
                () = self.lines.closed() => return Err(Ended::Gone),
                changed = trips.changed() => {
                    changed.map_err(|_| Ended::Gone)?;
                    let standing = Arc::clone(&trips.borrow_and_update());
                    self.say_trips(standing).await?;
                }
                changed = published.changed(), if !is_published => {
                    changed.map_err(|_| Ended::Gone)?;
                    is_published = true;
                }
                () = tokio::time::sleep_until(applied_at), if is_published => {
                    is_published = false;
                    self.say_applied().await?;
                    applied_at = Instant::now() + APPLIED_INTERVAL;
                }
                _ = tick.tick() => {
                    self.say_evidence().await?;
                    // What is held back changes without another table.
                    is_published = true;
                    if self.spoke.elapsed() >= ALIVE_INTERVAL {
                        self.say(&FromRouter::Alive).await?;
                    }
                }
            }
        }
    }

    async fn say_trips(&mut self, standing: Arc<Standing>) -> Result<(), Ended> {
        for (route, trip) in &*standing {
            if self.trips.get(route) == Some(trip) {
                continue;
            }
            let line = FromRouter::Tripped {
                namespace: route.namespace.clone(),
                route: route.name.clone(),
                trip: trip.clone(),
            };
            self.say(&line).await?;
        }
        self.trips = standing;
        Ok(())
    }

    async fn say_applied(&mut self) -> Result<(), Ended> {
        if !self.proxy.served.load().is_known {
            return Ok(());
        }
        let routes = self.proxy.applied().routes;
        if self.applied.as_ref() != Some(&routes) {
            self.applied = Some(routes.clone());
            self.say(&FromRouter::Applied { routes }).await?;
        }
        Ok(())
    }

    async fn say_evidence(&mut self) -> Result<(), Ended> {
        let snapshot = self.sightings.snapshot(&self.after);
        let mut seen = BTreeMap::new();
        for mut evidence in snapshot {
            let route = ObjectKey::new(&evidence.namespace, &evidence.route);
            let key = (route.clone(), evidence.run.clone());
            let events = std::mem::take(&mut evidence.events);
            if !events.is_empty() || self.seen.get(&key) != Some(&evidence) {
                seen.insert(key, evidence.clone());
                self.after.insert(route, evidence.last);
                evidence.events = events;
                self.say(&FromRouter::Evidence(Box::new(evidence))).await?;
            } else {
                seen.insert(key, evidence);
            }
        }
        // What is over is not asked for again.
        self.after
            .retain(|route, _| seen.keys().any(|(seen, _)| seen == route));
        self.seen = seen;
        Ok(())
    }

    async fn say(&mut self, line: &FromRouter) -> Result<(), Ended> {
        let Ok(mut json) = serde_json::to_vec(line) else {
            // Nothing in a line can fail to be written.
            return Ok(());
        };
        json.push(b'\n');
        let sent = self.lines.send(json.into());
        match tokio::time::timeout(READER_TIMEOUT, sent).await {
            Ok(Ok(())) => {
                self.spoke = Instant::now();
                Ok(())
            }
            Ok(Err(_)) => Err(Ended::Gone),
            Err(_) => Err(Ended::Slow),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_resumes_with_the_same_process_only() {
        let query = "boot=b1&after=ml/digits/120&after=ml/faces/3&after=x&after=a/b/c";
        let digits = ObjectKey::new("ml", "digits");
        let faces = ObjectKey::new("ml", "faces");
        let known = After::from([(digits, 120), (faces, 3)]);
        assert_eq!(after(query, "b1"), known);
        assert_eq!(after(query, "b2"), After::new());
        assert_eq!(after("after=ml/digits/120", "b1"), After::new());
    }
}
