//! `relevo-vault rebuild`: makes the catalogue anew from the packs; and how commands open it.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use serde::Serialize;

use crate::catalogue::Catalogue;
use crate::directory::{Directory, Lock, sync_directory};
use crate::error::VaultError;
use crate::ledger::{Finding, Ledger};
use crate::store::Store;
use crate::volume::DiskVolume;

/// What a rebuild found.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Rebuilt {
    /// Packs read.
    pub packs: usize,
    /// Recovery points found.
    pub points: usize,
    /// Tokens that could be kept.
    pub tokens: usize,
    /// What is damaged, in words.
    pub damage: Vec<String>,
}

/// Makes a new catalogue and puts it in the old one's place. Tokens are kept where the old one
/// can be read; times of verification are not.
pub fn rebuild(directory: &Directory) -> Result<Rebuilt, VaultError> {
    let _lock = directory.lock()?;
    let old = directory.catalogue();
    let new = old.with_extension("sqlite.new");
    remove(&new)?;
    let (catalogue, fresh) = Catalogue::open(&new)?;
    let vault = directory.file().vault;
    let volume = Arc::new(directory.volume());
    let (ledger, findings) = Ledger::open(volume, vault, catalogue, fresh)?;
    report(&findings);
    let tokens = match old.exists() {
        true => ledger
            .catalogue()
            .take_tokens_from(&old)
            .inspect_err(|error| tracing::warn!(%error, "tokens that wait are lost: make new ones"))
            .unwrap_or(0),
        false => 0,
    };
    let rebuilt = Rebuilt {
        packs: ledger.catalogue().packs()?.len(),
        points: ledger.catalogue().images()?.len(),
        tokens,
        damage: findings
            .iter()
            .filter(|finding| finding.is_damage())
            .map(Finding::to_string)
            .collect(),
    };
    ledger.catalogue().checkpoint();
    drop(ledger);
    // Who has the old one open would leave his log beside the new one.
    let _alone = directory.hold_catalogue(true)?;
    let opened = fs::File::open(&new).and_then(|file| file.sync_all());
    opened.map_err(|e| VaultError::io(&new, e))?;
    remove(&old)?;
    fs::rename(&new, &old).map_err(|e| VaultError::io(&new, e))?;
    sync_directory(directory.path())?;
    Ok(rebuilt)
}

fn remove(database: &Path) -> Result<(), VaultError> {
    for suffix in ["", "-wal", "-shm"] {
        let mut path = database.as_os_str().to_owned();
        path.push(suffix);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(VaultError::io(path, e));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Opens the store to serve; the lock must be held. What is amiss goes to the log.
pub fn open_store(directory: &Directory) -> Result<Store<DiskVolume>, VaultError> {
    let volume = Arc::new(directory.volume());
    let (store, findings) = Store::open(volume, directory.file().vault, &directory.catalogue())?;
    report(&findings);
    Ok(store)
}

/// A catalogue that is not replaced meanwhile.
pub struct Beside {
    /// The catalogue; closed before it may be replaced.
    pub catalogue: Catalogue,
    _held: Lock,
}

/// The catalogue for a command that may run beside a vault that serves. When none does, the
/// catalogue is first brought up to the packs; what that found goes to the log.
pub fn open_beside(directory: &Directory) -> Result<Beside, VaultError> {
    let held = directory.hold_catalogue(false)?;
    if let Some(_lock) = directory.try_lock()? {
        let (catalogue, fresh) = Catalogue::open(&directory.catalogue())?;
        let volume = Arc::new(directory.volume());
        let vault = directory.file().vault;
        report(&Ledger::open(volume, vault, catalogue, fresh)?.1);
    }
    Ok(Beside {
        catalogue: Catalogue::open(&directory.catalogue())?.0,
        _held: held,
    })
}

/// Says in the log what the packs held that is not as it was written.
pub fn report(findings: &[Finding]) {
    for finding in findings {
        match finding.is_damage() {
            true => tracing::error!("{finding}; run 'relevo-vault verify'"),
            false => tracing::warn!("{finding}"),
        }
    }
}
