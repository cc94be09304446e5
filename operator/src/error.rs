//! What can go wrong in a reconcile: could not find out, or could not do.

use rollout::plan::SpecError;

/// A failed reconcile.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The API server refused or did not answer.
    #[error("cannot {what}: {}", plain(source))]
    Api {
        /// What was tried.
        what: String,
        /// Why it failed.
        #[source]
        source: Box<kube::Error>,
    },
    /// What was seen is out of date: look again.
    #[error("cannot {what}: it changed meanwhile")]
    Stale {
        /// What was tried.
        what: String,
    },
    /// An object of that name is somebody else's.
    #[error("cannot {what}: {kind} {name} is there already and not ours; rename or delete it")]
    Foreign {
        /// What was tried.
        what: String,
        /// Kind of the object.
        kind: &'static str,
        /// Its name.
        name: String,
    },
    /// The spec, or a saved part of it, asks for what cannot be done.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// What cannot happen, did.
    #[error("{0}")]
    Bug(String),
}

/// What kind of trouble it is, and so who must do something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Nobody: look again.
    Conflict,
    /// Nobody, if it goes by itself.
    Transient,
    /// Whoever wrote the spec or the permissions.
    User,
    /// Whoever wrote this program.
    Bug,
}

impl Class {
    /// The name in metrics and logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Conflict => "conflict",
            Self::Transient => "transient",
            Self::User => "user",
            Self::Bug => "bug",
        }
    }
}

impl Failure {
    /// Names what was tried.
    pub fn api(what: impl Into<String>) -> impl FnOnce(kube::Error) -> Self {
        let what = what.into();
        move |source| {
            if code(&source) == Some(409) {
                Self::Stale { what }
            } else {
                Self::Api {
                    what,
                    source: Box::new(source),
                }
            }
        }
    }

    /// What kind of trouble it is.
    pub fn class(&self) -> Class {
        match self {
            Self::Stale { .. } => Class::Conflict,
            Self::Spec(_) | Self::Foreign { .. } => Class::User,
            Self::Bug(_) => Class::Bug,
            Self::Api { source, .. } => match code(source) {
                Some(401 | 403) => Class::User,
                Some(400 | 405 | 422) => Class::Bug,
                Some(_) | None => Class::Transient,
            },
        }
    }
}

/// What the API server said, without the form in which it said it.
fn plain(error: &kube::Error) -> String {
    if let kube::Error::Api(status) = error {
        status.message.clone()
    } else {
        error.to_string()
    }
}

/// The HTTP status that the API server answered with, if it answered.
pub fn code(error: &kube::Error) -> Option<u16> {
    if let kube::Error::Api(status) = error {
        Some(status.code)
    } else {
        None
    }
}

/// Takes "there is none" for done.
pub fn none_is_fine<T>(result: Result<T, kube::Error>) -> Result<Option<T>, kube::Error> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if code(&error) == Some(404) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Takes "there is one already" for done.
pub fn exists_is_fine<T>(result: Result<T, kube::Error>) -> Result<Option<T>, kube::Error> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(kube::Error::Api(status)) if status.code == 409 && status.reason == "AlreadyExists" => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Longest text of an error that is passed on: it may hold what somebody else wrote, and it goes into
/// a status.
const LONGEST_TEXT: usize = 512;

/// The beginning of a text of others.
pub fn brief(text: &str) -> String {
    match text.char_indices().nth(LONGEST_TEXT) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}
