//! Whole rollouts as stories: `stories/*.txt` say what happens and what must come of it. A new file
//! is a new story.
//!
//! A line is blank, a comment (`# …`), an event (`at 10s: spec b`) or an expectation
//! (`10s StepStarted 1%`, with a reason after it where the run ends). The transitions that happen must
//! be those of the story, all of them, at those seconds. `10s holds NoData` expects a reason for waiting.
//! The plan is the one of the simulation: 1, 5, 25 and 100 %, each for 10 s, a bake of 10 s, and a
//! guardrail with a window of 5 s; `mirror 10% for 10s` adds a step that copies requests. The first revision is `a`; it is stable at 0 s.
#![allow(
    clippy::tests_outside_test_module,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "integration tests"
)]
#![allow(missing_docs, reason = "names of tests are claims")]

#[expect(dead_code, reason = "the simulation uses more of it")]
#[path = "simulation/cluster.rs"]
mod cluster;

use std::{fs, path::Path};

use cluster::{Cluster, Ending, Revision};
use crds::{ModelDeploymentStatus, quantity::Percent};
use jiff::SignedDuration;
use verdict::Verdict;

fn revision(name: &str) -> Revision {
    ["a", "b", "c"]
        .into_iter()
        .find(|known| *known == name)
        .unwrap_or_else(|| panic!("revisions are a, b and c, not {name:?}"))
}

fn verdict(name: &str) -> Verdict {
    use Verdict::{Error, Fail, Inconclusive, NoData, Pass};
    [Pass, Inconclusive, NoData, Error, Fail]
        .into_iter()
        .find(|verdict| verdict.name() == name)
        .unwrap_or_else(|| panic!("no such verdict: {name:?}"))
}

fn happen(cluster: &mut Cluster, event: &str) {
    let words: Vec<&str> = event.split_whitespace().collect();
    match words.as_slice() {
        ["spec", name] => cluster.spec = revision(name),
        ["quality", name, said] => {
            cluster.quality.insert(revision(name), verdict(said));
        }
        ["pods", name, "broken"] => {
            cluster.broken.insert(revision(name));
            cluster.pass(SignedDuration::ZERO);
        }
        ["pods", name, "mended"] => {
            cluster.broken.remove(revision(name));
            cluster.pass(SignedDuration::ZERO);
        }
        ["trip"] => cluster.trip(),
        ["trip", run, name] => cluster.tripped = Some(cluster::trip_of(run, name)),
        ["pause"] => cluster.paused = true,
        ["resume"] => cluster.paused = false,
        ["attempt", number] => cluster.attempt = number.parse().unwrap(),
        ["replicas", number] => cluster.replicas = number.parse().unwrap(),
        ["status", "lost"] => cluster.status = ModelDeploymentStatus::default(),
        ["route", "deleted"] => cluster.rule = None,
        ["mirror", share, "for", long] => {
            let share = Percent::from(*share).basis_points().unwrap();
            let steps = &mut cluster.plan.steps;
            let at = steps.iter().filter(|step| step.mirror.is_some()).count();
            steps.insert(at, cluster::copies(share, seconds(long)));
        }
        ["plans", "deleted"] => cluster.plans.clear(),
        _ => panic!("no such event: {event:?}"),
    }
}

fn seconds(text: &str) -> i64 {
    let number = text
        .strip_suffix('s')
        .and_then(|number| number.parse().ok());
    number.unwrap_or_else(|| panic!("a time is written like 10s, not {text:?}"))
}

/// What a story says: events and expected reasons by second, and the expected timeline.
#[derive(Default)]
struct Story {
    events: Vec<(i64, String)>,
    reasons: Vec<(i64, String)>,
    timeline: Vec<String>,
    end: i64,
}

fn read(text: &str) -> Story {
    let mut story = Story::default();
    for line in text.lines().map(str::trim) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(event) = line.strip_prefix("at ") {
            let (at, what) = event.split_once(": ").unwrap();
            story.events.push((seconds(at), what.to_owned()));
        } else if let Some((at, reason)) = line.split_once(" holds ") {
            story.reasons.push((seconds(at), reason.to_owned()));
        } else if let Some(at) = line.strip_prefix("end ") {
            story.end = seconds(at);
        } else {
            let words: Vec<&str> = line.split_whitespace().collect();
            story.timeline.push(words.join(" "));
        }
    }
    assert!(story.end > 0, "say when the story ends: end 60s");
    story
}

/// Plays a story, a look each second, and gives the transitions as a story writes them.
fn play(story: &Story) -> Vec<String> {
    let mut cluster = Cluster::new("a");
    assert!(cluster.until(20, |cluster| cluster.phase() == "Stable"));
    let mut timeline = vec![];
    for second in 0..=story.end {
        for (_, event) in story.events.iter().filter(|(at, _)| *at == second) {
            happen(&mut cluster, event);
        }
        let decision = cluster.reconcile(Ending::Completes);
        for (_, reason) in story.reasons.iter().filter(|(at, _)| *at == second) {
            assert_eq!(decision.why.reason(), reason, "at {second}s");
        }
        if decision.is_transition {
            let made = decision.next.decisions.last().unwrap();
            let ended = decision
                .next
                .history
                .last()
                .filter(|_| decision.next.run().is_none());
            let reason = ended.map(|run| run.reason.clone()).or_else(|| {
                let run = decision
                    .next
                    .run()
                    .filter(|_| made.decision == "RollingBack");
                run.map(|_| decision.why.reason().to_owned())
            });
            let reason = reason
                .map(|reason| format!(" {reason}"))
                .unwrap_or_default();
            let of = made.revision.as_deref().unwrap_or("-");
            timeline.push(format!(
                "{second}s {of} {} {}{reason}",
                made.decision, made.weight.0
            ));
        }
        cluster.pass(SignedDuration::from_secs(1));
    }
    timeline
}

#[test]
fn every_story_comes_true() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/stories");
    let mut files: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|file| file.unwrap().path())
        .collect();
    files.sort();
    assert!(files.len() >= 8, "stories are missing");
    let mut wrong = vec![];
    for file in files {
        let story = read(&fs::read_to_string(&file).unwrap());
        let timeline = play(&story);
        if timeline != story.timeline {
            let name = file.file_name().unwrap().to_string_lossy().into_owned();
            wrong.push(format!("{name} went like this:\n{}\n", timeline.join("\n")));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
