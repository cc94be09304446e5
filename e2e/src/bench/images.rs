//! How large the product's images are.

use std::{env, fs, path::Path};

use anyhow::{Context as _, ensure};

use crate::bench::{self, line::Line};

/// What a user's cluster runs.
const IMAGES: [&str; 3] = ["sluice-operator", "sluice-router", "sluice-inference-pod"];

/// One line for each image: its archive as it is built, layers without compression.
pub(crate) fn run() -> anyhow::Result<()> {
    let list = env::var("SLUICE_IMAGE_ARCHIVES")
        .context("SLUICE_IMAGE_ARCHIVES is not set: evaluate what `images/build` prints")?;
    let list = fs::read_to_string(&list).with_context(|| format!("cannot read {list}"))?;
    for name in IMAGES {
        let archive = list.lines().find(|path| is_of(path, name));
        let archive = archive.with_context(|| format!("there is no archive of {name}"))?;
        let metadata = fs::metadata(archive).with_context(|| format!("cannot read {archive}"))?;
        ensure!(metadata.len() > 0, "{archive} is empty");
        let bytes = u32::try_from(metadata.len()).context("an image of 4 GB or more")?;
        let line = Line::of(&format!("image.size.{name}"), "bytes", &[f64::from(bytes)]);
        bench::print(&line.context("nothing was measured")?)?;
    }
    Ok(())
}

/// Archives lie in folders named after the image and a hash of what is in it.
fn is_of(path: &str, name: &str) -> bool {
    let folder = Path::new(path).parent().and_then(Path::file_name);
    let folder = folder.and_then(|folder| folder.to_str());
    folder
        .and_then(|folder| folder.rsplit_once('-'))
        .is_some_and(|(image, _)| image == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_is_told_by_its_folder() {
        let path = "/cache/images/sluice-router-0123456789ab/image.tar";
        assert!(is_of(path, "sluice-router"));
        assert!(!is_of(path, "sluice"));
        assert!(!is_of("image.tar", "sluice-router"));
    }
}
