//! Bodies of answers: passed on as they come, bounded in time, counted at their end.

use std::error::Error;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Response;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::Sleep;

use super::attempt::Delivered;
use super::guarded::Busy;
use super::tally::Tally;
use super::{HEADER_REVISION, head};
use crate::pool::{Connection, Flight};

/// The time that an answer may take.
#[derive(Clone, Copy, Debug)]
pub(super) enum Bound {
    /// As long as it likes.
    None,
    /// All of it by then.
    Until(tokio::time::Instant),
    /// Its head, and each next chunk, within this.
    Pace(Duration),
}

impl Bound {
    /// Of a rule's own bound, or else the default. The default does not end a stream that flows.
    pub(super) fn of(rule: Option<Duration>, default: Duration, started: Instant) -> Self {
        match rule {
            Some(bound) if bound.is_zero() => Self::None,
            Some(bound) => Self::Until(tokio::time::Instant::from_std(started) + bound),
            None if default.is_zero() => Self::None,
            None => Self::Pace(default),
        }
    }

    /// By when the head must be there.
    pub(super) fn head_deadline(self, started: Instant) -> Option<tokio::time::Instant> {
        match self {
            Self::None => None,
            Self::Until(deadline) => Some(deadline),
            Self::Pace(pace) => Some(tokio::time::Instant::from_std(started) + pace),
        }
    }

    fn sleep(self) -> Option<Pin<Box<Sleep>>> {
        match self {
            Self::None => None,
            Self::Until(deadline) => Some(Box::pin(tokio::time::sleep_until(deadline))),
            Self::Pace(pace) => Some(Box::pin(tokio::time::sleep(pace))),
        }
    }
}

/// Body of an answer.
#[derive(Debug)]
pub struct AnswerBody {
    source: Source,
    /// Held until the end: it counts when it is dropped.
    tally: Option<Tally>,
    pub(super) busy: Option<Busy>,
}

#[derive(Debug)]
enum Source {
    Short(Option<Bytes>),
    Endpoint(Box<Endpoint>),
}

#[derive(Debug)]
struct Endpoint {
    body: Incoming,
    code: u16,
    bound: Bound,
    sleep: Option<Pin<Box<Sleep>>>,
    /// Whether the endpoint was asked for more and has not given it: only this wait is its own.
    waiting: bool,
    /// Since when, where pauses matter and the body has begun.
    paused: Option<Instant>,
    has_begun: bool,
    connection: Option<(Connection, Flight)>,
}

/// Makes of an endpoint's response the client's answer.
pub(super) fn deliver(delivered: Delivered, bound: Bound, tally: Tally) -> Response<AnswerBody> {
    let Delivered {
        response,
        connection,
        flight,
        revision,
    } = delivered;
    let (mut parts, body) = response.into_parts();
    let source = Endpoint {
        body,
        code: parts.status.as_u16(),
        bound,
        sleep: bound.sleep(),
        waiting: false,
        paused: None,
        has_begun: false,
        connection: Some((connection, flight)),
    };
    let mut answer = AnswerBody {
        source: Source::Endpoint(Box::new(source)),
        tally: Some(tally),
        busy: None,
    };
    answer.finish_if_over();
    head::strip(&mut parts.headers);
    parts.headers.insert(HEADER_REVISION, revision);
    let mut response = Response::new(answer);
    *response.status_mut() = parts.status;
    *response.headers_mut() = parts.headers;
    response
}

impl AnswerBody {
    /// A short text.
    pub(super) fn short(text: Bytes, tally: Tally) -> Self {
        Self {
            source: Source::Short(Some(text)),
            tally: Some(tally),
            busy: None,
        }
    }

    /// Whoever reads an exact length never asks for the end; it is over when it says so.
    fn finish_if_over(&mut self) {
        if let Source::Endpoint(endpoint) = &mut self.source
            && endpoint.body.is_end_stream()
        {
            endpoint.give_back();
            Self::settle(&mut self.tally, endpoint.code);
        }
    }

    fn settle(tally: &mut Option<Tally>, code: u16) {
        if let Some(mut tally) = tally.take() {
            tally.ended(code);
        }
    }

    /// The client sees an answer that was cut off.
    fn break_off(tally: &mut Option<Tally>, code: u16) {
        if let Some(mut tally) = tally.take() {
            tally.broken_off(code);
        }
    }
}

impl Endpoint {
    fn give_back(&mut self) {
        if let Some((connection, flight)) = self.connection.take() {
            let upstream = Arc::clone(flight.upstream());
            upstream.give_back(connection);
        }
    }

    fn overdue(&mut self, cx: &mut Context<'_>) -> bool {
        self.sleep
            .as_mut()
            .is_some_and(|sleep| sleep.as_mut().poll(cx).is_ready())
    }

    /// Tells when the body begins and how long the endpoint pauses in the middle of it.
    fn time(&mut self, polled: &Polled, tally: &mut Tally) {
        match polled {
            Poll::Pending if self.has_begun && self.paused.is_none() && tally.judges_pauses() => {
                self.paused = Some(Instant::now());
            }
            Poll::Ready(Some(Ok(frame))) if frame.is_data() => {
                if let Some(since) = self.paused.take() {
                    tally.paused(since.elapsed());
                }
                if !self.has_begun {
                    self.has_begun = true;
                    tally.chunk();
                }
            }
            Poll::Pending | Poll::Ready(_) => {}
        }
    }

    fn keep_pace(&mut self) {
        if let (Bound::Pace(pace), Some(sleep)) = (self.bound, &mut self.sleep) {
            sleep.as_mut().reset(tokio::time::Instant::now() + pace);
        }
    }
}

type Polled = Poll<Option<Result<Frame<Bytes>, hyper::Error>>>;
type BodyError = Box<dyn Error + Send + Sync>;

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let endpoint = match &mut this.source {
            Source::Short(text) => {
                return Poll::Ready(text.take().map(|text| Ok(Frame::data(text))));
            }
            Source::Endpoint(endpoint) => endpoint,
        };
        if !endpoint.waiting {
            endpoint.keep_pace();
        }
        let polled = Pin::new(&mut endpoint.body).poll_frame(cx);
        endpoint.waiting = polled.is_pending();
        if let Some(tally) = &mut this.tally {
            endpoint.time(&polled, tally);
        }
        if polled.is_pending() && endpoint.overdue(cx) {
            Self::break_off(&mut this.tally, 504);
            return Poll::Ready(Some(Err(
                "the endpoint took too long over its answer".into()
            )));
        }
        match ready!(polled) {
            Some(Ok(frame)) => {
                this.finish_if_over();
                Poll::Ready(Some(Ok(frame)))
            }
            Some(Err(error)) => {
                Self::break_off(&mut this.tally, 502);
                Poll::Ready(Some(Err(error.into())))
            }
            None => {
                endpoint.give_back();
                Self::settle(&mut this.tally, endpoint.code);
                Poll::Ready(None)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Short(text) => text.is_none(),
            Source::Endpoint(endpoint) => endpoint.body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Short(text) => {
                let length = text.as_ref().map_or(0, Bytes::len);
                SizeHint::with_exact(u64::try_from(length).unwrap_or(u64::MAX))
            }
            Source::Endpoint(endpoint) => endpoint.body.size_hint(),
        }
    }
}
