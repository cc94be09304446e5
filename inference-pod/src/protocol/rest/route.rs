//! Paths.

use http::StatusCode;

use super::Failure;
use crate::app::App;

/// The model and version that a path names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Asked<'a> {
    name: &'a str,
    version: Option<&'a str>,
}

impl Asked<'_> {
    /// Whether that is the model which is here.
    pub(super) fn check(&self, app: &App) -> Result<(), Failure> {
        let missing = |why| Err(Failure::new(StatusCode::NOT_FOUND, why));
        if self.name != app.model_name {
            return missing(format!(
                "model {:?} is not served here; {:?} is",
                self.name, app.model_name
            ));
        }
        match self.version {
            Some(version) if version != app.model_version => missing(format!(
                "model {:?} has no version {version:?}; {:?} is served",
                self.name, app.model_version
            )),
            Some(_) | None => Ok(()),
        }
    }
}

/// What a path asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Route<'a> {
    Server,
    Live,
    Ready,
    Model(Asked<'a>),
    ModelReady(Asked<'a>),
    Infer(Asked<'a>),
    Metrics,
    Sim,
    Unknown,
}

/// Reads a path.
pub(super) fn route(path: &str) -> Route<'_> {
    let parts: Vec<&str> = path.strip_prefix('/').unwrap_or(path).split('/').collect();
    match *parts.as_slice() {
        ["metrics"] => Route::Metrics,
        ["sim"] => Route::Sim,
        ["v2"] => Route::Server,
        ["v2", "health", "live"] => Route::Live,
        ["v2", "health", "ready"] => Route::Ready,
        ["v2", "models", name, "versions", version] => Route::Model(Asked {
            name,
            version: Some(version),
        }),
        ["v2", "models", name, "versions", version, "ready"] => Route::ModelReady(Asked {
            name,
            version: Some(version),
        }),
        ["v2", "models", name, "versions", version, "infer"] => Route::Infer(Asked {
            name,
            version: Some(version),
        }),
        ["v2", "models", name] => Route::Model(Asked {
            name,
            version: None,
        }),
        ["v2", "models", name, "ready"] => Route::ModelReady(Asked {
            name,
            version: None,
        }),
        ["v2", "models", name, "infer"] => Route::Infer(Asked {
            name,
            version: None,
        }),
        _ => Route::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_the_protocol() {
        let any = Asked {
            name: "m",
            version: None,
        };
        let one = Asked {
            name: "m",
            version: Some("1"),
        };
        for (path, want) in [
            ("/v2", Route::Server),
            ("/v2/health/live", Route::Live),
            ("/v2/health/ready", Route::Ready),
            ("/v2/models/m", Route::Model(any)),
            ("/v2/models/m/ready", Route::ModelReady(any)),
            ("/v2/models/m/infer", Route::Infer(any)),
            ("/v2/models/m/versions/1", Route::Model(one)),
            ("/v2/models/m/versions/1/ready", Route::ModelReady(one)),
            ("/v2/models/m/versions/1/infer", Route::Infer(one)),
            ("/metrics", Route::Metrics),
            ("/", Route::Unknown),
            ("/v2/models/m/infer/", Route::Unknown),
            ("/v1/models/m:predict", Route::Unknown),
        ] {
            assert_eq!(route(path), want, "{path}");
        }
    }
}
