//! The load driver and the file server against each other, without a cluster.
#![allow(clippy::tests_outside_test_module, reason = "integration tests")]
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test fails by a panic"
)]

use std::{fs, net::SocketAddr, path::PathBuf};

use clap::Parser;
use sluice_e2e::{
    files,
    load::{self, log::Entry, stats::Stats},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};

#[derive(Parser)]
struct Flags {
    #[command(flatten)]
    load: load::Load,
}

struct Running {
    address: SocketAddr,
    end: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Running {
    async fn end(self) {
        self.end.send_replace(true);
        self.task.await.unwrap();
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }
}

fn client() -> reqwest::Client {
    // The second call finds the first one's provider.
    rustls::crypto::ring::default_provider()
        .install_default()
        .unwrap_or_default();
    reqwest::Client::new()
}

/// Sends bytes that a client would tidy up first.
async fn raw(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

async fn serve_files(root: PathBuf) -> Running {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (end, ended) = watch::channel(false);
    let task = tokio::spawn(files::serve_files(listener, ended, root));
    Running { address, end, task }
}

async fn drive(flags: &[&str]) -> Running {
    let args = Flags::parse_from(["load"].iter().chain(flags)).load;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (end, ended) = watch::channel(false);
    let task = tokio::spawn(async move { load::run_on(args, listener, ended).await.unwrap() });
    Running { address, end, task }
}

fn folder(name: &str) -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    fs::create_dir_all(folder.join("below")).unwrap();
    fs::write(folder.join("below/model.bin"), vec![7_u8; 300_000]).unwrap();
    folder.canonicalize().unwrap()
}

#[tokio::test]
async fn files_are_served_whole_and_only_from_below_the_folder() {
    let root = folder("files");
    std::os::unix::fs::symlink("/etc/hostname", root.join("outside")).unwrap_or_default();
    let server = serve_files(root).await;
    let client = client();
    let get = async |path: &str| client.get(server.url(path)).send().await.unwrap();
    let whole = get("/below/model.bin").await;
    assert_eq!(whole.content_length(), Some(300_000));
    assert_eq!(whole.bytes().await.unwrap().as_ref(), vec![7_u8; 300_000]);
    let head = client
        .head(server.url("/below/model.bin"))
        .send()
        .await
        .unwrap();
    assert_eq!(head.headers()["content-length"], "300000");
    for refused in ["/below", "/none", "/outside"] {
        let answer = get(refused).await;
        assert_eq!(answer.status().as_u16(), 404, "{refused}");
    }
    let upwards = "GET /../files/below/model.bin HTTP/1.0\r\n\r\n";
    let answer = raw(server.address, upwards).await;
    assert!(answer.starts_with("HTTP/1.0 404"), "{answer}");
    let post = client
        .post(server.url("/below/model.bin"))
        .send()
        .await
        .unwrap();
    assert_eq!(post.status().as_u16(), 405);
    server.end().await;
}

#[tokio::test]
async fn every_request_is_in_the_log_and_in_the_counts() {
    let server = serve_files(folder("load")).await;
    // The file server refuses a POST with 405: an answer, and one that names no revision.
    let target = format!("http://{}", server.address);
    let driver = drive(&[
        "--target", &target, "--path", "/predict", "--body", "{}", "--rate", "500",
    ])
    .await;
    let stats = async |path: &str| -> Stats {
        let client = client();
        let request = if path == "/stop" {
            client.post(driver.url(path))
        } else {
            client.get(driver.url(path))
        };
        serde_json::from_slice(&request.send().await.unwrap().bytes().await.unwrap()).unwrap()
    };
    while stats("/stats").await.ended < 100 {
        tokio::task::yield_now().await;
    }
    let last = stats("/stop").await;
    assert!(last.stopped);
    assert_eq!(last.in_flight, 0);
    assert_eq!(last.unattributed_codes[&405], last.ended);
    assert_eq!(
        (last.unattributed, last.unanswered, last.failed()),
        (last.ended, 0, last.ended)
    );
    let mut entries: Vec<Entry> = Vec::new();
    loop {
        let path = format!("/log?since={}&limit=30", entries.len());
        let text = client()
            .get(driver.url(&path))
            .send()
            .await
            .unwrap()
            .text()
            .await
            .unwrap();
        let page: Vec<Entry> = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        if page.is_empty() {
            break;
        }
        entries.extend(page);
    }
    assert_eq!(u64::try_from(entries.len()).unwrap(), last.ended);
    assert_eq!(stats("/stats").await, last, "nothing is sent after a stop");
    driver.end().await;
    server.end().await;
}

#[tokio::test]
async fn a_server_that_is_not_there_gives_code_0_and_the_reason() {
    let free = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let target = format!("http://{free}");
    let driver = drive(&["--target", &target, "--rate", "200", "--fresh", "1"]).await;
    let mut entries = Vec::new();
    while entries.is_empty() {
        let text = client()
            .get(driver.url("/log"))
            .send()
            .await
            .unwrap()
            .text()
            .await
            .unwrap();
        entries = text
            .lines()
            .map(|line| serde_json::from_str::<Entry>(line).unwrap())
            .collect();
    }
    assert_eq!(entries[0].code, 0);
    let error = entries[0].error.clone().unwrap();
    assert!(error.contains("refused"), "{error}");
    driver.end().await;
}
