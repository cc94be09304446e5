//! What the pod counts and times, for Prometheus.

use std::sync::atomic::AtomicI64;
use std::time::{Duration, Instant};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::protocol::Timing;

const CLASS: &str = "online";
const PROTOCOL: &str = "rest";
const CACHE: &str = "bypass";

/// The code of a request whose client left before the answer.
const CLIENT_LEFT: u16 = 499;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RequestLabels {
    class: &'static str,
    protocol: &'static str,
    cache: &'static str,
    code: u16,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ServingLabels {
    class: &'static str,
    protocol: &'static str,
    cache: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RejectedLabels {
    class: &'static str,
    reason: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ClassLabels {
    class: &'static str,
}

const SERVING: ServingLabels = ServingLabels {
    class: CLASS,
    protocol: PROTOCOL,
    cache: CACHE,
};

type Histograms = Family<ServingLabels, Histogram, fn() -> Histogram>;

/// The metrics of this pod.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    duration: Histogram,
    queue: Histogram,
    inference: Histogram,
    in_flight: Gauge<i64, AtomicI64>,
    rejected: Family<RejectedLabels, Counter>,
}

/// Why a request was turned away before the model saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rejection {
    /// Slots and line are full, or too many bytes are being read.
    Capacity,
    /// The model is not ready.
    NotReady,
}

impl Metrics {
    /// Empty ones; every series carries these two labels.
    pub(crate) fn new(model_deployment: String, revision: String) -> Self {
        let labels = [
            ("model_deployment".into(), model_deployment.into()),
            ("revision".into(), revision.into()),
        ];
        let mut registry = Registry::with_prefix_and_labels("sluice_pod", labels.into_iter());
        let requests = Family::<RequestLabels, Counter>::default();
        registry.register(
            "requests",
            "Inference requests by the code of their answer",
            requests.clone(),
        );
        let duration = histogram(
            &mut registry,
            "request_duration",
            "Time from request to answer",
        );
        let queue = histogram(&mut registry, "queue", "Time spent waiting for a slot");
        let inference = histogram(&mut registry, "inference", "Time the engine took");
        let in_flight = Family::<ClassLabels, Gauge<i64, AtomicI64>>::default();
        registry.register(
            "in_flight",
            "Inference requests being answered",
            in_flight.clone(),
        );
        let rejected = Family::<RejectedLabels, Counter>::default();
        registry.register(
            "rejected",
            "Requests turned away by reason",
            rejected.clone(),
        );
        let metrics = Self {
            registry,
            requests,
            duration,
            queue,
            inference,
            in_flight: in_flight.get_or_create_owned(&ClassLabels { class: CLASS }),
            rejected,
        };
        metrics.begin_at_zero();
        metrics
    }

    /// A series that appears with its first event hides that event from `increase`.
    fn begin_at_zero(&self) {
        for code in [200, 400, 500, 503] {
            drop(self.requests.get_or_create(&request_labels(code)));
        }
        for reason in ["capacity", "not_ready"] {
            drop(self.rejected.get_or_create(&RejectedLabels {
                class: CLASS,
                reason,
            }));
        }
    }

    /// In the text form that Prometheus reads.
    pub(crate) fn render(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }

    /// A request begins.
    pub(crate) fn begin(&self) -> Flight<'_> {
        self.in_flight.inc();
        Flight {
            metrics: self,
            started: Instant::now(),
            code: CLIENT_LEFT,
        }
    }

    /// A request is turned away.
    pub(crate) fn reject(&self, rejection: Rejection) {
        let reason = match rejection {
            Rejection::Capacity => "capacity",
            Rejection::NotReady => "not_ready",
        };
        self.rejected
            .get_or_create(&RejectedLabels {
                class: CLASS,
                reason,
            })
            .inc();
    }

    /// The engine ran.
    pub(crate) fn ran(&self, timing: &Timing) {
        self.queue.observe(timing.queued.as_secs_f64());
        self.inference.observe(timing.ran.as_secs_f64());
    }
}

fn request_labels(code: u16) -> RequestLabels {
    RequestLabels {
        class: CLASS,
        protocol: PROTOCOL,
        cache: CACHE,
        code,
    }
}

fn histogram(registry: &mut Registry, name: &str, help: &str) -> Histogram {
    let family = Histograms::new_with_constructor(|| Histogram::new(edges()));
    registry.register(format!("{name}_seconds"), help, family.clone());
    family.get_or_create_owned(&SERVING)
}

/// From 0.1 ms to 600 s, each edge at most 1.5 times the one before: a quantile read from these is
/// within a quarter. The round figures that people write in objectives are edges of their own. Three
/// digits keep an edge's label the same wherever it is written.
fn edges() -> Vec<f64> {
    const ROUND: [f64; 9] = [0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
    let rounded = |edge: f64| {
        let scale = 10_f64.powf(2.0 - edge.log10().floor());
        (edge * scale).round() / scale
    };
    let geometric = std::iter::successors(Some(1e-4), |edge| Some(edge * 1.5));
    let geometric = geometric.take_while(|edge| *edge < 600.0).map(rounded);
    let mut edges: Vec<f64> = geometric.chain(ROUND).chain([600.0]).collect();
    edges.sort_by(f64::total_cmp);
    edges.dedup();
    edges
}

/// A request on its way; counted on drop, so that a client that leaves is counted too.
#[derive(Debug)]
pub(crate) struct Flight<'a> {
    metrics: &'a Metrics,
    started: Instant,
    code: u16,
}

impl Flight<'_> {
    /// The request is answered; gives the time it took.
    pub(crate) fn answer(mut self, code: u16) -> Duration {
        self.code = code;
        self.started.elapsed()
    }
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        self.metrics.in_flight.dec();
        self.metrics
            .requests
            .get_or_create(&request_labels(self.code))
            .inc();
        self.metrics
            .duration
            .observe(self.started.elapsed().as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metrics() -> Metrics {
        Metrics::new("digits".to_owned(), "digits-1-abc".to_owned())
    }

    fn value(text: &str, series: &str) -> Option<f64> {
        let line = text.lines().find(|line| {
            line.split(' ')
                .next()
                .is_some_and(|name| series.split(' ').all(|part| name.contains(part)))
        })?;
        line.rsplit(' ').next()?.parse().ok()
    }

    #[test]
    fn edges_grow_by_half_and_end_at_ten_minutes() {
        let edges = edges();
        assert_eq!(edges[..3], [0.0001, 0.00015, 0.000_225]);
        assert_eq!(edges.last(), Some(&600.0));
        for pair in edges.windows(2) {
            assert!(pair[0] < pair[1] && pair[1] / pair[0] < 1.51, "{pair:?}");
        }
    }

    #[test]
    fn an_answer_is_counted_under_its_code() {
        let metrics = metrics();
        metrics.begin().answer(500);
        let text = metrics.render().unwrap();
        assert_eq!(
            value(&text, "sluice_pod_requests_total code=\"500\""),
            Some(1.0)
        );
        assert_eq!(
            value(&text, "sluice_pod_requests_total code=\"200\""),
            Some(0.0)
        );
        assert_eq!(
            value(&text, "sluice_pod_request_duration_seconds_count"),
            Some(1.0)
        );
        assert!(
            text.contains("model_deployment=\"digits\",revision=\"digits-1-abc\""),
            "{text}"
        );
    }

    #[test]
    fn a_client_that_leaves_is_counted_as_499() {
        let metrics = metrics();
        let flight = metrics.begin();
        assert_eq!(
            value(&metrics.render().unwrap(), "sluice_pod_in_flight"),
            Some(1.0)
        );
        drop(flight);
        let text = metrics.render().unwrap();
        assert_eq!(
            value(&text, "sluice_pod_requests_total code=\"499\""),
            Some(1.0)
        );
        assert_eq!(value(&text, "sluice_pod_in_flight"), Some(0.0));
    }
}
