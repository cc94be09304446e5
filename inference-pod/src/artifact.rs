//! Fetching the model artifact: nothing but bytes with the expected digest gets past here.
//!
//! A `Fetch` only moves bytes into an `Intake`; the intake bounds, hashes and stores them, so no
//! source can forget to.

mod digest;
mod fetch;
mod intake;

use std::path::{Path, PathBuf};

use tokio::fs;

pub(crate) use self::digest::Digest;
use self::fetch::fetcher;
use self::intake::Intake;

/// Where an artifact is and what it must be.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    /// Its address; a folder ends with a slash.
    pub(crate) uri: String,
    /// Its digest: of a file that of its bytes, of a folder that of its manifest.
    pub(crate) digest: Digest,
    /// The most bytes that are taken.
    pub(crate) max_bytes: u64,
    /// The folder it is written to.
    pub(crate) dir: PathBuf,
}

/// Why there is no artifact.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ArtifactError {
    /// The bytes are not the ones that were asked for.
    #[error("digest mismatch of {uri}: expected {expected}, got {got}")]
    Mismatch {
        /// The artifact's address.
        uri: String,
        /// The digest of the flags.
        expected: Digest,
        /// The digest of the bytes.
        got: Digest,
    },
    /// It is larger than allowed.
    #[error("artifact is larger than {limit} bytes; raise --max-artifact-bytes if that is meant")]
    TooLarge {
        /// The most bytes that are taken.
        limit: u64,
    },
    /// It can not be taken, however often one tries.
    #[error("{0}")]
    Refused(String),
    /// The source did not deliver; it may on the next try.
    #[error("fetching {uri}: {reason}")]
    Unavailable {
        /// The artifact's address.
        uri: String,
        /// What went wrong.
        reason: String,
    },
    /// The own disk failed.
    #[error("writing the artifact to {path}: {source}")]
    Disk {
        /// The file or folder.
        path: PathBuf,
        /// What went wrong.
        source: std::io::Error,
    },
}

impl ArtifactError {
    /// Whether another try may end differently.
    pub(crate) fn is_transient(&self) -> bool {
        match self {
            Self::Unavailable { .. } | Self::Disk { .. } => true,
            Self::Mismatch { .. } | Self::TooLarge { .. } | Self::Refused(_) => false,
        }
    }
}

/// Fetches and checks the artifact; gives the path of the file or folder.
pub(crate) async fn obtain(source: &Source) -> Result<PathBuf, ArtifactError> {
    let fetch = fetcher(&source.uri)?;
    let incoming = source.dir.join("incoming");
    clear(&incoming).await?;
    let mut intake = Intake::new(&incoming, source.max_bytes);
    fetch.fetch(&source.uri, &mut intake).await?;
    let got = intake.finish(is_folder(&source.uri))?;
    if got != source.digest {
        clear(&incoming).await?;
        return Err(ArtifactError::Mismatch {
            uri: source.uri.clone(),
            expected: source.digest,
            got,
        });
    }
    let checked = source.dir.join("artifact");
    clear(&checked).await?;
    fs::rename(&incoming, &checked)
        .await
        .map_err(disk(&checked))?;
    Ok(if is_folder(&source.uri) {
        checked
    } else {
        checked.join(file_name(&source.uri)?)
    })
}

/// Whether the address names a folder.
fn is_folder(uri: &str) -> bool {
    uri.ends_with('/')
}

/// The last part of the address, without its query.
fn file_name(uri: &str) -> Result<&str, ArtifactError> {
    let path = uri.split(['?', '#']).next().unwrap_or(uri);
    match path.rsplit('/').next() {
        Some(name) if !name.is_empty() && name != "." && name != ".." => Ok(name),
        Some(_) | None => Err(ArtifactError::Refused(format!("{uri} names no file"))),
    }
}

async fn clear(dir: &Path) -> Result<(), ArtifactError> {
    match fs::remove_dir_all(dir).await {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(disk(dir)(error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn disk(path: &Path) -> impl FnOnce(std::io::Error) -> ArtifactError + use<> {
    let path = path.to_owned();
    move |source| ArtifactError::Disk { path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_name_is_the_last_part_of_the_path() {
        assert_eq!(
            file_name("http://h/v1/model.onnx?token=a/b").unwrap(),
            "model.onnx"
        );
        assert_eq!(file_name("file:///m.onnx").unwrap(), "m.onnx");
        file_name("http://h/..").unwrap_err();
    }

    #[test]
    fn only_a_source_that_did_not_deliver_is_tried_again() {
        let unavailable = ArtifactError::Unavailable {
            uri: "u".to_owned(),
            reason: "r".to_owned(),
        };
        assert!(unavailable.is_transient());
        assert!(!ArtifactError::TooLarge { limit: 1 }.is_transient());
        assert!(!ArtifactError::Refused(String::new()).is_transient());
    }
}
