//! Pods to talk to.

use std::convert::Infallible;
use std::net::SocketAddr;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

pub type Answer = Response<BoxBody<Bytes, hyper::Error>>;

pub fn full(text: &str) -> Answer {
    let body = Full::new(Bytes::copy_from_slice(text.as_bytes()));
    Response::new(body.map_err(|never: Infallible| match never {}).boxed())
}

/// Answers with a function.
pub async fn serve<F, A>(answer: F) -> SocketAddr
where
    F: Fn(Request<Incoming>) -> A + Clone + Send + Sync + 'static,
    A: Future<Output = Answer> + Send,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            stream.set_nodelay(true).unwrap();
            let answer = answer.clone();
            let service = service_fn(move |request| {
                let answer = answer.clone();
                async move { Ok::<_, Infallible>(answer(request).await) }
            });
            tokio::spawn(async move {
                http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service)
                    .await
                    .ok();
            });
        }
    });
    address
}

/// Reads every body and answers with its name.
pub async fn named(name: &'static str) -> SocketAddr {
    serve(move |request: Request<Incoming>| async move {
        request.into_body().collect().await.ok();
        full(name)
    })
    .await
}

/// An address where nobody listens.
pub async fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap()
}

/// Does with each connection, counted from 0, what it is told.
pub async fn raw<F, A>(each: F) -> SocketAddr
where
    F: Fn(usize, TcpStream) -> A + Send + Sync + 'static,
    A: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut count = 0;
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(each(count, stream));
            count += 1;
        }
    });
    address
}

/// Reads one request whose body, if it has one, is `length` bytes; false at the end of the stream.
pub async fn read_request(stream: &mut TcpStream, length: usize) -> bool {
    let mut seen = Vec::new();
    loop {
        if let Some(head) = seen.windows(4).position(|window| window == b"\r\n\r\n")
            && seen.len() >= head + 4 + length
        {
            return true;
        }
        match stream.read_buf(&mut seen).await {
            Ok(count) if count > 0 => {}
            Ok(_) | Err(_) => return false,
        }
    }
}

pub async fn write(stream: &mut TcpStream, text: &str) {
    stream.write_all(text.as_bytes()).await.unwrap();
}

pub const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
