//! Clients of the API server: one place that counts every write, and refuses it while another
//! process may lead.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use futures::future::{self, Either, Ready};
use http::{Method, Request};
use kube::{
    Client, Config,
    client::{Body, ClientBuilder},
};
use tokio::time::Instant;
use tower::{BoxError, Layer, Service};

use crate::{clock, telemetry::Telemetry};

/// How long a watch may be silent: longer than the server lets it live, and short enough for a dead
/// connection to be noticed within a minute.
const WATCH_READ_TIMEOUT: Duration = Duration::from_secs(55);
/// How long one call may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The clients that the operator needs.
#[derive(Clone)]
pub struct Clients {
    /// For watches.
    pub watch: Client,
    /// For calls that do not depend on leading: the lease itself, discovery.
    pub free: Client,
    /// For everything else: it writes only while this process leads.
    pub fenced: Client,
}

impl fmt::Debug for Clients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Clients").finish_non_exhaustive()
    }
}

impl Clients {
    /// Connects to the API server of a configuration.
    pub fn new(
        config: &Config,
        telemetry: &Arc<Telemetry>,
        leadership: &Arc<Leadership>,
    ) -> Result<Self, kube::Error> {
        let client = |read_timeout, leadership: Option<&Arc<Leadership>>| {
            let mut config = config.clone();
            config.connect_timeout = Some(CONNECT_TIMEOUT);
            config.read_timeout = Some(read_timeout);
            config.write_timeout = Some(CALL_TIMEOUT);
            let gate = GateLayer {
                telemetry: Arc::clone(telemetry),
                leadership: leadership.map(Arc::clone),
            };
            Ok::<Client, kube::Error>(ClientBuilder::try_from(config)?.with_layer(&gate).build())
        };
        Ok(Self {
            watch: client(WATCH_READ_TIMEOUT, None)?,
            free: client(CALL_TIMEOUT, None)?,
            fenced: client(CALL_TIMEOUT, Some(leadership))?,
        })
    }
}

/// Whether this process leads: for so long as the lease that it has last renewed surely lasts. A
/// process that was stopped and woke up later finds that it does not.
#[derive(Debug)]
pub struct Leadership {
    epoch: Instant,
    until: AtomicU64,
}

impl Default for Leadership {
    fn default() -> Self {
        Self {
            epoch: clock::monotonic(),
            until: AtomicU64::new(0),
        }
    }
}

impl Leadership {
    /// Leads until then.
    pub fn extend(&self, until: Instant) {
        self.until.store(self.millis(until), Ordering::Release);
    }

    /// Leads no longer.
    pub fn end(&self) {
        self.until.store(0, Ordering::Release);
    }

    /// Whether this process leads at that time.
    pub fn holds(&self, now: Instant) -> bool {
        self.millis(now) < self.until.load(Ordering::Acquire)
    }

    fn millis(&self, at: Instant) -> u64 {
        let since = at.saturating_duration_since(self.epoch).as_millis();
        u64::try_from(since).unwrap_or(u64::MAX)
    }
}

/// A write was refused because another process may lead.
#[derive(Debug, thiserror::Error)]
#[error("this process does not hold the lease, so it writes nothing")]
pub struct NotLeading;

/// Counts writes, and refuses them where they depend on leading.
#[derive(Clone, Debug)]
pub struct GateLayer {
    /// Where writes are counted.
    pub telemetry: Arc<Telemetry>,
    /// Whether this process leads; none: that does not matter.
    pub leadership: Option<Arc<Leadership>>,
}

impl<S> Layer<S> for GateLayer {
    type Service = Gate<S>;

    fn layer(&self, inner: S) -> Gate<S> {
        Gate {
            layer: self.clone(),
            inner,
        }
    }
}

/// The service that [`GateLayer`] makes.
#[derive(Clone, Debug)]
pub struct Gate<S> {
    layer: GateLayer,
    inner: S,
}

impl<S> Service<Request<Body>> for Gate<S>
where
    S: Service<Request<Body>, Error = BoxError>,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = Either<S::Future, Ready<Result<S::Response, BoxError>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, req: Request<Body>) -> Self::Future {
        if let Some(verb) = verb(&req) {
            let leadership = self.layer.leadership.as_ref();
            if leadership.is_some_and(|leadership| !leadership.holds(clock::monotonic())) {
                return Either::Right(future::ready(Err(NotLeading.into())));
            }
            self.layer.telemetry.wrote(&kind(req.uri().path()), verb);
        }
        Either::Left(self.inner.call(req))
    }
}

/// The verb of a request that changes something.
fn verb(request: &Request<Body>) -> Option<&'static str> {
    match *request.method() {
        Method::POST => Some("create"),
        Method::PUT => Some("update"),
        Method::PATCH => Some("patch"),
        Method::DELETE => Some("delete"),
        _ => None,
    }
}

/// The resource in a path of the API server, with its subresource: `modeldeployments/status`.
fn kind(path: &str) -> String {
    let mut parts = path.split('/').filter(|part| !part.is_empty());
    // /api/VERSION/… or /apis/GROUP/VERSION/…
    let skipped = if parts.next() == Some("apis") { 2 } else { 1 };
    let rest: Vec<&str> = parts.skip(skipped).collect();
    let in_scope = match rest.as_slice() {
        ["namespaces", _, scoped @ ..] if !scoped.is_empty() => scoped,
        whole => whole,
    };
    match in_scope {
        [resource, _, subresource, ..] => format!("{resource}/{subresource}"),
        [resource, ..] => (*resource).to_owned(),
        [] => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_resource_is_read_from_the_path() {
        for (path, expected) in [
            ("/api/v1/namespaces/ml/services/x", "services"),
            ("/api/v1/namespaces/ml/services", "services"),
            ("/apis/apps/v1/namespaces/ml/deployments/x", "deployments"),
            (
                "/apis/sluice.dev/v1alpha1/namespaces/ml/modeldeployments/x/status",
                "modeldeployments/status",
            ),
            (
                "/apis/sluice.dev/v1alpha1/metricsources/default",
                "metricsources",
            ),
        ] {
            assert_eq!(kind(path), expected, "{path}");
        }
    }

    #[tokio::test]
    async fn leading_ends_by_itself() {
        let leadership = Leadership::default();
        let start = clock::monotonic();
        assert!(!leadership.holds(start));
        leadership.extend(start + Duration::from_secs(10));
        assert!(leadership.holds(start + Duration::from_secs(9)));
        assert!(!leadership.holds(start + Duration::from_secs(10)));
        leadership.end();
        assert!(!leadership.holds(start));
    }
}
