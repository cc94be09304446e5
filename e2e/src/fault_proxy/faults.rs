//! Which fault is armed, whether it was met, and every write that was seen.

use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::fault_proxy::request::{Match, Target};

/// A write that is to be held.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Arm {
    /// Which requests count.
    #[serde(flatten)]
    pub matches: Match,
    /// Which of them is held, from 1.
    #[serde(default = "first")]
    pub nth: u32,
    /// Where it is held.
    pub when: When,
}

fn first() -> u32 {
    1
}

/// Where a write is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum When {
    /// It never reaches the API server.
    Before,
    /// It is committed; its answer never reaches the caller.
    After,
}

/// What became of the armed fault.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Armed {
    /// Whether a request is, or was, held.
    pub hit: bool,
    /// Its method and path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_line: Option<String>,
    /// Address of the pod that sent it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_ip: Option<String>,
    /// The status that the API server gave, if it was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<u16>,
}

/// Answers that are to be errors.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fail {
    /// Which requests.
    #[serde(default, rename = "match")]
    pub matches: Match,
    /// The status.
    pub code: u16,
    /// How many of them.
    pub count: u32,
}

/// Whether the API server is out of reach: connections break, and so do watches that are open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cut {
    /// Whether it is.
    pub cut: bool,
}

/// A write that was seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Write {
    /// What it is about.
    #[serde(flatten)]
    pub target: Target,
    /// The status of its answer; 0: it has none.
    pub code: u16,
    /// When it came, in ms since the epoch.
    pub time: u64,
    /// Whether the answer was made here.
    #[serde(default)]
    pub injected: bool,
}

/// What is to happen to a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Forward,
    Hold(When),
    Fail(u16),
}

/// Armed faults and what was seen.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    inner: Mutex<Inner>,
    /// Raised by every release.
    released: watch::Sender<u64>,
    /// Whether the API server is out of reach.
    cut: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct Inner {
    arm: Option<Arm>,
    seen: u32,
    armed: Armed,
    fail: Option<Fail>,
    writes: Vec<Write>,
}

/// Most writes that are remembered.
const WRITES_MAX: usize = 200_000;

impl Faults {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Arms a fault in place of the one before; what that one holds stays held.
    pub(crate) fn arm(&self, arm: Arm) {
        let mut inner = self.lock();
        inner.arm = Some(arm);
        inner.seen = 0;
        inner.armed = Armed::default();
    }

    pub(crate) fn armed(&self) -> Armed {
        self.lock().armed.clone()
    }

    /// Answers with errors from here on.
    pub(crate) fn fail(&self, fail: Fail) {
        self.lock().fail = Some(fail);
    }

    /// Drops every held connection, and disarms what was not met.
    pub(crate) fn release(&self) {
        self.lock().arm = None;
        self.released.send_modify(|count| *count += 1);
    }

    /// Waits for a release.
    pub(crate) fn until_released(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut released = self.released.subscribe();
        async move {
            // The sender lives as long as the proxy: an error means that it ends.
            released.changed().await.unwrap_or_default();
        }
    }

    /// Puts the API server out of reach, or back in reach.
    pub(crate) fn cut(&self, cut: bool) {
        self.cut.send_replace(cut);
    }

    pub(crate) fn is_cut(&self) -> bool {
        *self.cut.borrow()
    }

    /// Waits until the API server is out of reach.
    pub(crate) fn until_cut(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut cut = self.cut.subscribe();
        async move {
            // The sender lives as long as the proxy: an error means that it ends.
            cut.wait_for(|cut| *cut).await.map(drop).unwrap_or_default();
        }
    }

    /// What is to happen to a write that has just come.
    pub(crate) fn meet(&self, target: &Target, pod_ip: &str, request_line: &str) -> Fate {
        let mut inner = self.lock();
        if let Some(fail) = &mut inner.fail
            && fail.count > 0
            && fail.matches.matches(target)
        {
            fail.count -= 1;
            return Fate::Fail(fail.code);
        }
        let Some(arm) = inner.arm.clone() else {
            return Fate::Forward;
        };
        if !arm.matches.matches(target) {
            return Fate::Forward;
        }
        inner.seen += 1;
        if inner.seen < arm.nth {
            return Fate::Forward;
        }
        inner.armed = Armed {
            // Not before it really is held: a kill must not come before a commit.
            hit: false,
            request_line: Some(request_line.to_owned()),
            pod_ip: Some(pod_ip.to_owned()),
            code: None,
        };
        inner.arm = None;
        Fate::Hold(arm.when)
    }

    /// A write is held from here on; `code` is what the API server said, if it was asked.
    pub(crate) fn held(&self, code: u16) {
        let mut inner = self.lock();
        inner.armed.hit = true;
        inner.armed.code = (code != 0).then_some(code);
    }

    /// Remembers a write.
    pub(crate) fn wrote(&self, write: Write) {
        let mut inner = self.lock();
        if inner.writes.len() < WRITES_MAX {
            inner.writes.push(write);
        }
    }

    pub(crate) fn writes(&self) -> Vec<Write> {
        self.lock().writes.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(resource: &str) -> Target {
        Target {
            verb: "PATCH".to_owned(),
            resource: resource.to_owned(),
            ..Target::default()
        }
    }

    fn arm(text: &str) -> Arm {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn the_nth_matching_write_is_held_once() {
        let faults = Faults::default();
        faults.arm(arm(
            r#"{"verb": "PATCH", "resource": "httproutes", "nth": 2, "when": "before"}"#,
        ));
        let meet = |resource: &str| faults.meet(&target(resource), "10.0.0.1", resource);
        assert_eq!(meet("httproutes"), Fate::Forward);
        assert_eq!(meet("services"), Fate::Forward);
        assert_eq!(faults.armed().pod_ip, None);
        assert_eq!(meet("httproutes"), Fate::Hold(When::Before));
        assert_eq!(faults.armed().pod_ip.as_deref(), Some("10.0.0.1"));
        assert_eq!(meet("httproutes"), Fate::Forward);
    }

    #[test]
    fn a_write_is_hit_once_it_is_held() {
        let faults = Faults::default();
        faults.arm(arm(r#"{"resource": "services", "when": "after"}"#));
        assert_eq!(
            faults.meet(&target("services"), "10.0.0.1", "x"),
            Fate::Hold(When::After)
        );
        assert!(!faults.armed().hit);
        faults.held(201);
        assert_eq!((faults.armed().hit, faults.armed().code), (true, Some(201)));
    }

    #[test]
    fn as_many_answers_fail_as_asked() {
        let faults = Faults::default();
        faults.fail(
            serde_json::from_str(r#"{"match": {"resource": "services"}, "code": 429, "count": 1}"#)
                .unwrap(),
        );
        assert_eq!(faults.meet(&target("leases"), "", ""), Fate::Forward);
        assert_eq!(faults.meet(&target("services"), "", ""), Fate::Fail(429));
        assert_eq!(faults.meet(&target("services"), "", ""), Fate::Forward);
    }

    #[tokio::test]
    async fn a_cut_is_noticed_at_once_and_ends() {
        let faults = Faults::default();
        assert!(!faults.is_cut());
        let noticed = faults.until_cut();
        faults.cut(true);
        noticed.await;
        assert!(faults.is_cut());
        faults.cut(false);
        assert!(!faults.is_cut());
    }

    #[test]
    fn a_release_disarms() {
        let faults = Faults::default();
        faults.arm(arm(r#"{"when": "before"}"#));
        faults.release();
        assert_eq!(faults.meet(&target("services"), "", ""), Fate::Forward);
    }
}
