//! The manifest proves purity: a client can creep into a module that calls itself pure, but not into
//! a crate whose dependencies have none.
#![allow(
    clippy::tests_outside_test_module,
    clippy::unwrap_used,
    clippy::panic,
    reason = "integration tests"
)]

use std::process::Command;

/// What does I/O, or brings it.
const IMPURE: [&str; 9] = [
    "tokio",
    "hyper",
    "kube-client",
    "kube-runtime",
    "reqwest",
    "rustls",
    "tracing-subscriber",
    "rand",
    "mio",
];

fn dependencies(package: &str) -> Vec<String> {
    let output = Command::new(env!("CARGO"))
        .args([
            "tree",
            "--offline",
            "--edges",
            "normal",
            "--prefix",
            "none",
            "--format",
            "{p}",
        ])
        .args(["--package", package])
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines()
        .filter_map(|line| line.split(' ').next())
        .map(str::to_owned)
        .collect()
}

fn check(package: &str, ours: &[&str]) {
    let found = dependencies(package);
    assert!(found.len() > 1, "cargo tree printed nothing for {package}");
    let impure: Vec<_> = found
        .iter()
        .filter(|name| IMPURE.contains(&name.as_str()))
        .collect();
    assert!(
        impure.is_empty(),
        "{package} must stay pure, and depends on {impure:?}"
    );
    let above = found
        .iter()
        .filter(|name| name.starts_with("sluice-") && *name != package);
    let above: Vec<_> = above
        .filter(|name| !ours.contains(&name.as_str()))
        .collect();
    assert!(above.is_empty(), "{package} must not know {above:?}");
}

#[test]
fn rollout_does_no_io() {
    check("sluice-rollout", &["sluice-crds", "sluice-verdict"]);
}

#[test]
fn verdict_does_no_io_and_knows_no_kubernetes() {
    check("sluice-verdict", &[]);
    assert!(
        !dependencies("sluice-verdict")
            .iter()
            .any(|name| name.starts_with("k8s"))
    );
}

#[test]
fn crds_bring_no_client() {
    check("sluice-crds", &[]);
}
