//! Bodies in both directions, and how they end.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::SinkExt as _;
use futures::channel::mpsc;
use http::{Method, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Incoming;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use crate::backend::{full, raw, read_request, serve, write};
use crate::objects::{objects, plain_route};
use crate::world::{World, body, request, until};

#[tokio::test]
async fn bodies_pass_chunk_by_chunk_in_both_directions() {
    let echo =
        serve(
            |request: Request<Incoming>| async move { Response::new(request.into_body().boxed()) },
        )
        .await;
    let world = World::start(&objects(&[echo], &[], plain_route())).await;
    let mut client = world.client().await;
    let (mut chunks, source) = mpsc::channel::<Result<Frame<Bytes>, Infallible>>(1);
    let source = StreamBody::new(source)
        .map_err(|never| match never {})
        .boxed();
    let mut response = client
        .begin(request(Method::POST, None, source))
        .await
        .unwrap();
    for number in 0..20 {
        let text = Bytes::from(format!("chunk {number}"));
        chunks.send(Ok(Frame::data(text.clone()))).await.unwrap();
        // The next chunk is sent only once this one came back: nothing waits for the whole.
        let frame = response.frame().await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), text);
    }
    drop(chunks);
    assert!(response.frame().await.is_none());
    world.counted("stable", 200, 1).await;
}

#[tokio::test]
async fn a_stream_goes_on_under_the_table_it_began_with() {
    let echo =
        serve(
            |request: Request<Incoming>| async move { Response::new(request.into_body().boxed()) },
        )
        .await;
    let world = World::start(&objects(&[echo], &[], plain_route())).await;
    let mut client = world.client().await;
    let (mut chunks, source) = mpsc::channel::<Result<Frame<Bytes>, Infallible>>(1);
    let source = StreamBody::new(source)
        .map_err(|never| match never {})
        .boxed();
    let mut response = client
        .begin(request(Method::POST, None, source))
        .await
        .unwrap();
    world.publish(&objects(&[], &[], plain_route()));
    chunks
        .send(Ok(Frame::data(Bytes::from_static(b"late"))))
        .await
        .unwrap();
    assert_eq!(
        response
            .frame()
            .await
            .unwrap()
            .unwrap()
            .into_data()
            .unwrap(),
        "late"
    );
    assert_eq!(
        world.client().await.get(None).await.status,
        StatusCode::SERVICE_UNAVAILABLE
    );
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_seen_to_break_off() {
    for head in ["content-length: 100", "transfer-encoding: chunked"] {
        let address = raw(move |_, mut stream| async move {
            read_request(&mut stream, 0).await;
            write(
                &mut stream,
                &format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n5\r\nhello\r\n"),
            )
            .await;
        })
        .await;
        let world = World::start(&objects(&[address], &[], plain_route())).await;
        let answered = world
            .client()
            .await
            .send(request(Method::GET, None, body("")))
            .await;
        assert!(answered.is_err(), "{answered:?}");
        world.counted("stable", 502, 1).await;
    }
}

#[tokio::test]
async fn a_client_that_goes_away_is_a_499_and_the_pod_hears_of_it() {
    let heard = Arc::new(Semaphore::new(0));
    let hearing = Arc::clone(&heard);
    let address = raw(move |_, mut stream: TcpStream| {
        let heard = Arc::clone(&hearing);
        async move {
            read_request(&mut stream, 0).await;
            heard.add_permits(1);
            assert!(!read_request(&mut stream, 1).await);
            heard.add_permits(1);
        }
    })
    .await;
    let world = World::start(&objects(&[address], &[], plain_route())).await;
    let mut client = world.client().await;
    let asking =
        tokio::spawn(async move { client.send(request(Method::GET, None, body(""))).await });
    heard.acquire().await.unwrap().forget();
    asking.abort();
    heard.acquire().await.unwrap().forget();
    world.counted("stable", 499, 1).await;
}

#[tokio::test]
async fn draining_finishes_what_is_in_flight_and_asks_clients_to_leave() {
    let (started, go) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let address = {
        let (started, go) = (Arc::clone(&started), Arc::clone(&go));
        serve(move |_| {
            let (started, go) = (Arc::clone(&started), Arc::clone(&go));
            async move {
                started.add_permits(1);
                go.acquire().await.unwrap().forget();
                full("late")
            }
        })
        .await
    };
    let World {
        proxy,
        server,
        address,
    } = World::start(&objects(&[address], &[], plain_route())).await;
    let mut client = crate::world::Client::connect(address).await;
    let asking = tokio::spawn(async move { client.get(None).await });
    started.acquire().await.unwrap().forget();
    proxy.start_draining();
    let drained = tokio::spawn(server.drain(Duration::from_secs(10)));
    until("nobody accepts any more", || {
        std::net::TcpStream::connect(address).is_err()
    })
    .await;
    assert!(!drained.is_finished());
    go.add_permits(1);
    let answered = asking.await.unwrap();
    assert_eq!(
        (answered.status, &answered.body[..]),
        (StatusCode::OK, &b"late"[..])
    );
    assert_eq!(answered.headers["connection"], "close");
    assert!(drained.await.unwrap());
}

#[tokio::test]
async fn connections_to_endpoints_survive_a_new_table_and_end_with_their_endpoint() {
    let opened = Arc::new(Semaphore::new(0));
    let closed = Arc::new(Semaphore::new(0));
    let address = {
        let (opened, closed) = (Arc::clone(&opened), Arc::clone(&closed));
        raw(move |_, mut stream| {
            opened.add_permits(1);
            let closed = Arc::clone(&closed);
            async move {
                while read_request(&mut stream, 0).await {
                    write(&mut stream, crate::backend::OK).await;
                }
                closed.add_permits(1);
            }
        })
        .await
    };
    let world = World::start(&objects(&[address], &[], plain_route())).await;
    let mut client = world.client().await;
    for _ in 0..10 {
        assert_eq!(client.get(None).await.status, StatusCode::OK);
        world.publish(&objects(&[address], &[], plain_route()));
    }
    assert_eq!(opened.available_permits(), 1);
    world.publish(&objects(&[], &[], plain_route()));
    closed.acquire().await.unwrap().forget();
}
