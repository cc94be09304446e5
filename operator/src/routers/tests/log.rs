//! Requests as users send them.

/// Requests in a second.
const RATE: usize = 20;

/// What users are like.
#[derive(Clone, Copy, Debug)]
pub(super) struct Habits {
    /// Different users; none: nobody comes twice, and half say who they are.
    users: Option<u64>,
    /// One user in so many has nothing but bad answers, wherever.
    always_fails: Option<u64>,
    /// How often one tries again at once after a bad answer, and has another.
    retries: usize,
    /// The canary has one more cause of bad answers, one time in so many.
    canary_fails: Option<u64>,
}

impl Habits {
    pub(super) const STRANGERS: Self = Self {
        users: None,
        always_fails: None,
        retries: 0,
        canary_fails: None,
    };
    pub(super) const TRY_AGAIN: Self = Self {
        users: Some(4000),
        retries: 9,
        ..Self::STRANGERS
    };
    pub(super) const SOME_ALWAYS_FAIL: Self = Self {
        users: Some(2000),
        always_fails: Some(50),
        ..Self::STRANGERS
    };
    pub(super) const BAD_CANARY: Self = Self {
        canary_fails: Some(5),
        ..Self::STRANGERS
    };
}

/// One request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Request {
    /// Where it falls between the arms: of a user always at the same place.
    pub(super) draw: u64,
    /// Whether it says who sent it.
    pub(super) tells_user: bool,
    /// A random number, by which one of the routers gets it.
    pub(super) router: u64,
    /// Whether its answer is bad where stable gives it, and where the canary does.
    pub(super) is_bad: (bool, bool),
}

/// The requests of a run, the same on every machine.
pub(super) struct Log {
    habits: Habits,
    seed: u64,
    dice: Dice,
}

impl Log {
    pub(super) fn new(seed: u64, habits: Habits) -> Self {
        Self {
            habits,
            seed,
            dice: Dice(seed),
        }
    }

    /// Those of the next second.
    pub(super) fn second(&mut self) -> Vec<Request> {
        let mut requests = Vec::with_capacity(RATE);
        for number in 0..RATE {
            self.visit(number, &mut requests);
        }
        requests
    }

    /// A user comes, and tries again while there is a reason.
    fn visit(&mut self, number: usize, requests: &mut Vec<Request>) {
        let Habits {
            users,
            always_fails,
            retries,
            canary_fails,
        } = self.habits;
        let any = self.dice.next();
        let user = users.map_or(any, |users| any % users);
        let never_works = always_fails.is_some_and(|one_in| user.is_multiple_of(one_in));
        let on_stable = never_works || self.dice.once_in(25);
        let on_canary = canary_fails.is_some_and(|one_in| self.dice.once_in(one_in));
        let times = if on_stable { 1 + retries } else { 1 };
        for _ in 0..times {
            requests.push(Request {
                draw: Dice(self.seed ^ user.rotate_left(20)).next(),
                tells_user: users.is_some() || number.is_multiple_of(2),
                router: self.dice.next(),
                is_bad: (on_stable, on_stable || on_canary),
            });
        }
    }
}

struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    /// True once in so many times.
    fn once_in(&mut self, times: u64) -> bool {
        self.next().is_multiple_of(times)
    }
}
