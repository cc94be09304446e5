//! Clients that take their time.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, StatusCode};
use http_body_util::BodyExt as _;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Notify;

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
async fn a_client_that_pauses_gets_all_of_a_long_answer() {
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

/// A chunk of an HTTP/1 body: what the router gets of two chunks never comes to it as one.
fn chunk(data: &str) -> String {
    format!("{:x}\r\n{data}\r\n", data.len())
}

/// All that an HTTP/2 client lets the router send before it reads, whatever sockets hold.
const WINDOW: usize = 16 * 1024;
/// What the router then has in hand; it asks the pod for no more until it is rid of this.
const HELD: &str = "held";
const REST: &str = "the rest";

/// A pod that gives its first two chunks at once, and the rest when it is told.
async fn in_two_parts(told: Arc<Notify>) -> SocketAddr {
    raw(move |_, mut stream| {
        let told = Arc::clone(&told);
        async move {
            read_request(&mut stream, 0).await;
            let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
            let first = [head, &chunk(&"x".repeat(WINDOW)), &chunk(HELD)].concat();
            write(&mut stream, &first).await;
            told.notified().await;
            write(&mut stream, &(chunk(REST) + &chunk(""))).await;
        }
    })
    .await
}

#[tokio::test]
async fn a_client_that_pauses_is_not_taken_for_an_endpoint_that_does() {
    let request = Duration::from_millis(300);
    let told = Arc::new(Notify::new());
    let address = in_two_parts(Arc::clone(&told)).await;
    let times = Times {
        request,
        ..Times::default()
    };
    let world = World::timed(&objects(&[address], &[], plain_route()), times).await;
    let stream = TcpStream::connect(world.address).await.unwrap();
    let (mut sender, connection) = http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(u32::try_from(WINDOW).unwrap())
        .handshake(TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    let asked = Request::get(format!("http://{HOST}/")).body(body(""));
    let mut answer = sender.send_request(asked.unwrap()).await.unwrap();

    tokio::time::sleep(request * 2).await;
    let mut came = 0;
    while came < WINDOW + HELD.len() {
        let frame = answer.frame().await.unwrap().unwrap();
        came += frame.into_data().unwrap().len();
    }
    // The router asked the pod for more when it sent what it held; the pod's time began only then.
    told.notify_one();
    let rest = answer.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(rest, REST);
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
