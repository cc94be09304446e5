//! A cluster as values: what the operator would see, and what its actions would do.

use std::collections::{BTreeMap, BTreeSet};

use crds::{
    ModelDeploymentStatus,
    contract::{KeySource, Mark, Mirror, MirrorMethods, Split, Trip},
    guardrail::{BlindAction, OnFail},
    quantity::Number,
    steps::OnInconclusive,
};
use jiff::{SignedDuration, Timestamp};
use rollout::{
    Decision,
    action::{Action, Route},
    decide,
    evidence::RunEvidence,
    guardrail::{Check, DEFAULT_SOURCE, Guardrail, Judgement, PrometheusCheck},
    observation::{
        Applied, Frozen, Observation, RouteShape, SeenAddress, SeenRevision, SeenRoute, SeenRule,
        SeenTrack, Wanted,
    },
    plan::{BlindPolicy, Plan, SpecError, Step},
    report,
    state::{Phase, State},
    weight::Weight,
};
use verdict::Verdict;

/// How a reconcile goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// To its end.
    Completes,
    /// The operator dies after so many effects; the record is the first.
    DiesAfter(usize),
    /// The API server refuses the status, but not for a conflict.
    RecordRefused,
    /// Somebody else wrote in between.
    Conflict,
}

/// Names of revisions are one letter here.
pub(crate) type Revision = &'static str;

#[derive(Clone, Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is one thing that a test turns on"
)]
pub(crate) struct Cluster {
    pub(crate) now: Timestamp,
    pub(crate) spec: Revision,
    pub(crate) spec_is_valid: bool,
    pub(crate) paused: bool,
    pub(crate) attempt: i64,
    pub(crate) replicas: u32,
    /// What guardrails say of each revision; a pass where nothing is said.
    pub(crate) quality: BTreeMap<Revision, Verdict>,
    /// Revisions whose pods do not become ready.
    pub(crate) broken: BTreeSet<Revision>,
    pub(crate) unreadable: bool,
    pub(crate) status: ModelDeploymentStatus,
    pub(crate) tracks: BTreeMap<String, SeenTrack>,
    pub(crate) rule: Option<SeenRule>,
    pub(crate) applied: bool,
    pub(crate) revisions: BTreeMap<String, SeenRevision>,
    pub(crate) plans: BTreeMap<String, Plan>,
    pub(crate) writes: usize,
    /// The plan that a new run gets.
    pub(crate) plan: Plan,
    /// What guardrails measure.
    pub(crate) value: f64,
    /// The word of a router that it took a canary out, as the route's status keeps it.
    pub(crate) tripped: Option<Trip>,
    /// Whether routers forget a trip once the route is about another run, as they should.
    pub(crate) routers_forget: bool,
    /// What the routers saw of the run.
    pub(crate) evidence: Option<RunEvidence>,
    /// How many routers there may be.
    pub(crate) routers: u32,
    /// Whether requests are split by user.
    pub(crate) by_user: bool,
}

/// What a router says when it took a canary out.
pub(crate) fn trip_of(run: &str, revision: &str) -> Trip {
    Trip {
        run: run.to_owned(),
        revision: revision.to_owned(),
        guardrail: "errors".to_owned(),
        log_e: Number::from("9.77"),
        bound: Number::from("7.78"),
        message: "3 of 41 requests of the canary were bad".to_owned(),
    }
}

pub(crate) fn plan() -> Plan {
    let step = |points, seconds| Step {
        weight: Weight::from_basis_points(points),
        mirror: None,
        hold: SignedDuration::from_secs(seconds),
    };
    let blind = BlindPolicy {
        after: SignedDuration::from_mins(30),
        action: BlindAction::Hold,
    };
    Plan {
        steps: vec![
            step(100, 10),
            step(500, 10),
            step(2500, 10),
            step(10_000, 10),
        ],
        bake: SignedDuration::from_secs(10),
        progress_deadline: SignedDuration::from_mins(5),
        step_deadline: SignedDuration::from_hours(2),
        on_inconclusive: OnInconclusive::Hold,
        drain: SignedDuration::from_secs(5),
        guardrails: vec![Guardrail {
            name: "errors".to_owned(),
            path: "spec.guardrails[0]".to_owned(),
            check: Check::Prometheus(PrometheusCheck {
                source: DEFAULT_SOURCE.to_owned(),
                value: "bad".to_owned(),
                samples: "all".to_owned(),
                min: None,
                max: Some(0.05),
                window: SignedDuration::from_secs(5),
                interval: SignedDuration::from_secs(1),
                min_samples: 50.0,
                failure_limit: 0,
            }),
            on_fail: OnFail::Rollback,
            on_no_data: blind.clone(),
            on_error: blind,
        }],
        false_rollback_probability: 0.01,
    }
}

/// A step that copies so many basis points of the requests, for so long.
pub(crate) fn copies(share: u16, seconds: i64) -> Step {
    Step {
        weight: Weight::ZERO,
        mirror: Some(Mirror {
            share,
            methods: MirrorMethods::All,
        }),
        hold: SignedDuration::from_secs(seconds),
    }
}

/// What the API server would hand back; what its schema refuses is a failure of the test.
fn stored(status: &ModelDeploymentStatus) -> ModelDeploymentStatus {
    let sizes = [
        (status.revisions.len(), 8),
        (status.decisions.len(), 10),
        (status.history.len(), 10),
        (status.condemned.len(), 10),
    ];
    assert!(sizes.iter().all(|(length, most)| length <= most));
    if let Some(held) = status.run.as_ref().and_then(|run| run.held.as_ref()) {
        let digits = held.0.split(|c: char| !c.is_ascii_digit());
        assert!(digits.clone().all(|part| part.len() <= 5), "{held:?}");
        assert!(held.0.len() <= 24, "{held:?}");
    }
    let measured = status.decisions.iter().flat_map(|made| &made.guardrails);
    for number in measured.flat_map(|one| one.value.iter().chain(&one.samples)) {
        let (whole, part) = number.0.split_once('.').unwrap_or((&number.0, "0"));
        let fits = whole.trim_start_matches('-').len() <= 15 && part.len() <= 9;
        assert!(fits && number.parse().is_ok(), "{number:?}");
    }
    serde_json::from_value(serde_json::to_value(status).unwrap()).unwrap()
}

/// What holds for every decision, whatever led to it.
fn check(decision: &Decision, status: &ModelDeploymentStatus) {
    let read = State::read(status);
    let is_kept = matches!(decision.next.phase, Phase::Unknown { .. }) || read.is_none();
    if !is_kept {
        assert_eq!(
            read.as_ref(),
            Some(&decision.next),
            "a status says what was decided"
        );
    }
    let is_running = matches!(decision.next.phase, Phase::Running { .. });
    let longest = if is_running { 5_000 } else { 300_000 };
    let wake = decision.wake_after.as_millis();
    assert!((20..=longest).contains(&wake), "wakes after {wake} ms");
}

impl Cluster {
    pub(crate) fn new(spec: Revision) -> Self {
        Self {
            now: Timestamp::from_second(1_800_000_000).unwrap(),
            spec,
            spec_is_valid: true,
            paused: false,
            attempt: 1,
            replicas: 4,
            quality: BTreeMap::new(),
            broken: BTreeSet::new(),
            unreadable: false,
            status: ModelDeploymentStatus::default(),
            tracks: BTreeMap::new(),
            rule: None,
            applied: false,
            revisions: BTreeMap::new(),
            plans: BTreeMap::new(),
            writes: 0,
            plan: plan(),
            value: 0.01,
            tripped: None,
            routers_forget: false,
            evidence: None,
            routers: 1,
            by_user: true,
        }
    }

    /// The first router trips in the run that is under way.
    pub(crate) fn trip(&mut self) {
        let state = self.state();
        if let Some(run) = state.as_ref().and_then(State::run) {
            self.tripped = Some(trip_of(&run.id, &run.revision));
        }
    }

    pub(crate) fn state(&self) -> Option<State> {
        State::read(&self.status)
    }

    pub(crate) fn weight(&self, revision: &str) -> Weight {
        self.rule
            .as_ref()
            .map_or(Weight::ZERO, |rule| rule.weight(revision))
    }

    pub(crate) fn split(&self) -> Option<&Split> {
        self.rule.as_ref()?.split.as_ref()
    }

    /// The share of the requests that are copied, in basis points.
    pub(crate) fn copied(&self) -> u16 {
        let mirror = self.split().and_then(|split| split.mirror);
        mirror.map_or(0, |mirror| mirror.share)
    }

    pub(crate) fn phase(&self) -> &str {
        self.status.phase.as_deref().unwrap_or("")
    }

    pub(crate) fn observe(&self) -> Observation {
        let state = self.state();
        let run = state.as_ref().and_then(State::run);
        let frozen = match run {
            None => Frozen::NoRun,
            Some(run) => self
                .plans
                .get(&run.plan)
                .map_or(Frozen::Missing, |plan| Frozen::Plan(plan.clone())),
        };
        let invalid = SpecError::at("spec.guardrails[0]", "no such MetricSource");
        Observation {
            name: "m".to_owned(),
            wanted: Wanted {
                generation: 1,
                revision: self.spec.to_owned(),
                replicas: self.replicas,
                paused: self.paused,
                attempt: self.attempt,
                plan: if self.spec_is_valid {
                    Ok(self.plan.clone())
                } else {
                    Err(invalid)
                },
                route: RouteShape {
                    key: self.by_user.then(|| KeySource::Header {
                        name: "user".to_owned(),
                    }),
                    ..RouteShape::default()
                },
                routers: self.routers,
            },
            evidence: self.evidence.clone(),
            judgements: self.judgements(state.as_ref(), &frozen),
            frozen,
            revisions: self.revisions.clone(),
            plans: self.plans.keys().cloned().collect(),
            tracks: if self.unreadable {
                BTreeMap::new()
            } else {
                self.tracks.clone()
            },
            route: SeenRoute {
                rule: self.rule.clone(),
                applied: if self.applied {
                    Applied::Yes
                } else {
                    Applied::No
                },
                tripped: self.tripped.clone(),
            },
            address: SeenAddress::Ours,
            problems: if self.unreadable {
                vec!["pods cannot be listed".to_owned()]
            } else {
                vec![]
            },
        }
    }

    fn judgements(&self, state: Option<&State>, frozen: &Frozen) -> Vec<Judgement> {
        let Some(run) = state.and_then(State::run) else {
            return vec![];
        };
        let (Some(since), Frozen::Plan(plan)) = (run.exposed_at, frozen) else {
            return vec![];
        };
        let verdict = |revision: &str| self.quality.get(revision).copied().unwrap_or(Verdict::Pass);
        let asked = plan.guardrails.iter();
        asked
            .filter_map(|guardrail| Some((guardrail, guardrail.prometheus()?)))
            .map(|(guardrail, check)| Judgement {
                guardrail: guardrail.name.clone(),
                revision: run.revision.clone(),
                window_start: self.now - check.query_window(since, self.now),
                at: self.now,
                verdict: verdict(&run.revision),
                value: Some(self.value),
                samples: Some(100.0),
                problem: None,
                log_e: None,
                bound: None,
                summary: None,
            })
            .collect()
    }

    /// One reconcile, with the order of writes that the shell has.
    pub(crate) fn reconcile(&mut self, ending: Ending) -> Decision {
        let seen = self.observe();
        let state = self.state();
        let decision = decide(state.as_ref(), &seen, self.now);
        let status = stored(&report::status(&self.status, &decision, &seen, self.now));
        check(&decision, &status);
        let mut effects = match ending {
            Ending::DiesAfter(effects) => effects,
            Ending::Completes | Ending::RecordRefused | Ending::Conflict => usize::MAX,
        };
        if effects == 0 || ending == Ending::Conflict {
            return decision;
        }
        if ending != Ending::RecordRefused && status != self.status {
            self.status = status;
            self.writes += 1;
            effects -= 1;
        }
        for action in &decision.actions {
            if effects == 0 {
                break;
            }
            if ending == Ending::RecordRefused && !action.narrows() {
                continue;
            }
            self.apply(action);
            effects -= 1;
        }
        decision
    }

    fn apply(&mut self, action: &Action) {
        self.writes += 1;
        match action {
            Action::SaveRevision { revision } => {
                let number = i64::try_from(self.revisions.len()).unwrap();
                self.revisions.insert(
                    revision.clone(),
                    SeenRevision {
                        stable_since: None,
                        number,
                    },
                );
            }
            Action::SavePlan { name, plan } => {
                self.plans.insert(name.clone(), plan.clone());
            }
            Action::EnsureTrack { revision, replicas } => {
                let track = self.tracks.entry(revision.clone()).or_default();
                track.replicas = *replicas;
                track.complete = true;
            }
            Action::ApplyRoute(route) => self.write_route(route),
            Action::EnsureAddress => {}
            Action::MarkStable { revision, since } => {
                if let Some(saved) = self.revisions.get_mut(revision) {
                    saved.stable_since = Some(*since);
                }
            }
            Action::RemoveTrack { revision } => {
                self.tracks.remove(revision);
            }
            Action::Forget { name } => {
                self.plans.remove(name);
                self.revisions.remove(name);
            }
        }
    }

    fn write_route(&mut self, route: &Route) {
        let mut weights = BTreeMap::from([(route.stable.clone(), 1)]);
        if let Some((canary, weight)) = &route.canary {
            let (rest, own) = weight.whole_numbers();
            weights = BTreeMap::from([(route.stable.clone(), rest), (canary.clone(), own)]);
        }
        let mark: Option<Mark> = route.mark.clone();
        let (split, shape) = (Some(route.split.clone()), route.shape.clone());
        self.rule = Some(SeenRule {
            weights,
            split,
            mark,
            shape,
        });
        self.applied = false;
    }

    /// Time passes: the data plane follows, pods start and go.
    pub(crate) fn pass(&mut self, duration: SignedDuration) {
        self.now += duration;
        self.applied = self.rule.is_some();
        if self.routers_forget {
            let split = self.rule.as_ref().and_then(|rule| rule.split.as_ref());
            self.tripped = self.tripped.take().filter(|trip| {
                split.is_some_and(|split| {
                    split.run == trip.run && split.canary.as_ref() == Some(&trip.revision)
                })
            });
        }
        for (revision, track) in &mut self.tracks {
            let broken = self.broken.contains(revision.as_str());
            track.ready = if broken { 0 } else { track.replicas };
        }
    }

    /// Reconciles and lets time pass until `done`, at most so many seconds.
    pub(crate) fn until(&mut self, seconds: usize, done: impl Fn(&Self) -> bool) -> bool {
        for _ in 0..seconds {
            if done(self) {
                return true;
            }
            self.reconcile(Ending::Completes);
            self.pass(SignedDuration::from_secs(1));
        }
        done(self)
    }
}
