//! Judgements from evidence.

use std::borrow::Cow;

use jiff::{SignedDuration, Timestamp};
use verdict::{
    DomainError, Verdict, alpha,
    non_inferiority::{self, NonInferiority},
    share,
    slo::{self, Outcomes},
};

use super::{GuardrailEvidence, Requests, RunEvidence, real};
use crate::{
    guardrail::{Guardrail, Judgement, RouterCheck, RouterTest, router},
    observation::{Frozen, Observation},
    plan::Plan,
    state::{Run, Stage, State},
    weight::Weight,
};

/// How likely a canary at the margin may be promoted.
const WRONG_PROMOTION: f64 = 0.05;
/// How likely a right share may be taken for a wrong one.
const WRONG_SHARE: f64 = 0.001;
/// So many requests of each user, on average, and more of the same tell nothing new.
const REQUESTS_OF_A_USER: u64 = 4;

/// How long a step may be without a request before that is called blind.
const FIRST_REQUEST: SignedDuration = SignedDuration::from_secs(10);

const NOT_OURS: &str = "no router of Sluice carries this traffic: name guardrails of type \
                        Threshold, or use the Gateway of the chart";
const NOT_HEARD: &str = "the routers have reported nothing of this run";
const NO_NUMBER: &str = "the evidence is not a number";
const NO_REQUEST: &str = "no request of this step has ended on the canary";
const COPIES: &str = "requests are only copied to the canary in this step: no user gets those \
                      answers, so they are no evidence";
const WARMING: &str = "; while endpoints warm up, or stable has none, requests do not count";
const SHARE: &str = "the canary does not get the share of the requests that its weight gives it";

/// What evidence is judged with.
#[derive(Clone, Copy, Debug)]
pub struct Look<'a> {
    /// The run's plan.
    pub plan: &'a Plan,
    /// The run.
    pub run: &'a Run,
    /// What the routers saw of it.
    pub evidence: Option<&'a RunEvidence>,
    /// [`crate::observation::Wanted::routers`].
    pub routers: u32,
    /// Whether requests are split by user, so that those of one user are not drawn one by one.
    pub by_user: bool,
    /// The time.
    pub now: Timestamp,
}

/// What the routers' guardrails say of the canary: one judgement each, none before the canary has
/// had traffic.
pub fn judgements(look: &Look<'_>) -> Vec<Judgement> {
    let Some(since) = look.run.exposed_at else {
        return Vec::new();
    };
    let guardrails = look.plan.for_routers();
    guardrails
        .map(|(guardrail, check)| {
            let nothing = Judgement {
                guardrail: guardrail.name.clone(),
                revision: look.run.revision.clone(),
                window_start: since,
                at: look.now,
                verdict: Verdict::NoData,
                value: None,
                samples: None,
                problem: None,
                log_e: None,
                bound: None,
                summary: None,
            };
            let judged = judge(guardrail, check, look, &nothing);
            if look.run.mirror(look.plan).is_some() && judged.verdict != Verdict::Fail {
                return undecided(nothing);
            }
            judged
        })
        .collect()
}

/// What is said of a canary that gets no traffic but copies.
fn undecided(nothing: Judgement) -> Judgement {
    Judgement {
        verdict: Verdict::Inconclusive,
        problem: Some(COPIES.to_owned()),
        summary: Some(COPIES.to_owned()),
        ..nothing
    }
}

impl Look<'_> {
    /// A verdict that nothing was seen, unless the step has just begun, so that it is no wonder.
    fn unless_early(&self, verdict: Verdict) -> Verdict {
        match self.run.hold() {
            Some(held) if held.elapsed(self.now) >= FIRST_REQUEST => verdict,
            Some(_) | None => Verdict::Inconclusive,
        }
    }
}

/// The observation with the judgements of the routers' guardrails beside those of the others.
pub(crate) fn with_judgements<'a>(
    state: &State,
    seen: &'a Observation,
    now: Timestamp,
) -> Cow<'a, Observation> {
    let (Some(run), Frozen::Plan(plan)) = (state.run(), &seen.frozen) else {
        return Cow::Borrowed(seen);
    };
    let judged = judgements(&Look {
        plan,
        run,
        evidence: seen.evidence.as_ref(),
        routers: seen.wanted.routers,
        by_user: seen.wanted.route.key.is_some(),
        now,
    });
    if judged.is_empty() {
        return Cow::Borrowed(seen);
    }
    let mut seen = seen.clone();
    seen.judgements.extend(judged);
    Cow::Owned(seen)
}

fn judge(
    guardrail: &Guardrail,
    check: &RouterCheck,
    look: &Look<'_>,
    nothing: &Judgement,
) -> Judgement {
    let blind = |verdict: Verdict, problem: &str| Judgement {
        verdict,
        problem: Some(problem.to_owned()),
        ..nothing.clone()
    };
    let Some(alpha) = look.plan.alpha_each(look.routers) else {
        return blind(Verdict::NoData, NOT_OURS);
    };
    let about_this =
        |seen: &&RunEvidence| seen.run == look.run.id && seen.revision == look.run.revision;
    let Some(evidence) = look.evidence.filter(about_this) else {
        return blind(look.unless_early(Verdict::Error), NOT_HEARD);
    };
    let case = Case {
        name: &guardrail.name,
        check,
        look,
        evidence,
        here: here(look.run, evidence),
    };
    case.conclude(alpha).map_or_else(
        |error| blind(Verdict::Error, &error.to_string()),
        |concluded| case.judgement(&concluded, nothing.clone()),
    )
}

/// The requests of the canary and of stable at the run's step and whole weight.
fn here(run: &Run, evidence: &RunEvidence) -> (Requests, Requests) {
    let step = router::step_number(&run.stage);
    evidence.sum(|stretch| stretch.step == step && stretch.weight == run.earned)
}

/// One guardrail and what is known for it.
struct Case<'a> {
    name: &'a str,
    check: &'a RouterCheck,
    look: &'a Look<'a>,
    evidence: &'a RunEvidence,
    here: (Requests, Requests),
}

struct Concluded {
    verdict: Verdict,
    /// What it lacks for a pass.
    lacks: Option<String>,
    log_e: f64,
    bound: f64,
}

impl Case<'_> {
    fn conclude(&self, alpha: f64) -> Result<Concluded, DomainError> {
        let bound = alpha::bound_of_share(alpha)?;
        let log_e = self.log_e()?;
        let (verdict, lacks) = if log_e >= bound {
            (Verdict::Fail, None)
        } else if !log_e.is_finite() {
            (Verdict::Error, Some(NO_NUMBER.to_owned()))
        } else if let Some(problem) = &self.evidence.problem {
            (Verdict::Error, Some(problem.clone()))
        } else if self.here.0.requests == 0 {
            let verdict = self.look.unless_early(Verdict::NoData);
            (verdict, Some(NO_REQUEST.to_owned()))
        } else if let Some(lack) = self.lack()? {
            (Verdict::Inconclusive, Some(lack))
        } else {
            (Verdict::Pass, None)
        };
        Ok(Concluded {
            verdict,
            lacks,
            log_e,
            bound,
        })
    }

    fn judgement(&self, concluded: &Concluded, nothing: Judgement) -> Judgement {
        Judgement {
            verdict: concluded.verdict,
            value: self.here.0.bad_share(self.name),
            samples: Some(real(self.here.0.units)),
            problem: concluded.lacks.clone(),
            log_e: Some(concluded.log_e),
            bound: Some(concluded.bound),
            summary: Some(self.summary(concluded)),
            ..nothing
        }
    }

    fn seen(&self) -> Option<&GuardrailEvidence> {
        self.evidence.guardrails.get(self.name)
    }

    /// The evidence that the canary is worse. What a comparison found stays found at full weight,
    /// where it is an objective.
    fn log_e(&self) -> Result<f64, DomainError> {
        let lanes = self.seen().and_then(|seen| seen.lanes.as_ref());
        let compared = match self.check.test {
            RouterTest::Comparison { .. } => lanes.map_or(0.0, |lanes| lanes.highest),
            RouterTest::Objective { .. } => f64::NEG_INFINITY,
        };
        let is_compared = matches!(self.check.test, RouterTest::Comparison { .. });
        let run = self.look.run;
        match router::effective(self.check, run, run.earned, self.name) {
            RouterTest::Comparison { .. } => Ok(compared),
            RouterTest::Objective { max } => {
                let of = |weight: Weight| !is_compared || weight == Weight::FULL;
                Ok(slo::ln_e(max, self.outcomes(of))?.max(compared))
            }
        }
    }

    /// The canary's users with a bad answer, of its requests: of one user several bad ones are one,
    /// so that no single user makes a canary look bad.
    fn outcomes(&self, of: impl Fn(Weight) -> bool) -> Outcomes {
        let first_bad = self.seen().into_iter().flat_map(|seen| &seen.first_bad);
        let bad = first_bad.filter(|bad| of(bad.weight)).map(|bad| bad.canary);
        let canary = self.evidence.sum(|stretch| of(stretch.weight)).0;
        let total = canary.judged(self.name);
        Outcomes {
            bad: bad.fold(0, u64::saturating_add).min(total),
            total,
        }
    }

    /// What keeps a guardrail that does not fail from passing.
    fn lack(&self) -> Result<Option<String>, DomainError> {
        if !self.is_tried() {
            let left_out = self.here.0.untold.contains_key(self.name);
            let left_out = if left_out { WARMING } else { "" };
            return Ok(Some(format!(
                "it needs {} users on the canary in this step, or as many requests, {} of each user{left_out}",
                self.check.min_units, REQUESTS_OF_A_USER
            )));
        }
        if !self.look.by_user && self.is_share_wrong()? {
            return Ok(Some(SHARE.to_owned()));
        }
        let run = self.look.run;
        match router::effective(self.check, run, run.earned, self.name) {
            RouterTest::Objective { max } => {
                let above = self
                    .here
                    .0
                    .bad_share(self.name)
                    .is_some_and(|share| share > max);
                Ok(above.then(|| format!("more than {max} of this step's requests were bad")))
            }
            RouterTest::Comparison {
                tolerance,
                promote_within,
                promote_below,
            } => {
                let needed = self.is_before_all_traffic();
                let shown = !needed
                    || self.is_less_than(promote_within, tolerance)?
                    || self.is_below(promote_below)?;
                Ok((!shown).then(|| {
                    format!(
                        "before all traffic it must be shown that the canary is less than {promote_within} times as bad as stable, or bad in less than {promote_below} of its requests"
                    )
                }))
            }
        }
    }

    /// Whether the canary was tried enough in this step: on enough users, or on all that there are,
    /// as they come again and again.
    fn is_tried(&self) -> bool {
        let need = u64::from(self.check.min_units);
        let requests = self.here.0.judged(self.name);
        let units = self.here.0.units;
        requests >= need && (units >= need || requests >= units.saturating_mul(REQUESTS_OF_A_USER))
    }

    fn is_share_wrong(&self) -> Result<bool, DomainError> {
        let weight = self.look.run.earned;
        if weight == Weight::ZERO || weight == Weight::FULL {
            return Ok(false);
        }
        let (canary, stable) = (self.here.0.requests, self.here.1.requests);
        let log_e = share::ln_e(fraction(weight), canary, stable)?;
        Ok(log_e >= alpha::bound_of_share(WRONG_SHARE)?)
    }

    fn is_before_all_traffic(&self) -> bool {
        let Stage::Step { index, .. } = &self.look.run.stage else {
            return false;
        };
        let next = self.look.plan.step(index.saturating_add(1));
        next.is_some_and(|step| step.weight == Weight::FULL)
    }

    /// Whether the canary is shown to be less than so many times as bad as stable. Where stable is
    /// so bad that nothing can be, it need not be shown.
    fn is_less_than(&self, margin: f64, tolerance: f64) -> Result<bool, DomainError> {
        let stable = self.evidence.sum(|_| true).1;
        let known = stable.judged(self.name) >= u64::from(self.check.min_units);
        let share = stable.bad_share(self.name).filter(|_| known);
        if share.is_some_and(|share| share * margin >= 1.0) {
            return Ok(true);
        }
        let first_bad = self.seen().into_iter().flat_map(|seen| &seen.first_bad);
        let of_run = first_bad.map(|bad| (fraction(bad.weight), bad.canary, bad.stable));
        let of_run = of_run.collect::<Vec<_>>();
        let test = NonInferiority::new(margin, tolerance)?;
        let best = test.evidence(&of_run)?.ln_e();
        let best = best.max(test.evidence(&self.of_step())?.ln_e());
        // Two tests share the chance.
        Ok(best >= alpha::bound_of_share(WRONG_PROMOTION / 2.0)?)
    }

    /// Users' first bad answers of this step alone: those who fail again and again were all counted
    /// at the small weights of the first steps, where they tell next to nothing.
    fn of_step(&self) -> Vec<(f64, u64, u64)> {
        let run = self.look.run;
        let step = router::step_number(&run.stage);
        let at_other_weights = self.evidence.sum(|stretch| {
            stretch.step == step && stretch.weight != run.earned && stretch.weight > Weight::ZERO
        });
        let lanes = self.seen().and_then(|seen| seen.lanes.as_ref());
        let lanes = lanes.filter(|lanes| {
            lanes.process.step == step
                && at_other_weights.0.requests + at_other_weights.1.requests == 0
        });
        lanes
            .map(|lanes| {
                (
                    fraction(run.earned),
                    lanes.restart.canary(),
                    lanes.restart.stable(),
                )
            })
            .into_iter()
            .collect()
    }

    /// Whether the canary's share of bad requests is shown to be below a figure. Here every bad
    /// request counts: it is no test that could take traffic off wrongly.
    fn is_below(&self, share: f64) -> Result<bool, DomainError> {
        let canary = self.evidence.sum(|_| true).0;
        let outcomes = Outcomes {
            bad: canary.bad(self.name),
            total: canary.judged(self.name),
        };
        let log_e = non_inferiority::absolute_ln_e(share, outcomes)?;
        Ok(log_e >= alpha::bound_of_share(WRONG_PROMOTION)?)
    }

    fn summary(&self, concluded: &Concluded) -> String {
        let (canary, stable) = &self.here;
        let stable = stable
            .bad_share(self.name)
            .map(|share| format!(" against {} on stable", percent(share)))
            .unwrap_or_default();
        let share = canary.bad_share(self.name).unwrap_or(0.0);
        format!(
            "{} users on the canary, {} of {} requests bad ({}){stable}, evidence {:.1} of {:.1}",
            canary.units,
            canary.bad(self.name),
            canary.judged(self.name),
            percent(share),
            // Less than none is none, for people.
            concluded.log_e.max(0.0),
            concluded.bound,
        )
    }
}

fn percent(share: f64) -> String {
    let percent = share * 100.0;
    if percent > 0.0 && percent < 1.0 {
        format!("{percent:.2} %")
    } else {
        format!("{percent:.1} %")
    }
}

fn fraction(weight: Weight) -> f64 {
    f64::from(weight.basis_points()) / f64::from(Weight::FULL.basis_points())
}
