//! What outlives this process: which canaries were taken out, and what was served last.
//!
//! A router that starts anew while the API server is away serves by it. Files are replaced whole;
//! one that cannot be read is as if it were not there, and said in the log.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crds::contract::LedTrip;
use crds::gateway::{Gateway, GatewayClass, HttpRoute};
use k8s_openapi::api::core::v1::{Namespace, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::table::objects::{ObjectKey, Objects};
use crate::table::{LastGood, route};
use crate::trips::{Standing, Trips};
use crate::watch::Report;

const TRIPS: &str = "trips.json";
const CONFIGURATION: &str = "configuration.json";
/// Of both documents.
const VERSION: u32 = 1;
/// Larger files are not ours.
const BYTES_MAX: u64 = 1 << 30;
/// From a change of a route to its writing: marks and weights matter most.
const SOON: Duration = Duration::from_millis(250);
/// From any other change.
const LATER: Duration = Duration::from_secs(5);
/// Writing takes at most one part in so many of the time.
const SHARE: u32 = 20;

/// A folder.
#[derive(Clone, Debug)]
pub struct StateDir(PathBuf);

/// What was served last.
#[derive(Debug, Default)]
pub struct Kept {
    /// All objects.
    pub objects: Objects,
    /// The routes as they were when last valid, where they are not any more.
    pub last_good: LastGood,
}

#[derive(Serialize, Deserialize)]
struct Envelope<T> {
    version: u32,
    #[serde(flatten)]
    content: T,
}

#[derive(Serialize, Deserialize)]
struct KeptTrips {
    trips: Vec<LedTrip>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct KeptObjects {
    #[serde(with = "shared")]
    classes: Vec<Arc<GatewayClass>>,
    #[serde(with = "shared")]
    gateways: Vec<Arc<Gateway>>,
    #[serde(with = "shared")]
    routes: Vec<Arc<HttpRoute>>,
    #[serde(with = "shared")]
    services: Vec<Arc<Service>>,
    #[serde(with = "shared")]
    slices: Vec<Arc<EndpointSlice>>,
    #[serde(with = "shared")]
    namespaces: Vec<Arc<Namespace>>,
    #[serde(with = "shared")]
    last_good: Vec<Arc<HttpRoute>>,
}

/// Lists of shared objects, written as lists of objects.
mod shared {
    use std::sync::Arc;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<T, S>(list: &[Arc<T>], serializer: S) -> Result<S::Ok, S::Error>
    where
        T: Serialize,
        S: Serializer,
    {
        serializer.collect_seq(list.iter().map(Arc::as_ref))
    }

    pub(super) fn deserialize<'de, T, D>(deserializer: D) -> Result<Vec<Arc<T>>, D::Error>
    where
        T: Deserialize<'de>,
        D: Deserializer<'de>,
    {
        let list = Vec::<T>::deserialize(deserializer)?;
        Ok(list.into_iter().map(Arc::new).collect())
    }
}

/// Why a file is no use.
#[derive(Debug, thiserror::Error)]
enum Unusable {
    #[error("reading failed: {0}")]
    Unreadable(#[from] io::Error),
    #[error("it is larger than {BYTES_MAX} bytes")]
    TooLarge,
    #[error("it is damaged: {0}")]
    Damaged(#[from] serde_json::Error),
    #[error("it is of version {0}; this router knows {VERSION}")]
    Version(u32),
}

impl StateDir {
    /// Opens a folder, and makes it where it does not exist.
    pub fn open(folder: &Path) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        Ok(Self(folder.to_owned()))
    }

    /// Takes the canaries out that were out before.
    pub fn restore_trips(&self, trips: &Trips) {
        let Some(KeptTrips { trips: kept }) = self.read(TRIPS) else {
            return;
        };
        for LedTrip {
            namespace,
            route,
            trip,
        } in kept
        {
            let key = ObjectKey {
                namespace,
                name: route,
            };
            let (run, revision) = (trip.run.clone(), trip.revision.clone());
            if trips.trip(&key, trip) {
                warn!(route = %key, run, revision, "canary stays out: it was taken out before the restart");
            }
        }
    }

    /// What was served last; none: nothing is known of it.
    pub fn restore_configuration(&self) -> Option<Kept> {
        let KeptObjects {
            classes,
            gateways,
            routes,
            services,
            slices,
            namespaces,
            last_good,
        } = self.read(CONFIGURATION)?;
        let keyed = last_good.into_iter();
        Some(Kept {
            objects: Objects {
                classes,
                gateways,
                routes,
                services,
                slices,
                namespaces,
            },
            last_good: keyed
                .map(|route| {
                    (
                        ObjectKey::of(&route.metadata),
                        route::candidate(&route, None),
                    )
                })
                .collect(),
        })
    }

    /// Writes what holds and what is served for as long as the process lives.
    pub async fn keep(
        self,
        trips: watch::Receiver<Arc<Standing>>,
        reports: watch::Receiver<Option<Arc<Report>>>,
    ) {
        tokio::join!(
            self.clone().keep_trips(trips),
            self.keep_configuration(reports)
        );
    }

    async fn keep_trips(self, mut trips: watch::Receiver<Arc<Standing>>) {
        let mut written: Option<Arc<Standing>> = None;
        loop {
            let standing = Arc::clone(&trips.borrow_and_update());
            if written.as_ref() != Some(&standing) {
                let led = |(key, trip): (&ObjectKey, &crds::contract::Trip)| LedTrip {
                    namespace: key.namespace.clone(),
                    route: key.name.clone(),
                    trip: trip.clone(),
                };
                let content = KeptTrips {
                    trips: standing.iter().map(led).collect(),
                };
                if self.clone().store(TRIPS, content).await {
                    written = Some(standing);
                }
            }
            let changed = trips.changed();
            let changed = if written.is_some() {
                changed.await
            } else {
                // The disk may be full for a while.
                tokio::time::timeout(LATER, changed).await.unwrap_or(Ok(()))
            };
            if changed.is_err() {
                return;
            }
        }
    }

    async fn keep_configuration(self, mut reports: watch::Receiver<Option<Arc<Report>>>) {
        // Nothing of this process is written yet: what the files hold may be of long ago.
        let mut routes: Option<Versions> = None;
        let mut took = Duration::ZERO;
        while reports.changed().await.is_ok() {
            let began = Instant::now();
            let due = loop {
                let report = reports.borrow_and_update().clone();
                let soon = report.is_some_and(|report| Some(versions(&report)) != routes);
                let pause = if soon { SOON } else { LATER }.max(took * SHARE);
                let due = began + pause;
                match tokio::time::timeout_at(due, reports.changed()).await {
                    Ok(Ok(())) if Instant::now() < due => {}
                    Ok(_) | Err(_) => break Instant::now(),
                }
            };
            let Some(report) = reports.borrow_and_update().clone() else {
                continue;
            };
            routes = Some(versions(&report));
            self.clone().store(CONFIGURATION, content(&report)).await;
            took = due.elapsed();
        }
    }

    /// Writes a document; whether that could be done.
    async fn store<T: Serialize + Send + 'static>(self, name: &'static str, content: T) -> bool {
        let writing = tokio::task::spawn_blocking(move || {
            let document = Envelope {
                version: VERSION,
                content,
            };
            let bytes = serde_json::to_vec(&document)?;
            self.replace(name, &bytes)
        });
        match writing.await {
            Ok(Ok(())) => true,
            Ok(Err(error)) => {
                warn!(name, %error, "state could not be written; a restart may not find it");
                false
            }
            Err(_) => false,
        }
    }

    /// Replaces a file: whoever reads it gets the old or the new one, also after a crash.
    fn replace(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let new = self.0.join(format!(".{name}.new"));
        let mut file = File::create(&new)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&new, self.0.join(name))?;
        File::open(&self.0)?.sync_all()
    }

    fn read<T: DeserializeOwned>(&self, name: &str) -> Option<T> {
        let path = self.0.join(name);
        match read(&path) {
            Ok(content) => {
                info!(path = %path.display(), "state of the last process");
                Some(content)
            }
            Err(Unusable::Unreadable(error)) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                warn!(path = %path.display(), %error, "state of the last process is no use; starting without it");
                None
            }
        }
    }
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<T, Unusable> {
    #[derive(Deserialize)]
    struct Version {
        version: u32,
    }
    if fs::metadata(path)?.len() > BYTES_MAX {
        return Err(Unusable::TooLarge);
    }
    let bytes = fs::read(path)?;
    let Version { version } = serde_json::from_slice(&bytes)?;
    if version != VERSION {
        return Err(Unusable::Version(version));
    }
    Ok(serde_json::from_slice(&bytes)?)
}

/// The versions of all routes: they change with every weight and mark.
type Versions = BTreeMap<ObjectKey, Option<String>>;

fn versions(report: &Report) -> Versions {
    let routes = report.objects.routes.iter();
    routes
        .map(|route| {
            let key = ObjectKey::of(&route.metadata);
            (key, route.metadata.resource_version.clone())
        })
        .collect()
}

fn content(report: &Report) -> KeptObjects {
    let Objects {
        classes,
        gateways,
        routes,
        services,
        slices,
        namespaces,
    } = report.objects.clone();
    // Most routes are valid as they stand: those are not written twice.
    let newest: BTreeMap<ObjectKey, &Arc<HttpRoute>> = routes
        .iter()
        .map(|route| (ObjectKey::of(&route.metadata), route))
        .collect();
    let last_good = report.last_good.iter();
    let last_good = last_good
        .filter_map(|(key, candidate)| Some((key, candidate.good.as_ref()?)))
        .filter(|(key, good)| {
            newest
                .get(key)
                .is_none_or(|route| !Arc::ptr_eq(route, good))
        })
        .map(|(_, good)| Arc::clone(good))
        .collect();
    KeptObjects {
        classes,
        gateways,
        routes,
        services,
        slices,
        namespaces,
        last_good,
    }
}
