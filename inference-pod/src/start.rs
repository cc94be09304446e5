//! From nothing to ready: fetch, check the digest, load, warm up.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::{task, time};

use crate::app::{App, Serving};
use crate::args::{Config, EngineConfig, Limits};
use crate::artifact::{self, Source};
use crate::engine::{self, LoadError, Loaded};
use crate::pool::Pool;
use crate::ready::Phase;

const WARM_UP_BATCHES: [usize; 4] = [1, 2, 4, 8];
const WARM_UP_LONGEST: Duration = Duration::from_secs(3);
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

/// Makes the pod ready, or says on its readiness why it never will be.
pub(crate) async fn start(app: Arc<App>, config: Config) {
    let began = Instant::now();
    let artifact = match &config.source {
        Some(source) => match fetch(&app, source).await {
            Some(path) => Some(path),
            None => return,
        },
        None => None,
    };
    app.readiness.set(Phase::Starting(
        "loading and warming up the model".to_owned(),
    ));
    match load(config.engine, artifact, config.limits).await {
        Ok(loaded) => {
            let pool = Pool::new(loaded.engines, config.limits.queue);
            app.serve(Serving {
                spec: loaded.spec,
                pool,
                sim: loaded.sim,
            });
            app.readiness.set(Phase::Ready);
            let seconds = began.elapsed().as_secs_f64();
            tracing::info!(model = app.model_name, seconds, "ready");
        }
        Err(error) => fail(&app, error.to_string()),
    }
}

/// Tries until the source delivers; none where it never can.
async fn fetch(app: &App, source: &Source) -> Option<PathBuf> {
    let mut pause = FIRST_PAUSE;
    app.readiness
        .set(Phase::Starting(format!("fetching {}", source.uri)));
    loop {
        match artifact::obtain(source).await {
            Ok(path) => {
                tracing::info!(uri = source.uri, digest = %source.digest, "artifact verified");
                return Some(path);
            }
            Err(error) if error.is_transient() => {
                tracing::warn!(%error, retry_seconds = pause.as_secs_f64(), "no artifact yet");
                app.readiness.set(Phase::Starting(error.to_string()));
            }
            Err(error) => {
                fail(app, error.to_string());
                return None;
            }
        }
        time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

async fn load(
    engine: EngineConfig,
    artifact: Option<PathBuf>,
    limits: Limits,
) -> Result<Loaded, LoadError> {
    let loading = task::spawn_blocking(move || {
        let mut loaded = engine::load(&engine, artifact.as_deref(), limits.slots)?;
        engine::warm_up(&mut loaded, &WARM_UP_BATCHES, WARM_UP_LONGEST)?;
        Ok(loaded)
    });
    loading
        .await
        .unwrap_or_else(|error| Err(LoadError(format!("loading the model: {error}"))))
}

/// The pod stays alive without getting ready: its readiness says what a restart would only hide.
fn fail(app: &App, why: String) {
    tracing::error!(why, "this pod will not become ready");
    app.readiness.set(Phase::Failed(why));
}
