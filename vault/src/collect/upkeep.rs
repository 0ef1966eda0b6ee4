//! Collects by itself while the vault serves, as often as the settings say.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use super::{Report, Rule, collect};
use crate::audit::{Act, Event};
use crate::background::Background;
use crate::error::{StoreError, VaultError};
use crate::ingest::Vault;
use crate::volume::Volume;

/// How often it looks whether it is time.
const TURN: Duration = Duration::from_millis(500);

/// The thread that does it. Dropped, it ends at the next piece of work, and is waited for.
pub struct Collector {
    stopping: Arc<AtomicBool>,
    _thread: Background,
}

impl Collector {
    /// Starts it. The first collection comes when one pause has passed.
    pub fn start<V: Volume + 'static>(vault: Arc<Vault<V>>) -> Result<Self, VaultError> {
        let stopping = vault.stopping().clone();
        let work = move |stopped: &Receiver<()>| run(&vault, stopped);
        Ok(Self {
            stopping,
            _thread: Background::start("relevo-collector", work)?,
        })
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Relaxed);
    }
}

fn run<V: Volume>(vault: &Vault<V>, stopped: &Receiver<()>) {
    let mut last = Instant::now();
    while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(TURN) {
        let settings = vault.settings().now();
        if let Some(pause) = settings.collect.every.pause()
            && last.elapsed() >= pause
        {
            match collect(
                vault.store(),
                &Rule::of(&settings.collect),
                vault.stopping(),
            ) {
                Ok(report) => note(vault, "vault", &report),
                Err(StoreError::Stopped) => return,
                Err(error) => {
                    tracing::error!(%error, remedy = error.remedy(), "collecting failed");
                }
            }
            last = Instant::now();
        }
    }
}

/// Writes down what a collection did, when it did something.
pub(crate) fn note<V: Volume>(vault: &Vault<V>, who: &str, report: &Report) {
    for held in &report.held_back {
        tracing::warn!(
            tenant = %held.tenant, chunks = held.chunks, reason = held.reason,
            remedy = held.remedy, "not collected"
        );
    }
    for damage in &report.damage {
        tracing::error!(
            damage,
            "left alone by the collection: run 'relevo-vault verify'"
        );
    }
    if report.dry_run || report.chunks_removed + report.packs_retired == 0 {
        return;
    }
    let result = format!(
        "{} chunks of {} bytes; {} packs of {} bytes, {} bytes copied",
        report.chunks_removed,
        report.bytes_died,
        report.packs_retired,
        report.bytes_freed,
        report.bytes_copied
    );
    tracing::info!(result, "collected");
    let event = Event::new(who, Act::Collected, "packs").result(result);
    if let Err(error) = vault.note(&event) {
        tracing::error!(%error, "the collection could not be noted");
    }
}
