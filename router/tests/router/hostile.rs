//! Clients and pods that mean harm, or might as well.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::{Method, StatusCode};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::backend::{OK, named, raw, read_request, write};
use crate::objects::{edited, objects, plain_route, split_route};
use crate::world::{World, body, request, until};

const HOST: &str = "host: digits.example.com\r\n";

/// What a client is answered, up to the end of the connection.
async fn ask(world: &World, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(world.address).await.unwrap();
    // A refusal may come before all was written.
    stream.write_all(bytes).await.ok();
    let mut answer = Vec::new();
    let reading = stream.read_to_end(&mut answer);
    let read = tokio::time::timeout(Duration::from_secs(5), reading).await;
    read.expect("an end").ok();
    String::from_utf8_lossy(&answer).into_owned()
}

/// A pod that tells what it got on each connection, and answers each head.
async fn listening() -> (
    std::net::SocketAddr,
    tokio::sync::mpsc::UnboundedReceiver<String>,
) {
    let (told, heard) = tokio::sync::mpsc::unbounded_channel();
    let address = raw(move |_, mut stream| {
        let told = told.clone();
        async move {
            let (mut seen, mut answered) = (Vec::new(), 0);
            loop {
                let heads = seen.windows(4).filter(|it| it == b"\r\n\r\n").count();
                if heads > answered {
                    answered = heads;
                    told.send(String::from_utf8_lossy(&seen).into_owned()).ok();
                    stream.write_all(OK.as_bytes()).await.ok();
                }
                if !matches!(stream.read_buf(&mut seen).await, Ok(count) if count > 0) {
                    return;
                }
            }
        }
    })
    .await;
    (address, heard)
}

/// Requests that two programs could read in two ways: of length, of chunks, of lines.
const REFUSED: [&str; 21] = [
    "POST / HTTP/1.1\r\n{H}content-length: 0\r\ncontent-length: 36\r\n\r\n{S}",
    "POST / HTTP/1.1\r\n{H}content-length: 0, 36\r\n\r\n{S}",
    "POST / HTTP/1.1\r\n{H}content-length: +36\r\n\r\n{S}",
    "POST / HTTP/1.1\r\n{H}content-length: 0x24\r\n\r\n{S}",
    "POST / HTTP/1.1\r\n{H}content-length : 36\r\n\r\n{S}",
    "POST / HTTP/1.1\r\n{H}transfer-encoding: xchunked\r\n\r\n0\r\n\r\n{S}",
    "POST / HTTP/1.1\r\n{H}transfer-encoding: identity\r\n\r\n{S}",
    "POST / HTTP/1.1\r\n{H}transfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n{S}",
    "POST / HTTP/1.1\r\n{H}transfer-encoding : chunked\r\n\r\n0\r\n\r\n{S}",
    "POST / HTTP/1.1\r\n{H}transfer-encoding:\r\n chunked\r\n\r\n0\r\n\r\n{S}",
    "POST / HTTP/1.0\r\n{H}transfer-encoding: chunked\r\n\r\n0\r\n\r\n{S}",
    "POST / HTTP/1.1\r\n{H}{C}transfer-encoding: chunked\r\n\r\nffffffffffffffff1\r\n\r\n{S}",
    "GET / HTTP/1.1\r\n{H}{C}folded: a\r\n\tb\r\n\r\n",
    "GET / HTTP/1.1\r\n{H}{C}bare: a\rb\r\n\r\n",
    "GET / HTTP/1.1\r\n{H}{C}nul: a\0b\r\n\r\n",
    "GET / HTTP/1.1\r\n{H}{C}: a\r\n\r\n",
    "GET / HTTP/1.1\r\n {H}{C}\r\n\r\n",
    "GET /a b HTTP/1.1\r\n{H}{C}\r\n",
    "GET / HTTP/1.1 \r\n{H}{C}\r\n",
    "GET / HTTP/2.0\r\n{H}{C}\r\n",
    "G\u{0}T / HTTP/1.1\r\n{H}{C}\r\n",
];

/// Some end a line at a bare line feed, and chunks may say more than their length: what comes out does
/// neither.
const MENDED: [&str; 2] = [
    "GET / HTTP/1.1\n{H}{C}x-bare: 1\n\n",
    "POST / HTTP/1.1\r\n{H}{C}transfer-encoding: chunked\r\n\r\n3;a=b\r\nabc\r\n0\r\n\r\n",
];

/// In the corpus: the host, the end of the connection, and what is to be taken for a second request.
const PARTS: [(&str, &str); 3] = [
    ("{H}", HOST),
    ("{C}", "connection: close\r\n"),
    ("{S}", "GET /smuggled HTTP/1.1\r\nhost: x\r\n\r\n"),
];

#[tokio::test]
async fn what_could_be_read_in_two_ways_is_refused_or_passed_on_in_one() {
    let refused = REFUSED.iter().map(|text| (text, true));
    let mended = MENDED.iter().map(|text| (text, false));
    for (text, is_refused) in refused.chain(mended) {
        let (pod, mut heard) = listening().await;
        let world = World::start(&objects(&[pod], &[], plain_route())).await;
        let parts = PARTS.iter();
        let text = parts.fold((*text).to_owned(), |text, (name, part)| {
            text.replace(name, part)
        });
        let answer = ask(&world, text.as_bytes()).await;
        let code = answer.split(' ').nth(1).unwrap_or("none").to_owned();
        if is_refused {
            // Some are answered by closing the connection: nothing was a request.
            assert!(
                code.starts_with('4') || code == "none" || code == "501",
                "{text:?}: {answer}"
            );
        } else {
            assert_eq!(code, "200", "{text:?}: {answer}");
        }
        while let Ok(seen) = heard.try_recv() {
            assert!(!seen.contains("smuggled"), "{text:?} became {seen:?}");
            assert_eq!(
                seen.matches(" HTTP/1.1\r\n").count(),
                1,
                "{text:?} became {seen:?}"
            );
            let bare = seen.replace("\r\n", "").contains(['\r', '\n']);
            assert!(!bare, "{text:?} became {seen:?}");
            assert!(!is_refused || code != "200", "{text:?} became {seen:?}");
        }
    }
}

#[tokio::test]
async fn a_forged_or_huge_user_key_is_no_key_and_costs_nothing() {
    let (stable, canary) = (named("stable").await, named("canary").await);
    let world = World::start(&objects(&[stable], &[canary], split_route(50, 50))).await;
    let mut client = world.client().await;
    let mut arms = std::collections::BTreeSet::new();
    for _ in 0..40 {
        // Too long to be anybody: each request draws anew.
        let answered = client.get(Some(&"u".repeat(8000))).await;
        assert_eq!(answered.status, StatusCode::OK);
        arms.insert(answered.revision().to_owned());
    }
    assert_eq!(arms.len(), 2, "{arms:?}");
    let route = edited(50, 50, |split| {
        split["key"] = serde_json::json!({"type": "UnverifiedJWTClaim", "name": "sub"});
    });
    world.publish(&objects(&[stable], &[canary], route));
    for token in [
        "Bearer a.b.c",
        "Bearer ...",
        "Bearer e30.e30.e30",
        "Basic eDp5",
        "Bearer \u{7f}",
    ] {
        let mut request = request(Method::GET, None, body(""));
        let Ok(value) = token.parse() else { continue };
        request.headers_mut().insert("authorization", value);
        assert_eq!(client.send(request).await.unwrap().status, StatusCode::OK);
    }
}

/// One frame of HTTP/2.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// The preface, and the frames of a client; what the server sent until it closed.
async fn http2(world: &World, frames: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(world.address).await.unwrap();
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(frame(4, 0, 0, &[]));
    bytes.extend(frames);
    let (mut reading, mut writing) = stream.split();
    let mut answer = Vec::new();
    let both = async {
        tokio::join!(writing.write_all(&bytes), reading.read_to_end(&mut answer))
            .0
            .ok();
    };
    tokio::time::timeout(Duration::from_secs(5), both)
        .await
        .expect("the server gives up");
    answer
}

/// `GET http://digits.example.com/`, compressed by the static table.
fn head() -> Vec<u8> {
    let mut head = vec![0x82, 0x84, 0x86, 0x41, 18];
    head.extend(b"digits.example.com");
    head
}

const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
const END_STREAM_AND_HEADERS: u8 = 5;

fn went_away(answer: &[u8]) -> bool {
    let mut rest = answer;
    while let [a, b, c, kind, ..] = rest {
        if *kind == GOAWAY {
            return true;
        }
        let length = u32::from_be_bytes([0, *a, *b, *c]);
        let next = 9 + usize::try_from(length).unwrap();
        rest = rest.get(next..).unwrap_or_default();
    }
    false
}

#[tokio::test]
async fn requests_that_are_taken_back_at_once_end_their_connection() {
    let asked = Arc::new(AtomicUsize::new(0));
    let counting = Arc::clone(&asked);
    let pod = raw(move |_, mut stream| {
        let asked = Arc::clone(&counting);
        async move {
            while read_request(&mut stream, 0).await {
                asked.fetch_add(1, Ordering::Relaxed);
                write(&mut stream, OK).await;
            }
        }
    })
    .await;
    let world = World::start(&objects(&[pod], &[], plain_route())).await;
    let resets: Vec<u8> = (0..5000)
        .flat_map(|at| {
            let mut both = frame(HEADERS, END_STREAM_AND_HEADERS, 2 * at + 1, &head());
            both.extend(frame(RST_STREAM, 0, 2 * at + 1, &8_u32.to_be_bytes()));
            both
        })
        .collect();
    let answer = http2(&world, &resets).await;
    assert!(went_away(&answer), "{answer:?}");
    let asked = asked.load(Ordering::Relaxed);
    assert!(asked < 1000, "{asked} of 5000 reached the pod");
    assert_eq!(world.client().await.get(None).await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_head_without_end_ends_its_connection() {
    let stable = named("stable").await;
    let world = World::start(&objects(&[stable], &[], plain_route())).await;
    let mut frames = frame(HEADERS, 1, 1, &head());
    // Literal headers that are never complete.
    let filler = b"\x00\x01a\x7f\x81\x7ebbbbbbbbbbbbbbbb".repeat(200);
    for _ in 0..5000 {
        frames.extend(frame(CONTINUATION, 0, 1, &filler));
    }
    let answer = http2(&world, &frames).await;
    assert!(went_away(&answer), "{answer:?}");
    assert_eq!(world.client().await.get(None).await.status, StatusCode::OK);
}

/// Waits until a number stays as it is.
async fn settled(number: &AtomicUsize) -> usize {
    let mut before = usize::MAX;
    let waiting = async {
        loop {
            let now = number.load(Ordering::Relaxed);
            if now == before && now > 0 {
                return now;
            }
            before = now;
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(20), waiting).await;
    waited.expect("it stops somewhere")
}

/// More than sockets hold on both sides, and no more than that.
const BUFFERS: usize = 24 * 1024 * 1024;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endless_answer_is_not_kept_for_a_client_that_does_not_read() {
    let given = Arc::new(AtomicUsize::new(0));
    let giving = Arc::clone(&given);
    let pod = raw(move |_, mut stream| {
        let given = Arc::clone(&giving);
        async move {
            read_request(&mut stream, 0).await;
            write(&mut stream, "HTTP/1.1 200 OK\r\n\r\n").await;
            let chunk = vec![b'x'; 64 * 1024];
            while stream.write_all(&chunk).await.is_ok() {
                given.fetch_add(chunk.len(), Ordering::Relaxed);
            }
            given.store(0, Ordering::Relaxed);
        }
    })
    .await;
    let world = World::start(&objects(&[pod], &[], plain_route())).await;
    let mut client = TcpStream::connect(world.address).await.unwrap();
    let asking = format!("GET / HTTP/1.1\r\n{HOST}\r\n");
    client.write_all(asking.as_bytes()).await.unwrap();
    let kept = settled(&given).await;
    assert!(
        kept < BUFFERS,
        "{kept} bytes were taken of an answer that nobody reads"
    );
    // The pod hears of it when the client goes.
    drop(client);
    until("the pod may stop", || given.load(Ordering::Relaxed) == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endless_request_is_not_kept_for_a_pod_that_does_not_read() {
    let pod = raw(|_, stream| async move {
        // Held open, never read.
        tokio::time::sleep(Duration::from_mins(1)).await;
        drop(stream);
    })
    .await;
    let route = edited(100, 0, |split| {
        split["mirror"] = serde_json::json!({"share": 10_000, "methods": "All"});
    });
    let world = World::start(&objects(&[pod], &[pod], route)).await;
    let taken = Arc::new(AtomicUsize::new(0));
    let mut client = TcpStream::connect(world.address).await.unwrap();
    let head = format!("POST / HTTP/1.1\r\n{HOST}content-length: 999999999999\r\n\r\n");
    client.write_all(head.as_bytes()).await.unwrap();
    let taking = Arc::clone(&taken);
    let sending = tokio::spawn(async move {
        let chunk = vec![b'x'; 64 * 1024];
        while client.write_all(&chunk).await.is_ok() {
            taking.fetch_add(chunk.len(), Ordering::Relaxed);
        }
    });
    let kept = settled(&taken).await;
    assert!(
        kept < BUFFERS,
        "{kept} bytes were taken of a request that nobody reads"
    );
    sending.abort();
}
