//! From a route's rules to what is served: what is supported, who plays which role, which weight.

use std::collections::BTreeMap;
use std::sync::Arc;

use crds::contract::{self, KeySource, Mark, Mirror, Split};
use crds::gateway::{HttpBackendRef, HttpRoute, HttpRouteMatch, HttpRouteRule};
use http::{HeaderName, HeaderValue};
use serde_json::{Map, Value, json};

use super::attach::Place;
use super::objects::{Index, ObjectKey};
use super::watched::OnTrial;
use super::{Arm, Role, Route, Rule, Run, Series, Sticky, Table, backend, duration};
use crate::matcher::{Entry, PathMatch};
use crate::pick::{Testers, UserKey};

/// A route with what can be said of it alone. It holds from table to table while the route stays the
/// same: of a thousand routes one changes at a time.
#[derive(Debug)]
pub struct Candidate {
    /// As it stands.
    pub newest: Arc<HttpRoute>,
    /// As it was when last valid: the same, where it is valid.
    pub good: Option<Arc<HttpRoute>>,
    /// The field that is not supported, and why.
    pub refusal: Option<String>,
    /// The run that is served.
    pub run: Option<Run>,
    digest: String,
    roles: Roles,
}

impl Candidate {
    /// What is served of it.
    pub fn serving(&self) -> &HttpRoute {
        self.good.as_deref().unwrap_or(&self.newest)
    }

    /// Whether anything of it may be served.
    pub fn servable(&self) -> bool {
        self.good.is_some()
    }
}

/// Checks a route. One that was valid before goes on as it was; another object of the same name
/// has no past.
pub fn candidate(newest: &Arc<HttpRoute>, before: Option<&Arc<Candidate>>) -> Arc<Candidate> {
    if let Some(before) = before.filter(|before| Arc::ptr_eq(&before.newest, newest)) {
        return Arc::clone(before);
    }
    let refusal = check(newest).err();
    let good = if refusal.is_none() {
        Some(Arc::clone(newest))
    } else {
        before
            .and_then(|before| before.good.as_ref())
            .filter(|before| before.metadata.uid == newest.metadata.uid)
            .cloned()
    };
    let serving = good.as_ref().unwrap_or(newest);
    Arc::new(Candidate {
        run: run(serving),
        digest: contract::route_digest(
            &json!(serving.spec.rules),
            annotation(serving, contract::ANNOTATION_SPLIT),
            annotation(newest, contract::ANNOTATION_MARK),
        ),
        roles: Roles::of(serving, newest),
        newest: Arc::clone(newest),
        good,
        refusal,
    })
}

fn annotation<'route>(route: &'route HttpRoute, name: &str) -> Option<&'route str> {
    Some(route.metadata.annotations.as_ref()?.get(name)?.as_str())
}

/// The first thing in a route that is not supported, with its path.
fn check(route: &HttpRoute) -> Result<(), String> {
    split(route)?;
    for (at, rule) in route.spec.rules.iter().enumerate() {
        check_rule(rule).map_err(|(path, why)| format!("spec.rules[{at}].{path}: {why}"))?;
    }
    Ok(())
}

/// Names of objects are no longer.
const NAME_BYTES_MAX: usize = 253;
const NOT_SUPPORTED: &str = "not supported";

fn check_rule(rule: &HttpRouteRule) -> Result<(), (String, String)> {
    refuse_rest("", &rule.rest, &["name"])?;
    for (at, wanted) in rule.matches.iter().enumerate() {
        let within = format!("matches[{at}].");
        refuse_rest(&within, &wanted.rest, &[])?;
        path_of(wanted).map_err(|why| (format!("{within}path"), why))?;
    }
    for (at, backend) in rule.backend_refs.iter().enumerate() {
        refuse_rest(&format!("backendRefs[{at}]."), &backend.rest, &[])?;
        if HeaderValue::from_str(&backend.name).is_err() {
            return Err((
                format!("backendRefs[{at}].name"),
                "is no Service name".to_owned(),
            ));
        }
    }
    timeouts(rule).map(drop)
}

/// Refuses fields that are set and not known.
fn refuse_rest(
    within: &str,
    rest: &Map<String, Value>,
    known: &[&str],
) -> Result<(), (String, String)> {
    let set = |value: &Value| match value {
        Value::Null => false,
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
        Value::Bool(_) | Value::Number(_) | Value::String(_) => true,
    };
    match rest
        .iter()
        .find(|(name, value)| !known.contains(&name.as_str()) && set(value))
    {
        Some((name, _)) => Err((format!("{within}{name}"), NOT_SUPPORTED.to_owned())),
        None => Ok(()),
    }
}

fn path_of(wanted: &HttpRouteMatch) -> Result<PathMatch, String> {
    let path = wanted.path.as_ref();
    let type_ = path
        .and_then(|path| path.type_.as_deref())
        .unwrap_or("PathPrefix");
    let value = path.and_then(|path| path.value.as_deref()).unwrap_or("/");
    if !value.starts_with('/') {
        return Err(format!("{value:?} must start with /"));
    }
    match type_ {
        "Exact" => Ok(PathMatch::Exact(value.to_owned())),
        "PathPrefix" => Ok(PathMatch::prefix(value)),
        other => Err(format!("type {other} is {NOT_SUPPORTED}")),
    }
}

type Timeouts = (Option<std::time::Duration>, Option<std::time::Duration>);

fn timeouts(rule: &HttpRouteRule) -> Result<Timeouts, (String, String)> {
    let Some(timeouts) = &rule.timeouts else {
        return Ok((None, None));
    };
    let read = |name: &str, text: &Option<String>| match text {
        None => Ok(None),
        Some(text) => match duration::parse(text) {
            Ok(duration) => Ok(Some(duration)),
            Err(why) => Err((format!("timeouts.{name}"), why.to_string())),
        },
    };
    Ok((
        read("request", &timeouts.request)?,
        read("backendRequest", &timeouts.backend_request)?,
    ))
}

/// A split, read.
struct KeyedSplit {
    split: Split,
    key: Option<UserKey>,
    testers: Option<Testers>,
}

/// The split, and where it reads users, if the route has one.
fn split(route: &HttpRoute) -> Result<Option<KeyedSplit>, String> {
    let Some(text) = annotation(route, contract::ANNOTATION_SPLIT) else {
        return Ok(None);
    };
    let refuse = |why: String| {
        format!(
            "metadata.annotations[{}]: {why}",
            contract::ANNOTATION_SPLIT
        )
    };
    let split: Split =
        serde_json::from_str(text).map_err(|error| refuse(format!("unreadable: {error}")))?;
    if split.version != contract::SPLIT_VERSION {
        let why = format!(
            "version {} is not known; this router knows {}",
            split.version,
            contract::SPLIT_VERSION
        );
        return Err(refuse(why));
    }
    // Both are hashed or written out for every request or scrape; nobody's object has such a name.
    if split.model_deployment.len() > NAME_BYTES_MAX || split.run.len() > NAME_BYTES_MAX {
        let why = format!("modelDeployment or run is longer than {NAME_BYTES_MAX} bytes");
        return Err(refuse(why));
    }
    let key = split.key.as_ref().map(user_key).transpose();
    let key = key.map_err(|why| refuse(format!("key: {why}")))?;
    let testers = split.testers.as_ref().map(testers).transpose();
    let testers = testers.map_err(|why| refuse(format!("testers: {why}")))?;
    if split.mirror.is_some_and(|mirror| mirror.share > 10_000) {
        return Err(refuse("mirror: share is above 10000".to_owned()));
    }
    OnTrial::of(&split).map_err(|(path, why)| refuse(format!("{path}: {why}")))?;
    Ok(Some(KeyedSplit {
        split,
        key,
        testers,
    }))
}

fn user_key(source: &KeySource) -> Result<UserKey, String> {
    match source {
        KeySource::Header { name } => match HeaderName::try_from(name.as_str()) {
            Ok(name) => Ok(UserKey::Header(name)),
            Err(_) => Err(format!("{name:?} is no header name")),
        },
        KeySource::Cookie { name } => Ok(UserKey::Cookie(name.clone())),
        KeySource::SourceIP => Ok(UserKey::Address),
        KeySource::UnverifiedJWTClaim { name } => Ok(UserKey::Claim(name.clone())),
    }
}

fn testers(testers: &contract::Testers) -> Result<Testers, String> {
    let by = user_key(&testers.by)?;
    match by {
        // A word that is empty is said by whoever says nothing.
        UserKey::Header(_) | UserKey::Cookie(_) if !testers.value.is_empty() => Ok(Testers {
            by,
            value: testers.value.clone(),
        }),
        UserKey::Header(_) | UserKey::Cookie(_) => Err("value is empty".to_owned()),
        UserKey::Address | UserKey::Claim(_) => Err("by must be a header or a cookie".to_owned()),
    }
}

/// The run that a route names: none outside a run, and where the split cannot be read.
pub fn run(route: &HttpRoute) -> Option<Run> {
    let KeyedSplit { split, .. } = split(route).ok()??;
    let revision = split.canary?;
    (!split.run.is_empty()).then_some(Run {
        id: split.run,
        revision,
    })
}

/// All paths of a valid route.
pub fn paths(route: &HttpRoute) -> Vec<PathMatch> {
    route.spec.rules.iter().flat_map(paths_of_rule).collect()
}

fn paths_of_rule(rule: &HttpRouteRule) -> Vec<PathMatch> {
    if rule.matches.is_empty() {
        return vec![PathMatch::prefix("/")];
    }
    rule.matches
        .iter()
        .filter_map(|wanted| path_of(wanted).ok())
        .collect()
}

/// Adds a valid route to the table, at all its places.
pub fn add(table: &mut Table, candidate: &Candidate, places: &[Place], index: &Index) {
    let object = candidate.serving();
    let roles = &candidate.roles;
    let route = Arc::new(Route {
        key: ObjectKey::of(&object.metadata),
        model_deployment: roles.model_deployment.clone(),
        digest: candidate.digest.clone(),
        generation: object.metadata.generation.unwrap_or_default(),
    });
    let mut series = BTreeMap::new();
    for wanted in &object.spec.rules {
        let mut rule = compile(wanted, &route, roles, index);
        number(&mut rule, table, &mut series);
        if let Some(on_trial) = &roles.on_trial {
            on_trial.watch(&mut rule, table);
        }
        let rule = Arc::new(rule);
        for arm in &rule.arms {
            table.endpoints.extend(arm.backend.endpoints());
        }
        for path in paths_of_rule(wanted) {
            for place in places {
                let entry = Entry {
                    path: path.clone(),
                    rule: Arc::clone(&rule),
                };
                table
                    .ports
                    .entry(place.port)
                    .or_default()
                    .add(&place.listener, &place.host, entry);
            }
        }
    }
    table.routes.push(route);
}

/// Who plays which role in a route.
#[derive(Debug)]
struct Roles {
    model_deployment: String,
    run: String,
    stable: Option<String>,
    canary: Option<String>,
    condemned: bool,
    key: Option<UserKey>,
    testers: Option<Testers>,
    mirror: Option<Mirror>,
    on_trial: Option<OnTrial>,
}

impl Roles {
    fn of(object: &HttpRoute, newest: &HttpRoute) -> Self {
        let Ok(Some(keyed)) = split(object) else {
            let labels = object.metadata.labels.as_ref();
            let label = labels.and_then(|labels| labels.get(contract::LABEL_MODEL_DEPLOYMENT));
            return Self {
                model_deployment: label.cloned().unwrap_or_default(),
                run: String::new(),
                stable: None,
                canary: None,
                condemned: false,
                key: None,
                testers: None,
                mirror: None,
                on_trial: None,
            };
        };
        let KeyedSplit {
            split,
            key,
            testers,
        } = keyed;
        // The mark is read from the newest object whatever else is wrong with that one: an edit
        // that is not understood must not keep a condemned revision in traffic.
        let condemned = annotation(newest, contract::ANNOTATION_MARK).is_some_and(|text| {
            match serde_json::from_str::<Mark>(text) {
                Ok(mark) => mark.run == split.run && Some(&mark.revision) == split.canary.as_ref(),
                // Something is condemned, and nobody can say what: the canary is the risk.
                Err(_) => true,
            }
        });
        Self {
            on_trial: OnTrial::of(&split).ok().flatten(),
            model_deployment: split.model_deployment,
            run: split.run,
            stable: Some(split.stable),
            canary: split.canary,
            condemned,
            key,
            testers: testers.filter(|_| !condemned),
            mirror: split.mirror.filter(|_| !condemned),
        }
    }

    fn role(&self, backend: &str) -> Role {
        if self.canary.as_deref() == Some(backend) {
            Role::Canary
        } else if self.stable.as_deref() == Some(backend) {
            Role::Stable
        } else {
            Role::Plain
        }
    }
}

fn compile(wanted: &HttpRouteRule, route: &Arc<Route>, roles: &Roles, index: &Index) -> Rule {
    let mut arms: Vec<Arm> = wanted
        .backend_refs
        .iter()
        .map(|backend| arm(backend, &route.key.namespace, roles, index))
        .collect();
    // Stable sort: the canary first, the others as they were written.
    arms.sort_by_key(|arm| arm.role != Role::Canary);
    let total: u64 = arms.iter().map(|arm| arm.weight).sum();
    if total == 0 && roles.condemned {
        // All weight was the condemned revision's; the requests are still to be answered.
        arms.iter_mut()
            .filter(|arm| arm.role == Role::Stable)
            .for_each(|arm| arm.weight = 1);
    }
    let (request_timeout, attempt_timeout) = timeouts(wanted).unwrap_or_default();
    let sticky = roles.key.clone().map(|key| Sticky {
        run: roles.run.clone(),
        key,
    });
    Rule {
        route: Arc::clone(route),
        arms,
        sticky,
        testers: roles.testers.clone(),
        mirror: roles.mirror,
        request_timeout,
        attempt_timeout,
        watched: None,
    }
}

fn arm(backend: &HttpBackendRef, namespace: &str, roles: &Roles, index: &Index) -> Arm {
    let role = roles.role(&backend.name);
    let weight = match role {
        Role::Canary if roles.condemned => 0,
        Role::Canary | Role::Stable | Role::Plain => {
            u64::try_from(backend.weight.unwrap_or(1)).unwrap_or_default()
        }
    };
    Arm {
        revision: backend.name.clone(),
        header: HeaderValue::from_str(&backend.name).unwrap_or(HeaderValue::from_static("")),
        role,
        weight,
        backend: backend::resolve(backend, namespace, index),
        series: 0,
    }
}

/// Gives each arm its series; a revision that stands in several rules of a route has one.
fn number(rule: &mut Rule, table: &mut Table, series: &mut BTreeMap<String, usize>) {
    let total: u64 = rule.arms.iter().map(|arm| arm.weight).sum();
    for arm in &mut rule.arms {
        arm.series = *series.entry(arm.revision.clone()).or_insert_with(|| {
            table.series.push(Series {
                route: rule.route.key.clone(),
                model_deployment: rule.route.model_deployment.clone(),
                revision: arm.revision.clone(),
                weight: share(arm.weight, total),
                endpoints: arm.backend.endpoints().to_vec(),
            });
            table.series.len() - 1
        });
    }
}

#[expect(
    clippy::as_conversions,
    clippy::cast_precision_loss,
    reason = "weights are at most a million each; a gauge needs no more than a double has"
)]
fn share(weight: u64, total: u64) -> f64 {
    if total == 0 {
        0.0
    } else {
        weight as f64 / total as f64
    }
}
