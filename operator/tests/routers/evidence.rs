//! What several processes saw together.

use std::time::Duration;

use crds::{contract::FromRouter, status::EvidenceStatus};
use futures::StreamExt as _;
use rollout::state::Tally;
use tokio::time::timeout;

use super::{
    LONG, Leader, Router, about_to_begin, carried, errors, evidence, requests, stretch, under_way,
};

#[tokio::test]
async fn a_broken_stream_goes_on_and_what_is_repeated_changes_nothing() {
    let mut router = Router::start().await;
    let leader = Leader::of(&[&router]);
    let run = about_to_begin();
    let mut stream = router.greet("a").await;
    let two = errors(&[(1, true), (2, false)]);
    let line = evidence(vec![stretch(10)], two);
    stream.say(&line).await;
    stream.say(&line).await;
    let heard = leader.heard(&run, |heard| requests(heard).0 == 10).await;
    assert_eq!(carried(&heard), Some((1, 1)));
    drop(stream);

    let mut stream = router.greet("a").await;
    assert_eq!(stream.query, "boot=a&after=ml/digits/2");
    let three = errors(&[(1, true), (2, false), (3, false)]);
    stream.say(&evidence(vec![stretch(20)], three)).await;
    let heard = leader.heard(&run, |heard| requests(heard).0 == 20).await;
    assert_eq!(requests(&heard), (20, 380));
    assert_eq!(carried(&heard), Some((1, 2)));
    assert_eq!(heard.problem, None);
}

#[tokio::test]
async fn a_user_whom_two_routers_saw_counts_once_and_requests_add_up() {
    let (mut one, mut two) = (Router::start().await, Router::start().await);
    let leader = Leader::of(&[&one, &two]);
    let run = about_to_begin();
    let mut first = one.greet("a").await;
    first
        .say(&evidence(
            vec![stretch(10)],
            errors(&[(1, true), (2, false)]),
        ))
        .await;
    leader.heard(&run, |heard| requests(heard).0 == 10).await;
    let mut second = two.greet("b").await;
    second
        .say(&evidence(
            vec![stretch(5)],
            errors(&[(2, false), (1, true), (3, true)]),
        ))
        .await;
    let heard = leader.heard(&run, |heard| requests(heard).0 == 15).await;
    assert_eq!(requests(&heard), (15, 285));
    assert_eq!(carried(&heard), Some((2, 1)));
    let first_bad = &heard.guardrails["errors"].first_bad;
    assert_eq!((first_bad[0].canary, first_bad[0].stable), (2, 1));
}

#[tokio::test]
async fn of_a_user_seen_in_two_steps_the_earlier_one_is_the_first() {
    let mut router = Router::start().await;
    let leader = Leader::of(&[&router]);
    let mut stream = router.greet("a").await;
    let mut later = stretch(10);
    (later.id, later.step, later.weight) = (2, 2, 2500);
    let mut events = errors(&[(1, true), (1, false)]);
    events[0].segment = 2;
    stream
        .say(&evidence(vec![stretch(10), later], events))
        .await;
    let heard = leader
        .heard(&about_to_begin(), |heard| requests(heard).0 == 20)
        .await;
    assert_eq!(carried(&heard), Some((0, 1)));
    assert_eq!(heard.stretches.len(), 2);
}

#[tokio::test]
async fn requests_without_a_user_are_each_their_own() {
    let mut router = Router::start().await;
    let leader = Leader::of(&[&router]);
    let run = about_to_begin();
    let mut stream = router.greet("a").await;
    for (requests_so_far, bad) in [(10, 3), (20, 5)] {
        let mut segment = stretch(requests_so_far);
        for counts in [
            &mut segment.canary.bad,
            &mut segment.canary.bad_without_user,
        ] {
            counts.insert("errors".to_owned(), bad);
        }
        stream.say(&evidence(vec![segment], Vec::new())).await;
        let heard = leader
            .heard(&run, |heard| requests(heard).0 == requests_so_far)
            .await;
        assert_eq!(carried(&heard), Some((bad, 0)));
        assert_eq!(heard.stretches[0].canary.bad["errors"], bad);
    }
}

#[tokio::test]
async fn what_a_restarted_router_saw_before_still_counts() {
    let mut router = Router::start().await;
    let leader = Leader::of(&[&router]);
    let run = about_to_begin();
    let mut stream = router.greet("a").await;
    stream
        .say(&evidence(vec![stretch(10)], errors(&[(1, true)])))
        .await;
    stream.say(&FromRouter::Alive).await;
    leader.heard(&run, |heard| requests(heard).0 == 10).await;
    drop(stream);

    let mut stream = router.greet("b").await;
    stream
        .say(&evidence(vec![stretch(4)], errors(&[(1, true), (2, true)])))
        .await;
    let heard = leader.heard(&run, |heard| requests(heard).0 == 14).await;
    assert_eq!(carried(&heard), Some((2, 0)));
}

#[tokio::test]
async fn a_router_that_went_before_it_was_read_closes_the_carry_lane() {
    let (mut stays, mut goes) = (Router::start().await, Router::start().await);
    let leader = Leader::of(&[&stays, &goes]);
    let run = about_to_begin();
    let mut stream = stays.greet("a").await;
    stream
        .say(&evidence(vec![stretch(10)], errors(&[(1, true)])))
        .await;
    let heard = leader.heard(&run, |heard| requests(heard).0 == 10).await;
    assert_eq!(carried(&heard), Some((1, 0)));
    let number = heard.guardrails["errors"].lanes.unwrap().process.number;

    drop(goes.greet("b").await);
    // The next process shows that the one before is gone.
    let _next = goes.greet("c").await;
    let heard = leader.heard(&run, |heard| carried(heard).is_none()).await;
    let lanes = heard.guardrails["errors"].lanes.unwrap();
    assert!(lanes.process.number > number, "{lanes:?}");
}

#[tokio::test]
async fn a_new_leader_has_the_evidence_of_the_old_one() {
    let mut router = Router::start().await;
    let run = about_to_begin();
    let old = Leader::at(&[&router], 1, None);
    let mut stream = router.greet("a").await;
    let line = evidence(vec![stretch(10)], errors(&[(1, true), (2, false)]));
    stream.say(&line).await;
    let before = old.heard(&run, |heard| requests(heard).0 == 10).await;
    drop(old);
    stream.hung_up().await;

    let mut recorded = under_way();
    recorded.tallies = [("errors".to_owned(), tally(&before))].into();
    let new = Leader::at(&[&router], 2, None);
    let mut stream = router.greet("a").await;
    stream.say(&line).await;
    // Not all that the routers know may be here yet.
    let heard = new.heard(&recorded, |heard| requests(heard).0 == 10).await;
    assert!(heard.problem.is_some());
    stream.say(&FromRouter::Alive).await;
    let heard = new.heard(&recorded, |heard| heard.problem.is_none()).await;
    assert_eq!(carried(&heard), carried(&before));
    router
        .led(|said| said.epoch == 2 && said.leader == "leader-2")
        .await;
}

#[tokio::test]
async fn a_router_that_always_has_something_to_say_is_read_after_its_first_round() {
    let mut router = Router::start().await;
    let leader = Leader::of(&[&router]);
    let mut stream = router.greet("a").await;
    let waiting = async {
        for requests_so_far in 1.. {
            let line = evidence(vec![stretch(requests_so_far)], Vec::new());
            stream.say(&line).await;
            let heard = leader.evidence(&under_way());
            if heard.is_some_and(|heard| heard.problem.is_none()) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(LONG, waiting).await.unwrap();
}

#[tokio::test]
async fn where_leader_and_router_are_both_new_the_carry_lane_is_closed() {
    let mut router = Router::start().await;
    let run = about_to_begin();
    let old = Leader::of(&[&router]);
    let mut stream = router.greet("a").await;
    stream
        .say(&evidence(
            vec![stretch(10)],
            errors(&[(1, true), (2, true)]),
        ))
        .await;
    let before = old.heard(&run, |heard| requests(heard).0 == 10).await;
    drop(old);

    let mut recorded = under_way();
    recorded.tallies = [("errors".to_owned(), tally(&before))].into();
    let new = Leader::of(&[&router]);
    let mut stream = router.greet("b").await;
    stream
        .say(&evidence(vec![stretch(4)], errors(&[(1, true)])))
        .await;
    stream.say(&FromRouter::Alive).await;
    let heard = new
        .heard(&recorded, |heard| {
            heard.problem.is_none() && requests(heard).0 == 4
        })
        .await;
    let lanes = heard.guardrails["errors"].lanes.unwrap();
    assert_eq!(lanes.carry, None);
    let then = before.guardrails["errors"].lanes.unwrap();
    assert!(lanes.process.number > then.process.number && lanes.highest >= then.highest);
    // What comes later counts in the lane that is left.
    let more = errors(&[(1, true), (3, true)]);
    stream.say(&evidence(vec![stretch(8)], more)).await;
    let heard = new.heard(&recorded, |heard| requests(heard).0 == 8).await;
    assert_eq!(
        heard.guardrails["errors"].lanes.unwrap().restart.canary(),
        1
    );
}

/// What a transition records of evidence.
fn tally(evidence: &rollout::evidence::RunEvidence) -> Tally {
    let lanes = evidence.guardrails["errors"].lanes.unwrap();
    Tally {
        evidence: Some(EvidenceStatus {
            sums: Some(serde_json::to_string(&lanes).unwrap()),
            ..EvidenceStatus::default()
        }),
        ..Tally::default()
    }
}

#[tokio::test]
async fn evidence_that_changes_a_verdict_wakes_the_object_and_other_evidence_does_not() {
    let mut router = Router::start().await;
    let leader = Leader::of(&[&router]);
    let mut wakes = leader.routers.wakes(Some("ml"));
    let mut others = leader.routers.wakes(Some("other"));
    let run = under_way();
    let mut stream = router.greet("a").await;
    stream.say(&FromRouter::Alive).await;
    stream.say(&evidence(vec![stretch(1)], Vec::new())).await;
    leader
        .heard(&run, |heard| {
            requests(heard).0 == 1 && heard.problem.is_none()
        })
        .await;
    let failing: Vec<(u64, bool)> = (0..40).map(|user| (user, true)).collect();
    stream
        .say(&evidence(vec![stretch(60)], errors(&failing)))
        .await;
    let woken = timeout(LONG, wakes.next()).await.unwrap().unwrap();
    assert_eq!(
        (woken.name.as_str(), woken.namespace.as_deref()),
        ("digits", Some("ml"))
    );
    timeout(Duration::ZERO, others.next()).await.unwrap_err();

    // The same verdicts again, said at the latest when the next thing is heard.
    leader.heard(&run, |heard| requests(heard).0 == 60).await;
    while timeout(Duration::ZERO, wakes.next()).await.is_ok() {}
    stream
        .say(&evidence(vec![stretch(61)], errors(&failing)))
        .await;
    stream
        .say(&FromRouter::Tripped {
            namespace: "ml".to_owned(),
            route: "other".to_owned(),
            trip: super::trip(),
        })
        .await;
    let woken = timeout(LONG, wakes.next()).await.unwrap().unwrap();
    assert_eq!(woken.name, "other");
}
