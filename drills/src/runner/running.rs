//! What a drill has started and must remove again, whatever happens.

use crate::ledger::HeldDrill;
use crate::rehearsal::RunningServer;

/// The servers that run, and the drill's place in the ledger.
pub(super) struct Running<S: RunningServer> {
    pub(super) servers: Vec<S>,
    pub(super) held: Option<HeldDrill>,
}

impl<S: RunningServer> Running<S> {
    /// None yet, of the drill that `held` stands for.
    pub(super) fn new(held: HeldDrill) -> Self {
        Self {
            servers: Vec::new(),
            held: Some(held),
        }
    }

    /// The drill's id.
    pub(super) fn id(&self) -> String {
        self.held
            .as_ref()
            .map(|held| held.entry.id.clone())
            .unwrap_or_default()
    }

    /// Stops all, last started first, and removes everything. Says what is left.
    pub(super) fn tear_down(&mut self) -> Vec<String> {
        while let Some(mut server) = self.servers.pop() {
            if let Err(problems) = server.stop() {
                // What it could not stop is removed by force below.
                for problem in problems {
                    tracing::warn!(problem, "a server did not stop in order");
                }
            }
        }
        let Some(held) = self.held.take() else {
            return Vec::new();
        };
        let removed = held.remove();
        for what in &removed.removed {
            tracing::debug!(what, "removed");
        }
        removed.left
    }
}

impl<S: RunningServer> Drop for Running<S> {
    fn drop(&mut self) {
        for left in self.tear_down() {
            tracing::error!(left, "left behind");
        }
    }
}
