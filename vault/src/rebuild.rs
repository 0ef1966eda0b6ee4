//! `relevo-vault rebuild`: makes the catalogue anew from the packs; and how commands open it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::Arc;

use relevo_wire::{TenantId, VaultId};
use serde::Serialize;

use crate::catalogue::Catalogue;
use crate::directory::{Directory, Lock, sync_directory};
use crate::error::{StoreError, VaultError};
use crate::ledger::{Finding, Ledger};
use crate::pack::FIRST_ENTRY;
use crate::parity;
use crate::store::{Store, open_ledger};
use crate::volume::{DiskVolume, PackId, Volume};

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
    rebuild_locked(directory)
}

fn rebuild_locked(directory: &Directory) -> Result<Rebuilt, VaultError> {
    let old = directory.catalogue();
    let new = old.with_extension("sqlite.new");
    remove(&new)?;
    let (catalogue, fresh) = Catalogue::open(&new)?;
    let vault = directory.file().vault;
    let volume = Arc::new(directory.volume());
    prepare_packs(&*volume, vault, None)?;
    let (ledger, findings) = Ledger::open(volume, vault, catalogue, fresh)?;
    report(&findings);
    let gaps = note_findings(ledger.catalogue(), &findings, fresh)?;
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
            .chain(gaps.iter().map(|pack| format!("pack {pack} is missing")))
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

/// Makes a catalogue anew that an earlier release made; the lock must be held.
fn replace_outdated(directory: &Directory) -> Result<(), VaultError> {
    if Catalogue::is_of_earlier_release(&directory.catalogue())? {
        tracing::info!("an earlier release made the catalogue: it is made anew from the packs");
        rebuild_locked(directory)?;
    }
    Ok(())
}

/// Opens the store to serve; the lock must be held. What is amiss goes to the log, and on the
/// list of what is to be healed. A vault of an earlier format becomes one of this release's.
pub fn open_store(directory: &Directory) -> Result<Store<DiskVolume>, VaultError> {
    directory.upgrade()?;
    replace_outdated(directory)?;
    let (catalogue, _) = Catalogue::open(&directory.catalogue())?;
    let (volume, vault) = (Arc::new(directory.volume()), directory.file().vault);
    prepare_packs(&*volume, vault, Some(&catalogue))?;
    let (store, findings) = Store::open(volume, vault, &directory.catalogue())?;
    report(&findings);
    note_findings(&catalogue, &findings, store.has_read_all())?;
    Ok(store)
}

/// Before packs are read: what a crash left of healing goes, packs that are gone or cut short
/// come back from parity, and such as cannot are filled up with zeros, so that what stood there
/// is found damaged by its place and not taken for never written. The lock must be held.
pub fn prepare_packs<V: Volume>(
    volume: &V,
    vault: VaultId,
    catalogue: Option<&Catalogue>,
) -> Result<(), StoreError> {
    parity::sweep(volume)?;
    let (mut retired, mut known) = (Vec::new(), Vec::new());
    if let Some(catalogue) = catalogue {
        retired = catalogue.retired()?;
        known = catalogue.packs()?;
    }
    // An older catalogue takes what it has not read for newer than all, and damage there for what
    // a crash left. One that has read nothing does not.
    let scanned: BTreeMap<PackId, u64> = known.iter().copied().collect();
    let unread = |pack: PackId, length: u64| {
        !scanned.is_empty() && scanned.get(&pack).is_none_or(|scanned| *scanned < length)
    };
    let retired = |pack: PackId| retired.contains(&pack);
    for done in parity::restore_lost(volume, vault, &retired, &unread)? {
        tracing::warn!(
            blocks = done.restored,
            packs = done.files.len(),
            "made anew from parity"
        );
    }
    let mut cut = Vec::new();
    for (pack, scanned) in known {
        let length = volume.length(pack).unwrap_or(0);
        if (FIRST_ENTRY..scanned).contains(&length) {
            tracing::error!(%pack, length, scanned, "the pack was cut short; run 'relevo-vault verify'");
            cut.push((pack, length, scanned));
        }
    }
    match catalogue {
        Some(catalogue) => fill_up(volume, catalogue, &cut),
        None => Ok(()),
    }
}

/// Gives packs their length back. What they lost is noted first, and durable: a pack of full
/// length shows nothing of it.
fn fill_up<V: Volume>(
    volume: &V,
    catalogue: &Catalogue,
    cut: &[(PackId, u64, u64)],
) -> Result<(), StoreError> {
    if cut.is_empty() {
        return Ok(());
    }
    for &(pack, length, scanned) in cut {
        catalogue.note_loss(pack, length.next_multiple_of(16), scanned - length, None)?;
    }
    catalogue.make_durable()?;
    for &(pack, _, scanned) in cut {
        volume
            .write_at(pack, scanned - 1, &[0])
            .and_then(|()| volume.sync(pack))
            .map_err(|e| StoreError::io(format_args!("fill up pack {pack}"), &e))?;
    }
    Ok(())
}

/// Puts what the first reading of packs found amiss on the list of what is to be healed. Of what
/// was damaged before that nobody knows what it was. With a catalogue that never read the packs
/// before, numbers that are missing are packs that are; which.
pub fn note_findings(
    catalogue: &Catalogue,
    findings: &[Finding],
    fresh: bool,
) -> Result<Vec<PackId>, StoreError> {
    catalogue.transaction(|catalogue| {
        for finding in findings {
            match finding {
                Finding::Damaged(pack, gap) => {
                    catalogue.note_loss(*pack, gap.offset, gap.length, gap.id)?;
                    if gap.id.is_none() {
                        catalogue.note_unsure(*pack, gap.offset, gap.length)?;
                    }
                }
                Finding::Unreadable(pack, _) | Finding::Missing(pack) => {
                    catalogue.note_loss(*pack, 0, 0, None)?;
                    if catalogue.pack_scanned(*pack)?.is_none() {
                        catalogue.note_unsure(*pack, 0, 0)?;
                    }
                }
                Finding::Shrunk(pack) => catalogue.note_unsure(*pack, 0, 0)?,
                Finding::TornTail { .. } | Finding::Covered(..) => {}
            }
        }
        let mut missing = Vec::new();
        if fresh {
            let mut highest: BTreeMap<TenantId, BTreeSet<u32>> = BTreeMap::new();
            let retired = catalogue.retired()?;
            let known = catalogue.packs()?.into_iter().map(|(pack, _)| pack);
            for pack in known.chain(retired) {
                highest.entry(pack.tenant).or_default().insert(pack.number);
            }
            for (tenant, numbers) in highest {
                let last = numbers.last().copied().unwrap_or(0);
                for number in (1..last).filter(|number| !numbers.contains(number)) {
                    let pack = PackId { tenant, number };
                    let unreadable = findings
                        .iter()
                        .any(|f| matches!(f, Finding::Unreadable(found, _) | Finding::Missing(found) if *found == pack));
                    if !unreadable {
                        catalogue.note_loss(pack, 0, 0, None)?;
                        catalogue.note_unsure(pack, 0, 0)?;
                        tracing::error!(%pack, "the pack is missing");
                        missing.push(pack);
                    }
                }
            }
        }
        Ok(missing)
    })
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
    if let Some(_lock) = directory.try_lock()? {
        replace_outdated(directory)?;
    }
    let held = directory.hold_catalogue(false)?;
    if let Some(_lock) = directory.try_lock()? {
        let (catalogue, _) = Catalogue::open(&directory.catalogue())?;
        let volume = Arc::new(directory.volume());
        let vault = directory.file().vault;
        prepare_packs(&*volume, vault, Some(&catalogue))?;
        let opened = open_ledger(&volume, vault, &directory.catalogue())?;
        report(&opened.findings);
        note_findings(opened.ledger.catalogue(), &opened.findings, opened.fresh)?;
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
