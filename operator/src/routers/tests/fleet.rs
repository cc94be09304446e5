//! Routers without sockets: the evidence, the judge and the trips of each are the router's own.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use crds::contract::FromRouter;
use rollout::{action::Route, weight::Weight};
use router::{
    evidence::{
        Evidences,
        guardrails::{Ended, Guardrails},
        trial::Witness,
    },
    metrics::Metrics,
    table::{Role, Route as Served, Run, Table, Watched, objects::ObjectKey},
    trips::Trips,
};

use super::{cluster, log::Request};

pub(super) const ROUTERS: usize = 3;

pub(super) struct Fleet {
    start: Instant,
    routers: Vec<Router>,
    /// What all of them serve.
    table: Table,
    points: u16,
}

/// One process.
struct Router {
    boot: String,
    evidence: Evidences,
    trips: Trips,
    metrics: Metrics,
    witness: Option<Arc<Witness>>,
    /// Number of the last event that it told.
    told: u64,
    has_told_trip: bool,
}

impl Router {
    fn new(boot: String, start: Instant) -> Self {
        Self {
            boot,
            evidence: Evidences::new(start),
            trips: Trips::default(),
            metrics: Metrics::new(),
            witness: None,
            told: 0,
            has_told_trip: false,
        }
    }

    fn adopt(&mut self, table: &Table, now: Instant) {
        let mut witnesses = self.evidence.adopt(table, &self.trips, now);
        self.witness = witnesses.pop();
    }
}

impl Fleet {
    pub(super) fn new(start: Instant) -> Self {
        let routers = (0..ROUTERS).map(|number| Router::new(format!("{number}-0"), start));
        Self {
            start,
            routers: routers.collect(),
            table: Table::default(),
            points: 0,
        }
    }

    pub(super) fn boot(&self, router: usize) -> String {
        self.routers[router].boot.clone()
    }

    fn at(&self, second: u64) -> Instant {
        self.start + Duration::from_secs(second)
    }

    /// A process that knows nothing takes the place of one, and serves what all serve.
    pub(super) fn restart(&mut self, router: usize, second: u64) {
        let now = self.at(second);
        let mut fresh = Router::new(format!("{router}-{second}"), now);
        fresh.adopt(&self.table, now);
        self.routers[router] = fresh;
    }

    /// All of them serve a route from now on.
    pub(super) fn serve(&mut self, route: &Route, second: u64) {
        let weight = route.canary.as_ref().map(|(_, weight)| *weight);
        self.points = weight.unwrap_or(Weight::ZERO).basis_points();
        self.table = table(route, self.points);
        let now = self.at(second);
        for router in &mut self.routers {
            router.adopt(&self.table, now);
        }
    }

    fn router(&self, request: &Request) -> &Router {
        &self.routers[usize::try_from(request.router).unwrap() % ROUTERS]
    }

    /// Whether the canary answers it.
    pub(super) fn is_canary(&self, request: &Request) -> bool {
        let witness = &self.router(request).witness;
        let is_below = u128::from(request.draw) * 10_000 < u128::from(self.points) << 64;
        is_below && !witness.as_ref().is_some_and(|it| it.is_tripped())
    }

    pub(super) fn request(&self, request: &Request, second: u64) {
        let Some(witness) = &self.router(request).witness else {
            return;
        };
        let (role, is_bad) = if self.is_canary(request) {
            (Role::Canary, request.is_bad.1)
        } else {
            (Role::Stable, request.is_bad.0)
        };
        let user = request.tells_user.then_some(request.draw);
        let observation = witness.observe((role, address(role)), user, self.at(second));
        observation.unwrap().end(&Ended {
            code: if is_bad { 500 } else { 200 },
            took: Duration::from_millis(3),
            first_byte: None,
            broken: false,
        });
    }

    /// Each of them judges by what it saw itself.
    pub(super) fn look(&self, second: u64) {
        let now = self.at(second);
        for router in &self.routers {
            router.evidence.look(&router.trips, &router.metrics, now);
        }
    }

    /// What a router has to say.
    pub(super) fn lines(&mut self, router: usize) -> Vec<FromRouter> {
        let router = &mut self.routers[router];
        let key = ObjectKey::new(cluster::NAMESPACE, cluster::NAME);
        let after = BTreeMap::from([(key.clone(), router.told)]);
        let evidence = router.evidence.snapshot(&after);
        router.told = evidence
            .iter()
            .map(|it| it.last)
            .max()
            .unwrap_or(router.told);
        let evidence = evidence.into_iter();
        let mut lines: Vec<FromRouter> = evidence
            .map(|told| FromRouter::Evidence(Box::new(told)))
            .collect();
        if let Some(trip) = router.trips.get(&key).filter(|_| !router.has_told_trip) {
            router.has_told_trip = true;
            lines.push(FromRouter::Tripped {
                namespace: key.namespace,
                route: key.name,
                trip,
            });
        }
        lines
    }
}

fn address(role: Role) -> SocketAddr {
    match role {
        Role::Canary => SocketAddr::from(([10, 0, 0, 2], 80)),
        Role::Stable | Role::Plain => SocketAddr::from(([10, 0, 0, 1], 80)),
    }
}

/// What a router makes of a route; only one in a run is watched.
fn table(route: &Route, weight: u16) -> Table {
    let (canary, stable) = (address(Role::Canary), address(Role::Stable));
    let judged = route.canary.as_ref().zip(route.split.judge.as_ref());
    let watched = judged.map(|((revision, _), judge)| Watched {
        route: Arc::new(Served {
            key: ObjectKey::new(cluster::NAMESPACE, cluster::NAME),
            model_deployment: cluster::NAME.to_owned(),
            digest: String::new(),
            generation: 1,
        }),
        run: Run {
            id: route.split.run.clone(),
            revision: revision.clone(),
        },
        step: route.split.step,
        weight,
        guardrails: Arc::new(Guardrails::parse(judge).unwrap()),
        stable_revision: route.stable.clone(),
        canary: vec![canary],
        stable: vec![stable],
    });
    Table {
        endpoints: [canary, stable].into(),
        watched: watched.into_iter().collect(),
        ..Table::default()
    }
}
