//! How the cluster tells that a pod lives and is ready.

use crds::{
    contract,
    runtime::{Engine, Probes, Runtime},
};
use k8s_openapi::{
    api::core::v1::{HTTPGetAction, Probe, TCPSocketAction},
    apimachinery::pkg::util::intstr::IntOrString,
};

/// The probes of the model's container.
pub(super) fn probes(runtime: &Runtime) -> Probes {
    match runtime.engine {
        // The pod lives while it still fetches its model, so a long download needs no long start.
        Engine::Onnx | Engine::Sim => Probes {
            readiness: Some(Probe {
                period_seconds: Some(1),
                failure_threshold: Some(2),
                ..http(contract::PATH_POD_READY)
            }),
            liveness: Some(Probe {
                period_seconds: Some(10),
                timeout_seconds: Some(5),
                ..http(contract::PATH_POD_LIVE)
            }),
            startup: Some(Probe {
                period_seconds: Some(1),
                failure_threshold: Some(60),
                ..http(contract::PATH_POD_LIVE)
            }),
        },
        Engine::Custom => {
            let probes = runtime.probes.clone().unwrap_or_default();
            // Without any readiness a pod would get traffic before it listens.
            let readiness = probes.readiness.or_else(|| Some(listens()));
            Probes {
                readiness,
                ..probes
            }
        }
    }
}

fn http(path: &str) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.to_owned()),
            port: IntOrString::String(contract::PORT_HTTP.to_owned()),
            ..HTTPGetAction::default()
        }),
        ..Probe::default()
    }
}

fn listens() -> Probe {
    Probe {
        tcp_socket: Some(TCPSocketAction {
            port: IntOrString::String(contract::PORT_HTTP.to_owned()),
            host: None,
        }),
        period_seconds: Some(1),
        ..Probe::default()
    }
}
