//! Leader election by a `Lease`: one operator writes at a time.
//!
//! The clocks of two machines are never compared: a lease is over when its record has not changed
//! for its duration by the watcher's own clock, as in client-go.

use std::{sync::Arc, time::Duration};

use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
};
use kube::{Api, ResourceExt as _, api::PostParams};
use tokio::time::{Instant, sleep, timeout};

use crate::{client::Leadership, clock, error, routers::Term};

/// How often a standby looks: a lease that was released is taken within this time.
const LOOK_EVERY: Duration = Duration::from_secs(1);
const RELEASE_TIMEOUT: Duration = Duration::from_secs(3);
/// How often a lease may change hands in the second in which it is made, before terms repeat.
const TERMS_A_SECOND: i64 = 1 << 20;

/// A lease as it was last seen.
#[derive(Clone, Debug)]
struct Seen {
    lease: Lease,
    /// When this version was first seen, by our own clock.
    since: Instant,
}

/// What to do about a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// There is none: make it.
    Create,
    /// Nobody holds it: take it.
    Take,
    /// Somebody holds it.
    Wait,
}

/// What to do about a lease, for one who does not hold it.
fn step(seen: Option<&Seen>, now: Instant) -> Step {
    let Some(seen) = seen else {
        return Step::Create;
    };
    let spec = seen.lease.spec.as_ref();
    let is_free = spec
        .and_then(|spec| spec.holder_identity.as_deref())
        .is_none_or(str::is_empty);
    let seconds = spec
        .and_then(|spec| spec.lease_duration_seconds)
        .unwrap_or(0);
    let lasts = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
    if is_free || now.saturating_duration_since(seen.since) >= lasts {
        Step::Take
    } else {
        Step::Wait
    }
}

/// A number that rises whenever a lease changes hands.
fn epoch(lease: &Lease) -> i64 {
    let made = lease.metadata.creation_timestamp.as_ref();
    let made = made.map_or(0, |made| made.0.as_second());
    let spec = lease.spec.as_ref();
    let hands = spec.and_then(|spec| spec.lease_transitions).unwrap_or(0);
    made.saturating_mul(TERMS_A_SECOND)
        .saturating_add(i64::from(hands))
}

/// One who would lead.
#[derive(Debug)]
pub struct Elector {
    leases: Api<Lease>,
    name: String,
    identity: String,
    duration: Duration,
    leadership: Arc<Leadership>,
    seen: Option<Seen>,
}

/// The lease was lost: another process may lead.
#[derive(Debug, thiserror::Error)]
#[error("the lease {name} was lost: {why}")]
pub struct Lost {
    name: String,
    why: String,
}

impl Elector {
    /// Someone who would lead, under an identity that no other process ever has.
    pub fn new(
        leases: Api<Lease>,
        name: &str,
        pod: &str,
        duration: Duration,
        leadership: Arc<Leadership>,
    ) -> Self {
        Self {
            leases,
            name: name.to_owned(),
            identity: format!("{pod}_{:016x}", rand::random::<u64>()),
            duration,
            leadership,
            seen: None,
        }
    }

    /// The term that the lease stands for, while it is held. A lease that was deleted and made anew
    /// counts its changes of hands from 0, but is younger by the API server's clock.
    pub fn term(&self) -> Term {
        let lease = self.seen.as_ref().map(|seen| &seen.lease);
        Term {
            leader: self.identity.clone(),
            epoch: lease.map_or(0, epoch),
        }
    }

    /// Waits until this process leads.
    pub async fn acquire(&mut self) {
        while !self
            .try_acquire()
            .await
            .unwrap_or_else(|error| self.report(&error))
        {
            sleep(LOOK_EVERY).await;
        }
        tracing::info!(lease = self.name, identity = self.identity, "leading");
    }

    /// A lease that cannot be looked at is not held. One that somebody else was faster to write is
    /// no trouble.
    fn report(&self, error: &kube::Error) -> bool {
        if error::code(error) != Some(409) {
            tracing::warn!(lease = self.name, %error, "cannot look at the lease");
        }
        false
    }

    async fn try_acquire(&mut self) -> Result<bool, kube::Error> {
        self.look().await?;
        let now = clock::monotonic();
        match step(self.seen.as_ref(), now) {
            Step::Wait => return Ok(false),
            Step::Create => {
                let lease = self.held(None);
                let lease = self.leases.create(&PostParams::default(), &lease).await?;
                self.hold(lease, now);
            }
            Step::Take => self.write(now).await?,
        }
        Ok(true)
    }

    /// Keeps the lease until it is lost.
    pub async fn keep(&mut self) -> Lost {
        let renew_every = self.duration / 3;
        let mut pause = renew_every;
        loop {
            sleep(pause).await;
            let now = clock::monotonic();
            let renewed = timeout(renew_every, self.write(now)).await;
            let why = match renewed {
                Ok(Ok(())) => {
                    pause = renew_every;
                    continue;
                }
                Ok(Err(error)) if error::code(&error) == Some(409) => match self.look().await {
                    Ok(()) if self.is_held() => "it was written by somebody else".to_owned(),
                    Ok(()) => return self.lost("another process took it".to_owned()),
                    Err(error) => error.to_string(),
                },
                Ok(Err(error)) => error.to_string(),
                Err(_) => "the API server did not answer in time".to_owned(),
            };
            if !self.leadership.holds(clock::monotonic()) {
                return self.lost(why);
            }
            tracing::warn!(
                lease = self.name,
                why,
                "cannot renew the lease; trying again"
            );
            pause = renew_every / 5;
        }
    }

    /// Gives the lease back, so that a successor need not wait.
    pub async fn release(&mut self) {
        self.leadership.end();
        let Some(seen) = self.seen.take() else { return };
        let mut lease = seen.lease;
        if let Some(spec) = lease.spec.as_mut() {
            spec.holder_identity = Some(String::new());
            spec.lease_duration_seconds = Some(1);
            spec.renew_time = Some(MicroTime(clock::now()));
        }
        let params = PostParams::default();
        let released = timeout(
            RELEASE_TIMEOUT,
            self.leases.replace(&self.name, &params, &lease),
        );
        let problem = match released.await {
            Ok(Ok(_)) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(late) => Some(late.to_string()),
        };
        tracing::info!(lease = self.name, problem, "released the lease");
    }

    fn lost(&self, why: String) -> Lost {
        self.leadership.end();
        Lost {
            name: self.name.clone(),
            why,
        }
    }

    async fn look(&mut self) -> Result<(), kube::Error> {
        let lease = self.leases.get_opt(&self.name).await?;
        let now = clock::monotonic();
        self.seen = lease.map(|lease| {
            let known = self
                .seen
                .as_ref()
                .filter(|seen| seen.lease.resource_version() == lease.resource_version());
            let since = known.map_or(now, |seen| seen.since);
            Seen { lease, since }
        });
        Ok(())
    }

    fn is_held(&self) -> bool {
        let spec = self.seen.as_ref().and_then(|seen| seen.lease.spec.as_ref());
        spec.and_then(|spec| spec.holder_identity.as_ref()) == Some(&self.identity)
    }

    async fn write(&mut self, now: Instant) -> Result<(), kube::Error> {
        let lease = self.held(self.seen.as_ref().map(|seen| &seen.lease));
        let lease = self
            .leases
            .replace(&self.name, &PostParams::default(), &lease)
            .await?;
        self.hold(lease, now);
        Ok(())
    }

    /// Remembers that this process leads, counted from before the request was sent, and for a little
    /// less than others wait.
    fn hold(&mut self, lease: Lease, since: Instant) {
        self.leadership.extend(since + self.duration * 4 / 5);
        self.seen = Some(Seen { lease, since });
    }

    /// The lease as this process holds it.
    fn held(&self, before: Option<&Lease>) -> Lease {
        let spec = before
            .and_then(|lease| lease.spec.clone())
            .unwrap_or_default();
        let is_ours = spec.holder_identity.as_ref() == Some(&self.identity);
        let now = MicroTime(clock::now());
        let transitions = spec.lease_transitions.unwrap_or(0);
        let metadata = before.map_or_else(
            || ObjectMeta {
                name: Some(self.name.clone()),
                ..ObjectMeta::default()
            },
            |lease| lease.metadata.clone(),
        );
        Lease {
            metadata,
            spec: Some(LeaseSpec {
                acquire_time: if is_ours {
                    spec.acquire_time
                } else {
                    Some(now.clone())
                },
                holder_identity: Some(self.identity.clone()),
                lease_duration_seconds: i32::try_from(self.duration.as_secs()).ok(),
                lease_transitions: Some(transitions + i32::from(before.is_some() && !is_ours)),
                renew_time: Some(now),
                ..spec
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(holder: &str, since: Instant) -> Seen {
        let spec = LeaseSpec {
            holder_identity: Some(holder.to_owned()),
            lease_duration_seconds: Some(15),
            ..LeaseSpec::default()
        };
        Seen {
            lease: Lease {
                spec: Some(spec),
                ..Lease::default()
            },
            since,
        }
    }

    #[tokio::test]
    async fn a_lease_is_taken_only_when_nobody_holds_it() {
        let start = clock::monotonic();
        let after = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(step(None, start), Step::Create);
        assert_eq!(step(Some(&seen("", start)), start), Step::Take);
        assert_eq!(step(Some(&seen("a", start)), after(14)), Step::Wait);
        assert_eq!(step(Some(&seen("a", start)), after(15)), Step::Take);
    }

    #[test]
    fn every_change_of_hands_begins_a_later_term_even_of_a_new_lease() {
        let lease = |made: i64, hands| -> Lease {
            let made = jiff::Timestamp::from_second(made).unwrap().to_string();
            serde_json::from_value(serde_json::json!({
                "metadata": {"creationTimestamp": made}, "spec": {"leaseTransitions": hands},
            }))
            .unwrap()
        };
        assert!(epoch(&lease(1_800_000_000, 1)) > epoch(&lease(1_800_000_000, 0)));
        assert!(epoch(&lease(1_800_000_001, 0)) > epoch(&lease(1_800_000_000, 999)));
        assert_eq!(epoch(&Lease::default()), 0);
    }

    #[tokio::test]
    async fn a_lease_without_a_holder_or_duration_is_free() {
        let start = clock::monotonic();
        let empty = Seen {
            lease: Lease::default(),
            since: start,
        };
        assert_eq!(step(Some(&empty), start), Step::Take);
    }
}
