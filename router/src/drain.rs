//! The way out: say so, go on for a while, finish, leave.

use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tracing::{info, warn};

use crate::proxy::Proxy;
use crate::proxy::server::Server;

/// Waits for SIGTERM or SIGINT.
pub async fn asked_to_leave() -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

/// Fails readiness, goes on accepting for `delay`, then finishes what is in flight within
/// `timeout`.
pub async fn drain(proxy: &Proxy, server: Arc<Server>, delay: Duration, timeout: Duration) {
    info!(?delay, ?timeout, "draining");
    proxy.start_draining();
    tokio::time::sleep(delay).await;
    report(server.drain(timeout).await);
}

fn report(finished: bool) {
    if finished {
        info!("drained");
    } else {
        warn!("requests in flight were cut off: they took longer than the drain timeout");
    }
}
