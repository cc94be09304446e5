//! Closed-loop load: so many connections, each with one request at a time.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::Context as _;
use tokio::task::JoinSet;

use crate::bench::router::{
    exchange::{Clock, Exchange, RECORD_BYTES, Records, Requests},
    wire::{Head, Wire},
};

/// No request here takes longer.
const ENDS_WITHIN: Duration = Duration::from_secs(20);
/// Between two attempts to connect to what refuses.
const RECONNECT_PAUSE: Duration = Duration::from_millis(20);

/// What is sent where.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load {
    pub(super) address: SocketAddr,
    pub(super) connections: u32,
    pub(super) exchange: Exchange,
    pub(super) clock: Clock,
}

/// What the connections and whoever measures share.
#[derive(Debug, Default)]
struct Shared {
    stable: AtomicU64,
    canary: AtomicU64,
    errors: AtomicU64,
    measuring: AtomicBool,
    ended: AtomicBool,
}

/// Answers by the arm that gave them, and what was no right answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) stable: u64,
    pub(super) canary: u64,
    pub(super) errors: u64,
}

impl Counts {
    pub(super) fn answers(self) -> u64 {
        self.stable + self.canary
    }

    pub(super) fn add(&mut self, more: Self) {
        self.stable += more.stable;
        self.canary += more.canary;
        self.errors += more.errors;
    }
}

/// Times in nanoseconds of the requests that began while it was measured.
#[derive(Debug, Default)]
pub(super) struct Times {
    /// From the request to the end of its answer.
    pub(super) whole: Vec<u64>,
    /// From the request to the first record of a stream.
    pub(super) first: Vec<u64>,
    /// From a record's sending to its arrival.
    pub(super) transit: Vec<u64>,
}

impl Times {
    fn add(&mut self, more: Self) {
        self.whole.extend(more.whole);
        self.first.extend(more.first);
        self.transit.extend(more.transit);
    }
}

/// Load that runs.
#[derive(Debug)]
pub(super) struct Running {
    shared: Arc<Shared>,
    connections: JoinSet<Times>,
}

impl Load {
    pub(super) fn start(self) -> Running {
        let shared = Arc::new(Shared::default());
        let mut connections = JoinSet::new();
        for number in 0..self.connections {
            let shared = Arc::clone(&shared);
            connections.spawn(async move { self.connection(number, &shared).await });
        }
        Running {
            shared,
            connections,
        }
    }

    async fn connection(self, number: u32, shared: &Shared) -> Times {
        let mut times = Times::default();
        let mut requests = Requests::new(self.exchange, u64::from(number) + 1);
        tokio::time::sleep(self.phase(number)).await;
        let mut wire = None;
        while !shared.ended.load(Ordering::Relaxed) {
            let done = self.one(&mut wire, &mut requests, shared, &mut times).await;
            match done {
                Ok(true) => shared.canary.fetch_add(1, Ordering::Relaxed),
                Ok(false) => shared.stable.fetch_add(1, Ordering::Relaxed),
                Err(error) => {
                    tracing::debug!(%error, address = %self.address, "a request failed");
                    wire = None;
                    tokio::time::sleep(RECONNECT_PAUSE).await;
                    shared.errors.fetch_add(1, Ordering::Relaxed)
                }
            };
        }
        times
    }

    /// Streams begin apart from each other: their records would else come in bursts.
    fn phase(self, number: u32) -> Duration {
        match self.exchange {
            Exchange::Answer { bytes: _ } => Duration::ZERO,
            Exchange::Stream {
                prompt: _,
                records,
                every_millis,
            } => Duration::from_millis(every_millis) * records * number / self.connections.max(1),
        }
    }

    /// One request; whether the canary answered.
    async fn one(
        self,
        wire: &mut Option<Wire>,
        requests: &mut Requests,
        shared: &Shared,
        times: &mut Times,
    ) -> io::Result<bool> {
        let wire = match wire {
            Some(wire) => wire,
            None => wire.insert(Wire::connect(self.address).await?),
        };
        let measured = shared.measuring.load(Ordering::Relaxed);
        let began = self.clock.now();
        wire.write(requests.next()).await?;
        let head = wire.head().await?;
        let length = match self.exchange {
            Exchange::Answer { bytes } => {
                let mut length = 0;
                wire.body(head.framing, |part| length += part.len()).await?;
                check(&head, length, bytes)?;
                None
            }
            Exchange::Stream { records, .. } => {
                let first = self.records(wire, &head, measured, times).await?;
                let all = usize::try_from(records).unwrap_or(usize::MAX);
                check(&head, first.1, all * RECORD_BYTES)?;
                first.0
            }
        };
        if measured {
            times.whole.push(self.clock.now() - began);
            if let Some(first) = length {
                times.first.push(first - began);
            }
        }
        head.canary
            .ok_or_else(|| io::Error::other("an answer that does not say who gave it"))
    }

    /// Reads a stream: when its first record came, and its bytes.
    async fn records(
        self,
        wire: &mut Wire,
        head: &Head,
        measured: bool,
        times: &mut Times,
    ) -> io::Result<(Option<u64>, usize)> {
        let mut records = Records::default();
        let (mut first, mut length) = (None, 0);
        let clock = self.clock;
        wire.body(head.framing, |part| {
            length += part.len();
            records.take(part, |sent| {
                let now = clock.now();
                first.get_or_insert(now);
                if measured {
                    times.transit.push(now - sent);
                }
            });
        })
        .await?;
        Ok((first, length))
    }
}

fn check(head: &Head, length: usize, wanted: usize) -> io::Result<()> {
    if head.word == "200" && length == wanted {
        return Ok(());
    }
    let what = format!(
        "status {} with {length} bytes where 200 with {wanted} was due",
        head.word
    );
    Err(io::Error::other(what))
}

impl Running {
    /// Whether requests that begin from here on are measured.
    pub(super) fn measure(&self, measuring: bool) {
        self.shared.measuring.store(measuring, Ordering::Relaxed);
    }

    /// What was answered so far.
    pub(super) fn counts(&self) -> Counts {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Counts {
            stable: read(&self.shared.stable),
            canary: read(&self.shared.canary),
            errors: read(&self.shared.errors),
        }
    }

    /// Lets every request end.
    pub(super) async fn end(mut self) -> anyhow::Result<(Counts, Times)> {
        self.shared.ended.store(true, Ordering::Relaxed);
        let mut times = Times::default();
        let all = async {
            while let Some(connection) = self.connections.join_next().await {
                times.add(connection?);
            }
            anyhow::Ok(())
        };
        tokio::time::timeout(ENDS_WITHIN, all)
            .await
            .context("requests did not end")??;
        Ok((self.counts(), times))
    }
}

/// Connections that were used once and lie idle.
pub(super) async fn idle(load: Load) -> anyhow::Result<(Vec<Wire>, Counts)> {
    /// Connections that open at one time: a listener's queue holds them.
    const AT_ONCE: u32 = 100;
    let (mut open, mut counts) = (Vec::new(), Counts::default());
    let mut next = 0;
    while next < load.connections {
        let end = (next + AT_ONCE).min(load.connections);
        let mut opening = JoinSet::new();
        for number in next..end {
            opening.spawn(async move {
                let mut requests = Requests::new(load.exchange, u64::from(number) + 1);
                let (shared, mut times) = (Shared::default(), Times::default());
                let mut wire = None;
                let canary = load
                    .one(&mut wire, &mut requests, &shared, &mut times)
                    .await?;
                Ok::<_, io::Error>((wire, canary))
            });
        }
        while let Some(opened) = opening.join_next().await {
            let (wire, canary) = opened?.context("a connection could not be used")?;
            open.extend(wire);
            counts.add(Counts {
                stable: u64::from(!canary),
                canary: u64::from(canary),
                errors: 0,
            });
        }
        next = end;
    }
    Ok((open, counts))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::router::{backend, wire};
    use tokio::net::TcpListener;

    async fn load(exchange: Exchange) -> Load {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, clock) = (listener.local_addr().unwrap(), Clock::start());
        tokio::spawn(backend::serve(listener, wire::ARM_CANARY, clock));
        Load {
            address,
            connections: 3,
            exchange,
            clock,
        }
    }

    async fn run(load: Load) -> (Counts, Times) {
        let running = load.start();
        running.measure(true);
        while running.counts().answers() < 10 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        running.end().await.unwrap()
    }

    #[tokio::test]
    async fn every_answer_is_counted_and_timed() {
        for bytes in [0, 100, 300_000] {
            let (counts, times) = run(load(Exchange::Answer { bytes }).await).await;
            assert_eq!((counts.stable, counts.errors), (0, 0), "{bytes} bytes");
            assert_eq!(u64::try_from(times.whole.len()).unwrap(), counts.canary);
        }
    }

    #[tokio::test]
    async fn streams_are_timed_by_their_records() {
        let exchange = Exchange::Stream {
            prompt: 100_000,
            records: 4,
            every_millis: 2,
        };
        let (counts, times) = run(load(exchange).await).await;
        assert_eq!(counts.errors, 0);
        assert_eq!(times.first.len(), times.whole.len());
        assert_eq!(times.transit.len(), 4 * times.whole.len());
        // Three pauses lie between the first record and the last.
        assert!(times.whole.iter().all(|whole| *whole >= 4_000_000));
    }

    #[tokio::test]
    async fn what_is_no_right_answer_is_an_error() {
        let mut load = load(Exchange::Answer { bytes: 5 }).await;
        let gone = TcpListener::bind("127.0.0.1:0").await.unwrap();
        load.address = gone.local_addr().unwrap();
        drop(gone);
        let running = load.start();
        while running.counts().errors < 3 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(running.end().await.unwrap().0.answers(), 0);
    }

    #[tokio::test]
    async fn idle_connections_were_used_once() {
        let load = load(Exchange::Answer { bytes: 1 }).await;
        let (open, counts) = idle(load).await.unwrap();
        assert_eq!((open.len(), counts.canary), (3, 3));
    }
}
