//! What a router says, as long as it says it.

use std::{fmt, time::Duration};

use crds::contract::{self, FromRouter};
use http::StatusCode;
use rand::RngExt as _;
use reqwest::Response;
use serde::Deserialize;
use tokio::time::{sleep, timeout};

use super::{Routers, heard::Connection, lines::Lines};
use crate::{clock, error::brief, metrics::prometheus::sentence};

/// The longest line: all events of one run at one router are a tenth of it.
const LONGEST_LINE: usize = 8 << 20;

/// Why a stream ended.
#[derive(Debug)]
enum Ended {
    /// The router is older than the stream; it is asked what it serves when that matters.
    Unknown,
    /// It says nothing that can be used.
    Broken(String),
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => f.write_str("it knows no stream"),
            Self::Broken(why) => f.write_str(why),
        }
    }
}

/// Reads a router's stream, again and again.
pub(super) async fn follow(routers: &Routers, address: &str) {
    let mut failures: u32 = 0;
    loop {
        let mut connection = routers.heard.connect(address);
        let ended = read(routers, address, &mut connection).await;
        connection.ended(&ended.to_string());
        if connection.is_greeted() {
            failures = 0;
        }
        drop(connection);
        // Pods come and go, and each is dialled before it listens.
        if failures == 0 {
            tracing::info!(router = address, why = %ended, "the stream of a router ended");
        } else {
            tracing::debug!(router = address, why = %ended, failures, "no stream of a router");
        }
        let longest = routers.pace.longest_pause;
        let wait = match ended {
            Ended::Unknown => longest,
            Ended::Broken(_) => pause(routers.pace.first_pause, failures).min(longest),
        };
        failures = failures.saturating_add(1);
        // Routers that went together do not come back together.
        let share = rand::rng().random_range(0.5..=1.0);
        sleep(wait.mul_f64(share)).await;
    }
}

fn pause(first: Duration, failures: u32) -> Duration {
    first.saturating_mul(2_u32.saturating_pow(failures))
}

async fn read(routers: &Routers, address: &str, connection: &mut Connection<'_>) -> Ended {
    let silence = routers.pace.silence;
    let response = match timeout(silence, open(routers, address)).await {
        Ok(Ok(response)) => response,
        Ok(Err(ended)) => return ended,
        Err(_) => return Ended::Broken("no answer".to_owned()),
    };
    let mut source = Source {
        response,
        lines: Lines::new(LONGEST_LINE),
    };
    loop {
        // Counted from line to line: what drips without ever ending one says nothing.
        let line = match timeout(silence, source.next()).await {
            Ok(Ok(Some(line))) => line,
            Ok(Ok(None)) => return Ended::Broken("the router ended it".to_owned()),
            Ok(Err(why)) => return Ended::Broken(why),
            Err(_) => return Ended::Broken(format!("nothing was said for {silence:?}")),
        };
        match parse(&line) {
            Ok(Some(said)) => connection.hear(said, clock::monotonic(), clock::now()),
            Ok(None) => {}
            Err(why) => return Ended::Broken(why),
        }
    }
}

async fn open(routers: &Routers, address: &str) -> Result<Response, Ended> {
    let known = routers.heard.known(address);
    let url = format!("http://{address}{}{known}", contract::PATH_STREAM);
    let mut request = routers.streams.get(&url);
    if let Some(bearer) = routers.bearer().await.map_err(Ended::Broken)? {
        request = request.header(http::header::AUTHORIZATION, bearer);
    }
    let response = request.send().await;
    let response = response.map_err(|error| Ended::Broken(sentence(&error)))?;
    match response.status() {
        StatusCode::OK => Ok(response),
        StatusCode::NOT_FOUND => Err(Ended::Unknown),
        status => Err(Ended::Broken(format!("the router answers {status}"))),
    }
}

/// An answer as lines.
struct Source {
    response: Response,
    lines: Lines,
}

impl Source {
    /// The next line; none: the answer is over.
    async fn next(&mut self) -> Result<Option<bytes::Bytes>, String> {
        loop {
            if let Some(line) = self.lines.next() {
                return Ok(Some(line));
            }
            let chunk = self.response.chunk().await;
            match chunk.map_err(|error| sentence(&error))? {
                Some(chunk) => self.lines.push(&chunk).map_err(|error| error.to_string())?,
                None => return Ok(None),
            }
        }
    }
}

/// What a line says; none where it is of a kind that a later release may have.
fn parse(line: &[u8]) -> Result<Option<FromRouter>, String> {
    #[derive(Deserialize)]
    struct Kind {
        #[serde(rename = "type")]
        kind: String,
    }
    const KINDS: [&str; 5] = ["Hello", "Applied", "Evidence", "Tripped", "Alive"];
    let error = match serde_json::from_slice(line) {
        Ok(said) => return Ok(Some(said)),
        Err(error) => error,
    };
    match serde_json::from_slice::<Kind>(line) {
        Ok(Kind { kind }) if !KINDS.contains(&kind.as_str()) => Ok(None),
        Ok(_) | Err(_) => Err(brief(&format!("a line cannot be read: {error}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_a_later_kind_is_passed_over_and_garbage_is_not() {
        assert_eq!(parse(br#"{"type":"Alive"}"#), Ok(Some(FromRouter::Alive)));
        assert_eq!(parse(br#"{"type":"Later","x":1}"#), Ok(None));
        for wrong in [r#"{"type":"Hello"}"#, "<html>", "", "7"] {
            parse(wrong.as_bytes()).unwrap_err();
        }
    }
}
