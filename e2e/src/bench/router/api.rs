//! What the router reads its configuration from: answers for an API server whose few objects never
//! change, so that the program that is measured is the one that is shipped.

use std::{fs, path::Path, sync::Arc, time::Duration};

use anyhow::Context as _;
use bytes::Bytes;
use futures::{StreamExt as _, stream};
use http::{Method, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Incoming;
use serde::Deserialize as _;
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::watch};

use crate::serve::{self, Answer, BoxError};

/// How long a watch without a bound of its own lasts.
const WATCH: Duration = Duration::from_mins(5);

/// The objects.
#[derive(Clone, Debug)]
pub(super) struct Objects(Arc<Vec<Value>>);

impl Objects {
    /// Reads them from a file of YAML documents.
    pub(super) fn read(path: &Path) -> anyhow::Result<Self> {
        let text =
            fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let objects: Result<Vec<Value>, _> = serde_yaml::Deserializer::from_str(&text)
            .map(Value::deserialize)
            .collect();
        let objects = objects.with_context(|| format!("cannot read {}", path.display()))?;
        Ok(Self(Arc::new(objects)))
    }

    /// Those whose kind has this plural.
    fn list(&self, plural: &str) -> Value {
        let of_kind = |object: &&Value| {
            let kind = object.get("kind").and_then(Value::as_str);
            let kind = kind.unwrap_or_default().to_ascii_lowercase();
            // As in classes; no kind here is more irregular.
            plural == format!("{kind}s") || plural == format!("{kind}es")
        };
        let items: Vec<&Value> = self.0.iter().filter(of_kind).collect();
        json!({ "kind": "List", "apiVersion": "v1", "metadata": { "resourceVersion": "1" }, "items": items })
    }

    fn answer(&self, request: &Request<Incoming>) -> Answer {
        let uri = request.uri();
        let plural = uri.path().rsplit('/').next().unwrap_or_default();
        // A router that holds the Lease would write statuses.
        if request.method() != Method::GET || uri.path().contains("/leases") {
            let refused = json!({
                "kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Forbidden", "code": 403,
                "message": "these objects can only be read",
            });
            return serve::json(StatusCode::FORBIDDEN, &refused);
        }
        if serve::parameter(uri.query(), "watch") == Some("true") {
            let seconds = serve::parameter(uri.query(), "timeoutSeconds");
            let seconds = seconds.and_then(|text| text.parse().ok());
            return nothing_for(seconds.map_or(WATCH, Duration::from_secs));
        }
        serve::json(StatusCode::OK, &self.list(plural))
    }

    /// Serves them until `end`.
    pub(super) async fn serve(self, listener: TcpListener, end: watch::Receiver<bool>) {
        let service = move |request: Request<Incoming>, _| {
            let answer = self.answer(&request);
            async move { Ok(answer) }
        };
        serve::serve(listener, end, service).await;
    }
}

/// A watch in which nothing happens.
fn nothing_for(time: Duration) -> Answer {
    let silence = stream::once(tokio::time::sleep(time))
        .filter_map(|()| async { None::<Result<Frame<Bytes>, BoxError>> });
    Response::new(StreamBody::new(silence).boxed_unsync())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_listed_by_kind() {
        let class = json!({ "kind": "GatewayClass", "metadata": { "name": "c" } });
        let service = json!({ "kind": "Service", "metadata": { "name": "s" } });
        let objects = Objects(Arc::new(vec![class.clone(), service]));
        assert_eq!(objects.list("gatewayclasses")["items"], json!([class]));
        assert_eq!(objects.list("namespaces")["items"], json!([]));
    }
}
