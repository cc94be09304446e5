//! What the pod says matches what the other programs expect of it.

use crds::contract::{
    METRIC_LABEL_MODEL_DEPLOYMENT, METRIC_LABEL_REVISION, METRIC_POD_DURATION, METRIC_POD_REQUESTS,
    PATH_METRICS, PATH_POD_LIVE, PATH_POD_READY, POD_PORT, latency_edges,
};

use crate::process::{Pod, image_request};

#[test]
fn metrics_have_the_names_labels_and_edges_of_the_contract() {
    let pod = Pod::sim(&["--model-deployment", "digits", "--revision", "digits-1-abc"]);
    assert_eq!(pod.infer(&image_request("x")).status, 200);
    let text = pod.get(PATH_METRICS).text();
    let labels = format!(
        "{METRIC_LABEL_MODEL_DEPLOYMENT}=\"digits\",{METRIC_LABEL_REVISION}=\"digits-1-abc\""
    );
    let begins = [
        METRIC_POD_REQUESTS.to_owned(),
        format!("{METRIC_POD_DURATION}_bucket"),
    ];
    for name in begins {
        let series = format!("{name}{{");
        let lines: Vec<&str> = text
            .lines()
            .filter(|line| line.starts_with(&series))
            .collect();
        assert!(!lines.is_empty(), "no {name} in {text}");
        assert!(lines.iter().all(|line| line.contains(&labels)), "{lines:?}");
        assert!(
            lines.iter().all(|line| line.contains("class=\"online\"")),
            "{lines:?}"
        );
    }
    let bucket = format!("{METRIC_POD_DURATION}_bucket");
    let edges: Vec<f64> = text
        .lines()
        .filter(|line| line.starts_with(&bucket))
        .filter_map(|line| line.split("le=\"").nth(1)?.split('"').next()?.parse().ok())
        .filter(|edge: &f64| edge.is_finite())
        .collect();
    assert_eq!(edges, latency_edges());
}

#[test]
fn health_is_where_the_probes_look() {
    let pod = Pod::sim(&[]);
    assert_eq!(pod.get(PATH_POD_LIVE).status, 200);
    assert_eq!(pod.get(PATH_POD_READY).status, 200);
}

#[test]
fn the_default_port_is_the_one_that_services_point_at() {
    let help = std::process::Command::new(env!("CARGO_BIN_EXE_sluice-inference-pod"))
        .arg("--help")
        .output()
        .unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let port = help.split("SLUICE_PORT").nth(1).unwrap();
    let default = port.split("[default: ").nth(1).unwrap();
    assert!(default.starts_with(&format!("{POD_PORT}]")), "{help}");
}
