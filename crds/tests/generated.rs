//! The chart's CRDs are generated from the types; this test is the generator and its check.
#![allow(
    clippy::tests_outside_test_module,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "integration tests"
)]

use std::{fs, path::PathBuf};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt as _;

fn rendered(crd: &CustomResourceDefinition) -> String {
    let yaml = serde_yaml::to_string(crd).unwrap();
    // Helm reads braces; a CRD's text must hold none that it would take for its own.
    assert!(
        !yaml.contains("{{"),
        "a description holds {{{{, which Helm would read"
    );
    let kept = yaml.replacen(
        "metadata:\n",
        "metadata:\n  annotations:\n    helm.sh/resource-policy: keep\n  labels:\n    app.kubernetes.io/part-of: sluice\n",
        1,
    );
    format!(
        "# Generated from crds/ by `make crds`. Do not edit.\n{{{{- if .Values.crds.install }}}}\n{kept}{{{{- end }}}}\n"
    )
}

fn check(crd: &CustomResourceDefinition) {
    let plural = &crd.spec.names.plural;
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join(format!("../charts/sluice/templates/crds/{plural}.yaml"));
    let want = rendered(crd);
    if std::env::var_os("UPDATE").is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, want).unwrap();
        return;
    }
    let have = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        have == want,
        "{} differs from the types: run `make crds`",
        path.display()
    );
}

#[test]
fn model_deployment_crd_matches_its_type() {
    check(&crds::ModelDeployment::crd());
}

#[test]
fn metric_source_crd_matches_its_type() {
    check(&crds::MetricSource::crd());
}
