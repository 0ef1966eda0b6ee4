//! Collects by itself while the vault serves, as often as the settings say.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::{Report, Rule, collect};
use crate::audit::{Act, Event};
use crate::error::{StoreError, VaultError};
use crate::ingest::Vault;
use crate::volume::Volume;

/// How often it looks whether it is time.
const TURN: Duration = Duration::from_millis(500);

/// The thread that does it. Dropped, it ends at the next piece of work, and is waited for.
pub struct Collector {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Collector {
    /// Starts it. The first collection comes when one pause has passed.
    pub fn start<V: Volume>(vault: Arc<Vault<V>>) -> Result<Self, VaultError> {
        let stop = Arc::new(AtomicBool::new(false));
        let told = stop.clone();
        let thread = std::thread::Builder::new()
            .name("relevo-collector".into())
            .spawn(move || run(&vault, &told))
            .map_err(|e| StoreError::io("start the collector", &e))?;
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // Its panic, if any, was reported by the panic hook.
            let _ = thread.join();
        }
    }
}

fn run<V: Volume>(vault: &Vault<V>, stop: &AtomicBool) {
    let mut last = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        let settings = vault.settings().now();
        if let Some(pause) = settings.collect.every.pause()
            && last.elapsed() >= pause
        {
            match collect(vault.store(), &Rule::of(&settings.collect), stop) {
                Ok(report) => note(vault, "vault", &report),
                Err(StoreError::Stopped) => return,
                Err(error) => {
                    tracing::error!(%error, remedy = error.remedy(), "collecting failed");
                }
            }
            last = Instant::now();
        }
        std::thread::park_timeout(TURN);
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
