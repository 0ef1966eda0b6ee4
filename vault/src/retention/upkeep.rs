//! What `serve` does by itself about retention: it prunes by the settings, and writes down how
//! far vault time has come.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use super::prune::{Scope, prune};
use crate::background::Background;
use crate::error::{StoreError, VaultError};
use crate::ingest::Vault;
use crate::settings::Settings;
use crate::volume::Volume;

/// How often it looks what is due.
const TURN: Duration = Duration::from_secs(1);
/// How often vault time is written down while anything is locked: what a crash costs at most,
/// by which locks then last longer.
const NOTE_CLOCK: Duration = Duration::from_secs(3600);

/// The thread that does it.
pub struct Upkeep(Background);

impl Upkeep {
    /// Starts it. The first pruning is due at once.
    pub fn start<V: Volume + 'static>(vault: Arc<Vault<V>>) -> Result<Self, VaultError> {
        let work = move |stopped: &Receiver<()>| run(&vault, stopped);
        Ok(Self(Background::start("relevo-upkeep", work)?))
    }

    /// Ends it; vault time is written down once more.
    pub fn stop(self) {
        drop(self.0);
    }
}

fn run<V: Volume>(vault: &Vault<V>, stopped: &Receiver<()>) {
    let mut pruned: Option<Instant> = None;
    let mut noted = Instant::now();
    let mut noted_settings: Option<Arc<Settings>> = None;
    loop {
        let settings = vault.settings().now();
        if noted_settings
            .as_ref()
            .is_none_or(|noted| !Arc::ptr_eq(noted, &settings))
        {
            if let Err(error) = vault.note_settings() {
                tracing::error!(%error, "the settings could not be noted");
            }
            for section in vault.unmatched_settings() {
                tracing::warn!(
                    section,
                    "of settings.toml counts for nobody: look at its spelling"
                );
            }
            noted_settings = Some(settings.clone());
        }
        if let Some(pause) = settings.prune.every.pause()
            && pruned.is_none_or(|last| last.elapsed() >= pause)
        {
            prune_once(vault);
            pruned = Some(Instant::now());
        }
        if noted.elapsed() >= NOTE_CLOCK {
            note(vault);
            noted = Instant::now();
        }
        match stopped.recv_timeout(TURN) {
            Err(RecvTimeoutError::Timeout) => {}
            Ok(()) | Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    note(vault);
}

fn prune_once<V: Volume>(vault: &Vault<V>) {
    if vault.check_audit().is_err() {
        // Said there. What nobody could be told of is not deleted.
        return;
    }
    let settings = vault.settings().now();
    let pruned = prune(
        vault.store(),
        &settings,
        &Scope::default(),
        "retention",
        false,
    );
    match pruned {
        Ok(pruned) => {
            let (deleted, refused) = (pruned.deleted.len(), pruned.refused.len());
            if deleted + refused > 0 {
                tracing::info!(deleted, refused, "pruned");
                if let Err(error) = vault.note_pruned("retention", &pruned) {
                    tracing::error!(%error, "the pruning could not be noted");
                }
            }
            for refused in &pruned.refused {
                tracing::warn!(point = %refused.point, because = refused.because, "not pruned");
            }
        }
        Err(error) => tracing::error!(%error, remedy = error.remedy(), "pruning failed"),
    }
}

fn note<V: Volume>(vault: &Vault<V>) {
    if let Err(error) = vault.anchor_audit() {
        tracing::error!(%error, "the packs could not be told of the audit log");
    }
    match vault.store().note_clock(vault.audit_anchor()) {
        Ok(()) | Err(StoreError::Stopped) => {}
        Err(error) => tracing::error!(%error, "vault time could not be written down"),
    }
}
