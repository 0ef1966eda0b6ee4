//! What a store cannot go on after: it is to be opened anew, in a new process.

use std::sync::Arc;

use tokio::sync::watch;

use crate::catalogue::Catalogue;
use crate::error::StoreError;

/// Whether that came, and why. The first reason stays.
#[derive(Default)]
pub(super) struct Failure(watch::Sender<Option<String>>);

impl Failure {
    fn set(&self, reason: String) {
        self.0.send_if_modified(|known| {
            let first = known.is_none();
            if first {
                *known = Some(reason);
            }
            first
        });
    }

    /// Ends with the reason when it came.
    pub(super) async fn wait(&self) -> String {
        let mut watched = self.0.subscribe();
        let found = watched.wait_for(Option::is_some).await;
        found
            .ok()
            .and_then(|reason| reason.clone())
            .unwrap_or_default()
    }

    /// Looks whether an index that is damaged made something fail. That is noted in the
    /// catalogue, for whoever opens it next makes the index anew.
    pub(super) fn heed<T>(&self, catalogue: &Catalogue, done: &Result<T, StoreError>) {
        let Err(StoreError::Index(reason)) = done else {
            return;
        };
        if let Err(error) = catalogue.note_index_damage() {
            tracing::error!(%error, "the damage could not be noted: run 'relevo-vault rebuild'");
        }
        self.set(format!(
            "{reason}; the next start makes the index anew from the packs"
        ));
    }
}

/// Tells when a thread ends in a panic. Stands in the thread.
pub(super) struct Watched {
    failure: Arc<Failure>,
    who: &'static str,
}

impl Watched {
    pub(super) fn new(failure: Arc<Failure>, who: &'static str) -> Self {
        Self { failure, who }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.failure.set(format!("{} ended in a panic", self.who));
        }
    }
}
