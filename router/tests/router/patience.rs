//! Clients that take their time.

use std::time::Duration;

use http::{Request, StatusCode};
use http_body_util::BodyExt as _;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::backend::{named, raw, read_request, write};
use crate::objects::{HOST, objects, plain_route};
use crate::world::{Times, World, body};

/// More than sockets and buffers hold between a pod and a client that does not read.
const LENGTH: usize = 48 << 20;

async fn world(times: Times) -> World {
    let address = raw(|_, mut stream| async move {
        read_request(&mut stream, 0).await;
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {LENGTH}\r\n\r\n");
        write(&mut stream, &head).await;
        stream.write_all(&vec![b'x'; LENGTH]).await.ok();
    })
    .await;
    World::timed(&objects(&[address], &[], plain_route()), times).await
}

/// A connection whose request was answered, as far as nobody needs to read.
async fn asked(world: &World) -> TcpStream {
    let mut stream = TcpStream::connect(world.address).await.unwrap();
    let request = format!("GET / HTTP/1.1\r\nhost: {HOST}\r\nconnection: close\r\n\r\n");
    write(&mut stream, &request).await;
    stream.readable().await.unwrap();
    stream
}

#[tokio::test]
async fn a_client_that_pauses_is_not_taken_for_an_endpoint_that_does() {
    let request = Duration::from_millis(200);
    let world = world(Times {
        request,
        ..Times::default()
    })
    .await;
    let mut stream = asked(&world).await;
    tokio::time::sleep(request * 3).await;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    assert!(answer.len() > LENGTH, "{} bytes came", answer.len());
    world.counted("stable", 200, 1).await;
}

#[tokio::test]
async fn a_client_that_never_reads_its_answer_is_let_go() {
    let world = world(Times {
        idle: Duration::from_millis(200),
        ..Times::default()
    })
    .await;
    let stream = asked(&world).await;
    world.counted("stable", 499, 1).await;
    drop(stream);
}

#[tokio::test]
async fn an_http2_connection_may_lie_idle_for_longer_than_a_head_may_take() {
    let stable = named("stable").await;
    let world = World::start(&objects(&[stable], &[], plain_route())).await;
    let stream = TcpStream::connect(world.address).await.unwrap();
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    for _ in 0..2 {
        // The bound on a head is 300 ms.
        tokio::time::sleep(Duration::from_millis(700)).await;
        let request = Request::get(format!("http://{HOST}/"))
            .body(body(""))
            .unwrap();
        let answered = sender.send_request(request).await.unwrap();
        assert_eq!(answered.status(), StatusCode::OK);
        let text = answered.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(text, "stable");
    }
}
