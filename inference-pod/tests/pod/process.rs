//! Starts pods and talks to them, over plain sockets: a test decides every byte.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// Nothing here takes longer, even on a busy machine.
const PATIENCE: Duration = Duration::from_mins(1);

/// A running pod; it ends with its test.
pub(crate) struct Pod {
    child: Child,
    pub(crate) address: SocketAddr,
    _data: Scratch,
}

impl Pod {
    /// One with these flags, as soon as it listens.
    pub(crate) fn listening(flags: &[&str]) -> Self {
        let data = Scratch::new();
        let mut child = Command::new(env!("CARGO_BIN_EXE_sluice-inference-pod"))
            .args(["--model-name", "m", "--address", "127.0.0.1", "--port", "0"])
            .args(["--log-format", "json", "--data-dir"])
            .arg(&data.0)
            .args(flags)
            .env("SLUICE_DRAIN_DELAY", "0")
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (said, address) = mpsc::channel();
        let logs = BufReader::new(child.stderr.take().unwrap());
        thread::spawn(move || {
            for line in logs.lines().map_while(Result::ok) {
                let line: Value = serde_json::from_str(&line).unwrap_or_default();
                if let Some(address) = line["address"].as_str() {
                    said.send(address.parse::<SocketAddr>().unwrap()).unwrap();
                }
            }
        });
        let address = address
            .recv_timeout(PATIENCE)
            .expect("the pod says where it listens");
        Self {
            child,
            address,
            _data: data,
        }
    }

    /// One with these flags, as soon as it is ready.
    pub(crate) fn ready(flags: &[&str]) -> Self {
        let pod = Self::listening(flags);
        until("the pod is ready", || {
            pod.get("/v2/health/ready").status == 200
        });
        pod
    }

    /// A sim with these further flags.
    pub(crate) fn sim(flags: &[&str]) -> Self {
        Self::ready(&[&["--engine", "sim"], flags].concat())
    }

    /// A sim with these further flags that takes so long over each request. It warms up quickly: that
    /// takes several requests, none of which a test looks at.
    pub(crate) fn slow_sim(alpha: &str, flags: &[&str]) -> Self {
        let pod = Self::sim(&[&["--sim-control"], flags].concat());
        let slow = json!({"alpha": alpha}).to_string();
        assert_eq!(pod.post("/sim", slow.as_bytes()).status, 200);
        pod
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        self.request("GET", path, &[], b"")
    }

    pub(crate) fn post(&self, path: &str, body: &[u8]) -> Answer {
        self.request("POST", path, &[("content-type", "application/json")], body)
    }

    pub(crate) fn infer(&self, request: &Value) -> Answer {
        self.post("/v2/models/m/infer", request.to_string().as_bytes())
    }

    pub(crate) fn request(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Answer {
        let mut stream = self.connect();
        stream
            .write_all(&head(method, path, headers, body.len()))
            .unwrap();
        // A pod may answer and close before it has read everything.
        drop(stream.write_all(body));
        answer(stream)
    }

    pub(crate) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// The value of the first series whose name and labels contain all of these.
    pub(crate) fn metric(&self, parts: &[&str]) -> Option<usize> {
        let text = self.get("/metrics").text();
        let line = text
            .lines()
            .find(|line| parts.iter().all(|part| line.contains(part)))?;
        line.rsplit(' ').next()?.parse().ok()
    }

    /// The most memory that it ever held, in bytes.
    pub(crate) fn peak_memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:"))
            .unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }

    pub(crate) fn terminate(&self) {
        let pid = self.child.id().to_string();
        assert!(
            Command::new("kill")
                .args(["-TERM", &pid])
                .status()
                .unwrap()
                .success()
        );
    }

    /// Waits until it has ended.
    pub(crate) fn end(&mut self) -> ExitStatus {
        let mut status = None;
        until("the pod has ended", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap()
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// An HTTP answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    head: String,
    body: Vec<u8>,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("not JSON: {self:?}"))
    }

    pub(crate) fn error(&self) -> String {
        self.json()["error"]
            .as_str()
            .unwrap_or_else(|| panic!("no error: {self:?}"))
            .to_owned()
    }
}

/// The head of a request that asks for the connection to be closed after it.
pub(crate) fn head(method: &str, path: &str, headers: &[(&str, &str)], length: usize) -> Vec<u8> {
    let mut lines = vec![format!(
        "{method} {path} HTTP/1.1\r\nhost: pod\r\nconnection: close\r\n"
    )];
    if !headers.iter().any(|(name, _)| *name == "transfer-encoding") {
        lines.push(format!("content-length: {length}\r\n"));
    }
    lines.extend(
        headers
            .iter()
            .map(|(name, value)| format!("{name}: {value}\r\n")),
    );
    lines.push("\r\n".to_owned());
    lines.concat().into_bytes()
}

/// Reads an answer up to the end of the connection.
pub(crate) fn answer(mut stream: TcpStream) -> Answer {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    let end = bytes
        .windows(4)
        .position(|four| four == b"\r\n\r\n")
        .expect("an answer's head");
    let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer {
        status,
        head,
        body: bytes[end + 4..].to_vec(),
    }
}

/// A request for one image of zeros and `id`.
pub(crate) fn image_request(id: &str) -> Value {
    json!({
        "id": id,
        "inputs": [{"name": "image", "shape": [1, 64], "datatype": "FP32", "data": vec![0.0; 64]}],
    })
}

/// The digits of a sha256.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    use sha2::Digest;
    let digits: Vec<String> = sha2::Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    digits.concat()
}

/// Waits for a condition.
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < PATIENCE, "waited in vain until {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// An own folder; it goes with its test.
pub(crate) struct Scratch(pub(crate) std::path::PathBuf);

impl Scratch {
    pub(crate) fn new() -> Self {
        use std::sync::atomic::{AtomicU32, Ordering};
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "pod-{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

/// A web server that answers each connection with the next of these statuses, the last for ever,
/// and this body.
pub(crate) fn web_server(statuses: &'static [&'static str], body: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for (index, stream) in listener.incoming().map_while(Result::ok).enumerate() {
            let mut stream = stream;
            let mut line = String::new();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            while reader.read_line(&mut line).is_ok_and(|read| read > 2) {
                line.clear();
            }
            let status = statuses[index.min(statuses.len() - 1)];
            let length = body.len();
            let head = format!(
                "HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n"
            );
            drop(stream.write_all(head.as_bytes()));
            drop(stream.write_all(body));
        }
    });
    address
}
