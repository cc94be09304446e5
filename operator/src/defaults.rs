//! Objects of kinds that the chart itself installs (`GatewayClass`, Gateway, `MetricSource`): a chart
//! cannot install both at once, so the leader applies them from mounted files.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context as _;
use kube::{
    Api, Client, ResourceExt as _,
    api::{DynamicObject, Patch, PatchParams},
    core::GroupVersionKind,
    discovery::{self, Scope},
};
use serde::Deserialize as _;

const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_mins(1);

/// Applies every manifest of a folder, and tries again what fails until all are there.
pub async fn apply(client: &Client, folder: &Path, namespace: &str) {
    let mut pause = FIRST_PAUSE;
    while let Err(error) = apply_once(client, folder, namespace).await {
        report(&error);
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
    tracing::info!(folder = %folder.display(), "defaults applied");
}

fn report(error: &anyhow::Error) {
    tracing::error!(
        error = format!("{error:#}"),
        "cannot apply the defaults yet"
    );
}

/// Applies all that can be; the first failure is returned once the others had their turn.
async fn apply_once(client: &Client, folder: &Path, namespace: &str) -> anyhow::Result<()> {
    let mut outcome = Ok(());
    for (file, object) in read(folder)? {
        let applied = apply_object(client, object, namespace)
            .await
            .with_context(|| format!("{}", file.display()));
        outcome = outcome.and(applied);
    }
    outcome
}

async fn apply_object(client: &Client, object: DynamicObject, home: &str) -> anyhow::Result<()> {
    let types = object
        .types
        .as_ref()
        .context("apiVersion and kind are missing")?;
    let gvk = GroupVersionKind::try_from(types)?;
    let (resource, capabilities) = discovery::pinned_kind(client, &gvk)
        .await
        .with_context(|| format!("kind {} is not there yet", gvk.kind))?;
    let api: Api<DynamicObject> = match capabilities.scope {
        Scope::Cluster => Api::all_with(client.clone(), &resource),
        Scope::Namespaced => {
            let namespace = object.namespace().unwrap_or_else(|| home.to_owned());
            Api::namespaced_with(client.clone(), &namespace, &resource)
        }
    };
    let params = PatchParams::apply(crds::names::MANAGER_DEFAULTS).force();
    let name = object.name_any();
    api.patch(&name, &params, &Patch::Apply(&object))
        .await
        .with_context(|| format!("cannot apply {} {name}", gvk.kind))?;
    Ok(())
}

/// All documents of all YAML files in a folder, by file name.
fn read(folder: &Path) -> anyhow::Result<Vec<(PathBuf, DynamicObject)>> {
    let unreadable = || format!("cannot read {} (--defaults-dir)", folder.display());
    let mut files = std::fs::read_dir(folder)
        .with_context(unreadable)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<Vec<_>, _>>()
        .with_context(unreadable)?;
    files.retain(|file| {
        file.extension()
            .is_some_and(|ext| ext == "yaml" || ext == "yml")
    });
    files.sort();
    let mut objects = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(&file)
            .with_context(|| format!("cannot read {}", file.display()))?;
        let parsed = parse(&text).with_context(|| format!("cannot parse {}", file.display()))?;
        objects.extend(parsed.into_iter().map(|object| (file.clone(), object)));
    }
    Ok(objects)
}

fn parse(text: &str) -> anyhow::Result<Vec<DynamicObject>> {
    let mut objects = Vec::new();
    for document in serde_yaml::Deserializer::from_str(text) {
        let value = serde_yaml::Value::deserialize(document)?;
        // A file of nothing but comments is an empty document.
        if !value.is_null() {
            objects.push(serde_yaml::from_value(value)?);
        }
    }
    Ok(objects)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_may_hold_several_documents_and_empty_ones() {
        let text = "# nothing\n---\napiVersion: v1\nkind: A\nmetadata: {name: a}\nspec: {x: 1}\n\
                    ---\n---\napiVersion: v1\nkind: B\nmetadata: {name: b}\n";
        let objects = parse(text).unwrap();
        let names: Vec<_> = objects.iter().map(kube::ResourceExt::name_any).collect();
        assert_eq!(names, ["a", "b"]);
        assert_eq!(objects[0].data["spec"]["x"], 1);
    }
}
