//! Sends, and judges what comes back.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, Uri, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use tokio::sync::{Notify, Semaphore, watch};

use crate::{
    load::{
        Load,
        log::{Entry, Log},
        sample::{self, Sample, Samples},
        stats::{Stats, success},
    },
    serve::BoxError,
};

/// Header of an answer that names the revision which gave it.
const REVISION: HeaderName = HeaderName::from_static("x-sluice-revision");
/// Largest answer that is read.
const ANSWER_BYTES_MAX: usize = 4 << 20;
/// How often requests are sent: at higher rates several go at once.
const TICK: Duration = Duration::from_millis(2);

type Http = Client<HttpConnector, Full<Bytes>>;

/// Sends requests.
#[derive(Debug)]
pub(crate) struct Driver {
    target: Target,
    samples: Samples,
    /// Connections that are kept, and connections that are not.
    clients: [Http; 2],
    fresh: f64,
    users: u32,
    timeout: Duration,
    rate: watch::Sender<f64>,
    stopped: AtomicBool,
    in_flight_max: usize,
    slots: Arc<Semaphore>,
    skipped: AtomicU64,
    ended: Notify,
    log: Arc<Log>,
}

#[derive(Debug)]
struct Target {
    uri: Uri,
    host: Option<HeaderValue>,
    user_header: HeaderName,
}

impl Driver {
    pub(crate) fn new(args: &Load, samples: Samples, log: Arc<Log>) -> anyhow::Result<Self> {
        check_rate(args.rate)?;
        ensure!(args.users > 0, "--users must be at least 1");
        ensure!(
            (0.0..=1.0).contains(&args.fresh),
            "--fresh must be between 0 and 1"
        );
        let uri = format!("{}{}", args.target.trim_end_matches('/'), args.path);
        let target = Target {
            uri: uri
                .parse()
                .with_context(|| format!("{uri} is no address"))?,
            host: args
                .host
                .as_ref()
                .map(|host| host.parse())
                .transpose()
                .context("--host")?,
            user_header: args.user_header.parse().context("--user-header")?,
        };
        ensure!(
            target.uri.scheme_str() == Some("http"),
            "{uri}: only http:// can be asked"
        );
        let in_flight_max = args.in_flight.min(Semaphore::MAX_PERMITS);
        Ok(Self {
            target,
            samples,
            clients: [client(in_flight_max), client(0)],
            fresh: args.fresh,
            users: args.users,
            timeout: Duration::from_millis(args.timeout_ms),
            rate: watch::Sender::new(args.rate),
            stopped: AtomicBool::new(false),
            in_flight_max,
            slots: Arc::new(Semaphore::new(in_flight_max)),
            skipped: AtomicU64::new(0),
            ended: Notify::new(),
            log,
        })
    }

    /// Sends for ever, at the rate that is set.
    pub(crate) async fn send_all(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        let mut last = Instant::now();
        let mut owed = 0.0_f64;
        loop {
            ticks.tick().await;
            let now = Instant::now();
            let rate = *self.rate.borrow();
            owed += rate * now.duration_since(last).as_secs_f64();
            last = now;
            // A pause of the whole process is not made up for by a flood.
            owed = owed.min((rate * 0.1).max(1.0));
            while owed >= 1.0 {
                owed -= 1.0;
                self.send_one();
            }
        }
    }

    fn send_one(self: &Arc<Self>) {
        if self.stopped.load(Ordering::Acquire) {
            return;
        }
        let Ok(slot) = Arc::clone(&self.slots).try_acquire_owned() else {
            self.skipped.fetch_add(1, Ordering::Relaxed);
            return;
        };
        let driver = Arc::clone(self);
        tokio::spawn(async move {
            let user = rand::random_range(0..driver.users);
            let sample = driver.samples.pick();
            let entry = driver.ask(user, sample).await;
            driver.log.add(&entry);
            drop(slot);
            driver.ended.notify_waiters();
        });
    }

    /// One request and its whole answer.
    async fn ask(&self, user: u32, sample: Sample) -> Entry {
        let t = epoch_ms();
        let begun = Instant::now();
        let mut entry = Entry {
            t,
            d_ms: 0,
            user,
            code: 0,
            error: None,
            revision: None,
            correct: None,
        };
        match tokio::time::timeout(self.timeout, self.exchange(user, sample, &mut entry)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => entry.error = Some(chain(&*error)),
            Err(_) => entry.error = Some(format!("no answer within {:?}", self.timeout)),
        }
        if entry.error.is_some() {
            // A head without its body is no answer.
            entry.code = 0;
        }
        entry.d_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        entry
    }

    async fn exchange(&self, user: u32, sample: Sample, entry: &mut Entry) -> Result<(), BoxError> {
        let mut request = Request::post(self.target.uri.clone())
            .header(header::CONTENT_TYPE, "application/json")
            .header(&self.target.user_header, format!("user-{user}"))
            .body(Full::new(sample.body))?;
        if let Some(host) = &self.target.host {
            request.headers_mut().insert(header::HOST, host.clone());
        }
        let [kept, fresh] = &self.clients;
        let client = if rand::random_bool(self.fresh) {
            request
                .headers_mut()
                .insert(header::CONNECTION, HeaderValue::from_static("close"));
            fresh
        } else {
            kept
        };
        let (head, body) = client.request(request).await?.into_parts();
        entry.code = head.status.as_u16();
        let revision = head
            .headers
            .get(REVISION)
            .and_then(|value| value.to_str().ok());
        entry.revision = revision.filter(|name| !name.is_empty()).map(str::to_owned);
        let body = Limited::new(body, ANSWER_BYTES_MAX)
            .collect()
            .await?
            .to_bytes();
        if success(entry.code) {
            entry.correct = sample
                .label
                .map(|label| sample::label(&body) == Some(label));
        }
        Ok(())
    }

    /// Sends at another rate from here on.
    pub(crate) fn set_rate(&self, rate: f64) -> anyhow::Result<()> {
        check_rate(rate)?;
        self.rate.send_replace(rate);
        self.stopped.store(false, Ordering::Release);
        Ok(())
    }

    /// Sends nothing more and waits for what is under way.
    pub(crate) async fn stop(&self, patience: Duration) {
        self.stopped.store(true, Ordering::Release);
        let all = async {
            loop {
                let ended = self.ended.notified();
                if self.slots.available_permits() == self.in_flight_max {
                    return;
                }
                ended.await;
            }
        };
        if tokio::time::timeout(patience, all).await.is_err() {
            tracing::warn!("requests were still in flight after {patience:?}");
        }
    }

    /// What the answers come to.
    pub(crate) fn stats(&self) -> Stats {
        let in_flight = self.in_flight_max - self.slots.available_permits();
        Stats {
            in_flight: u64::try_from(in_flight).unwrap_or(0),
            skipped: self.skipped.load(Ordering::Relaxed),
            stopped: self.stopped.load(Ordering::Acquire),
            ..self.log.stats()
        }
    }

    /// How long a request may take.
    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }
}

fn check_rate(rate: f64) -> anyhow::Result<()> {
    ensure!(
        (0.0..=100_000.0).contains(&rate),
        "a rate of {rate} a second cannot be sent"
    );
    Ok(())
}

fn client(idle_max: usize) -> Http {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    connector.set_connect_timeout(Some(Duration::from_secs(3)));
    Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(Duration::from_secs(30))
        .pool_max_idle_per_host(idle_max)
        .build(connector)
}

/// An error with its causes.
fn chain(error: &(dyn std::error::Error + Send + Sync + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

fn epoch_ms() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
