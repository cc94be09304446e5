//! Whether this pod may get requests, and why not.

use tokio::sync::watch;

/// Where the pod is in its life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Not there yet; says what it is at, or what it is waiting for.
    Starting(String),
    /// Loaded, digest checked, warmed up.
    Ready,
    /// It will never be ready; says why.
    Failed(String),
    /// It was told to stop.
    Draining,
}

/// The phase, shared between the start, the drain and the protocols.
#[derive(Debug)]
pub(crate) struct Readiness(watch::Sender<Phase>);

impl Readiness {
    /// A pod that has just started.
    pub(crate) fn new() -> Self {
        Self(watch::Sender::new(Phase::Starting("starting".to_owned())))
    }

    /// Moves on. Draining is the end: a start that finishes late does not undo it.
    pub(crate) fn set(&self, phase: Phase) {
        self.0.send_if_modified(|current| {
            let moves = *current != Phase::Draining && *current != phase;
            if moves {
                *current = phase;
            }
            moves
        });
    }

    /// Where the pod is.
    pub(crate) fn phase(&self) -> Phase {
        self.0.borrow().clone()
    }

    /// Why the pod should get no new requests; none if it should.
    pub(crate) fn obstacle(&self) -> Option<String> {
        match &*self.0.borrow() {
            Phase::Ready => None,
            Phase::Starting(what) => Some(what.clone()),
            Phase::Failed(why) => Some(why.clone()),
            Phase::Draining => Some("draining".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ready_has_no_obstacle() {
        let readiness = Readiness::new();
        assert_eq!(readiness.obstacle().as_deref(), Some("starting"));
        readiness.set(Phase::Failed("digest mismatch".to_owned()));
        assert_eq!(readiness.obstacle().as_deref(), Some("digest mismatch"));
        readiness.set(Phase::Ready);
        assert_eq!(readiness.obstacle(), None);
    }

    #[test]
    fn a_late_start_does_not_undo_the_drain() {
        let readiness = Readiness::new();
        readiness.set(Phase::Draining);
        readiness.set(Phase::Ready);
        assert_eq!(readiness.phase(), Phase::Draining);
    }
}
