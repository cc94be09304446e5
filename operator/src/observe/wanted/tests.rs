use clap::Parser as _;
use serde_json::{Value, json};

use super::*;
use crate::args::Args;

fn config() -> Config {
    let flags = [
        "operator",
        "--inference-image",
        "pod:1",
        "--default-gateway",
        "s/sluice",
        "--router-service",
        "s/router",
    ];
    Args::try_parse_from(flags).unwrap().resolve().unwrap()
}

fn object(spec: &Value) -> ModelDeployment {
    let mut object = json!({
        "apiVersion": "sluice.dev/v1alpha1", "kind": "ModelDeployment",
        "metadata": {"name": "digits", "namespace": "ml", "generation": 4},
        "spec": {"model": {"format": "InImage"}, "runtime": {"engine": "sim"}},
    });
    for (key, value) in spec.as_object().unwrap() {
        object["spec"][key] = value.clone();
    }
    serde_json::from_value(object).unwrap()
}

fn seen(spec: &Value, sources: &BTreeMap<String, Lookup>) -> Wanted {
    let object = object(spec);
    wanted(&config(), &object, Plan::from_spec(&object.spec), sources)
}

#[test]
fn by_default_the_model_is_reached_through_our_gateway_by_its_service_name() {
    let wanted = seen(&json!({}), &BTreeMap::new());
    assert_eq!(wanted.plan.as_ref().err(), None);
    assert_eq!(
        (wanted.replicas, wanted.attempt, wanted.generation),
        (1, 1, 4)
    );
    assert_eq!(wanted.routers, 2);
    assert_eq!(wanted.route.parents[0].name, "sluice");
    assert_eq!(wanted.route.parents[0].namespace.as_deref(), Some("s"));
    let hostnames = ["digits.ml", "digits.ml.svc", "digits.ml.svc.cluster.local"];
    assert_eq!(wanted.route.hostnames, hostnames);
}

#[test]
fn another_gateway_brings_its_own_names() {
    let traffic = json!({"traffic": {
        "parentRefs": [{"name": "istio", "kind": "Gateway", "group": "gateway.networking.k8s.io"}],
        "hostnames": ["digits.example.com"],
        "splitKey": {"type": "Cookie", "name": "uid"},
        "timeouts": {"request": "2s"},
    }});
    let seen = seen(&traffic, &BTreeMap::new());
    // No router of ours sees this traffic.
    assert_eq!(seen.routers, 0);
    let route = seen.route;
    assert_eq!(route.hostnames, ["digits.example.com"]);
    assert_eq!(route.parents[0].namespace.as_deref(), Some("ml"));
    assert_eq!(
        (&route.parents[0].group, &route.parents[0].kind),
        (&None, &None)
    );
    assert_eq!(
        route.key,
        Some(contract::KeySource::Cookie {
            name: "uid".to_owned()
        })
    );
    assert_eq!(route.request_timeout.as_deref(), Some("2s"));
}

#[test]
fn every_kind_of_user_key_and_of_tester_is_passed_on() {
    use contract::KeySource;
    let route = |traffic: Value| seen(&json!({"traffic": traffic}), &BTreeMap::new()).route;
    let key = |key: Value| route(json!({"splitKey": key})).key;
    let source = json!({"type": "SourceIP"});
    assert_eq!(key(source), Some(KeySource::SourceIP));
    let claim = json!({"type": "JWTClaim", "name": "sub", "unverified": true});
    let name = "sub".to_owned();
    assert_eq!(key(claim), Some(KeySource::UnverifiedJWTClaim { name }));
    let testers = |kind| json!({"testers": {"type": kind, "name": "x-try", "value": "next"}});
    let name = "x-try".to_owned();
    for (kind, by) in [
        ("Header", KeySource::Header { name: name.clone() }),
        ("Cookie", KeySource::Cookie { name }),
    ] {
        let value = "next".to_owned();
        assert_eq!(
            route(testers(kind)).testers,
            Some(contract::Testers { by, value })
        );
    }
    assert_eq!(route(json!({})).testers, None);
}

#[test]
fn a_metric_source_that_may_not_be_asked_is_an_error_where_it_is_named() {
    let refused = Lookup::Refused("there is none".to_owned());
    let sources = BTreeMap::from([
        ("default".to_owned(), refused.clone()),
        ("other".to_owned(), refused),
    ]);
    // The default guardrails need none.
    seen(&json!({}), &sources).plan.unwrap();
    let guardrails = json!({"guardrails": [{"name": "a", "check": {
        "type": "Threshold", "threshold": {"max": "1"},
        "prometheus": {"sourceRef": {"name": "other"}, "value": "x", "samples": "y"},
    }}]});
    let error = seen(&guardrails, &sources).plan.unwrap_err();
    assert_eq!(
        error.path,
        "spec.guardrails[0].check.prometheus.sourceRef.name"
    );
    seen(&json!({"guardrails": []}), &sources).plan.unwrap();
}

#[test]
fn a_source_that_could_not_be_read_stops_no_plan() {
    let unknown = BTreeMap::from([("default".to_owned(), Lookup::Unknown("403".to_owned()))]);
    seen(&json!({}), &unknown).plan.unwrap();
}

#[test]
fn a_spec_that_makes_no_pods_has_no_plan_and_keeps_its_revision() {
    let good = seen(&json!({}), &BTreeMap::new());
    let bad = seen(&json!({"runtime": {"engine": "vllm"}}), &BTreeMap::new());
    assert_eq!(bad.plan.unwrap_err().path, "spec.runtime");
    assert_ne!(bad.revision, good.revision);
    let model = seen(&json!({"model": {"format": "Pickle"}}), &BTreeMap::new());
    assert_eq!(model.plan.unwrap_err().path, "spec.model");
}

#[test]
fn requests_that_come_another_way_are_not_copied() {
    let steps = json!([{"mirror": "10%"}, {"weight": "100%"}]);
    let rollout = json!({"type": "Canary", "canary": {"steps": steps}});
    let ours = seen(&json!({"rollout": rollout}), &BTreeMap::new());
    assert_eq!(ours.plan.unwrap().steps[0].load().basis_points(), 1000);
    let parents = json!({"parentRefs": [{"name": "istio"}]});
    let another = json!({"rollout": rollout, "traffic": parents});
    let error = seen(&another, &BTreeMap::new()).plan.unwrap_err();
    assert_eq!(error.path, "spec.rollout.canary.steps[0].mirror");
    let without = json!({"traffic": parents});
    seen(&without, &BTreeMap::new()).plan.unwrap();
}
