//! Services: one for each revision, and the address of the model in the cluster.

use std::collections::BTreeMap;

use crds::contract;
use k8s_openapi::{
    api::core::v1::{Service, ServicePort, ServiceSpec},
    apimachinery::pkg::util::intstr::IntOrString,
};

use crate::{args::NamespacedName, owner::Owner};

/// The Service of a revision, which the route's weights are about.
pub fn service(owner: &Owner, revision: &str) -> Service {
    let selector = BTreeMap::from([
        (
            contract::LABEL_MODEL_DEPLOYMENT.to_owned(),
            owner.name.clone(),
        ),
        (contract::LABEL_REVISION.to_owned(), revision.to_owned()),
    ]);
    Service {
        metadata: owner.metadata(revision, owner.revision_labels(revision)),
        spec: Some(ServiceSpec {
            selector: Some(selector),
            ports: Some(vec![ServicePort {
                target_port: Some(IntOrString::String(contract::PORT_HTTP.to_owned())),
                ..http_port()
            }]),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}

/// The Service by which clients in the cluster reach the model: another name of the router.
pub fn address(owner: &Owner, router: &str) -> Service {
    Service {
        metadata: owner.metadata(&owner.name, owner.labels()),
        spec: Some(ServiceSpec {
            type_: Some("ExternalName".to_owned()),
            external_name: Some(router.to_owned()),
            ports: Some(vec![http_port()]),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}

/// The router's name in the cluster's DNS.
pub fn router_host(router: &NamespacedName, cluster_domain: &str) -> String {
    format!("{}.{}.svc.{cluster_domain}", router.name, router.namespace)
}

fn http_port() -> ServicePort {
    ServicePort {
        name: Some(contract::PORT_HTTP.to_owned()),
        port: i32::from(contract::SERVICE_PORT),
        protocol: Some("TCP".to_owned()),
        ..ServicePort::default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::owner::tests::owner;

    #[test]
    fn a_revisions_service_leads_to_its_pods() {
        let service = json!(service(&owner(), "digits-1-a"));
        assert_eq!(
            service["spec"],
            json!({
                "selector": {
                    "sluice.dev/model-deployment": "digits", "sluice.dev/revision": "digits-1-a",
                },
                "ports": [{"name": "http", "port": 80, "protocol": "TCP", "targetPort": "http"}],
            })
        );
    }

    #[test]
    fn the_address_leads_to_the_router() {
        let router = NamespacedName {
            namespace: "s".to_owned(),
            name: "router".to_owned(),
        };
        let host = router_host(&router, "cluster.local");
        let service = address(&owner(), &host);
        assert!(owner().owns(&service.metadata));
        assert!(!owner().owns(&Service::default().metadata));
        let service = json!(service);
        assert_eq!(service["metadata"]["name"], "digits");
        assert_eq!(
            service["spec"]["externalName"],
            "router.s.svc.cluster.local"
        );
        assert_eq!(service["spec"]["type"], "ExternalName");
    }
}
