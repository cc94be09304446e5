//! A file server for model artifacts, in place of an object store.

use std::{
    net::{IpAddr, SocketAddr},
    path::{Component, Path, PathBuf},
};

use anyhow::Context as _;
use bytes::{Bytes, BytesMut};
use clap::Args;
use futures::stream;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Frame, Incoming};
use tokio::{fs::File, io::AsyncReadExt as _, net::TcpListener, sync::watch};

use crate::serve::{self, Answer, BoxError};

const CHUNK_BYTES: usize = 64 * 1024;

/// Serves the files of a folder over HTTP.
#[derive(Clone, Debug, Args)]
pub struct Files {
    /// The folder.
    #[arg(long)]
    pub dir: PathBuf,
    /// Port to listen on.
    #[arg(long, default_value_t = 8080)]
    pub port: u16,
    /// Address to listen on; in a pod, all of them.
    #[arg(long, default_value = "0.0.0.0")]
    pub address: IpAddr,
}

/// Serves until SIGTERM.
pub async fn run(args: Files) -> anyhow::Result<()> {
    let root = args
        .dir
        .canonicalize()
        .with_context(|| format!("cannot read the folder {}", args.dir.display()))?;
    let listener = serve::listen(args.address, args.port).await?;
    tracing::info!(port = args.port, dir = %root.display(), "serving files");
    serve_files(listener, serve::ended()?, root).await;
    Ok(())
}

/// Serves `root`, an absolute path without links in it, until `end` is true.
pub async fn serve_files(listener: TcpListener, end: watch::Receiver<bool>, root: PathBuf) {
    serve::serve(listener, end, move |request, peer| {
        let root = root.clone();
        async move { Ok(answer(&root, &request, peer).await) }
    })
    .await;
}

async fn answer(root: &Path, request: &Request<Incoming>, peer: SocketAddr) -> Answer {
    let answer = match *request.method() {
        Method::GET | Method::HEAD if request.uri().path() == "/healthz" => {
            serve::text(StatusCode::OK, "ok\n")
        }
        Method::GET | Method::HEAD => match open(root, request.uri().path()).await {
            Some((file, length)) => contents(file, length, request.method() == Method::HEAD),
            None => serve::text(StatusCode::NOT_FOUND, "no such file\n"),
        },
        _ => serve::text(StatusCode::METHOD_NOT_ALLOWED, "GET and HEAD only\n"),
    };
    tracing::info!(%peer, method = %request.method(), path = request.uri().path(), code = answer.status().as_u16());
    answer
}

/// The file that a path names, if it is one and lies in the folder, wherever links lead.
async fn open(root: &Path, path: &str) -> Option<(File, u64)> {
    let relative = relative(path)?;
    let real = tokio::fs::canonicalize(root.join(relative)).await.ok()?;
    if !real.starts_with(root) {
        return None;
    }
    let file = File::open(real).await.ok()?;
    let metadata = file.metadata().await.ok()?;
    metadata.is_file().then_some((file, metadata.len()))
}

/// A path below the folder. Percent-encoding is not decoded: artifacts have plain names.
fn relative(path: &str) -> Option<&Path> {
    let path = Path::new(path.strip_prefix('/')?);
    let plain = path
        .components()
        .all(|part| matches!(part, Component::Normal(_)));
    (plain && !path.as_os_str().is_empty()).then_some(path)
}

fn contents(file: File, length: u64, head_only: bool) -> Answer {
    let body = if head_only {
        serve::full(Bytes::new())
    } else {
        let chunks = stream::try_unfold(file, |mut file| async move {
            let mut chunk = BytesMut::with_capacity(CHUNK_BYTES);
            let read = file.read_buf(&mut chunk).await?;
            Ok::<_, BoxError>((read > 0).then(|| (Frame::data(chunk.freeze()), file)))
        });
        StreamBody::new(chunks).boxed_unsync()
    };
    let mut answer = Response::new(body);
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_LENGTH, length.into());
    headers.insert(
        header::CONTENT_TYPE,
        header::HeaderValue::from_static("application/octet-stream"),
    );
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_names_below_the_folder_are_paths() {
        assert_eq!(relative("/v1/model.onnx"), Some(Path::new("v1/model.onnx")));
        for refused in [
            "/",
            "",
            "/../etc/passwd",
            "/v1/../../x",
            "//etc/passwd",
            "v1",
        ] {
            assert_eq!(relative(refused), None, "{refused}");
        }
    }
}
