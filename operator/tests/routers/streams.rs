//! The streams themselves: what is said over them, in both directions, and by whom.

use std::collections::BTreeSet;

use crds::contract::{Applied, FromRouter};
use futures::StreamExt as _;
use operator::routers::Awaited;
use rollout::observation::Applied as Seen;
use serde_json::json;
use tokio::time::timeout;

use super::{
    LONG, Leader, Router, about_to_begin, errors, evidence, requests, route, stretch, trip,
    under_way,
};

fn tripped() -> FromRouter {
    FromRouter::Tripped {
        namespace: "ml".to_owned(),
        route: "digits".to_owned(),
        trip: trip(),
    }
}

#[tokio::test]
async fn a_trip_is_passed_on_at_once_and_holds_until_the_run_is_over() {
    let (mut one, mut two) = (Router::start().await, Router::start().await);
    let leader = Leader::of(&[&one, &two]);
    let mut wakes = leader.routers.wakes(None);
    let mut stream = one.greet("a").await;
    two.led(|said| said.trips.is_empty()).await;
    stream.say(&tripped()).await;
    let told = two.led(|said| !said.trips.is_empty()).await;
    assert_eq!(
        (told.trips[0].route.as_str(), &told.trips[0].trip),
        ("digits", &trip())
    );
    let woken = timeout(LONG, wakes.next()).await.unwrap().unwrap();
    assert_eq!(woken.name, "digits");
    assert_eq!(leader.routers.trip_of(&route(), "r1"), Some(trip()));
    assert_eq!(leader.routers.trip_of(&route(), "r2"), None);

    // One that comes later is told it with the first word.
    let mut three = Router::start().await;
    leader.are(&[&two, &three]);
    three.led(|said| said.trips.len() == 1).await;

    leader.routers.at_rest(&route());
    two.led(|said| said.trips.is_empty()).await;
    assert_eq!(leader.routers.trip_of(&route(), "r1"), None);
}

#[tokio::test]
async fn a_trip_read_from_a_route_is_passed_on_too() {
    let mut router = Router::start().await;
    let leader = Leader::of(&[&router]);
    leader.routers.tripped(&route(), trip());
    router.led(|said| said.trips.len() == 1).await;
}

#[tokio::test]
async fn a_router_that_listens_to_a_later_leader_is_told_on() {
    let mut router = Router::start().await;
    router.answers.lock().unwrap().lead = Some(409);
    let _leader = Leader::of(&[&router]);
    for _ in 0..3 {
        router.led(|said| said.epoch == 1).await;
    }
}

#[tokio::test]
async fn each_connection_comes_with_the_token_of_the_time() {
    let folder = std::env::temp_dir().join(format!("sluice-token-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let file = folder.join("token");
    std::fs::write(&file, "one\n").unwrap();
    let mut router = Router::start().await;
    let leader = Leader::at(&[&router], 1, Some(file.clone()));
    let stream = router.greet("a").await;
    assert_eq!(stream.bearer.as_deref(), Some("Bearer one"));
    std::fs::write(&file, "two\n").unwrap();
    drop(stream);
    let stream = router.stream().await;
    assert_eq!(stream.bearer.as_deref(), Some("Bearer two"));
    drop(leader);
    std::fs::remove_dir_all(&folder).unwrap();
}

#[tokio::test]
async fn one_that_talks_nonsense_or_without_end_is_dialled_anew_and_hurts_no_other() {
    let mut sound = Router::start().await;
    let (mut nonsense, mut endless) = (Router::start().await, Router::start().await);
    let leader = Leader::of(&[&sound, &nonsense, &endless]);
    let run = about_to_begin();
    let mut stream = sound.greet("a").await;

    let mut babble = nonsense.greet("b").await;
    babble.raw(b"{\"type\":\"Evidence\"}\n").await;
    babble.hung_up().await;
    let mut again = nonsense.stream().await;
    // Before a greeting nothing is taken from it.
    again.say(&evidence(vec![stretch(1000)], Vec::new())).await;
    again.raw(b"<html>\n").await;
    again.hung_up().await;

    let mut flood = endless.greet("c").await;
    let chunk = vec![b'x'; 1 << 16];
    let mut sent = 0_usize;
    while flood.raw(&chunk).await {
        sent += chunk.len();
        assert!(sent < 64 << 20, "{sent} bytes were taken of one line");
    }
    drop(endless.stream().await);

    stream
        .say(&evidence(vec![stretch(10)], errors(&[(1, true)])))
        .await;
    stream.say(&FromRouter::Alive).await;
    let heard = leader
        .heard(&run, |heard| requests(heard) == (10, 190))
        .await;
    assert_eq!(heard.revision, super::CANARY);
}

#[tokio::test]
async fn one_that_drips_is_dialled_anew() {
    let mut router = Router::start().await;
    let _leader = Leader::of(&[&router]);
    let mut stream = router.greet("a").await;
    // Something comes all the time, and no line ever ends.
    let dripping = tokio::spawn(async move {
        while stream.raw(b" ").await {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    });
    timeout(LONG, router.stream()).await.unwrap();
    dripping.abort();
}

#[tokio::test]
async fn a_router_that_is_not_heard_is_said_to_be_missing() {
    let (mut one, old) = (Router::start().await, Router::start().await);
    old.answers.lock().unwrap().is_old = true;
    let leader = Leader::of(&[&one, &old]);
    let mut stream = one.greet("a").await;
    stream.say(&FromRouter::Alive).await;
    let knows_none =
        |problem: &String| problem.contains(&old.address) && problem.contains("knows no stream");
    leader
        .heard(&under_way(), |heard| {
            heard.problem.as_ref().is_some_and(knows_none)
        })
        .await;
    leader.are(&[&one]);
    // With every router read there is nothing to say of a run that none has seen.
    let waiting = async {
        while leader.evidence(&under_way()).is_some() {
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
    };
    timeout(LONG, waiting).await.unwrap();
}

/// As `/applied` and the stream say it.
fn served(digest: &str) -> Applied {
    let route = json!({"namespace": "ml", "name": "digits", "digest": digest});
    serde_json::from_value(json!({"routes": [route]})).unwrap()
}

fn says(digest: &str) -> FromRouter {
    let routes = served(digest).routes;
    FromRouter::Applied { routes }
}

#[tokio::test]
async fn what_a_stream_says_is_served_need_not_be_asked_and_wakes_who_waits() {
    let (mut one, old) = (Router::start().await, Router::start().await);
    let leader = Leader::of(&[&one, &old]);
    {
        let mut answers = old.answers.lock().unwrap();
        answers.is_old = true;
        answers.applied = served("new");
    }
    let addresses: BTreeSet<String> = [one.address.clone(), old.address.clone()].into();
    let awaited = Awaited {
        route: route(),
        digest: "new".to_owned(),
    };
    let mut wakes = leader.routers.wakes(None);
    let mut stream = one.greet("a").await;
    stream.say(&says("old")).await;
    leader.routers.awaits(&awaited);
    stream.say(&says("new")).await;
    let woken = timeout(LONG, wakes.next()).await.unwrap().unwrap();
    assert_eq!(woken.name, "digits");
    assert_eq!(
        leader.routers.those_serve(&addresses, &awaited).await,
        Ok(Seen::Yes)
    );
    let asked = |router: &Router| router.answers.lock().unwrap().asked;
    assert_eq!((asked(&one), asked(&old)), (0, 1));

    // Whoever holds a stream will say when it is there; the other has to be asked again.
    let newer = Awaited {
        digest: "newer".to_owned(),
        ..awaited.clone()
    };
    let streams = BTreeSet::from([one.address.clone()]);
    let seen = leader.routers.those_serve(&streams, &newer).await;
    assert_eq!(seen, Ok(Seen::Awaited));
    let seen = leader.routers.those_serve(&addresses, &newer).await;
    assert_eq!(seen, Ok(Seen::No));

    // A stream that broke says nothing any more.
    drop(stream);
    let _next = one.stream().await;
    assert_eq!(
        leader.routers.those_serve(&addresses, &awaited).await,
        Ok(Seen::No)
    );
    assert_eq!(asked(&one), 1);
}
