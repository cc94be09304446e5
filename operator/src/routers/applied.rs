//! Whether every router serves a route as it is.

use std::collections::BTreeSet;

use crds::contract;
use futures::future;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::{Api, Client, api::ListParams};
use rollout::observation::Applied;

use super::{Routers, endpoints};
use crate::{
    args::NamespacedName,
    metrics::prometheus::{capped, sentence},
};

const LARGEST_ANSWER: usize = 8 << 20;

/// A route, in the form of this digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Awaited {
    /// The route.
    pub route: NamespacedName,
    /// Its digest.
    pub digest: String,
}

impl Routers {
    /// Whether every ready router serves a route in this form. While it is not so, its object is
    /// woken once all that hold a stream say that it is.
    pub async fn all_serve(&self, client: &Client, awaited: &Awaited) -> Result<Applied, String> {
        // Before anybody is asked, so that what is said meanwhile is not missed.
        self.awaits(awaited);
        let addresses = self
            .ready_addresses(client)
            .await
            .map_err(|error| error.to_string())?;
        let applied = self.those_serve(&addresses, awaited).await?;
        if applied == Applied::Yes {
            self.heard.await_no_digest(&awaited.route);
        }
        Ok(applied)
    }

    /// Wakes the object of a route once all routers that hold a stream say that they serve it in this
    /// form.
    pub fn awaits(&self, awaited: &Awaited) {
        self.heard.await_digest(awaited);
    }

    /// Whether all routers at these addresses serve a route in this form.
    pub async fn those_serve(
        &self,
        addresses: &BTreeSet<String>,
        awaited: &Awaited,
    ) -> Result<Applied, String> {
        // Nobody to ask is nobody who serves.
        let mut all = if addresses.is_empty() {
            Applied::No
        } else {
            Applied::Yes
        };
        let served = addresses
            .iter()
            .map(|address| self.serves(address, awaited));
        for one in future::join_all(served).await {
            all = match (all, one?) {
                (Applied::No, _) | (_, Applied::No) => Applied::No,
                (Applied::Yes, one) => one,
                (all, _) => all,
            };
        }
        Ok(all)
    }

    async fn serves(&self, address: &str, awaited: &Awaited) -> Result<Applied, String> {
        match self.heard.serves(address, awaited, self.silent_since()) {
            Some(true) => return Ok(Applied::Yes),
            Some(false) => return Ok(Applied::Awaited),
            None => {}
        }
        let applied = self.ask(address).await?;
        let serves = applied.routes.iter().any(|route| {
            route.namespace == awaited.route.namespace
                && route.name == awaited.route.name
                && route.digest == awaited.digest
        });
        Ok(if serves { Applied::Yes } else { Applied::No })
    }

    async fn ask(&self, address: &str) -> Result<contract::Applied, String> {
        let url = format!("http://{address}{}", contract::PATH_APPLIED);
        let failed = |why: String| format!("router {address} does not say what it serves: {why}");
        let response = self.http.get(&url).send().await;
        let response = response
            .and_then(reqwest::Response::error_for_status)
            .map_err(|error| failed(sentence(&error)))?;
        let body = capped(response, LARGEST_ANSWER).await?;
        serde_json::from_slice(&body).map_err(|error| failed(error.to_string()))
    }

    /// Addresses of the admin listeners of every ready router, as the API server has them: a watch
    /// may lag, and a router that it does not know yet may have requests.
    async fn ready_addresses(&self, client: &Client) -> Result<BTreeSet<String>, kube::Error> {
        let Some(service) = &self.service else {
            return Ok(BTreeSet::new());
        };
        let slices: Api<EndpointSlice> = Api::namespaced(client.clone(), &service.namespace);
        let selector = ListParams::default().labels(&endpoints::selector(service));
        Ok(endpoints::ready(&slices.list(&selector).await?.items))
    }
}
