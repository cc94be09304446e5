//! Forwards requests and does to them what is armed.

use std::{
    future::Future,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use http::{HeaderMap, HeaderName, Request, Response, StatusCode, Uri, header};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use kube::{Client, client::Body};
use serde_json::json;

use crate::{
    fault_proxy::{
        cut::UntilCut,
        faults::{Fate, Faults, When, Write},
        request::Target,
    },
    serve::{self, Aborted, Answer, BoxError},
};

/// The API server takes 3 MiB.
const BODY_BYTES_MAX: usize = 4 << 20;
/// Headers that are about one connection.
const HOP_BY_HOP: [HeaderName; 5] = [
    header::CONNECTION,
    header::TRANSFER_ENCODING,
    header::HOST,
    header::CONTENT_LENGTH,
    header::UPGRADE,
];

type Served = Pin<Box<dyn Future<Output = Result<Answer, Aborted>> + Send>>;

/// Forwards through a client.
pub(crate) fn service(
    client: Client,
    faults: Arc<Faults>,
) -> impl Fn(Request<Incoming>, SocketAddr) -> Served + Clone + Send + 'static {
    move |request, peer| {
        let (client, faults) = (client.clone(), Arc::clone(&faults));
        Box::pin(async move { pass(client, &faults, request, peer).await })
    }
}

async fn pass(
    client: Client,
    faults: &Faults,
    request: Request<Incoming>,
    peer: SocketAddr,
) -> Result<Answer, Aborted> {
    if faults.is_cut() {
        return Err(Aborted);
    }
    let cut = faults.until_cut();
    let answer = faulty(client, faults, request, peer);
    let answer = tokio::select! {
        biased;
        () = faults.until_cut() => return Err(Aborted),
        answer = answer => answer?,
    };
    Ok(answer.map(|body| UntilCut::new(body, cut).boxed_unsync()))
}

async fn faulty(
    client: Client,
    faults: &Faults,
    request: Request<Incoming>,
    peer: SocketAddr,
) -> Result<Answer, Aborted> {
    let Some(target) = Target::read(request.method().as_str(), request.uri().path()) else {
        return Ok(forward(client, request).await);
    };
    let line = format!("{} {}", request.method(), request.uri());
    let mut write = Write {
        target,
        code: 0,
        time: epoch_ms(),
        injected: false,
    };
    // Listening for the release begins before anybody can learn of the hold.
    let released = faults.until_released();
    let answer = match faults.meet(&write.target, &peer.ip().to_string(), &line) {
        Fate::Forward => forward(client, request).await,
        Fate::Fail(code) => {
            write.injected = true;
            error(
                StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
                &line,
            )
        }
        Fate::Hold(when) => {
            if when == When::After {
                write.code = committed(client, request).await;
            }
            tracing::info!(line, ?when, code = write.code, "held");
            let code = write.code;
            faults.wrote(write);
            faults.held(code);
            released.await;
            return Err(Aborted);
        }
    };
    write.code = answer.status().as_u16();
    faults.wrote(write);
    Ok(answer)
}

/// Sends a request and reads its whole answer, which nobody will get.
async fn committed(client: Client, request: Request<Incoming>) -> u16 {
    let answer = forward(client, request).await;
    let code = answer.status().as_u16();
    if let Err(error) = answer.into_body().collect().await {
        tracing::warn!(%error, "the answer to a held request was cut off");
    }
    code
}

async fn forward(client: Client, request: Request<Incoming>) -> Answer {
    let line = format!("{} {}", request.method(), request.uri());
    match ask(client, request).await {
        Ok(answer) => answer,
        Err(cause) => error(StatusCode::BAD_GATEWAY, &format!("{line}: {cause}")),
    }
}

async fn ask(client: Client, request: Request<Incoming>) -> Result<Answer, BoxError> {
    let (head, body) = request.into_parts();
    let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
    let mut onward = Request::new(Body::from(serve::read(body, BODY_BYTES_MAX).await?));
    *onward.method_mut() = head.method;
    *onward.uri_mut() = path.parse::<Uri>()?;
    *onward.headers_mut() = end_to_end(head.headers);
    let (head, body) = client.send(onward).await?.into_parts();
    let mut answer = Response::new(body.map_err(Into::into).boxed_unsync());
    *answer.status_mut() = head.status;
    *answer.headers_mut() = end_to_end(head.headers);
    Ok(answer)
}

fn end_to_end(mut headers: HeaderMap) -> HeaderMap {
    for name in &HOP_BY_HOP {
        headers.remove(name);
    }
    headers
}

/// An error in the API server's own form.
fn error(code: StatusCode, message: &str) -> Answer {
    let reason = match code.as_u16() {
        409 => "Conflict",
        403 => "Forbidden",
        429 => "TooManyRequests",
        503 => "ServiceUnavailable",
        _ => "InternalError",
    };
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": format!("fault proxy: {message}"), "reason": reason, "code": code.as_u16(),
    });
    let mut answer = serve::json(code, &status);
    if code == StatusCode::TOO_MANY_REQUESTS {
        answer
            .headers_mut()
            .insert(header::RETRY_AFTER, header::HeaderValue::from_static("1"));
    }
    answer
}

fn epoch_ms() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
