//! Names of conditions, reasons, phases and field managers: what users script against.

/// Field manager of the objects that a revision is made of.
pub const MANAGER_WORKLOAD: &str = "sluice-workload";
/// Field manager of routes.
pub const MANAGER_TRAFFIC: &str = "sluice-traffic";
/// Field manager of revisions, plans and their marks.
pub const MANAGER_REVISIONS: &str = "sluice-revisions";
/// Field manager of what is applied from mounted configuration.
pub const MANAGER_DEFAULTS: &str = "sluice-defaults";

/// Condition types of a `ModelDeployment`.
pub mod condition {
    /// The spec and what it refers to are valid.
    pub const ACCEPTED: &str = "Accepted";
    /// Answers are being served.
    pub const AVAILABLE: &str = "Available";
    /// The spec's revision is promoted.
    pub const READY: &str = "Ready";
    /// The operator is at work towards the spec.
    pub const RECONCILING: &str = "Reconciling";
    /// A person is needed.
    pub const STALLED: &str = "Stalled";
    /// Pods and weight are on their way.
    pub const PROGRESSING: &str = "Progressing";
    /// The guardrails can see.
    pub const GUARDRAILS_HEALTHY: &str = "GuardrailsHealthy";
    /// The data plane serves the weights that are decided.
    pub const TRAFFIC_APPLIED: &str = "TrafficApplied";
}
