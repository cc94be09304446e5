//! The Open Inference Protocol v2 over HTTP, with tensors as JSON.

mod body;
mod decode;
mod elements;
mod encode;
mod infer;
mod route;

use bytes::Bytes;
use http::header::{ALLOW, CONNECTION, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body_util::Full;
use hyper::body::Incoming;
use serde::Serialize;
use serde_json::json;

use self::route::{Route, route};
use crate::app::App;
use crate::ready::Phase;

/// An answer.
pub(crate) type Answer = Response<Full<Bytes>>;

/// Answers any request. A draining pod ends its HTTP/1 connections with their next answer, so that
/// none of them is idle, and about to be used again, when the pod closes them all.
pub(crate) async fn answer(app: &App, request: Request<Incoming>) -> Answer {
    let version = request.version();
    let mut answer = route_and_answer(app, request).await;
    if version == Version::HTTP_11 && app.readiness.phase() == Phase::Draining {
        answer
            .headers_mut()
            .insert(CONNECTION, HeaderValue::from_static("close"));
    }
    answer
}

async fn route_and_answer(app: &App, request: Request<Incoming>) -> Answer {
    let path = request.uri().path().to_owned();
    let route = route(&path);
    if let Some(allowed) = forbidden_method(&route, request.method()) {
        let mut answer = Failure::new(
            StatusCode::METHOD_NOT_ALLOWED,
            format!("{path} takes {allowed}, not {}", request.method()),
        )
        .into_answer();
        answer
            .headers_mut()
            .insert(ALLOW, HeaderValue::from_static(allowed));
        return answer;
    }
    let outcome = match route {
        Route::Infer(asked) => return infer::answer(app, &asked, request).await,
        Route::Sim => sim(app, request).await,
        Route::Live => Ok(json_answer(StatusCode::OK, &json!({"live": true}))),
        Route::Ready => Ok(ready(app)),
        Route::Server => Ok(json_answer(
            StatusCode::OK,
            &json!({
                "name": env!("CARGO_PKG_NAME"),
                "version": env!("CARGO_PKG_VERSION"),
                "extensions": [],
            }),
        )),
        Route::ModelReady(asked) => asked.check(app).map(|()| ready(app)),
        Route::Model(asked) => asked.check(app).and_then(|()| metadata(app)),
        Route::Metrics => metrics(app),
        Route::Unknown => Err(Failure::new(
            StatusCode::NOT_FOUND,
            format!("no such path: {path}"),
        )),
    };
    outcome.unwrap_or_else(Failure::into_answer)
}

/// The methods that the path takes, if this one is not among them.
fn forbidden_method(route: &Route<'_>, method: &Method) -> Option<&'static str> {
    match route {
        Route::Unknown => None,
        Route::Infer(_) | Route::Sim => (method != Method::POST).then_some("POST"),
        Route::Server
        | Route::Live
        | Route::Ready
        | Route::Metrics
        | Route::Model(_)
        | Route::ModelReady(_) => {
            (method != Method::GET && method != Method::HEAD).then_some("GET, HEAD")
        }
    }
}

fn ready(app: &App) -> Answer {
    match app.readiness.obstacle() {
        None => json_answer(StatusCode::OK, &json!({"ready": true})),
        Some(why) => json_answer(
            StatusCode::SERVICE_UNAVAILABLE,
            &json!({"ready": false, "reason": why}),
        ),
    }
}

fn metadata(app: &App) -> Result<Answer, Failure> {
    let serving = app.serving().ok_or_else(|| Failure::not_ready(app))?;
    Ok(json_answer(
        StatusCode::OK,
        &json!({
            "name": app.model_name,
            "versions": [app.model_version],
            "platform": serving.spec.platform,
            "inputs": serving.spec.inputs,
            "outputs": serving.spec.outputs,
        }),
    ))
}

fn metrics(app: &App) -> Result<Answer, Failure> {
    let text = app.metrics.render().map_err(|error| {
        Failure::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("writing metrics: {error}"),
        )
    })?;
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    Ok(with_type(StatusCode::OK, kind, text.into()))
}

async fn sim(app: &App, request: Request<Incoming>) -> Result<Answer, Failure> {
    let control = app.serving().and_then(|serving| serving.sim.as_ref());
    let control = control.filter(|_| app.sim_control).ok_or_else(|| {
        let why = "this pod has no sim engine with --sim-control".to_owned();
        Failure::new(StatusCode::NOT_FOUND, why)
    })?;
    let held = body::read(app, request).await?;
    let settings = control.change(&held.bytes).map_err(Failure::bad_request)?;
    Ok(json_answer(StatusCode::OK, &settings))
}

/// Why there is no answer.
#[derive(Debug)]
pub(crate) struct Failure {
    status: StatusCode,
    why: String,
    retry: bool,
}

impl Failure {
    fn new(status: StatusCode, why: String) -> Self {
        Self {
            status,
            why,
            retry: false,
        }
    }

    fn bad_request(why: String) -> Self {
        Self::new(StatusCode::BAD_REQUEST, why)
    }

    fn not_ready(app: &App) -> Self {
        let why = app
            .readiness
            .obstacle()
            .unwrap_or_else(|| "starting".to_owned());
        let why = format!("model {:?} is not ready: {why}", app.model_name);
        Self {
            status: StatusCode::SERVICE_UNAVAILABLE,
            why,
            retry: true,
        }
    }

    fn overloaded() -> Self {
        let why = "too many requests at once; try again later".to_owned();
        Self {
            status: StatusCode::SERVICE_UNAVAILABLE,
            why,
            retry: true,
        }
    }

    fn into_answer(self) -> Answer {
        let mut answer = json_answer(self.status, &json!({"error": self.why}));
        if self.retry {
            let after = HeaderValue::from_static("1");
            answer
                .headers_mut()
                .insert(http::header::RETRY_AFTER, after);
        }
        answer
    }
}

fn json_answer(status: StatusCode, body: &impl Serialize) -> Answer {
    match serde_json::to_vec(body) {
        Ok(bytes) => with_type(status, "application/json", bytes.into()),
        Err(error) => with_type(
            StatusCode::INTERNAL_SERVER_ERROR,
            "application/json",
            json!({"error": format!("writing the answer: {error}")})
                .to_string()
                .into(),
        ),
    }
}

fn with_type(status: StatusCode, kind: &'static str, body: Bytes) -> Answer {
    let mut answer = Response::new(Full::new(body));
    *answer.status_mut() = status;
    answer
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    answer
}
