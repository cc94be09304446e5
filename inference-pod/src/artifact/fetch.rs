//! The sources of artifacts, by the scheme of their address.

use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::fs::{self, File};
use tokio::io::AsyncReadExt;

use super::intake::Intake;
use super::{ArtifactError, file_name, is_folder};

const CHUNK: usize = 256 << 10;

/// Moves the bytes of an artifact into an [`Intake`].
pub(crate) trait Fetch: Send + Sync {
    /// Fetches the file or folder at this address.
    fn fetch<'a>(
        &'a self,
        uri: &'a str,
        into: &'a mut Intake,
    ) -> BoxFuture<'a, Result<(), ArtifactError>>;
}

/// The source for this address.
pub(crate) fn fetcher(uri: &str) -> Result<Box<dyn Fetch>, ArtifactError> {
    let refuse = |why: &str| Err(ArtifactError::Refused(format!("{uri}: {why}")));
    match uri.split_once("://") {
        Some(("file", path)) if path.starts_with('/') => Ok(Box::new(Local)),
        Some(("file", _)) => refuse("write file:///path, with three slashes"),
        Some(("http" | "https", _)) if is_folder(uri) => {
            refuse("a folder can not be fetched over http; name a file")
        }
        Some(("http" | "https", _)) => Ok(Box::new(Http)),
        Some(_) | None => refuse("no source for this scheme; use http, https or file"),
    }
}

/// Web servers.
struct Http;

impl Http {
    fn client(uri: &str) -> Result<reqwest::Client, ArtifactError> {
        let builder = reqwest::Client::builder()
            .connect_timeout(Duration::from_secs(10))
            .read_timeout(Duration::from_secs(30))
            .redirect(reqwest::redirect::Policy::limited(5));
        // An image without root certificates can still fetch in clear text: the digest is what
        // vouches for the bytes.
        let builder = if uri.starts_with("https:") {
            builder
        } else {
            builder.tls_certs_only([])
        };
        builder.build().map_err(|error| unavailable(uri, &error))
    }
}

impl Fetch for Http {
    fn fetch<'a>(
        &'a self,
        uri: &'a str,
        into: &'a mut Intake,
    ) -> BoxFuture<'a, Result<(), ArtifactError>> {
        Box::pin(async move {
            let response = Self::client(uri)?.get(uri).send().await;
            let mut response = response
                .and_then(reqwest::Response::error_for_status)
                .map_err(|error| unavailable(uri, &error))?;
            let mut file = into.file(file_name(uri)?).await?;
            while let Some(bytes) = response
                .chunk()
                .await
                .map_err(|error| unavailable(uri, &error))?
            {
                file.write(&bytes).await?;
            }
            file.finish().await
        })
    }
}

/// Files on a mounted volume.
struct Local;

impl Fetch for Local {
    fn fetch<'a>(
        &'a self,
        uri: &'a str,
        into: &'a mut Intake,
    ) -> BoxFuture<'a, Result<(), ArtifactError>> {
        Box::pin(async move {
            let path = Path::new(uri.strip_prefix("file://").unwrap_or(uri));
            if !is_folder(uri) {
                return copy(uri, path, file_name(uri)?, into).await;
            }
            for (name, path) in walk(uri, path).await? {
                copy(uri, &path, &name, into).await?;
            }
            Ok(())
        })
    }
}

/// Every file below a folder, with its path inside it.
async fn walk(uri: &str, root: &Path) -> Result<Vec<(String, PathBuf)>, ArtifactError> {
    let mut files = Vec::new();
    let mut folders = vec![(String::new(), root.to_owned())];
    while let Some((prefix, folder)) = folders.pop() {
        let mut entries = fs::read_dir(&folder)
            .await
            .map_err(|error| unavailable(uri, &error))?;
        while let Some(entry) = entries
            .next_entry()
            .await
            .map_err(|error| unavailable(uri, &error))?
        {
            let name = entry.file_name();
            let name = name.to_str().ok_or_else(|| {
                ArtifactError::Refused(format!("{}: name is not UTF-8", entry.path().display()))
            })?;
            let name = format!("{prefix}{name}");
            let kind = entry
                .file_type()
                .await
                .map_err(|error| unavailable(uri, &error))?;
            if kind.is_dir() {
                folders.push((format!("{name}/"), entry.path()));
            } else {
                files.push((name, entry.path()));
            }
        }
    }
    Ok(files)
}

async fn copy(uri: &str, from: &Path, name: &str, into: &mut Intake) -> Result<(), ArtifactError> {
    let kind = fs::symlink_metadata(from)
        .await
        .map_err(|error| unavailable(uri, &error))?;
    if !kind.is_file() {
        return Err(ArtifactError::Refused(format!(
            "{} is not a plain file; links are not followed",
            from.display()
        )));
    }
    let mut source = File::open(from)
        .await
        .map_err(|error| unavailable(uri, &error))?;
    let mut target = into.file(name).await?;
    let mut chunk = vec![0; CHUNK];
    loop {
        let read = source
            .read(&mut chunk)
            .await
            .map_err(|error| unavailable(uri, &error))?;
        match chunk.get(..read) {
            None | Some([]) => return target.finish().await,
            Some(bytes) => target.write(bytes).await?,
        }
    }
}

/// The error with the chain of its causes: `reqwest` keeps the telling part in there.
fn unavailable(uri: &str, error: &dyn std::error::Error) -> ArtifactError {
    let mut reason = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        reason = format!("{reason}: {inner}");
        cause = inner.source();
    }
    ArtifactError::Unavailable {
        uri: uri.to_owned(),
        reason,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_schemes_and_folders_over_http_are_refused() {
        for wrong in [
            "s3://b/k",
            "model.onnx",
            "http://h/folder/",
            "file://relative",
        ] {
            assert!(fetcher(wrong).is_err(), "{wrong}");
        }
        for right in [
            "http://h/m.onnx",
            "https://h/m.onnx",
            "file:///m.onnx",
            "file:///dir/",
        ] {
            assert!(fetcher(right).is_ok(), "{right}");
        }
    }
}
