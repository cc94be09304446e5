//! Nothing but the right bytes is ever served.

use std::fs;

use crate::process::{Pod, Scratch, image_request, sha256, until, web_server};

fn flags<'a>(uri: &'a str, digest: &'a str) -> [&'a str; 6] {
    [
        "--engine",
        "sim",
        "--model-uri",
        uri,
        "--model-digest",
        digest,
    ]
}

#[test]
fn a_wrong_digest_never_gets_ready_and_says_both() {
    let (want, got) = (sha256(b"the model"), sha256(b"another model"));
    let uri = format!(
        "http://{}/m.onnx",
        web_server(&["200 OK"], b"another model")
    );
    let pod = Pod::listening(&flags(&uri, &format!("sha256:{want}")));
    until("the mismatch is found", || {
        let ready = pod.get("/v2/health/ready");
        assert_eq!(ready.status, 503);
        let why = ready.json()["reason"].as_str().unwrap().to_owned();
        why.contains("mismatch") && why.contains(&want) && why.contains(&got)
    });
    assert_eq!(
        pod.get("/v2/health/live").status,
        200,
        "a restart would only hide it"
    );
    let refused = pod.infer(&image_request("x"));
    assert_eq!(refused.status, 503);
    assert!(refused.error().contains("mismatch"));
    assert_eq!(pod.get("/v2/models/m/ready").status, 503);
}

#[test]
fn a_source_that_fails_at_first_is_asked_again() {
    let statuses = &["503 Service Unavailable", "404 Not Found", "200 OK"];
    let uri = format!("http://{}/m.onnx", web_server(statuses, b"the model"));
    let pod = Pod::ready(&flags(&uri, &format!("sha256:{}", sha256(b"the model"))));
    assert_eq!(pod.infer(&image_request("x")).status, 200);
}

#[test]
fn a_pod_without_its_artifact_is_alive_but_not_ready() {
    let pod = Pod::listening(&flags(
        "http://127.0.0.1:1/m.onnx",
        &format!("sha256:{}", sha256(b"")),
    ));
    until("it says what it waits for", || {
        pod.get("/v2/health/ready")
            .text()
            .contains("http://127.0.0.1:1/m.onnx: ")
    });
    assert_eq!(pod.get("/v2/health/live").status, 200);
    let refused = pod.infer(&image_request("x"));
    assert_eq!(
        (refused.status, refused.header("retry-after")),
        (503, Some("1"))
    );
    assert_eq!(
        pod.metric(&["sluice_pod_rejected_total", "reason=\"not_ready\""]),
        Some(1)
    );
}

#[test]
fn a_folder_is_checked_by_its_manifest() {
    let folder = Scratch::new();
    fs::create_dir(folder.0.join("1")).unwrap();
    fs::write(folder.0.join("config.pbtxt"), b"x").unwrap();
    fs::write(folder.0.join("1/model.onnx"), b"the model").unwrap();
    let manifest = format!(
        "1/model.onnx 9 {}\nconfig.pbtxt 1 {}\n",
        sha256(b"the model"),
        sha256(b"x")
    );
    let uri = format!("file://{}/", folder.0.display());
    let digest = format!("sha256:{}", sha256(manifest.as_bytes()));
    drop(Pod::ready(&flags(&uri, &digest)));

    fs::write(folder.0.join("1/extra"), b"").unwrap();
    fails(&flags(&uri, &digest), "mismatch");
}

#[test]
fn links_pickles_and_excess_bytes_are_refused() {
    let folder = Scratch::new();
    let digest = format!("sha256:{}", sha256(b"the model"));
    let uri = |name: &str| format!("file://{}/{name}", folder.0.display());
    fs::write(folder.0.join("m.onnx"), b"the model").unwrap();
    fs::write(folder.0.join("m.pkl"), b"the model").unwrap();
    std::os::unix::fs::symlink(folder.0.join("m.onnx"), folder.0.join("link.onnx")).unwrap();

    fails(&flags(&uri("link.onnx"), &digest), "not a plain file");
    fails(&flags(&uri("m.pkl"), &digest), "pickle");
    let whole = uri("m.onnx");
    let small = [&flags(&whole, &digest)[..], &["--max-artifact-bytes", "8"]].concat();
    fails(&small, "larger than 8 bytes");
}

fn fails(flags: &[&str], says: &str) {
    let pod = Pod::listening(flags);
    until(says, || pod.get("/v2/health/ready").text().contains(says));
    assert_eq!(pod.get("/v2/health/ready").status, 503);
}
