//! Reading request bodies without ever holding more than is allowed.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_LENGTH, EXPECT};
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::time;

use super::Failure;
use crate::app::{App, Room};
use crate::metrics::Rejection;

/// A body that has not arrived by then is given up.
const ARRIVAL: Duration = Duration::from_secs(30);

/// A body that is too large is read and thrown away for this long and up to this many bytes: many
/// clients read the answer only after they have sent everything.
const THROW_AWAY: Duration = Duration::from_secs(10);
const THROW_AWAY_BYTES: usize = 512 << 20;

/// A body and the room it takes.
#[derive(Debug)]
pub(super) struct Held {
    /// The body.
    pub(super) bytes: Bytes,
    /// What it and all that is made of it takes in memory; none where it is empty.
    pub(super) room: Option<Room>,
}

/// Reads the whole body.
pub(super) async fn read(app: &App, request: Request<Incoming>) -> Result<Held, Failure> {
    let limit = usize::try_from(app.body_bytes).unwrap_or(usize::MAX);
    let waits = request.headers().contains_key(EXPECT);
    let announced = request
        .headers()
        .get(CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    let mut body = request.into_body();
    if announced.is_some_and(|length| length > limit) {
        if !waits {
            throw_away(&mut body).await;
        }
        return Err(too_large(limit));
    }
    match time::timeout(ARRIVAL, collect(app, &mut body, limit)).await {
        Ok(Ok(held)) => Ok(held),
        Ok(Err(failure)) => {
            throw_away(&mut body).await;
            Err(failure)
        }
        Err(_) => {
            let why = format!("the body took longer than {} s", ARRIVAL.as_secs());
            Err(Failure::new(StatusCode::REQUEST_TIMEOUT, why))
        }
    }
}

async fn collect(app: &App, body: &mut Incoming, limit: usize) -> Result<Held, Failure> {
    let mut bytes = BytesMut::new();
    let mut room: Option<Room> = None;
    while let Some(frame) = body.frame().await {
        let frame =
            frame.map_err(|error| Failure::bad_request(format!("reading the body: {error}")))?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        if bytes.len().saturating_add(data.len()) > limit {
            return Err(too_large(limit));
        }
        let more = u32::try_from(data.len())
            .ok()
            .and_then(|length| app.room(length));
        let more = more.ok_or_else(|| {
            app.metrics.reject(Rejection::Capacity);
            Failure::overloaded()
        })?;
        match &mut room {
            Some(room) => room.join(more),
            None => room = Some(more),
        }
        bytes.extend_from_slice(&data);
    }
    Ok(Held {
        bytes: bytes.freeze(),
        room,
    })
}

async fn throw_away(body: &mut Incoming) {
    let throwing = async {
        let mut thrown = 0_usize;
        while let Some(Ok(frame)) = body.frame().await {
            thrown = thrown.saturating_add(frame.data_ref().map_or(0, Bytes::len));
            if thrown > THROW_AWAY_BYTES {
                return;
            }
        }
    };
    // Whether all of it came is no matter: the connection ends with the answer then.
    if time::timeout(THROW_AWAY, throwing).await.is_err() {
        tracing::debug!("gave up throwing a body away");
    }
}

fn too_large(limit: usize) -> Failure {
    let why = format!("the body is larger than {limit} bytes");
    Failure::new(StatusCode::PAYLOAD_TOO_LARGE, why)
}
