//! Writes the decision down before anything is done about it.

use crds::{ModelDeployment, ModelDeploymentStatus};
use kube::{ResourceExt as _, api::PostParams};

use crate::{ctx::Ctx, error, error::Failure};

/// What became of a record.
#[derive(Debug)]
pub enum Recorded {
    /// It is in the status.
    Done,
    /// The object is gone.
    Gone,
    /// It was refused, or nobody answered.
    Refused(Failure),
}

/// Writes the status if it differs. The object's `resourceVersion` goes with it: who decided from
/// an older status is refused.
pub async fn record(
    ctx: &Ctx,
    deployment: &ModelDeployment,
    next: ModelDeploymentStatus,
) -> Recorded {
    if deployment.status.as_ref() == Some(&next) {
        return Recorded::Done;
    }
    let changed = ModelDeployment {
        status: Some(next),
        ..deployment.clone()
    };
    let namespace = deployment.namespace().unwrap_or_default();
    let written = ctx
        .api::<ModelDeployment>(&namespace)
        .replace_status(&deployment.name_any(), &PostParams::default(), &changed)
        .await;
    match written {
        Ok(_) => Recorded::Done,
        Err(error) if error::code(&error) == Some(404) => Recorded::Gone,
        Err(error) => Recorded::Refused(Failure::api("record the decision in the status")(error)),
    }
}
