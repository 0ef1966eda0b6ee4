//! Ending early: a flag that both waiting futures and reading threads see.

use std::io;
use std::process;
use std::sync::Arc;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// Exit code of a run that was asked to end: that of a shell's command after Ctrl-C.
pub const INTERRUPTED: u8 = 130;

/// Whether to end. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<watch::Sender<bool>>);

impl Stop {
    /// Asks to end.
    pub fn set(&self) {
        self.0.send_replace(true);
    }

    /// Whether it was asked.
    pub fn is_set(&self) -> bool {
        *self.0.borrow()
    }

    /// Returns when it was asked.
    pub async fn wait(&self) {
        // It fails only without a sender, and this is one.
        let _ = self.0.subscribe().wait_for(|set| *set).await;
    }

    /// Sets it at the first SIGINT or SIGTERM; the second ends the process at once, which loses
    /// nothing but what the cache was about to learn.
    pub fn on_signals(&self) -> io::Result<()> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let stop = self.clone();
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
                if stop.is_set() {
                    process::exit(INTERRUPTED.into());
                }
                tracing::warn!("ending; once more to end at once");
                stop.set();
            }
        });
        Ok(())
    }
}
