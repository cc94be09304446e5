//! What outlives a router's process, and what the next one makes of it.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crds::contract::Applied;
use http::{Method, StatusCode};
use http_body_util::BodyExt as _;
use kube::{Client, Config};
use serde_json::{Value, json};
use sluice_router::admin::Admin;
use sluice_router::lead::{Auth, Identity, Lead};
use sluice_router::proxy::Proxy;
use sluice_router::state_dir::StateDir;
use sluice_router::table::objects::Objects;
use sluice_router::table::{self, LastGood};
use sluice_router::trips::Trips;
use sluice_router::watch::{Report, Watches};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::backend::{named, nobody};
use crate::objects::{objects, split_route};
use crate::trips::{digits, trip};
use crate::world::{Times, World, settings, until};

/// A folder that is gone when the test is over.
pub struct Folder(pub PathBuf);

impl Folder {
    pub fn new() -> Self {
        let name = format!("sluice-router-{:016x}", rand::random::<u64>());
        Self(std::env::temp_dir().join(name))
    }

    fn open(&self) -> StateDir {
        StateDir::open(&self.0).unwrap()
    }

    pub fn holds(&self, name: &str, text: &str) -> bool {
        fs::read_to_string(self.0.join(name)).is_ok_and(|content| content.contains(text))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).ok();
    }
}

/// A process that writes its state down.
struct Life {
    trips: Trips,
    reports: watch::Sender<Option<Arc<Report>>>,
    last_good: LastGood,
    keeping: JoinHandle<()>,
}

impl Life {
    fn start(folder: &Folder) -> Self {
        let trips = Trips::default();
        folder.open().restore_trips(&trips);
        let (reports, reported) = watch::channel(None);
        let keeping = tokio::spawn(folder.open().keep(trips.subscribe(), reported));
        Self {
            trips,
            reports,
            last_good: LastGood::new(),
            keeping,
        }
    }

    fn see(&mut self, objects: &Objects) {
        let built = table::build(objects, &settings(), &self.last_good);
        self.last_good.clone_from(&built.last_good);
        self.trips.settle(&built.table.runs);
        self.reports.send_replace(Some(Arc::new(Report {
            statuses: built.statuses,
            objects: objects.clone(),
            runs: built.table.runs,
            last_good: Arc::new(built.last_good),
        })));
    }

    /// Dies without a word.
    fn end(self) {
        self.keeping.abort();
    }
}

fn versioned(mut route: Value, version: &str) -> Value {
    route["metadata"]["resourceVersion"] = json!(version);
    route
}

/// The admin side of a router that just started.
pub fn admin(proxy: &Arc<Proxy>) -> Arc<Admin> {
    let identity = Identity::new("router-0".to_owned());
    Arc::new(Admin {
        proxy: Arc::clone(proxy),
        synced: AtomicBool::new(false),
        stale: AtomicBool::new(false),
        lead: Lead::new(Arc::clone(proxy), identity, Auth::Open),
    })
}

pub async fn applied(admin: &Admin) -> Applied {
    let answer = admin.answer(&Method::GET, "/applied").into_body();
    serde_json::from_slice(&answer.collect().await.unwrap().to_bytes()).unwrap()
}

fn ready(admin: &Admin) -> StatusCode {
    admin.answer(&Method::GET, "/readyz").status()
}

#[tokio::test]
async fn a_canary_that_was_taken_out_stays_out_after_a_restart() {
    let folder = Folder::new();
    let seen = objects(&[], &[], split_route(1, 1));
    let mut life = Life::start(&folder);
    life.see(&seen);
    life.trips.trip(&digits(), trip("r1"));
    until("the trip on disk", || folder.holds("trips.json", "\"r1\"")).await;
    life.end();

    let mut life = Life::start(&folder);
    assert_eq!(life.trips.get(&digits()), Some(trip("r1")));
    life.see(&seen);
    assert!(
        life.trips
            .flag(&digits(), "r1", "canary")
            .load(Ordering::Acquire)
    );
    let mut next = split_route(1, 1);
    let split = next["metadata"]["annotations"]["sluice.dev/split"]
        .as_str()
        .unwrap();
    next["metadata"]["annotations"]["sluice.dev/split"] = split.replace("\"r1\"", "\"r2\"").into();
    life.see(&objects(&[], &[], next));
    until("the trip to go with its run", || {
        !folder.holds("trips.json", "\"r1\"")
    })
    .await;
    life.end();
    assert_eq!(Life::start(&folder).trips.get(&digits()), None);
}

#[tokio::test]
async fn a_start_without_an_api_server_serves_what_was_served_and_says_so() {
    let stable = named("stable").await;
    let folder = Folder::new();
    let mut life = Life::start(&folder);
    let seen = objects(&[stable], &[], versioned(split_route(1, 1), "7"));
    life.see(&seen);
    life.trips.trip(&digits(), trip("r1"));
    until("the configuration on disk", || {
        folder.holds("configuration.json", "\"7\"")
    })
    .await;
    until("the trip on disk", || folder.holds("trips.json", "\"r1\"")).await;
    life.end();

    let world = World::unconfigured(Times::default()).await;
    let admin = admin(&world.proxy);
    folder.open().restore_trips(&world.proxy.trips);
    let kept = folder.open().restore_configuration();
    assert!(kept.is_some());
    let nowhere = format!("http://{}", nobody().await);
    let nowhere = Config::new(nowhere.parse().unwrap());
    let client = Client::try_from(nowhere).unwrap();
    let watches = Watches::start(&client, &BTreeSet::new(), &settings(), &world.proxy);
    let (reports, reported) = watch::channel(None);
    assert_eq!(ready(&admin), StatusCode::SERVICE_UNAVAILABLE);
    let serving = tokio::spawn(watches.serve(settings(), Arc::clone(&admin), reports, kept));
    until("readiness", || ready(&admin) == StatusCode::OK).await;
    let applied = applied(&admin).await;
    assert!(applied.stale);
    let expected = table::build(&seen, &settings(), &LastGood::new())
        .table
        .routes;
    assert_eq!(applied.routes[0].digest, expected[0].digest);
    assert_eq!(
        world.client().await.get(Some("u")).await.revision(),
        "stable"
    );
    assert!(
        world
            .proxy
            .trips
            .flag(&digits(), "r1", "canary")
            .load(Ordering::Acquire)
    );
    // Nothing is said of objects that were not seen.
    assert!(reported.borrow().is_none());
    serving.abort();
}

#[tokio::test]
async fn an_invalid_edit_is_bridged_over_a_restart() {
    let folder = Folder::new();
    let mut life = Life::start(&folder);
    let address: SocketAddr = "10.0.0.1:80".parse().unwrap();
    life.see(&objects(&[address], &[], versioned(split_route(1, 1), "7")));
    let mut edited = versioned(split_route(1, 1), "8");
    edited["spec"]["rules"][0]["filters"] = json!([{"type": "RequestMirror"}]);
    let edited = objects(&[address], &[], edited);
    life.see(&edited);
    until("the edit on disk", || {
        folder.holds("configuration.json", "RequestMirror")
    })
    .await;
    life.end();

    let kept = folder.open().restore_configuration().unwrap();
    let without = table::build(&kept.objects, &settings(), &LastGood::new());
    assert!(without.table.routes.is_empty());
    let built = table::build(&kept.objects, &settings(), &kept.last_good);
    assert_eq!(built.table.routes.len(), 1);
    assert_eq!(built.table.endpoints, [address].into());
    // A route that is gone is kept no longer.
    let mut life = Life::start(&folder);
    life.last_good = kept.last_good;
    let mut gone = objects(&[address], &[], split_route(1, 1));
    gone.routes.clear();
    life.see(&gone);
    until("the route to go", || {
        !folder.holds("configuration.json", "digits")
    })
    .await;
    assert!(
        folder
            .open()
            .restore_configuration()
            .unwrap()
            .last_good
            .is_empty()
    );
}

#[tokio::test]
async fn state_that_cannot_be_read_is_as_if_there_were_none() {
    let folder = Folder::new();
    let mut life = Life::start(&folder);
    life.see(&objects(&[], &[], versioned(split_route(1, 1), "7")));
    life.trips.trip(&digits(), trip("r1"));
    until("the configuration on disk", || {
        folder.holds("configuration.json", "\"7\"")
    })
    .await;
    until("the trip on disk", || folder.holds("trips.json", "\"r1\"")).await;
    life.end();
    let read = || {
        let trips = Trips::default();
        folder.open().restore_trips(&trips);
        let known = folder.open().restore_configuration().is_some();
        (trips.get(&digits()).is_some(), known)
    };
    assert_eq!(read(), (true, true));
    let names = ["trips.json", "configuration.json"];
    let whole = names.map(|name| fs::read(folder.0.join(name)).unwrap());
    for spoil in [
        |bytes: &[u8]| bytes[..bytes.len() / 2].to_vec(),
        |_: &[u8]| Vec::new(),
        |_: &[u8]| b"\xff\xfe{}".to_vec(),
        |_: &[u8]| b"{\"version\":1}".to_vec(),
        |bytes: &[u8]| {
            let text = String::from_utf8(bytes.to_vec()).unwrap();
            text.replacen("\"version\":1", "\"version\":2", 1)
                .into_bytes()
        },
    ] {
        for (name, bytes) in names.iter().zip(&whole) {
            fs::write(folder.0.join(name), spoil(bytes)).unwrap();
        }
        assert_eq!(read(), (false, false));
    }
    for name in names {
        fs::remove_file(folder.0.join(name)).unwrap();
        fs::create_dir(folder.0.join(name)).unwrap();
    }
    assert_eq!(read(), (false, false));
    // It goes on without: the next write cannot succeed, and costs no request.
    let mut life = Life::start(&folder);
    life.see(&objects(&[], &[], split_route(1, 1)));
    assert!(life.trips.trip(&digits(), trip("r1")));
    until("an attempt", || folder.0.join(".trips.json.new").exists()).await;
    assert!(!life.keeping.is_finished());
}
