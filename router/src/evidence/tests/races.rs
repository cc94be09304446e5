//! Requests that end while the judge looks at them.

use super::*;

#[test]
fn a_request_in_flight_is_counted_once_whoever_comes_first() {
    let slow = guardrail(
        "slow",
        BadEvent::SlowerThan { millis: 100 },
        comparison("1"),
    );
    let mut router = Virtual::new("0.001", vec![slow]);
    router.publish("r1", 1, 500, 0);
    let bad = |router: &Virtual| {
        let told = router.told();
        let canary = told.segments.first().unwrap().canary.clone();
        (
            canary.requests,
            canary.bad.get("slow").copied().unwrap_or_default(),
        )
    };
    let observe = |router: &Virtual, user| {
        let at = (Role::Canary, address(CANARY));
        let witness = router.witness.as_ref().unwrap();
        witness.observe(at, Some(user), router.at(0)).unwrap()
    };
    let ended = |code, millis| Ended {
        code,
        took: Duration::from_millis(millis),
        first_byte: None,
        broken: false,
    };
    let (one, two, three) = (
        observe(&router, 1),
        observe(&router, 2),
        observe(&router, 3),
    );
    router.look(100);
    assert_eq!(bad(&router), (0, 0));
    router.look(101);
    assert_eq!(bad(&router), (0, 3));
    router.look(151);
    assert_eq!(bad(&router), (0, 3));
    assert_eq!(router.told().events.len(), 3);
    one.end(&ended(200, 160));
    // A client that gave up after the bound has seen that it was passed.
    two.end(&ended(CLIENT_WENT_AWAY, 160));
    // A request that is dropped anywhere frees its slot, and what was seen of it stays.
    drop(three);
    let early = observe(&router, 4);
    early.end(&ended(CLIENT_WENT_AWAY, 100));
    let late = observe(&router, 5);
    late.end(&ended(CLIENT_WENT_AWAY, 101));
    router.look(200);
    assert_eq!(bad(&router), (3, 4));
    let canary = router.told().segments.first().unwrap().canary.clone();
    assert_eq!(canary.units, 3);
}

#[test]
fn requests_that_end_while_the_judge_looks_are_counted_once() {
    let mut slow = guardrail(
        "slow",
        BadEvent::SlowerThan { millis: 1 },
        comparison("100"),
    );
    // A trip would end the segment.
    slow.trips = false;
    let mut router = Virtual::new("0.001", vec![slow]);
    router.publish("r1", 1, 500, 0);
    let router = &router;
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let requests: Vec<_> = (0..4_u64)
            .map(|thread| {
                scope.spawn(move || {
                    let witness = router.witness.as_ref().unwrap();
                    for user in 0..10_000_u64 {
                        let at = (Role::Canary, address(CANARY));
                        let user = Some(user * 4 + thread);
                        let observation = witness.observe(at, user, router.at(0));
                        observation.unwrap().end(&Ended {
                            code: 200,
                            took: Duration::from_millis(2),
                            first_byte: None,
                            broken: false,
                        });
                    }
                })
            })
            .collect();
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                router.look(2);
            }
        });
        for request in requests {
            request.join().unwrap();
        }
        done.store(true, Ordering::Relaxed);
    });
    router.look(3);
    let canary = router.told().segments.first().unwrap().canary.clone();
    assert_eq!(canary.requests, 40_000);
    assert_eq!(canary.bad.get("slow"), Some(&40_000));
}
