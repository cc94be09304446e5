//! The guardrails of a run as the request path needs them: which requests are bad.

use std::time::Duration;

use crds::contract::{BadEvent, Judge, JudgedGuardrail, Test};
use verdict::alpha;
use verdict::attribution::Attribution;

/// Guardrails at most: one bit each.
pub const GUARDRAILS_MAX: usize = 8;
/// Names are labels of metrics and parts of messages.
const NAME_BYTES_MAX: usize = 63;

/// A set of guardrails, one bit for each in their order.
pub type Bits = u8;

/// The guardrails of a run, and how sure a router must be.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Guardrails {
    /// What `ln E` must reach.
    pub bound: f64,
    list: Vec<Guardrail>,
    /// Those that a request can break while it is still in flight.
    in_flight: Bits,
    /// Those that look at pauses.
    paced: Bits,
    warm_up_max: Duration,
}

/// One guardrail.
#[derive(Clone, Debug, PartialEq)]
pub struct Guardrail {
    /// Its name.
    pub name: String,
    /// What counts as bad.
    pub event: BadEvent,
    /// What must not be so.
    pub check: Check,
    /// Whether a router takes the canary's weight away by itself.
    pub trips: bool,
    /// For so long after an endpoint appeared its requests are no evidence.
    pub warm_up: Duration,
}

/// What must not be so.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Check {
    /// That the canary is worse than stable.
    Comparison(Attribution),
    /// That the canary's share of bad requests is more than this.
    Objective(f64),
}

/// How the first attempt of a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// The status code; 499 where the client went away.
    pub code: u16,
    /// From the request's arrival.
    pub took: Duration,
    /// From the request's arrival to the first chunk of the body; none where there was none.
    pub first_byte: Option<Duration>,
    /// Whether the body ended before it was complete.
    pub broken: bool,
}

/// The field of a [`Judge`] that cannot be followed, and why.
pub type Refused = (String, String);

impl Guardrails {
    /// Of what a route says.
    pub fn parse(judge: &Judge) -> Result<Self, Refused> {
        let refuse = |why: &dyn std::fmt::Display| ("judge.alpha".to_owned(), why.to_string());
        let alpha = judge.alpha.parse().map_err(|error| refuse(&error))?;
        let bound = alpha::bound_of_share(alpha).map_err(|error| refuse(&error))?;
        let mut guardrails = Self {
            bound,
            ..Self::default()
        };
        if judge.guardrails.len() > GUARDRAILS_MAX {
            let why = format!("there are more than {GUARDRAILS_MAX}");
            return Err(("judge.guardrails".to_owned(), why));
        }
        for (at, wanted) in judge.guardrails.iter().enumerate() {
            let refuse = |(field, why)| (format!("judge.guardrails[{at}].{field}"), why);
            let guardrail = Guardrail::parse(wanted).map_err(refuse)?;
            if guardrails.list.iter().any(|it| it.name == guardrail.name) {
                let why = format!("{:?} is there twice", guardrail.name);
                return Err(refuse(("name".to_owned(), why)));
            }
            guardrails.add(guardrail);
        }
        Ok(guardrails)
    }

    fn add(&mut self, guardrail: Guardrail) {
        let bit = bit(self.list.len());
        match guardrail.event {
            BadEvent::SlowerThan { .. } | BadEvent::SlowFirstByte { .. } => self.in_flight |= bit,
            BadEvent::SlowChunk { .. } => self.paced |= bit,
            BadEvent::Error | BadEvent::ClientError | BadEvent::BrokenStream => {}
        }
        self.warm_up_max = self.warm_up_max.max(guardrail.warm_up);
        self.list.push(guardrail);
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Guardrail> + DoubleEndedIterator {
        self.list.iter()
    }

    /// Whether the same requests are bad by both; how they are tested may differ.
    pub fn watch_alike(&self, other: &Self) -> bool {
        let alike = |(one, two): (&Guardrail, &Guardrail)| {
            one.name == two.name && one.event == two.event && one.warm_up == two.warm_up
        };
        self.list.len() == other.list.len() && self.iter().zip(other.iter()).all(alike)
    }

    /// The longest warm-up.
    pub fn warm_up_max(&self) -> Duration {
        self.warm_up_max
    }

    /// Whether a request can be bad before it ends.
    pub fn judge_in_flight(&self) -> bool {
        self.in_flight != 0
    }

    /// Whether pauses matter.
    pub fn judge_pauses(&self) -> bool {
        self.paced != 0
    }

    /// Those for which a request counts at an endpoint of this age. A comparison takes it only where
    /// the endpoints of both arms are as old as `beside`; none: it has nothing to compare with. What
    /// stands for no guardrail is set, so that all that count are always the same.
    pub fn counted(&self, age: Duration, beside: Option<Duration>) -> Bits {
        let count = u32::try_from(self.list.len()).unwrap_or(u32::MAX);
        let none = Bits::MAX.checked_shl(count).unwrap_or_default();
        none | self.select(|guardrail| {
            let age = match guardrail.check {
                Check::Comparison(_) => beside,
                Check::Objective(_) => Some(age),
            };
            age.is_some_and(|age| age >= guardrail.warm_up)
        })
    }

    /// Those that a request that ended so has broken, but for pauses.
    pub fn broken(&self, ended: &Ended) -> Bits {
        self.select(|guardrail| match guardrail.event {
            BadEvent::Error => ended.code >= 500,
            BadEvent::ClientError => {
                (400..500).contains(&ended.code) && !matches!(ended.code, 408 | 429 | 499)
            }
            BadEvent::SlowerThan { millis } => ended.took > Duration::from_millis(millis),
            BadEvent::SlowFirstByte { millis } => {
                // An answer without a body is all there when it ends.
                ended.first_byte.unwrap_or(ended.took) > Duration::from_millis(millis)
            }
            BadEvent::SlowChunk { .. } => false,
            BadEvent::BrokenStream => ended.broken,
        })
    }

    /// Those that a pause of an answer's body has broken.
    pub fn broken_by_pause(&self, pause: Duration) -> Bits {
        self.select(|guardrail| match guardrail.event {
            BadEvent::SlowChunk { millis } => pause > Duration::from_millis(millis),
            BadEvent::Error
            | BadEvent::ClientError
            | BadEvent::SlowerThan { .. }
            | BadEvent::SlowFirstByte { .. }
            | BadEvent::BrokenStream => false,
        })
    }

    /// Those that a request that is still in flight has broken by its age.
    pub fn broken_by_age(&self, age: Duration, has_first_byte: bool) -> Bits {
        self.select(|guardrail| match guardrail.event {
            BadEvent::SlowerThan { millis } => age > Duration::from_millis(millis),
            BadEvent::SlowFirstByte { millis } => {
                !has_first_byte && age > Duration::from_millis(millis)
            }
            BadEvent::Error
            | BadEvent::ClientError
            | BadEvent::SlowChunk { .. }
            | BadEvent::BrokenStream => false,
        })
    }

    fn select(&self, holds: impl Fn(&Guardrail) -> bool) -> Bits {
        let places = self.list.iter().enumerate();
        places.fold(0, |bits, (at, guardrail)| {
            bits | if holds(guardrail) { bit(at) } else { 0 }
        })
    }
}

impl Guardrail {
    fn parse(wanted: &JudgedGuardrail) -> Result<Self, Refused> {
        if wanted.name.is_empty() || wanted.name.len() > NAME_BYTES_MAX {
            let why = format!("must have 1 to {NAME_BYTES_MAX} bytes");
            return Err(("name".to_owned(), why));
        }
        match wanted.event {
            BadEvent::SlowerThan { millis: 0 }
            | BadEvent::SlowFirstByte { millis: 0 }
            | BadEvent::SlowChunk { millis: 0 } => {
                let why = "must be above 0: every answer takes longer than that".to_owned();
                return Err(("event.millis".to_owned(), why));
            }
            BadEvent::Error
            | BadEvent::ClientError
            | BadEvent::SlowerThan { .. }
            | BadEvent::SlowFirstByte { .. }
            | BadEvent::SlowChunk { .. }
            | BadEvent::BrokenStream => {}
        }
        Ok(Self {
            name: wanted.name.clone(),
            event: wanted.event,
            check: Check::parse(&wanted.test)?,
            trips: wanted.trips,
            warm_up: Duration::from_millis(wanted.warm_up_millis),
        })
    }
}

impl Check {
    fn parse(test: &Test) -> Result<Self, Refused> {
        let refuse = |field: &str, why: &dyn std::fmt::Display| {
            Err((format!("test.{field}"), why.to_string()))
        };
        match test {
            Test::Comparison { tolerance } => {
                let parsed = match tolerance.parse() {
                    Ok(number) => Attribution::new(number),
                    Err(error) => return refuse("tolerance", &error),
                };
                match parsed {
                    Ok(attribution) => Ok(Self::Comparison(attribution)),
                    Err(error) => refuse("tolerance", &error),
                }
            }
            Test::Objective { max } => match max.parse() {
                Ok(max) if max > 0.0 && max < 1.0 => Ok(Self::Objective(max)),
                Ok(max) => refuse("max", &format!("{max} must be above 0 and below 1")),
                Err(error) => refuse("max", &error),
            },
        }
    }
}

/// The bit of the guardrail at a place.
pub fn bit(at: usize) -> Bits {
    u32::try_from(at)
        .ok()
        .and_then(|at| 1_u8.checked_shl(at))
        .unwrap_or_default()
}

/// The places in a set.
pub fn places(bits: Bits) -> impl Iterator<Item = usize> {
    (0..GUARDRAILS_MAX).filter(move |at| bits & bit(*at) != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crds::quantity::Number;

    fn judge(guardrails: &[(&str, BadEvent, Test)]) -> Judge {
        Judge {
            alpha: Number::from("0.001"),
            guardrails: guardrails
                .iter()
                .map(|(name, event, test)| JudgedGuardrail {
                    name: (*name).to_owned(),
                    event: *event,
                    test: test.clone(),
                    trips: true,
                    warm_up_millis: 0,
                })
                .collect(),
        }
    }

    fn comparison() -> Test {
        Test::Comparison {
            tolerance: Number::from("1"),
        }
    }

    #[test]
    fn each_event_is_told_from_the_others() {
        let millis = 250;
        let events = [
            BadEvent::Error,
            BadEvent::ClientError,
            BadEvent::SlowerThan { millis },
            BadEvent::SlowFirstByte { millis },
            BadEvent::SlowChunk { millis },
            BadEvent::BrokenStream,
        ];
        let named: Vec<_> = ["a", "b", "c", "d", "e", "f"]
            .into_iter()
            .zip(events)
            .map(|(name, event)| (name, event, comparison()))
            .collect();
        let guardrails = Guardrails::parse(&judge(&named)).unwrap();
        let good = Ended {
            code: 200,
            took: Duration::from_millis(millis),
            first_byte: Some(Duration::from_millis(millis)),
            broken: false,
        };
        assert_eq!(guardrails.broken(&good), 0);
        let slow = Duration::from_millis(millis + 1);
        for (ended, bits) in [
            (Ended { code: 500, ..good }, 0b1),
            (Ended { code: 404, ..good }, 0b10),
            (Ended { code: 429, ..good }, 0),
            (Ended { code: 408, ..good }, 0),
            (Ended { took: slow, ..good }, 0b100),
            (
                Ended {
                    first_byte: Some(slow),
                    ..good
                },
                0b1000,
            ),
            (
                Ended {
                    first_byte: None,
                    took: slow,
                    ..good
                },
                0b1100,
            ),
            (
                Ended {
                    broken: true,
                    ..good
                },
                0b10_0000,
            ),
        ] {
            assert_eq!(guardrails.broken(&ended), bits, "{ended:?}");
        }
        assert_eq!(guardrails.broken_by_pause(slow), 0b1_0000);
        assert_eq!(guardrails.broken_by_age(slow, true), 0b100);
        assert_eq!(guardrails.broken_by_age(slow, false), 0b1100);
        assert_eq!(places(0b10_0010).collect::<Vec<_>>(), [1, 5]);
    }

    #[test]
    fn what_cannot_be_followed_is_refused_with_its_path() {
        let error = || ("errors", BadEvent::Error, comparison());
        let with = |test| vec![("a", BadEvent::Error, test)];
        let number = |text| Number::from(text);
        let mut wrong = vec![
            (judge(&[error(), error()]), "judge.guardrails[1].name"),
            (
                judge(&[("", BadEvent::Error, comparison())]),
                "judge.guardrails[0].name",
            ),
            (
                judge(&[("a", BadEvent::SlowerThan { millis: 0 }, comparison())]),
                "judge.guardrails[0].event.millis",
            ),
            (
                judge(&with(Test::Comparison {
                    tolerance: number("0.9"),
                })),
                "judge.guardrails[0].test.tolerance",
            ),
            (
                judge(&with(Test::Comparison {
                    tolerance: number("x"),
                })),
                "judge.guardrails[0].test.tolerance",
            ),
            (
                judge(&with(Test::Objective { max: number("1") })),
                "judge.guardrails[0].test.max",
            ),
        ];
        for alpha in ["0", "1", "-1", "NaN", ""] {
            let mut judge = judge(&[error()]);
            judge.alpha = number(alpha);
            wrong.push((judge, "judge.alpha"));
        }
        let mut many = judge(&[]);
        many.guardrails = (0..9)
            .map(|at| JudgedGuardrail {
                name: format!("g{at}"),
                ..judge(&[error()]).guardrails.remove(0)
            })
            .collect();
        wrong.push((many, "judge.guardrails"));
        for (judge, path) in wrong {
            assert_eq!(Guardrails::parse(&judge).unwrap_err().0, path, "{judge:?}");
        }
    }
}
