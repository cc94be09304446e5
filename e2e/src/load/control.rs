//! What the load driver answers: its counts, its log, and what changes it.

use std::{future::Future, net::SocketAddr, pin::Pin, sync::Arc};

use http::{HeaderName, Method, Request, StatusCode, header};
use hyper::body::Incoming;
use serde::Deserialize;
use serde_json::json;

use crate::{
    load::{driver::Driver, log::Log},
    serve::{self, Aborted, Answer, parameter},
};

/// Header of a part of the log: the number to ask from next.
pub(crate) const NEXT: HeaderName = HeaderName::from_static("x-next");
const LINES_MAX: usize = 50_000;
const BODY_BYTES_MAX: usize = 4096;

#[derive(Deserialize)]
struct Rate {
    rate: f64,
}

type Served = Pin<Box<dyn Future<Output = Result<Answer, Aborted>> + Send>>;

/// Answers for a driver.
pub(crate) fn service(
    driver: Arc<Driver>,
    log: Arc<Log>,
) -> impl Fn(Request<Incoming>, SocketAddr) -> Served + Clone + Send + 'static {
    move |request, _| {
        let (driver, log) = (Arc::clone(&driver), Arc::clone(&log));
        Box::pin(async move { Ok(answer(&driver, &log, request).await) })
    }
}

async fn answer(driver: &Driver, log: &Log, request: Request<Incoming>) -> Answer {
    match (request.method(), request.uri().path()) {
        (&Method::GET, "/healthz") => serve::text(StatusCode::OK, "ok\n"),
        (&Method::GET, "/stats") => serve::json(StatusCode::OK, &driver.stats()),
        (&Method::GET, "/log") => lines(log, request.uri().query()),
        (&Method::POST, "/rate") => set_rate(driver, request.into_body()).await,
        (&Method::POST, "/stop") => {
            driver.stop(driver.timeout()).await;
            serve::json(StatusCode::OK, &driver.stats())
        }
        _ => serve::text(
            StatusCode::NOT_FOUND,
            "GET /stats, /log?since=N, /healthz; POST /rate {\"rate\": N}, /stop\n",
        ),
    }
}

fn lines(log: &Log, query: Option<&str>) -> Answer {
    let number = |name: &str| parameter(query, name).map(str::parse::<u64>).transpose();
    let (Ok(since), Ok(limit)) = (number("since"), number("limit")) else {
        return serve::text(
            StatusCode::BAD_REQUEST,
            "since and limit must be whole numbers\n",
        );
    };
    let most = limit
        .and_then(|limit| usize::try_from(limit).ok())
        .unwrap_or(LINES_MAX);
    let (entries, next) = log.since(since.unwrap_or(0), most.min(LINES_MAX));
    let mut text = String::with_capacity(entries.len() * 100);
    for entry in &entries {
        text.push_str(&serde_json::to_string(entry).unwrap_or_default());
        text.push('\n');
    }
    let mut answer = serve::text(StatusCode::OK, text);
    let headers = answer.headers_mut();
    headers.insert(NEXT, next.into());
    headers.insert(
        header::CONTENT_TYPE,
        header::HeaderValue::from_static("application/x-ndjson"),
    );
    answer
}

async fn set_rate(driver: &Driver, body: Incoming) -> Answer {
    let set = async {
        let body = serve::read(body, BODY_BYTES_MAX).await?;
        let Rate { rate } = serde_json::from_slice(&body)?;
        driver.set_rate(rate)?;
        Ok::<f64, serve::BoxError>(rate)
    };
    match set.await {
        Ok(rate) => serve::json(StatusCode::OK, &json!({ "rate": rate })),
        Err(error) => serve::text(StatusCode::BAD_REQUEST, format!("{error}\n")),
    }
}
