//! Answers that the router gives by itself.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, Response, StatusCode};
use serde_json::json;

use super::answer::AnswerBody;
use super::tally::{CLIENT_WENT_AWAY, Tally};

/// Why a request was not answered by a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    Starting,
    Malformed(&'static str),
    NoRoute,
    NotSupported,
    NoWeight,
    NoBackend,
    NoEndpoint,
    Lost,
    ClientBroke,
    TimedOut,
}

impl Refusal {
    fn said(self) -> (StatusCode, &'static str) {
        match self {
            Self::Starting => (
                StatusCode::SERVICE_UNAVAILABLE,
                "the router does not know its routes yet",
            ),
            Self::Malformed(why) => (StatusCode::BAD_REQUEST, why),
            Self::NoRoute => (StatusCode::NOT_FOUND, "no route for this host and path"),
            Self::NotSupported => (
                StatusCode::NOT_IMPLEMENTED,
                "upgrades and tunnels are not supported",
            ),
            Self::NoWeight => (
                StatusCode::SERVICE_UNAVAILABLE,
                "no backend of the route has weight",
            ),
            Self::NoBackend => (
                StatusCode::INTERNAL_SERVER_ERROR,
                "the route's backend cannot be resolved",
            ),
            Self::NoEndpoint => (
                StatusCode::SERVICE_UNAVAILABLE,
                "no endpoint could be reached",
            ),
            Self::Lost => (
                StatusCode::BAD_GATEWAY,
                "the endpoint closed the connection without an answer",
            ),
            Self::ClientBroke => (StatusCode::BAD_REQUEST, "the request body ended early"),
            Self::TimedOut => (
                StatusCode::GATEWAY_TIMEOUT,
                "the endpoint did not answer in time",
            ),
        }
    }

    /// The answer.
    pub(super) fn answer(self, mut tally: Tally) -> Response<AnswerBody> {
        let (status, why) = self.said();
        tally.ended(match self {
            Self::ClientBroke => CLIENT_WENT_AWAY,
            Self::Starting
            | Self::Malformed(_)
            | Self::NoRoute
            | Self::NotSupported
            | Self::NoWeight
            | Self::NoBackend
            | Self::NoEndpoint
            | Self::Lost
            | Self::TimedOut => status.as_u16(),
        });
        let text = json!({ "error": why }).to_string();
        let mut response = Response::new(AnswerBody::short(Bytes::from(text), tally));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}
