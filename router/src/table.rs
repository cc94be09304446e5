//! From configuration objects to the immutable table that requests are served from.
//!
//! Pure: [`build`] is a function of the objects seen, the settings and the routes that were last
//! valid. It also says what to write into statuses, so that a status and what is served cannot
//! disagree.

pub mod attach;
pub mod backend;
pub mod duration;
pub mod findings;
pub mod listener;
pub mod objects;
pub mod route;
pub mod watched;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crds::contract::{Mirror, MirrorMethods};
use http::{HeaderMap, HeaderValue, Method};

use crate::matcher::PortTable;
use crate::pick::{self, Draw, Testers, UserKey};

use self::attach::Claims;
use self::findings::{RouteFindings, Statuses};
use self::listener::Gateways;
use self::objects::{Index, ObjectKey, Objects};
use self::route::Candidate;
pub use self::watched::Watched;

/// What the process was told on its command line that bears on configuration.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `controllerName` of our classes.
    pub controller_name: String,
    /// Listener ports that are bound.
    pub ports: BTreeSet<u16>,
    /// Service whose address Gateways report.
    pub service: Option<ObjectKey>,
}

/// Everything that requests are served from.
#[derive(Debug, Default)]
pub struct Table {
    /// What each port serves.
    pub ports: BTreeMap<u16, PortTable>,
    /// The routes that are served, each once.
    pub routes: Vec<Arc<Route>>,
    /// What is counted apart: each revision of each route; [`Arm::series`] points here.
    pub series: Vec<Series>,
    /// The rules whose requests are evidence; [`Rule::watched`] points here.
    pub watched: Vec<Watched>,
    /// All endpoints that an arm may use.
    pub endpoints: BTreeSet<SocketAddr>,
    /// The run that each known route names, served or not: trips hold for as long as it is named.
    pub runs: BTreeMap<ObjectKey, Option<Run>>,
}

/// One attempt to bring one revision in.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Run {
    /// Its name, as [`crds::contract::Split::run`] gives it.
    pub id: String,
    /// The canary.
    pub revision: String,
}

/// A route that is served.
#[derive(Clone, Debug)]
pub struct Route {
    /// Namespace and name.
    pub key: ObjectKey,
    /// Name of its `ModelDeployment`, or empty.
    pub model_deployment: String,
    /// [`crds::contract::route_digest`] of what is served.
    pub digest: String,
    /// Generation of what is served.
    pub generation: i64,
}

/// One rule of a route, ready to serve.
#[derive(Clone, Debug)]
pub struct Rule {
    /// The route.
    pub route: Arc<Route>,
    /// Where requests go. The canary, if there is one, stands first: its users are the draws
    /// from 0 up to its weight.
    pub arms: Vec<Arm>,
    /// How users are kept on one side; none: every request draws at random.
    pub sticky: Option<Sticky>,
    /// Who may ask for the canary; none: nobody, or the canary is condemned.
    pub testers: Option<Testers>,
    /// Which of stable's requests the canary gets a copy of; none: none, or it is condemned.
    pub mirror: Option<Mirror>,
    /// `timeouts.request`: none: not said; zero: no bound.
    pub request_timeout: Option<Duration>,
    /// `timeouts.backendRequest`.
    pub attempt_timeout: Option<Duration>,
    /// Its place in [`Table::watched`], in a run.
    pub watched: Option<usize>,
}

/// How a rule keeps users on one side.
#[derive(Clone, Debug)]
pub struct Sticky {
    /// The run, part of the hash.
    pub run: String,
    /// Where a request's key is read.
    pub key: UserKey,
}

/// One backend of a rule.
#[derive(Clone, Debug)]
pub struct Arm {
    /// Its Service's name, which is the revision's.
    pub revision: String,
    /// The same as a header value.
    pub header: HeaderValue,
    /// What it is in the split.
    pub role: Role,
    /// Its share of the sum of all weights.
    pub weight: u64,
    /// Where it is.
    pub backend: Backend,
    /// Its place in [`Table::series`].
    pub series: usize,
}

/// What an arm is in the split.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The revision that is to take over.
    Canary,
    /// The revision that answers for it when it cannot.
    Stable,
    /// Not part of the split.
    Plain,
}

/// Where an arm is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Backend {
    /// Its ready endpoints; there may be none.
    Endpoints(Vec<SocketAddr>),
    /// The reference leads nowhere.
    Unresolved,
}

impl Table {
    /// The rule for a request; `host` in lower case and without a port.
    pub fn find(&self, port: u16, host: &str, path: &str) -> Option<&Arc<Rule>> {
        self.ports.get(&port)?.find(host, path)
    }
}

impl Backend {
    /// The ready endpoints.
    pub fn endpoints(&self) -> &[SocketAddr] {
        match self {
            Self::Endpoints(endpoints) => endpoints,
            Self::Unresolved => &[],
        }
    }
}

impl Rule {
    /// The arm that a request goes to that drew `drawn`: stable for a canary that was taken out.
    pub fn effective(&self, drawn: usize, is_tripped: bool) -> usize {
        let is_canary = |arm: &Arm| arm.role == Role::Canary;
        if !is_tripped || !self.arms.get(drawn).is_some_and(is_canary) {
            return drawn;
        }
        let stable = self.arms.iter().position(|arm| arm.role == Role::Stable);
        stable.unwrap_or(drawn)
    }

    /// The arm that answers when this one cannot be reached: stable for the canary, whatever its
    /// weight, and the canary for stable where it has weight and was not taken out.
    pub fn fallback(&self, arm: usize, is_tripped: bool) -> Option<usize> {
        let other = match self.arms.get(arm)?.role {
            Role::Canary => self.arms.iter().position(|arm| arm.role == Role::Stable),
            Role::Stable if is_tripped => None,
            Role::Stable => self
                .arms
                .iter()
                .position(|arm| arm.role == Role::Canary && arm.weight > 0),
            Role::Plain => None,
        }?;
        let reachable = !self.arms.get(other)?.backend.endpoints().is_empty();
        reachable.then_some(other)
    }

    /// Whether the route stands for a model that is being deleted: the Services go with it, in any
    /// order and before the route. Who asks for it is told what will be true in a moment.
    pub fn is_going(&self) -> bool {
        self.arms
            .iter()
            .any(|arm| arm.role == Role::Stable && arm.backend == Backend::Unresolved)
    }

    /// The canary, if it has an endpoint to be sent to.
    pub fn canary(&self) -> Option<usize> {
        self.arms
            .iter()
            .position(|arm| arm.role == Role::Canary && !arm.backend.endpoints().is_empty())
    }

    /// The arm of a request, and whether it is there at a tester's word and not by the draw.
    pub fn arm(&self, headers: &HeaderMap, draw: Draw) -> Option<(usize, bool)> {
        let testers = self.testers.as_ref();
        let asked = testers.filter(|testers| testers.admit(headers));
        match asked.and_then(|_| self.canary()) {
            Some(canary) => Some((canary, true)),
            None => Some((pick::arm(&self.arms, draw)?, false)),
        }
    }

    /// The arm that gets a copy of a request for this arm. `point`: any number.
    pub fn mirrored(&self, arm: usize, method: &Method, point: u32) -> Option<&Arm> {
        let mirror = self.mirror?;
        let may = match mirror.methods {
            MirrorMethods::Safe => method.is_safe(),
            MirrorMethods::All => true,
        };
        let is_stable = self.arms.get(arm)?.role == Role::Stable;
        let falls = u64::from(point) * 10_000 < u64::from(mirror.share) << 32;
        if may && is_stable && falls {
            self.arms.get(self.canary()?)
        } else {
            None
        }
    }

    /// A rule with no arms, for tests of matching.
    #[cfg(test)]
    pub(crate) fn unserved(route: &str) -> Self {
        Self {
            route: Arc::new(Route {
                key: ObjectKey::new("ns", route),
                model_deployment: String::new(),
                digest: String::new(),
                generation: 1,
            }),
            arms: Vec::new(),
            sticky: None,
            testers: None,
            mirror: None,
            request_timeout: None,
            attempt_timeout: None,
            watched: None,
        }
    }
}

impl Arm {
    /// An arm without endpoints, for tests of the draw.
    #[cfg(test)]
    pub(crate) fn named(name: &str, weight: u64) -> Self {
        Self {
            revision: name.to_owned(),
            header: HeaderValue::from_str(name).unwrap(),
            role: Role::Plain,
            weight,
            backend: Backend::Endpoints(Vec::new()),
            series: 0,
        }
    }
}

/// What is counted apart.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    /// The route.
    pub route: ObjectKey,
    /// Name of its `ModelDeployment`, or empty.
    pub model_deployment: String,
    /// Name of the revision.
    pub revision: String,
    /// Share of the requests, 0 to 1.
    pub weight: f64,
    /// Its ready endpoints.
    pub endpoints: Vec<SocketAddr>,
}

/// The routes of the last table, each as it was when last valid, by which an invalid edit is bridged.
pub type LastGood = BTreeMap<ObjectKey, Arc<Candidate>>;

/// What [`build`] gives.
#[derive(Debug, Default)]
pub struct Built {
    /// What to serve.
    pub table: Table,
    /// What to say.
    pub statuses: Statuses,
    /// What to remember for the next time.
    pub last_good: LastGood,
}

/// Builds the table and the statuses from what was seen.
pub fn build(objects: &Objects, settings: &Settings, last_good: &LastGood) -> Built {
    let index = Index::new(objects);
    let mut gateways = Gateways::of(objects, settings);
    let mut built = Built::default();
    for listener in gateways.usable() {
        let port = built.table.ports.entry(listener.port).or_default();
        port.add_listener(&listener.host);
    }
    let mut claims = Claims::default();
    for newest in objects.routes_by_age() {
        let key = ObjectKey::of(&newest.metadata);
        let candidate = route::candidate(&newest, last_good.get(&key));
        built.last_good.insert(key.clone(), Arc::clone(&candidate));
        built.table.runs.insert(key.clone(), candidate.run.clone());
        let attached = attach::attach(&candidate, &mut gateways, &index, &mut claims);
        let references = backend::check(candidate.serving(), &index);
        if attached.places.is_empty() {
            // Nothing to serve; the statuses below say why.
        } else {
            route::add(&mut built.table, &candidate, &attached.places, &index);
        }
        if let Some(parents) = RouteFindings::new(&newest, attached, &references) {
            built.statuses.routes.insert(key, parents);
        }
    }
    built.table.ports.values_mut().for_each(PortTable::sort);
    findings::describe(&mut built.statuses, &gateways, settings, &index);
    built
}
