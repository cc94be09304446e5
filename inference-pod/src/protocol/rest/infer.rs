//! `POST …/infer`: from request to answer, counted and timed.

use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Request, StatusCode};
use hyper::body::Incoming;
use tokio::task;

use super::body::{self, Held};
use super::decode::{Decoded, decode};
use super::encode::encode;
use super::route::Asked;
use super::{Answer, Failure, with_type};
use crate::app::{App, Serving};
use crate::engine::InferError;
use crate::metrics::Rejection;
use crate::protocol::Timing;
use crate::ready::Phase;

/// Larger bodies are decoded off the threads that serve connections.
const INLINE_BYTES: usize = 64 << 10;

/// Answers an inference request.
pub(super) async fn answer(app: &App, asked: &Asked<'_>, request: Request<Incoming>) -> Answer {
    let flight = app.metrics.begin();
    let mut timing = Timing::default();
    let outcome = infer(app, asked, request, &mut timing).await;
    let mut answer = match outcome {
        Ok(body) => with_type(StatusCode::OK, "application/json", body),
        Err(failure) => failure.into_answer(),
    };
    let total = flight.answer(answer.status().as_u16());
    say_timing(answer.headers_mut(), &timing, total);
    answer
}

async fn infer(
    app: &App,
    asked: &Asked<'_>,
    request: Request<Incoming>,
    timing: &mut Timing,
) -> Result<Bytes, Failure> {
    asked.check(app)?;
    let serving = ready(app)?;
    check_headers(request.headers())?;
    // The room is held to the end: tensors take memory in proportion to the body they came from.
    let Held { bytes, room: _room } = body::read(app, request).await?;
    let decoded = decode_somewhere(bytes, serving).await?;
    let admission = serving.pool.admit().ok_or_else(|| {
        app.metrics.reject(Rejection::Capacity);
        Failure::overloaded()
    })?;
    let outcome = serving.pool.infer(admission, decoded.inputs).await;
    *timing = Timing {
        queued: outcome.queued,
        ran: outcome.ran,
    };
    app.metrics.ran(timing);
    let id = decoded.id.as_deref();
    outcome
        .result
        .and_then(|outputs| encode(app, id, &decoded.outputs, &outputs))
        .map(Bytes::from)
        .map_err(failure)
}

/// A draining pod still serves: it is asked until everyone has heard that it goes.
fn ready(app: &App) -> Result<&Serving, Failure> {
    if let (Phase::Ready | Phase::Draining, Some(serving)) = (app.readiness.phase(), app.serving())
    {
        return Ok(serving);
    }
    app.metrics.reject(Rejection::NotReady);
    Err(Failure::not_ready(app))
}

fn check_headers(headers: &HeaderMap) -> Result<(), Failure> {
    let unsupported = |why| Err(Failure::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, why));
    if headers.contains_key("inference-header-content-length") {
        return unsupported("binary tensors are not supported; send tensors as JSON".to_owned());
    }
    if headers
        .get(CONTENT_ENCODING)
        .is_some_and(|encoding| encoding != "identity")
    {
        return unsupported("compressed bodies are not supported".to_owned());
    }
    let Some(kind) = headers.get(CONTENT_TYPE) else {
        return Ok(());
    };
    let kind = kind.to_str().unwrap_or_default();
    let essence = kind
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase();
    // Clients such as curl send the form type unless told otherwise; the body decides then.
    match essence.as_str() {
        "application/json" | "application/x-www-form-urlencoded" | "" => Ok(()),
        other if other.ends_with("+json") => Ok(()),
        _ => unsupported(format!("content type {kind:?} is not application/json")),
    }
}

async fn decode_somewhere(bytes: Bytes, serving: &Serving) -> Result<Decoded, Failure> {
    if bytes.len() <= INLINE_BYTES {
        return decode(&bytes, &serving.spec).map_err(Failure::bad_request);
    }
    let spec = serving.spec.clone();
    match task::spawn_blocking(move || decode(&bytes, &spec)).await {
        Ok(decoded) => decoded.map_err(Failure::bad_request),
        Err(error) => Err(Failure::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            error.to_string(),
        )),
    }
}

fn failure(error: InferError) -> Failure {
    match error {
        InferError::BadInput(why) => Failure::bad_request(why),
        InferError::Failed(_) => {
            let why = error.to_string();
            tracing::warn!(why, "a request failed in the model");
            Failure::new(StatusCode::INTERNAL_SERVER_ERROR, why)
        }
    }
}

fn say_timing(headers: &mut HeaderMap, timing: &Timing, total: Duration) {
    let parts = [
        ("total", total),
        ("queue", timing.queued),
        ("inference", timing.ran),
    ];
    let fractions = parts.map(|(name, time)| format!("{name};dur={:.3}", time.as_secs_f64() * 1e3));
    if let Ok(value) = HeaderValue::from_str(&fractions.join(", ")) {
        headers.insert("server-timing", value);
    }
    for (name, (_, time)) in ["x-total-time", "x-queue-time", "x-inference-time"]
        .into_iter()
        .zip(parts)
    {
        let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        headers.insert(name, HeaderValue::from(millis));
    }
}
