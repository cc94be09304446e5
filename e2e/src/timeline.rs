//! Follows a `ModelDeployment` and prints its decisions as they happen.

use std::{
    fmt::Write as _,
    io::{self, IsTerminal as _, Write as _},
};

use anyhow::Context as _;
use clap::Args;
use crds::{
    ModelDeployment,
    status::{DecisionRecord, Measured},
};
use futures::TryStreamExt as _;
use kube::{Api, Client, runtime::watcher::watch_object};

use crate::model_deployment::{condition, phase};

/// Prints the decisions about a `ModelDeployment` as they happen, until it is interrupted.
#[derive(Clone, Debug, Args)]
pub struct Timeline {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// Follows until interrupted.
pub async fn run(args: Timeline) -> anyhow::Result<()> {
    let client = Client::try_default()
        .await
        .context("no cluster; set KUBECONFIG")?;
    let api: Api<ModelDeployment> = Api::namespaced(client, &args.namespace);
    tokio::select! {
        followed = follow(&api, &args.name, Printer::to_stdout()) => followed,
        interrupted = tokio::signal::ctrl_c() => Ok(interrupted?),
    }
}

/// Follows an object and prints what is new. Ends with an error only.
pub async fn follow(
    api: &Api<ModelDeployment>,
    name: &str,
    mut printer: Printer,
) -> anyhow::Result<()> {
    loop {
        let mut objects = Box::pin(watch_object(api.clone(), name));
        loop {
            match objects.try_next().await {
                Ok(Some(Some(object))) => printer.show(&object)?,
                Ok(Some(None)) => {}
                Ok(None) => break,
                // The watch is begun anew; what was printed is not printed again.
                Err(error) => tracing::debug!(%error, "watch again"),
            }
        }
    }
}

/// Prints decisions and reasons for waiting, each once.
#[derive(Debug)]
pub struct Printer {
    colour: bool,
    last_id: i64,
    last_waiting: String,
    head_is_out: bool,
}

impl Printer {
    /// In colours where stdout is a terminal.
    pub fn to_stdout() -> Self {
        Self {
            colour: io::stdout().is_terminal(),
            last_id: 0,
            last_waiting: String::new(),
            head_is_out: false,
        }
    }

    /// Goes on after what is known already.
    #[must_use]
    pub fn after(mut self, object: Option<&ModelDeployment>) -> Self {
        let decisions = object
            .and_then(|object| object.status.as_ref())
            .map(|status| &status.decisions);
        self.last_id = decisions
            .and_then(|all| all.last())
            .map_or(0, |record| record.id);
        self
    }

    fn show(&mut self, object: &ModelDeployment) -> io::Result<()> {
        let text = self.render(object);
        let mut out = io::stdout().lock();
        out.write_all(text.as_bytes())?;
        out.flush()
    }

    /// The lines that are new.
    fn render(&mut self, object: &ModelDeployment) -> String {
        let Some(status) = &object.status else {
            return String::new();
        };
        let mut text = String::new();
        if !self.head_is_out {
            self.head_is_out = true;
            let head = format!(
                "{:<8}  {:<5} {:>6}  {:<22} {}",
                "TIME", "STEP", "WEIGHT", "DECISION", "WHY"
            );
            self.line(&mut text, "1", &head);
        }
        let step = status.step.as_deref().unwrap_or("-");
        for record in status
            .decisions
            .iter()
            .filter(|record| record.id > self.last_id)
        {
            self.decision(&mut text, record, step);
        }
        let told = status
            .decisions
            .last()
            .map_or(self.last_id, |record| record.id);
        self.last_id = self.last_id.max(told);
        self.waiting(&mut text, object);
        text
    }

    fn decision(&self, text: &mut String, record: &DecisionRecord, step: &str) {
        let time = record
            .at
            .as_ref()
            .map_or_else(|| "-".to_owned(), |at| clock(at.0));
        let line = format!(
            "{time:<8}  {step:<5} {:>6}  {:<22} {}",
            record.weight.0, record.decision, record.message
        );
        let colour = match record.decision.as_str() {
            "RollingBack" | "RolledBack" | "Abandoned" => "1;31",
            "Promoted" | "FirstDeploymentServing" => "1;32",
            _ => "36",
        };
        self.line(text, colour, &line);
        for measured in &record.guardrails {
            let what = measured
                .summary
                .clone()
                .unwrap_or_else(|| figures(measured));
            let line = format!(
                "{:<23}  {:<22} {what} {}",
                "", measured.name, measured.verdict
            );
            self.line(
                text,
                if measured.verdict == "Fail" {
                    "31"
                } else {
                    "2"
                },
                &line,
            );
        }
    }

    /// The reason for waiting, when it is another one.
    fn waiting(&mut self, text: &mut String, object: &ModelDeployment) {
        let (_, reason) = condition(object, "Ready");
        let at = phase(object);
        let waiting = format!("{at} {reason}");
        if reason == "Progressing" {
            // The decision itself, which has its own line.
            return;
        }
        if !matches!(at, "Progressing" | "Baking" | "Pending" | "RollingBack")
            || waiting == self.last_waiting
        {
            return;
        }
        let conditions = object
            .status
            .as_ref()
            .map(|status| status.conditions.as_slice());
        let ready = conditions
            .unwrap_or_default()
            .iter()
            .find(|condition| condition.type_ == "Ready");
        let message = ready.map_or("", |condition| condition.message.as_str());
        let line = format!("{:<23}  {:<22} {message}", "", format!("… {reason}"));
        self.line(text, "2", &line);
        self.last_waiting = waiting;
    }

    fn line(&self, text: &mut String, colour: &str, line: &str) {
        let line = line.trim_end();
        // Writing to a String cannot fail.
        if self.colour {
            writeln!(text, "\u{1b}[{colour}m{line}\u{1b}[0m").unwrap_or_default();
        } else {
            writeln!(text, "{line}").unwrap_or_default();
        }
    }
}

/// Without its fraction: Prometheus extrapolates counts.
fn whole(number: &crds::quantity::Number) -> String {
    let value: Option<f64> = number.0.parse().ok();
    value.map_or_else(|| number.0.clone(), |value| format!("{value:.0}"))
}

/// What was measured against what is allowed.
fn figures(measured: &Measured) -> String {
    let value = measured
        .value
        .as_ref()
        .map_or("-", |value| value.0.as_str());
    let samples = measured
        .samples
        .as_ref()
        .map_or_else(|| "-".to_owned(), whole);
    let threshold = measured.threshold.as_deref().unwrap_or("");
    format!("{value} {threshold} (n = {samples})")
}

fn clock(at: jiff::Timestamp) -> String {
    at.to_zoned(jiff::tz::TimeZone::UTC)
        .strftime("%H:%M:%S")
        .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn object(decisions: &serde_json::Value, reason: &str) -> ModelDeployment {
        serde_json::from_value(json!({
            "apiVersion": "sluice.dev/v1alpha1", "kind": "ModelDeployment", "metadata": {"name": "digits"},
            "spec": {"model": {"format": "InImage"}, "runtime": {"engine": "sim"}},
            "status": {
                "phase": "Progressing", "step": "1/4", "decisions": decisions,
                "conditions": [{"type": "Ready", "status": "False", "reason": reason, "message": "it lasts",
                    "lastTransitionTime": "2026-01-01T10:00:00Z"}],
            },
        }))
        .unwrap()
    }

    #[test]
    fn each_decision_and_each_reason_is_printed_once() {
        let mut printer = Printer {
            colour: false,
            ..Printer::to_stdout()
        };
        let first = json!({"id": 3, "at": "2026-01-01T10:00:05Z", "decision": "StepStarted", "weight": "1%",
            "message": "step 1 of 4", "guardrails": [
                {"name": "errors", "verdict": "Pass", "value": "0.01", "samples": "80", "threshold": "<= 0.05"}]});
        let text = printer.render(&object(&json!([first]), "WaitingForHold"));
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 4, "{text}");
        assert!(
            lines[1].starts_with("10:00:05  1/4       1%  StepStarted"),
            "{text}"
        );
        assert!(lines[2].contains("0.01 <= 0.05 (n = 80) Pass"), "{text}");
        assert!(lines[3].contains("WaitingForHold"), "{text}");
        assert_eq!(
            printer.render(&object(&json!([first]), "WaitingForHold")),
            ""
        );
        let second = json!({"id": 4, "at": "2026-01-01T10:01:05Z", "decision": "RollingBack", "weight": "0%",
            "message": "errors"});
        let text = printer.render(&object(&json!([first, second]), "WaitingForHold"));
        assert_eq!(text.lines().count(), 1, "{text}");
    }
}
