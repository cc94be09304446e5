//! A revision's name must not change between releases, or an upgrade would roll everything again.
//! Each file in `revisions/` is a spec as a user wrote it, with the name that it has had since it was
//! added. Adding a file adds a case; changing a name in one breaks users.
#![allow(
    clippy::tests_outside_test_module,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "integration tests"
)]

use std::{fs, path::Path};

use crds::{ModelDeployment, hash::revision_name};
use serde_json::Value;

#[test]
fn names_of_revisions_are_what_they_always_were() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/revisions");
    let mut seen = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        let written: Value = serde_yaml::from_str(&text).unwrap();
        let expected = written["metadata"]["annotations"]["revision"]
            .as_str()
            .unwrap();
        // Through the types and back, as the operator reads it: nothing may be lost on the way.
        let object: ModelDeployment = serde_json::from_value(written.clone()).unwrap();
        let name = object.metadata.name.unwrap();
        let actual = revision_name(&name, object.spec.model.raw(), object.spec.runtime.raw());
        assert_eq!(actual, expected, "{}", path.display());
        object.spec.model.read().unwrap();
        object.spec.runtime.read().unwrap();
        seen += 1;
    }
    assert!(seen >= 4, "the corpus is gone: {seen} files");
}
