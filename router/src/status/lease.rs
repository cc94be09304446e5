//! Which replica writes statuses.

use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease as LeaseObject, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::time::error::Elapsed;
use tracing::{info, warn};

/// Name of the Lease, in the router's namespace.
pub(super) const LEASE_NAME: &str = "sluice-router-status";
const DURATION_SECONDS: i32 = 15;
const DURATION: Duration = Duration::from_secs(15);
const RENEW_INTERVAL: Duration = Duration::from_secs(5);
/// The holder stops this long after its last renewal, before anyone else may begin.
const TRUST: Duration = Duration::from_secs(10);

/// The Lease as this replica sees it.
pub struct Lease {
    api: Api<LeaseObject>,
    identity: String,
    held_until: Mutex<Option<Instant>>,
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease")
            .field("identity", &self.identity)
            .finish_non_exhaustive()
    }
}

/// What another's Lease looked like, and since when: clocks of other machines are not compared.
struct Seen {
    resource_version: Option<String>,
    since: Instant,
}

impl Lease {
    /// Not held yet.
    pub fn new(client: Client, namespace: &str, identity: String) -> Self {
        Self {
            api: Api::namespaced(client, namespace),
            identity,
            held_until: Mutex::default(),
        }
    }

    /// Whether this replica may write.
    pub fn held(&self) -> bool {
        let until = self
            .held_until
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        until.is_some_and(|until| Instant::now() < until)
    }

    /// Holds or waits for the Lease for as long as the process lives.
    pub async fn run(&self) {
        let mut seen = None;
        loop {
            // Counted from before the call: its answer may take a while.
            let began = Instant::now();
            let bounded = tokio::time::timeout(RENEW_INTERVAL, self.renew(&mut seen));
            self.note(bounded.await, began);
            tokio::time::sleep(RENEW_INTERVAL).await;
        }
    }

    /// A failed renewal leaves what is held to run out.
    fn note(&self, renewed: Result<kube::Result<bool>, Elapsed>, began: Instant) {
        match renewed {
            Ok(Ok(held)) => self.set(held.then_some(began + TRUST)),
            Ok(Err(error)) => warn!(%error, "lease for statuses could not be renewed"),
            Err(_) => warn!("lease for statuses could not be renewed in time"),
        }
    }

    fn set(&self, until: Option<Instant>) {
        let mut held = self
            .held_until
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if held.is_some() != until.is_some() {
            info!(held = until.is_some(), "lease for statuses");
        }
        *held = until;
    }

    /// Lets go of the Lease, so that another replica need not wait until it runs out.
    pub async fn release(&self) {
        if !self.held() {
            return;
        }
        self.set(None);
        if let Err(error) = self.give_up().await {
            warn!(%error, "lease for statuses could not be released; it runs out by itself");
        }
    }

    async fn give_up(&self) -> kube::Result<()> {
        let mut lease = self.api.get(LEASE_NAME).await?;
        let spec = lease.spec.get_or_insert_default();
        if spec.holder_identity.as_deref() == Some(self.identity.as_str()) {
            spec.holder_identity = Some(String::new());
            settled(
                self.api
                    .replace(LEASE_NAME, &PostParams::default(), &lease)
                    .await,
            )?;
        }
        Ok(())
    }

    async fn renew(&self, seen: &mut Option<Seen>) -> kube::Result<bool> {
        let Some(mut lease) = self.api.get_opt(LEASE_NAME).await? else {
            let metadata = ObjectMeta {
                name: Some(LEASE_NAME.to_owned()),
                ..ObjectMeta::default()
            };
            let lease = LeaseObject {
                metadata,
                spec: Some(self.spec(None)),
            };
            return settled(self.api.create(&PostParams::default(), &lease).await);
        };
        let holder = lease
            .spec
            .as_ref()
            .and_then(|spec| spec.holder_identity.as_deref());
        let ours = holder == Some(self.identity.as_str());
        if !ours && !holder.unwrap_or_default().is_empty() && !expired(&lease, seen) {
            return Ok(false);
        }
        lease.spec = Some(self.spec(lease.spec.take().filter(|_| ours)));
        settled(
            self.api
                .replace(LEASE_NAME, &PostParams::default(), &lease)
                .await,
        )
    }

    fn spec(&self, before: Option<LeaseSpec>) -> LeaseSpec {
        let now = MicroTime(Timestamp::now());
        let acquired = before.and_then(|before| before.acquire_time);
        LeaseSpec {
            acquire_time: Some(acquired.unwrap_or_else(|| now.clone())),
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: Some(DURATION_SECONDS),
            renew_time: Some(now),
            ..LeaseSpec::default()
        }
    }
}

/// Whether another's Lease has not changed for its whole duration.
fn expired(lease: &LeaseObject, seen: &mut Option<Seen>) -> bool {
    let resource_version = lease.metadata.resource_version.clone();
    match seen {
        Some(seen) if seen.resource_version == resource_version => seen.since.elapsed() >= DURATION,
        Some(_) | None => {
            *seen = Some(Seen {
                resource_version,
                since: Instant::now(),
            });
            false
        }
    }
}

/// Another was faster: not ours this time.
fn settled(written: kube::Result<LeaseObject>) -> kube::Result<bool> {
    match written {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(answer)) if answer.code == 409 => Ok(false),
        Err(error) => Err(error),
    }
}
