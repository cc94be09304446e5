//! The only way for an artifact's bytes onto the disk: bounded, hashed, under safe names.

use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};
use tokio::fs::{self, File};
use tokio::io::AsyncWriteExt;

use super::digest::{Digest, Entry, manifest};
use super::{ArtifactError, disk};

/// Takes the files of one artifact.
#[derive(Debug)]
pub(crate) struct Intake {
    dir: PathBuf,
    limit: u64,
    taken: u64,
    entries: Vec<Entry>,
}

impl Intake {
    /// An empty one that writes into `dir` and takes at most `limit` bytes.
    pub(crate) fn new(dir: &Path, limit: u64) -> Self {
        Self {
            dir: dir.to_owned(),
            limit,
            taken: 0,
            entries: Vec::new(),
        }
    }

    /// Begins a file at a path inside the artifact.
    pub(crate) async fn file(&mut self, path: &str) -> Result<IntakeFile<'_>, ArtifactError> {
        check_path(path)?;
        let target = self.dir.join(path);
        let parent = target.parent().unwrap_or(&self.dir);
        fs::create_dir_all(parent).await.map_err(disk(parent))?;
        let file = File::create_new(&target).await.map_err(disk(&target))?;
        let path = path.to_owned();
        Ok(IntakeFile {
            intake: self,
            file,
            target,
            path,
            size: 0,
            hasher: Sha256::new(),
        })
    }

    /// The digest of what was taken.
    pub(crate) fn finish(self, folder: bool) -> Result<Digest, ArtifactError> {
        match self.entries.as_slice() {
            [] => Err(ArtifactError::Refused(
                "the artifact has no files".to_owned(),
            )),
            [only] if !folder => Ok(only.digest),
            entries => Ok(manifest(entries)),
        }
    }
}

/// One file on its way in.
#[derive(Debug)]
pub(crate) struct IntakeFile<'a> {
    intake: &'a mut Intake,
    file: File,
    target: PathBuf,
    path: String,
    size: u64,
    hasher: Sha256,
}

impl IntakeFile<'_> {
    /// Takes the next bytes.
    pub(crate) async fn write(&mut self, bytes: &[u8]) -> Result<(), ArtifactError> {
        let more = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        self.intake.taken = self.intake.taken.saturating_add(more);
        self.size = self.size.saturating_add(more);
        if self.intake.taken > self.intake.limit {
            return Err(ArtifactError::TooLarge {
                limit: self.intake.limit,
            });
        }
        self.hasher.update(bytes);
        self.file.write_all(bytes).await.map_err(disk(&self.target))
    }

    /// Ends the file.
    pub(crate) async fn finish(mut self) -> Result<(), ArtifactError> {
        self.file.flush().await.map_err(disk(&self.target))?;
        let digest = Digest::of_hasher(self.hasher);
        self.intake.entries.push(Entry {
            path: self.path,
            size: self.size,
            digest,
        });
        Ok(())
    }
}

/// Refuses paths that leave the folder and formats that run code when they are loaded.
fn check_path(path: &str) -> Result<(), ArtifactError> {
    let refuse = |why: &str| {
        Err(ArtifactError::Refused(format!(
            "artifact file {path:?}: {why}"
        )))
    };
    if path.split('/').any(|part| matches!(part, "" | "." | "..")) || path.contains(['\\', '\n']) {
        return refuse("not a plain path inside the artifact");
    }
    let extension = Path::new(path)
        .extension()
        .and_then(|extension| extension.to_str());
    match extension.map(str::to_ascii_lowercase).as_deref() {
        Some("pkl" | "pickle" | "pt" | "pth" | "joblib") => {
            refuse("pickle runs code when it is loaded; export to ONNX")
        }
        Some(_) | None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_leave_the_artifact_are_refused() {
        for wrong in [
            "",
            "..",
            "a/../b",
            "/etc/passwd",
            "a//b",
            "a\\b",
            "./a",
            "a\nb",
        ] {
            assert!(check_path(wrong).is_err(), "{wrong:?}");
        }
        check_path("1/model.onnx").unwrap();
    }

    #[test]
    fn pickle_is_refused() {
        assert!(check_path("model.PKL").is_err());
    }
}
