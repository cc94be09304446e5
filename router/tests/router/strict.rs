//! What is not a request, or not one for us.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::backend::{named, raw, write};
use crate::objects::{objects, plain_route};
use crate::world::{Times, World};

/// Status line of the answer to some bytes, or nothing where the connection was closed.
async fn ask(world: &World, text: &str) -> String {
    let mut stream = TcpStream::connect(world.address).await.unwrap();
    // A refusal may come before all was written.
    stream.write_all(text.as_bytes()).await.ok();
    let mut answer = Vec::new();
    let reading = stream.read_to_end(&mut answer);
    tokio::time::timeout(Duration::from_secs(5), reading)
        .await
        .expect("an end")
        .ok();
    String::from_utf8_lossy(&answer)
        .lines()
        .next()
        .unwrap_or_default()
        .to_owned()
}

async fn world() -> World {
    let stable = named("stable").await;
    World::start(&objects(&[stable], &[], plain_route())).await
}

const HOST: &str = "host: digits.example.com\r\nconnection: close\r\n";

async fn expect(rows: impl IntoIterator<Item = (String, &str)>) {
    let world = world().await;
    for (text, code) in rows {
        let answer = ask(&world, &text).await;
        let start: String = text.chars().take(120).collect();
        assert_eq!(
            answer.split(' ').nth(1),
            Some(code),
            "{start:?} gave {answer:?}"
        );
    }
}

#[tokio::test]
async fn malformed_and_foreign_requests_are_refused_with_their_code() {
    let bomb = "x-filler: 0123456789012345678901234567890123456789\r\n".repeat(1000);
    expect([
        (format!("GET / HTTP/1.1\r\n{HOST}\r\n"), "200"),
        (
            "GET http://digits.example.com/ HTTP/1.1\r\nhost: other\r\nconnection: close\r\n\r\n"
                .to_owned(),
            "200",
        ),
        (
            "GET / HTTP/1.1\r\nhost: other\r\nconnection: close\r\n\r\n".to_owned(),
            "404",
        ),
        (
            format!("GET / HTTP/1.1\r\nhost: other\r\n{HOST}\r\n"),
            "400",
        ),
        (
            "GET / HTTP/1.1\r\nconnection: close\r\n\r\n".to_owned(),
            "400",
        ),
        (format!("GET /a/%2e%2e/b HTTP/1.1\r\n{HOST}\r\n"), "400"),
        (
            format!("GET / HTTP/1.1\r\n{HOST}upgrade: websocket\r\n\r\n"),
            "501",
        ),
        (
            format!("CONNECT digits.example.com:80 HTTP/1.1\r\n{HOST}\r\n"),
            "501",
        ),
        (
            format!("POST / HTTP/1.1\r\n{HOST}content-length: 1\r\ncontent-length: 2\r\n\r\nxx"),
            "400",
        ),
        (
            format!("POST / HTTP/1.1\r\n{HOST}content-length: -1\r\n\r\n"),
            "400",
        ),
        (
            format!("GET / HTTP/1.1\r\n{HOST}folded: a\r\n b\r\n\r\n"),
            "400",
        ),
        (format!("GET / HTTP/1.1\r\n{HOST}{bomb}\r\n"), "431"),
        (
            format!("GET /{} HTTP/1.1\r\n{HOST}\r\n", "a".repeat(1 << 20)),
            "431",
        ),
        ("nonsense\r\n\r\n".to_owned(), "400"),
    ])
    .await;
}

#[tokio::test]
async fn framing_and_hosts_are_read_strictly_and_in_every_form_that_is_allowed() {
    expect([
        (
            format!("POST / HTTP/1.1\r\n{HOST}transfer-encoding: chunked, gzip\r\n\r\n"),
            "400",
        ),
        (
            format!("POST / HTTP/1.1\r\n{HOST}transfer-encoding: chunked\r\n\r\nzz\r\n"),
            "400",
        ),
        (format!("GET / HTTP/1.1\r\nhost : {HOST}\r\n\r\n"), "400"),
        (
            "GET / HTTP/1.1\r\nhost: a@digits.example.com\r\nconnection: close\r\n\r\n".to_owned(),
            "400",
        ),
        (
            "GET / HTTP/1.1\r\nhost: DIGITS.example.com.:80\r\nconnection: close\r\n\r\n"
                .to_owned(),
            "200",
        ),
        (
            "HEAD / HTTP/1.1\r\nhost: digits.example.com:80\r\nconnection: close\r\n\r\n"
                .to_owned(),
            "200",
        ),
        (
            format!("POST / HTTP/1.1\r\n{HOST}expect: 100-continue\r\ncontent-length: 2\r\n\r\nok"),
            "100",
        ),
        (format!("OPTIONS * HTTP/1.1\r\n{HOST}\r\n"), "404"),
    ])
    .await;
}

#[tokio::test]
async fn a_head_that_trickles_in_is_cut_off_and_an_idle_connection_is_not() {
    let world = world().await;
    // The bound is 300 ms; `ask` fails after 5 s.
    ask(&world, "GET / HT").await;
    ask(&world, "PR").await;

    let mut client = world.client().await;
    client.get(None).await;
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert_eq!(client.get(None).await.body, "stable");
}

#[tokio::test]
async fn a_router_that_knows_no_routes_yet_does_not_deny_them() {
    let world = World::unconfigured(Times::default()).await;
    let answer = ask(&world, &format!("GET / HTTP/1.1\r\n{HOST}\r\n")).await;
    assert_eq!(answer.split(' ').nth(1), Some("503"), "{answer}");
}

/// What a pod gets of a request, up to the end of its body.
async fn forwarded(request: &str, end: &'static str) -> String {
    let (told, mut heard) = tokio::sync::mpsc::unbounded_channel();
    let address = raw(move |_, mut stream| {
        let told = told.clone();
        async move {
            let mut seen = Vec::new();
            while !seen.ends_with(end.as_bytes()) && stream.read_buf(&mut seen).await.unwrap() > 0 {
            }
            write(&mut stream, crate::backend::OK).await;
            told.send(String::from_utf8(seen).unwrap()).unwrap();
        }
    })
    .await;
    let world = World::start(&objects(&[address], &[], plain_route())).await;
    ask(&world, request).await;
    heard.recv().await.unwrap()
}

#[tokio::test]
async fn a_request_with_a_length_and_chunks_is_passed_on_with_one_of_them_and_is_the_last() {
    let (length, chunks) = ("content-length: 4\r\n", "transfer-encoding: chunked\r\n");
    for framing in [[length, chunks], [chunks, length]] {
        let host = "host: digits.example.com\r\n";
        let framing = framing.concat();
        let smuggled = format!("GET /smuggled HTTP/1.1\r\n{host}\r\n");
        let request =
            format!("POST / HTTP/1.1\r\n{host}{framing}\r\n3\r\nabc\r\n0\r\n\r\n{smuggled}");
        let seen = forwarded(&request, "0\r\n\r\n").await;
        assert!(!seen.contains("content-length"), "{seen}");
        assert!(seen.ends_with("3\r\nabc\r\n0\r\n\r\n"), "{seen}");
        assert_eq!(seen.matches("HTTP/1.1").count(), 1, "{seen}");
    }
}
