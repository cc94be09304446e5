//! Whether the operator is ready, and if not, why.

use std::sync::{Mutex, PoisonError};

/// Whether the operator is ready for work. A standby is: it is ready to take over.
#[derive(Debug)]
pub struct Health {
    missing: Mutex<Option<String>>,
}

impl Default for Health {
    fn default() -> Self {
        Self {
            missing: Mutex::new(Some("starting".to_owned())),
        }
    }
}

impl Health {
    /// Ready, or not for this reason.
    pub fn set(&self, missing: Option<String>) {
        *self.missing.lock().unwrap_or_else(PoisonError::into_inner) = missing;
    }

    /// Why it is not ready; none: it is.
    pub fn missing(&self) -> Option<String> {
        self.missing
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}
