//! What the operator says of itself: logs and metrics.

use std::{fmt, io::IsTerminal as _, sync::atomic::AtomicU64, time::Duration};

use prometheus_client::{
    encoding::{EncodeLabelSet, text},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};
use tracing_subscriber::EnvFilter;

use crate::args::LogFormat;

const DEFAULT_FILTER: &str = "info,kube_client=warn,kube_runtime=warn";

/// Bucket edges of a reconcile: from the quickest look at an object at rest to the longest that its
/// bounds allow.
const RECONCILE_EDGES: [f64; 10] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 15.0];

/// Starts to log. `RUST_LOG` chooses what.
pub fn init_logs(format: LogFormat) {
    let filter =
        EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(DEFAULT_FILTER));
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    match format {
        LogFormat::Text => logs.init(),
        LogFormat::Json => logs.json().flatten_event(true).init(),
    }
}

/// The operator's metrics.
pub struct Telemetry {
    registry: Registry,
    reconciles: Family<ResultLabel, Counter>,
    reconcile_seconds: Histogram,
    transitions: Family<DecisionLabel, Counter>,
    leader: Gauge,
    queries: Family<ResultLabel, Counter>,
    writes: Family<WriteLabels, Counter>,
    router_streams: Gauge,
    router_silence: Gauge<f64, AtomicU64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabel {
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DecisionLabel {
    decision: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WriteLabels {
    kind: String,
    verb: String,
}

impl fmt::Debug for Telemetry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Telemetry").finish_non_exhaustive()
    }
}

impl Default for Telemetry {
    fn default() -> Self {
        let telemetry = Self {
            registry: Registry::with_prefix("sluice_operator"),
            reconciles: Family::default(),
            reconcile_seconds: Histogram::new(RECONCILE_EDGES),
            transitions: Family::default(),
            leader: Gauge::default(),
            queries: Family::default(),
            writes: Family::default(),
            router_streams: Gauge::default(),
            router_silence: Gauge::default(),
        };
        telemetry.registered()
    }
}

impl Telemetry {
    fn registered(mut self) -> Self {
        let registry = &mut self.registry;
        registry.register(
            "reconciles",
            "Reconciles by result",
            self.reconciles.clone(),
        );
        registry.register(
            "reconcile_duration_seconds",
            "Time of a reconcile",
            self.reconcile_seconds.clone(),
        );
        registry.register(
            "transitions",
            "Transitions by decision",
            self.transitions.clone(),
        );
        registry.register("leader", "Whether this process leads", self.leader.clone());
        registry.register(
            "guardrail_queries",
            "Guardrails asked of a metrics server, by result",
            self.queries.clone(),
        );
        registry.register(
            "api_writes",
            "Requests that change objects",
            self.writes.clone(),
        );
        registry.register(
            "router_streams",
            "Routers that say over an open stream what they serve and see",
            self.router_streams.clone(),
        );
        registry.register(
            "router_evidence_age_seconds",
            "Seconds since the most silent router with a stream said something",
            self.router_silence.clone(),
        );
        self
    }

    /// A reconcile ended.
    pub fn reconciled(&self, result: &'static str, seconds: f64) {
        self.reconciles.get_or_create(&ResultLabel { result }).inc();
        self.reconcile_seconds.observe(seconds);
    }

    /// A transition was recorded.
    pub fn transition(&self, decision: &str) {
        let label = DecisionLabel {
            decision: decision.to_owned(),
        };
        self.transitions.get_or_create(&label).inc();
    }

    /// Whether this process leads.
    pub fn leading(&self, leads: bool) {
        self.leader.set(i64::from(leads));
    }

    /// A guardrail was asked.
    pub fn queried(&self, is_answered: bool) {
        let result = if is_answered { "ok" } else { "error" };
        self.queries.get_or_create(&ResultLabel { result }).inc();
    }

    /// A request that changes an object was sent.
    pub fn wrote(&self, kind: &str, verb: &str) {
        let labels = WriteLabels {
            kind: kind.to_owned(),
            verb: verb.to_owned(),
        };
        self.writes.get_or_create(&labels).inc();
    }

    /// So many routers hold a stream, and the most silent has said nothing for so long.
    pub fn routers(&self, streams: usize, silence: Option<Duration>) {
        self.router_streams
            .set(i64::try_from(streams).unwrap_or(i64::MAX));
        self.router_silence
            .set(silence.unwrap_or_default().as_secs_f64());
    }

    /// All metrics in the `OpenMetrics` text form.
    pub fn encode(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_have_their_promised_names() {
        let telemetry = Telemetry::default();
        telemetry.reconciled("ok", 0.02);
        telemetry.transition("Promoted");
        telemetry.leading(true);
        telemetry.queried(true);
        telemetry.wrote("deployments", "patch");
        telemetry.routers(2, Some(Duration::from_millis(1500)));
        let text = telemetry.encode().unwrap();
        for expected in [
            "sluice_operator_reconciles_total{result=\"ok\"} 1",
            "sluice_operator_reconcile_duration_seconds_count 1",
            "sluice_operator_transitions_total{decision=\"Promoted\"} 1",
            "sluice_operator_leader 1",
            "sluice_operator_guardrail_queries_total{result=\"ok\"} 1",
            "sluice_operator_router_streams 2",
            "sluice_operator_router_evidence_age_seconds 1.5",
            "sluice_operator_api_writes_total{kind=\"deployments\",verb=\"patch\"} 1",
        ] {
            assert!(text.contains(expected), "{expected} is not in\n{text}");
        }
    }
}
