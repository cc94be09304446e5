//! Arms faults and tells what was seen.

use std::{future::Future, net::SocketAddr, pin::Pin, sync::Arc};

use http::{Method, Request, StatusCode};
use hyper::body::Incoming;
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::{
    fault_proxy::faults::{Cut, Faults},
    serve::{self, Aborted, Answer, BoxError},
};

const BODY_BYTES_MAX: usize = 16 * 1024;

type Served = Pin<Box<dyn Future<Output = Result<Answer, Aborted>> + Send>>;

/// Answers for the armed faults.
pub(crate) fn service(
    faults: Arc<Faults>,
) -> impl Fn(Request<Incoming>, SocketAddr) -> Served + Clone + Send + 'static {
    move |request, _| {
        let faults = Arc::clone(&faults);
        Box::pin(async move { Ok(answer(&faults, request).await) })
    }
}

async fn answer(faults: &Faults, request: Request<Incoming>) -> Answer {
    let (head, body) = request.into_parts();
    match (&head.method, head.uri.path()) {
        (&Method::GET, "/healthz") => serve::text(StatusCode::OK, "ok\n"),
        (&Method::GET, "/armed") => serve::json(StatusCode::OK, &faults.armed()),
        (&Method::GET, "/writes") => serve::json(StatusCode::OK, &faults.writes()),
        (&Method::POST, "/arm") => done(parse(body).await.map(|arm| faults.arm(arm))),
        (&Method::POST, "/fail") => done(parse(body).await.map(|fail| faults.fail(fail))),
        (&Method::POST, "/cut") => done(
            parse::<Cut>(body)
                .await
                .map(|wanted| faults.cut(wanted.cut)),
        ),
        (&Method::POST, "/release") => {
            faults.release();
            done(Ok(()))
        }
        _ => serve::text(
            StatusCode::NOT_FOUND,
            "GET /armed, /writes, /healthz; POST /arm, /fail, /cut, /release\n",
        ),
    }
}

async fn parse<T: DeserializeOwned>(body: Incoming) -> Result<T, BoxError> {
    Ok(serde_json::from_slice(
        &serve::read(body, BODY_BYTES_MAX).await?,
    )?)
}

fn done(result: Result<(), BoxError>) -> Answer {
    match result {
        Ok(()) => serve::json(StatusCode::OK, &json!({ "done": true })),
        Err(error) => serve::text(StatusCode::BAD_REQUEST, format!("{error}\n")),
    }
}
