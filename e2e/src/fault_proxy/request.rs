//! What a request to the API server is about, read from its method and path.

use serde::{Deserialize, Serialize};

/// A request to the API server that changes something.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// POST, PUT, PATCH or DELETE.
    pub verb: String,
    /// Plural of the kind, with the subresource: `modeldeployments/status`.
    pub resource: String,
    /// The namespace, if there is one.
    #[serde(default)]
    pub namespace: String,
    /// The name, if the path has one.
    #[serde(default)]
    pub name: String,
}

impl Target {
    /// Reads a request; none if it changes nothing or is about no object.
    pub fn read(verb: &str, path: &str) -> Option<Self> {
        if !matches!(verb, "POST" | "PUT" | "PATCH" | "DELETE") {
            return None;
        }
        let mut parts = path.trim_matches('/').split('/');
        match parts.next()? {
            "api" => parts.next()?,
            "apis" => parts.nth(1)?,
            _ => return None,
        };
        let rest: Vec<&str> = parts.collect();
        let (namespace, rest) = match rest.as_slice() {
            // `namespaces/NAME` and its own subresources are about the namespace itself.
            ["namespaces", _] | ["namespaces", _, "status" | "finalize"] => ("", rest.as_slice()),
            ["namespaces", namespace, rest @ ..] => (*namespace, rest),
            rest => ("", rest),
        };
        let (resource, name) = match rest {
            [resource] => ((*resource).to_owned(), ""),
            [resource, name] => ((*resource).to_owned(), *name),
            [resource, name, sub, ..] => (format!("{resource}/{sub}"), *name),
            [] => return None,
        };
        Some(Self {
            verb: verb.to_owned(),
            resource,
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        })
    }
}

/// Which requests are meant. What is empty matches all; verbs are separated by `|`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Match {
    /// Such as `PATCH` or `POST|PUT`.
    #[serde(default)]
    pub verb: String,
    /// Such as `httproutes` or `modeldeployments/status`.
    #[serde(default)]
    pub resource: String,
    /// The namespace.
    #[serde(default)]
    pub namespace: String,
    /// The name in the path: a POST has none.
    #[serde(default)]
    pub name: String,
}

impl Match {
    /// Whether a request is meant.
    pub fn matches(&self, target: &Target) -> bool {
        let same = |wanted: &str, value: &str| wanted.is_empty() || wanted == value;
        (self.verb.is_empty() || self.verb.split('|').any(|verb| verb == target.verb))
            && same(&self.resource, &target.resource)
            && same(&self.namespace, &target.namespace)
            && same(&self.name, &target.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(verb: &str, path: &str) -> Option<[String; 4]> {
        let Target {
            verb,
            resource,
            namespace,
            name,
        } = Target::read(verb, path)?;
        Some([verb, resource, namespace, name])
    }

    #[test]
    fn a_write_is_read_from_its_path() {
        let table = [
            (
                "POST",
                "/api/v1/namespaces/ml/services",
                ["POST", "services", "ml", ""],
            ),
            (
                "PATCH",
                "/apis/apps/v1/namespaces/ml/deployments/d",
                ["PATCH", "deployments", "ml", "d"],
            ),
            (
                "PUT",
                "/apis/sluice.dev/v1alpha1/namespaces/ml/modeldeployments/digits/status",
                ["PUT", "modeldeployments/status", "ml", "digits"],
            ),
            (
                "PATCH",
                "/apis/gateway.networking.k8s.io/v1/gatewayclasses/sluice",
                ["PATCH", "gatewayclasses", "", "sluice"],
            ),
            (
                "DELETE",
                "/api/v1/namespaces/ml",
                ["DELETE", "namespaces", "", "ml"],
            ),
            (
                "PUT",
                "/api/v1/namespaces/ml/finalize",
                ["PUT", "namespaces/finalize", "", "ml"],
            ),
            (
                "POST",
                "/apis/events.k8s.io/v1/namespaces/ml/events",
                ["POST", "events", "ml", ""],
            ),
        ];
        for (verb, path, want) in table {
            assert_eq!(
                read(verb, path),
                Some(want.map(str::to_owned)),
                "{verb} {path}"
            );
        }
    }

    #[test]
    fn reads_and_other_paths_are_no_writes() {
        assert_eq!(read("GET", "/api/v1/namespaces/ml/services"), None);
        assert_eq!(read("POST", "/version"), None);
        assert_eq!(read("POST", "/api/v1"), None);
    }

    #[test]
    fn what_is_left_open_matches_all() {
        let target = Target::read("PATCH", "/api/v1/namespaces/ml/services/digits").unwrap();
        let matcher = |verb: &str, resource: &str, name: &str| Match {
            verb: verb.to_owned(),
            resource: resource.to_owned(),
            namespace: String::new(),
            name: name.to_owned(),
        };
        assert!(Match::default().matches(&target));
        assert!(matcher("POST|PATCH", "services", "").matches(&target));
        assert!(!matcher("POST", "services", "").matches(&target));
        assert!(!matcher("", "services/status", "").matches(&target));
        assert!(!matcher("", "", "other").matches(&target));
    }
}
