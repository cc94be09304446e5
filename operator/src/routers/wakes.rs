//! Objects that are to be looked at because of what a router said.

use std::sync::{Mutex, PoisonError};

use crds::ModelDeployment;
use futures::{Stream, channel::mpsc};
use kube::runtime::reflector::ObjectRef;

use crate::args::NamespacedName;

/// Who asks to be told. What is sent is bounded by how often routers speak, and the controller that
/// receives it holds each object once.
#[derive(Debug, Default)]
pub(super) struct Wakes {
    listeners: Mutex<Vec<Listener>>,
}

#[derive(Debug)]
struct Listener {
    /// Of this namespace only; none: of all.
    namespace: Option<String>,
    to: mpsc::UnboundedSender<ObjectRef<ModelDeployment>>,
}

impl Wakes {
    /// The objects of a namespace, or of all.
    pub(super) fn subscribe(
        &self,
        namespace: Option<&str>,
    ) -> impl Stream<Item = ObjectRef<ModelDeployment>> + Send + use<> {
        let (to, from) = mpsc::unbounded();
        let namespace = namespace.map(str::to_owned);
        self.listeners().push(Listener { namespace, to });
        from
    }

    /// The object of a route, which has the same name.
    pub(super) fn wake(&self, route: &NamespacedName) {
        let object = ObjectRef::new(&route.name).within(&route.namespace);
        self.listeners().retain(|listener| {
            let namespace = listener.namespace.as_ref();
            let is_meant = namespace.is_none_or(|namespace| *namespace == route.namespace);
            !is_meant || listener.to.unbounded_send(object.clone()).is_ok()
        });
    }

    fn listeners(&self) -> std::sync::MutexGuard<'_, Vec<Listener>> {
        self.listeners
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
