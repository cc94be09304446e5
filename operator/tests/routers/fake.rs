//! A router that says what a test lets it say.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use crds::contract::{Applied, FromLeader, FromRouter};
use serde_json::json;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};

/// A router behind a port of its own.
#[derive(Debug)]
pub(crate) struct Router {
    pub address: String,
    /// Each stream that was asked for.
    streams: mpsc::UnboundedReceiver<Stream>,
    /// What the leader said.
    led: mpsc::UnboundedReceiver<FromLeader>,
    pub answers: Arc<Mutex<Answers>>,
}

/// How it answers.
#[derive(Debug, Default)]
pub(crate) struct Answers {
    /// Whether it is too old to know a stream or a leader.
    pub is_old: bool,
    /// The status to what the leader says; none: 200.
    pub lead: Option<u16>,
    /// What it says when asked what it serves.
    pub applied: Applied,
    /// How often it was.
    pub asked: usize,
}

/// A stream that is being read.
#[derive(Debug)]
pub(crate) struct Stream {
    /// The header that the reader came with.
    pub bearer: Option<String>,
    /// What it asked for.
    pub query: String,
    connection: TcpStream,
}

impl Router {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (to_streams, streams) = mpsc::unbounded_channel();
        let (to_led, led) = mpsc::unbounded_channel();
        let answers = Arc::new(Mutex::new(Answers::default()));
        let shared = Arc::clone(&answers);
        tokio::spawn(async move {
            while let Ok((connection, _)) = listener.accept().await {
                let (streams, led) = (to_streams.clone(), to_led.clone());
                tokio::spawn(serve(connection, streams, led, Arc::clone(&shared)));
            }
        });
        Self {
            address,
            streams,
            led,
            answers,
        }
    }

    /// The next stream that is asked for.
    pub(crate) async fn stream(&mut self) -> Stream {
        self.streams.recv().await.unwrap()
    }

    /// The next stream that is asked for, with its greeting said.
    pub(crate) async fn greet(&mut self, boot: &str) -> Stream {
        let mut stream = self.stream().await;
        stream
            .say(&FromRouter::Hello {
                boot: boot.to_owned(),
                pod: format!("pod-{boot}"),
                version: "0.0.0".to_owned(),
            })
            .await;
        stream
    }

    /// The next word of the leader that is as the test wants it.
    pub(crate) async fn led(&mut self, is_meant: impl Fn(&FromLeader) -> bool) -> FromLeader {
        loop {
            let said = self.led.recv().await.unwrap();
            if is_meant(&said) {
                return said;
            }
        }
    }
}

impl Stream {
    pub(crate) async fn say(&mut self, line: &FromRouter) {
        let mut text = serde_json::to_vec(line).unwrap();
        text.push(b'\n');
        self.raw(&text).await;
    }

    /// Bytes as they are; whether the reader still takes them.
    pub(crate) async fn raw(&mut self, bytes: &[u8]) -> bool {
        self.connection.write_all(bytes).await.is_ok()
    }

    /// Waits until the reader has hung up.
    pub(crate) async fn hung_up(&mut self) {
        let mut rest = Vec::new();
        self.connection.read_to_end(&mut rest).await.ok();
    }
}

async fn serve(
    connection: TcpStream,
    streams: mpsc::UnboundedSender<Stream>,
    led: mpsc::UnboundedSender<FromLeader>,
    answers: Arc<Mutex<Answers>>,
) {
    let mut connection = BufReader::new(connection);
    let Some((path, headers)) = head(&mut connection).await else {
        return;
    };
    let is_old = answers.lock().unwrap().is_old;
    let (path, query) = path.split_once('?').unwrap_or((path.as_str(), ""));
    match path {
        "/v1/stream" if !is_old => {
            let mut connection = connection.into_inner();
            connection
                .write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n")
                .await
                .ok();
            let bearer = headers.get("authorization").cloned();
            let stream = Stream {
                bearer,
                query: query.to_owned(),
                connection,
            };
            streams.send(stream).ok();
        }
        "/v1/lead" if !is_old => {
            let length: usize = headers["content-length"].parse().unwrap();
            let mut body = vec![0; length];
            connection.read_exact(&mut body).await.unwrap();
            led.send(serde_json::from_slice(&body).unwrap()).ok();
            let status = answers.lock().unwrap().lead.unwrap_or(200);
            answer(connection, status, &json!({})).await;
        }
        "/applied" => {
            let applied = {
                let mut answers = answers.lock().unwrap();
                answers.asked += 1;
                json!(answers.applied)
            };
            answer(connection, 200, &applied).await;
        }
        _ => answer(connection, 404, &json!({})).await,
    }
}

/// The path and the headers of a request.
async fn head(connection: &mut BufReader<TcpStream>) -> Option<(String, BTreeMap<String, String>)> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if connection.read_line(&mut line).await.ok()? == 0 {
            return None;
        }
        match line.trim_end() {
            "" => break,
            line => lines.push(line.to_owned()),
        }
    }
    let path = lines.first()?.split(' ').nth(1)?.to_owned();
    let headers = lines.iter().filter_map(|line| line.split_once(": "));
    let headers = headers.map(|(name, value)| (name.to_lowercase(), value.to_owned()));
    Some((path, headers.collect()))
}

async fn answer(mut connection: BufReader<TcpStream>, status: u16, body: &serde_json::Value) {
    let body = body.to_string();
    let text = format!(
        "HTTP/1.1 {status} X\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    connection.write_all(text.as_bytes()).await.ok();
}
