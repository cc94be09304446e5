//! What routers are told: who leads, and which canaries were taken out elsewhere.

use std::{fmt, time::Duration};

use crds::contract::{self, FromLeader, LedTrip};
use http::StatusCode;
use tokio::time::sleep;

use super::Routers;
use crate::metrics::prometheus::sentence;

/// How long a router may take: longer than the API server may take to tell it whose our token is.
const LEAD_TIMEOUT: Duration = Duration::from_secs(4);

/// A term of leadership.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Term {
    /// Who leads.
    pub leader: String,
    /// Higher than that of every term before it.
    pub epoch: i64,
}

/// What a router made of what it was told.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Outcome {
    /// It listens.
    Heard,
    /// It is older than leadership.
    Unknown,
    /// It has heard of a later term.
    Superseded,
    /// It cannot be told.
    Failed(String),
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Heard => f.write_str("the router listens"),
            Self::Unknown => f.write_str("the router knows no leader"),
            Self::Superseded => f.write_str("the router listens to a later leader"),
            Self::Failed(why) => f.write_str(why),
        }
    }
}

/// Tells a router every second, and at once when there is a trip.
pub(super) async fn tell(routers: &Routers, address: &str, term: &Term) {
    let mut trips = routers.heard.trips();
    let mut before = Outcome::Heard;
    loop {
        let standing = trips.borrow_and_update().clone();
        let round = async {
            let outcome = post(routers, address, term, &standing).await;
            report(address, &before, &outcome);
            let wait = match (&before, &outcome) {
                // A connection that was kept may have ended meanwhile: a trip shall not wait for that.
                (Outcome::Heard, Outcome::Failed(_)) => routers.pace.first_pause,
                (_, Outcome::Unknown) => routers.pace.longest_pause,
                (_, Outcome::Heard | Outcome::Superseded | Outcome::Failed(_)) => {
                    routers.pace.heartbeat
                }
            };
            before = outcome;
            sleep(wait).await;
        };
        // A trip waits for no pause and for no answer to what was said before.
        tokio::select! {
            biased;
            changed = trips.changed() => if changed.is_err() { return },
            () = round => {}
        }
    }
}

/// Changes are worth a line; that one is still failing is not.
fn report(address: &str, before: &Outcome, outcome: &Outcome) {
    match (before, outcome) {
        (Outcome::Failed(_), Outcome::Failed(_)) => {}
        (before, outcome) if before == outcome => {}
        (_, Outcome::Superseded) => {
            tracing::warn!(router = address, %outcome, "a router was told who leads");
        }
        (_, outcome) => tracing::info!(router = address, %outcome, "a router was told who leads"),
    }
}

async fn post(routers: &Routers, address: &str, term: &Term, trips: &[LedTrip]) -> Outcome {
    let said = FromLeader {
        leader: term.leader.clone(),
        epoch: term.epoch,
        trips: trips.to_vec(),
    };
    let body = match serde_json::to_vec(&said) {
        Ok(body) => body,
        Err(error) => return Outcome::Failed(error.to_string()),
    };
    let url = format!("http://{address}{}", contract::PATH_LEAD);
    let mut request = routers.http.post(&url).timeout(LEAD_TIMEOUT);
    match routers.bearer().await {
        Ok(Some(bearer)) => request = request.header(http::header::AUTHORIZATION, bearer),
        Ok(None) => {}
        Err(why) => return Outcome::Failed(why),
    }
    let request = request.header(http::header::CONTENT_TYPE, "application/json");
    match request.body(body).send().await {
        Err(error) => Outcome::Failed(sentence(&error)),
        Ok(response) => match response.status() {
            StatusCode::NOT_FOUND => Outcome::Unknown,
            StatusCode::CONFLICT => Outcome::Superseded,
            status if status.is_success() => Outcome::Heard,
            status => Outcome::Failed(format!("the router answers {status}")),
        },
    }
}
