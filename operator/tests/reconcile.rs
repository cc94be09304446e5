//! Which requests a reconcile sends, in which order, and when it sends none.
#![allow(clippy::tests_outside_test_module, reason = "integration tests")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on should say where"
)]

use std::{
    convert::Infallible,
    sync::{Arc, Mutex},
};

use clap::Parser as _;
use crds::{
    ModelDeployment,
    contract::{
        CONDITION_TRIPPED, GATEWAY_CONTROLLER, Mark, REASON_TRIPPED, SPLIT_VERSION, Split, Trip,
    },
    gateway::ParentReference,
    hash,
    quantity::Number,
};
use http::{Method, Request, Response, StatusCode, Uri};
use kube::{Client, client::Body};
use operator::{
    args::{Args, NamespacedName},
    ctx::Ctx,
    error::Class,
    memory::Memory,
    metrics::prometheus::Prometheus,
    owner::Owner,
    reconcile::reconcile,
    routers::Routers,
    telemetry::Telemetry,
    traffic::{applied::Gateways, http_route},
};
use rollout::{action::Route, observation::RouteShape, plan::Plan, weight::Weight};
use serde_json::{Value, json};

const STABLE: &str = "digits-1-aaaaaaaaaa";

fn canary() -> String {
    hash::revision_name(
        "digits",
        &json!({"format": "InImage"}),
        &json!({"engine": "sim"}),
    )
}

fn owner() -> Owner {
    Owner {
        namespace: "ml".to_owned(),
        name: "digits".to_owned(),
        uid: "u-1".to_owned(),
    }
}

/// A write that reached the API server.
#[derive(Clone, Debug)]
struct Write {
    method: Method,
    path: String,
    is_forced: bool,
    body: Value,
}

/// What the API server answers.
struct Script {
    deployment: Mutex<Value>,
    history: Value,
    tracks: Vec<String>,
    replicas: i32,
    route: Value,
    /// The answer to a status write.
    record: StatusCode,
    /// Whether there is a Deployment already where one is made.
    taken: bool,
    /// Whether the tracks have another controller.
    strangers: bool,
    writes: Mutex<Vec<Write>>,
}

impl Script {
    fn writes(&self) -> Vec<Write> {
        self.writes.lock().unwrap().clone()
    }

    fn answer(&self, method: &Method, uri: &Uri, body: &Value) -> (StatusCode, Value) {
        let path = uri.path();
        if *method != Method::GET {
            self.writes.lock().unwrap().push(Write {
                method: method.clone(),
                path: path.to_owned(),
                is_forced: uri
                    .query()
                    .is_some_and(|query| query.contains("force=true")),
                body: body.clone(),
            });
        }
        let last = path.rsplit('/').next().unwrap();
        match (method.as_str(), last) {
            ("GET", "digits") if path.contains("/modeldeployments/") => {
                (StatusCode::OK, self.deployment.lock().unwrap().clone())
            }
            ("GET", "digits") if path.contains("/httproutes/") => {
                (StatusCode::OK, self.route.clone())
            }
            ("GET", "controllerrevisions") => (StatusCode::OK, list(&self.history)),
            ("GET", "deployments") => (
                StatusCode::OK,
                list(&self.objects(|name| {
                    json!({
                        "metadata": metadata(name),
                        "spec": {"replicas": self.replicas, "selector": {}, "template": {}},
                        "status": {"readyReplicas": 1},
                    })
                })),
            ),
            ("GET", "services") => (
                StatusCode::OK,
                list(&self.objects(|name| json!({"metadata": metadata(name)}))),
            ),
            ("GET", "pods") => (StatusCode::OK, list(&json!([]))),
            ("PUT", "status") if self.record == StatusCode::OK => {
                *self.deployment.lock().unwrap() = body.clone();
                (StatusCode::OK, body.clone())
            }
            ("PUT", "status") => (self.record, failure(self.record)),
            ("GET", name) if path.contains("/controllerrevisions/") => {
                let saved = self.history.as_array().unwrap().iter();
                let mut named = saved.filter(|saved| saved["metadata"]["name"] == name);
                (StatusCode::OK, named.next().unwrap().clone())
            }
            ("PATCH", _) if self.taken && path.contains("/deployments/") => (
                StatusCode::CONFLICT,
                json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 409,
                    "reason": "Conflict", "message": "scripted"}),
            ),
            ("POST" | "PATCH", _) => (StatusCode::OK, body.clone()),
            _ => (StatusCode::NOT_FOUND, failure(StatusCode::NOT_FOUND)),
        }
    }

    fn objects(&self, object: impl Fn(&str) -> Value) -> Value {
        let reference = json!([{"apiVersion": "x/v1", "kind": "X", "name": "x", "uid": "u-9",
            "controller": true}]);
        let objects = self.tracks.iter().map(|name| {
            let mut object = object(name);
            if self.strangers {
                object["metadata"]["ownerReferences"] = reference.clone();
            }
            object
        });
        objects.collect()
    }
}

fn metadata(revision: &str) -> Value {
    json!({"name": revision, "namespace": "ml", "labels": owner().revision_labels(revision)})
}

fn list(items: &Value) -> Value {
    json!({"metadata": {"resourceVersion": "9"}, "items": items})
}

fn failure(code: StatusCode) -> Value {
    let reason = if code == StatusCode::CONFLICT {
        "Conflict"
    } else {
        ""
    };
    json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code.as_u16(),
        "reason": reason, "message": "scripted"})
}

fn route(canary: Option<(String, Weight)>, split: Split, mark: Option<Mark>) -> Value {
    let shape = RouteShape {
        parents: vec![ParentReference {
            namespace: Some("s".to_owned()),
            name: "sluice".to_owned(),
            ..ParentReference::default()
        }],
        hostnames: ["digits.ml", "digits.ml.svc", "digits.ml.svc.cluster.local"]
            .map(str::to_owned)
            .into(),
        ..RouteShape::default()
    };
    let stable = STABLE.to_owned();
    let route = Route {
        stable,
        canary,
        split,
        mark,
        shape,
        widens: false,
    };
    let mut object = json!(http_route::manifest(&owner(), &route, Some("17")).unwrap());
    object["metadata"]["generation"] = json!(1);
    object
}

fn split(run: &str, step: u32, canary: Option<String>) -> Split {
    Split {
        version: SPLIT_VERSION,
        run: run.to_owned(),
        step,
        model_deployment: "digits".to_owned(),
        stable: STABLE.to_owned(),
        canary,
        key: None,
        judge: None,
        testers: None,
        mirror: None,
    }
}

fn deployment(runtime: &Value, status: &Value) -> Value {
    json!({
        "apiVersion": "sluice.dev/v1alpha1", "kind": "ModelDeployment",
        "metadata": {"name": "digits", "namespace": "ml", "uid": "u-1", "generation": 1,
            "resourceVersion": "7"},
        "spec": {"model": {"format": "InImage"}, "runtime": runtime, "guardrails": []},
        "status": status,
    })
}

fn saved(name: &str, holds: &str, data: &Value) -> Value {
    let mut object = json!({"metadata": metadata(name), "revision": 1, "data": data});
    object["metadata"]["labels"]["sluice.dev/holds"] = json!(holds);
    if name == STABLE {
        let mark = json!({"sluice.dev/stable-since": "2026-01-01T00:00:00Z"});
        object["metadata"]["annotations"] = mark;
    }
    object
}

/// A canary at 1 %, whose route somebody has marked: the next decision takes all traffic off it.
fn condemned(record: StatusCode) -> Script {
    let status = json!({
        "phase": "Progressing", "stableRevision": STABLE, "canaryRevision": canary(), "runs": 1,
        "run": {
            "id": "r1", "revision": canary(), "planRef": {"name": "digits-plan-r1"}, "attempt": 1,
            "startedAt": "2026-01-01T00:00:00Z", "exposedAt": "2026-01-01T00:01:00Z",
            "stepIndex": 0, "stepStartedAt": "2026-01-01T00:01:00Z", "stableReplicas": 1,
            "earnedWeight": "1%",
        },
    });
    let object = deployment(&json!({"engine": "sim"}), &status);
    let spec: ModelDeployment = serde_json::from_value(object.clone()).unwrap();
    let plan = Plan::from_spec(&spec.spec).unwrap();
    let mark = Mark {
        revision: canary(),
        run: "r1".to_owned(),
        attempt: 1,
    };
    let weight = Weight::from_basis_points(100);
    Script {
        deployment: Mutex::new(object),
        history: json!([
            saved(STABLE, "revision", &json!({})),
            saved(&canary(), "revision", &json!({})),
            saved("digits-plan-r1", "plan", &json!({"plan": plan})),
        ]),
        tracks: vec![STABLE.to_owned(), canary()],
        // One too many, so that there is something else to do than to take traffic off.
        replicas: 2,
        route: route(
            Some((canary(), weight)),
            split("r1", 1, Some(canary())),
            Some(mark),
        ),
        record,
        taken: false,
        strangers: false,
        writes: Mutex::default(),
    }
}

fn ctx(script: &Arc<Script>) -> Arc<Ctx> {
    // Several tests share one process; the first installs it.
    rustls::crypto::ring::default_provider()
        .install_default()
        .ok();
    let script = Arc::clone(script);
    let service = tower::service_fn(move |request: Request<Body>| {
        let script = Arc::clone(&script);
        async move {
            let (parts, body) = request.into_parts();
            let body = body.collect_bytes().await.unwrap();
            let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
            let (status, answer) = script.answer(&parts.method, &parts.uri, &body);
            let mut response = Response::new(Body::from(serde_json::to_vec(&answer).unwrap()));
            *response.status_mut() = status;
            Ok::<_, Infallible>(response)
        }
    });
    let flags = [
        "operator",
        "--inference-image",
        "pod:1",
        "--default-gateway",
        "s/sluice",
    ];
    let telemetry = Arc::new(Telemetry::default());
    Arc::new(Ctx {
        client: Client::new(service, "ml"),
        config: Args::try_parse_from(flags).unwrap().resolve().unwrap(),
        home: "s".to_owned(),
        memory: Memory::default(),
        telemetry: Arc::clone(&telemetry),
        prometheus: Prometheus::new(None).unwrap(),
        gateways: Gateways::default(),
        routers: Arc::new(Routers::new(None, None, telemetry).unwrap()),
    })
}

/// One reconcile, and what kind of failure it was.
async fn run(script: &Arc<Script>, ctx: &Arc<Ctx>) -> Option<Class> {
    let object = script.deployment.lock().unwrap().clone();
    let object: ModelDeployment = serde_json::from_value(object).unwrap();
    reconcile(Arc::new(object), Arc::clone(ctx))
        .await
        .err()
        .map(|failure| failure.class())
}

async fn look(record: StatusCode) -> (Vec<Write>, Option<Class>) {
    let script = Arc::new(condemned(record));
    let class = run(&script, &ctx(&script)).await;
    (script.writes(), class)
}

fn is_record(write: &Write) -> bool {
    write.method == Method::PUT && write.path.ends_with("/modeldeployments/digits/status")
}

fn is_narrowing(write: &Write) -> bool {
    let weights = &write.body["spec"]["rules"][0]["backendRefs"];
    write.method == Method::PATCH
        && write.path.ends_with("/httproutes/digits")
        && weights[1]["name"] == json!(canary())
        && weights[1]["weight"] == 0
        && write.body["metadata"]["annotations"]["sluice.dev/condemned"].is_string()
        && write.body["metadata"]["resourceVersion"].is_null()
}

#[tokio::test]
async fn a_decision_is_recorded_before_it_is_announced_and_carried_out() {
    let (writes, class) = look(StatusCode::OK).await;
    assert_eq!(class, None);
    assert!(is_record(&writes[0]), "{writes:?}");
    assert_eq!(writes[0].body["status"]["phase"], "RollingBack");
    assert_eq!(writes[0].body["metadata"]["resourceVersion"], "7");
    assert!(writes[1].path.ends_with("/events"), "{writes:?}");
    assert!(is_narrowing(&writes[2]), "{writes:?}");
    let scaled = format!("/deployments/{STABLE}");
    assert!(writes[3].path.ends_with(&scaled), "{writes:?}");
}

#[tokio::test]
async fn a_trip_that_a_router_wrote_takes_all_traffic_off_and_of_another_run_it_does_not() {
    for (run, trips) in [("r1", true), ("r0", false)] {
        let mut script = condemned(StatusCode::OK);
        script.replicas = 1;
        let weight = Weight::from_basis_points(100);
        let split = split("r1", 1, Some(canary()));
        script.route = route(Some((canary(), weight)), split, None);
        let trip = Trip {
            run: run.to_owned(),
            revision: canary(),
            guardrail: "errors".to_owned(),
            log_e: Number("9.7".to_owned()),
            bound: Number("7.8".to_owned()),
            message: "3 users".to_owned(),
        };
        let condition = json!({
            "type": CONDITION_TRIPPED, "status": "True", "reason": REASON_TRIPPED,
            "message": trip.to_condition_message(), "lastTransitionTime": "2026-01-01T00:02:00Z",
        });
        script.route["status"] = json!({"parents": [{
            "controllerName": GATEWAY_CONTROLLER, "parentRef": {"name": "sluice"},
            "conditions": [condition],
        }]});
        let script = Arc::new(script);
        let ctx = ctx(&script);
        self::run(&script, &ctx).await;
        let writes = script.writes();
        assert_eq!(writes.iter().any(is_narrowing), trips, "{writes:?}");
        let name = NamespacedName {
            namespace: "ml".to_owned(),
            name: "digits".to_owned(),
        };
        let passed_on = ctx.routers.trip_of(&name, "r1");
        assert_eq!(passed_on.as_ref(), trips.then_some(&trip));
    }
}

#[tokio::test]
async fn a_conflict_on_the_record_stops_everything() {
    let (writes, class) = look(StatusCode::CONFLICT).await;
    assert_eq!(class, Some(Class::Conflict));
    assert!(is_record(&writes[0]) && writes.len() == 1, "{writes:?}");
}

#[tokio::test]
async fn a_refused_record_still_takes_traffic_off_and_does_nothing_else() {
    for refusal in [StatusCode::FORBIDDEN, StatusCode::INTERNAL_SERVER_ERROR] {
        let (writes, class) = look(refusal).await;
        assert!(
            class.is_some_and(|class| class != Class::Conflict),
            "{class:?}"
        );
        assert!(is_record(&writes[0]), "{writes:?}");
        assert!(is_narrowing(&writes[1]) && writes.len() == 2, "{writes:?}");
    }
}

/// A proven revision that serves.
fn at_rest() -> Script {
    let runtime = json!({"engine": "sim"});
    let mut script = Script {
        deployment: Mutex::new(deployment(
            &runtime,
            &json!({"phase": "Stable", "stableRevision": canary()}),
        )),
        history: json!([saved(&canary(), "revision", &json!({}))]),
        tracks: vec![canary()],
        replicas: 1,
        route: Value::Null,
        record: StatusCode::OK,
        taken: false,
        strangers: false,
        writes: Mutex::default(),
    };
    let mut stable = split("", 0, None);
    stable.stable = canary();
    let mut object = route(None, stable, None);
    object["spec"]["rules"][0]["backendRefs"][0]["name"] = json!(canary());
    script.route = object;
    let since = json!({"sluice.dev/stable-since": "2026-01-01T00:00:00Z"});
    script.history[0]["metadata"]["annotations"] = since;
    script
}

#[tokio::test]
async fn at_rest_nothing_is_written() {
    let script = at_rest();
    let script = Arc::new(script);
    let ctx = ctx(&script);
    assert_eq!(run(&script, &ctx).await, None);
    let first = script.writes();
    assert!(first.len() == 1 && is_record(&first[0]), "{first:?}");
    assert_eq!(run(&script, &ctx).await, None);
    assert_eq!(script.writes().len(), 1, "{:?}", script.writes());
}

fn conditions(script: &Script) -> String {
    script.deployment.lock().unwrap()["status"]["conditions"].to_string()
}

#[tokio::test]
async fn a_route_of_somebody_else_is_left_alone_and_told() {
    let mut script = condemned(StatusCode::OK);
    script.route["metadata"]["ownerReferences"][0]["uid"] = json!("u-9");
    let script = Arc::new(script);
    run(&script, &ctx(&script)).await;
    let writes = script.writes();
    let touched = writes
        .iter()
        .any(|write| write.path.contains("/httproutes/"));
    assert!(!touched, "{writes:?}");
    let told = conditions(&script);
    assert!(told.contains("HTTPRoute digits is not of this"), "{told}");
}

#[tokio::test]
async fn a_deployment_that_stands_where_ours_belongs_is_not_taken_over() {
    let mut script = at_rest();
    script.tracks.clear();
    script.taken = true;
    script.history[0]["data"] = json!({
        "model": {"format": "InImage"}, "runtime": {"engine": "sim"}, "image": "pod:1",
    });
    let script = Arc::new(script);
    assert_eq!(run(&script, &ctx(&script)).await, Some(Class::User));
    let writes = script.writes();
    let made: Vec<_> = writes
        .iter()
        .filter(|write| write.path.contains("/deployments/"))
        .collect();
    assert!(made.len() == 1 && !made[0].is_forced, "{writes:?}");
}

#[tokio::test]
async fn a_track_of_another_owner_is_neither_scaled_nor_removed_and_told() {
    let mut script = at_rest();
    script.strangers = true;
    let script = Arc::new(script);
    run(&script, &ctx(&script)).await;
    let writes = script.writes();
    assert!(writes.iter().all(is_record), "{writes:?}");
    let told = conditions(&script);
    assert!(told.contains("Deployment"), "{told}");
}
